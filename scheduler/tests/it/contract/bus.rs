//! The contract of [`Bus`]. What becomes of messages that a stream takes is in the contract of the streams.

use dunlin_api::{Message, StoreError};
use dunlin_scheduler::store::events::{Bus, Received, SUBSCRIPTION, Subscription};
use futures::{StreamExt, stream::select_all};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::timeout;

use super::{PATIENCE, QUIET, eventually, unique};

/// Every rule of the contract.
pub(crate) async fn holds(bus: Arc<dyn Bus>) {
    subscribers_get_what_matches_their_pattern(&*bus).await;
    each_message_goes_to_one_member_of_a_group(&*bus).await;
    a_request_gets_the_reply(bus.clone()).await;
    a_request_that_nobody_answers_fails(&*bus).await;
    signals_reach_all_who_listen_and_nobody_else(&*bus).await;
    refuses_what_is_no_subject(&*bus).await;
    messages_may_be_large_but_not_larger(&*bus).await;
    a_subscriber_that_falls_behind_loses_some_and_they_are_counted(&*bus).await;
}

async fn next(subscription: &mut Subscription) -> Received {
    timeout(PATIENCE, subscription.next()).await.expect("a message must come").expect("the bus is open")
}

async fn nothing(subscription: &mut Subscription) {
    assert_eq!(timeout(QUIET, subscription.next()).await.ok(), None, "nothing must come");
}

async fn subscribers_get_what_matches_their_pattern(bus: &dyn Bus) {
    let s = unique("match");
    let mut exact = bus.subscribe(&format!("{s}.a.b"), None).await.unwrap();
    let mut one = bus.subscribe(&format!("{s}.*.b"), None).await.unwrap();
    let mut rest = bus.subscribe(&format!("{s}.>"), None).await.unwrap();
    let sent = Message::new(format!("{s}.a.b"), "1").with("Empty", "").with("X-One", "1").with("X-One", "2");
    let published = bus.publish(sent.clone()).await.unwrap();
    assert_eq!(published.stored, None, "no stream takes it");
    for subscription in [&mut exact, &mut one, &mut rest] {
        let received = next(subscription).await;
        assert_eq!(received, Received { message: sent.clone(), reply: None });
    }
    bus.publish(Message::new(format!("{s}.c"), "2")).await.unwrap();
    bus.publish(Message::new(s.clone(), "3")).await.unwrap();
    bus.send(Message::new(format!("{s}.c.b"), "4")).await.unwrap();
    assert_eq!(next(&mut rest).await.message.payload, "2");
    assert_eq!(next(&mut rest).await.message.payload, "4", "`>` stands for at least one token");
    assert_eq!(next(&mut one).await.message.payload, "4");
    nothing(&mut exact).await;
}

async fn each_message_goes_to_one_member_of_a_group(bus: &dyn Bus) {
    let s = unique("group");
    let mut members = Vec::new();
    for n in 0..3 {
        let member = bus.subscribe(&format!("{s}.*"), Some("workers")).await.unwrap();
        members.push(member.map(move |received| (n, received)).boxed());
    }
    let mut other = bus.subscribe(&format!("{s}.>"), Some("others")).await.unwrap();
    let mut all = select_all(members);
    let sent: BTreeSet<_> = (0..100).map(|n| format!("{s}.{n}")).collect();
    for subject in &sent {
        bus.publish(Message::new(subject, "x")).await.unwrap();
    }
    let (mut got, mut busy) = (Vec::new(), BTreeSet::new());
    while got.len() < 100 {
        let (member, received) = timeout(PATIENCE, all.next()).await.unwrap().unwrap();
        got.push(received.message.subject);
        busy.insert(member);
        next(&mut other).await;
    }
    assert_eq!(got.iter().cloned().collect::<BTreeSet<_>>(), sent);
    assert_eq!(busy.len(), 3, "all members share the work");
    assert!(timeout(QUIET, all.next()).await.is_err(), "a message came twice");
}

async fn a_request_gets_the_reply(bus: Arc<dyn Bus>) {
    let s = unique("ask");
    let mut asked = bus.subscribe(&s, Some("answering")).await.unwrap();
    let answering = async {
        for n in 0..2 {
            let received = next(&mut asked).await;
            let reply = received.reply.expect("a request says where the reply goes");
            let words = format!("{n}: {}", String::from_utf8_lossy(&received.message.payload));
            bus.send(Message::new(reply, words).with("X-Answer", "yes")).await.unwrap();
        }
    };
    let asking = async {
        for n in 0..2 {
            let reply = bus.request(Message::new(&s, "who?"), PATIENCE).await.unwrap();
            assert_eq!(reply.payload, format!("{n}: who?"));
            assert_eq!(reply.header("x-answer"), Some("yes"));
        }
    };
    tokio::join!(answering, asking);
}

async fn a_request_that_nobody_answers_fails(bus: &dyn Bus) {
    let s = unique("alone");
    let alone = bus.request(Message::new(&s, "?"), PATIENCE).await.unwrap_err();
    assert!(matches!(&alone, StoreError::NotFound(words) if words.contains(&s)), "{alone}");
    let _silent = bus.subscribe(&s, None).await.unwrap();
    let unanswered = bus.request(Message::new(&s, "?"), Duration::from_millis(50)).await;
    assert!(matches!(unanswered, Err(StoreError::Unavailable(_))), "{unanswered:?}");
}

async fn signals_reach_all_who_listen_and_nobody_else(bus: &dyn Bus) {
    let topic = unique("topic");
    let mut everything = bus.subscribe(&format!("{topic}.>"), None).await.unwrap();
    let mut first = bus.signals(&format!("{topic}.*")).await.unwrap();
    let mut second = bus.signals(&format!("{topic}.>")).await.unwrap();
    bus.signal(&format!("{topic}.a"), "1".into()).await.unwrap();
    for signals in [&mut first, &mut second] {
        let message = next(signals).await.message;
        assert_eq!((message.subject, message.payload), (format!("{topic}.a"), "1".into()));
    }
    bus.publish(Message::new(format!("{topic}.a"), "2")).await.unwrap();
    assert_eq!(next(&mut everything).await.message.payload, "2", "a signal is no message");
    nothing(&mut first).await;
}

async fn refuses_what_is_no_subject(bus: &dyn Bus) {
    for bad in ["", "a..b", "a b", "a.*", "a.>", "a\r\nb", "dl.v1.x", "$JS.API.INFO"] {
        let refused = bus.publish(Message::new(bad, "x")).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "publish {bad:?}: {refused:?}");
        let refused = bus.request(Message::new(bad, "x"), PATIENCE).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "request {bad:?}: {refused:?}");
    }
    for bad in ["", "a..b", "a.>.b", "a b", ">", "dl.>"] {
        assert!(matches!(bus.subscribe(bad, None).await.err(), Some(StoreError::Invalid(_))), "{bad:?}");
    }
    for (name, value) in [("a b", "x"), ("a:b", "x"), ("", "x"), ("a", "x\r\nInjected: y")] {
        let refused = bus.publish(Message::new(unique("headers"), "x").with(name, value)).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{name:?}: {value:?}: {refused:?}");
    }
}

async fn messages_may_be_large_but_not_larger(bus: &dyn Bus) {
    let s = unique("large");
    let mut listening = bus.subscribe(&s, None).await.unwrap();
    bus.publish(Message::new(&s, vec![1; 1_000_000])).await.unwrap();
    assert_eq!(next(&mut listening).await.message.payload.len(), 1_000_000);
    let over = bus.publish(Message::new(&s, vec![1; 2_000_000])).await.unwrap_err();
    assert!(matches!(&over, StoreError::Invalid(words) if words.contains("2000000")), "{over}");
}

async fn a_subscriber_that_falls_behind_loses_some_and_they_are_counted(bus: &dyn Bus) {
    let s = unique("behind");
    let mut behind = bus.subscribe(&s, None).await.unwrap();
    let before = bus.dropped();
    for n in 0..2 * SUBSCRIPTION {
        bus.send(Message::new(&s, n.to_string())).await.unwrap();
    }
    eventually("some are dropped", || async { bus.dropped() > before }).await;
    for n in 0..SUBSCRIPTION / 2 {
        assert_eq!(next(&mut behind).await.message.payload, n.to_string(), "those that came first are kept");
    }
}
