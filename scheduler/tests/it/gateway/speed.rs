//! What the gateway costs over plain hyper, both in this process and in one run.
//!
//! `cargo test --release -p dunlin-scheduler --test it -- --ignored --nocapture gateway::speed`

use super::*;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;

/// The gateway's CPU time per request, at most this many times that of hyper alone.
const TARGET: f64 = 1.25;
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for half a minute: wants a release build, `wrk`, and a quiet machine"]
async fn costs_at_most_a_quarter_more_than_plain_hyper() {
    let front = Front::start(Config::default(), hello).await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_address = plain.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(serve_plain(plain));
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let hyper = measure("hyper  ", plain_address).await;
        let gateway = measure("gateway", front.address).await;
        ratios.push(gateway / hyper);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio of CPU time per request: {ratios:.2?}");
    assert!(ratios[ROUNDS / 2] <= TARGET, "{ratios:?}");
}

async fn serve_plain(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let service = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(http_body_util::Full::new(Bytes::from_static(b"hello"))))
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// CPU microseconds of this process per request, while `wrk` asks `address` for four seconds.
async fn measure(name: &str, address: SocketAddr) -> f64 {
    let before = cpu_micros();
    let mut wrk = tokio::process::Command::new("wrk");
    let wrk = wrk.args(["-t1", "-c64", "-d4s", &format!("http://{address}/x")]).output().await.unwrap();
    let spent = cpu_micros() - before;
    let text = String::from_utf8(wrk.stdout).unwrap();
    let requests = text.lines().find_map(|line| line.split_once(" requests in "));
    let requests: f64 = requests.unwrap().0.trim().parse().unwrap();
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).unwrap().trim();
    println!("{name} {rate} requests/s, {:.2} µs of CPU each", spent / requests);
    spent / requests
}

/// User and system time of this process. The kernel counts it in hundredths of a second.
fn cpu_micros() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10_000.0
}
