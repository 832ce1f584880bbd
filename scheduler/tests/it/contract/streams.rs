//! The contract of [`Streams`], with what the bus and the key-value stores owe to it.

mod changes;
mod made;
mod own;
mod settling;

use bytes::Bytes;
use dunlin_api::{
    KeyValue, Message, StoreError,
    trigger::{Order, Start},
};
use dunlin_scheduler::store::events::{Bus, Consumer, ConsumerSpec, Delivery, Own, Source, Streams};
use futures::future::BoxFuture;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::timeout;

use super::{PATIENCE, QUIET, eventually, unique};

/// Every rule of the contract. The three must be of one store.
pub(crate) async fn holds(streams: Arc<dyn Streams>, bus: Arc<dyn Bus>, keyvalue: Arc<dyn KeyValue>) {
    let on = On { streams, bus, keyvalue };
    // Side by side, because some wait for deliveries to come again.
    let rules: Vec<BoxFuture<'_, ()>> = vec![
        Box::pin(own::keeps_what_was_appended_until_it_is_deleted(&on)),
        Box::pin(own::stores_the_same_id_once(&on)),
        Box::pin(own::counts_the_messages_of_queues(&on)),
        Box::pin(own::lists_by_pattern_and_page(&on)),
        Box::pin(own::takes_messages_up_to_the_limit(&on)),
        Box::pin(settling::a_pull_returns_what_is_there_and_waits_for_what_is_not(&on)),
        Box::pin(settling::a_cancelled_pull_loses_nothing(&on)),
        Box::pin(settling::what_is_settled_does_not_come_again(&on)),
        Box::pin(settling::a_retry_comes_after_its_delay_with_its_failures(&on)),
        Box::pin(settling::what_is_not_settled_comes_again_unless_there_is_progress(&on)),
        Box::pin(settling::holds_on_one_consumer_share_its_messages(&on)),
        Box::pin(settling::only_one_node_at_a_time_gets_messages_in_order(&on)),
        Box::pin(settling::what_waits_is_counted(&on)),
        Box::pin(made::a_stream_is_made_once_and_found_again(&on)),
        Box::pin(made::partial_overlaps_are_refused(&on)),
        Box::pin(made::what_is_published_is_stored_and_delivered(&on)),
        Box::pin(made::consumers_begin_where_they_were_told(&on)),
        Box::pin(made::ensuring_again_keeps_the_position_and_removing_forgets_it(&on)),
        Box::pin(made::a_consumer_of_a_stream_that_is_not_there_is_refused(&on)),
        Box::pin(changes::changes_of_keys_are_delivered(&on)),
        Box::pin(changes::the_last_change_of_a_key_always_comes(&on)),
        Box::pin(changes::sources_that_are_not_there_are_refused(&on)),
    ];
    futures::future::join_all(rules).await;
}

/// A stream that is named must exist: for stores in which others make streams too. Joined by a line of its own.
pub(crate) async fn a_named_stream_must_exist(streams: Arc<dyn Streams>) {
    let (name, subject) = (unique("ABSENT"), unique("absent"));
    let absent = streams.resolve(Some(&name), &subject).await.unwrap_err();
    assert!(matches!(&absent, StoreError::NotFound(words) if words.contains(&name)), "{absent}");
}

struct On {
    streams: Arc<dyn Streams>,
    bus: Arc<dyn Bus>,
    keyvalue: Arc<dyn KeyValue>,
}

impl On {
    async fn append(&self, to: Own, subject: &str, payload: &str) -> u64 {
        self.streams.append(to, Message::new(subject, payload.to_owned()), None).await.unwrap()
    }

    /// A queue of its own and what pulls it.
    async fn queue(&self) -> (String, ConsumerSpec) {
        let queue = format!("{}.async", unique("fn"));
        let spec = spec(Source::Queue(queue.clone()));
        self.streams.ensure(&spec).await.unwrap();
        (queue, spec)
    }

    async fn open(&self, spec: &ConsumerSpec) -> Box<dyn Consumer> {
        self.streams.open(spec).await.unwrap()
    }

    async fn publish(&self, subject: &str, payload: &str) -> (String, u64) {
        let published = self.bus.publish(Message::new(subject, payload.to_owned())).await.unwrap();
        published.stored.expect("a stream takes it")
    }

    async fn queued(&self, queue: &str) -> Option<u64> {
        let queues: BTreeMap<_, _> = self.streams.queues().await.unwrap();
        queues.get(queue).copied()
    }
}

fn spec(source: Source) -> ConsumerSpec {
    ConsumerSpec { name: unique("consumer"), source, start: Start::All, order: Order::None }
}

fn stream(stream: &str, subject: &str) -> ConsumerSpec {
    spec(Source::Stream { stream: stream.to_owned(), subject: subject.to_owned() })
}

/// The next `count` deliveries, however many pulls they take.
async fn take(from: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let pulled = timeout(PATIENCE, from.pull(count - taken.len())).await.expect("a delivery must come").unwrap();
        assert!((1..=count - taken.len()).contains(&pulled.len()), "{} deliveries", pulled.len());
        taken.extend(pulled);
    }
    taken
}

async fn one(from: &mut dyn Consumer) -> Delivery {
    take(from, 1).await.remove(0)
}

async fn nothing(from: &mut dyn Consumer) {
    let pulled = timeout(QUIET, from.pull(10)).await;
    assert!(pulled.is_err(), "nothing must come: {pulled:?}");
}

fn payloads(deliveries: &[Delivery]) -> Vec<Bytes> {
    deliveries.iter().map(|delivery| delivery.stored.message.payload.clone()).collect()
}

async fn ack(deliveries: &[Delivery]) {
    for delivery in deliveries {
        delivery.settle.ack().await.unwrap();
    }
}
