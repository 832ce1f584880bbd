//! The wire between nodes: both ends in one process on connections of their own, through a real nats-server, with a
//! scripted node behind the worker's end.

use bytes::Bytes;
use dunlin_api::{
    Body, BoxFuture, Digest, FunctionName, Invocation, InvocationId, InvokeError, NodeName, Revision, RevisionId,
    Settings, TraceContext, World,
};
use dunlin_fixtures::nats::NatsServer;
use dunlin_scheduler::{
    nats::{Nats, NatsConfig},
    remote::{Failed, RemoteCall, RemoteConfig, Remotes, Revisions, Seen, SendBody, Server},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

mod bodies;
mod calls;
mod failing;
mod node;
mod preparing;
mod raw;

use node::{Answer, Scripted};

/// Both ends, and NATS between them.
pub(crate) struct Pair {
    pub(crate) server: NatsServer,
    pub(crate) gateway: Nats,
    pub(crate) workers: Nats,
    pub(crate) remotes: Arc<Remotes>,
    pub(crate) worker: Arc<Server<Scripted>>,
    pub(crate) node: Arc<Scripted>,
    pub(crate) revisions: Arc<Book>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
}

impl Pair {
    pub(crate) async fn of<F>(script: impl Fn(Invocation) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::with(RemoteConfig::default(), Scripted::new(script)).await
    }

    pub(crate) async fn with(config: RemoteConfig, node: Scripted) -> Self {
        let server = NatsServer::start();
        let (gateway, workers) = (connect(&server).await, connect(&server).await);
        let (node, revisions) = (Arc::new(node), Arc::new(Book::default()));
        revisions.0.lock().unwrap().push(revision());
        let remotes = Remotes::start(&gateway, &name("gateway"), config.clone()).await.unwrap();
        let worker =
            Server::start(&workers, &name("worker"), 7, node.clone(), revisions.clone(), config).await.unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(remotes.clone().run(stop.clone()));
        tasks.spawn(worker.clone().run(stop.clone()));
        Self { server, gateway, workers, remotes, worker, node, revisions, stop, tasks }
    }

    pub(crate) async fn call(&self, call: RemoteCall) -> Result<Response<Body>, Failed> {
        persist(&self.remotes, call).await
    }

    pub(crate) async fn seen(&self, call: RemoteCall) -> Seen {
        self.call(call).await.unwrap_err().seen
    }

    /// Calls in a task of its own.
    pub(crate) fn begin(&self, call: RemoteCall) -> tokio::task::JoinHandle<Result<Response<Body>, Failed>> {
        let remotes = self.remotes.clone();
        tokio::spawn(async move { persist(&remotes, call).await })
    }
}

/// Calls the worker; again if nothing was begun because this machine was too slow for 500 ms.
async fn persist(remotes: &Remotes, mut call: RemoteCall) -> Result<Response<Body>, Failed> {
    for attempt in 0.. {
        match remotes.invoke(&name("worker"), call, attempt).await {
            Err(Failed { seen: Seen::Silent, call: Some(back), .. }) => call = back,
            Err(Failed { seen: Seen::Refused(InvokeError::Internal(why)), call: Some(back), .. })
                if why.contains("too late") =>
            {
                call = back;
            }
            other => return other,
        }
    }
    unreachable!("it returns, or the number of attempts ends the test")
}

/// The revisions that the worker knows.
#[derive(Default)]
pub(crate) struct Book(pub(crate) Mutex<Vec<Arc<Revision>>>);

impl Revisions for Book {
    fn find<'a>(&'a self, function: &'a FunctionName, id: &'a RevisionId) -> BoxFuture<'a, Option<Arc<Revision>>> {
        Box::pin(async { self.known(function, id) })
    }

    fn known(&self, function: &FunctionName, id: &RevisionId) -> Option<Arc<Revision>> {
        self.0.lock().unwrap().iter().find(|r| r.function == *function && r.id == *id).cloned()
    }
}

pub(crate) async fn connect(server: &NatsServer) -> Nats {
    let config = NatsConfig::new(server.url(), "test".parse().unwrap(), "test".parse().unwrap());
    let config = NatsConfig { connect_timeout: Duration::from_secs(10), ..config };
    Nats::connect(&config).await.unwrap()
}

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub(crate) fn revision() -> Arc<Revision> {
    let (artifact, settings) = (Digest::of(b"component"), Settings::default());
    let id = RevisionId::of(&artifact, &settings);
    let function = "f".parse().unwrap();
    Arc::new(Revision { function, id, artifact, size_bytes: 9, world: World::Http02, settings, created_ms: 1 })
}

pub(crate) fn call(body: SendBody) -> RemoteCall {
    let head = Request::post("/path?q=1").header("x-one", "1").body(()).unwrap().into_parts().0;
    RemoteCall {
        revision: revision(),
        head: Arc::new(head),
        body,
        id: InvocationId::new(),
        deadline: Instant::now() + Duration::from_secs(60),
        trace: TraceContext { trace_id: 11, parent_id: 12, flags: 1 },
        may_load: false,
    }
}

pub(crate) fn small() -> RemoteCall {
    call(SendBody::Kept(Bytes::from_static(b"hello")))
}

pub(crate) async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub(crate) fn ok(body: impl Into<Body>) -> Answer {
    Ok(Response::new(body.into()))
}

/// Gives a permit when it is dropped.
pub(crate) struct Gone(pub(crate) Arc<Semaphore>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// Waits for a signal, and fails the test if it does not come in any reasonable time.
pub(crate) async fn signal(semaphore: &Semaphore) {
    within(semaphore.acquire()).await.unwrap().forget();
}

pub(crate) async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("it takes far less")
}

/// A script that begins and never ends: tells that it began and that it was dropped.
pub(crate) fn hanging() -> (Arc<Semaphore>, Arc<Semaphore>, impl Fn(Invocation) -> BoxFuture<'static, Answer>) {
    let (began, gone) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (b, g) = (began.clone(), gone.clone());
    let script = move |call: Invocation| -> BoxFuture<'static, Answer> {
        let (began, gone) = (b.clone(), Gone(g.clone()));
        Box::pin(async move {
            call.started.set();
            began.add_permits(1);
            let _gone = gone;
            std::future::pending::<()>().await;
            Err(InvokeError::Draining)
        })
    };
    (began, gone, script)
}
