//! How a message stands in the database.

use bytes::Bytes;
use dunlin_api::Message;

use crate::store::events::Stored;

/// Time in ms, subject, headers by postcard, payload.
pub(super) type Value<'a> = (u64, &'a str, &'a [u8], &'a [u8]);

/// The headers of a message.
pub(super) fn headers(message: &Message) -> Result<Vec<u8>, redb::Error> {
    postcard::to_stdvec(&message.headers).map_err(|e| redb::Error::Corrupted(format!("headers: {e}")))
}

/// The message of a row.
pub(super) fn read(sequence: u64, (time_ms, subject, headers, payload): Value<'_>) -> Result<Stored, redb::Error> {
    let headers = postcard::from_bytes(headers);
    let headers = headers.map_err(|e| redb::Error::Corrupted(format!("the headers of message {sequence}: {e}")))?;
    let message = Message { subject: subject.to_owned(), headers, payload: Bytes::copy_from_slice(payload) };
    Ok(Stored { sequence, time_ms, message })
}

/// What counts against the bound of a log.
pub(super) fn size((_, subject, headers, payload): Value<'_>) -> u64 {
    (subject.len() + headers.len() + payload.len()) as u64
}

/// The subjects of a stream.
pub(super) fn subjects(joined: &str) -> Vec<String> {
    joined.split(' ').map(str::to_owned).collect()
}
