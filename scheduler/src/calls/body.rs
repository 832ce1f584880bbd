//! Bodies that are taken in and given out again: few bytes stay in memory, more are a blob. Neither way is a large body
//! ever held as a whole.

use bytes::{Bytes, BytesMut};
use dunlin_api::{Body, ByteSize};
use futures::{StreamExt, TryStreamExt, future};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use sha2::{Digest as _, Sha256};

use super::item::Payload;
use crate::store::{ByteStream, PutError, events::Blobs};

/// Where a body goes.
pub(super) struct Place<'a> {
    pub blobs: &'a dyn Blobs,
    /// The blob it becomes if it has more bytes than `inline`.
    pub name: String,
    pub inline: usize,
    /// More than this is refused.
    pub max: ByteSize,
}

impl Place<'_> {
    /// Takes `body` in; its bytes go through `hash`, if there is one. Trailers are left behind.
    ///
    /// # Errors
    /// `TooLarge`, `Source` if the body broke off, `Store`. Nothing stays behind.
    pub(super) async fn take(self, mut body: Body, mut hash: Option<&mut Sha256>) -> Result<Payload, PutError> {
        let mut head = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(PutError::Source)?.into_data() else { continue };
            if let Some(hash) = &mut hash {
                hash.update(&data);
            }
            head.extend_from_slice(&data);
            if head.len() as u64 > self.max.bytes() {
                return Err(PutError::TooLarge { limit: self.max });
            }
            if head.len() > self.inline {
                let rest = body.into_data_stream().inspect_ok(move |data| {
                    if let Some(hash) = &mut hash {
                        hash.update(data);
                    }
                });
                let all = futures::stream::once(future::ok(head.freeze())).chain(rest);
                let bytes = self.blobs.put(&self.name, all.boxed(), self.max).await?;
                return Ok(Payload::Blob { name: self.name, bytes });
            }
        }
        Ok(Payload::Inline(head.freeze()))
    }
}

/// A body of what was kept.
pub(super) fn stream(bytes: ByteStream<'static>) -> Body {
    Body::stream(StreamBody::new(bytes.map_ok(Frame::data)))
}

/// A body of `bytes`.
pub(super) fn inline(bytes: Bytes) -> Body {
    if bytes.is_empty() { Body::Empty } else { Body::full(bytes) }
}
