//! Which consumer reads for a trigger: the one place that deploys, which make it, and the nodes that pull it share.

use dunlin_api::{
    FunctionName,
    trigger::{ChangeSource, ChangeTrigger, Order, Start, StreamTrigger, TriggerId},
};

use super::item;
use crate::store::events::{ConsumerSpec, Source};

/// The consumer of `trigger` that reads `source`. Dead letters of a trigger that are tried again have a queue, so the name
/// of its consumer is not that of the trigger's own.
pub(super) fn spec(
    function: &FunctionName,
    trigger: &TriggerId,
    source: Source,
    start: Start,
    order: Order,
) -> ConsumerSpec {
    let mut name = item::consumer(function, trigger);
    if matches!(source, Source::Queue(_)) {
        name.push_str("_queue");
    }
    ConsumerSpec { name, source, start, order }
}

/// The consumer of a stream trigger; `stream` is what [`resolve`](crate::store::events::Streams::resolve) named.
pub fn stream_spec(function: &FunctionName, trigger: &StreamTrigger, stream: String) -> ConsumerSpec {
    let source = Source::Stream { stream, subject: trigger.subject.clone() };
    spec(function, &trigger.id(), source, trigger.from, trigger.order)
}

/// The consumer of a change trigger, whose [`source`](ChangeTrigger::source) is `source`. It begins with what changes
/// after it was made.
pub fn change_spec(function: &FunctionName, trigger: &ChangeTrigger, source: ChangeSource) -> ConsumerSpec {
    let source = Source::Changes { source, keys: trigger.keys.clone() };
    spec(function, &trigger.id(), source, Start::New, Order::None)
}
