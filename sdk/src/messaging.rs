//! Messages to subjects (`wasmcloud:messaging/consumer` 0.2.0).
//!
//! For functions whose manifest grants subjects: `publish = ["orders.>"]`. If a stream takes the subject, the message is
//! stored when the call returns, and a crash afterwards does not lose it; else those who listen at that moment have it.
//! Sizes are bounded by the host.
//!
//! ```no_run
//! # #[cfg(feature = "json")]
//! # fn example() -> Result<(), dunlin_sdk::Error> {
//! dunlin_sdk::publish("orders.paid.7", &["7", "paid"])?;
//! dunlin_sdk::publish_bytes("thumbnails.done", *b"7.png")?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

/// The generated bindings of the imported interfaces.
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated from the WIT")]
mod bindings {
    wit_bindgen::generate!({ path: "wit/deps/messaging", world: "imports", generate_all });
}

use bindings::wasmcloud::messaging::consumer;

/// Publishes `value` as JSON on `subject`.
///
/// # Errors
/// When it cannot be written as JSON, the manifest does not grant the subject, the message is too large, or it could not be
/// stored. A message that failed so may have arrived all the same if the answer was lost: publish it again.
#[cfg(feature = "json")]
pub fn publish<T: serde::Serialize + ?Sized>(subject: &str, value: &T) -> Result<(), Failed> {
    let body = serde_json::to_vec(value).map_err(|error| Failed::new(subject, error.to_string()))?;
    publish_bytes(subject, body)
}

/// Publishes these bytes on `subject`.
///
/// # Errors
/// When the manifest does not grant the subject, the message is too large, or it could not be stored. A message that failed
/// so may have arrived all the same if the answer was lost: publish it again.
pub fn publish_bytes(subject: &str, bytes: impl Into<Vec<u8>>) -> Result<(), Failed> {
    let message = consumer::BrokerMessage { subject: subject.into(), body: bytes.into(), reply_to: None };
    consumer::publish(&message).map_err(|reason| Failed::new(subject, reason))
}

/// Sends these bytes to `subject` and gives the first reply to them. Waits at most `timeout`, a millisecond at least.
///
/// # Errors
/// As [`publish_bytes`]; and when nobody listens, or no reply comes in time.
pub fn request(subject: &str, bytes: impl AsRef<[u8]>, timeout: Duration) -> Result<Vec<u8>, Failed> {
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
    let reply = consumer::request(subject, bytes.as_ref(), timeout_ms);
    Ok(reply.map_err(|reason| Failed::new(subject, reason))?.body)
}

/// Why a message was not sent, or not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The subject of the message.
    pub subject: String,
    /// The host's reason.
    pub reason: String,
}

impl Failed {
    fn new(subject: &str, reason: String) -> Self {
        Self { subject: subject.into(), reason }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "message to {}: {}", self.subject, self.reason)
    }
}

impl std::error::Error for Failed {}

#[cfg(test)]
mod tests {
    #[test]
    fn the_runtime_links_the_same_interfaces() {
        let root = env!("CARGO_MANIFEST_DIR");
        let interfaces = |path: &str| {
            let text = std::fs::read_to_string(format!("{root}/{path}")).expect(path);
            text.split_once("\nworld ").expect("interfaces, then a world").0.to_owned()
        };
        let file = "wit/deps/messaging/messaging.wit";
        assert_eq!(interfaces(file), interfaces(&format!("../runtime/{file}")));
    }
}
