//! Bodies that leave: what of them fits into the first frame, and the chunks of the rest.

use async_nats::{Client, Subject};
use bytes::{Bytes, BytesMut};
use dunlin_api::{Body, BodyError};
use http::HeaderMap;
use http_body::{Body as _, Frame as Part};
use http_body_util::BodyExt;
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    frame::{Abort, Chunk, End, Key, encode, encode_with},
    link::publish,
    valve::Valve,
};

/// Most bytes of a body that travel with its head. Eight times this is NATS' default for a message.
pub(super) const INLINE: usize = 128 << 10;

/// The beginning of a body, and the body it was taken from.
pub(super) struct Ahead {
    parts: Vec<Bytes>,
    bytes: usize,
    /// What was read and does not belong to the beginning.
    left: VecDeque<Result<Part<Bytes>, BodyError>>,
    ended: bool,
    body: Body,
}

impl Ahead {
    pub(super) fn of(body: Body) -> Self {
        Self { parts: Vec::new(), bytes: 0, left: VecDeque::new(), ended: false, body }
    }

    /// Reads on until the body ended or as much was read as travels with a head.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.left.is_empty() && self.bytes < INLINE {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.ended = true,
                Some(Ok(part)) => match part.into_data() {
                    Ok(data) => self.push(data),
                    Err(trailers) => self.left.push_back(Ok(trailers)),
                },
                Some(Err(error)) => self.left.push_back(Err(error)),
            }
        }
        self.ended |= self.left.is_empty() && self.body.is_end_stream();
        Poll::Ready(())
    }

    fn push(&mut self, mut data: Bytes) {
        let fits = data.len().min(INLINE - self.bytes);
        let rest = data.split_off(fits);
        self.bytes += fits;
        if !data.is_empty() {
            self.parts.push(data);
        }
        if !rest.is_empty() {
            self.left.push_back(Ok(Part::data(rest)));
        }
    }

    /// Reads what is there without waiting.
    pub(super) async fn now(&mut self) {
        poll_fn(|cx| {
            let _ = self.poll(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// The beginning, and the rest unless that was all.
    pub(super) fn split(mut self) -> (Bytes, Option<Body>) {
        let first = match self.parts.len() {
            0 => Bytes::new(),
            1 => self.parts.swap_remove(0),
            _ => {
                let mut all = BytesMut::with_capacity(self.bytes);
                self.parts.iter().for_each(|part| all.extend_from_slice(part));
                all.freeze()
            }
        };
        if self.ended && self.left.is_empty() {
            (first, None)
        } else if self.left.is_empty() {
            (first, Some(self.body))
        } else {
            (first, Some(Body::stream(Rest { left: self.left, body: self.body })))
        }
    }

    /// The error, if the body broke before anything else was left over.
    pub(super) fn take_error(&mut self) -> Option<BodyError> {
        self.left.pop_front_if(|part| part.is_err())?.err()
    }
}

/// A body some parts of which were read already.
struct Rest {
    left: VecDeque<Result<Part<Bytes>, BodyError>>,
    body: Body,
}

impl http_body::Body for Rest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Part<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.left.pop_front() {
            Some(part) => Poll::Ready(Some(part)),
            None => Pin::new(&mut this.body).poll_frame(cx),
        }
    }
}

/// Where a body goes.
pub(super) struct Outbound<'a> {
    pub(super) bulk: &'a Client,
    pub(super) to: Subject,
    pub(super) key: Key,
    pub(super) valve: &'a Valve,
}

impl Outbound<'_> {
    /// Sends `body` as credit allows, and how it ended.
    ///
    /// # Errors
    /// A sentence that says why NATS took no more: the receiver must learn of it in another way.
    pub(super) async fn pump(&self, mut body: Body) -> Result<(), String> {
        self.valve.opened().await;
        let (mut seq, mut total, mut trailers) = (0, 0, HeaderMap::new());
        while let Some(part) = body.frame().await {
            match part.map(Part::into_data) {
                Ok(Ok(data)) => {
                    total += data.len() as u64;
                    self.chunks(data, &mut seq).await?;
                }
                Ok(Err(part)) => trailers = part.into_trailers().unwrap_or_default(),
                Err(error) => return self.send(encode(self.key, &Abort { reason: &short(&*error) })).await,
            }
        }
        let end = End { seq, total, fields: trailers.len() as u32 };
        self.send(encode_with(self.key, &end, &trailers, &[])).await
    }

    async fn chunks(&self, mut data: Bytes, seq: &mut u32) -> Result<(), String> {
        while !data.is_empty() {
            let bytes = data.split_to(self.valve.take(data.len()).await);
            let chunk = Chunk { seq: *seq, body: bytes.len() as u32 };
            self.send(encode_with(self.key, &chunk, &HeaderMap::new(), &bytes)).await?;
            *seq += 1;
        }
        Ok(())
    }

    async fn send(&self, frame: Bytes) -> Result<(), String> {
        publish(self.bulk, self.to.clone(), None, frame).await
    }
}

/// An error's text, of a length that always fits into a frame.
pub(super) fn short(error: &(impl std::fmt::Display + ?Sized)) -> String {
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(4 << 10));
    text
}
