//! A request's frame, written and read as gateway and node do it: for this crate's benchmarks and nobody else.
//!
//! Benchmarks see only what is public; by these two functions the types of the wire can stay private. Bounded by what they
//! are given.

use bytes::Bytes;
use http::HeaderMap;

use super::frame::{Frame, Invoke, Key, encode_with};

/// The frame of a POST with `fields` and `body`.
pub fn write(fields: &HeaderMap, body: &[u8]) -> Bytes {
    let invoke = Invoke {
        gateway: "gateway-1",
        function: "orders",
        revision: "0123456789ab",
        sent_unix_us: 1_700_000_000_000_000,
        accept_by_us: 250_000,
        deadline_us: 30_000_000,
        trace: (1 << 120, 1 << 60, 1),
        may_load: false,
        streamed: false,
        method: "POST",
        uri: "/orders/4711?currency=EUR",
        fields: fields.len() as u32,
        body: body.len() as u32,
    };
    encode_with(Key { id: 1 << 120, attempt: 1 }, &invoke, fields, body)
}

/// What [`write`] was given; none if the frame is not one of its.
pub fn read(frame: &Bytes) -> Option<(HeaderMap, Bytes)> {
    let frame = Frame::read(frame).ok()?;
    let (invoke, tail) = frame.parts::<Invoke<'_>>().ok()?;
    tail.split(invoke.fields, invoke.body).ok()
}
