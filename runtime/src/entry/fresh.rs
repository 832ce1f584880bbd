//! The guest's side of an invocation: an instance, new or reused, the call, and the instance's way back.

use dunlin_api::{Invocation, InvokeError};
use std::{sync::Arc, time::Instant};
use tokio::time::Instant as Deadline;

use super::{HeadSender, messaging, p2, p3, pool::Instance};
use crate::{
    host::{
        Output,
        messaging::{REPLY_TO, bindings::Component},
    },
    ready::{Entry, Ready},
    sandbox,
};

/// An instance's export, ready to be called.
pub(crate) enum Handler {
    P2(wasmtime_wasi_http::p2::bindings::Proxy),
    P3(wasmtime_wasi_http::p3::bindings::Service),
    Messaging(Component),
}

/// Serves `call` with an instance of `ready`; the head goes out through `head`.
pub(crate) async fn serve(
    ready: Arc<Ready>,
    call: Invocation,
    output: Output,
    head: HeadSender,
) -> Result<(), InvokeError> {
    // Start functions are guest code too.
    call.started.set();
    let started = Instant::now();
    let mut instance = match ready.instances.take() {
        Some(mut instance) => {
            sandbox::reuse(&mut instance.store, &call);
            instance
        }
        None => instantiate(&ready, call.deadline, output).await?,
    };
    let called = Instant::now();
    let marks = Marks { instantiate: called - started, called };
    let Instance { store, handler, .. } = &mut instance;
    store.data_mut().messaging.begin(call.request.headers().get(REPLY_TO).cloned());
    let limits = &ready.revision.settings.limits;
    let result = match handler {
        Handler::P2(proxy) => p2::call(store, proxy, call.request, marks, head).await,
        Handler::P3(service) => p3::call(store, service, call.request, marks, head).await,
        Handler::Messaging(component) => messaging::call(store, component, call.request, limits, marks, head).await,
    };
    match result {
        Ok(()) => {
            ready.instances.put(instance);
            Ok(())
        }
        // A store whose guest failed is dropped, always.
        Err(failure) => Err(failure.explain(store.data(), limits)),
    }
}

/// When the parts of an invocation happened.
#[derive(Clone, Copy)]
pub(crate) struct Marks {
    pub(crate) instantiate: std::time::Duration,
    pub(crate) called: Instant,
}

/// Why a call gave no response.
pub(crate) enum Failure {
    /// wasmtime's error: a trap, an exit, a limit.
    Call(wasmtime::Error),
    /// An error in our words already.
    Told(InvokeError),
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Call(error)
    }
}

impl Failure {
    fn explain(&self, guest: &sandbox::Guest, limits: &dunlin_api::Limits) -> InvokeError {
        match self {
            Self::Call(error) => sandbox::explain(guest, limits, error),
            Self::Told(error) => {
                guest.output.remark(error);
                error.clone()
            }
        }
    }
}

async fn instantiate(ready: &Ready, deadline: Deadline, output: Output) -> Result<Instance, InvokeError> {
    let mut store = sandbox::store(ready, deadline, output);
    let handler = match &ready.code.entry {
        Entry::P2(pre) => pre.instantiate_async(&mut store).await.map(Handler::P2),
        Entry::P3(pre) => pre.instantiate_async(&mut store).await.map(Handler::P3),
        Entry::Messaging(pre) => pre.instantiate_async(&mut store).await.map(Handler::Messaging),
    };
    match handler {
        Ok(handler) => Ok(Instance::new(store, handler)),
        Err(error) if error.is::<wasmtime::PoolConcurrencyLimitError>() => {
            tracing::warn!(function = %ready.revision.function, %error, "no room for an instance");
            Err(InvokeError::Busy(ready.node.admission.load()))
        }
        Err(error) => Err(sandbox::explain(store.data(), &ready.revision.settings.limits, &error)),
    }
}
