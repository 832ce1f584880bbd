//! Clients that call without a break, each request with an id of its own, and what is to be said of all their answers.

use std::{
    collections::{BTreeMap, HashMap},
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::PATIENCE;

/// What a client saw of one request.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Answer {
        status: u16,
        /// In lower case.
        head: String,
        body: String,
    },
    /// No connection was made: nothing was sent.
    NotConnected,
    /// The connection ended without an answer; why is for whoever reads the failed test.
    #[expect(dead_code, reason = "shown by Debug")]
    Broken(String),
}

/// One request and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub(crate) id: String,
    pub(crate) method: &'static str,
    /// Which of the gateways answered.
    #[expect(dead_code, reason = "shown by Debug")]
    pub(crate) gateway: usize,
    pub(crate) begun: Instant,
    pub(crate) took: Duration,
    pub(crate) seen: Seen,
}

/// How clients call.
#[derive(Clone)]
pub(crate) struct Plan {
    /// `host:port` of each gateway; each client begins at one of them.
    pub(crate) gateways: Vec<String>,
    /// The method of each client.
    pub(crate) clients: Vec<&'static str>,
    /// Path of a request before its id.
    pub(crate) path: &'static str,
    /// How long the function sleeps.
    pub(crate) sleep_ms: u64,
    /// Between the answer and the next request of a client.
    pub(crate) pause: Duration,
    /// Whether a client whose connection is refused goes to the next gateway.
    pub(crate) elsewhere: bool,
}

impl Plan {
    /// Clients that `GET` and clients that `POST`, a few hundred requests a second in all.
    pub(crate) fn mixed(gateways: Vec<String>, gets: usize, posts: usize) -> Self {
        let clients = std::iter::repeat_n("GET", gets).chain(std::iter::repeat_n("POST", posts)).collect();
        let pause = Duration::from_millis(20);
        Self { gateways, clients, path: "/ledger/run/", sleep_ms: 20, pause, elsewhere: false }
    }

    /// The same without booking what ran.
    pub(crate) fn unbooked(self) -> Self {
        Self { path: "/ledger/sleep/", ..self }
    }

    pub(crate) fn start(self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |(number, method): (usize, &&'static str)| {
            let (plan, method, stop) = (self.clone(), *method, stop.clone());
            thread::spawn(move || plan.client(number, method, &stop))
        };
        let clients = self.clients.iter().enumerate().map(client).collect();
        Load { stop, clients }
    }

    fn client(&self, number: usize, method: &'static str, stop: &AtomicBool) -> Vec<Shot> {
        let mut shots = Vec::new();
        let mut gateway = number % self.gateways.len();
        while !stop.load(Relaxed) {
            let id = format!("{}-{number}-{}", method.to_lowercase(), shots.len());
            let path = format!("{}{id}?sleep={}", self.path, self.sleep_ms);
            let begun = Instant::now();
            let mut seen = ask(&self.gateways[gateway], method, &path);
            let mut left = if self.elsewhere { self.gateways.len() - 1 } else { 0 };
            while matches!(seen, Seen::NotConnected) && left > 0 {
                (left, gateway) = (left - 1, (gateway + 1) % self.gateways.len());
                seen = ask(&self.gateways[gateway], method, &path);
            }
            shots.push(Shot { id, method, gateway, begun, took: begun.elapsed(), seen });
            thread::sleep(self.pause);
        }
        shots
    }
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Shot>>>,
}

impl Load {
    /// Lets every client finish its request.
    pub(crate) fn finish(mut self) -> Shots {
        self.stop.store(true, Relaxed);
        Shots(self.clients.drain(..).flat_map(|client| client.join().unwrap()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// All requests of a load.
pub(crate) struct Shots(pub(crate) Vec<Shot>);

impl Shots {
    /// Those with this method.
    pub(crate) fn of(&self, method: &str) -> Self {
        Self(self.0.iter().filter(|shot| shot.method == method).cloned().collect())
    }

    /// Those begun between two moments.
    pub(crate) fn between(&self, from: Instant, to: Instant) -> Self {
        Self(self.0.iter().filter(|shot| from <= shot.begun && shot.begun < to).cloned().collect())
    }

    /// Those that were not answered by their function.
    pub(crate) fn failed(&self) -> Vec<&Shot> {
        self.0.iter().filter(|shot| !shot.is_answered()).collect()
    }

    pub(crate) fn slowest(&self) -> Duration {
        self.0.iter().map(|shot| shot.took).max().unwrap_or_default()
    }

    /// Every request was answered by its function, and with its own answer.
    #[track_caller]
    pub(crate) fn assert_all_answered(&self) {
        let failed = self.failed();
        assert!(!self.0.is_empty(), "nothing was asked");
        assert!(
            failed.is_empty(),
            "{} of {} failed: {:#?}",
            failed.len(),
            self.0.len(),
            &failed[..failed.len().min(5)]
        );
    }

    /// Answered by a function, each answer to its own request.
    #[track_caller]
    pub(crate) fn assert_none_mixed_up(&self) {
        for shot in &self.0 {
            if let Seen::Answer { status: 200, body, .. } = &shot.seen {
                assert_eq!(body, &shot.id, "an answer of another request");
            }
        }
    }

    /// Requests that were answered ran once; the others once or not at all; and nothing else ran.
    #[track_caller]
    pub(crate) fn assert_ran_once(&self, ran: &HashMap<String, u64>) {
        for shot in &self.0 {
            let times = ran.get(&shot.id).copied().unwrap_or(0);
            let right = if shot.is_answered() { times == 1 } else { times <= 1 };
            assert!(right, "{times} executions of {shot:#?}");
        }
    }

    /// How many calls each node answered, as the answers say.
    pub(crate) fn by_node(&self) -> BTreeMap<String, usize> {
        let mut nodes = BTreeMap::new();
        for shot in self.0.iter().filter(|shot| shot.is_answered()) {
            *nodes.entry(shot.node().unwrap_or_default()).or_default() += 1;
        }
        nodes
    }

    /// `1234 requests, 2 failed, slowest 340 ms`
    pub(crate) fn summary(&self) -> String {
        let (all, failed) = (self.0.len(), self.failed().len());
        format!("{all} requests, {failed} failed, slowest {} ms", self.slowest().as_millis())
    }
}

impl Shot {
    pub(crate) fn is_answered(&self) -> bool {
        matches!(&self.seen, Seen::Answer { status: 200, body, .. } if *body == self.id)
    }

    /// Says that nobody knows what became of it: 502 or 504 with the code of the problem.
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        let Seen::Answer { status, body, .. } = &self.seen else { return false };
        let code = |code: &str| body.contains(&format!("\"code\":\"{code}\""));
        body.contains("outcome unknown")
            && ((*status == 502 && code("node-lost")) || (*status == 504 && code("node-silent")))
    }

    /// The node that it ran on.
    pub(crate) fn node(&self) -> Option<String> {
        let Seen::Answer { head, .. } = &self.seen else { return None };
        head.lines().find_map(|line| line.strip_prefix("dunlin-node: ")).map(|node| node.trim().to_owned())
    }
}

/// One request that asks for the node's name, on a connection of its own.
pub(crate) fn ask(authority: &str, method: &str, path: &str) -> Seen {
    let mut stream = match TcpStream::connect(authority) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Seen::NotConnected,
        Err(error) => return Seen::Broken(error.to_string()),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let head =
        format!("{method} {path} HTTP/1.0\r\nhost: {authority}\r\ndunlin-timing: 1\r\ncontent-length: 0\r\n\r\n");
    let exchanged = stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Seen::Broken(format!("{exchanged:?} after {answer:?}"));
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Seen::Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// What the ledger booked: executions by id.
pub(crate) fn booked(gateway: &str) -> HashMap<String, u64> {
    let Seen::Answer { status: 200, body, .. } = ask(gateway, "GET", "/ledger/entries") else {
        panic!("the ledger cannot be read")
    };
    let entry = |line: &str| {
        let (id, times) = line.split_once(' ').unwrap();
        (id.to_owned(), times.parse().unwrap())
    };
    body.lines().map(entry).collect()
}
