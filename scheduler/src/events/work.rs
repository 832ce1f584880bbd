//! Runs events: each try becomes an invocation of its function, its answer an outcome.
//!
//! Called by [`super::task`] for durable sources, through [`Work`], and by [`super::subject`], which answers itself. Time is
//! bounded by the function's `limits.timeout`, a payload by its `limits.request_body`.

use bytes::Bytes;
use dunlin_api::{
    Body, BoxFuture, ByteSize, FunctionName, Invocation, InvocationId, Invoke, InvokeError, LogLine, Message, Revision,
    Started, StoreError, TraceContext, World, trigger::TriggerId,
};
use futures::TryStreamExt;
use http::{HeaderName, Response};
use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};
use tokio::time::Instant;

use super::{
    Outcome, Work,
    answer::{Answer, one_line},
    cloud_event::{self, Origin, Try},
    item,
};
use crate::{
    deploy::now_ms,
    metrics::Trigger,
    router::Router,
    store::events::{Blobs, Delivery},
};

/// Tries of an event whose log lines are kept with its dead letter.
const LAST_TRIES: u32 = 3;
/// Bits of an invocation's id that are random in UUID version 7 after its variant (RFC 9562 §5.7).
const MARK: u128 = (1 << 62) - 1;

/// One event to fire.
pub(super) struct Shot<'a> {
    pub message: &'a Message,
    pub origin: &'a Origin,
    pub which: Try<'a>,
    /// Names the try in the ids of its invocations.
    pub mark: u64,
}

/// Fires functions at events, whatever runs them.
pub(super) trait Fire: Send + Sync + 'static {
    /// Runs one try and reads its answer to the end. Dropping the future cancels the run.
    fn fire<'a>(&'a self, shot: Shot<'a>) -> BoxFuture<'a, Answer>;
}

/// Fires through a router.
pub(super) struct Gun<I> {
    pub router: Arc<Router<I>>,
    pub blobs: Arc<dyn Blobs>,
}

impl<I: Invoke> Fire for Gun<I> {
    fn fire<'a>(&'a self, shot: Shot<'a>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let started = Started::default();
            let revision = self.router.resolve(shot.which.function, rand::random());
            let replied = revision.as_ref().is_ok_and(|revision| revision.world == World::Messaging);
            let function = revision.is_ok().then_some(shot.which.function);
            let counting = self.router.metrics().begin(trigger(shot.which.trigger), function, Instant::now());
            let result = match revision {
                Ok(revision) => self.invoke(revision, &shot, started.clone()).await,
                Err(error) => Err(error),
            };
            counting.end(&result);
            Answer { replied, ..Answer::read(result, || started.get(), now_ms()).await }
        })
    }
}

/// What a trigger is counted as.
fn trigger(id: &TriggerId) -> Trigger {
    if id.as_str().starts_with("cron-") { Trigger::Cron } else { Trigger::Event }
}

impl<I: Invoke> Gun<I> {
    async fn invoke(
        &self,
        revision: Arc<Revision>,
        shot: &Shot<'_>,
        started: Started,
    ) -> Result<Response<Body>, InvokeError> {
        let limits = &revision.settings.limits;
        let deadline = Instant::now() + limits.timeout;
        let message = self.whole(shot.message, limits.request_body).await?;
        let message = message.as_ref().unwrap_or(shot.message);
        let request = cloud_event::request(message, shot.origin, &shot.which).map_err(InvokeError::BadRequest)?;
        if request.body().len() as u64 > limits.request_body.bytes() {
            return Err(InvokeError::BodyTooLarge(limits.request_body));
        }
        let trace = trace_of(message);
        let mut request = request.map(Body::full);
        request.headers_mut().insert(HeaderName::from_static("traceparent"), trace.to_header());
        let id = marked(shot.mark);
        self.router.invoke(Invocation { revision, request, id, deadline, trace, started, last: false }).await
    }

    /// The message with its payload, where that is in a blob.
    async fn whole(&self, message: &Message, max: ByteSize) -> Result<Option<Message>, InvokeError> {
        let Some(name) = message.header(item::BLOB) else { return Ok(None) };
        match blob(&*self.blobs, name, max).await {
            Ok(Some(payload)) => Ok(Some(Message { payload, ..message.clone() })),
            Ok(None) => Err(InvokeError::BadRequest("its payload is gone".into())),
            Err(StoreError::Invalid(_)) => Err(InvokeError::BodyTooLarge(max)),
            // Nothing ran: it is tried again when the store is there.
            Err(error) => Err(InvokeError::NotReady(error.to_string())),
        }
    }
}

/// A whole blob, none if there is no such one.
///
/// # Errors
/// `Invalid` if it has more than `max` bytes, else as [`Blobs::get`].
pub(crate) async fn blob(blobs: &dyn Blobs, name: &str, max: ByteSize) -> Result<Option<Bytes>, StoreError> {
    let Some((size, stream)) = blobs.get(name).await? else { return Ok(None) };
    if size > max.bytes() {
        return Err(StoreError::Invalid(format!("the payload has {size} bytes: at most {max} are read")));
    }
    let room = usize::try_from(size).unwrap_or_default();
    let collected = stream.try_fold(Vec::with_capacity(room), async |mut all, chunk| {
        all.extend_from_slice(&chunk);
        Ok(all)
    });
    let bytes = collected.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    Ok(Some(bytes.into()))
}

/// The trace that a message belongs to, or a new one.
fn trace_of(message: &Message) -> TraceContext {
    let header = message.header("traceparent").or_else(|| message.header("ce-traceparent"));
    let taken = header.and_then(|header| TraceContext::parse(header.as_bytes()));
    taken.unwrap_or_else(|| TraceContext::new(rand::random(), rand::random()))
}

/// A new id whose last bits are those of `mark`.
fn marked(mark: u64) -> InvocationId {
    let mut random: [u8; 10] = rand::random();
    random[2..].copy_from_slice(&mark.to_be_bytes());
    InvocationId::at(now_ms(), random)
}

/// [`Work`] for the events of one trigger.
pub(super) struct EventWork {
    pub fire: Arc<dyn Fire>,
    pub function: FunctionName,
    pub trigger: TriggerId,
    /// Of this process: marks are for its own log lines.
    pub marks: RandomState,
}

impl EventWork {
    fn mark(&self, delivery: &Delivery, attempt: u32) -> u64 {
        self.marks.hash_one((&delivery.stream, delivery.stored.sequence, attempt))
    }
}

impl Work for EventWork {
    fn run<'a>(&'a self, delivery: &'a Delivery, attempt: u32) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let stored = &delivery.stored;
            let origin = Origin::stored(&delivery.stream, stored.sequence, stored.time_ms, &stored.message);
            let which = Try { function: &self.function, trigger: &self.trigger, attempt, reply: None };
            let mark = self.mark(delivery, attempt);
            self.fire.fire(Shot { message: &stored.message, origin: &origin, which, mark }).await.outcome
        })
    }

    fn printed(&self, delivery: &Delivery, attempts: u32, line: &LogLine) -> bool {
        let mark = line.invocation.as_u128() & MARK;
        let first = attempts.saturating_sub(LAST_TRIES) + 1;
        (first..=attempts).any(|attempt| u128::from(self.mark(delivery, attempt)) & MARK == mark)
    }
}

/// An outcome's reason, if it is not done.
pub(super) fn reason(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Done => None,
        Outcome::Failed { reason, .. } | Outcome::Rejected { reason } | Outcome::NotRun { reason } => {
            Some(one_line(reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_carries_its_mark() {
        for mark in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let id = marked(mark);
            assert_eq!(id.as_u128() & MARK, u128::from(mark) & MARK);
            assert_ne!(id, marked(mark));
        }
    }
}
