//! The HTTP trigger: requests come in, functions answer.
//!
//! A node makes one [`Gateway`] and runs [`Gateway::serve`] on a socket it has bound; HTTP/1.1 and HTTP/2 with prior
//! knowledge, no TLS. Promises: a request is checked before a function sees it; fields of one hop stop here; bodies stream
//! both ways with back-pressure; a response that fails is cut, never ended cleanly; a client that leaves cancels its
//! invocation; the accept loop outlives every error. Bounds: everything in [`Config`].

mod accept;
mod arrival;
mod asking;
mod call;
mod config;
mod connection;
mod exchange;
mod fields;
mod front;
mod intake;
mod pulse;
mod refusal;
mod socket;

use dunlin_api::Invoke;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{calls::AsyncCalls, router::Router};
pub use call::Caller;
pub(crate) use call::without_hop_fields;
pub use config::Config;
pub(crate) use exchange::presentable;
pub(crate) use intake::{Bounds as BodyBounds, bounded};

/// The HTTP front of one node.
pub struct Gateway<I> {
    router: Arc<Router<I>>,
    config: Config,
    calls: Option<Arc<dyn AsyncCalls>>,
}

/// What all connections of a gateway share.
struct Shared<I> {
    router: Arc<Router<I>>,
    config: Config,
    calls: Option<Arc<dyn AsyncCalls>>,
    builders: connection::Builders,
    stop: CancellationToken,
    /// The same as `stop`, for those who look often.
    stopping: AtomicBool,
}

impl<I: Invoke> Gateway<I> {
    /// A front for `router`.
    pub fn new(router: Arc<Router<I>>, config: Config) -> Self {
        Self { router, config, calls: None }
    }

    /// Takes calls that nobody waits for (`Prefer: respond-async`), and answers below `/_dunlin/` what became of them.
    #[must_use]
    pub fn with_calls(mut self, calls: Arc<dyn AsyncCalls>) -> Self {
        self.calls = Some(calls);
        self
    }

    /// Serves `listener` until `shutdown`, then takes no more connections, finishes what is in flight, and returns when
    /// the last connection has ended or when the grace is over, whichever comes first. Dropping it cuts every connection.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let streams = TaskTracker::new();
        let shared = Arc::new(Shared {
            builders: connection::Builders::new(&self.config, streams.clone()),
            router: self.router,
            config: self.config,
            calls: self.calls,
            stop: CancellationToken::new(),
            stopping: AtomicBool::new(false),
        });
        let mut connections = JoinSet::new();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = accept::run(&listener, &shared, &mut connections) => {}
        }
        // From here on the kernel refuses new connections instead of queueing them for nobody.
        accept::last(listener, &shared, &mut connections);
        shared.stopping.store(true, Ordering::Relaxed);
        shared.stop.cancel();
        let finished = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(shared.config.grace, finished).await.is_err() {
            tracing::warn!(connections = connections.len(), grace = ?shared.config.grace, "cut what the grace left");
            connections.shutdown().await;
        }
        streams.close();
        // Their connections are gone: they only have to notice.
        streams.wait().await;
    }
}
