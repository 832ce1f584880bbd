//! Bodies as streams: [`Reader`] for what comes in, [`Writer`] for what goes out.
//!
//! Used by requests, responses and fetch. Nothing here holds more than one chunk of at most 64 KiB; the other side's pace
//! is passed on, since every call waits for the host.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use wasip2::http::types::{IncomingBody, OutgoingBody};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use crate::{Error, convert};

/// What hosts hand over in one piece without splitting it.
const CHUNK_BYTES: u64 = 64 * 1024;
/// The most that `blocking-write-and-flush` takes (`wasi:io/streams`).
const SINGLE_WRITE_BYTES: usize = 4096;

/// An incoming body, in pieces, as they arrive. Read it with [`std::io::Read`].
pub struct Reader {
    // Declared before the body: the host wants a stream gone before the body it belongs to.
    stream: InputStream,
    body: IncomingBody,
    chunk: Vec<u8>,
    taken: usize,
}

impl Reader {
    pub(crate) fn new(body: IncomingBody) -> Result<Self, Error> {
        let stream = body.stream().map_err(|()| io::Error::other("the body is being read already"))?;
        Ok(Self { stream, body, chunk: Vec::new(), taken: 0 })
    }

    /// The next piece, at most 64 KiB and never empty; `None` at the end. Costs one copy less than `read`.
    ///
    /// # Errors
    /// When the sender broke off.
    pub fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.taken < self.chunk.len() {
            return Ok(Some(self.chunk.split_off(std::mem::take(&mut self.taken))));
        }
        loop {
            match self.stream.blocking_read(CHUNK_BYTES) {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => return Ok(Some(chunk)),
                Err(StreamError::Closed) => return Ok(None),
                Err(StreamError::LastOperationFailed(cause)) => return Err(io::Error::other(cause.to_debug_string())),
            }
        }
    }

    /// The whole rest of the body.
    ///
    /// # Errors
    /// 413 when it is longer than `limit` bytes, 500 when the sender broke off.
    pub fn bytes(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(mut chunk) = self.next_chunk()? {
            if whole.len() + chunk.len() > limit {
                let message = format!("the body is longer than {limit} bytes");
                return Err(Error::new(StatusCode::PAYLOAD_TOO_LARGE, message).public());
            }
            if whole.is_empty() {
                whole = chunk;
            } else {
                whole.append(&mut chunk);
            }
        }
        Ok(whole)
    }

    /// The trailers, empty when there are none. Waits for the end of the body and drops what was not read.
    ///
    /// # Errors
    /// When the sender broke off.
    pub fn trailers(mut self) -> Result<HeaderMap, Error> {
        while self.next_chunk()?.is_some() {}
        drop(self.stream);
        let trailers = IncomingBody::finish(self.body);
        trailers.subscribe().block();
        match trailers.get() {
            Some(Ok(Ok(Some(fields)))) => Ok(convert::headers_in(&fields)),
            Some(Ok(Err(code))) => Err(code.into()),
            _ => Ok(HeaderMap::new()),
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.chunk.len() {
            self.chunk = self.next_chunk()?.unwrap_or_default();
            self.taken = 0;
        }
        let size = buffer.len().min(self.chunk.len() - self.taken);
        buffer[..size].copy_from_slice(&self.chunk[self.taken..self.taken + size]);
        self.taken += size;
        Ok(size)
    }
}

/// An outgoing body. Write it with [`std::io::Write`]; `flush` waits until the host has taken everything.
///
/// Writing fails with [`io::ErrorKind::BrokenPipe`] when the receiver has gone.
pub struct Writer {
    stream: OutputStream,
    body: OutgoingBody,
    trailers: HeaderMap,
}

impl Writer {
    fn new(body: OutgoingBody) -> Result<Self, Error> {
        let stream = body.write().map_err(|()| io::Error::other("the body is being written already"))?;
        Ok(Self { stream, body, trailers: HeaderMap::new() })
    }

    /// Sends the rest of `reader`. The host moves the bytes; they never enter the guest's memory.
    ///
    /// # Errors
    /// When either side broke off.
    pub fn copy_from(&mut self, reader: &mut Reader) -> io::Result<()> {
        if reader.taken < reader.chunk.len() {
            self.write_all(&reader.chunk[reader.taken..])?;
            reader.taken = reader.chunk.len();
        }
        loop {
            match self.stream.blocking_splice(&reader.stream, CHUNK_BYTES) {
                Ok(_) => {}
                // Closed by which side? A reader that still has something means that the writer was.
                Err(StreamError::Closed) => match reader.next_chunk()? {
                    Some(chunk) => self.write_all(&chunk)?,
                    None => return Ok(()),
                },
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Sends these headers after the body's end.
    pub fn set_trailers(&mut self, trailers: HeaderMap) {
        self.trailers = trailers;
    }

    fn finish(mut self) -> Result<(), Error> {
        self.flush()?;
        drop(self.stream);
        let trailers = if self.trailers.is_empty() { None } else { Some(convert::headers_out(self.trailers.iter())?) };
        Ok(OutgoingBody::finish(self.body, trailers)?)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let room = usize::try_from(self.stream.check_write().map_err(failed)?).unwrap_or(usize::MAX);
            if room > 0 {
                let size = room.min(bytes.len());
                self.stream.write(&bytes[..size]).map_err(failed)?;
                return Ok(size);
            }
            self.stream.subscribe().block();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.blocking_flush().map_err(failed)
    }
}

fn failed(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::Error::new(io::ErrorKind::BrokenPipe, "the receiver has gone"),
        StreamError::LastOperationFailed(cause) => io::Error::other(cause.to_debug_string()),
    }
}

/// Makes a body, once its head has left.
type WriteBody = Box<dyn FnOnce(&mut Writer) -> Result<(), Error>>;

/// What a message carries, before it is sent.
pub(crate) enum Body {
    Empty,
    Bytes(Cow<'static, [u8]>),
    Stream(WriteBody),
}

impl Body {
    /// Adds `content-length` where the length is known and the author has not set it.
    pub(crate) fn announce(&self, headers: &mut Vec<(HeaderName, HeaderValue)>) {
        if let Self::Bytes(bytes) = self
            && headers.iter().all(|(name, _)| name != header::CONTENT_LENGTH)
        {
            headers.push((header::CONTENT_LENGTH, bytes.len().into()));
        }
    }

    /// Writes it all; the message's head must have been sent. A body that fails is left unfinished.
    pub(crate) fn send(self, body: OutgoingBody) -> Result<(), Error> {
        match self {
            Self::Empty => Ok(OutgoingBody::finish(body, None)?),
            Self::Bytes(bytes) if bytes.len() <= SINGLE_WRITE_BYTES => {
                let stream = body.write().map_err(|()| io::Error::other("the body is being written already"))?;
                stream.blocking_write_and_flush(&bytes).map_err(failed)?;
                drop(stream);
                Ok(OutgoingBody::finish(body, None)?)
            }
            Self::Bytes(bytes) => {
                let mut writer = Writer::new(body)?;
                writer.write_all(&bytes)?;
                writer.finish()
            }
            Self::Stream(write) => {
                let mut writer = Writer::new(body)?;
                write(&mut writer)?;
                writer.finish()
            }
        }
    }
}
