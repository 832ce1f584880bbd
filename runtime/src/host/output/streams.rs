//! The guest's ends of an [`Output`], for WASI 0.2 and 0.3.

use bytes::Bytes;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use dunlin_api::LogStream;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::Output;

/// What one write may carry. The guest's bytes are copied once to the host for it, so it also bounds host memory.
const WRITE: usize = 64 << 10;

/// A standard stream of the guest. Always ready: what has no room is dropped and counted, never waited for.
#[derive(Clone)]
pub struct GuestStream {
    output: Output,
    stream: LogStream,
}

impl GuestStream {
    pub(super) fn new(output: Output, stream: LogStream) -> Self {
        Self { output, stream }
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

// Both are given, because the default 0.2 stream buffers empty writes without bound (GHSA-5m8g-xhq4-4h93).
impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.print(self.stream, &bytes);
        Ok(())
    }

    // A flush ends no line: programs flush after each part of one.
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}

// What `#[async_trait]` makes of `async fn ready(&mut self) {}`; the trait was written with it.
impl Pollable for GuestStream {
    fn ready<'a, 'f>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(std::future::ready(()))
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.print(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
