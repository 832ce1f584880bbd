//! Messages as this project and as async-nats have them.
//!
//! async-nats does not keep the order of headers, so they come in the order of their names; values of one name keep theirs.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use dunlin_api::{Message, StoreError};

/// Headers that the protocol adds between the one who publishes and the one who reads.
const OF_THE_PROTOCOL: [&str; 2] = ["Nats-Msg-Id", "Nats-Pin-Id"];

/// The headers of `message` for NATS; none = it has none.
pub(super) fn headers(message: &Message) -> Result<Option<HeaderMap>, StoreError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        let invalid = || StoreError::Invalid(format!("`{}` is no header of a message", name.escape_debug()));
        let value: HeaderValue = value.parse().map_err(|_| invalid())?;
        // async-nats lets it pass.
        if name.is_empty() {
            return Err(invalid());
        }
        headers.append(name.parse::<HeaderName>().map_err(|_| invalid())?, value);
    }
    Ok((!headers.is_empty()).then_some(headers))
}

/// The pairs of `headers`.
pub(super) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let all = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.as_str().to_owned())));
    let mut pairs: Vec<_> = all.collect();
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    pairs
}

/// The same without those that the protocol added to messages of our own streams.
pub(super) fn own_pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut pairs = pairs(headers);
    pairs.retain(|(name, _)| !OF_THE_PROTOCOL.contains(&name.as_str()));
    pairs
}

/// The headers of a message as it is stored, without those that the protocol added.
pub(super) fn parse(headers: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(headers);
    // The first line is the version.
    let pairs = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    pairs.filter(|(name, _)| !OF_THE_PROTOCOL.contains(&name.as_str())).collect()
}

/// A message that was received.
pub(super) fn received(message: async_nats::Message) -> Message {
    let headers = message.headers.as_ref().map(pairs).unwrap_or_default();
    Message { subject: message.subject.to_string(), headers, payload: message.payload }
}
