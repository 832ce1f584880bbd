//! From an admitted invocation to its response: one future that is the guest, driven by whoever waits for it.
//!
//! The future is polled inside the connection's own task, first until the response head is there and then by the body
//! as it is read. So a client that reads slowly slows its guest, and one that leaves drops it. The deadline is checked
//! beside every poll. A guest that works on after its body has ended is handed to the node, which lets it run to the
//! same deadline.

mod after;
mod body;
mod fresh;
mod messaging;
mod p2;
mod p3;
pub(crate) mod pool;
pub(crate) mod shared;

use dunlin_api::{Body, Invocation, InvokeError, Timing};
use http::Response;
use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use crate::{admission::Permit, ready::Ready};

/// The guest: ends when it has nothing left to do, or in the way it failed.
type GuestFuture = Pin<Box<dyn Future<Output = Result<(), InvokeError>> + Send>>;

/// The response as the guest gave it, its body still being written.
pub(crate) struct Head {
    response: Response<WasiBody>,
    instantiate: Duration,
    run: Duration,
}

/// How the head travels from inside the guest's future to outside.
type HeadSender = oneshot::Sender<Result<Head, InvokeError>>;

/// Runs `call` on `ready` and answers as soon as the response head is there.
///
/// # Errors
/// What the guest did wrong, or which limit ended it, if that was before the head.
pub(crate) async fn run(ready: Arc<Ready>, call: Invocation, permit: Permit) -> Result<Response<Body>, InvokeError> {
    let deadline = call.deadline;
    let alone = match ready.shared.as_ref().map(|shared| (shared, shared.alone())) {
        Some((shared, None)) => return shared.run(call, permit).await,
        Some((_, alone)) => alone,
        None => None,
    };
    let output = ready.output(call.id);
    let (sender, mut head) = oneshot::channel();
    let timeout = ready.revision.settings.limits.timeout;
    let serve = fresh::serve(ready.clone(), call, output.clone(), sender);
    let guest: GuestFuture = match alone {
        None => Box::pin(serve),
        Some(alone) => Box::pin(async move {
            let _alone = alone;
            serve.await
        }),
    };
    let mut run = after::Run::new(guest, deadline, timeout, output, permit);

    let head = poll_fn(|cx| {
        let ended = run.poll(cx);
        match (head.try_recv(), ended) {
            // Nothing has left yet, so a guest that failed right behind its head can still be answered for.
            (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Ok(head), _) => Poll::Ready(head),
            (Err(_), Poll::Ready(Ok(()))) => {
                Poll::Ready(Err(InvokeError::NoResponse("it returned without setting a response".into())))
            }
            (Err(_), Poll::Pending) => Poll::Pending,
        }
    })
    .await?;
    Ok(respond(&ready, head, run))
}

fn respond(ready: &Arc<Ready>, head: Head, run: after::Run) -> Response<Body> {
    let (mut parts, body) = head.response.into_parts();
    let timing = Timing { instantiate: head.instantiate, run: head.run, ..Timing::default() };
    parts.extensions.insert(timing);
    let body = body::finish(ready, &parts.headers, body, run);
    Response::from_parts(parts, body)
}
