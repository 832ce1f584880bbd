//! The cluster's own streams.

use dunlin_api::{Message, StoreError};
use dunlin_scheduler::store::events::{MAX_MESSAGE_BYTES, Own};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{On, ack, eventually, one, take, unique};

pub(super) async fn keeps_what_was_appended_until_it_is_deleted(on: &On) {
    let subject = format!("{}.stream-1", unique("fn"));
    let message = Message::new(&subject, "letter").with("X-Why", "it failed").with("X-Why", "twice");
    for of in [Own::Dead, Own::Work] {
        let sequence = on.streams.append(of, message.clone(), None).await.unwrap();
        let read = on.streams.read(of, sequence).await.unwrap().unwrap();
        assert_eq!((read.sequence, &read.message), (sequence, &message));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(now.abs_diff(read.time_ms) < 60_000, "{} is not about {now}", read.time_ms);
        assert_eq!(on.streams.list(of, Some(&subject), 0, 10).await.unwrap(), [read]);
        assert!(on.streams.delete(of, sequence).await.unwrap());
        assert!(!on.streams.delete(of, sequence).await.unwrap());
        assert_eq!(on.streams.read(of, sequence).await.unwrap(), None);
        assert!(on.streams.list(of, Some(&subject), 0, 10).await.unwrap().is_empty());
        assert!(on.append(of, &subject, "next").await > sequence, "numbers do not come again");
    }
    assert_eq!(on.streams.read(Own::Dead, u64::MAX >> 1).await.unwrap(), None);
}

pub(super) async fn stores_the_same_id_once(on: &On) {
    let subject = format!("{}.async", unique("fn"));
    let (id, other) = (unique("id"), unique("id"));
    let append = |id| on.streams.append(Own::Work, Message::new(&subject, "x"), id);
    let first = append(Some(&id)).await.unwrap();
    assert_eq!(append(Some(&id)).await.unwrap(), first);
    assert_ne!(append(Some(&other)).await.unwrap(), first);
    assert_ne!(append(None).await.unwrap(), first);
    assert_eq!(on.queued(&subject).await, Some(3));
    // Also when it is gone already: it was handled.
    on.streams.delete(Own::Work, first).await.unwrap();
    assert_eq!(append(Some(&id)).await.unwrap(), first);
    assert_eq!(on.queued(&subject).await, Some(2));
}

pub(super) async fn counts_the_messages_of_queues(on: &On) {
    let (queue, spec) = on.queue().await;
    assert_eq!(on.queued(&queue).await, None);
    for n in 0..3 {
        on.append(Own::Work, &queue, &n.to_string()).await;
    }
    assert_eq!(on.queued(&queue).await, Some(3));
    let mut consumer = on.open(&spec).await;
    let taken = take(&mut *consumer, 3).await;
    assert_eq!(on.queued(&queue).await, Some(3), "what is worked on is counted");
    ack(&taken[..2]).await;
    eventually("two are acknowledged", || async { on.queued(&queue).await == Some(1) }).await;
    ack(&taken[2..]).await;
    eventually("the queue is empty", || async { on.queued(&queue).await.is_none() }).await;
    // A queue that was empty goes on.
    on.append(Own::Work, &queue, "later").await;
    assert_eq!(one(&mut *consumer).await.stored.message.payload, "later");
}

pub(super) async fn lists_by_pattern_and_page(on: &On) {
    let function = unique("fn");
    let mut numbers = Vec::new();
    for n in 0..6 {
        numbers.push(on.append(Own::Dead, &format!("{function}.t{}", n % 2), &n.to_string()).await);
    }
    let list = async |filter: &str, after, limit| {
        let found = on.streams.list(Own::Dead, Some(&format!("{function}.{filter}")), after, limit).await.unwrap();
        found.into_iter().map(|stored| stored.sequence).collect::<Vec<_>>()
    };
    assert_eq!(list("*", 0, 10).await, numbers);
    assert_eq!(list("*", 0, 4).await, numbers[..4]);
    assert_eq!(list("*", numbers[3], 10).await, numbers[4..]);
    assert_eq!(list("t1", 0, 10).await, [numbers[1], numbers[3], numbers[5]]);
    assert_eq!(list("t1", numbers[1], 1).await, [numbers[3]]);
    assert!(list("t2", 0, 10).await.is_empty());
    let all = on.streams.list(Own::Dead, None, numbers[4] - 1, 1).await.unwrap();
    assert_eq!(all[0].sequence, numbers[4]);
}

pub(super) async fn takes_messages_up_to_the_limit(on: &On) {
    let subject = format!("{}.async", unique("fn"));
    let empty = Message::new(&subject, "").with("X-Kind", "large");
    let of_size = |size: usize| Message { payload: vec![7; size - empty.size()].into(), ..empty.clone() };
    let most = of_size(MAX_MESSAGE_BYTES);
    let sequence = on.streams.append(Own::Work, most.clone(), None).await.unwrap();
    assert_eq!(on.streams.read(Own::Work, sequence).await.unwrap().unwrap().message, most);
    on.streams.delete(Own::Work, sequence).await.unwrap();
    let over = on.streams.append(Own::Work, of_size(MAX_MESSAGE_BYTES + 1), None).await.unwrap_err();
    assert!(matches!(&over, StoreError::Invalid(words) if words.contains(&MAX_MESSAGE_BYTES.to_string())), "{over}");
    for bad in ["", "a..b", "a.*", "a b"] {
        let refused = on.streams.append(Own::Dead, Message::new(bad, "x"), None).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{bad:?}: {refused:?}");
    }
}
