//! The frames of the wire, as bytes.
//!
//! A frame is a prefix of 19 bytes (version, kind, invocation, attempt), a head in postcard, and for some kinds a tail:
//! fields of an HTTP message, then bytes of a body. The prefix has this shape in every version, so that a node can answer
//! a frame of another version to the call it belongs to. Reading never panics and never copies a body; a frame that
//! is shorter or longer than its head says is unreadable. Bounds: one frame is one NATS message.

use bytes::Bytes;
use dunlin_api::{InvokeError, Load, Timing};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};

/// The version of the wire.
pub(super) const VERSION: u8 = 1;
const PREFIX: usize = 19;

/// Which call a frame belongs to: the invocation, and which try of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: u128,
    pub(super) attempt: u8,
}

impl Hash for Key {
    /// The lower half of an id is random bits (RFC 9562 §5.7): enough, and half of the work.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.id as u64 ^ u64::from(self.attempt));
    }
}

/// Why a frame cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it has version {0} of the wire, and this node speaks version {VERSION}: run the same release everywhere")]
    Version(u8),
    #[error("it is of the unknown kind {0}")]
    Kind(u8),
    #[error("it is malformed")]
    Malformed,
}

/// What a frame has after its prefix.
pub(super) trait Head: Serialize {
    const KIND: Kind;
}

macro_rules! kinds {
    ($($kind:ident $(<$life:lifetime>)? = $number:literal),* $(,)?) => {
        /// The kinds of frames. A number is never given to another kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Kind { $($kind = $number),* }

        impl Kind {
            fn of(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$kind),)* _ => None }
            }
        }

        $(impl Head for $kind $(<$life>)? { const KIND: Kind = Kind::$kind; })*
    };
}

kinds! {
    Invoke<'_> = 1, Accept = 2, Refused = 3, Failed = 4, Answer = 5, Progress = 6, Credit = 7, Cancel = 8, Chunk = 9,
    End = 10, Abort<'_> = 11, Ping = 12, Pong = 13, Prepare<'_> = 14, Ready = 15, Unprepared<'_> = 16,
    Unreadably<'_> = 17,
}

/// Asks a node to run a call. Tail: the request's fields, and the beginning of its body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Invoke<'a> {
    pub(super) gateway: &'a str,
    pub(super) function: &'a str,
    pub(super) revision: &'a str,
    /// The sender's clock; the times below count from here.
    pub(super) sent_unix_us: u64,
    pub(super) accept_by_us: u64,
    pub(super) deadline_us: u64,
    pub(super) trace: (u128, u64, u8),
    pub(super) may_load: bool,
    /// The rest of the body follows in chunks once the call is accepted.
    pub(super) streamed: bool,
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
    pub(super) fields: u32,
    pub(super) body: u32,
}

/// The call was begun; so many bytes of its request body may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Accept {
    pub(super) load: Load,
    pub(super) credit: u64,
}

/// The call was not begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) load: Load,
    pub(super) why: InvokeError,
}

/// The call ended with an error, before its answer or in the middle of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) load: Load,
    pub(super) started: bool,
    pub(super) error: InvokeError,
}

/// The answer of the function. Tail: its fields, and its body or the beginning of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) load: Load,
    pub(super) timing: Option<Timing>,
    pub(super) status: u16,
    /// The rest of the body follows in chunks once there is credit.
    pub(super) streamed: bool,
    pub(super) fields: u32,
    pub(super) body: u32,
}

/// The call, or the preparation, is still under way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) load: Load,
}

/// So many bytes more of a body may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Credit {
    pub(super) bytes: u64,
}

/// Nobody waits for the call any more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cancel;

/// The next bytes of a body. Tail: the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Chunk {
    pub(super) seq: u32,
    pub(super) body: u32,
}

/// The end of a body. Tail: its trailers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct End {
    /// What the sequence number of a further chunk would be.
    pub(super) seq: u32,
    /// Bytes of all chunks together.
    pub(super) total: u64,
    pub(super) fields: u32,
}

/// The body ended before its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Abort<'a> {
    pub(super) reason: &'a str,
}

/// Asks whether the node is there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ping;

/// It is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pong {
    pub(super) boot: u64,
    pub(super) load: Load,
}

/// Asks a node to make a revision ready. The revision is JSON, as in the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Prepare<'a> {
    pub(super) revision: &'a str,
}

/// The revision is ready.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ready;

/// The revision cannot be made ready here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Unprepared<'a> {
    /// The refusal, in JSON.
    pub(super) refusal: &'a str,
}

/// A frame could not be read; nothing was done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Unreadably<'a> {
    pub(super) reason: &'a str,
}

/// A frame whose prefix was read.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) key: Key,
    rest: Bytes,
}

impl Frame {
    /// Reads the prefix of a message.
    pub(super) fn read(payload: &Bytes) -> Result<Self, Unreadable> {
        let key = key_of(payload).ok_or(Unreadable::Malformed)?;
        // This kind means the same in every version: a newer node says by it that it did nothing.
        if payload[0] != VERSION && payload[1] != Kind::Unreadably as u8 {
            return Err(Unreadable::Version(payload[0]));
        }
        let kind = Kind::of(payload[1]).ok_or(Unreadable::Kind(payload[1]))?;
        Ok(Self { kind, key, rest: payload.slice(PREFIX..) })
    }

    /// Reads a head that has no tail.
    pub(super) fn head<'a, H: Head + Deserialize<'a>>(&'a self) -> Result<H, Unreadable> {
        let (head, tail) = self.parts::<H>()?;
        if tail.rest.is_empty() { Ok(head) } else { Err(Unreadable::Malformed) }
    }

    /// Reads a head, and gives what follows it.
    pub(super) fn parts<'a, H: Head + Deserialize<'a>>(&'a self) -> Result<(H, Tail), Unreadable> {
        if self.kind != H::KIND {
            return Err(Unreadable::Malformed);
        }
        let (head, rest) = postcard::take_from_bytes::<H>(&self.rest).map_err(|_| Unreadable::Malformed)?;
        Ok((head, Tail { rest: self.rest.slice_ref(rest) }))
    }

    /// The same bytes as a `str` of this frame, without a copy.
    pub(super) fn bytes_of(&self, text: &str) -> Bytes {
        self.rest.slice_ref(text.as_bytes())
    }
}

/// The call that a message belongs to, whatever its version.
pub(super) fn key_of(payload: &[u8]) -> Option<Key> {
    let prefix: &[u8; PREFIX] = payload.first_chunk()?;
    let id = u128::from_be_bytes(*prefix[2..].first_chunk()?);
    Some(Key { id, attempt: prefix[18] })
}

/// What follows a head.
pub(super) struct Tail {
    rest: Bytes,
}

impl Tail {
    /// Takes `fields` fields and then exactly `body` bytes.
    pub(super) fn split(mut self, fields: u32, body: u32) -> Result<(HeaderMap, Bytes), Unreadable> {
        let mut map = HeaderMap::new();
        for _ in 0..fields {
            let (name, value) = (self.text()?, self.text()?);
            let name = HeaderName::from_bytes(&name).map_err(|_| Unreadable::Malformed)?;
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| Unreadable::Malformed)?;
            map.try_append(name, value).map_err(|_| Unreadable::Malformed)?;
        }
        if self.rest.len() == body as usize { Ok((map, self.rest)) } else { Err(Unreadable::Malformed) }
    }

    fn text(&mut self) -> Result<Bytes, Unreadable> {
        let length = self.rest.first_chunk().copied().map(u32::from_le_bytes).ok_or(Unreadable::Malformed)? as usize;
        let end = length.checked_add(4).filter(|end| *end <= self.rest.len()).ok_or(Unreadable::Malformed)?;
        let text = self.rest.split_to(end);
        Ok(text.slice(4..))
    }
}

/// Writes a frame without a tail.
pub(super) fn encode<H: Head>(key: Key, head: &H) -> Bytes {
    write(key, head, 64).into()
}

/// Writes a frame with its tail.
pub(super) fn encode_with<H: Head>(key: Key, head: &H, fields: &HeaderMap, body: &[u8]) -> Bytes {
    let names: usize = fields.iter().map(|(name, value)| 8 + name.as_str().len() + value.len()).sum();
    // The head of a request with its names and path is below 256 bytes as a rule.
    let mut frame = write(key, head, 256 + names + body.len());
    for (name, value) in fields {
        for text in [name.as_str().as_bytes(), value.as_bytes()] {
            frame.extend_from_slice(&(text.len() as u32).to_le_bytes());
            frame.extend_from_slice(text);
        }
    }
    frame.extend_from_slice(body);
    frame.into()
}

fn write<H: Head>(key: Key, head: &H, capacity: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(PREFIX + capacity);
    frame.extend_from_slice(&[VERSION, H::KIND as u8]);
    frame.extend_from_slice(&key.id.to_be_bytes());
    frame.push(key.attempt);
    postcard::to_extend(head, frame).expect("heads are plain data, which postcard always takes")
}

#[cfg(test)]
mod tests;
