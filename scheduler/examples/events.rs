//! What durable events cost on one node, for `bench/run`:
//! `cargo run --release -p dunlin-scheduler --example events -- DUNLIN EVENTS.wasm`.
//!
//! In turn on one nats-server: a bare pull consumer that takes, burns the CPU time of one invocation and acknowledges; and a
//! `dunlin node` whose function does nothing. The CPU time of an invocation is measured first: that of a call
//! by HTTP on the same node, less that of a request which the gateway refuses. Prints events per second of both with their
//! ratio, and how long an event takes from its publisher into the function and from there back to the publisher when
//! nothing else happens.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "an example ends with what went wrong, and prints figures"
)]

use async_nats::jetstream::{self, consumer::pull};
use bytes::Bytes;
use dunlin_fixtures::nats::NatsServer;
use futures::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::JoinSet};

const EVENTS: u64 = 30_000;
const ROUNDS: usize = 3;
/// Messages that the bare consumer has asked for, and invocations at once on the node.
const AT_ONCE: usize = 64;
const CALLS: u64 = 40_000;
/// Lone events, with the pause after each: short, and long enough that the node has stopped expecting any.
const LONE_EVENTS: [(usize, Duration); 2] = [(500, Duration::from_millis(5)), (20, Duration::from_secs(2))];

struct Node {
    process: Child,
    http: String,
    admin: String,
    dunlin: String,
}

impl Node {
    fn start(dunlin: &str, nats: &str, dir: &Path) -> Self {
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (http, admin) = (port().to_string(), port().to_string());
        let data = dir.join("data");
        let mut command = Command::new(dunlin);
        command.args(["node", "--nats", nats, "--slots", &AT_ONCE.to_string(), "--http", &http, "--admin", &admin]);
        command.arg("--data").arg(data).stdout(Stdio::null()).stderr(fs::File::create(dir.join("log")).unwrap());
        let process = command.env_remove("RUST_BACKTRACE").spawn().unwrap();
        let node = Self { process, http, admin: format!("http://{admin}"), dunlin: dunlin.into() };
        while !node.run(&["nodes"]) {
            std::thread::sleep(Duration::from_millis(50));
        }
        node
    }

    fn run(&self, args: &[&str]) -> bool {
        let mut command = Command::new(&self.dunlin);
        command.args(args).env("DUNLIN_SERVER", &self.admin).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().success()
    }

    fn deploy(&self, dir: &Path, component: &str, triggers: &str) {
        let component = fs::canonicalize(component).unwrap();
        let manifest = format!(
            "[function.events]\nsource = {component:?}\npublish = [\"seen.>\"]\nkv = [\"booked\", \"seen\"]\n{triggers}"
        );
        fs::write(dir.join("dunlin.toml"), manifest).unwrap();
        assert!(self.run(&["deploy", dir.to_str().unwrap()]), "the function is deployed");
    }

    /// CPU time that its process has used.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // Fields 14 and 15 of proc(5), in ticks of 10 ms.
        let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::main]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [dunlin, component] = args.as_slice() else { panic!("events DUNLIN EVENTS.wasm") };
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start();
    let jetstream = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let node = Node::start(dunlin, &server.url(), dir.path());
    node.deploy(dir.path(), component, "");
    // The first calls of a process cost more.
    calls(&node, "/events/call", StatusCode::OK).await;
    let (called, refused) =
        (calls(&node, "/events/call", StatusCode::OK).await, calls(&node, "/nowhere", StatusCode::NOT_FOUND).await);
    let work = called.saturating_sub(refused);
    println!("CPU time of a call by HTTP {called:?}, of the HTTP alone {refused:?}, so of an invocation {work:?}");

    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let bare = bare(&jetstream, work).await;
        let before = node.cpu();
        let ours = ours(&jetstream, &node, dir.path(), component).await;
        let cpu = (node.cpu() - before) / u32::try_from(EVENTS).unwrap();
        println!(
            "bare consumer {bare:.0}/s, dunlin {ours:.0}/s with {cpu:?} of CPU time each, ratio {:.2}",
            ours / bare
        );
        rates.push(ours / bare);
    }
    let dead = jetstream.get_stream("dl-dunlin-dead").await.unwrap().cached_info().state.messages;
    assert_eq!(dead, 0, "every event was handled");
    rates.sort_by(f64::total_cmp);
    println!("median of the ratios: {:.2}", rates[ROUNDS / 2]);
    lone(&jetstream, &node, dir.path(), component).await;
}

/// Posts to `path` over connections that stay, many times; the node's CPU time for each.
async fn calls(node: &Node, path: &str, status: StatusCode) -> Duration {
    let left = Arc::new(AtomicU64::new(CALLS));
    let before = node.cpu();
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (left, http, path) = (left.clone(), node.http.clone(), path.to_owned());
        clients.spawn(async move {
            let stream = TokioIo::new(TcpStream::connect(&http).await.unwrap());
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            let requests = async move {
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let body = Full::new(Bytes::from_static(br#"{"do":"none"}"#));
                    let request = Request::post(path.as_str()).header("host", "x").body(body).unwrap();
                    let answer = sender.send_request(request).await.unwrap();
                    assert_eq!(answer.status(), status);
                    answer.into_body().collect().await.unwrap();
                }
            };
            tokio::join!(requests, connection).1.unwrap();
        });
    }
    clients.join_all().await;
    (node.cpu() - before) / u32::try_from(CALLS).unwrap()
}

async fn filled(jetstream: &jetstream::Context, name: &str, subject: &str) -> jetstream::stream::Stream {
    let _ = jetstream.delete_stream(name).await;
    let config =
        jetstream::stream::Config { name: name.into(), subjects: vec![format!("{subject}.>")], ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    let numbers = futures::stream::iter(0..EVENTS);
    let publish = |number| async move {
        let payload = format!(r#"{{"id":"{number}","do":"none"}}"#);
        jetstream.publish(format!("{subject}.x"), payload.into()).await.unwrap().await.unwrap();
    };
    numbers.for_each_concurrent(256, publish).await;
    stream
}

/// Events per second of a consumer that does nothing else.
async fn bare(jetstream: &jetstream::Context, work: Duration) -> f64 {
    let stream = filled(jetstream, "BARE", "bare").await;
    let config = pull::Config { durable_name: Some("bare".into()), max_ack_pending: 10_000, ..pull::Config::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let begun = Instant::now();
    let mut messages = consumer.stream().max_messages_per_batch(AT_ONCE).messages().await.unwrap();
    let mut handlers = JoinSet::new();
    for _ in 0..EVENTS {
        let message = messages.next().await.unwrap().unwrap();
        if handlers.len() >= AT_ONCE {
            handlers.join_next().await;
        }
        handlers.spawn(async move {
            let begun = Instant::now();
            while begun.elapsed() < work {
                std::hint::spin_loop();
            }
            message.ack().await.unwrap();
        });
    }
    handlers.join_all().await;
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

/// Events per second of the node.
async fn ours(jetstream: &jetstream::Context, node: &Node, dir: &Path, component: &str) -> f64 {
    node.run(&["remove", "events", "--discard-events"]);
    let mut stream = filled(jetstream, "OURS", "ours").await;
    node.deploy(dir, component, "[[function.events.stream]]\nsubject = \"ours.>\"\nstream = \"OURS\"\n");
    let name = loop {
        if let Some(name) = stream.consumer_names().next().await {
            break name.unwrap();
        }
    };
    let mut consumer = stream.get_consumer::<pull::Config>(&name).await.unwrap();
    let mut begun = None;
    loop {
        let info = consumer.info().await.unwrap();
        let left = info.num_pending + info.num_ack_pending as u64;
        if left == 0 {
            break;
        }
        // What ran while the deploy still answered does not count.
        begun.get_or_insert((Instant::now(), left));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (begun, count) = begun.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, EVENTS);
    count as f64 / begun.elapsed().as_secs_f64()
}

/// The time from a publisher into the function and back when nothing else happens.
async fn lone(jetstream: &jetstream::Context, node: &Node, dir: &Path, component: &str) {
    node.deploy(dir, component, "[[function.events.stream]]\nsubject = \"lone.>\"\n");
    let mut seen = jetstream.client().subscribe("seen.>").await.unwrap();
    for (count, pause) in LONE_EVENTS {
        let mut times = Vec::new();
        for number in 0..count {
            let payload = format!(r#"{{"id":"{number}","do":"publish","subject":"seen.{number}"}}"#);
            let begun = Instant::now();
            jetstream.publish("lone.x", payload.into()).await.unwrap();
            seen.next().await.unwrap();
            times.push(begun.elapsed());
            tokio::time::sleep(pause).await;
        }
        times.sort();
        let (half, most) = (times[count / 2], times[count * 99 / 100]);
        println!(
            "an event every {pause:?}, from the publisher to the function and back: median {half:?}, p99 {most:?}"
        );
    }
}
