//! One call that came from another node, from its arrival until its answer has left.

use async_nats::Subject;
use bytes::Bytes;
use dunlin_api::{
    Body, Declined, FunctionName, Invocation, InvocationId, InvokeError, LocalNode, Revision, RevisionId, Started,
    Timing, TraceContext,
};
use http::{Method, Request, Response, Uri};
use std::{
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{
    PULSE,
    frame::{Accept, Answer, Failed, Frame, Head, Invoke, Key, Progress, Refused, Unreadable, encode, encode_with},
    inbound::FIRST,
    known::Running,
    link::{publish, unix_us},
    outbound::{Ahead, Outbound},
    server::Server,
    upload::Upload,
    valve::Valve,
};

/// A call that is answered sooner is not accepted first: that frame would cost a third of the whole.
const ACCEPT_AFTER: Duration = Duration::from_millis(5);

/// One call. Unless it was answered, dropping it says that it failed.
pub(super) struct Serving<'a, N: LocalNode> {
    server: &'a Arc<Server<N>>,
    reply: Subject,
    key: Key,
    began: Instant,
    deadline: Instant,
    /// When the next sign of life is due.
    pulse: Instant,
    accepted: bool,
    started: Started,
    answered: bool,
}

impl<'a, N: LocalNode> Serving<'a, N> {
    pub(super) fn new(server: &'a Arc<Server<N>>, reply: Subject, key: Key) -> Self {
        let began = Instant::now();
        server.received.fetch_add(1, Relaxed);
        let (started, pulse) = (Started::default(), began + ACCEPT_AFTER);
        Self { server, reply, key, began, deadline: began, pulse, accepted: false, started, answered: false }
    }

    /// Runs the call of `frame` unless it ends meanwhile.
    pub(super) async fn run(mut self, frame: &Frame, running: &Running) {
        let valve = &running.valve;
        // Boxed, because spawning moves a task several times.
        valve.until_shut(Box::pin(self.serve(frame, valve)).as_mut()).await;
    }

    async fn serve(&mut self, frame: &Frame, valve: &Valve) {
        let (invoke, request) = match self.read(frame) {
            Ok(read) => read,
            Err(error) => {
                self.answered = true;
                return self.server.unreadable_call(self.reply.clone(), self.key, &error);
            }
        };
        let revision = match self.revision(&invoke).await {
            Ok(revision) => revision,
            Err(why) => return self.refuse(why).await,
        };
        // Also by a clock that lags, the time it waited here counts.
        let age = age_us(&invoke).max(self.began.elapsed().as_micros() as u64);
        if age > invoke.accept_by_us {
            let late = format!("the call came {} ms after it was sent, too late to be begun", age / 1_000);
            return self.refuse(InvokeError::Internal(late)).await;
        }
        self.deadline = Instant::now() + Duration::from_micros(invoke.deadline_us.saturating_sub(age));
        let (trace_id, parent_id, flags) = invoke.trace;
        let call = Invocation {
            revision,
            request,
            id: InvocationId::from_u128(self.key.id),
            deadline: self.deadline,
            trace: TraceContext { trace_id, parent_id, flags },
            started: self.started.clone(),
            last: invoke.may_load,
        };
        let node = &self.server.clone().node;
        match node.begin(call) {
            Ok(work) => self.follow(pin!(work), &invoke, valve).await,
            Err(declined) => {
                let Declined { call, why } = *declined;
                match why {
                    InvokeError::NotReady(_) if invoke.may_load => {
                        self.follow(Box::pin(node.invoke(call)).as_mut(), &invoke, valve).await;
                    }
                    why => {
                        if let InvokeError::NotReady(_) = why {
                            self.server.warm(call.revision.function.clone(), call.revision.id.clone());
                        }
                        self.refuse(why).await;
                    }
                }
            }
        }
    }

    fn read<'f>(&self, frame: &'f Frame) -> Result<(Invoke<'f>, Request<Body>), Unreadable> {
        let (invoke, tail) = frame.parts::<Invoke<'_>>()?;
        let (fields, first) = tail.split(invoke.fields, invoke.body)?;
        let body = if invoke.streamed {
            let inbound = self.server.streams.open(self.key, self.reply.clone());
            Body::stream(Upload { first: Some(first).filter(|first| !first.is_empty()), inbound })
        } else if first.is_empty() {
            Body::Empty
        } else {
            Body::full(first)
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(invoke.method.as_bytes()).map_err(|_| Unreadable::Malformed)?;
        let uri = Uri::from_maybe_shared(frame.bytes_of(invoke.uri));
        *request.uri_mut() = uri.map_err(|_| Unreadable::Malformed)?;
        *request.headers_mut() = fields;
        Ok((invoke, request))
    }

    async fn revision(&self, invoke: &Invoke<'_>) -> Result<Arc<Revision>, InvokeError> {
        let invalid = |_| InvokeError::BadRequest("the call names no function".into());
        let function: FunctionName = invoke.function.parse().map_err(invalid)?;
        let id: RevisionId = invoke.revision.parse().map_err(invalid)?;
        if let Some(revision) = self.server.revisions.known(&function, &id) {
            return Ok(revision);
        }
        if invoke.may_load
            && let Some(revision) = self.server.revisions.find(&function, &id).await
        {
            return Ok(revision);
        }
        let unknown = format!("this node does not know the revision {id} of `{function}`");
        if !invoke.may_load {
            self.server.warm(function, id);
        }
        Err(InvokeError::NotReady(unknown))
    }

    async fn follow(
        &mut self,
        work: Pin<&mut impl Future<Output = Result<Response<Body>, InvokeError>>>,
        invoke: &Invoke<'_>,
        valve: &Valve,
    ) {
        if invoke.streamed {
            self.sign_of_life(FIRST).await;
        }
        match self.alive(work).await {
            Some(Ok(response)) => self.answer(response, invoke.gateway, valve).await,
            Some(Err(error)) => self.fail(error).await,
            None => self.overdue().await,
        }
    }

    /// Polls `work`, and tells the gateway meanwhile that it goes on; none when it is overdue.
    async fn alive<F: Future>(&mut self, mut work: Pin<&mut F>) -> Option<F::Output> {
        let mut timer = pin!(sleep_until(self.pulse));
        loop {
            select! {
                biased;
                done = &mut work => return Some(done),
                () = &mut timer => {
                    // The node itself keeps the deadline; this is for a body that its reader stopped reading.
                    if Instant::now() > self.deadline + PULSE {
                        return None;
                    }
                    self.sign_of_life(0).await;
                    timer.as_mut().reset(self.pulse);
                }
            }
        }
    }

    async fn sign_of_life(&mut self, credit: u64) {
        let load = self.server.node.load();
        if self.accepted {
            self.send(encode(self.key, &Progress { load })).await;
        } else {
            self.accepted = true;
            self.send(encode(self.key, &Accept { load, credit })).await;
        }
        self.pulse = Instant::now() + PULSE;
    }

    async fn answer(&mut self, response: Response<Body>, gateway: &str, valve: &Valve) {
        let (parts, body) = response.into_parts();
        let mut ahead = Ahead::of(body);
        ahead.now().await;
        let (first, rest) = ahead.split();
        let answer = Answer {
            load: self.server.node.load(),
            timing: parts.extensions.get::<Timing>().copied(),
            status: parts.status.as_u16(),
            streamed: rest.is_some(),
            fields: parts.headers.len() as u32,
            body: first.len() as u32,
        };
        let frame = encode_with(self.key, &answer, &parts.headers, &first);
        let most = self.server.nats.control.max_payload();
        if frame.len() > most {
            let fields = frame.len() - first.len();
            return self.fail(InvokeError::BadResponse(format!("its head has {fields} bytes, too many to send"))).await;
        }
        self.answered = true;
        self.send(frame).await;
        if let Some(rest) = rest {
            // Boxed, as loading is: the task of a short call stays small, and is moved when it is spawned.
            Box::pin(self.stream(rest, gateway, valve)).await;
        }
    }

    async fn stream(&mut self, rest: Body, gateway: &str, valve: &Valve) {
        // Until the end has left, whatever drops this must break the body at the other end.
        self.answered = false;
        let Ok(gateway) = gateway.parse() else { return };
        let to = self.server.nats.subjects.download(&gateway).into();
        let bulk = self.server.nats.bulk.clone();
        let out = Outbound { bulk: &bulk, to, key: self.key, valve };
        match self.alive(pin!(out.pump(rest))).await {
            Some(Ok(())) => self.answered = true,
            Some(Err(error)) => self.fail(InvokeError::Internal(error)).await,
            None => self.overdue().await,
        }
    }

    async fn overdue(&mut self) {
        self.fail(InvokeError::Deadline(self.deadline.saturating_duration_since(self.began))).await;
    }

    /// The call ended with `error`: a refusal if it says that nothing was begun.
    async fn fail(&mut self, error: InvokeError) {
        use InvokeError::{Busy, Concurrency, Draining, NotReady};
        let started = self.started.get();
        if !started && matches!(error, Busy(_) | Draining | NotReady(_) | Concurrency { .. }) {
            return self.refuse(error).await;
        }
        self.last(&Failed { load: self.server.node.load(), started, error }).await;
    }

    async fn refuse(&mut self, why: InvokeError) {
        self.last(&Refused { load: self.server.node.load(), why }).await;
    }

    async fn last(&mut self, head: &impl Head) {
        self.answered = true;
        self.send(encode(self.key, head)).await;
    }

    async fn send(&self, frame: Bytes) {
        if let Err(error) = publish(&self.server.nats.control, self.reply.clone(), None, frame).await {
            tracing::debug!(error, "a reply was not sent");
        }
    }
}

impl<N: LocalNode> Drop for Serving<'_, N> {
    /// The call was cancelled, the server stops, or the node panicked.
    fn drop(&mut self) {
        if !self.answered {
            let error = InvokeError::Internal("the node gave the call up".into());
            let failed = Failed { load: self.server.node.load(), started: self.started.get(), error };
            self.server.outbox.post(self.reply.clone(), encode(self.key, &failed));
        }
    }
}

/// How long ago the call was sent, by both clocks; never less than nothing.
fn age_us(invoke: &Invoke<'_>) -> u64 {
    unix_us().saturating_sub(invoke.sent_unix_us)
}
