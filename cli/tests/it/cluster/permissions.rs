//! Real nodes whose NATS users may do exactly what the documentation grants to their roles.

use super::support::{Member, until};
use crate::support::{fixture, get};
use dunlin_fixtures::nats::{NatsServer, Options};

/// The documented permissions of one role, for the node `name`.
fn granted(role: &str, name: &str) -> String {
    let text = include_str!("../../../../docs/nats-permissions.conf");
    let start = text.find(&format!("\n{role} {{")).unwrap() + 1;
    let end = start + text[start..].find("\n}").unwrap() + 2;
    let block = text[start + role.len()..end].replace("CLUSTER", "dunlin").replace("NODE", name);
    format!("{{ user: {name}, password: secret, permissions: {block} }}\n")
}

#[test]
fn the_documented_permissions_are_enough_for_a_gateway_and_a_worker() {
    let users = granted("GATEWAY_ONLY", "front") + &granted("WORKER_ONLY", "c");
    let config = format!("authorization {{ users: [\n{users}] }}");
    let server = NatsServer::with(&Options { config, ..Options::default() });
    let url = |name: &str| server.url().replace("nats://", &format!("nats://{name}:secret@"));
    let front = Member::start(&url("front"), "front", &["--no-worker"]);
    // A name that is also a token of subjects.
    let worker = Member::start(&url("c"), "c", &["--no-gateway"]);
    front.until_sees("c", "up");
    assert!(front.deploy_ledger(&[]).contains("ready on 1 of 1"));
    front.ok(&["deploy", &fixture("echo")]);
    assert_eq!(get(&format!("http://{}/ledger/run/x", front.http)), (200, "x".into()));
    assert_eq!(get(&format!("http://{}/ledger/entries", front.http)), (200, "x 1\n".into()));
    front.ok(&["drain", "c"]);
    front.ok(&["undrain", "c"]);
    front.ok(&["logs"]);
    front.ok(&["doctor"]);
    worker.ok(&["doctor"]);
    worker.ok(&["logs"]);
    let (code, message) = worker.fails(&["remove", "ledger", "--yes"]);
    assert!(code == 4 && message.contains("ask a node with a gateway"), "{code} {message}");
    front.ok(&["remove", "ledger", "--yes"]);
    assert!(!server.log().contains("Violation"), "{}", server.log());
}

/// What is documented for a trigger on the stream `ORDERS`, and for publishing to it.
const OF_ORDERS: &str = r#"publish: [
    "$JS.API.STREAM.INFO.ORDERS"
    "$JS.API.CONSUMER.CREATE.ORDERS.>"
    "$JS.API.CONSUMER.INFO.ORDERS.*"
    "$JS.API.CONSUMER.DELETE.ORDERS.*"
    "$JS.API.CONSUMER.MSG.NEXT.ORDERS.*"
    "orders.>""#;

#[test]
fn events_work_under_the_documented_permissions_and_a_deploy_names_the_one_it_lacks() {
    let of_orders = |role, name| granted(role, name).replacen("publish: [", OF_ORDERS, 1);
    let users = of_orders("GATEWAY_ONLY", "front") + &of_orders("WORKER_ONLY", "c");
    let config = format!("authorization {{ users: [\n{users}{{ user: owner, password: secret }}\n] }}");
    let server = NatsServer::with(&Options { config, ..Options::default() });
    let url = |name: &str| server.url().replace("nats://", &format!("nats://{name}:secret@"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let owner = async_nats::ConnectOptions::with_user_and_password("owner".into(), "secret".into());
        let context = async_nats::jetstream::new(owner.connect(server.url()).await.unwrap());
        for (name, subject) in [("ORDERS", "orders.>"), ("OTHER", "other.>")] {
            let subjects = vec![subject.to_owned()];
            let config = async_nats::jetstream::stream::Config { name: name.into(), subjects, ..Default::default() };
            context.create_stream(config).await.unwrap();
        }
    });
    let front = Member::start(&url("front"), "front", &["--no-worker"]);
    let _worker = Member::start(&url("c"), "c", &["--no-gateway"]);
    front.until_sees("c", "up");
    let events = fixture("events");
    let deploy = ["deploy", &events, "--kv", "booked", "--kv", "seen"];
    let on = |subject: &'static str| [&deploy[..], &["--on-stream", subject]].concat();
    front.ok(&on("orders.>"));
    front.ok(&["publish", "orders.a", "-d", r#"{"id": "done"}"#]);
    front.ok(&["publish", "orders.a", "-d", r#"{"id": "dead", "do": "reject"}"#]);
    let call = front.ok(&["invoke", "events", "/call?id=called", "--async", "-X", "POST"]);
    front.ok(&["result", call.trim(), "--wait=1m"]);
    let entries = || get(&format!("http://{}/events/entries", front.http)).1;
    until("both are done", || entries() == "called 1\ndone 1\n");
    let letters = || front.json(&["dlq", "list"])["letters"].as_array().unwrap().clone();
    until("one is dead", || letters().len() == 1);
    front.ok(&["dlq", "redrive", "--all"]);
    until("it is dead again", || letters().len() == 1);
    front.ok(&["dlq", "purge", "--all", "--yes"]);
    assert!(!server.log().contains("Violation"), "{}", server.log());

    let (code, message) = front.fails(&on("other.>"));
    assert!(code != 0 && message.contains("$JS.API.") && message.contains("OTHER"), "{code} {message}");
    front.ok(&["remove", "events", "--yes", "--discard-events"]);
}

#[test]
fn the_lines_of_all_nodes_are_read_at_one_and_followed() {
    let server = NatsServer::start();
    let nodes = ["n1", "n2", "n3"].map(|name| Member::start(&server.url(), name, &[]));
    for node in &nodes {
        nodes.iter().for_each(|other| {
            node.until_sees(&other.name, "up");
        });
    }
    nodes[0].deploy_ledger(&[]);
    for (n, node) in nodes.iter().enumerate() {
        let url = format!("http://{}/ledger/sleep/line-{n}", node.http);
        crate::support::get_until(&url, |status, _| status == 200);
    }
    let lines = nodes[0].ok(&["logs", "ledger"]);
    for n in 0..3 {
        assert!(lines.contains(&format!("line-{n}")), "{lines}");
    }
    let followed = crate::support::Running::start({
        let mut command = crate::support::dunlin(&["logs", "ledger", "--follow", "--tail", "1"]);
        command.env("DUNLIN_SERVER", &nodes[1].admin);
        command
    });
    followed.stdout_until("line-");
    for (n, node) in nodes.iter().enumerate() {
        assert_eq!(get(&format!("http://{}/ledger/sleep/later-{n}", node.http)).0, 200);
        followed.stdout_until(&format!("later-{n}"));
    }
}
