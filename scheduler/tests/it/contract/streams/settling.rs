//! Pulling and settling.

use dunlin_api::trigger::Order;
use dunlin_scheduler::store::events::{ACK_WAIT, Own, Waiting};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::timeout;

use super::{On, PATIENCE, QUIET, ack, eventually, made, nothing, one, payloads, take};

pub(super) async fn a_pull_returns_what_is_there_and_waits_for_what_is_not(on: &On) {
    let (queue, spec) = on.queue().await;
    for n in 0..5 {
        on.append(Own::Work, &queue, &n.to_string()).await;
    }
    let mut consumer = on.open(&spec).await;
    let first = timeout(PATIENCE, consumer.pull(2)).await.unwrap().unwrap();
    assert!((1..=2).contains(&first.len()), "at most what was asked for");
    let rest = take(&mut *consumer, 5 - first.len()).await;
    assert_eq!([payloads(&first), payloads(&rest)].concat(), ["0", "1", "2", "3", "4"]);
    let delivery = &first[0];
    assert_eq!((delivery.delivered, delivery.failed), (1, 0));
    assert_eq!(delivery.stored.message.subject, queue);
    ack(&first).await;
    ack(&rest).await;
    let (waited, sequence) = tokio::join!(one(&mut *consumer), async {
        tokio::time::sleep(QUIET).await;
        on.append(Own::Work, &queue, "later").await
    });
    assert_eq!(waited.stored.sequence, sequence);
    ack(&[waited]).await;
}

pub(super) async fn a_cancelled_pull_loses_nothing(on: &On) {
    let (queue, spec) = on.queue().await;
    let mut consumer = on.open(&spec).await;
    let mut got = BTreeSet::new();
    for n in 0..50_u64 {
        // Left at every moment from before the message is there to after it.
        let wait = Duration::from_micros(n * 200);
        let payload = n.to_string();
        let (pulled, _) = tokio::join!(timeout(wait, consumer.pull(1)), on.append(Own::Work, &queue, &payload));
        for delivery in pulled.map(Result::unwrap).unwrap_or_default() {
            assert_eq!(delivery.delivered, 1);
            delivery.settle.ack().await.unwrap();
            assert!(got.insert(delivery.stored.sequence), "it came twice");
        }
    }
    for delivery in take(&mut *consumer, 50 - got.len()).await {
        assert_eq!(delivery.delivered, 1, "it came at once, not after {ACK_WAIT:?}");
        delivery.settle.ack().await.unwrap();
        assert!(got.insert(delivery.stored.sequence), "it came twice");
    }
}

pub(super) async fn what_is_settled_does_not_come_again(on: &On) {
    let (queue, spec) = on.queue().await;
    let mut consumer = on.open(&spec).await;
    let acked = on.append(Own::Work, &queue, "acked").await;
    let given_up = on.append(Own::Work, &queue, "given up").await;
    let taken = take(&mut *consumer, 2).await;
    taken[0].settle.ack().await.unwrap();
    taken[0].settle.ack().await.unwrap();
    taken[1].settle.give_up("it will never work").await.unwrap();
    eventually("the queue is empty", || async { on.queued(&queue).await.is_none() }).await;
    for sequence in [acked, given_up] {
        assert_eq!(on.streams.read(Own::Work, sequence).await.unwrap(), None);
    }
    let pulled = timeout(ACK_WAIT + QUIET, consumer.pull(10)).await;
    assert!(pulled.is_err(), "{pulled:?}");
}

pub(super) async fn a_retry_comes_after_its_delay_with_its_failures(on: &On) {
    let (queue, spec) = on.queue().await;
    let mut consumer = on.open(&spec).await;
    let first = on.append(Own::Work, &queue, "first").await;
    one(&mut *consumer).await.settle.retry(Duration::from_secs(3), 1).await.unwrap();
    let second = on.append(Own::Work, &queue, "second").await;
    let other = one(&mut *consumer).await;
    assert_eq!(other.stored.sequence, second, "one that waits is overtaken");
    ack(&[other]).await;
    let again = one(&mut *consumer).await;
    assert_eq!((again.stored.sequence, again.delivered, again.failed), (first, 2, 1));
    again.settle.retry(Duration::ZERO, 1).await.unwrap();
    let again = one(&mut *consumer).await;
    assert_eq!((again.stored.sequence, again.delivered, again.failed), (first, 3, 1), "not counted");
    again.settle.retry(Duration::from_millis(1), 2).await.unwrap();
    // The count is kept over another hold.
    drop(consumer);
    let mut consumer = on.open(&spec).await;
    let again = one(&mut *consumer).await;
    assert_eq!((again.stored.sequence, again.failed), (first, 2));
    ack(&[again]).await;
}

pub(super) async fn what_is_not_settled_comes_again_unless_there_is_progress(on: &On) {
    let (queue, spec) = on.queue().await;
    let mut consumer = on.open(&spec).await;
    on.append(Own::Work, &queue, "forgotten").await;
    on.append(Own::Work, &queue, "worked on").await;
    let taken = take(&mut *consumer, 2).await;
    let working = async {
        loop {
            tokio::time::sleep(ACK_WAIT / 5).await;
            taken[1].settle.progress().await.unwrap();
        }
    };
    let again = tokio::select! {
        again = one(&mut *consumer) => again,
        () = working => unreachable!("it has no end"),
    };
    assert_eq!(again.stored.message.payload, "forgotten");
    assert_eq!((again.delivered, again.failed), (2, 0));
    ack(&[again]).await;
    taken[1].settle.ack().await.unwrap();
    eventually("the queue is empty", || async { on.queued(&queue).await.is_none() }).await;
}

pub(super) async fn holds_on_one_consumer_share_its_messages(on: &On) {
    let (queue, spec) = on.queue().await;
    let (mut one, mut two) = (on.open(&spec).await, on.open(&spec).await);
    for n in 0..20 {
        on.append(Own::Work, &queue, &n.to_string()).await;
    }
    let mut got = BTreeSet::new();
    for _ in 0..5 {
        for hold in [&mut one, &mut two] {
            let pulled = take(&mut **hold, 2).await;
            ack(&pulled).await;
            for delivery in pulled {
                assert!(got.insert(delivery.stored.sequence), "it came twice");
            }
        }
    }
    // What a hold did not hand out goes to the other one.
    drop(one);
    on.append(Own::Work, &queue, "last").await;
    let last = super::one(&mut *two).await;
    assert_eq!(last.stored.message.payload, "last");
    ack(&[last]).await;
}

pub(super) async fn only_one_node_at_a_time_gets_messages_in_order(on: &On) {
    let (subject, mut spec) = made::stream_of_its_own(on).await;
    spec.order = Order::All;
    on.streams.ensure(&spec).await.unwrap();
    let (mut first, mut second) = (on.open(&spec).await, on.open(&spec).await);
    let publish = async |from: u32, to: u32| {
        for n in from..to {
            on.publish(&subject, &n.to_string()).await;
        }
    };
    publish(0, 3).await;
    let mut taken = take(&mut *first, 1).await;
    nothing(&mut *second).await;
    taken.extend(take(&mut *first, 2).await);
    publish(3, 5).await;
    nothing(&mut *second).await;
    taken.extend(take(&mut *first, 2).await);
    assert_eq!(payloads(&taken), ["0", "1", "2", "3", "4"]);
    ack(&taken).await;
    drop(first);
    publish(5, 8).await;
    let taken = take(&mut *second, 3).await;
    assert_eq!(payloads(&taken), ["5", "6", "7"]);
    ack(&taken).await;
}

pub(super) async fn what_waits_is_counted(on: &On) {
    let (subject, spec) = made::stream_of_its_own(on).await;
    assert_eq!(on.streams.waiting(&spec).await.unwrap(), None);
    on.streams.ensure(&spec).await.unwrap();
    assert_eq!(on.streams.waiting(&spec).await.unwrap(), Some(Waiting::default()));
    for n in 0..4 {
        on.publish(&subject, &n.to_string()).await;
    }
    let counted = async |pending, unsettled| {
        let expected = Some(Waiting { pending, unsettled });
        eventually(&format!("{expected:?}"), || async { on.streams.waiting(&spec).await.unwrap() == expected }).await;
    };
    counted(4, 0).await;
    let mut consumer = on.open(&spec).await;
    let taken = take(&mut *consumer, 4).await;
    counted(0, 4).await;
    taken[0].settle.ack().await.unwrap();
    taken[1].settle.retry(Duration::from_secs(3_600), 1).await.unwrap();
    taken[2].settle.give_up("never").await.unwrap();
    counted(0, 2).await;
    taken[3].settle.ack().await.unwrap();
    counted(0, 1).await;
}
