//! Calls `wasi:http/handler@0.3` (<https://github.com/WebAssembly/wasi-http>).

use dunlin_api::{Body, InvokeError};
use http::{Request, Uri, header, uri};
use std::future::poll_fn;
use wasmtime::Store;
use wasmtime_wasi_http::{
    WasiHttpView,
    p3::{Request as GuestRequest, bindings::Service},
};

use super::{
    Head, HeadSender,
    fresh::{Failure, Marks},
    p2::incoming,
};
use crate::sandbox::Guest;

/// Calls the handler; returns when the guest has nothing left to do, its body included. The head goes out as soon as
/// the handler returns it.
pub(crate) async fn call(
    store: &mut Store<Guest>,
    service: &Service,
    request: Request<Body>,
    marks: Marks,
    head: HeadSender,
) -> Result<(), Failure> {
    let request = absolute(request).map(incoming);
    let (request, sent) = GuestRequest::from_http(store.data_mut().http().hooks, request);
    store
        .run_concurrent(async |guest| -> Result<(), Failure> {
            let response = service.handle(guest, request).await?.map_err(|code| {
                Failure::Told(InvokeError::NoResponse(format!("it answered with the error {code:?}")))
            })?;
            let response = guest.with(|store| response.into_http(store, sent))?;
            // Nobody waits any more if the client left; the guest is dropped then.
            let _ = head.send(Ok(Head { response, instantiate: marks.instantiate, run: marks.called.elapsed() }));
            poll_fn(|cx| guest.poll_no_interesting_tasks(cx)).await;
            Ok(())
        })
        .await?
}

/// 0.3 guests see scheme and authority only in the URI, 0.2 guests also through the Host header.
pub(crate) fn absolute(mut request: Request<Body>) -> Request<Body> {
    let host = request.headers().get(header::HOST).and_then(|host| uri::Authority::try_from(host.as_bytes()).ok());
    if request.uri().authority().is_none()
        && let Some(authority) = host
    {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(uri::Scheme::HTTP);
        parts.authority = Some(authority);
        parts.path_and_query.get_or_insert_with(|| uri::PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
    request
}
