//! A revision that can be called now: its code linked, its grants parsed, its counters at hand. Made once, shared by
//! all its invocations.

use dunlin_api::{ByteSize, Digest, InvocationId, InvokeError, KeyValue, Logs, Publish, Refusal, Revision, World};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use wasmtime::Engine;
use wasmtime_wasi_http::{p2::bindings::ProxyPre, p3::bindings::ServicePre};

use crate::{
    admission::{Admission, Admitted, FunctionGate},
    code::Mapped,
    engine::{Engines, LinkedEngine, Target},
    entry::{pool::InstancePool, shared::SharedInstances},
    host::{
        EgressClient, EgressPolicy, KeyValueCtx, MessagingCtx, MessagingGrant, Outbound, Output, OutputSink,
        messaging::bindings::ComponentPre,
    },
    sandbox::Guest,
};

/// What all revisions of a node share.
pub(crate) struct Node {
    pub(crate) engines: Engines,
    pub(crate) admission: Admission,
    pub(crate) keyvalue: Arc<dyn KeyValue>,
    pub(crate) publish: Arc<dyn Publish>,
    pub(crate) logs: Arc<dyn Logs>,
    pub(crate) egress: Arc<EgressClient>,
    /// Guests that work on after their response has been sent.
    pub(crate) after: TaskTracker,
    pub(crate) runtime: tokio::runtime::Handle,
    /// Cores that run guests.
    pub(crate) cores: usize,
    /// Seconds since the node began, from 1: a clock that costs a call nothing.
    pub(crate) seconds: AtomicU32,
}

/// What a loaded revision holds beside the pages of its code file: the types and tables that wasmtime makes of it, its
/// settings and counters. Measured with small functions.
const HELD: ByteSize = ByteSize::kib(64);

/// Code that is mapped, checked and linked; shared by revisions that differ only in settings.
pub(crate) struct Code {
    pub(crate) artifact: Digest,
    pub(crate) engine: Engine,
    /// What its file is for.
    pub(crate) target: Target,
    /// The size of its file.
    bytes: u64,
    pub(crate) entry: Entry,
}

/// The handler of a component, resolved.
pub(crate) enum Entry {
    /// `wasi:http/incoming-handler@0.2`.
    P2(ProxyPre<Guest>),
    /// `wasi:http/handler@0.3`.
    P3(ServicePre<Guest>),
    /// `wasmcloud:messaging/handler@0.2`.
    Messaging(ComponentPre<Guest>),
}

impl Code {
    /// Links `mapped`, the code of `artifact`, against the sandbox.
    ///
    /// # Errors
    /// `Refusal::Imports` with the first function that does not exist or has another type here.
    pub(crate) fn link(
        engine: &LinkedEngine,
        target: Target,
        world: World,
        artifact: Digest,
        mapped: &Mapped,
    ) -> Result<Self, Refusal> {
        let imports = |e: wasmtime::Error| Refusal::Imports(vec![format!("  {e:#}")]);
        let handler = |e: wasmtime::Error| Refusal::NoHandler(format!("a handler of another type: {e:#}"));
        let pre = engine.linker.instantiate_pre(&mapped.component).map_err(imports)?;
        let entry = match world {
            World::Http02 => Entry::P2(ProxyPre::new(pre).map_err(handler)?),
            World::Http03 => Entry::P3(ServicePre::new(pre).map_err(handler)?),
            World::Messaging => Entry::Messaging(ComponentPre::new(pre).map_err(handler)?),
        };
        Ok(Self { artifact, engine: engine.engine.clone(), target, bytes: mapped.bytes, entry })
    }
}

/// A revision that can be called.
pub(crate) struct Ready {
    pub(crate) revision: Arc<Revision>,
    pub(crate) code: Arc<Code>,
    pub(crate) node: Arc<Node>,
    pub(crate) instances: InstancePool,
    pub(crate) shared: Option<SharedInstances>,
    /// The second of its last call; 0 = none since it was loaded.
    used: AtomicU32,
    gate: FunctionGate,
    sink: Arc<OutputSink>,
    policy: Arc<EgressPolicy>,
    stores: Arc<[String]>,
    messages: Arc<MessagingGrant>,
}

impl Ready {
    pub(crate) fn new(node: Arc<Node>, revision: Arc<Revision>, code: Arc<Code>) -> Result<Arc<Self>, Refusal> {
        let settings = &revision.settings;
        let policy = EgressPolicy::parse(&settings.egress).map_err(Refusal::Settings)?;
        Ok(Arc::new_cyclic(|this| Self {
            used: AtomicU32::new(0),
            gate: FunctionGate::new(settings.limits.concurrency),
            sink: OutputSink::new(node.logs.clone(), revision.clone()),
            policy: Arc::new(policy),
            stores: settings.kv.clone().into(),
            messages: Arc::new(MessagingGrant { publish: node.publish.clone(), subjects: settings.publish.clone() }),
            instances: InstancePool::new(settings.instances),
            shared: (settings.instances.concurrent > 1)
                .then(|| SharedInstances::new(this.clone(), settings, node.cores)),
            revision: revision.clone(),
            code,
            node,
        }))
    }

    /// What it counts for in [`RuntimeConfig::code_memory`](crate::RuntimeConfig::code_memory).
    pub(crate) fn weight(&self) -> u64 {
        self.code.bytes + HELD.bytes()
    }

    /// Remembers that it is called now.
    pub(crate) fn mark_used(&self) {
        let now = self.node.seconds.load(Relaxed);
        // Written once a second, so that cores which call the same function do not take the line from each other.
        if self.used.load(Relaxed) != now {
            self.used.store(now, Relaxed);
        }
    }

    /// The second of its last call; 0 = none since it was loaded.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// A place on the node and one of the function.
    pub(crate) fn admit(&self, last: bool) -> Result<Admitted, InvokeError> {
        self.node.admission.admit(&self.gate, last)
    }

    pub(crate) fn output(&self, id: InvocationId) -> Output {
        Output::new(self.sink.clone(), id)
    }

    pub(crate) fn outbound(&self, output: Output, deadline: Instant) -> Outbound {
        let limit = self.revision.settings.limits.outbound;
        Outbound::new(self.node.egress.clone(), self.policy.clone(), output, limit, deadline)
    }

    pub(crate) fn keyvalue(&self) -> KeyValueCtx {
        KeyValueCtx { store: self.node.keyvalue.clone(), granted: self.stores.clone() }
    }

    pub(crate) fn messaging(&self) -> MessagingCtx {
        MessagingCtx::new(self.messages.clone())
    }
}
