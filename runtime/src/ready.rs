//! A revision that can be called now: its code linked, its grants parsed, its counters at hand. Made once, shared by
//! all its invocations.

use dunlin_api::{InvocationId, InvokeError, KeyValue, Logs, Publish, Refusal, Revision, World};
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use wasmtime::{Engine, component::Component};
use wasmtime_wasi_http::{p2::bindings::ProxyPre, p3::bindings::ServicePre};

use crate::{
    admission::{Admission, Admitted, FunctionGate},
    engine::{EngineKind, Engines},
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
}

/// Code that is mapped, checked and linked; shared by revisions that differ only in settings.
#[derive(Clone)]
pub(crate) struct Code {
    pub(crate) engine: Engine,
    pub(crate) entry: Entry,
}

/// The handler of a component, resolved.
#[derive(Clone)]
pub(crate) enum Entry {
    /// `wasi:http/incoming-handler@0.2`.
    P2(ProxyPre<Guest>),
    /// `wasi:http/handler@0.3`.
    P3(ServicePre<Guest>),
    /// `wasmcloud:messaging/handler@0.2`.
    Messaging(ComponentPre<Guest>),
}

impl Code {
    /// Links `component` against the sandbox.
    ///
    /// # Errors
    /// `Refusal::Imports` with the first function that does not exist or has another type here.
    pub(crate) fn link(
        engines: &Engines,
        kind: EngineKind,
        world: World,
        component: &Component,
    ) -> Result<Self, Refusal> {
        let imports = |e: wasmtime::Error| Refusal::Imports(vec![format!("  {e:#}")]);
        let handler = |e: wasmtime::Error| Refusal::NoHandler(format!("a handler of another type: {e:#}"));
        let engine = engines.get(kind)?;
        let pre = engine.linker.instantiate_pre(component).map_err(imports)?;
        let entry = match world {
            World::Http02 => Entry::P2(ProxyPre::new(pre).map_err(handler)?),
            World::Http03 => Entry::P3(ServicePre::new(pre).map_err(handler)?),
            World::Messaging => Entry::Messaging(ComponentPre::new(pre).map_err(handler)?),
        };
        Ok(Self { engine: engine.engine.clone(), entry })
    }
}

/// A revision that can be called.
pub(crate) struct Ready {
    pub(crate) revision: Arc<Revision>,
    pub(crate) code: Code,
    pub(crate) node: Arc<Node>,
    pub(crate) instances: InstancePool,
    pub(crate) shared: Option<SharedInstances>,
    gate: FunctionGate,
    sink: Arc<OutputSink>,
    policy: Arc<EgressPolicy>,
    stores: Arc<[String]>,
    messages: Arc<MessagingGrant>,
}

impl Ready {
    pub(crate) fn new(node: Arc<Node>, revision: Arc<Revision>, code: Code) -> Result<Arc<Self>, Refusal> {
        let settings = &revision.settings;
        let policy = EgressPolicy::parse(&settings.egress).map_err(Refusal::Settings)?;
        Ok(Arc::new_cyclic(|this| Self {
            gate: FunctionGate::new(settings.limits.concurrency),
            sink: OutputSink::new(node.logs.clone(), revision.clone()),
            policy: Arc::new(policy),
            stores: settings.kv.clone().into(),
            messages: Arc::new(MessagingGrant { publish: node.publish.clone(), subjects: settings.publish.clone() }),
            instances: InstancePool::new(settings.instances),
            shared: (settings.instances.concurrent > 1).then(|| SharedInstances::new(this.clone(), settings)),
            revision: revision.clone(),
            code,
            node,
        }))
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
