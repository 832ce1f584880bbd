//! Large bodies through a remote worker, beside small calls.

use std::{
    io::{Read, Write as _},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use super::support::Cluster;
use crate::support::{PATIENCE, fixture, get_until};

const SIZE: usize = 100 << 20;
const CHUNK: usize = 64 << 10;
/// What may be added to the memory of a node while bodies go through it.
const GROWTH_KIB: u64 = 40 << 10;

/// A byte of a body that is nowhere the same as elsewhere for long, so that what is lost, doubled or swapped is seen.
fn chunk(number: usize) -> Vec<u8> {
    let word = |n: usize| ((number * CHUNK / 8 + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..CHUNK / 8).flat_map(word).collect()
}

/// Sends a body to `echo` and compares what comes back while it comes.
fn echo(gateway: &str, size: usize) {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut upload = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let head = format!("POST /echo HTTP/1.0\r\nhost: a\r\ncontent-length: {size}\r\n\r\n");
        upload.write_all(head.as_bytes()).unwrap();
        (0..size / CHUNK).for_each(|number| upload.write_all(&chunk(number)).unwrap());
    });
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.0 200") || head.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let mut back = vec![0; CHUNK];
    for number in 0..size / CHUNK {
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("chunk {number}: {error}"));
        assert!(back == chunk(number), "chunk {number} differs");
    }
    assert_eq!(stream.read_to_end(&mut back).unwrap(), 0, "more came back than was sent");
    sender.join().unwrap();
}

/// Says so when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The median time of small calls while `during` runs; at least `least` of them.
fn small_calls(gateway: &str, least: usize, during: impl FnOnce()) -> Duration {
    let stop = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let mut times = Vec::new();
            while times.len() < least || !stop.load(Relaxed) {
                let (begun, body) = (Instant::now(), "x".repeat(128));
                let (status, back) = crate::support::post(&format!("http://{gateway}/echo"), body.as_bytes());
                assert_eq!((status, back), (200, body));
                times.push(begun.elapsed());
                sleep(Duration::from_millis(5));
            }
            times
        });
        {
            let _stop = Done(&stop);
            during();
        }
        calls.join().unwrap()
    });
    times.sort_unstable();
    times[times.len() / 2]
}

/// Resident memory of a process.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_megabytes_go_through_a_remote_worker_in_little_memory() {
    let cluster = Cluster::start(&[("g", &["--no-worker"]), ("w", &["--no-gateway"])]);
    let gateway = &cluster.first().http;
    cluster.first().ok(&[
        "deploy",
        &fixture("echo"),
        "--route",
        "/echo",
        "--request-body",
        "1GiB",
        "--timeout",
        "110s",
    ]);
    get_until(&format!("http://{gateway}/echo"), |status, _| status == 200);
    echo(gateway, SIZE / 10);
    let idle = small_calls(gateway, 50, || {});

    let processes: Vec<_> = cluster.members.iter().map(|member| member.process().id()).collect();
    let resident = || processes.iter().map(|id| resident_kib(*id)).collect::<Vec<_>>();
    let before = resident();
    let (peaks, done) = (Mutex::new(before.clone()), AtomicBool::new(false));
    let begun = Instant::now();
    let busy = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                let mut peaks = peaks.lock().unwrap();
                peaks.iter_mut().zip(resident()).for_each(|(peak, now)| *peak = now.max(*peak));
                drop(peaks);
                sleep(Duration::from_millis(50));
            }
        });
        // Also when it fails, or the other thread would never end.
        let _done = Done(&done);
        small_calls(gateway, 10, || echo(gateway, SIZE))
    });
    let peaks = peaks.into_inner().unwrap();
    println!(
        "100 MB there and back in {:?}; small calls: median {idle:?} idle, {busy:?} meanwhile; KiB {before:?} → {peaks:?}",
        begun.elapsed()
    );
    for ((member, before), peak) in cluster.members.iter().zip(before).zip(peaks) {
        assert!(peak < before + GROWTH_KIB, "{} grew from {before} KiB to {peak} KiB", member.name);
    }
}
