//! Messages, dead letters and calls that nobody waits for, on a node that stands alone.

use crate::support::{Node, PATIENCE, dunlin, fails, fixture, get_until, json, ok, text};
use serde_json::Value;
use std::{fs, time::Instant};
use tempfile::TempDir;

mod messaging;
mod place;
mod table;

/// A node with the function `name`, whose component is the fixture `name` and whose manifest goes on with `more`.
fn node_with(data: &TempDir, name: &str, more: &str) -> Node {
    let node = Node::start(data);
    deploy(&node, name, name, more);
    node
}

fn deploy(node: &Node, name: &str, component: &str, more: &str) {
    let project = tempfile::tempdir().unwrap();
    let manifest = format!("[function.{name}]\nsource = \"{}\"\n{more}", fixture(component));
    fs::write(project.path().join("dunlin.toml"), manifest).unwrap();
    ok(&node.admin, &["deploy", project.path().to_str().unwrap(), "--no-build"]);
}

/// Asks until `accept` likes what the command says.
fn until(node: &Node, args: &[&str], accept: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let told = json(&node.admin, args);
        if accept(&told) {
            return told;
        }
        assert!(started.elapsed() < PATIENCE, "{args:?} still says {told}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The dead letters, as soon as there are `count`.
fn letters(node: &Node, count: usize) -> Vec<Value> {
    let list = until(node, &["dlq", "list"], |list| list["letters"].as_array().unwrap().len() == count);
    list["letters"].as_array().unwrap().clone()
}

#[test]
fn a_message_fires_its_function_and_its_answer_is_the_reply() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    ok(&node.admin, &["deploy", &fixture("echo"), "--on-subject", "shout.*"]);
    assert_eq!(ok(&node.admin, &["publish", "shout.a", "-d", "hello", "--wait=1m"]), "hello");
    let sent = json(&node.admin, &["publish", "shout.a", "-d", "hello"]);
    assert_eq!(sent, serde_json::json!({ "subject": "shout.a", "stream": null, "sequence": null }));
    let shown = ok(&node.admin, &["show", "echo"]);
    assert!(shown.contains("nats shout.*"), "{shown}");
}

#[test]
fn a_stored_message_is_handled_by_its_function() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let events = fixture("events");
    ok(&node.admin, &["deploy", &events, "--on-stream", "orders.>", "--kv", "booked", "--kv", "seen"]);
    let stored = json(&node.admin, &["publish", "orders.paid", "-d", "{}", "-H", "Kind: test"]);
    let id = format!("{}/{}", stored["stream"].as_str().unwrap(), stored["sequence"]);
    get_until(&format!("{}/events/entries", node.http), |status, body| status == 200 && body.contains(&id));

    let many = json(&node.admin, &["publish", "orders.paid", "-d", "{}", "--count", "100"]);
    assert_eq!((&many["count"], &many["stream"]), (&100.into(), &stored["stream"]));
    assert_eq!(many["last"].as_u64().unwrap() - many["first"].as_u64().unwrap(), 99);
    let idle = |shown: &Value| {
        let trigger = &shown["triggers"][0];
        trigger["pending"] == 0 && trigger["unsettled"] == 0
    };
    until(&node, &["show", "events"], idle);
    assert_eq!(letters(&node, 0).len(), 0);
}

#[test]
fn a_rejected_event_is_listed_shown_tried_again_and_purged() {
    let data = tempfile::tempdir().unwrap();
    let node = node_with(&data, "transform", "[[function.transform.stream]]\nsubject = \"in.>\"\n");
    // Transform answers 400 to what is no JSON object: that will never work.
    let stored = json(&node.admin, &["publish", "in.a", "-d", "no JSON", "-H", "Kind: test"]);
    let letter = letters(&node, 1).remove(0);
    assert_eq!((&letter["function"], &letter["subject"]), (&"transform".into(), &"in.a".into()));
    assert_eq!((&letter["stream"], &letter["origin"]), (&stored["stream"], &stored["sequence"]));

    let number = letter["sequence"].to_string();
    let shown = ok(&node.admin, &["dlq", "show", &number]);
    for part in ["subject   in.a", "Kind: test", "no JSON", "400", "trigger   stream-"] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
    assert_eq!(ok(&node.admin, &["dlq", "show", &number, "--payload"]), "no JSON");
    assert!(ok(&node.admin, &["dlq", "list", "--function", "transform"]).contains(&number));
    assert!(!ok(&node.admin, &["dlq", "list", "--function", "other"]).contains("in.a"));

    // Its function has not changed, so it dies again, as another letter.
    ok(&node.admin, &["dlq", "redrive", &number]);
    let again = until(&node, &["dlq", "list"], |list| {
        let letters = list["letters"].as_array().unwrap();
        letters.len() == 1 && letters[0]["sequence"] != letter["sequence"]
    });
    // A function that takes it does it.
    deploy(&node, "transform", "echo", "[[function.transform.stream]]\nsubject = \"in.>\"\n");
    let redriven = json(&node.admin, &["dlq", "redrive", "--all", "--function", "transform"]);
    assert_eq!(redriven["redriven"][0]["sequence"], again["letters"][0]["sequence"]);
    assert_eq!(letters(&node, 0).len(), 0);
}

#[test]
fn dead_letters_are_published_elsewhere_or_purged_in_bulk_with_a_yes() {
    let data = tempfile::tempdir().unwrap();
    let node = node_with(&data, "transform", "[[function.transform.stream]]\nsubject = \"in.>\"\n");
    deploy(&node, "echo", "echo", "[[function.echo.stream]]\nsubject = \"other.>\"\n");
    ok(&node.admin, &["publish", "in.a", "-d", "no JSON", "--count", "3"]);
    let first = letters(&node, 3).remove(0)["sequence"].to_string();
    let to = json(&node.admin, &["dlq", "redrive", &first, "--to", "other.a"]);
    assert!(to["redriven"][0]["to"].as_str().unwrap().contains("other.a"), "{to}");
    assert_eq!(letters(&node, 2).len(), 2);

    let (code, message) = fails(&node.admin, &["dlq", "purge", "--all"]);
    assert!(code == 2 && message.contains("--yes"), "{code} {message}");
    assert_eq!(
        json(&node.admin, &["dlq", "purge", "--all", "--function", "other", "--yes"])["purged"],
        Value::Array(vec![])
    );
    assert_eq!(json(&node.admin, &["dlq", "purge", "--all", "--yes"])["purged"].as_array().unwrap().len(), 2);
    assert_eq!(letters(&node, 0).len(), 0);
    for command in [&["dlq", "show", &first][..], &["dlq", "redrive", &first], &["dlq", "purge", &first]] {
        let (code, message) = fails(&node.admin, command);
        assert!(code == 4 && message.contains("no dead letter"), "{command:?}: {code} {message}");
    }
}

#[test]
fn an_asynchronous_call_is_answered_later_byte_for_byte() {
    let data = tempfile::tempdir().unwrap();
    let node = node_with(&data, "echo", "");
    let file = data.path().join("body");
    fs::write(&file, [0, 159, 146, 150]).unwrap();
    let id = ok(&node.admin, &["invoke", "echo", "--async", "-d", &format!("@{}", file.display())]);
    let mut command = dunlin(&["result", id.trim(), "--wait=1m"]);
    let output = command.env("DUNLIN_SERVER", &node.admin).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &[0, 159, 146, 150][..]));
    assert!(text(&output.stderr).contains("done: 200 OK, 1 try"), "{}", text(&output.stderr));
    let record = json(&node.admin, &["result", id.trim()]);
    assert_eq!((&record["state"], &record["response"]["bytes"]), (&"done".into(), &4.into()));
}

#[test]
fn the_same_key_is_the_same_call() {
    let data = tempfile::tempdir().unwrap();
    let node = node_with(&data, "echo", "");
    let call = |key: &str| ok(&node.admin, &["invoke", "echo", "--async", "-d", "x", "--idempotency-key", key]);
    let first = call("a");
    assert_eq!(call("a"), first);
    assert_ne!(call("b"), first);
}

#[test]
fn a_call_that_is_not_over_is_7_and_one_that_was_cancelled_is_4() {
    let data = tempfile::tempdir().unwrap();
    let node = node_with(&data, "hostile", "");
    let id = ok(&node.admin, &["invoke", "hostile", "/sleep?ms=25000", "--async"]);
    let (code, message) = fails(&node.admin, &["result", id.trim()]);
    assert!(code == 7 && message.contains("--wait"), "{code} {message}");
    // What waits or runs is not thrown away by a removal that does not say so.
    let (code, message) = fails(&node.admin, &["remove", "hostile", "--yes"]);
    assert!(code == 4 && message.contains("--discard-events"), "{code} {message}");
    ok(&node.admin, &["result", id.trim(), "--cancel"]);
    let (code, message) = fails(&node.admin, &["result", id.trim(), "--wait=1m"]);
    assert!(code == 4 && message.contains("cancelled"), "{code} {message}");
    let (code, _) = fails(&node.admin, &["result", id.trim(), "--cancel"]);
    assert_eq!(code, 4);
    ok(&node.admin, &["remove", "hostile", "--yes", "--discard-events"]);
}

#[test]
fn a_call_that_never_succeeds_is_5_and_a_dead_letter() {
    let data = tempfile::tempdir().unwrap();
    let node = node_with(&data, "hostile", "async = { max_deliver = 2, backoff = [\"1ms\"] }\n");
    let id = ok(&node.admin, &["invoke", "hostile", "/trap", "--async"]);
    let (code, message) = fails(&node.admin, &["result", id.trim(), "--wait=1m"]);
    assert!(code == 5 && message.contains("2 tries") && message.contains("dunlin dlq list"), "{code} {message}");
    let letter = letters(&node, 1).remove(0);
    assert_eq!((&letter["trigger"], &letter["attempts"]), (&"async".into(), &2.into()));
}

#[test]
fn what_cannot_be_published_says_why() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let large = data.path().join("large");
    fs::write(&large, vec![b'x'; 1 << 20]).unwrap();
    let large = format!("@{}", large.display());
    for (args, part) in [
        (&["publish", "orders.*", "-d", "x"][..], "wildcard"),
        (&["publish", "a b", "-d", "x"], "space"),
        (&["publish", "dl.v1.x", "-d", "x"], "the cluster uses"),
        (&["publish", "$JS.API.INFO", "-d", "x"], "NATS itself"),
        (&["publish", "a", "-d", &large], "larger than"),
        (&["publish", "a", "-d", "@/no/such/file"], "cannot read"),
        (&["publish", "nobody.listens", "-d", "x", "--wait"], "nobody listens"),
        (&["dlq", "show", "999"], "no dead letter 999"),
        (&["dlq", "redrive", "1", "--to", "a.*"], "wildcard"),
        (&["result", "no-such-call"], "no"),
        (&["invoke", "nothing", "/", "--async"], "no function `nothing`"),
    ] {
        let (code, message) = fails(&node.admin, args);
        assert!(code == 4 && message.contains(part), "{args:?}: {code} {message}");
    }
}

#[test]
fn triggers_that_cannot_be_are_refused_at_deploy() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(&data);
    let echo = fixture("echo");
    for (option, value, part) in [
        ("--on-subject", "dl.>", "dl.>"),
        ("--on-stream", "$SYS.>", "NATS itself"),
        ("--cron", "61 * * * *", "cron.schedule"),
        ("--on-kv", "../x", "kv"),
        ("--publish", "a..b", "empty token"),
    ] {
        let (code, message) = fails(&node.admin, &["deploy", &echo, option, value]);
        assert!(code == 2 && message.contains(part), "{option} {value}: {code} {message}");
    }
    let (code, message) = fails(&node.admin, &["deploy", &echo, "--cron", "0 0 31 2 *"]);
    assert!(code == 4 && message.contains("never fire"), "{code} {message}");
    ok(&node.admin, &["deploy", &echo, "--cron", "0 3 * * *"]);
    let shown = ok(&node.admin, &["show", "echo"]);
    assert!(shown.contains("cron 0 3 * * *") && shown.contains("next at "), "{shown}");
}
