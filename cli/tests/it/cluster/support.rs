//! Members of a cluster as processes that are killed, frozen and started again.

use crate::support::{PATIENCE, Running, dunlin, fails, fixture, json, ok, text};
use dunlin_fixtures::nats::NatsServer;
use rustix::process::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A member; killed when it is dropped, and its log shown if the test fails.
pub(crate) struct Member {
    pub(crate) name: String,
    /// `host:port` of its gateway; empty if it has none.
    pub(crate) http: String,
    /// URL of its admin API.
    pub(crate) admin: String,
    process: Option<Running>,
    args: Vec<String>,
    data: TempDir,
}

impl Member {
    pub(crate) fn start(nats: &str, name: &str, more: &[&str]) -> Self {
        let mut member = Self::spawn(nats, name, more);
        member.until_ready();
        member
    }

    /// Starts it without waiting for it.
    fn spawn(nats: &str, name: &str, more: &[&str]) -> Self {
        let args = ["--nats", nats, "--name", name].iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        let mut member = Self {
            name: name.to_owned(),
            http: String::new(),
            admin: String::new(),
            process: None,
            args,
            data: tempfile::tempdir().unwrap(),
        };
        member.launch("127.0.0.1:0", "127.0.0.1:0");
        member
    }

    fn launch(&mut self, http: &str, admin: &str) {
        let base = ["node", "--http", http, "--admin", admin, "--data", self.data.path().to_str().unwrap()];
        let args: Vec<_> = base.into_iter().chain(self.args.iter().map(String::as_str)).collect();
        self.process = Some(Running::start(dunlin(&args)));
    }

    fn until_ready(&mut self) {
        let address = |line: &str| line.split_whitespace().last().unwrap().trim_end_matches('/').to_owned();
        if !self.args.iter().any(|arg| arg == "--no-gateway") {
            let line = self.process().stderr_until("http ");
            self.http = address(&line).replace("http://", "");
        }
        self.admin = address(&self.process().stderr_until("admin "));
        self.process().stderr_until("ready in ");
    }

    pub(crate) fn process(&self) -> &Running {
        self.process.as_ref().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it in order, and waits for that.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.process.as_mut().expect("it runs").wait();
        assert_eq!(status.code(), Some(0), "{}: {}", self.name, self.process().said());
        self.process = None;
    }

    /// Starts it again at the same addresses, and waits until it serves.
    pub(crate) fn restart(&mut self) {
        let http = if self.http.is_empty() { "127.0.0.1:0".to_owned() } else { self.http.clone() };
        let admin = self.admin.replace("http://", "");
        self.launch(&http, &admin);
        self.until_ready();
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        ok(&self.admin, args)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        json(&self.admin, args)
    }

    pub(crate) fn fails(&self, args: &[&str]) -> (i32, String) {
        fails(&self.admin, args)
    }

    /// Deploys the function that books its executions; says what `deploy` said.
    pub(crate) fn deploy_ledger(&self, more: &[&str]) -> String {
        let ledger = fixture("ledger");
        let limits = ["deploy", &ledger, "--kv", "ledger", "--cpu", "20s", "--timeout", "60s"];
        self.ok(&limits.iter().chain(more).copied().collect::<Vec<_>>())
    }

    /// Whether `doctor` finds nothing.
    pub(crate) fn is_well(&self) -> bool {
        let output = dunlin(&["doctor"]).env("DUNLIN_SERVER", &self.admin).output().unwrap();
        output.status.success() && !text(&output.stdout).contains("warning")
    }

    /// What it says of the node `name`.
    pub(crate) fn sees(&self, name: &str) -> Value {
        let nodes = self.json(&["nodes"]);
        nodes["nodes"].as_array().unwrap().iter().find(|node| node["node"] == name).cloned().unwrap_or_default()
    }

    /// Waits until it sees the node `name` in `state`; says how long that took.
    pub(crate) fn until_sees(&self, name: &str, state: &str) -> Duration {
        until(&format!("{} sees {name} {state}", self.name), || self.sees(name)["state"] == state)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let (true, Some(process)) = (std::thread::panicking(), &self.process) {
            eprintln!("--- {} wrote\n{}", self.name, process.said());
        }
    }
}

/// A nats-server and members, in the order in which they were named.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) nats: NatsServer,
}

impl Cluster {
    pub(crate) fn start(members: &[(&str, &[&str])]) -> Self {
        let nats = NatsServer::start();
        Self { members: start(&nats.url(), members), nats }
    }

    /// The first member.
    pub(crate) fn first(&self) -> &Member {
        &self.members[0]
    }

    /// The addresses of all gateways.
    pub(crate) fn gateways(&self) -> Vec<String> {
        self.members.iter().map(|member| member.http.clone()).filter(|http| !http.is_empty()).collect()
    }
}

/// Starts members at once and waits until each of them knows all.
pub(crate) fn start(nats: &str, members: &[(&str, &[&str])]) -> Vec<Member> {
    let mut started: Vec<_> = members.iter().map(|(name, more)| Member::spawn(nats, name, more)).collect();
    started.iter_mut().for_each(Member::until_ready);
    for member in &started {
        for (name, _) in members {
            member.until_sees(name, "up");
        }
    }
    started
}

/// Looks until it is so; says how long that took.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    begun.elapsed()
}
