use super::*;
use dunlin_api::{BoxFuture, Published};

/// Carries nothing: these tests are about what may be sent.
struct Nowhere;

impl Publish for Nowhere {
    fn publish(&self, _: Message) -> BoxFuture<'_, Result<Published, StoreError>> {
        Box::pin(async { Ok(Published::default()) })
    }

    fn request(&self, message: Message, _: Duration) -> BoxFuture<'_, Result<Message, StoreError>> {
        Box::pin(async { Ok(message) })
    }
}

fn ctx(subjects: &[&str], reply_to: Option<&'static str>) -> MessagingCtx {
    let subjects = subjects.iter().map(|&subject| subject.into()).collect();
    let mut ctx = MessagingCtx::new(Arc::new(MessagingGrant { publish: Arc::new(Nowhere), subjects }));
    ctx.begin(reply_to.map(HeaderValue::from_static));
    ctx
}

#[test]
fn grants_are_patterns_and_the_reply_subject_is_one_for_its_invocation() {
    let mut ctx = ctx(&["orders.*", "audit.>"], Some("_INBOX.a.b"));
    for (subject, allowed) in [
        ("orders.paid", true),
        ("orders", false),
        ("orders.paid.twice", false),
        ("audit.a.b", true),
        ("_INBOX.a.b", true),
        ("_INBOX.a", false),
        ("_INBOX.a.b.c", false),
    ] {
        assert_eq!(ctx.allows(subject), allowed, "{subject}");
    }
    ctx.begin(None);
    assert!(!ctx.allows("_INBOX.a.b") && ctx.allows("orders.paid"));
}

#[test]
fn a_reply_subject_does_not_lead_into_the_cluster_or_the_api_of_nats() {
    for (subject, allowed) in [
        ("replies.here", true),
        ("dl.v1.prod.inbox.node-1.x.y", true),
        ("dl.v1.prod.n.node-1.i", false),
        ("dl.v1.prod.hb.node-1", false),
        ("$JS.API.STREAM.DELETE.ORDERS", false),
        ("$SYS.REQ.SERVER.PING", false),
    ] {
        assert_eq!(ctx(&[], Some(subject)).allows(subject), allowed, "{subject}");
    }
}

#[test]
fn messages_and_their_bytes_are_counted_per_invocation() {
    let mut ctx = ctx(&[], None);
    for _ in 0..MAX_MESSAGES {
        ctx.count(1).unwrap();
    }
    assert!(ctx.count(1).unwrap_err().contains("at most 10000 messages"));
    ctx.begin(None);
    ctx.count(MAX_MESSAGES_BYTES as usize).unwrap();
    let refusal = ctx.count(1).unwrap_err();
    assert!(refusal.contains("at most 256.0 MiB"), "{refusal}");
    // What was refused is not counted.
    ctx.count(0).unwrap();
}
