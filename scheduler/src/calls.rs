//! Calls that nobody waits for: accepted when they are durable, run later by whichever node takes them, and asked about by
//! their id.
//!
//! The gateway and the admin API submit and ask through [`AsyncCalls`]; the runner of events hands what it takes from the
//! queues `<function>.async` to [`Calls`] as [`Work`](crate::events::Work). Promises: a call that was accepted runs at least
//! once, or is cancelled, or becomes a dead letter; its result is stored before it is acknowledged, so that it does not run
//! again once there is one; the same `Idempotency-Key` leads to the same call as long as its result is kept. Ids cannot be
//! guessed, for who has one may read the result. Bounds: [`Config`], the function's own limits, and
//! [`MAX_MESSAGE_BYTES`](crate::store::events::MAX_MESSAGE_BYTES) for a request's head.

mod body;
pub(crate) mod fields;
pub(crate) mod http;
mod idempotency;
mod item;
mod record;
mod run;
mod submit;
mod sweep;

use ::http::{Request, Response, header::CONTENT_LENGTH};
use bytes::Bytes;
use dunlin_api::{
    Body, BoxFuture, ByteSize, FunctionName, InvocationId, Invoke, InvokeError, NodeName, Revision, StoreError,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{deploy::now_ms, gateway, router::Router, store::events::EventStores};
use record::Records;
pub use record::{CallRecord, CallResponse, State};
pub use submit::{Accepted, SubmitError};

/// The topic of the signal that a call has ended; its id follows.
const ENDED: &str = "ended";
/// The topic of the signal that a call was cancelled; its id follows.
const CANCEL: &str = "cancel";
/// Between two looks at a record whose signal may have been lost.
const LOOK: Duration = Duration::from_secs(2);

/// Sizes and times.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Larger request bodies are blobs: about half of a message, so that the head always fits beside them.
    pub inline_request: usize,
    /// Larger response bodies are blobs; smaller ones stand in the record, which is written as a whole.
    pub inline_response: usize,
    /// Largest response body that is kept; a function that answers with more has failed for good.
    pub response: ByteSize,
    /// A request body of which nothing comes for so long is given up.
    pub body_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inline_request: 512 << 10,
            inline_response: 64 << 10,
            response: ByteSize::mib(64),
            body_timeout: gateway::Config::default().body_timeout,
        }
    }
}

/// Calls that nobody waits for, on one node.
pub struct Calls<I> {
    stores: EventStores,
    records: Records,
    router: Arc<Router<I>>,
    node: NodeName,
    config: Config,
}

/// What became of the wish to cancel a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It will not run any more; a run under way is cut.
    Cancelled(CallRecord),
    /// It had ended before.
    Ended(CallRecord),
    /// There is no such call, or no longer.
    Unknown,
}

impl<I: Invoke> Calls<I> {
    /// Calls of the functions that `router` knows, kept in `stores`, run as `node`.
    pub fn new(stores: EventStores, router: Arc<Router<I>>, node: NodeName, config: Config) -> Arc<Self> {
        let records = Records(stores.records.clone());
        Arc::new(Self { stores, records, router, node, config })
    }

    /// What is known of a call; none if there is no such call, or no longer.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn status(&self, id: InvocationId) -> Result<Option<CallRecord>, StoreError> {
        Ok(self.records.get(id).await?.map(|entry| entry.call))
    }

    /// What is known of a call as soon as it has ended, or after `at_most`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn wait(&self, id: InvocationId, at_most: Duration) -> Result<Option<CallRecord>, StoreError> {
        if at_most.is_zero() {
            return self.status(id).await;
        }
        let until = Instant::now() + at_most;
        // Listening before looking: an end in between is not missed. Without the signal it only takes a little longer.
        let topic = format!("{ENDED}.{id}");
        let mut ended = self.stores.bus.signals(&topic).await.unwrap_or_else(|_| Box::pin(futures::stream::pending()));
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
        loop {
            let call = self.status(id).await?;
            if Instant::now() >= until || call.as_ref().is_none_or(|call| call.state.has_ended()) {
                return Ok(call);
            }
            tokio::select! {
                signal = futures::StreamExt::next(&mut ended) => if signal.is_none() {
                    ended = Box::pin(futures::stream::pending());
                },
                _ = looks.tick() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// The function's answer, once the call is done; also the last one of a call that is dead, if it had any.
    ///
    /// # Errors
    /// When the store fails, or has lost the body.
    pub async fn result(&self, id: InvocationId) -> Result<Option<Response<Body>>, StoreError> {
        let Some(entry) = self.records.get(id).await? else { return Ok(None) };
        let (State::Done | State::Dead, Some(response)) = (entry.call.state, &entry.call.response) else {
            return Ok(None);
        };
        let corrupt = |why: &str| StoreError::Corrupt(format!("the result of {id}"), why.into());
        let mut headers = item::fields(&response.headers).ok_or_else(|| corrupt("a header field"))?;
        let body = match &entry.response_blob {
            None => body::inline(entry.body),
            Some(name) => {
                let found = self.stores.blobs.get(name).await?;
                let (length, bytes) = found.ok_or_else(|| corrupt("its body is gone"))?;
                headers.insert(CONTENT_LENGTH, length.into());
                body::stream(bytes)
            }
        };
        let mut answer = Response::builder().status(response.status).body(body).map_err(|_| corrupt("its status"))?;
        *answer.headers_mut() = headers;
        Ok(Some(answer))
    }

    /// Cancels a call: what waits never runs, what runs is cut.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn cancel(&self, id: InvocationId) -> Result<Cancelled, StoreError> {
        let cancelled = self.records.change(id, |found| {
            let mut entry = found.filter(|entry| !entry.call.state.has_ended())?;
            entry.call.state = State::Cancelled;
            entry.call.ended_ms = Some(now_ms());
            Some(entry)
        });
        if let Some(entry) = cancelled.await? {
            self.tell(CANCEL, id).await;
            self.tell(ENDED, id).await;
            return Ok(Cancelled::Cancelled(entry.call));
        }
        Ok(self.status(id).await?.map_or(Cancelled::Unknown, Cancelled::Ended))
    }

    /// Signals `topic` about `id`. Whoever does not hear it looks at the record a little later.
    async fn tell(&self, topic: &str, id: InvocationId) {
        if let Err(error) = self.stores.bus.signal(&format!("{topic}.{id}"), Bytes::new()).await {
            tracing::debug!(%error, topic, invocation = %id, "a signal was not sent");
        }
    }
}

/// What the gateway and the admin API need of [`Calls`], whatever runs the functions.
pub trait AsyncCalls: Send + Sync + 'static {
    /// The revision that serves the next call of `function`.
    ///
    /// # Errors
    /// `NoFunction` or `NotReady`.
    fn resolve(&self, function: &FunctionName) -> Result<Arc<Revision>, InvokeError>;

    /// See [`Calls::submit`].
    fn submit<'a>(
        &'a self,
        revision: &'a Revision,
        request: Request<Body>,
        host: Option<String>,
    ) -> BoxFuture<'a, Result<Accepted, SubmitError>>;

    /// See [`Calls::wait`].
    fn wait(&self, id: InvocationId, at_most: Duration) -> BoxFuture<'_, Result<Option<CallRecord>, StoreError>>;

    /// See [`Calls::result`].
    fn result(&self, id: InvocationId) -> BoxFuture<'_, Result<Option<Response<Body>>, StoreError>>;

    /// See [`Calls::cancel`].
    fn cancel(&self, id: InvocationId) -> BoxFuture<'_, Result<Cancelled, StoreError>>;
}

impl<I: Invoke> AsyncCalls for Calls<I> {
    fn resolve(&self, function: &FunctionName) -> Result<Arc<Revision>, InvokeError> {
        self.router.resolve(function, rand::random())
    }

    fn submit<'a>(
        &'a self,
        revision: &'a Revision,
        request: Request<Body>,
        host: Option<String>,
    ) -> BoxFuture<'a, Result<Accepted, SubmitError>> {
        Box::pin(Self::submit(self, revision, request, host))
    }

    fn wait(&self, id: InvocationId, at_most: Duration) -> BoxFuture<'_, Result<Option<CallRecord>, StoreError>> {
        Box::pin(Self::wait(self, id, at_most))
    }

    fn result(&self, id: InvocationId) -> BoxFuture<'_, Result<Option<Response<Body>>, StoreError>> {
        Box::pin(Self::result(self, id))
    }

    fn cancel(&self, id: InvocationId) -> BoxFuture<'_, Result<Cancelled, StoreError>> {
        Box::pin(Self::cancel(self, id))
    }
}
