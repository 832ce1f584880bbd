//! What a call to another node costs beside a NATS request with the same body, for `bench/run`:
//! `cargo run --release -p dunlin-scheduler --example remote`.
//!
//! Three processes: this one is the gateway, a child is the worker, and a nats-server. It alternates between three ways: the
//! request of async-nats (`Client::request`), a bare multiplexer that does nothing else, and ours. It prints the CPU time per
//! call of each process and the ratios of ours to the others, with 1 and 64 calls in flight.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "an example ends with what went wrong, and prints figures"
)]

use async_nats::{Client, Subject};
use bytes::Bytes;
use dunlin_api::{
    Body, BoxFuture, Declined, Digest, FunctionName, Invocation, InvocationId, Invoke, InvokeError, Load, LocalNode,
    Prepare, Refusal, Revision, RevisionId, Settings, TraceContext, World,
};
use dunlin_fixtures::nats::NatsServer;
use dunlin_scheduler::{
    nats::{Nats, NatsConfig},
    remote::{RemoteCall, RemoteConfig, Remotes, Revisions, SendBody, Server},
};
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;

const BODY: usize = 128;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Answers with the body of the request.
struct Echo;

impl Invoke for Echo {
    async fn invoke(&self, call: Invocation) -> Result<Response<Body>, InvokeError> {
        let body = call.request.into_body().collect().await.map_err(|e| InvokeError::BadRequest(e.to_string()))?;
        Ok(Response::new(Body::full(body.to_bytes())))
    }
}

impl Prepare for Echo {
    fn check<'a>(&'a self, _: Bytes, _: &'a Settings) -> BoxFuture<'a, Result<World, Refusal>> {
        Box::pin(async { Ok(World::Http02) })
    }

    fn prepare(&self, _: Arc<Revision>) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    fn retire(&self, _: Digest) {}
}

impl LocalNode for Echo {
    fn begin(
        &self,
        call: Invocation,
    ) -> Result<impl Future<Output = Result<Response<Body>, InvokeError>> + Send, Box<Declined>> {
        Ok(self.invoke(call))
    }

    fn load(&self) -> Load {
        Load { in_flight: 1, slots: 64 }
    }

    fn is_ready(&self, _: &Revision) -> bool {
        true
    }

    fn ready_count(&self) -> usize {
        1
    }
}

struct One(Arc<Revision>);

impl Revisions for One {
    fn find<'a>(&'a self, function: &'a FunctionName, id: &'a RevisionId) -> BoxFuture<'a, Option<Arc<Revision>>> {
        Box::pin(async { self.known(function, id) })
    }

    fn known(&self, function: &FunctionName, id: &RevisionId) -> Option<Arc<Revision>> {
        (self.0.function == *function && self.0.id == *id).then(|| self.0.clone())
    }
}

fn revision() -> Arc<Revision> {
    let (artifact, settings) = (Digest::of(b"component"), Settings::default());
    let id = RevisionId::of(&artifact, &settings);
    let function = "echo".parse().unwrap();
    Arc::new(Revision { function, id, artifact, size_bytes: 9, world: World::Http02, settings, created_ms: 1 })
}

async fn connect(url: &str) -> Nats {
    let cluster = "bench".parse().unwrap();
    let connect_timeout = Duration::from_secs(10);
    Nats::connect(&NatsConfig { connect_timeout, ..NatsConfig::new(url, cluster, "bench".parse().unwrap()) })
        .await
        .unwrap()
}

/// The worker: both kinds of calls, until it is killed.
async fn worker(url: &str) {
    let nats = connect(url).await;
    let mut tasks = JoinSet::new();
    let raw = nats.control.clone();
    let mut calls = raw.subscribe("bench.raw").await.unwrap();
    let (node, revisions) = (Arc::new(Echo), Arc::new(One(revision())));
    let me = "worker".parse().unwrap();
    let server = Server::start(&nats, &me, 1, node, revisions, RemoteConfig::default()).await.unwrap();
    tasks.spawn(server.run(CancellationToken::new()));
    // On a thread of the runtime as the other, not on the main thread, which would have to be woken for each.
    tasks.spawn(async move {
        while let Some(call) = calls.next().await {
            raw.publish(call.reply.unwrap(), call.payload).await.unwrap();
        }
    });
    println!("ready");
    tasks.join_next().await;
}

/// A bare multiplexer: one wildcard subscription, places in a table, nothing else.
struct Bare {
    client: Client,
    places: Mutex<Vec<Option<oneshot::Sender<Bytes>>>>,
    replies: Vec<Subject>,
}

impl Bare {
    async fn start(client: Client, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let replies = (0..64).map(|place| format!("bench.r.{place}").into()).collect();
        let bare = Arc::new(Self { client, places: Mutex::new((0..64).map(|_| None).collect()), replies });
        let mut inbox = bare.client.subscribe("bench.r.*").await.unwrap();
        let reader = bare.clone();
        tasks.spawn(async move {
            while let Some(message) = inbox.next().await {
                let place: usize = message.subject.rsplit_once('.').unwrap().1.parse().unwrap();
                let waiting = reader.places.lock().unwrap()[place].take();
                let _ = waiting.unwrap().send(message.payload);
            }
        });
        bare
    }

    async fn call(&self, place: usize, body: Bytes) -> Bytes {
        let (sender, answer) = oneshot::channel();
        self.places.lock().unwrap()[place] = Some(sender);
        self.client.publish_with_reply("bench.raw", self.replies[place].clone(), body).await.unwrap();
        answer.await.unwrap()
    }
}

/// CPU time of a process in microseconds.
fn cpu_us(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime and stime (proc(5)), in ticks of 10 ms.
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10_000
}

/// The nats-server that this process started.
fn server_pid() -> u32 {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        stat.contains("(nats-server)") && parent == Some(std::process::id())
    };
    pids.into_iter().find(child).unwrap()
}

/// Calls, microseconds of CPU per call in gateway, server and worker.
async fn measure<F: Future<Output = ()> + Send + 'static>(
    at_once: usize,
    pids: [u32; 3],
    call: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> (u64, [f64; 3]) {
    let (done, before, began) = (Arc::new(AtomicU64::new(0)), pids.map(cpu_us), Instant::now());
    let mut callers = JoinSet::new();
    for place in 0..at_once {
        let (done, call) = (done.clone(), call.clone());
        callers.spawn(async move {
            while began.elapsed() < ROUND {
                call(place).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    callers.join_all().await;
    let (calls, after) = (done.load(Ordering::Relaxed), pids.map(cpu_us));
    (calls, [0, 1, 2].map(|i| (after[i] - before[i]) as f64 / calls as f64))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn gateway() {
    let server = NatsServer::start();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let mut child = Killed(child.arg(server.url()).stdout(Stdio::piped()).spawn().unwrap());
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let nats = connect(&server.url()).await;
    let mut tasks = JoinSet::new();
    let bare = Bare::start(nats.control.clone(), &mut tasks).await;
    let remotes = Remotes::start(&nats, &"gateway".parse().unwrap(), RemoteConfig::default()).await.unwrap();
    tasks.spawn(remotes.clone().run(CancellationToken::new()));
    let body = Bytes::from(vec![7; BODY]);
    let request = Request::post("/orders/17?full=1").header("host", "shop.example.com").header("accept", "*/*");
    let request = request.header("user-agent", "bench/1").header("content-type", "application/json").body(());
    let head = Arc::new(request.unwrap().into_parts().0);
    let (revision, node) = (revision(), "worker".parse().unwrap());
    let remote = {
        let body = body.clone();
        move |_| {
            let (remotes, revision, head) = (remotes.clone(), revision.clone(), head.clone());
            let (body, node): (_, dunlin_api::NodeName) = (SendBody::Kept(body.clone()), Clone::clone(&node));
            async move {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                let (id, trace) = (InvocationId::new(), TraceContext::new(1, 2));
                let call = RemoteCall { revision, head, body, id, deadline, trace, may_load: false };
                let answer = remotes.invoke(&node, call, 0).await.unwrap();
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), BODY);
            }
        }
    };
    let requested = {
        let (client, body) = (nats.control.clone(), body.clone());
        move |_| {
            let (client, body) = (client.clone(), body.clone());
            async move { assert_eq!(client.request("bench.raw", body).await.unwrap().payload.len(), BODY) }
        }
    };
    let raw = move |place| {
        let (bare, body) = (bare.clone(), body.clone());
        async move { assert_eq!(bare.call(place, body).await.len(), BODY) }
    };
    let pids = [std::process::id(), server_pid(), child.0.id()];
    for at_once in [1, 64] {
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let request = measure(at_once, pids, requested.clone()).await;
            let bare = measure(at_once, pids, raw.clone()).await;
            let ours = measure(at_once, pids, remote.clone()).await;
            let sums = [&request, &bare, &ours].map(|(_, cpu)| cpu.iter().sum::<f64>());
            for (name, ((calls, cpu), sum)) in
                ["request", "bare", "remote"].into_iter().zip([request, bare, ours].into_iter().zip(sums))
            {
                let rate = calls / ROUND.as_secs();
                println!("{at_once:>2} in flight: {name:>7} {rate:>6}/s {cpu:.1?} = {sum:.1} µs");
            }
            ratios[0].push(sums[2] / sums[0]);
            ratios[1].push(sums[2] / sums[1]);
        }
        let [request, bare] = ratios.map(median);
        println!("{at_once:>2} in flight: remote is {request:.2} × request, {bare:.2} × bare (medians)");
    }
}

#[tokio::main]
async fn main() {
    match std::env::args().nth(1) {
        Some(url) => worker(&url).await,
        None => gateway().await,
    }
}
