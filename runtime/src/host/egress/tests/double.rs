//! The doubles: a raw HTTP server, a network with its own name server, and an [`Outbound`] between them.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use dunlin_api::{BoxFuture, InvocationId};
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpHooks};

use super::super::{
    EgressClient, EgressConfig, EgressPolicy, Network, Outbound, Sent, SystemNetwork, address::is_public,
};
use crate::host::output::{
    Output, OutputSink,
    tests::{Kept, sink},
};

#[derive(Clone, Copy)]
pub(super) enum Behaviour {
    /// Answers each request with this.
    Reply(&'static str),
    /// Answers the first request with this and hangs up.
    Last(&'static str),
    /// Reads and never answers.
    Hang,
}

/// A server on loopback that counts its connections. Ends when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    opened: watch::Receiver<usize>,
    closed: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opening, opened) = watch::channel(0);
        let (closing, closed) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let closing = Arc::new(closing);
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                opening.send_modify(|n| *n += 1);
                let closing = closing.clone();
                connections.spawn(async move {
                    answer(stream, behaviour).await;
                    closing.send_modify(|n| *n += 1);
                });
            }
        });
        Self { address, opened, closed, _tasks: tasks }
    }

    pub(super) fn origin(&self, host: &str) -> String {
        format!("http://{host}:{}", self.address.port())
    }

    pub(super) fn url(&self, host: &str) -> String {
        self.origin(host) + "/"
    }

    pub(super) fn connections(&self) -> usize {
        *self.opened.borrow()
    }

    pub(super) async fn saw(&self, n: usize) {
        self.opened.clone().wait_for(|seen| *seen >= n).await.unwrap();
    }

    pub(super) async fn lost(&self, n: usize) {
        self.closed.clone().wait_for(|seen| *seen >= n).await.unwrap();
    }
}

async fn answer(mut stream: TcpStream, behaviour: Behaviour) {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
        // 0x16 begins a TLS handshake, which this server does not know.
        let complete = request.ends_with(b"\r\n\r\n") || request[0] == 0x16;
        let (Behaviour::Reply(reply) | Behaviour::Last(reply)) = behaviour else { continue };
        if complete {
            request.clear();
            let written = stream.write_all(reply.as_bytes()).await;
            if written.is_err() || matches!(behaviour, Behaviour::Last(_)) {
                return;
            }
        }
    }
}

/// Public addresses lead to `canary`, everything else where it says; every connection is recorded. Names are answered
/// from the list, in order; what is not a listed name goes to the system, which knows the spellings of addresses.
pub(super) struct Liar {
    pub(super) canary: SocketAddr,
    pub(super) answers: Mutex<VecDeque<Vec<SocketAddr>>>,
    pub(super) dialled: Mutex<Vec<SocketAddr>>,
}

impl Liar {
    pub(super) fn new(canary: SocketAddr, answers: &[&[&str]]) -> Arc<Self> {
        let address = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), canary.port());
        let answers = answers.iter().map(|ips| ips.iter().map(address).collect()).collect();
        Arc::new(Self { canary, answers: Mutex::new(answers), dialled: Mutex::default() })
    }
}

impl Network for Liar {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        if host.ends_with(".example.com") {
            let answer = self.answers.lock().unwrap().pop_front();
            return Box::pin(async move { answer.ok_or_else(|| io::Error::other("asked too often")) });
        }
        SystemNetwork::default().resolve(host, port)
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        self.dialled.lock().unwrap().push(address);
        let to = if is_public(address.ip()) { self.canary } else { address };
        Box::pin(TcpStream::connect(to))
    }
}

/// A node's client and one function's policy.
pub(super) struct Bench {
    pub(super) logs: Arc<Kept>,
    pub(super) limit: u32,
    client: Arc<EgressClient>,
    policy: Arc<EgressPolicy>,
    sink: Arc<OutputSink>,
}

fn policy(origins: &[&str]) -> Arc<EgressPolicy> {
    let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
    Arc::new(EgressPolicy::parse(&origins).unwrap())
}

impl Bench {
    pub(super) fn new(origins: &[&str]) -> Self {
        Self::with(EgressConfig::default(), origins)
    }

    pub(super) fn with(config: EgressConfig, origins: &[&str]) -> Self {
        let (logs, sink) = sink(1 << 20);
        Self { logs, limit: 50, client: Arc::new(EgressClient::new(config)), policy: policy(origins), sink }
    }

    pub(super) fn outbound(&self) -> Outbound {
        self.outbound_until(Duration::from_secs(30))
    }

    pub(super) fn outbound_until(&self, time: Duration) -> Outbound {
        let output = Output::new(self.sink.clone(), InvocationId::new());
        Outbound::new(self.client.clone(), self.policy.clone(), output, self.limit, Instant::now() + time)
    }

    pub(super) fn with_policy(&self, origins: &[&str]) -> Outbound {
        let mut outbound = self.outbound();
        outbound.policy = policy(origins);
        outbound
    }
}

pub(super) fn empty(url: &str) -> Request<WasiBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::builder().uri(url).body(body).unwrap()
}

pub(super) async fn get(outbound: &mut Outbound, url: &str, options: Option<RequestOptions>) -> Sent {
    Box::into_pin(outbound.send_request(empty(url), options, Box::new(async { Ok(()) }))).await
}
