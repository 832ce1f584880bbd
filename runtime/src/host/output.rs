//! Guest output: what a function prints to stdout and stderr becomes log lines.
//!
//! The sandbox makes one [`OutputSink`] per revision and one [`Output`] per store, and hands the two streams to
//! `WasiCtxBuilder`. Whole lines reach the log in the order in which they were completed, escaped so that they can
//! neither move a terminal's cursor nor forge a second line; a guest that prints never waits for whoever reads.
//! Bounds: `limits.logs` bytes and [`MAX_LINES`] lines per invocation, [`MAX_LINE`] bytes per line, and a rate per
//! revision on this node ([`RATE`], [`BURST`]). What is over is dropped and counted, and the count is the
//! invocation's last line.

mod line;
mod rate;
mod streams;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use dunlin_api::{ByteSize, InvocationId, LogLine, LogStream, Logs, Revision};

use line::{LineBuffer, escape};
use rate::Rate;
pub use streams::GuestStream;

/// Lines kept of one invocation. A reader of logs looks at tens; more is a program that talks to itself.
pub const MAX_LINES: u32 = 1_000;
/// Bytes after which a line is cut into several. Log collectors commonly take 16 KiB per record, escaping included.
pub const MAX_LINE: usize = 8 << 10;
/// Remarks kept of one invocation, so that a guest cannot make the runtime talk instead.
const MAX_REMARKS: u32 = 20;
/// Bytes per second that all invocations of one revision may print on this node.
pub const RATE: u64 = 1 << 20;
/// Bytes that they may print at once after a pause.
pub const BURST: u64 = 4 << 20;

/// Where the output of one revision goes on this node, and how much of it.
pub struct OutputSink {
    logs: Arc<dyn Logs>,
    revision: Arc<Revision>,
    rate: Mutex<Rate>,
    /// Lines lost without being reported, because not even the report had room.
    unreported: AtomicU64,
}

impl OutputSink {
    /// Output of `revision` goes to `logs`; `revision.settings.limits.logs` bounds each invocation.
    pub fn new(logs: Arc<dyn Logs>, revision: Arc<Revision>) -> Arc<Self> {
        let rate = Mutex::new(Rate::new(RATE, BURST, Instant::now()));
        Arc::new(Self { logs, revision, rate, unreported: AtomicU64::new(0) })
    }

    fn limit(&self) -> ByteSize {
        self.revision.settings.limits.logs
    }

    fn emit(&self, invocation: InvocationId, stream: LogStream, text: String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.logs.line(LogLine {
            time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            function: self.revision.function.clone(),
            revision: self.revision.id.clone(),
            invocation,
            stream,
            text,
        });
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The output of one store: two guest streams and the runtime's remarks, for one invocation after the other. Clones are
/// the same output. Costs one allocation; buffers come when the guest prints.
///
/// With several invocations at once in one instance nobody can say which of them printed: lines then carry the id of
/// the invocation that began last.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    sink: Arc<OutputSink>,
    state: Mutex<State>,
}

struct State {
    invocation: InvocationId,
    out: LineBuffer,
    err: LineBuffer,
    lines: u32,
    remarks: u32,
    bytes: u64,
    /// The invocation's own limit was reached: from here on everything is dropped, so that the log has no holes.
    full: bool,
    dropped_lines: u64,
    dropped_bytes: u64,
}

impl Output {
    /// The output of a store whose first invocation is `invocation`.
    pub fn new(sink: Arc<OutputSink>, invocation: InvocationId) -> Self {
        Self(Arc::new(Shared { sink, state: Mutex::new(State::new(invocation)) }))
    }

    /// The guest's standard output, for `WasiCtxBuilder::stdout`.
    pub fn stdout(&self) -> GuestStream {
        GuestStream::new(self.clone(), LogStream::Stdout)
    }

    /// The guest's standard error, for `WasiCtxBuilder::stderr`.
    pub fn stderr(&self) -> GuestStream {
        GuestStream::new(self.clone(), LogStream::Stderr)
    }

    /// Ends the invocation before and counts what comes from now on as `invocation`'s.
    pub fn begin(&self, invocation: InvocationId) {
        let mut state = self.0.state();
        state.end(&self.0.sink);
        *state = State::new(invocation);
    }

    /// Says something about this invocation in its log, escaped and cut like any line: a trap, a limit, a refusal.
    pub fn remark(&self, text: impl fmt::Display) {
        self.0.state().remark(&self.0.sink, &text.to_string());
    }

    /// Prints `text` as lines of their own, whatever line the guest has begun on `stream`.
    pub fn say(&self, stream: LogStream, text: &str) {
        let (sink, mut state) = (&self.0.sink, self.0.state());
        let begun = std::mem::take(state.buffer(stream));
        state.print(sink, stream, text.as_bytes());
        state.print(sink, stream, b"\n");
        *state.buffer(stream) = begun;
    }

    /// Ends the invocation: emits lines without an end and says what was dropped. Dropping the last clone does the same.
    pub fn end(&self) {
        self.0.state().end(&self.0.sink);
    }

    fn print(&self, stream: LogStream, bytes: &[u8]) {
        self.0.state().print(&self.0.sink, stream, bytes);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Self { sink, state } = self;
        state.get_mut().unwrap_or_else(PoisonError::into_inner).end(sink);
    }
}

impl State {
    fn new(invocation: InvocationId) -> Self {
        Self {
            invocation,
            out: LineBuffer::default(),
            err: LineBuffer::default(),
            lines: 0,
            remarks: 0,
            bytes: 0,
            full: false,
            dropped_lines: 0,
            dropped_bytes: 0,
        }
    }

    fn print(&mut self, sink: &OutputSink, stream: LogStream, bytes: &[u8]) {
        if self.full {
            return self.count(bytes);
        }
        let mut buffer = std::mem::take(self.buffer(stream));
        let mut rest = bytes;
        while let Some(line) = buffer.next_line(&mut rest) {
            self.line(sink, stream, &line);
            if self.full {
                self.count(rest);
                break;
            }
        }
        *self.buffer(stream) = buffer;
    }

    fn buffer(&mut self, stream: LogStream) -> &mut LineBuffer {
        if stream == LogStream::Stderr { &mut self.err } else { &mut self.out }
    }

    fn line(&mut self, sink: &OutputSink, stream: LogStream, raw: &[u8]) {
        let text = escape(raw);
        // What a line costs is what the log has to keep of it, which escaping makes larger.
        let cost = text.len() as u64 + 1;
        let fits = self.bytes + cost <= sink.limit().bytes() && self.lines < MAX_LINES;
        self.full |= !fits;
        if !fits || !sink.rate().take(cost, Instant::now()) {
            self.dropped_lines += 1;
            self.dropped_bytes += raw.len() as u64;
            return;
        }
        self.bytes += cost;
        self.lines += 1;
        sink.emit(self.invocation, stream, text);
    }

    fn count(&mut self, dropped: &[u8]) {
        self.dropped_bytes += dropped.len() as u64;
        self.dropped_lines += dropped.iter().filter(|&&byte| byte == b'\n').count() as u64;
    }

    fn remark(&mut self, sink: &OutputSink, text: &str) {
        if self.remarks < MAX_REMARKS {
            self.remarks += 1;
            let mut end = text.len().min(MAX_LINE);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            self.report(sink, escape(&text.as_bytes()[..end]));
        }
    }

    /// Emits a line of the runtime's own. It may use the reserve of the rate, and is only counted beyond that.
    fn report(&mut self, sink: &OutputSink, text: String) -> bool {
        let fits = sink.rate().take_reserve(text.len() as u64 + 1, Instant::now());
        if fits {
            sink.emit(self.invocation, LogStream::Runtime, text);
        } else {
            sink.unreported.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    fn end(&mut self, sink: &OutputSink) {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            if let Some(line) = std::mem::take(self.buffer(stream)).rest() {
                self.line(sink, stream, &line);
            }
        }
        if self.dropped_bytes == 0 && self.dropped_lines == 0 {
            return;
        }
        let (lines, bytes) = (self.dropped_lines, ByteSize(self.dropped_bytes));
        let why = if self.full {
            format!("an invocation may print limits.logs = {} and {MAX_LINES} lines", sink.limit())
        } else {
            format!("a function may print {} per second on each node", ByteSize(RATE))
        };
        let before = match sink.unreported.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            n => format!("; {n} remarks on earlier invocations were dropped as well"),
        };
        if self.report(sink, format!("dropped {bytes} of output in {lines} lines: {why}{before}")) {
            (self.dropped_lines, self.dropped_bytes) = (0, 0);
        }
    }
}
