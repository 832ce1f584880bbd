//! Instances that serve several invocations at once, for `wasi:http@0.3` functions that opted in with
//! `instances = { reuse = …, concurrent = … }`.
//!
//! A few calls on each core run in instances of their own all the same (`pool`), in the connection's task: a call that
//! never waits is over before another could join it, and the way into a shared instance costs it two changes of task,
//! half as much again as the call. Those that wait share instances as soon as there are more than [`ALONE_PER_CORE`].
//!
//! Scheduling calls onto instances is wasmtime's own handler's; ours are the limits. What the calls of one instance
//! share they also lose together: memory and CPU time are those of the instance, and a trap ends all its calls. A caller
//! that leaves frees its slot at once, but its call runs on until it ends or reaches its deadline: wasmtime cannot cancel
//! one call of an instance (wasmtime issue 11833).

use bytes::Bytes;
use dunlin_api::{Body, BodyError, Instances, Invocation, InvocationId, InvokeError, Settings, Timing};
use http::{HeaderValue, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until, timeout_at},
};
use wasmtime::{Store, StoreContextMut, component::GuestTaskId};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    handler::{
        ExpirationError, HandlerState, Instance, InstantiationError, Proxy, ProxyHandler, ShouldAccept,
        WorkerExpiration, WorkerState, WorkerStatus,
    },
};

use super::{p2::incoming, p3::absolute};
use crate::{
    admission::Permit,
    host::messaging::REPLY_TO,
    ready::{Entry, Ready},
    sandbox::{self, Guest},
};

/// Calls of a function on each core that have an instance of their own: more than one, because a call whose response is
/// still on its way has not ended.
const ALONE_PER_CORE: usize = 4;

/// The shared instances of one revision.
pub(crate) struct SharedInstances {
    handler: ProxyHandler<Source>,
    timeout: Duration,
    alone: Arc<Semaphore>,
}

impl SharedInstances {
    /// Instances are made of `ready` as calls come; it owns what is made here, hence the weak reference.
    pub(crate) fn new(ready: Weak<Ready>, settings: &Settings, cores: usize) -> Self {
        let timeout = settings.limits.timeout;
        let handler = ProxyHandler::new(Source { ready, policy: settings.instances, timeout });
        Self { handler, timeout, alone: Arc::new(Semaphore::new(cores * ALONE_PER_CORE)) }
    }

    /// A place for a call in an instance of its own, until it is dropped; none if all are taken.
    pub(crate) fn alone(&self) -> Option<OwnedSemaphorePermit> {
        self.alone.clone().try_acquire_owned().ok()
    }

    pub(crate) async fn run(&self, call: Invocation, permit: Permit) -> Result<Response<Body>, InvokeError> {
        let called = Instant::now();
        call.started.set();
        let reply_to = call.request.headers().get(REPLY_TO).cloned();
        let data = Call { id: call.id, deadline: call.deadline, reply_to };
        let request = absolute(call.request).map(|body| incoming(body).boxed_unsync());
        let answer = timeout_at(call.deadline, self.handler.handle(data, request)).await;
        let response = answer.map_err(|_| InvokeError::Deadline(self.timeout))?.map_err(|e| self.explain(&e))?;
        let (mut parts, body) = response.into_parts();
        parts.extensions.insert(Timing { run: called.elapsed(), ..Timing::default() });
        let timer = Box::pin(sleep_until(call.deadline));
        Ok(Response::from_parts(parts, Body::stream(Held { body, timer, timeout: self.timeout, _permit: permit })))
    }

    fn explain(&self, error: &wasmtime::Error) -> InvokeError {
        if error.is::<ExpirationError>() {
            InvokeError::Deadline(self.timeout)
        } else if let Some(error) = error.downcast_ref::<InstantiationError<Call>>() {
            InvokeError::Trap(format!("it could not start: {:#}", error.error))
        } else {
            InvokeError::Trap(format!("{error:#}; its instance served several calls at once, and all of them ended"))
        }
    }
}

/// What an instance is told about a call.
pub(crate) struct Call {
    id: InvocationId,
    deadline: Instant,
    reply_to: Option<HeaderValue>,
}

/// Makes instances.
struct Source {
    ready: Weak<Ready>,
    policy: Instances,
    timeout: Duration,
}

impl HandlerState for Source {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Guest, Expiration, Worker>> {
        let gone = || wasmtime::format_err!("the revision was removed");
        let ready = self.ready.upgrade().ok_or_else(gone)?;
        let output = ready.output(InvocationId::new());
        let mut store = sandbox::store(&ready, Instant::now() + self.timeout, output);
        let proxy = match &ready.code.entry {
            Entry::P2(pre) => Proxy::P2(pre.instantiate_async(&mut store).await?),
            Entry::P3(pre) => Proxy::P3(pre.instantiate_async(&mut store).await?),
            // Deploys refuse `concurrent` for it.
            Entry::Messaging(_) => return Err(wasmtime::format_err!("a messaging handler takes one call at a time")),
        };
        let expiration = Expiration { timeout: self.timeout, idle: self.policy.idle, timer: None };
        Ok(Instance { store, proxy, view: Guest::http, expiration, state: Worker { policy: self.policy } })
    }
}

struct Worker {
    policy: Instances,
}

impl WorkerState for Worker {
    type StoreData = Guest;
    type RequestData = Call;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.policy.reuse as usize {
            ShouldAccept::Never
        } else if concurrent >= self.policy.concurrent as usize {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, Guest>,
        call: Call,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        store.data_mut().begin(call.id, call.deadline);
        store.data_mut().messaging.begin(call.reply_to);
        Box::pin(sleep_until(call.deadline))
    }

    fn drop(&self, store: Store<Guest>, result: wasmtime::Result<()>) {
        if let Err(error) = result {
            sandbox::remark(store.data(), &error);
        }
    }
}

/// Ends an instance that idles too long or that a call has overrun. Polled outside of the guest, so that one that
/// spins cannot escape it.
struct Expiration {
    timeout: Duration,
    idle: Duration,
    timer: Option<(std::time::Instant, Pin<Box<Sleep>>)>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: std::time::Instant,
    ) -> Poll<()> {
        let patience = if matches!(status, WorkerStatus::Idle) { self.idle } else { self.timeout };
        let due = start + patience;
        if self.timer.as_ref().is_none_or(|(at, _)| *at != due) {
            self.timer = Some((due, Box::pin(sleep_until(due.into()))));
        }
        self.timer.as_mut().map_or(Poll::Pending, |(_, timer)| timer.as_mut().poll(cx))
    }
}

/// A body that keeps its invocation's slot and ends at its deadline.
struct Held {
    body: WasiBody,
    timer: Pin<Box<Sleep>>,
    timeout: Duration,
    _permit: Permit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        ready!(this.timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(InvokeError::Deadline(this.timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
