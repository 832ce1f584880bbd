//! Calls `wasi:http/incoming-handler@0.2` (<https://github.com/WebAssembly/wasi-http>).

use dunlin_api::{Body, BodyError, InvokeError};
use http::Request;
use http_body_util::BodyExt;
use wasmtime::Store;
use wasmtime_wasi_http::{
    Error, WasiHttpView,
    p2::bindings::{Proxy, http::types::Scheme},
};

use super::{
    Head, HeadSender,
    fresh::{Failure, Marks},
};
use crate::sandbox::Guest;

/// Calls the handler; returns when it has returned. The head goes out as soon as the guest sets it.
pub(crate) async fn call(
    store: &mut Store<Guest>,
    proxy: &Proxy,
    request: Request<Body>,
    marks: Marks,
    head: HeadSender,
) -> Result<(), Failure> {
    let mut view = store.data_mut().http();
    let request = view.new_incoming_request(Scheme::Http, request.map(incoming))?;
    let out = view.new_response_outparam_from_callback(move |response| {
        let response = response
            .map(|response| Head { response, instantiate: marks.instantiate, run: marks.called.elapsed() })
            .map_err(|code| InvokeError::NoResponse(format!("it answered with the error {code:?}")));
        // Nobody waits any more if the client left; the guest will notice when it is dropped.
        let _ = head.send(response);
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await.map_err(Failure::Call)
}

/// Our body in wasmtime's terms.
pub(crate) fn incoming(body: Body) -> impl http_body::Body<Data = bytes::Bytes, Error = Error> + Send + 'static {
    body.map_err(|error: BodyError| match error.downcast::<hyper::Error>() {
        Ok(error) => Error::Hyper(*error),
        Err(error) => Error::InternalError(Some(error.to_string())),
    })
}
