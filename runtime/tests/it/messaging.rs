//! Components made for wasmCloud's messaging, and messages that any component sends.

use crate::support::*;
use dunlin_api::*;
use http::Request;
use std::{sync::Arc, time::Duration};

const REPLY: &str = "_INBOX.client.1";

/// An event as triggers make it, with this payload.
fn event(payload: impl Into<Vec<u8>>) -> Request<Body> {
    let mut request = post("/", Body::full(payload.into()));
    request.headers_mut().insert("dunlin-subject", "orders.paid".parse().unwrap());
    request
}

fn asking(payload: &str) -> Request<Body> {
    let mut request = event(payload);
    request.headers_mut().insert("dunlin-reply-to", REPLY.parse().unwrap());
    request
}

fn publishing(subjects: &[&str]) -> Settings {
    let publish = subjects.iter().map(|&subject| subject.into()).collect();
    Settings { publish, ..limits(|l| (l.timeout, l.cpu) = (10 * SECOND, Duration::from_millis(300))) }
}

/// Status and body of the answer, as one line.
async fn handle(node: &Node, revision: &Arc<Revision>, request: Request<Body>) -> String {
    let response = node.executor.invoke(call(revision, request)).await.unwrap_or_else(|e| panic!("{e}"));
    format!("{} {}", response.status().as_u16(), text(response).await)
}

async fn fails(node: &Node, revision: &Arc<Revision>, request: Request<Body>) -> InvokeError {
    node.executor.invoke(call(revision, request)).await.err().unwrap()
}

/// The one message that was sent.
fn one(subject: &str, payload: &str) -> Vec<(String, String)> {
    vec![(subject.into(), payload.into())]
}

#[test]
fn a_handler_answers_by_success_error_or_failure() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("messaging", publishing(&[])).await;
        assert_eq!(revision.world, World::Messaging);
        assert_eq!(handle(&node, &revision, event("ok")).await, "204 ");
        assert_eq!(handle(&node, &revision, event("error sold-out")).await, "500 sold-out");
        assert!(matches!(fails(&node, &revision, event("trap")).await, InvokeError::Trap(_)));
        assert_eq!(fails(&node, &revision, event("spin")).await, InvokeError::Cpu(Duration::from_millis(300)));
        // Nobody was harmed.
        assert_eq!(handle(&node, &revision, event("ok")).await, "204 ");
    });
}

#[test]
fn the_message_has_the_subject_the_payload_and_the_reply_subject() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("messaging", publishing(&[])).await;
        let with = |headers: &[(&'static str, &str)]| {
            let mut request = post("/from/path?and=query", Body::full("describe"));
            for (name, value) in headers {
                request.headers_mut().insert(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            request
        };
        let own = [("dunlin-subject", "bestellt.größe"), ("ce-subject", "other"), ("dunlin-reply-to", REPLY)];
        let seen = handle(&node, &revision, with(&own)).await;
        assert_eq!(seen, format!("500 bestellt.größe 8 Some(\"{REPLY}\")"));
        assert_eq!(handle(&node, &revision, with(&[("ce-subject", "key/1")])).await, "500 key/1 8 None");
        assert_eq!(handle(&node, &revision, with(&[])).await, "500 /from/path 8 None");
    });
}

#[test]
fn a_payload_is_bounded_by_the_request_body_and_by_memory() {
    run(async {
        let node = Node::start();
        let bounded = |body, memory| Settings {
            limits: Limits { request_body: body, memory, ..Limits::default() },
            ..Settings::default()
        };
        let revision = node.deploy("messaging", bounded(ByteSize::kib(64), ByteSize::mib(16))).await;
        assert_eq!(handle(&node, &revision, event(vec![b'x'; 64 << 10])).await, "500 65536 bytes");
        let error = fails(&node, &revision, event(vec![b'x'; (64 << 10) + 1])).await;
        assert_eq!(error, InvokeError::BodyTooLarge(ByteSize::kib(64)));

        let revision = node.deploy("messaging", bounded(ByteSize::mib(100), ByteSize::mib(16))).await;
        assert_eq!(handle(&node, &revision, event(vec![b'x'; 4 << 20])).await, "500 4194304 bytes");
        // One that is larger than all memory, and one that does not fit beside what is there.
        for size in [17, 16] {
            let error = fails(&node, &revision, event(vec![b'x'; size << 20])).await;
            assert_eq!(error, InvokeError::Memory(ByteSize::mib(16)), "{size} MiB");
        }
    });
}

#[test]
fn a_payload_may_come_in_pieces_and_break_off() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("messaging", Settings::default()).await;
        let pieces = |pieces: Vec<Result<&'static str, BodyError>>| {
            let frames = pieces.into_iter().map(|piece| piece.map(|p| http_body::Frame::data(bytes::Bytes::from(p))));
            post("/", Body::stream(http_body_util::StreamBody::new(futures::stream::iter(frames))))
        };
        assert_eq!(handle(&node, &revision, pieces(vec![Ok("err"), Ok("or "), Ok("whole")])).await, "500 whole");
        let error = fails(&node, &revision, pieces(vec![Ok("o"), Err("the sender left".into())])).await;
        assert!(matches!(&error, InvokeError::BadRequest(why) if why.contains("the sender left")), "{error}");
    });
}

#[test]
fn the_text_of_an_error_counts_as_a_response_body() {
    run(async {
        let node = Node::start();
        let settings = limits(|l| l.response_body = Some(ByteSize::kib(64)));
        let revision = node.deploy("messaging", settings).await;
        assert_eq!(handle(&node, &revision, event("fat 65536")).await.len(), "500 ".len() + 65536);
        let response = node.executor.invoke(call(&revision, event("fat 65537"))).await.unwrap();
        assert!(http_body_util::BodyExt::collect(response.into_body()).await.is_err());
    });
}

#[test]
fn messages_go_where_they_are_granted_and_nowhere_else() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("messaging", publishing(&["out.*", "audit.>"])).await;
        for subject in ["out.a", "audit.a.b.c"] {
            assert_eq!(handle(&node, &revision, event(format!("publish {subject} hello"))).await, "204 ");
            assert_eq!(node.post.take(), one(subject, "hello"));
        }
        for (subject, why) in [
            ("out.a.b", "add \"out.a.b\" to `publish`"),
            ("orders.paid", "add \"orders.paid\" to `publish`"),
            ("dl.v1.x", "add"),
            ("$JS.API.INFO", "add"),
            ("out.*", "wildcard"),
            ("out..a", "empty token"),
            ("out.\r\nPUB", "control character"),
            ("", "1 to 255 bytes"),
        ] {
            for asked in [format!("publish {subject} x"), format!("request {subject} 1000 x")] {
                let answer = handle(&node, &revision, event(asked)).await;
                assert!(answer.starts_with("500 ") && answer.contains(why), "{subject}: {answer}");
            }
        }
        assert_eq!(node.post.take(), []);
        assert!(node.logs.with("refused a message to orders.paid").await.stream == LogStream::Runtime);
    });
}

#[test]
fn only_the_message_that_asks_for_a_reply_is_replied_to() {
    run(async {
        let node = Node::start();
        let instances = Instances { reuse: 100, ..Instances::default() };
        let revision = node.deploy("messaging", Settings { instances, ..publishing(&[]) }).await;
        assert_eq!(handle(&node, &revision, asking("reply thanks")).await, "204 ");
        assert_eq!(node.post.take(), one(REPLY, "thanks"));
        assert!(handle(&node, &revision, event("reply thanks")).await.contains("nobody asked"));
        // The same instance, which remembers the subject.
        let late = handle(&node, &revision, event(format!("publish {REPLY} late"))).await;
        assert!(late.contains("not granted"), "{late}");
        assert_eq!(handle(&node, &revision, event("count")).await, "500 4");
        assert_eq!(node.post.take(), []);
    });
}

#[test]
fn an_instance_that_failed_handles_no_other_message() {
    run(async {
        let node = Node::start();
        let instances = Instances { reuse: 100, ..Instances::default() };
        let revision = node.deploy("messaging", Settings { instances, ..publishing(&[]) }).await;
        assert_eq!(handle(&node, &revision, event("count")).await, "500 1");
        assert_eq!(handle(&node, &revision, event("count")).await, "500 2");
        fails(&node, &revision, event("trap")).await;
        assert_eq!(handle(&node, &revision, event("count")).await, "500 1");
        let settings = Settings { instances: Instances { concurrent: 2, ..instances }, ..publishing(&[]) };
        let refused = node.revision(dunlin_fixtures::bytes("messaging"), settings).await;
        assert!(matches!(refused, Err(Refusal::Settings(_))));
    });
}

#[test]
fn a_request_brings_a_reply_or_says_why_there_is_none() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("messaging", publishing(&["ask", "never", "deaf", "down"])).await;
        for (asked, answer) in [
            ("request ask 1000 hello", "500 _INBOX.reply HELLO"),
            ("request never 20 hello", "500 no reply to `never` came within 20 ms"),
            ("request deaf 1000 hello", "500 nobody listens on `deaf`"),
            ("request down 1000 hello", "500 messages cannot be sent now: try again later"),
            ("publish down hello", "500 messages cannot be sent now: try again later"),
        ] {
            assert_eq!(handle(&node, &revision, event(asked)).await, answer, "{asked}");
        }
        let asked = handle(&node, &revision, event("publish-for ask me")).await;
        assert!(asked.contains("use `request`"), "{asked}");
    });
}

#[test]
fn computing_and_waiting_for_messages_end_with_the_deadline() {
    run(async {
        let node = Node::start();
        let settings = Settings { publish: vec!["never".into()], ..limits(|l| l.timeout = Duration::from_millis(200)) };
        let revision = node.deploy("messaging", settings).await;
        let error = fails(&node, &revision, event("spin")).await;
        assert_eq!(error, InvokeError::Deadline(Duration::from_millis(200)));
        // Either the guest is told just before, or it is cut off.
        for asked in ["request never 4000000000 x", "publish never x"] {
            match node.executor.invoke(call(&revision, event(asked))).await {
                Ok(response) => {
                    let answer = text(response).await;
                    assert!(answer.contains("no reply") || answer.contains("limits.timeout"), "{answer}");
                }
                Err(error) => assert_eq!(error, InvokeError::Deadline(Duration::from_millis(200)), "{asked}"),
            }
        }
    });
}

#[test]
fn messages_are_bounded_in_size_and_number() {
    run(async {
        let node = Node::start();
        let mut settings = publishing(&["out", "ask"]);
        (settings.limits.outbound, settings.limits.cpu) = (0, 5 * SECOND);
        let revision = node.deploy("messaging", settings).await;
        let of = |payload: String| handle(&node, &revision, event(payload));
        assert_eq!(of(format!("publish-bytes out {MAX_PAYLOAD}")).await, "204 ");
        assert!(of(format!("publish-bytes out {}", MAX_PAYLOAD + 1)).await.contains("at most 1048576 bytes"));
        // More than a host call may copy.
        let error = fails(&node, &revision, event(format!("publish-bytes out {}", 20 << 20))).await;
        assert!(matches!(error, InvokeError::Trap(_)), "{error}");
        node.post.take();

        assert_eq!(of("publish-often out 10000".into()).await, "204 ");
        assert_eq!(node.post.take().len(), 10_000);
        assert!(of("publish-often out 10001".into()).await.contains("at most 10000 messages"));
        assert_eq!(node.post.take().len(), 10_000);

        let none = of("request ask 1000 x".into()).await;
        assert!(none.contains("limits.outbound = 0 is used up"), "{none}");
        assert_eq!(node.post.take(), []);
    });
}

#[test]
fn http_components_of_both_kinds_send_messages_too() {
    run(async {
        let node = Node::start();
        for (name, concurrent) in [("hostile", 1), ("hostile3", 1), ("hostile3", 8)] {
            let instances = Instances { reuse: 100, concurrent, ..Instances::default() };
            let revision = node.deploy(name, Settings { instances, ..publishing(&["out.>"]) }).await;
            assert_eq!(node.text(&revision, "/publish?subject=out.a").await, "Ok(())\n", "{name}");
            assert_eq!(node.post.take(), one("out.a", "from hostile"), "{name}");
            let refused = node.text(&revision, "/publish?subject=elsewhere").await;
            assert!(refused.starts_with("Err(") && refused.contains("not granted"), "{name}: {refused}");

            let mut request = get(&format!("/publish?subject={REPLY}"));
            request.headers_mut().insert("dunlin-reply-to", REPLY.parse().unwrap());
            let replied = node.executor.invoke(call(&revision, request)).await.unwrap();
            assert_eq!(text(replied).await, "Ok(())\n", "{name}");
            assert_eq!(node.post.take(), one(REPLY, "from hostile"), "{name}");
            let late = node.text(&revision, &format!("/publish?subject={REPLY}")).await;
            assert!(late.contains("not granted"), "{name}: {late}");
        }
    });
}

#[test]
fn log_lines_have_their_level_and_do_not_mix_with_printed_ones() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("messaging", publishing(&[])).await;
        assert_eq!(handle(&node, &revision, event("log")).await, "204 ");
        node.logs.with("begun, ended").await;
        let seen: Vec<_> = node.logs.all().into_iter().map(|line| (line.stream, line.text)).collect();
        let line = |stream, text: &str| (stream, text.to_owned());
        assert_eq!(
            seen,
            [
                line(LogStream::Stdout, "INFO orders: two"),
                line(LogStream::Stdout, "lines"),
                line(LogStream::Stderr, "CRITICAL without a context"),
                line(LogStream::Stdout, "begun, ended"),
            ]
        );
    });
}

#[test]
fn a_component_of_another_toolkit_replies() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("thirdparty-messaging", Settings::default()).await;
        assert_eq!(handle(&node, &revision, asking("hello")).await, "204 ");
        assert_eq!(node.post.take(), one(REPLY, "HELLO"));
        // Nobody asked, and the subject that it then chooses is not granted: its exception is an error or a trap.
        let answer = node.executor.invoke(call(&revision, event("hello"))).await;
        assert!(answer.is_err() || answer.is_ok_and(|response| response.status() == 500));
        assert_eq!(node.post.take(), []);
    });
}
