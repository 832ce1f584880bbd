//! Calls that nobody waits for: accepted, run, asked about, swept.
//!
//! The stores are in memory here, so that a test can make them fail or stop between any two steps; what the embedded store
//! and NATS promise is tested with them.

mod asking;
mod memory;
mod running;
mod submitting;
mod sweeping;
mod whole;

use bytes::Bytes;
use dunlin_api::{Body, Invocation, InvocationId, Revision, trigger::Start};
use dunlin_scheduler::{
    calls::{CallRecord, Calls, Config, State},
    events::{Outcome, Work, item},
    router::Router,
    store::events::{Consumer, ConsumerSpec, Delivery, EventStores, Source},
};
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use memory::Memory;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::Poll,
};
use tokio::task::JoinSet;

use crate::gateway::{Answer, LIMIT, PATIENCE, Script, data, snapshot};

/// More than stays in a message.
const LARGE: usize = 600 << 10;

/// One node's calls of the function `f`, which a test takes from the queue and runs by hand.
pub(crate) struct Bench {
    memory: Arc<Memory>,
    pub(crate) calls: Arc<Calls<Script>>,
    router: Arc<Router<Script>>,
    consumer: Box<dyn Consumer>,
    /// How often the function ran.
    ran: Arc<AtomicU32>,
}

impl Bench {
    pub(crate) async fn new<F, R>(function: F) -> Self
    where
        F: Fn(Invocation) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Self::with(Config::default(), function).await
    }

    async fn with<F, R>(config: Config, function: F) -> Self
    where
        F: Fn(Invocation) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let memory = Memory::new();
        let ran = Arc::new(AtomicU32::new(0));
        let count = ran.clone();
        let script = Script(Box::new(move |call| {
            count.fetch_add(1, SeqCst);
            Box::pin(function(call))
        }));
        let router = Arc::new(Router::new(script, Arc::new(snapshot())));
        let calls = Calls::new(memory.stores(), router.clone(), "here".parse().unwrap(), config);
        let consumer = consumer(&memory.stores()).await;
        Self { memory, calls, router, consumer, ran }
    }

    pub(crate) fn router(&self) -> &Arc<Router<Script>> {
        &self.router
    }

    fn revision(&self) -> Arc<Revision> {
        self.router.resolve(&"f".parse().unwrap(), 0).unwrap()
    }

    pub(crate) async fn submit(&self, request: Request<Body>) -> InvocationId {
        self.calls.submit(&self.revision(), request, None).await.unwrap().id
    }

    async fn next(&mut self) -> Delivery {
        let pulled = tokio::time::timeout(PATIENCE, self.consumer.pull(1)).await;
        pulled.expect("nothing is queued").unwrap().remove(0)
    }

    /// Runs what is queued first, once, and settles it as it should be.
    pub(crate) async fn run_next(&mut self) -> Outcome {
        let delivery = self.next().await;
        let outcome = self.calls.run(&delivery, 1).await;
        settle(&self.calls, &delivery, &outcome).await;
        outcome
    }

    async fn status(&self, id: InvocationId) -> CallRecord {
        self.calls.status(id).await.unwrap().expect("the call is not known")
    }

    async fn state(&self, id: InvocationId) -> State {
        self.status(id).await.state
    }

    fn ran(&self) -> u32 {
        self.ran.load(SeqCst)
    }
}

/// What the runner of events does, in short: what failed is tried again at once, what was rejected is buried.
async fn settle(calls: &Calls<Script>, delivery: &Delivery, outcome: &Outcome) {
    match outcome {
        Outcome::Done => delivery.settle.ack().await.unwrap(),
        Outcome::Failed { .. } | Outcome::NotRun { .. } => {
            delivery.settle.retry(std::time::Duration::ZERO, delivery.failed).await.unwrap();
        }
        Outcome::Rejected { reason } => {
            calls.buried(delivery, 1, reason).await;
            delivery.settle.give_up(reason).await.unwrap();
        }
    }
}

/// Runs everything that is queued from now on.
fn worker(calls: Arc<Calls<Script>>, stores: EventStores) -> JoinSet<()> {
    let mut working = JoinSet::new();
    working.spawn(async move {
        let mut consumer = consumer(&stores).await;
        loop {
            for delivery in consumer.pull(1).await.unwrap() {
                let outcome = calls.run(&delivery, 1).await;
                settle(&calls, &delivery, &outcome).await;
            }
        }
    });
    working
}

async fn consumer(stores: &EventStores) -> Box<dyn Consumer> {
    let function = "f".parse().unwrap();
    let trigger = dunlin_api::trigger::TriggerId::calls();
    let spec = ConsumerSpec {
        name: item::consumer(&function, &trigger),
        source: Source::Queue(item::queue(&function, &trigger)),
        start: Start::All,
        order: dunlin_api::trigger::Order::None,
    };
    stores.streams.ensure(&spec).await.unwrap();
    stores.streams.open(&spec).await.unwrap()
}

/// Goes on with `future` to its next wait.
async fn step<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let once = std::future::poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    });
    once.await
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    Request::builder().method("POST").uri(path).header("x-a", "1").body(Body::full(body.into())).unwrap()
}

/// A request whose body comes in chunks and has `size` bytes of `x`.
fn chunked(size: usize) -> Request<Body> {
    let chunks: Vec<_> = std::iter::repeat_n(1 << 10, size >> 10).chain([size & 1023]).collect();
    let frames = futures::stream::iter(chunks).then(|size| async move {
        tokio::task::yield_now().await;
        data(vec![b'x'; size])
    });
    Request::builder().method("PUT").uri("/large").body(Body::stream(StreamBody::new(frames.boxed()))).unwrap()
}

fn keyed(mut request: Request<Body>, key: &str) -> Request<Body> {
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

async fn text(body: Body) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap()
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    Ok(Response::builder().status(status).header("x-mine", "ü").body(Body::full(body.into())).unwrap())
}
