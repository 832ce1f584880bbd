//! The last lines of every function, and whoever follows them.
//!
//! Sandboxes write here through [`Logs`]; the admin API reads. A line goes into its function's ring, to followers, and to
//! `tracing` at the target `function`. Writing takes one short lock of that function's ring and never waits for a reader:
//! a follower that cannot keep up is told how many lines it missed. Bounds, all in [`Bounds`]: lines and bytes per
//! function, functions, bytes of one line, followers, and lines a follower may lag behind.

use dashmap::DashMap;
use dunlin_api::{FunctionName, LogLine, LogStream, Logs};
use futures::{Stream, StreamExt, future, stream};
use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

/// How much a [`LogHub`] keeps.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Lines kept of one function.
    pub lines: usize,
    /// Bytes of text kept of one function.
    pub bytes: usize,
    /// Functions of which lines are kept; beyond them the one that was silent longest is forgotten.
    pub functions: usize,
    /// Bytes of one line; the rest of it is cut off.
    pub line_bytes: usize,
    /// Followers at once.
    pub followers: usize,
    /// Lines that a follower may lag behind.
    pub lag: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        // 128 MiB if a thousand functions print all they can.
        Self { lines: 1_000, bytes: 128 << 10, functions: 1_024, line_bytes: 16 << 10, followers: 64, lag: 1_024 }
    }
}

/// There are as many followers as the hub takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} clients follow logs on this node already")]
pub struct TooManyFollowers(usize);

/// A line with its number, which tells a tail from what follows it.
#[derive(Debug)]
struct Numbered {
    number: u64,
    line: LogLine,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Arc<Numbered>>,
    bytes: usize,
    last_ms: u64,
    /// There while somebody follows this function.
    followers: Option<broadcast::Sender<Arc<Numbered>>>,
}

/// Keeps and passes on log lines.
pub struct LogHub {
    bounds: Bounds,
    next: AtomicU64,
    rings: DashMap<FunctionName, Ring>,
    /// Followers of all functions.
    all: broadcast::Sender<Arc<Numbered>>,
    followers: Arc<AtomicUsize>,
}

impl Default for LogHub {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

impl LogHub {
    /// An empty hub.
    pub fn new(bounds: Bounds) -> Self {
        let (all, _) = broadcast::channel(bounds.lag.max(1));
        Self { bounds, next: AtomicU64::new(0), rings: DashMap::new(), all, followers: Arc::default() }
    }

    /// The last `count` lines of `function`, or of all, oldest first.
    pub fn tail(&self, function: Option<&FunctionName>, count: usize) -> Vec<LogLine> {
        self.numbered_tail(function, count).iter().map(|n| n.line.clone()).collect()
    }

    /// The last `count` lines and then every further one; without a gap or a repetition between the two.
    ///
    /// # Errors
    /// When too many follow already.
    pub fn follow(
        &self,
        function: Option<FunctionName>,
        count: usize,
    ) -> Result<impl Stream<Item = LogLine> + Send + use<>, TooManyFollowers> {
        let place = Place::take(&self.followers, self.bounds.followers)?;
        // First the live lines, then the tail: what comes between is in both, and told apart by its number.
        let live = self.subscribe(function.as_ref());
        let tail = self.numbered_tail(function.as_ref(), count);
        let seen: HashSet<u64> = tail.iter().map(|n| n.number).collect();
        let mut missed = 0;
        let live = BroadcastStream::new(live).filter_map(move |received| {
            let _held = &place;
            let lines = match received {
                Err(BroadcastStreamRecvError::Lagged(count)) => {
                    missed += count;
                    None
                }
                Ok(n) if seen.contains(&n.number) => None,
                Ok(n) => Some(with_gap(std::mem::take(&mut missed), &n.line)),
            };
            future::ready(lines)
        });
        let tail = stream::iter(tail).map(|n| n.line.clone());
        Ok(tail.chain(live.flat_map(stream::iter)))
    }

    /// Forgets the lines of a function that was removed.
    pub fn forget(&self, function: &FunctionName) {
        self.rings.remove(function);
    }

    fn subscribe(&self, function: Option<&FunctionName>) -> broadcast::Receiver<Arc<Numbered>> {
        let Some(name) = function else { return self.all.subscribe() };
        self.make_room(name);
        let mut ring = self.rings.entry(name.clone()).or_default();
        ring.followers.get_or_insert_with(|| broadcast::channel(self.bounds.lag.max(1)).0).subscribe()
    }

    fn numbered_tail(&self, function: Option<&FunctionName>, count: usize) -> Vec<Arc<Numbered>> {
        let last = |ring: &Ring| ring.lines.iter().rev().take(count).cloned().collect::<Vec<_>>();
        let mut lines = match function {
            Some(name) => self.rings.get(name).map(|ring| last(&ring)).unwrap_or_default(),
            None => self.rings.iter().flat_map(|ring| last(&ring)).collect(),
        };
        lines.sort_unstable_by_key(|n| n.number);
        lines.split_off(lines.len().saturating_sub(count))
    }

    /// Makes room for a ring of `name`: the function that was silent longest and that nobody follows goes.
    fn make_room(&self, name: &FunctionName) {
        if self.rings.len() < self.bounds.functions || self.rings.contains_key(name) {
            return;
        }
        let silent = self.rings.iter().filter(|ring| ring.followers.is_none()).min_by_key(|ring| ring.last_ms);
        // The guard of the ring ends before its shard is written.
        let silent = silent.map(|ring| ring.key().clone());
        if let Some(silent) = silent {
            self.rings.remove(&silent);
        }
    }

    fn number(&self, mut line: LogLine) -> Arc<Numbered> {
        let over = line.text.len().saturating_sub(self.bounds.line_bytes);
        if over > 0 {
            line.text.truncate(line.text.floor_char_boundary(self.bounds.line_bytes));
            line.text.push_str(&format!("… ({over} more bytes)"));
        }
        Arc::new(Numbered { number: self.next.fetch_add(1, Ordering::Relaxed), line })
    }
}

impl Logs for LogHub {
    fn line(&self, line: LogLine) {
        emit(&line);
        let line = self.number(line);
        let name = &line.line.function;
        self.make_room(name);
        self.rings.entry(name.clone()).or_default().push(&line, &self.bounds);
        // An error means that nobody follows.
        let _ = self.all.send(line);
    }
}

impl Ring {
    fn push(&mut self, line: &Arc<Numbered>, bounds: &Bounds) {
        self.last_ms = line.line.time_ms;
        self.bytes += line.line.text.len();
        self.lines.push_back(line.clone());
        while (self.lines.len() > bounds.lines || self.bytes > bounds.bytes)
            && let Some(old) = self.lines.pop_front()
        {
            self.bytes -= old.line.text.len();
        }
        if self.followers.as_ref().is_some_and(|followers| followers.send(line.clone()).is_err()) {
            self.followers = None;
        }
    }
}

/// A follower's place, free again when its stream ends.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Result<Self, TooManyFollowers> {
        let place = Self(taken.clone());
        let before = taken.fetch_add(1, Ordering::Relaxed);
        if before < limit { Ok(place) } else { Err(TooManyFollowers(limit)) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The line, after one that says how many are missing before it.
fn with_gap(missed: u64, line: &LogLine) -> Vec<LogLine> {
    let mut lines = Vec::with_capacity(2);
    if missed > 0 {
        let text = format!("{missed} lines are missing here: the reader was slower than the function");
        lines.push(LogLine { text, stream: LogStream::Runtime, ..line.clone() });
    }
    lines.push(line.clone());
    lines
}

fn emit(line: &LogLine) {
    let stream = match line.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Runtime => "runtime",
    };
    let (function, revision, invocation) = (&line.function, &line.revision, line.invocation);
    tracing::info!(target: "function", %function, %revision, %invocation, stream, "{}", line.text);
}
