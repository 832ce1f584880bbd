//! Bodies that arrive in chunks, from whichever end.
//!
//! The reader of the bulk connection hands frames to [`Streams`]; whoever reads the body polls its [`Inbound`]. Credit goes
//! back as bytes are really consumed. A stream begins with a window of [`FIRST`] bytes; it doubles, to at most [`MOST`],
//! each time the reader keeps up and the sender is near the end of its credit, while the node's buffer has room. So the
//! buffered bytes are bounded by that buffer plus [`FIRST`] for each stream, and a stream that trickles holds little.
//! A chunk that is missing, or one too many, breaks the body: it never ends cleanly without being whole.

use async_nats::Subject;
use bytes::Bytes;
use dashmap::DashMap;
use dunlin_api::BodyError;
use http::HeaderMap;
use http_body::Frame as Part;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::time::Instant;

use super::{
    frame::{Abort, Chunk, Credit, End, Frame, Key, Kind, Unreadable, encode, key_of},
    link::{Outbox, lock},
    valve::CHUNK_COST,
};

/// The window of a stream that has not shown that it needs more.
pub(super) const FIRST: u64 = 16 << 10;
/// The largest window: 400 to 500 MiB/s on one machine, measured.
const MOST: u64 = 1 << 20;

const FULL: &str = "too many frames wait to be sent";

/// The bodies that arrive at one end.
pub(super) struct Streams {
    open: DashMap<Key, Arc<Stream>>,
    /// Bytes that windows may still grow by.
    spare: AtomicU64,
    outbox: Outbox,
}

struct Stream(Mutex<State>);

struct State {
    queue: VecDeque<Bytes>,
    /// The next chunk's number.
    seq: u32,
    /// Bytes that came.
    total: u64,
    window: u64,
    /// These three count bytes and what chunks cost beside them, from the beginning.
    granted: u64,
    received: u64,
    consumed: u64,
    heard: Instant,
    end: Option<Result<HeaderMap, String>>,
    waker: Option<Waker>,
}

impl Streams {
    pub(super) fn new(buffer: u64, outbox: Outbox) -> Arc<Self> {
        Arc::new(Self { open: DashMap::new(), spare: AtomicU64::new(buffer), outbox })
    }

    /// Expects a body. Its sender may send [`FIRST`] bytes at once; further credit goes `to` it.
    pub(super) fn open(self: &Arc<Self>, key: Key, to: Subject) -> Inbound {
        let state = State {
            queue: VecDeque::new(),
            seq: 0,
            total: 0,
            window: FIRST,
            granted: FIRST,
            received: 0,
            consumed: 0,
            heard: Instant::now(),
            end: None,
            waker: None,
        };
        let stream = Arc::new(Stream(Mutex::new(state)));
        self.open.insert(key, stream.clone());
        Inbound { key, to, stream, streams: self.clone() }
    }

    /// Takes a message of the bulk connection. One of a stream that nobody reads any more is dropped; one that cannot be
    /// read breaks its stream.
    pub(super) fn take(&self, payload: &Bytes) {
        let stream = key_of(payload).and_then(|key| self.open.get(&key).map(|entry| entry.value().clone()));
        let Some(stream) = stream else { return };
        let mut state = lock(&stream.0);
        if let Err(error) = Frame::read(payload).and_then(|frame| state.take(&frame)) {
            state.end(Err(format!("a frame cannot be read: {error}")));
        }
        state.wake();
    }

    /// Breaks every body: chunks may have been lost.
    pub(super) fn fail_all(&self, reason: &str) {
        let open: Vec<_> = self.open.iter().map(|entry| entry.value().clone()).collect();
        open.iter().for_each(|stream| stream.fail(reason));
    }

    /// Reserves `bytes` of the node's buffer.
    fn reserve(&self, bytes: u64) -> bool {
        let take = |spare: u64| spare.checked_sub(bytes);
        self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl Stream {
    fn fail(&self, reason: &str) {
        let mut state = lock(&self.0);
        state.end(Err(reason.to_owned()));
        state.wake();
    }
}

impl State {
    fn take(&mut self, frame: &Frame) -> Result<(), Unreadable> {
        self.heard = Instant::now();
        match frame.kind {
            Kind::Chunk => {
                let (chunk, tail) = frame.parts::<Chunk>()?;
                let (_, bytes) = tail.split(0, chunk.body)?;
                self.chunk(chunk.seq, bytes);
            }
            Kind::End => {
                let (end, tail) = frame.parts::<End>()?;
                let (trailers, _) = tail.split(end.fields, 0)?;
                let whole = end.seq == self.seq && end.total == self.total;
                self.end(if whole { Ok(trailers) } else { Err(self.gap(end.seq)) });
            }
            Kind::Abort => {
                let reason = frame.head::<Abort<'_>>()?.reason.to_owned();
                self.end(Err(reason));
            }
            _ => return Err(Unreadable::Malformed),
        }
        Ok(())
    }

    fn chunk(&mut self, seq: u32, bytes: Bytes) {
        if self.end.is_some() {
            return;
        }
        self.received += bytes.len() as u64 + CHUNK_COST;
        if seq != self.seq {
            self.end(Err(self.gap(seq)));
        } else if self.received > self.granted {
            self.end(Err("more bytes came than there was credit for".into()));
        } else {
            self.seq += 1;
            self.total += bytes.len() as u64;
            self.queue.push_back(bytes);
        }
    }

    fn gap(&self, seq: u32) -> String {
        format!("chunks were lost: number {} was due, {seq} came", self.seq)
    }

    /// The first end is the one that counts. What came before it is read first: it is in order.
    fn end(&mut self, end: Result<HeaderMap, String>) {
        self.end.get_or_insert(end);
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Counts a chunk as consumed, and says how much credit goes back now.
    fn consume(&mut self, bytes: usize, streams: &Streams) -> Option<u64> {
        self.consumed += bytes as u64 + CHUNK_COST;
        let scarce = self.granted.saturating_sub(self.received) < self.window / 4;
        if scarce && self.queue.is_empty() && self.window < MOST && streams.reserve(self.window) {
            self.window *= 2;
        }
        let due = self.consumed + self.window - self.granted;
        let due = (due >= self.window / 4 && self.end.is_none()).then_some(due)?;
        self.granted += due;
        Some(due)
    }
}

/// One body that arrives. Dropping it forgets the stream.
pub(super) struct Inbound {
    key: Key,
    to: Subject,
    stream: Arc<Stream>,
    streams: Arc<Streams>,
}

impl Inbound {
    /// Tells the sender of its first credit, where nothing else does.
    pub(super) fn begin(&self) {
        if !self.streams.outbox.post(self.to.clone(), encode(self.key, &Credit { bytes: FIRST })) {
            self.stream.fail(FULL);
        }
    }

    /// When anything of it came last.
    pub(super) fn heard(&self) -> Instant {
        lock(&self.stream.0).heard
    }

    /// The next part; none after the last.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part<Bytes>, BodyError>>> {
        let mut state = lock(&self.stream.0);
        if let Some(bytes) = state.queue.pop_front() {
            if let Some(bytes) = state.consume(bytes.len(), &self.streams) {
                let posted = self.streams.outbox.post(self.to.clone(), encode(self.key, &Credit { bytes }));
                if !posted {
                    state.end(Err(FULL.into()));
                }
            }
            return Poll::Ready(Some(Ok(Part::data(bytes))));
        }
        match &mut state.end {
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Err(reason)) => Poll::Ready(Some(Err(reason.clone().into()))),
            Some(Ok(trailers)) if trailers.is_empty() => Poll::Ready(None),
            Some(Ok(trailers)) => Poll::Ready(Some(Ok(Part::trailers(std::mem::take(trailers))))),
        }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.streams.open.remove(&self.key);
        let grown = lock(&self.stream.0).window - FIRST;
        self.streams.spare.fetch_add(grown, Ordering::Relaxed);
    }
}
