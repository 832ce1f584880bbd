//! What is told of a message that a consumer delivered.

use async_nats::Message;
use dunlin_api::trigger::ChangeSource;

use super::{changes, message};
use crate::store::events::Stored;

/// The kinds of messages that consumers deliver.
pub(super) enum Shape {
    /// Work, whose subject begins with this.
    Queue {
        /// Before the name of the queue.
        prefix: String,
    },
    /// Messages of a stream as they are.
    Plain,
    /// Changes of keys.
    Changes {
        /// Where.
        source: ChangeSource,
        /// Which.
        keys: String,
    },
}

impl Shape {
    /// Whether the consumer is meant to deliver the message.
    pub(super) fn takes(&self, message: &Message) -> bool {
        match self {
            Self::Queue { .. } | Self::Plain => true,
            Self::Changes { source, keys } => changes::key(source, keys, &message.subject).is_some(),
        }
    }

    /// The message with its `sequence` and time.
    pub(super) fn stored(&self, found: Message, sequence: u64, time_ms: u64) -> Stored {
        let message = match self {
            Self::Queue { prefix } => {
                let subject = found.subject.strip_prefix(&**prefix).unwrap_or(&found.subject).to_owned();
                let headers = found.headers.as_ref().map(message::own_pairs).unwrap_or_default();
                dunlin_api::Message { subject, headers, payload: found.payload }
            }
            Self::Plain => message::received(found),
            Self::Changes { source, keys } => {
                let key = changes::key(source, keys, &found.subject).unwrap_or_default();
                changes::change(source, key, &found, sequence)
            }
        };
        Stored { sequence, time_ms, message }
    }
}
