//! Calls `wasmcloud:messaging/handler@0.2` with an event, so that components made for wasmCloud run unchanged.
//!
//! An event comes as an HTTP request. Its body is the message's, read whole before the handler is called and bounded by
//! `limits.request_body` and `limits.memory`; the subject is that of the NATS message, else what the event is about
//! (`ce-subject`), else the path. The answer is 204, or 500 with the handler's error as its body.

use bytes::Bytes;
use dunlin_api::{Body, InvokeError, Limits};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use wasmtime::Store;

use super::{
    Head, HeadSender,
    fresh::{Failure, Marks},
};
use crate::{
    host::messaging::{
        REPLY_TO,
        bindings::{Component, wasmcloud::messaging::types::BrokerMessage},
    },
    sandbox::Guest,
};

/// Calls the handler; returns when it has returned, and so does the head.
pub(crate) async fn call(
    store: &mut Store<Guest>,
    component: &Component,
    request: Request<Body>,
    limits: &Limits,
    marks: Marks,
    head: HeadSender,
) -> Result<(), Failure> {
    let message = message(request, limits).await.map_err(Failure::Told)?;
    let result = component.wasmcloud_messaging_handler().call_handle_message(store, &message).await?;
    let response = answer(result).map(|body| body.map_err(|never| match never {}).boxed_unsync());
    // Nobody waits any more if the caller left.
    let _ = head.send(Ok(Head { response, instantiate: marks.instantiate, run: marks.called.elapsed() }));
    Ok(())
}

fn answer(result: Result<(), String>) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    match result {
        Ok(()) => *response.status_mut() = StatusCode::NO_CONTENT,
        Err(text) => {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            *response.body_mut() = text.into();
        }
    }
    response
}

async fn message(request: Request<Body>, limits: &Limits) -> Result<BrokerMessage, InvokeError> {
    let (head, body) = request.into_parts();
    let named = header(&head.headers, "dunlin-subject").or_else(|| header(&head.headers, "ce-subject"));
    let subject = named.unwrap_or_else(|| head.uri.path()).to_owned();
    let reply_to = header(&head.headers, REPLY_TO.as_str()).map(str::to_owned);
    Ok(BrokerMessage { subject, body: read(body, limits).await?, reply_to })
}

/// A header as text. Subjects may have letters that `HeaderValue::to_str` does not take.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

async fn read(mut body: Body, limits: &Limits) -> Result<Vec<u8>, InvokeError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| InvokeError::BadRequest(format!("its body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = (bytes.len() + data.len()) as u64;
        if size > limits.request_body.bytes() {
            return Err(InvokeError::BodyTooLarge(limits.request_body));
        }
        // The guest gets it in one piece, which could not fit.
        if size > limits.memory.bytes() {
            return Err(InvokeError::Memory(limits.memory));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
