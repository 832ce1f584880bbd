//! One call that does not simply run here: from node to node until one takes it.

use bytes::Bytes;
use dunlin_api::{
    Body, BodyError, FunctionName, Invocation, InvocationId, InvokeError, LocalNode, NodeName, Revision, Started,
};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    AWAY, Dispatch, Next, Peers, TRIES, reported,
    retry::{Facts, Verdict, idempotent, verdict},
    run_time,
};
use crate::{
    balancer::{Failure, Refused, RevisionKey, Sent},
    remote::{Failed, RemoteCall, Seen, SendBody},
};

pub(super) struct Journey<'a, N> {
    dispatch: &'a Dispatch<N>,
    peers: &'a Peers,
    revision: Arc<Revision>,
    key: RevisionKey,
    id: InvocationId,
    started: Started,
    idempotent: bool,
    tried: Vec<NodeName>,
    /// What the last node said; the answer if no other is left.
    last: Option<InvokeError>,
    /// Whether it waited for NATS.
    waited: bool,
    started_over: bool,
    /// Whether fewer nodes than it has tries refused it all: one of them must take it after all.
    pressing: bool,
    /// Tries on other nodes: each has a number of its own, so that a late answer is of none but its own.
    attempts: u8,
}

/// How long a call waits for NATS that cannot run here: servers of a cluster replace each other sooner.
const RECONNECT: Duration = Duration::from_millis(500);
/// Before nodes are tried a second time: they connect again within a few milliseconds too.
const START_OVER: Duration = Duration::from_millis(100);

/// The call in the form in which it can be given to this node or to another one.
enum Call {
    Here(Invocation),
    There(RemoteCall),
}

impl<'a, N: LocalNode> Journey<'a, N> {
    pub(super) fn new(dispatch: &'a Dispatch<N>, peers: &'a Peers, call: &Invocation, key: RevisionKey) -> Self {
        peers.budget.call(Instant::now());
        Self {
            dispatch,
            peers,
            revision: call.revision.clone(),
            key,
            id: call.id,
            started: call.started.clone(),
            idempotent: idempotent(call.request.method(), call.request.headers()),
            tried: Vec::with_capacity(TRIES),
            last: None,
            waited: false,
            started_over: false,
            pressing: false,
            attempts: 0,
        }
    }

    /// Goes on with a call that this node did not take.
    pub(super) async fn declined(mut self, call: Invocation, why: InvokeError) -> Result<Response<Body>, InvokeError> {
        if matches!(why, InvokeError::Concurrency { .. }) {
            return Err(why);
        }
        self.tried.push(self.peers.me.clone());
        self.last = Some(why);
        let next = self.choose();
        self.run(call, next).await
    }

    /// Runs `call` where `next` says, and elsewhere if that fails.
    pub(super) async fn run(mut self, call: Invocation, mut next: Next) -> Result<Response<Body>, InvokeError> {
        let mut call = Call::Here(call);
        loop {
            call = match next {
                Next::Here => {
                    let mut invocation = call.into_invocation(&self.started);
                    invocation.last = self.is_last();
                    match self.dispatch.node.begin(invocation) {
                        Ok(run) => return self.peers.measured(self.key, run).await,
                        Err(declined) if matches!(declined.why, InvokeError::Concurrency { .. }) => {
                            return Err(declined.why);
                        }
                        Err(declined) => {
                            self.tried.push(self.peers.me.clone());
                            self.last = Some(declined.why);
                            Call::Here(declined.call)
                        }
                    }
                }
                Next::There(node) => {
                    let remote = call.into_remote().await?;
                    match self.try_on(&node, remote).await {
                        Ok(response) => return Ok(response),
                        Err(failed) => self.after(&node, failed)?,
                    }
                }
                Next::Away if self.waited => return self.last_resort(call, AWAY.into()).await,
                Next::Away => {
                    self.until_connected().await;
                    call
                }
                Next::Nowhere(_) if self.may_start_over() => {
                    self.start_over().await;
                    call
                }
                Next::Nowhere(_) if self.may_press() => {
                    self.pressing = true;
                    self.tried.clear();
                    call
                }
                Next::Nowhere(why) => return self.last_resort(call, why).await,
            };
            next = self.choose();
        }
    }

    /// A connection that broke is mostly made again within milliseconds: worth a wait, once.
    async fn until_connected(&mut self) {
        self.waited = true;
        let mut connection = self.peers.nats.connection();
        // Either way the next choice sees how it is.
        let _ = tokio::time::timeout(RECONNECT, connection.wait_for(|connected| *connected)).await;
    }

    /// Whether every node was out of reach: more likely NATS was than all of them. A refusal is an answer.
    fn may_start_over(&self) -> bool {
        use InvokeError::{Lost, NoNode, Silent};
        !self.started_over && matches!(self.last, Some(NoNode(_) | Silent { .. } | Lost { .. }))
    }

    /// Whether all nodes refused it, being few: then the one that is asked next is the last, which may load the code and let
    /// the call wait.
    fn may_press(&self) -> bool {
        let refused = matches!(self.last, Some(InvokeError::Busy(_) | InvokeError::NotReady(_)));
        refused && !self.pressing && self.tried.len() < TRIES
    }

    async fn start_over(&mut self) {
        self.started_over = true;
        self.tried.clear();
        tokio::time::sleep(START_OVER).await;
    }

    /// Whether nobody is left after the next node: that one loads the code if it must, and lets the call wait.
    fn is_last(&self) -> bool {
        self.pressing || self.tried.len() + 1 >= TRIES
    }

    fn choose(&self) -> Next {
        if self.tried.len() >= TRIES {
            return Next::Nowhere(format!("{TRIES} nodes refused it"));
        }
        if self.pressing && !self.tried.is_empty() {
            return Next::Nowhere("every node refused it".into());
        }
        self.dispatch.choose(self.peers, (&self.revision, self.key), &self.tried, self.is_last())
    }

    async fn try_on(&mut self, node: &NodeName, mut call: RemoteCall) -> Result<Response<Body>, Failed> {
        call.may_load = self.is_last();
        self.want_here();
        self.tried.push(node.clone());
        self.attempts += 1;
        self.dispatch.sent.fetch_add(1, Relaxed);
        self.dispatch.retries.fetch_add(u64::from(self.attempts > 1), Relaxed);
        let begun = Instant::now();
        let sent = self.peers.balancer.sent(node, self.key, begun);
        match self.peers.send(node, call, self.attempts).await {
            Ok(response) => {
                self.started.set();
                let now = Instant::now();
                sent.answered(reported(&response), run_time(&response, now - begun), now);
                Ok(response.map(|body| Counted::wrap(body, sent)))
            }
            Err(failed) => {
                self.judge(node, &failed, &sent, begun);
                Err(failed)
            }
        }
    }

    /// Tells balancer and membership what the failure says about the node.
    fn judge(&self, node: &NodeName, failed: &Failed, sent: &Sent, begun: Instant) {
        let now = Instant::now();
        match &failed.seen {
            Seen::Refused(InvokeError::Busy(_)) => sent.refused(failed.load, Refused::Busy, now),
            Seen::Refused(InvokeError::Draining) => sent.refused(failed.load, Refused::Draining, now),
            Seen::Refused(InvokeError::NotReady(_)) => sent.refused(failed.load, Refused::NotReady, now),
            Seen::Answered { .. } => sent.answered(failed.load, now - begun, now),
            Seen::NoResponders => self.suspect(node, sent, Failure::NoResponders, now),
            Seen::Silent => self.suspect(node, sent, Failure::Silent, now),
            Seen::Lost => self.suspect(node, sent, Failure::Platform, now),
            Seen::Refused(_) | Seen::NotSent(_) | Seen::Deadline => {}
        }
    }

    fn suspect(&self, node: &NodeName, sent: &Sent, failure: Failure, now: Instant) {
        sent.failed(failure, now);
        self.peers.membership.suspect(node);
    }

    /// The call as it is to be tried again, or the answer.
    fn after(&mut self, node: &NodeName, failed: Failed) -> Result<Call, InvokeError> {
        let Failed { seen, call, .. } = failed;
        if let Seen::Answered { started: true, .. } | Seen::Lost = seen {
            self.started.set();
        }
        let timeout = self.revision.settings.limits.timeout;
        let facts = Facts { idempotent: self.idempotent, whole: call.is_some(), timeout };
        let (error, again) = match verdict(node, seen, facts) {
            Verdict::Elsewhere(error) => (error, true),
            Verdict::Again(error) => (error, self.peers.budget.retry(Instant::now())),
            Verdict::Answer(error) => (error, false),
        };
        self.note(Some(node), &error, again);
        match call {
            Some(call) if again => {
                self.last = Some(error);
                Ok(Call::There(call))
            }
            _ => Err(error),
        }
    }

    /// No node takes it: this one does if it can, even if it has to load the code first.
    async fn last_resort(self, call: Call, why: String) -> Result<Response<Body>, InvokeError> {
        let here = self.dispatch.here(self.peers, &self.revision);
        let loadable = matches!(self.last, None | Some(InvokeError::NotReady(_) | InvokeError::NoNode(_)));
        if here.is_some_and(|here| !here.ready) && loadable {
            return self.dispatch.node.invoke(call.into_invocation(&self.started)).await;
        }
        let error = match self.last.clone() {
            // Said by one node about itself; what counts for the caller is that none was better.
            Some(error @ (InvokeError::Busy(_) | InvokeError::Draining | InvokeError::NotReady(_))) => {
                InvokeError::NoNode(format!("{why}; the last one said that {error}"))
            }
            Some(error) => error,
            None => InvokeError::NoNode(why),
        };
        self.note(None, &error, false);
        Err(error)
    }

    /// Calls of a revision come here that cannot run here: whoever prefetches weighs whether they should.
    fn want_here(&self) {
        if self.dispatch.here(self.peers, &self.revision).is_some_and(|here| !here.ready) {
            let _full_queue_forgets = self.peers.called.try_send(self.revision.clone());
        }
    }

    fn note(&self, node: Option<&NodeName>, error: &InvokeError, tried_again: bool) {
        let function: &FunctionName = &self.revision.function;
        tracing::debug!(invocation = %self.id, %function, node = node.map(NodeName::as_str), %error, tried_again, "a try failed");
        if !matches!(error, InvokeError::Busy(_) | InvokeError::Concurrency { .. }) {
            self.dispatch.failures.note(function, self.id, node, error, tried_again);
        }
    }
}

impl Call {
    async fn into_remote(self) -> Result<RemoteCall, InvokeError> {
        let Invocation { revision, request, id, deadline, trace, .. } = match self {
            Self::There(call) => return Ok(call),
            Self::Here(call) => call,
        };
        let (head, body) = request.into_parts();
        let body = SendBody::of(body).await.map_err(|e| InvokeError::BadRequest(format!("its body broke off: {e}")))?;
        Ok(RemoteCall { revision, head: Arc::new(head), body, id, deadline, trace, may_load: false })
    }

    fn into_invocation(self, started: &Started) -> Invocation {
        match self {
            Self::Here(call) => call,
            Self::There(RemoteCall { revision, head, body, id, deadline, trace, .. }) => {
                let request = Request::from_parts(Arc::unwrap_or_clone(head), whole(body));
                Invocation { revision, request, id, deadline, trace, started: started.clone(), last: false }
            }
        }
    }
}

/// A body that was read ahead, as it was before.
fn whole(body: SendBody) -> Body {
    match body {
        SendBody::Kept(bytes) if bytes.is_empty() => Body::Empty,
        SendBody::Kept(bytes) => Body::full(bytes),
        SendBody::Stream { first, rest } => Body::stream(Chained { first: Some(first), rest }),
    }
}

struct Chained {
    first: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Chained {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }
}

/// A response's body, in flight on its node until it ends.
struct Counted {
    body: Body,
    _sent: Sent,
}

impl Counted {
    fn wrap(body: Body, sent: Sent) -> Body {
        match body {
            Body::Stream(_) => Body::stream(Self { body, _sent: sent }),
            whole => whole,
        }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
