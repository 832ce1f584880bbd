//! How work items are written in the cluster's own queue ([`crate::store::events::Own::Work`]) and what a trigger's
//! consumer is called: the one place that those who write items and those who run them share.

use dunlin_api::{FunctionName, trigger::TriggerId};

/// Says what an item is: [`KIND_CALL`] or [`KIND_EVENT`].
pub const KIND: &str = "Dunlin-Kind";
/// An HTTP call that nobody waits for.
pub const KIND_CALL: &str = "call";
/// An event: its attributes stand in `ce-…` headers as the CloudEvents NATS binding writes them (binary mode), its other headers
/// are those of the original message.
pub const KIND_EVENT: &str = "event";
/// The subject that an event of a queue had originally, if it had one.
pub const SUBJECT: &str = "Dunlin-Subject";
/// The blob that holds the payload, where it is too large for the message.
pub const BLOB: &str = "Dunlin-Blob";
/// The topic of the signal that a queue has new messages; its name (`<function>.<trigger id>`) follows.
pub const QUEUE_TOPIC: &str = "queue";

/// The queue of a trigger: the subject of its items.
pub fn queue(function: &FunctionName, trigger: &TriggerId) -> String {
    format!("{function}.{trigger}")
}

/// Whose queue this is; none if it is no name of a queue.
pub fn owner(queue: &str) -> Option<(FunctionName, &str)> {
    let (function, trigger) = queue.split_once('.')?;
    Some((function.parse().ok()?, trigger))
}

/// The name of the consumer of a trigger.
pub fn consumer(function: &FunctionName, trigger: &TriggerId) -> String {
    format!("{function}-{trigger}")
}

/// Whether a header is one that only we set: those of messages from elsewhere are taken out.
pub fn is_ours(header: &str) -> bool {
    header.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("dunlin-"))
}
