//! The body of a request that streams from a gateway: its beginning, then what arrives.

use bytes::Bytes;
use dunlin_api::BodyError;
use http_body::Frame as Part;
use std::{
    pin::Pin,
    task::{Context, Poll},
};

use super::inbound::Inbound;

pub(super) struct Upload {
    pub(super) first: Option<Bytes>,
    pub(super) inbound: Inbound,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Part<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Part::data(first)))),
            None => this.inbound.poll(cx),
        }
    }
}
