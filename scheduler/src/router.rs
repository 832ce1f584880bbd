//! Decides which revision serves a request and where it runs. Today every invocation runs here; nodes come with the
//! cluster, and this is the only place that will know of them.
//!
//! The gateway asks [`Router::route`] on every request, the admin API and other triggers ask [`Router::resolve`]; both
//! then [`invoke`](Invoke::invoke). Readers take no lock: snapshot and route table are swapped whole, so that a request
//! sees either all of a deploy or none of it. Bounded by the snapshot itself, of which at most two are held.

use arc_swap::ArcSwap;
use dunlin_api::{Body, FunctionName, Invocation, Invoke, InvokeError, Revision};
use http::{Method, Response};
use std::sync::Arc;
use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    routes::{Miss, RouteTable, has_dot_segment},
    snapshot::{Deployed, Snapshot},
};

/// Above this many functions the route table is built on a blocking thread: it then takes longer than the 100 µs that a
/// worker may be kept from its connections.
const BUILD_INLINE: usize = 100;

/// Routes to revisions and runs them on the local executor.
pub struct Router<I> {
    executor: I,
    view: ArcSwap<View>,
    served: watch::Sender<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
}

struct View {
    snapshot: Arc<Snapshot>,
    table: RouteTable,
}

impl View {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let (table, errors) = RouteTable::new(&snapshot);
        for error in errors {
            tracing::warn!(%error, "a route is not served");
        }
        Self { snapshot, table }
    }
}

impl<I: Invoke> Router<I> {
    /// A router over `executor` that serves `snapshot` until [`follow`](Self::follow) brings another.
    pub fn new(executor: I, snapshot: Arc<Snapshot>) -> Self {
        let served = watch::Sender::new(snapshot.clone());
        let metrics = Arc::new(Metrics::new(&snapshot));
        Self { executor, view: ArcSwap::from_pointee(View::new(snapshot)), served, metrics }
    }

    /// What is counted of the invocations that arrive here. Whoever makes one counts it there.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Each snapshot after requests are routed by it.
    pub fn served(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.served.subscribe()
    }

    /// Keeps the router current until the catalog is gone. Cancel safe; the caller owns the task.
    pub async fn follow(self: Arc<Self>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            self.publish(snapshot).await;
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    async fn publish(&self, snapshot: Arc<Snapshot>) {
        let (metrics, inline) = (self.metrics.clone(), snapshot.functions.len() <= BUILD_INLINE);
        let build = move || {
            // Before the view: what gets traffic has counters.
            metrics.follow(&snapshot);
            View::new(snapshot)
        };
        let view = if inline {
            build()
        } else {
            match tokio::task::spawn_blocking(build).await {
                Ok(view) => view,
                Err(error) => {
                    tracing::error!(%error, "the route table was not built; the former one stays");
                    return;
                }
            }
        };
        let snapshot = view.snapshot.clone();
        self.view.store(Arc::new(view));
        self.served.send_replace(snapshot);
    }

    /// The snapshot that is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.view.load().snapshot.clone()
    }

    /// The revision that serves `method` on `path` (without query) at `host`. `dice` is uniformly random and chooses
    /// between revisions that share the traffic.
    ///
    /// # Errors
    /// `BadRequest` for a path with dot segments, `NoRoute`, `Method`, or `NotReady` if no revision receives traffic.
    pub fn route(
        &self,
        host: Option<&str>,
        path: &str,
        method: &Method,
        dice: u64,
    ) -> Result<Arc<Revision>, InvokeError> {
        if has_dot_segment(path) {
            return Err(InvokeError::BadRequest("the path has a segment `.` or `..`".into()));
        }
        let view = self.view.load();
        match view.table.find(host, path, method) {
            Ok(deployed) => pick(deployed, dice),
            Err(Miss::Method(allowed)) => Err(InvokeError::Method(allowed)),
            Err(Miss::NoRoute) => {
                let path: String = path.chars().take(200).collect();
                Err(InvokeError::NoRoute(format!("{}{path}", host.unwrap_or_default())))
            }
        }
    }

    /// The revision that serves the next call of `function`, chosen by `dice` as in [`route`](Self::route).
    ///
    /// # Errors
    /// `NoFunction`, or `NotReady` if no revision of it receives traffic.
    pub fn resolve(&self, function: &FunctionName, dice: u64) -> Result<Arc<Revision>, InvokeError> {
        let view = self.view.load();
        let deployed = view.snapshot.functions.get(function);
        pick(deployed.ok_or_else(|| InvokeError::NoFunction(function.clone()))?, dice)
    }
}

impl<I: Invoke> Invoke for Router<I> {
    fn invoke(&self, call: Invocation) -> impl Future<Output = Result<Response<Body>, InvokeError>> + Send {
        self.executor.invoke(call)
    }
}

fn pick(deployed: &Deployed, dice: u64) -> Result<Arc<Revision>, InvokeError> {
    let total: u64 = deployed.serving.iter().map(|(_, weight)| u64::from(*weight)).sum();
    // Scales instead of taking a remainder: no division, and no bias that could be seen in 64 bits.
    let mut point = ((u128::from(dice) * u128::from(total)) >> 64) as u64;
    for (revision, weight) in &deployed.serving {
        let weight = u64::from(*weight);
        if point < weight {
            return Ok(revision.clone());
        }
        point -= weight;
    }
    Err(InvokeError::NotReady(format!("no revision of `{}` receives traffic", deployed.deployment.function)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_api::{Deployment, Digest, HttpTrigger, RevisionId, Settings, World};

    struct Never;

    impl Invoke for Never {
        async fn invoke(&self, _: Invocation) -> Result<Response<Body>, InvokeError> {
            Err(InvokeError::Draining)
        }
    }

    fn snapshot(name: &str, weights: &[u32]) -> Arc<Snapshot> {
        let function: FunctionName = name.parse().unwrap();
        let revision = |n: usize| {
            let mut settings = Settings { http: vec![HttpTrigger::default_for(&function)], ..Settings::default() };
            settings.env.insert("N".into(), n.to_string());
            let artifact = Digest::of(b"x");
            let id = RevisionId::of(&artifact, &settings);
            let function = function.clone();
            Arc::new(Revision { function, id, artifact, size_bytes: 1, world: World::Http02, settings, created_ms: 0 })
        };
        let serving: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (revision(n), *weight)).collect();
        let ids = serving.iter().map(|(r, w)| (r.id.clone(), *w)).collect();
        let deployment = Deployment { function: function.clone(), serving: ids, revisions: Vec::new() };
        let deployed = Arc::new(Deployed { deployment, version: 1, serving });
        Arc::new(Snapshot { functions: [(function, deployed)].into() })
    }

    #[test]
    fn revisions_share_the_traffic_by_weight() {
        let snapshot = snapshot("f", &[9, 0, 1]);
        let router = Router::new(Never, snapshot.clone());
        let steps = 10_000_u64;
        let step_size = u64::MAX / steps;
        let mut counts = [0; 3];
        for step in 0..steps {
            let revision = router.resolve(&"f".parse().unwrap(), step * step_size + step_size / 2).unwrap();
            counts[revision.settings.env["N"].parse::<usize>().unwrap()] += 1;
        }
        assert_eq!(counts, [9_000, 0, 1_000]);
        assert!(router.resolve(&"f".parse().unwrap(), u64::MAX).is_ok());
    }

    #[test]
    fn says_which_function_or_route_is_missing() {
        let router = Router::new(Never, snapshot("f", &[0]));
        let route = |path| router.route(Some("h"), path, &Method::GET, 0);
        assert!(matches!(router.resolve(&"g".parse().unwrap(), 0), Err(InvokeError::NoFunction(_))));
        assert!(matches!(router.resolve(&"f".parse().unwrap(), 0), Err(InvokeError::NotReady(_))));
        assert_eq!(route("/g"), Err(InvokeError::NoRoute("h/g".into())));
        assert!(matches!(route("/f/../g"), Err(InvokeError::BadRequest(_))));
    }

    #[tokio::test]
    async fn follows_the_catalog_and_ends_with_it() {
        let (publish, snapshots) = watch::channel(snapshot("old", &[1]));
        let router = Arc::new(Router::new(Never, Arc::default()));
        let mut following = std::pin::pin!(router.clone().follow(snapshots));
        let first = tokio::time::timeout(std::time::Duration::ZERO, &mut following).await;
        assert!(first.is_err());
        assert!(router.route(None, "/old", &Method::GET, 0).is_ok());
        publish.send(snapshot("new", &[1])).unwrap();
        drop(publish);
        following.await;
        assert!(router.route(None, "/new/x", &Method::GET, 0).is_ok());
        assert!(router.route(None, "/old", &Method::GET, 0).is_err());
    }
}
