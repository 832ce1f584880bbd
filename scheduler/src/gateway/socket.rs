//! The socket under one connection: tells the versions of HTTP apart, and tells the connection's pulse what it sees.
//!
//! hyper reads and writes through it; it adds no buffer but the 24 bytes it had to read ahead.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::pulse::Pulse;

/// The start of every HTTP/2 connection (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The socket of one connection, seen by its [`Pulse`].
pub(super) struct Socket {
    stream: TcpStream,
    pulse: Arc<Pulse>,
    /// What was read to tell the versions apart, and how much of it is there and was handed on.
    start: [u8; 24],
    filled: u8,
    taken: u8,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse, start: [0; 24], filled: 0, taken: 0 }
    }

    /// Reads until it is clear whether the peer speaks HTTP/2 with prior knowledge.
    pub(super) async fn speaks_http2(&mut self) -> std::io::Result<bool> {
        while usize::from(self.filled) < PREFACE.len() {
            let read = self.stream.read(&mut self.start[self.filled.into()..]).await?;
            self.filled += read as u8;
            let filled = usize::from(self.filled);
            if read == 0 || self.start[..filled] != PREFACE[..filled] {
                if filled > 0 {
                    self.pulse.read();
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes what fits at once and gives up on the rest: for last words.
    pub(super) fn try_write(&self, bytes: &[u8]) {
        let _ = self.stream.try_write(bytes);
    }

    /// Makes the coming close a reset.
    pub(super) fn reset(&self) {
        let _ = self.stream.set_zero_linger();
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if this.taken < this.filled {
            let start = &this.start[this.taken.into()..this.filled.into()];
            let part = &start[..start.len().min(buf.remaining())];
            buf.put_slice(part);
            this.taken += part.len() as u8;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.pulse.read();
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.pulse.wrote(result.is_pending());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.pulse.wrote(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
