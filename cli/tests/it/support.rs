//! Starting the program, and talking to what it serves.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Far longer than anything takes on a busy machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// `dunlin` with `args`, and nothing of the user's settings.
pub(crate) fn dunlin(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("DUNLIN_") || name.starts_with("XDG_")) {
            command.env_remove(name);
        }
    }
    let home = home();
    command.args(args).env("XDG_CONFIG_HOME", &home).env("XDG_CACHE_HOME", &home).env("XDG_DATA_HOME", &home);
    command.stdin(Stdio::null());
    command
}

/// One empty folder for all tests of a run; only `serve` writes to it, its compiled code.
fn home() -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("home")
}

/// Runs `dunlin` with `args` to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    dunlin(args).output().unwrap()
}

/// Runs `dunlin` against `server` and returns its stdout; it must succeed.
pub(crate) fn ok(server: &str, args: &[&str]) -> String {
    let output = dunlin(args).env("DUNLIN_SERVER", server).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// As [`ok`], for `--output json`.
pub(crate) fn json(server: &str, args: &[&str]) -> serde_json::Value {
    let args: Vec<_> = args.iter().copied().chain(["--output", "json"]).collect();
    let stdout = ok(server, &args);
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e} in {stdout:?}"))
}

/// Exit code and stderr of `dunlin` against `server`.
pub(crate) fn fails(server: &str, args: &[&str]) -> (i32, String) {
    let output = dunlin(args).env("DUNLIN_SERVER", server).output().unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The path of a fixture as an argument.
pub(crate) fn fixture(name: &str) -> String {
    dunlin_fixtures::component(name).to_str().unwrap().to_owned()
}

/// A process that serves; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// The next line of its stderr.
    pub(crate) fn stderr_line(&self) -> String {
        self.stderr.recv_timeout(PATIENCE).expect("a line on stderr")
    }

    /// Reads its stderr up to a line that contains `part`.
    pub(crate) fn stderr_until(&self, part: &str) -> String {
        until(&self.stderr, part)
    }

    /// Reads its stdout up to a line that contains `part`.
    pub(crate) fn stdout_until(&self, part: &str) -> String {
        until(&self.stdout, part)
    }

    /// What it wrote to its stderr since that was read last.
    pub(crate) fn said(&self) -> String {
        self.stderr.try_iter().collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(100_000);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn until(lines: &Receiver<String>, part: &str) -> String {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.contains(part) => return line,
            Ok(line) => seen.push(line),
            Err(_) => panic!("no line with {part:?} came after\n{}", seen.join("\n")),
        }
    }
}

/// A node of its own for one test.
pub(crate) struct Node {
    pub(crate) process: Running,
    /// URL of the HTTP front, without a trailing slash.
    pub(crate) http: String,
    /// URL of the admin API, without a trailing slash.
    pub(crate) admin: String,
}

impl Node {
    pub(crate) fn start(data: &TempDir) -> Self {
        Self::start_with(data, &[])
    }

    pub(crate) fn start_with(data: &TempDir, more: &[&str]) -> Self {
        let base = ["node", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", data.path().to_str().unwrap()];
        let args: Vec<_> = base.iter().chain(more).copied().collect();
        Self::ready(Running::start(dunlin(&args)))
    }

    /// A node that may use only so much address space.
    pub(crate) fn start_within(data: &TempDir, kib: u64) -> (Self, String) {
        let script =
            format!("ulimit -v {kib} && exec \"$0\" node --http 127.0.0.1:0 --admin 127.0.0.1:0 --data \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_dunlin")]).arg(data.path()).stdin(Stdio::null());
        let process = Running::start(command);
        let addresses = [process.stderr_line(), process.stderr_line()];
        let warning = process.stderr_until("address space");
        process.stderr_until("ready in ");
        let url = |line: &str| line.split_whitespace().last().unwrap().trim_end_matches('/').to_owned();
        (Self { process, http: url(&addresses[0]), admin: url(&addresses[1]) }, warning)
    }

    fn ready(process: Running) -> Self {
        let address = |label: &str| {
            let line = process.stderr_line();
            let url = line.strip_prefix(label).unwrap_or_else(|| panic!("{line:?} should begin with {label:?}"));
            url.trim().trim_end_matches('/').to_owned()
        };
        let (http, admin) = (address("http "), address("admin "));
        process.stderr_until("ready in ");
        Self { process, http, admin }
    }
}

/// Status and body of a GET.
pub(crate) fn get(url: &str) -> (u16, String) {
    let answer = exchange("GET", url, b"");
    (answer.status, answer.body)
}

/// Status and body of a POST.
pub(crate) fn post(url: &str, body: &[u8]) -> (u16, String) {
    let answer = exchange("POST", url, body);
    (answer.status, answer.body)
}

/// A whole answer, as it was on the wire.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One request on a connection of its own. HTTP/1.0: the answer ends with the connection and is never chunked.
pub(crate) fn exchange(method: &str, url: &str, body: &[u8]) -> Answer {
    let rest = url.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let mut stream = TcpStream::connect(authority).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: {authority}\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    // A server that refuses the body closes while it is sent; the answer is there all the same.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    // A cut connection may be a reset; what came before it counts.
    let _ = stream.read_to_end(&mut answer);
    let answer = text(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {url}: no head in {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// Asks until `accept` likes the answer.
pub(crate) fn get_until(url: &str, accept: impl Fn(u16, &str) -> bool) -> String {
    let started = Instant::now();
    loop {
        let (status, body) = get(url);
        if accept(status, &body) {
            return body;
        }
        assert!(started.elapsed() < PATIENCE, "{url} still answers {status} {body:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
