//! Running a call that was taken from its queue: its record says so first, then the function runs, then the record has
//! what it answered, and only then the runner hears of it.
//!
//! A call that was cancelled or has its result is not run (again); one that is dead is, for then somebody has put it back
//! into its queue. The function's limits bound a run.

use dunlin_api::{Body, BoxFuture, Invocation, Invoke, InvokeError, LogLine, Started, StoreError, TraceContext};
use futures::StreamExt;
use http::{HeaderName, Request, Response, header};
use sha2::Sha256;
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    CANCEL, CallResponse, Calls, ENDED, LOOK, State,
    body::{self, Place},
    item::{self, Item, Payload},
    record::Entry,
};
use crate::{
    deploy::now_ms,
    events::{
        Outcome, Work,
        answer::{judge, one_line as line, outcome_of},
    },
    gateway::presentable,
    metrics::Trigger,
    store::{
        PutError,
        events::{Delivery, Subscription},
    },
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What came of one run.
struct Tried {
    outcome: Outcome,
    answer: Option<(CallResponse, Payload)>,
}

/// What came of a run without an answer.
struct NoAnswer(Outcome);

impl From<StoreError> for NoAnswer {
    fn from(error: StoreError) -> Self {
        Self(Outcome::NotRun { reason: line(&error.to_string()) })
    }
}

impl<I: Invoke> Work for Calls<I> {
    fn run<'a>(&'a self, delivery: &'a Delivery, attempt: u32) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let item = match Item::read(&delivery.stored.message) {
                Ok(item) => item,
                Err(reason) => return Outcome::Rejected { reason: format!("this is no call: {}", line(&reason)) },
            };
            let ran = self.run_item(&item, delivery.delivered, attempt).await;
            ran.unwrap_or_else(|error| Outcome::NotRun { reason: line(&error.to_string()) })
        })
    }

    fn buried<'a>(&'a self, delivery: &'a Delivery, attempts: u32, reason: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Ok(item) = Item::read(&delivery.stored.message) else { return };
            let id = item.head.id;
            let buried = self.records.change(id, |found| {
                let mut entry = found.unwrap_or_else(|| item.entry());
                if entry.call.state.has_ended() {
                    return None;
                }
                entry.call.state = State::Dead;
                entry.call.ended_ms = Some(now_ms());
                entry.call.attempts = attempts;
                entry.call.reason = Some(line(reason));
                Some(entry)
            });
            match buried.await {
                Ok(_) => self.tell(ENDED, id).await,
                // The dead letter is stored; only who asks for this call does not hear of it.
                Err(error) => tracing::warn!(%error, invocation = %id, "the end of a call was not recorded"),
            }
        })
    }

    fn printed(&self, delivery: &Delivery, _: u32, line: &LogLine) -> bool {
        Item::read(&delivery.stored.message).is_ok_and(|item| item.head.id == line.invocation)
    }
}

impl<I: Invoke> Calls<I> {
    async fn run_item(&self, item: &Item, delivered: u64, attempt: u32) -> Result<Outcome, StoreError> {
        let id = item.head.id;
        // Listening before looking, so that no cancellation falls in between.
        let cancels = self.stores.bus.signals(&format!("{CANCEL}.{id}")).await?;
        let begun = self.records.change(id, |found| {
            let mut entry = found.unwrap_or_else(|| item.entry());
            let call = &mut entry.call;
            if matches!(call.state, State::Done | State::Cancelled) {
                return None;
            }
            call.state = State::Running;
            call.started_ms.get_or_insert_with(now_ms);
            (call.ended_ms, call.reason, call.attempts) = (None, None, attempt);
            call.node = Some(self.node.clone());
            Some(entry)
        });
        if begun.await?.is_none() {
            return Ok(Outcome::Done);
        }
        let run = async {
            let tried = self.attempt(item, delivered).await;
            let tried = tried.unwrap_or_else(|NoAnswer(outcome)| Tried { outcome, answer: None });
            self.finish(item, tried, attempt).await
        };
        tokio::select! {
            outcome = run => Ok(outcome),
            () = self.cancelled(item, cancels) => Ok(Outcome::Done),
        }
    }

    /// Waits until the record says that nobody wants the call any more.
    async fn cancelled(&self, item: &Item, mut cancels: Subscription) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
        loop {
            tokio::select! {
                signal = cancels.next() => if signal.is_none() {
                    cancels = futures::stream::pending().boxed();
                },
                _ = looks.tick() => {}
            }
            if let Ok(Some(call)) = self.status(item.head.id).await
                && call.state == State::Cancelled
            {
                return;
            }
        }
    }

    async fn attempt(&self, item: &Item, delivered: u64) -> Result<Tried, NoAnswer> {
        let failed = |error: InvokeError, started| NoAnswer(outcome_of(&error, started));
        let resolved = self.router.resolve(&item.function, rand::random());
        let revision = resolved.inspect_err(|error| self.router.metrics().refused(error));
        let revision = revision.map_err(|error| failed(error, false))?;
        let request = self.request(item).await?;
        let method = request.method().clone();
        let trace = request.headers().get(TRACEPARENT).and_then(|value| TraceContext::parse(value.as_bytes()));
        let trace = trace.unwrap_or_else(|| TraceContext::new(rand::random(), rand::random()));
        let deadline = Instant::now() + revision.settings.limits.timeout;
        let (id, started) = (item.head.id, Started::default());
        let call = Invocation { revision, request, id, deadline, trace, started: started.clone(), last: false };
        let counting = self.router.metrics().begin(Trigger::Async, Some(&item.function), Instant::now());
        let result = self.router.invoke(call).await;
        let ran = result.is_ok() || started.get();
        let result = result.and_then(|response| presentable(response, &method));
        counting.end(&result);
        let response = result.map_err(|error| failed(error, ran))?;
        self.collect(format!("{id}.{delivered}"), response).await
    }

    /// The request as it was sent.
    async fn request(&self, item: &Item) -> Result<Request<Body>, NoAnswer> {
        let never = |reason: String| NoAnswer(Outcome::Rejected { reason });
        let request = item.head.request().map_err(|why| never(format!("the request is malformed: {}", line(&why))))?;
        let body = match &item.body {
            Payload::Inline(bytes) => body::inline(bytes.clone()),
            Payload::Blob { name, .. } => match self.stores.blobs.get(name).await? {
                Some((_, bytes)) => body::stream(bytes),
                None => return Err(never(format!("the request's body, the blob `{name}`, is gone"))),
            },
        };
        Ok(request.map(|()| body))
    }

    /// Takes the whole answer in and judges it.
    async fn collect(&self, name: String, response: Response<Body>) -> Result<Tried, NoAnswer> {
        let (mut parts, body) = response.into_parts();
        let max = self.config.response;
        let place = Place { blobs: &*self.stores.blobs, name, inline: self.config.inline_response, max };
        let body = place.take(body, None::<&mut Sha256>).await.map_err(|error| match error {
            PutError::Store(error) => error.into(),
            PutError::TooLarge { limit } => {
                let reason = format!("the response is larger than {limit}, the most that is kept of a call");
                NoAnswer(Outcome::Rejected { reason })
            }
            PutError::Source(error) => match error.downcast_ref::<InvokeError>() {
                Some(error) => NoAnswer(outcome_of(error, true)),
                None => {
                    let reason = format!("the response broke off: {}", line(&error.to_string()));
                    NoAnswer(Outcome::Failed { after: None, reason })
                }
            },
            PutError::WrongDigest { .. } => NoAnswer(Outcome::NotRun { reason: line(&error.to_string()) }),
        })?;
        let (bytes, seen) = match &body {
            Payload::Inline(bytes) => (bytes.len() as u64, &**bytes),
            Payload::Blob { bytes, .. } => (*bytes, &[][..]),
        };
        // Beside what the table of events has: a redirection is an answer, which who reads the result may want to follow.
        let redirects = parts.status.is_redirection();
        let outcome = if redirects { Outcome::Done } else { judge(parts.status, &parts.headers, seen, now_ms()) };
        parts.headers.remove(header::CONTENT_LENGTH);
        let response = CallResponse { status: parts.status.as_u16(), headers: item::shown(&parts.headers), bytes };
        Ok(Tried { outcome, answer: Some((response, body)) })
    }

    /// Records what came of a run; what becomes of the delivery. A result that is not recorded does not count as one.
    async fn finish(&self, item: &Item, tried: Tried, attempt: u32) -> Outcome {
        let Tried { outcome, answer } = tried;
        let id = item.head.id;
        let finished = self.records.change(id, |found| {
            let mut entry = found.filter(|entry| !entry.call.state.has_ended())?;
            report(&mut entry, &outcome, answer.as_ref(), attempt);
            Some(entry)
        });
        let done = outcome == Outcome::Done;
        match finished.await {
            Ok(Some(_)) => {
                if done {
                    self.forget(&item.body).await;
                    self.tell(ENDED, id).await;
                }
                outcome
            }
            // Cancelled meanwhile, or done by a node that was thought to be lost.
            Ok(None) => {
                if let Some((_, body)) = &answer {
                    self.forget(body).await;
                }
                Outcome::Done
            }
            Err(error) if done => Outcome::NotRun { reason: format!("the result was not stored: {error}") },
            Err(error) => {
                tracing::debug!(%error, invocation = %id, "a failed run was not recorded");
                outcome
            }
        }
    }
}

/// Writes what came of a run into its record.
fn report(entry: &mut Entry, outcome: &Outcome, answer: Option<&(CallResponse, Payload)>, attempt: u32) {
    let call = &mut entry.call;
    (call.state, call.reason) = match outcome {
        Outcome::Done => (State::Done, None),
        Outcome::Failed { reason, .. } | Outcome::Rejected { reason } => (State::Queued, Some(reason.clone())),
        Outcome::NotRun { reason } => {
            call.attempts = attempt.saturating_sub(1);
            (State::Queued, Some(reason.clone()))
        }
    };
    call.ended_ms = (call.state == State::Done).then(now_ms);
    let Some((response, body)) = answer else { return };
    call.response = Some(response.clone());
    entry.response_blob = body.blob();
    entry.body = if let Payload::Inline(bytes) = body { bytes.clone() } else { bytes::Bytes::new() };
}
