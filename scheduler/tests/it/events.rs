//! What becomes of events: a whole [`Events`] with a scripted function behind it, over stores in memory and a paused clock.

mod counted;
mod durable;
mod embedded;
mod letters;
mod memory;
mod queues;
mod subjects;

use dunlin_api::{
    Body, BoxFuture, Deployment, Digest, FunctionName, Invocation, InvocationId, Invoke, InvokeError, Message,
    Revision, RevisionId, Settings, World as Kind, trigger::StreamTrigger,
};
use dunlin_scheduler::{
    events::{Counts, Events, EventsConfig, Outcome, Work},
    log_hub::LogHub,
    metrics::Metrics,
    router::Router,
    snapshot::{Deployed, Snapshot},
    store::{
        embedded::Embedded,
        events::{Delivery, EventStores},
    },
};
use http::Response;
use http_body_util::BodyExt;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use memory::Memory;

type Answer = Result<Response<Body>, InvokeError>;

/// A function written as a closure.
struct Script(Box<dyn Fn(Call) -> BoxFuture<'static, Answer> + Send + Sync>);

/// What a function sees.
#[derive(Clone, Debug)]
struct Call {
    id: InvocationId,
    function: String,
    headers: http::HeaderMap,
    text: String,
}

impl Call {
    fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    }

    fn attempt(&self) -> u32 {
        self.header("ce-dunlinattempt").parse().unwrap()
    }
}

impl Invoke for Script {
    async fn invoke(&self, call: Invocation) -> Answer {
        call.started.set();
        let function = call.revision.function.to_string();
        let (parts, body) = call.request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        (self.0)(Call { id: call.id, function, headers: parts.headers, text }).await
    }
}

/// Calls that nobody waits for are done at once.
struct Calls;

impl Work for Calls {
    fn run<'a>(&'a self, _: &'a Delivery, _: u32) -> BoxFuture<'a, Outcome> {
        Box::pin(async { Outcome::Done })
    }
}

/// A node.
struct World {
    memory: Arc<Memory>,
    stores: EventStores,
    logs: Arc<LogHub>,
    events: Arc<Events<Script>>,
    metrics: Arc<Metrics>,
    deployed: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

const SLOTS: u32 = 4;
const GRACE: Duration = Duration::from_secs(5);

impl World {
    /// A node that is open, with these functions.
    async fn start<F, R>(functions: &[(&str, Settings)], function: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new();
        let stores = memory.stores(Embedded::open(dir.path()).unwrap().catalog());
        Self::over(stores, memory, dir, functions, function)
    }

    /// The same over the embedded store; nothing happens in memory then.
    fn embedded<F, R>(functions: &[(&str, Settings)], function: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let dir = tempfile::tempdir().unwrap();
        let stores = Embedded::open(dir.path()).unwrap().events();
        Self::over(stores, Memory::new(), dir, functions, function)
    }

    fn over<F, R>(
        stores: EventStores,
        memory: Arc<Memory>,
        dir: tempfile::TempDir,
        functions: &[(&str, Settings)],
        function: F,
    ) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let script = Script(Box::new(move |call| Box::pin(function(call))));
        let (deployed, snapshots) = watch::channel(snapshot(functions));
        let router = Arc::new(Router::new(script, snapshot(functions)));
        let config = EventsConfig {
            node: "here".parse().unwrap(),
            labels: [("region".to_owned(), "eu".to_owned())].into(),
            zone: None,
            slots: SLOTS,
            grace: GRACE,
        };
        let logs = Arc::new(LogHub::default());
        let events = Events::new(config, stores.clone(), router.clone(), logs.clone(), Arc::new(Calls));
        let metrics = router.metrics().clone();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(router.follow(snapshots));
        tasks.spawn(events.clone().run(stop.clone()));
        events.set_open(true);
        Self { memory, stores, logs, events, metrics, deployed, stop, tasks, _dir: dir }
    }

    fn deploy(&self, functions: &[(&str, Settings)]) {
        self.deployed.send_replace(snapshot(functions));
    }

    fn stats(&self) -> Counts {
        self.events.stats().remove(0).counts
    }

    /// Waits until so many deliveries were settled.
    async fn settled(&self, count: usize) -> Vec<(String, memory::How)> {
        self.memory.until(|memory| memory.count(|_, _| true) >= count).await;
        self.memory.settled()
    }
}

fn snapshot(functions: &[(&str, Settings)]) -> Arc<Snapshot> {
    let deployed = functions.iter().map(|(name, settings)| {
        let (function, artifact): (FunctionName, _) = (name.parse().unwrap(), Digest::of(b"x"));
        let id = RevisionId::of(&artifact, settings);
        let deployment =
            Deployment { function: function.clone(), serving: vec![(id.clone(), 1)], revisions: vec![id.clone()] };
        let (size_bytes, world, settings) = (1, Kind::Http02, settings.clone());
        let revision =
            Revision { function: function.clone(), id, artifact, size_bytes, world, settings, created_ms: 0 };
        (function, Arc::new(Deployed { deployment, version: 1, serving: vec![(Arc::new(revision), 1)] }))
    });
    Arc::new(Snapshot { functions: deployed.collect() })
}

/// A function that events of `subject` fire, three times at most, ten seconds apart.
fn on(subject: &str) -> Settings {
    let trigger = StreamTrigger {
        subject: subject.into(),
        stream: None,
        from: Default::default(),
        order: Default::default(),
        concurrency: None,
        max_deliver: 3,
        backoff: vec![Duration::from_secs(10)],
    };
    Settings { stream: vec![trigger], ..Settings::default() }
}

fn order(payload: &str) -> Message {
    Message::new("orders.new", payload.to_owned())
}

fn status(status: u16) -> Answer {
    Ok(Response::builder().status(status).body(Body::Empty).unwrap())
}
