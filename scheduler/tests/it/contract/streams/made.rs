//! Streams for subjects of the user.

use dunlin_api::{StoreError, trigger::Start};
use dunlin_scheduler::store::events::ConsumerSpec;
use std::time::Duration;

use super::{On, ack, eventually, nothing, one, payloads, stream, take, unique};

/// A subject with a stream, and a consumer of all of it that is not made yet.
pub(super) async fn stream_of_its_own(on: &On) -> (String, ConsumerSpec) {
    let subject = unique("subject");
    let name = on.streams.resolve(None, &subject).await.unwrap();
    let spec = stream(&name, &subject);
    (subject, spec)
}

pub(super) async fn a_stream_is_made_once_and_found_again(on: &On) {
    let s = unique("orders");
    let name = on.streams.resolve(None, &format!("{s}.>")).await.unwrap();
    for narrower in [format!("{s}.>"), format!("{s}.paid.*"), format!("{s}.paid.eu")] {
        assert_eq!(on.streams.resolve(None, &narrower).await.unwrap(), name, "{narrower}");
        assert_eq!(on.streams.resolve(Some(&name), &narrower).await.unwrap(), name, "{narrower}");
    }
    let other = on.streams.resolve(None, &unique("other")).await.unwrap();
    assert_ne!(other, name);
    let not_taken = on.streams.resolve(Some(&name), &unique("elsewhere")).await.unwrap_err();
    assert!(matches!(&not_taken, StoreError::Invalid(words) if words.contains(&name)), "{not_taken}");
}

pub(super) async fn partial_overlaps_are_refused(on: &On) {
    let s = unique("overlap");
    let name = on.streams.resolve(None, &format!("{s}.paid")).await.unwrap();
    on.streams.ensure(&stream(&name, &format!("{s}.paid"))).await.unwrap();
    for wider in [format!("{s}.*"), format!("{s}.>")] {
        let refused = on.streams.resolve(None, &wider).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Invalid(words) if words.contains(&name)), "{refused}");
    }
}

pub(super) async fn what_is_published_is_stored_and_delivered(on: &On) {
    let s = unique("stored");
    let name = on.streams.resolve(None, &format!("{s}.>")).await.unwrap();
    let (all, some) = (stream(&name, &format!("{s}.>")), stream(&name, &format!("{s}.*.eu")));
    on.streams.ensure(&all).await.unwrap();
    on.streams.ensure(&some).await.unwrap();
    let mut listening = on.bus.subscribe(&format!("{s}.>"), None).await.unwrap();
    let (stored_by, first) = on.publish(&format!("{s}.paid"), "1").await;
    assert_eq!(stored_by, name);
    let (_, second) = on.publish(&format!("{s}.paid.eu"), "2").await;
    assert!(second > first);
    for payload in ["1", "2"] {
        let received = futures::StreamExt::next(&mut listening).await.unwrap();
        assert_eq!(received.message.payload, payload, "those who listen have it too");
    }
    let mut consumer = on.open(&all).await;
    let taken = take(&mut *consumer, 2).await;
    assert_eq!(payloads(&taken), ["1", "2"]);
    assert_eq!(taken[0].stream, name);
    assert_eq!(taken[0].stored.sequence, first);
    assert_eq!(taken[0].stored.message.subject, format!("{s}.paid"));
    ack(&taken).await;
    let mut consumer = on.open(&some).await;
    let only = one(&mut *consumer).await;
    assert_eq!(only.stored.sequence, second);
    ack(&[only]).await;
    nothing(&mut *consumer).await;
}

pub(super) async fn consumers_begin_where_they_were_told(on: &On) {
    let (subject, keeper) = stream_of_its_own(on).await;
    // Somebody who has not acknowledged: so the stream keeps all.
    on.streams.ensure(&keeper).await.unwrap();
    on.publish(&subject, "1").await;
    on.publish(&subject, "2").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    on.publish(&subject, "3").await;
    let kept = take(&mut *on.open(&keeper).await, 3).await;
    let time = i64::try_from(kept[2].stored.time_ms).unwrap();
    let mut opened = Vec::new();
    for start in [Start::All, Start::New, Start::Time(time)] {
        let spec = ConsumerSpec { name: unique("start"), start, ..keeper.clone() };
        on.streams.ensure(&spec).await.unwrap();
        opened.push(on.open(&spec).await);
    }
    on.publish(&subject, "4").await;
    for (consumer, expected) in opened.iter_mut().zip([vec!["1", "2", "3", "4"], vec!["4"], vec!["3", "4"]]) {
        let taken = take(&mut **consumer, expected.len()).await;
        assert_eq!(payloads(&taken), expected);
        ack(&taken).await;
    }
}

pub(super) async fn ensuring_again_keeps_the_position_and_removing_forgets_it(on: &On) {
    let (subject, keeper) = stream_of_its_own(on).await;
    let spec = ConsumerSpec { name: unique("again"), ..keeper.clone() };
    for spec in [&keeper, &spec] {
        on.streams.ensure(spec).await.unwrap();
    }
    on.publish(&subject, "1").await;
    on.publish(&subject, "2").await;
    ack(&[one(&mut *on.open(&spec).await).await]).await;
    let left = async || on.streams.waiting(&spec).await.unwrap().map(|waiting| waiting.pending + waiting.unsettled);
    eventually("one is acknowledged", || async { left().await == Some(1) }).await;
    // A consumer that is there goes on where it is, wherever a new one would begin.
    on.streams.ensure(&ConsumerSpec { start: Start::New, ..spec.clone() }).await.unwrap();
    on.streams.ensure(&spec).await.unwrap();
    let next = one(&mut *on.open(&spec).await).await;
    assert_eq!(next.stored.message.payload, "2");
    on.streams.remove(&spec).await.unwrap();
    on.streams.remove(&spec).await.unwrap();
    assert_eq!(on.streams.waiting(&spec).await.unwrap(), None);
    on.streams.ensure(&spec).await.unwrap();
    let all = take(&mut *on.open(&spec).await, 2).await;
    assert_eq!(payloads(&all), ["1", "2"]);
}

pub(super) async fn a_consumer_of_a_stream_that_is_not_there_is_refused(on: &On) {
    let spec = stream(&unique("ABSENT"), &unique("subject"));
    let refused = on.streams.ensure(&spec).await;
    assert!(matches!(refused, Err(StoreError::NotFound(_))), "{refused:?}");
    assert!(matches!(on.streams.open(&spec).await.err(), Some(StoreError::NotFound(_))));
    assert_eq!(on.streams.waiting(&spec).await.unwrap(), None);
    on.streams.remove(&spec).await.unwrap();
}
