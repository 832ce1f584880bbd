//! The HTTP front over real sockets, with a scripted function behind it.
//!
//! Every test has a gateway of its own on a free port, whose limits are as short as the test needs. Reads give up after
//! [`PATIENCE`], so that a gateway that hangs fails the test instead of the run.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]
#![allow(clippy::print_stdout, reason = "a measurement is there to be read")]

mod bodies;
mod framing;
mod heads;
mod http2;
mod lifetimes;
mod responses;
mod speed;

use bytes::Bytes;
use dunlin_api::{
    Body, BodyError, BoxFuture, ByteSize, Deployment, Digest, FunctionName, HttpTrigger, Invocation, Invoke,
    InvokeError, Limits, Revision, RevisionId, Settings, World,
};
use dunlin_scheduler::{
    gateway::{Config, Gateway},
    router::Router,
    snapshot::{Deployed, Snapshot},
};
use futures::StreamExt;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A timeout short enough to wait for.
const SHORT: Duration = Duration::from_millis(80);
/// What the function takes as a request body.
pub(crate) const LIMIT: u64 = 1 << 20;

pub(crate) type Answer = Result<Response<Body>, InvokeError>;

/// A function written as a closure.
pub(crate) struct Script(pub(crate) Box<dyn Fn(Invocation) -> BoxFuture<'static, Answer> + Send + Sync>);

impl Invoke for Script {
    async fn invoke(&self, call: Invocation) -> Answer {
        (self.0)(call).await
    }
}

/// A gateway that serves one function at every path.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    serving: JoinSet<()>,
    calls: Arc<AtomicU32>,
}

impl Front {
    pub(crate) async fn start<F, R>(config: Config, function: F) -> Self
    where
        F: Fn(Invocation) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Self::start_with(config, function, |gateway, _| gateway).await
    }

    /// As [`start`](Self::start), with a gateway that `change` has changed.
    pub(crate) async fn start_with<F, R, C>(config: Config, function: F, change: C) -> Self
    where
        F: Fn(Invocation) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
        C: FnOnce(Gateway<Script>, Arc<Router<Script>>) -> Gateway<Script>,
    {
        let calls = Arc::new(AtomicU32::new(0));
        let count = calls.clone();
        let script = Script(Box::new(move |call| {
            count.fetch_add(1, SeqCst);
            Box::pin(function(call))
        }));
        let router = Arc::new(Router::new(script, Arc::new(snapshot())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let mut serving = JoinSet::new();
        serving.spawn(change(Gateway::new(router.clone(), config), router).serve(listener, stop.clone()));
        Self { address, stop, serving, calls }
    }

    /// Waits until the gateway has ended.
    async fn ended(&mut self) {
        let ended = tokio::time::timeout(PATIENCE, self.serving.join_next()).await;
        ended.expect("the gateway goes on").expect("it was started").unwrap();
    }

    pub(crate) async fn connect(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.unwrap())
    }

    /// Everything that comes back on a connection that sends `request`.
    pub(crate) async fn send(&self, request: &str) -> String {
        let mut peer = self.connect().await;
        peer.write(request).await;
        peer.rest().await
    }

    /// Sends `request` and waits until the function runs.
    pub(crate) async fn ask(&self, request: &str) -> Peer {
        let mut peer = self.connect().await;
        peer.write(request).await;
        let asked = async {
            while self.calls() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("the function is called");
        peer
    }

    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(SeqCst)
    }
}

/// The client's end of a connection.
pub(crate) struct Peer(TcpStream);

impl Peer {
    async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads up to and with `end`.
    async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        let read = async {
            while !text.ends_with(end.as_bytes()) {
                match self.0.read_u8().await {
                    Ok(byte) => text.push(byte),
                    Err(_) => break,
                }
            }
        };
        let timely = tokio::time::timeout(PATIENCE, read).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(timely.is_ok() && text.ends_with(end), "waited for {end:?} and got {text:?}");
        text
    }

    /// Reads to the end of the connection; a reset ends it too.
    async fn rest(&mut self) -> String {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        let read = async {
            while let Ok(read @ 1..) = self.0.read(&mut buffer).await {
                text.extend_from_slice(&buffer[..read]);
            }
        };
        let timely = tokio::time::timeout(PATIENCE, read).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(timely.is_ok(), "the connection stays open after {text:?}");
        text
    }
}

pub(crate) fn snapshot() -> Snapshot {
    let function: FunctionName = "f".parse().unwrap();
    let route = |route: &str, methods: &[&str]| HttpTrigger {
        route: route.into(),
        host: None,
        methods: methods.iter().map(|m| (*m).to_owned()).collect(),
    };
    let limits = Limits { request_body: ByteSize(LIMIT), ..Limits::default() };
    let http = vec![route("/{*path}", &[]), route("/only-put", &["PUT"])];
    let settings = Settings { http, limits, ..Settings::default() };
    let artifact = Digest::of(b"component");
    let id = RevisionId::of(&artifact, &settings);
    let name = function.clone();
    let revision = Revision {
        function: name,
        id: id.clone(),
        artifact,
        size_bytes: 9,
        world: World::Http02,
        settings,
        created_ms: 0,
    };
    let deployment = Deployment { function: function.clone(), serving: vec![(id, 1)], revisions: Vec::new() };
    let deployed = Deployed { deployment, version: 1, serving: vec![(Arc::new(revision), 1)] };
    Snapshot { functions: [(function, Arc::new(deployed))].into() }
}

/// Answers with the request: its target and fields as text, then its body, streamed.
pub(crate) async fn echo(call: Invocation) -> Answer {
    let (parts, body) = call.request.into_parts();
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    if matches!(body, Body::Empty) {
        return Ok(Response::new(Body::full(text)));
    }
    let frames = futures::stream::once(async { data(text) }).chain(http_body_util::BodyStream::new(body));
    Ok(Response::new(Body::stream(http_body_util::StreamBody::new(frames))))
}

/// Reads the whole body and answers with its length; an error of the body is the function's failure.
async fn count(call: Invocation) -> Answer {
    let body = call.request.into_body().collect().await;
    let body = body.map_err(|error| InvokeError::NoResponse(error.to_string()))?;
    Ok(Response::new(Body::from(format!("{} bytes", body.to_bytes().len()))))
}

async fn hello(_: Invocation) -> Answer {
    Ok(Response::new(Body::full("hello")))
}

pub(crate) fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(bytes.into()))
}
