//! Components made for wasmCloud's messaging, on subjects and on streams.

use futures::StreamExt as _;

use super::place::Place;
use crate::{cluster::support::until, support::get};

/// What comes on `ask` wants a reply, what comes on `in.>` is stored, and so is what goes to `kept.>`.
const MANIFEST: &str = r#"
[function.messaging]
SOURCE
publish = ["kept.>"]
[[function.messaging.nats]]
subject = "ask"
[[function.messaging.stream]]
subject = "in.>"
max_deliver = 2
backoff = ["50ms"]
"#;

const KEPT: &str = r#"
[function.events]
SOURCE
kv = ["booked", "seen"]
[[function.events.stream]]
subject = "kept.>"
"#;

#[test]
fn messaging_components_work_alone() {
    check(&Place::alone());
}

#[test]
fn messaging_components_work_in_a_cluster() {
    let place = Place::cluster();
    check(&place);
    let Place::Cluster(cluster) = &place else { unreachable!("it was asked for") };
    each_request_has_one_reply(&cluster.nats.url());
}

fn check(place: &Place) {
    place.deploy("events", KEPT);
    place.deploy("messaging", MANIFEST);
    place.deploy("thirdparty-messaging", "[function.upper]\nSOURCE\n[[function.upper.nats]]\nsubject = \"upper\"\n");
    let ask = |subject: &str, payload: &str| place.json(&["publish", subject, "-d", payload, "--wait=1m"]);
    assert_eq!(ask("ask", "reply hello")["payload"], "hello");
    assert_eq!(ask("upper", "hello")["payload"], "HELLO");
    let refused = ask("ask", "error sorry");
    assert!(refused["payload"].as_str().unwrap().contains("sorry"), "{refused}");

    // What it publishes is stored where a stream takes it, whoever listens.
    for (subject, id) in [("in.a", "stored"), ("in.b", "twice")] {
        place.ok(&["publish", subject, "-d", &format!(r#"publish kept.{id} {{"id":"{id}"}}"#)]);
    }
    let entries = || get(&format!("{}/events/entries", place.http())).1;
    until("both are handled", || entries() == "stored 1\ntwice 1\n");

    // It says that it failed by an error, and dies as any other function.
    place.ok(&["publish", "in.a", "-d", "error sorry"]);
    place.ok(&["publish", "in.a", "-d", "trap"]);
    place.ok(&["publish", "in.a", "-d", r#"publish elsewhere.x {}"#]);
    until("all are dead", || place.letters("messaging").len() == 3);
    for letter in place.letters("messaging") {
        assert_eq!(letter["attempts"], 2, "{letter}");
    }
    let reasons = place.json(&["dlq", "list"]).to_string();
    for part in ["sorry", "trap", "publish"] {
        assert!(reasons.contains(part), "{part} is missing in {reasons}");
    }
}

/// Replies come in the order of the requests here, so one too many would come before the next request's.
fn each_request_has_one_reply(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(url).await.unwrap();
        let inbox = client.new_inbox();
        let mut replies = client.subscribe(inbox.clone()).await.unwrap();
        for n in 0..5 {
            client.publish_with_reply("ask", inbox.clone(), format!("reply {n}").into()).await.unwrap();
            let reply = replies.next().await.unwrap();
            assert_eq!(reply.payload, n.to_string());
        }
    });
}
