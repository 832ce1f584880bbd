//! Calls through the embedded store and the runner of events.

use super::*;
use crate::gateway::echo;
use dunlin_api::trigger::AsyncCalls;
use dunlin_scheduler::{
    dead_letters::DeadLetters,
    events::{Events, EventsConfig},
    log_hub::LogHub,
    snapshot::{Deployed, Snapshot},
    store::embedded::Embedded,
};
use std::{path::Path, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A node that runs calls; gone when it is dropped.
struct Whole {
    calls: Arc<Calls<Script>>,
    stores: EventStores,
    router: Arc<Router<Script>>,
    running: JoinSet<()>,
}

impl Whole {
    async fn open<F, R>(dir: &Path, function: F) -> Self
    where
        F: Fn(Invocation) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        // Tasks of the node before may take a moment to end.
        let until = tokio::time::Instant::now() + PATIENCE;
        let stores = loop {
            match Embedded::open(dir) {
                Ok(stores) => break stores.events(),
                Err(error) => assert!(tokio::time::Instant::now() < until, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        let script = Script(Box::new(move |call| Box::pin(function(call))));
        let router = Arc::new(Router::new(script, Arc::new(impatient())));
        let node: dunlin_api::NodeName = "here".parse().unwrap();
        let calls = Calls::new(stores.clone(), router.clone(), node.clone(), Config::default());
        let config =
            EventsConfig { node, labels: Default::default(), zone: None, slots: 4, grace: Duration::from_secs(1) };
        let hub = Arc::new(LogHub::default());
        let events = Events::new(config, stores.clone(), router.clone(), hub, calls.clone());
        events.set_open(true);
        let mut running = JoinSet::new();
        running.spawn(events.run(CancellationToken::new()));
        Self { calls, stores, router, running }
    }

    async fn submit(&self, request: Request<Body>) -> InvocationId {
        let revision = self.router.resolve(&"f".parse().unwrap(), 0).unwrap();
        self.calls.submit(&revision, request, None).await.unwrap().id
    }

    async fn close(mut self) {
        self.running.shutdown().await;
    }

    async fn ended(&self, id: InvocationId) -> CallRecord {
        self.calls.wait(id, PATIENCE).await.unwrap().unwrap()
    }
}

/// Two tries, a moment apart.
fn impatient() -> Snapshot {
    let mut snapshot = snapshot();
    for deployed in snapshot.functions.values_mut() {
        let Deployed { deployment, version, serving } = &**deployed;
        let hurried = |revision: &Revision| {
            let mut revision = revision.clone();
            let backoff = vec![Duration::from_millis(1)];
            revision.settings.calls = AsyncCalls { max_deliver: 2, backoff, ..AsyncCalls::default() };
            Arc::new(revision)
        };
        let serving = serving.iter().map(|(revision, weight)| (hurried(revision), *weight)).collect();
        *deployed = Arc::new(Deployed { deployment: deployment.clone(), version: *version, serving });
    }
    snapshot
}

#[tokio::test]
async fn calls_of_all_sizes_are_run_and_their_results_kept() {
    let dir = tempfile::TempDir::new().unwrap();
    let whole = Whole::open(dir.path(), echo).await;
    for size in [0, 1, LARGE] {
        let id = whole.submit(chunked(size)).await;
        let call = whole.ended(id).await;
        assert_eq!((call.state, call.attempts), (State::Done, 1));
        let result = whole.calls.result(id).await.unwrap().unwrap();
        assert!(text(result.into_body()).await.ends_with(&"x".repeat(size)), "{size}");
    }
    assert!(whole.stores.blobs.list().await.unwrap().iter().all(|(name, _)| name.contains('.')));
}

#[tokio::test]
async fn a_call_that_fails_for_good_is_a_dead_letter_and_runs_again_when_it_is_put_back() {
    let dir = tempfile::TempDir::new().unwrap();
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_well = well.clone();
    let whole = Whole::open(dir.path(), move |_| {
        let status = if is_well.load(SeqCst) { 200 } else { 500 };
        async move { answer(status, "said") }
    })
    .await;
    let id = whole.submit(chunked(LARGE)).await;
    let call = whole.ended(id).await;
    assert_eq!((call.state, call.attempts), (State::Dead, 2));
    assert_eq!(call.reason.as_deref(), Some("500 Internal Server Error: said"));
    let letters = DeadLetters::new(whole.stores.clone());
    let kept = letters.list(None, 0, 10).await.unwrap();
    assert_eq!((kept.len(), kept[0].size), (1, LARGE as u64));
    whole.calls.sweep_all(u64::MAX).await.unwrap();
    assert!(whole.calls.status(id).await.unwrap().is_none());
    well.store(true, SeqCst);
    letters.redrive(kept[0].sequence, None).await.unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    while whole.calls.status(id).await.unwrap().is_none() {
        assert!(tokio::time::Instant::now() < until, "it does not run again");
        tokio::task::yield_now().await;
    }
    assert_eq!(whole.ended(id).await.state, State::Done);
}

#[tokio::test]
async fn a_call_outlives_its_node() {
    let dir = tempfile::TempDir::new().unwrap();
    let began = Arc::new(Notify::new());
    let begins = began.clone();
    let whole = Whole::open(dir.path(), move |_| {
        begins.notify_one();
        std::future::pending()
    })
    .await;
    let id = whole.submit(post("/", "body")).await;
    tokio::time::timeout(PATIENCE, began.notified()).await.expect("it does not run");
    assert_eq!(whole.calls.status(id).await.unwrap().unwrap().state, State::Running);
    whole.close().await;
    let whole = Whole::open(dir.path(), echo).await;
    let call = whole.ended(id).await;
    assert_eq!((call.state, call.attempts), (State::Done, 1));
    assert!(text(whole.calls.result(id).await.unwrap().unwrap().into_body()).await.ends_with("body"));
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_it_waits_for_its_next_try_never_runs_again() {
    let dir = tempfile::TempDir::new().unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let count = runs.clone();
    let whole = Whole::open(dir.path(), move |_| {
        count.fetch_add(1, SeqCst);
        async { Ok(Response::builder().status(503).header("retry-after", "3600").body(Body::Empty).unwrap()) }
    })
    .await;
    let id = whole.submit(post("/", "")).await;
    let until = tokio::time::Instant::now() + PATIENCE;
    while whole.calls.status(id).await.unwrap().unwrap().reason.is_none() {
        assert!(tokio::time::Instant::now() < until, "it does not run");
        tokio::task::yield_now().await;
    }
    whole.calls.cancel(id).await.unwrap();
    assert_eq!((whole.ended(id).await.state, runs.load(SeqCst)), (State::Cancelled, 1));
}
