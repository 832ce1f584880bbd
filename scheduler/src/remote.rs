//! The wire between nodes: calls, preparations and pings over NATS, both ends of it.
//!
//! [`Remotes`] is the gateway's end, which the router calls; [`Server`] is the worker's end, in front of its
//! [`LocalNode`](dunlin_api::LocalNode). It promises: a call runs at most once per attempt; what was seen of a call that
//! failed is told exactly ([`Seen`]), so that the router knows whether it may try again; a body that is not whole never ends
//! cleanly; dropping a call or its body cancels the run there; nothing waits for a silent NATS.
//!
//! **Frames.** One binary prefix and no NATS headers. Subjects are constant, so that the server's cache of them stays
//! hot; the last token of a reply is the call's place in a table, which also finds the call that a "no responders" belongs to.
//! The first 128 KiB of a body travel with its head on the control connection; the rest in numbered chunks on the bulk
//! connection, against credit that the reader returns as it consumes.
//!
//! **Time.** A frame says when it was sent by the sender's clock, and how much time is left from then for being begun and
//! for being answered. The receiver subtracts the age by its own clock, but never less than nothing: a clock that lags
//! gives a call no more time than the sender gave, counted from its arrival; one that is ahead refuses calls too soon, and
//! membership marks a node unfit whose clock is 50 ms off. A node never begins a call after `accept_by`, which is at most
//! 500 ms after sending, and says that it runs one after 5 ms and then every second; the sender gives up at `accept_by` +
//! 250 ms, or after 3.5 s without a sign of life.
//!
//! **Bounds.** Calls in flight and bytes buffered are in [`RemoteConfig`]; calls that run are bounded by the node's own
//! admission, which refuses; remembered calls by number and age; each publish by a second.

mod asking;
// Not an API: two functions that let benchmarks reach the frames, whose types stay private.
#[doc(hidden)]
pub mod bench;
mod calls;
mod download;
mod flight;
mod frame;
mod gateway;
mod inbound;
mod known;
mod link;
mod outbound;
mod preparing;
mod revisions;
mod server;
mod serving;
mod upload;
mod valve;

pub use gateway::Remotes;
pub use revisions::Revisions;
pub use server::Server;

use bytes::Bytes;
use dunlin_api::{Body, BodyError, ByteSize, InvocationId, InvokeError, Load, Refusal, Revision, TraceContext};
use std::{fmt, future::poll_fn, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

use outbound::Ahead;

/// A body that trickles is not waited for longer than this before its call is sent.
const READ_AHEAD: Duration = Duration::from_millis(50);
/// Between two signs of life of a call that runs.
const PULSE: Duration = Duration::from_secs(1);
/// A call without a sign of life for so long is lost: three pulses missed.
const LOST: Duration = Duration::from_millis(3_500);

/// What bounds one end.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Calls that may be in flight at once from here to all nodes together.
    pub max_in_flight: u32,
    /// Bytes of bodies that may wait here for slow readers; each stream may have 16 KiB beyond.
    pub buffer: ByteSize,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self { max_in_flight: 16_384, buffer: ByteSize::mib(64) }
    }
}

/// Why an end of the wire cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A subject cannot be received.
    #[error("cannot receive `{subject}` from NATS: {error}")]
    Subscribe {
        /// The subject.
        subject: String,
        /// What went wrong.
        error: String,
    },
    /// The server's messages are too small for the first frame of a call.
    #[error("NATS takes messages of at most {limit}: set its max_payload to 1MB, its default")]
    MaxPayload {
        /// What it takes.
        limit: ByteSize,
    },
}

/// One call for another node.
#[derive(Debug)]
pub struct RemoteCall {
    /// The resolved revision.
    pub revision: Arc<Revision>,
    /// Method, URI and fields of the request.
    pub head: Arc<http::request::Parts>,
    /// Its body.
    pub body: SendBody,
    /// The invocation's id.
    pub id: InvocationId,
    /// When the answer must be complete.
    pub deadline: Instant,
    /// The caller's trace.
    pub trace: TraceContext,
    /// Whether the node may load the revision for this call; else it refuses a call that it is not ready for.
    pub may_load: bool,
}

/// A request body, as far as it was read before its call is sent.
pub enum SendBody {
    /// All of it, at most 128 KiB: it may be sent again.
    Kept(Bytes),
    /// A body that is larger, or that trickles.
    Stream {
        /// Its beginning, at most 128 KiB.
        first: Bytes,
        /// What follows; read only after a node accepted the call.
        rest: Body,
    },
}

impl SendBody {
    /// Reads `body` ahead, up to 128 KiB and 50 ms.
    ///
    /// # Errors
    /// The body's own, if it breaks off meanwhile.
    pub async fn of(body: Body) -> Result<Self, BodyError> {
        let mut ahead = Ahead::of(body);
        // Late is no failure: what came by then goes first, the rest follows.
        let _ = timeout(READ_AHEAD, poll_fn(|cx| ahead.poll(cx))).await;
        if let Some(error) = ahead.take_error() {
            return Err(error);
        }
        Ok(match ahead.split() {
            (all, None) => Self::Kept(all),
            (first, Some(rest)) => Self::Stream { first, rest },
        })
    }

    fn first(&self) -> &Bytes {
        match self {
            Self::Kept(all) => all,
            Self::Stream { first, .. } => first,
        }
    }
}

/// Sizes only: a body is nobody's business in a log.
impl fmt::Debug for SendBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(all) => write!(f, "SendBody::Kept({} bytes)", all.len()),
            Self::Stream { first, .. } => write!(f, "SendBody::Stream({} bytes and more)", first.len()),
        }
    }
}

/// A call that has no answer of the function.
#[derive(Debug)]
pub struct Failed {
    /// What was seen of it.
    pub seen: Seen,
    /// How busy the node was, if it said so.
    pub load: Option<Load>,
    /// The call, unless something of its body beyond the beginning was consumed.
    pub call: Option<RemoteCall>,
}

/// What was seen of a call that failed; the router decides by it whether the call may be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It never left this node, for this reason.
    NotSent(String),
    /// Nobody listens: the node is gone, or not yet there.
    NoResponders,
    /// The node did not begin it.
    Refused(InvokeError),
    /// Neither an answer nor a refusal came in time: almost surely it was not begun.
    Silent,
    /// It was begun, then the node was lost.
    Lost,
    /// It was begun and ended with an error.
    Answered {
        /// The error.
        error: InvokeError,
        /// Whether guest code had begun to run.
        started: bool,
    },
    /// Its deadline passed.
    Deadline,
}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Which start of the node answered.
    pub boot: u64,
    /// How busy it is.
    pub load: Load,
}

/// Why a node has not made a revision ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// It says why not.
    #[error("{0}")]
    Refused(Refusal),
    /// It cannot be reached, or was lost meanwhile.
    #[error("the node cannot be reached")]
    Unreachable,
    /// It is still at it.
    #[error("the node did not get it ready in time")]
    TimedOut,
}
