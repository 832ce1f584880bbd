//! What the benchmarks of this crate call: one function on a node whose stores are in memory, on this thread alone.

#[path = "../tests/it/support.rs"]
#[allow(dead_code, reason = "tests use the rest of it")]
mod support;

use dunlin_api::{Body, Instances, Invocation, Invoke, Revision, Settings};
use http::Request;
use http_body_util::BodyExt;
use std::{sync::Arc, time::Duration};
use support::Node;
use tokio::runtime::Runtime;

/// A fixture and how it is called.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    name: &'static str,
    request: fn() -> Request<Body>,
}

/// A `wasi:http@0.2` component.
pub(crate) const HELLO_02: Guest = Guest { name: "hello", request: || support::get("/hello?name=Ada") };
/// A `wasi:http@0.3` component.
pub(crate) const HELLO_03: Guest =
    Guest { name: "thirdparty-wasip3", request: || support::post("/some/path", Body::Empty) };
/// A messaging handler.
pub(crate) const MESSAGING: Guest = Guest { name: "messaging", request: event };

fn event() -> Request<Body> {
    let mut request = support::post("/", Body::full("ok"));
    request.headers_mut().insert("dunlin-subject", http::HeaderValue::from_static("orders.paid"));
    request
}

/// A guest, deployed.
pub(crate) struct Scene {
    runtime: Runtime,
    node: Node,
    revision: Arc<Revision>,
    guest: Guest,
}

impl Scene {
    /// Deploys `guest`; with one of `reuse` calls to an instance, and so many `concurrent` ones.
    pub(crate) fn new(guest: Guest, reuse: u32, concurrent: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let instances = Instances { reuse, concurrent, idle: Duration::from_secs(3600) };
        let settings = Settings { instances, ..Settings::default() };
        let (node, revision) = runtime.block_on(async {
            // Two slots: each reserves address space, of which valgrind has less.
            let node = Node::with(|config| config.slots = 2);
            let revision = node.deploy(guest.name, settings).await;
            (node, revision)
        });
        Self { runtime, node, revision, guest }
    }

    /// What is deployed.
    pub(crate) fn revision(&self) -> &Arc<Revision> {
        &self.revision
    }

    /// A call that waits to be made.
    pub(crate) fn call(&self) -> Invocation {
        support::call(&self.revision, (self.guest.request)())
    }

    /// Makes `call` and reads its answer to the end.
    pub(crate) fn invoke(&self, call: Invocation) {
        self.runtime.block_on(async {
            let response = self.node.executor.invoke(call).await.unwrap();
            assert!(response.status().is_success(), "{}", response.status());
            response.into_body().collect().await.unwrap();
        });
    }
}
