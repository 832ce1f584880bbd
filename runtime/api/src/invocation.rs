//! The one seam of the project: an [`Invocation`] goes in, a streaming response comes out.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    future::Future,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Body, InvokeError, NodeName, Prepare, Revision, TraceContext};

/// Identifies one invocation wherever it is seen: UUID version 7 (RFC 9562 §5.7), so ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InvocationId(Uuid);

impl InvocationId {
    /// A new id from the clock and random bits.
    #[expect(clippy::new_without_default, reason = "two new ids differ; a default should not")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// An id from a clock and random bytes of the caller: for paths where a call into the kernel's random source for
    /// every id would be felt.
    pub fn at(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
    }

    /// The id as 128 bits, for binary frames.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    /// The id that [`as_u128`](Self::as_u128) gave.
    pub fn from_u128(bits: u128) -> Self {
        Self(Uuid::from_u128(bits))
    }

    /// The id's text, as [`Display`](fmt::Display) shows it, without an allocation.
    pub fn encode(self) -> [u8; 36] {
        let mut text = [0; 36];
        self.0.hyphenated().encode_lower(&mut text);
        text
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for InvocationId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// One run of a function, whatever triggered it.
#[derive(Debug)]
pub struct Invocation {
    /// The resolved revision; the name of the function is in it.
    pub revision: Arc<Revision>,
    /// The request; its body is a stream.
    pub request: http::Request<Body>,
    /// This invocation's id.
    pub id: InvocationId,
    /// When the answer must be complete. Never later than arrival + the revision's `timeout`.
    pub deadline: Instant,
    /// The caller's trace, or a new one.
    pub trace: TraceContext,
    /// Set by whoever runs it as soon as guest code may have had an effect; read by whoever reports a failure.
    pub started: Started,
    /// Whether no other node is left for it: it then waits for a slot longer than a call that may go elsewhere.
    pub last: bool,
}

/// Whether guest code has begun to run. Shared between the caller and the one who runs it.
#[derive(Clone, Debug, Default)]
pub struct Started(Arc<AtomicBool>);

impl Started {
    /// Says that the guest runs from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the guest had begun.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs invocations: here, there, or wherever it decides.
pub trait Invoke: Send + Sync + 'static {
    /// Runs `call` and answers with the function's response. The response is over when its body ends; dropping the
    /// future or the body cancels the run.
    fn invoke(&self, call: Invocation) -> impl Future<Output = Result<http::Response<Body>, InvokeError>> + Send;
}

impl<I: Invoke> Invoke for Arc<I> {
    fn invoke(&self, call: Invocation) -> impl Future<Output = Result<http::Response<Body>, InvokeError>> + Send {
        self.as_ref().invoke(call)
    }
}

/// A node that can run invocations itself: the runtime of this process.
pub trait LocalNode: Invoke + Prepare {
    /// Begins `call` if its revision is ready here and the node takes it at this moment; else gives it back untouched,
    /// so that it may run elsewhere. [`Invoke::invoke`] makes the revision ready first.
    ///
    /// # Errors
    /// `NotReady`, `Busy`, `Draining` or `Concurrency`, with the call. Nothing has run.
    fn begin(
        &self,
        call: Invocation,
    ) -> Result<impl Future<Output = Result<http::Response<Body>, InvokeError>> + Send, Box<Declined>>;

    /// How busy this node is.
    fn load(&self) -> Load;

    /// Whether `revision` can be called without being loaded first.
    fn is_ready(&self, revision: &Revision) -> bool;

    /// How many revisions can be called without being loaded first.
    fn ready_count(&self) -> usize;

    /// Whether another revision can be made ready without one having to go for it.
    fn has_room(&self) -> bool {
        true
    }

    /// Puts those first that were called last, as far as this node knows, also before its start.
    fn by_recent_use(&self, revisions: Vec<Arc<Revision>>) -> impl Future<Output = Vec<Arc<Revision>>> + Send {
        std::future::ready(revisions)
    }
}

/// A call that a node did not begin.
#[derive(Debug)]
pub struct Declined {
    /// The call, as it was.
    pub call: Invocation,
    /// Why.
    pub why: InvokeError,
}

/// The node that ran an invocation; travels in the response's extensions when it was another one.
#[derive(Clone, Debug)]
pub struct RanOn(pub NodeName);

/// Where the time of an invocation went; travels in the response's extensions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Timing {
    /// Waiting for admission.
    pub queue: Duration,
    /// Making the component ready: zero when it was.
    pub load: Duration,
    /// Instantiation: zero when an instance was reused.
    pub instantiate: Duration,
    /// Guest code until the response head.
    pub run: Duration,
    /// Whether the component had to be loaded first.
    pub cold: bool,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Invocations that run or wait for a slot, until their bodies end.
    pub in_flight: u32,
    /// Invocations that may run at once.
    pub slots: u32,
}
