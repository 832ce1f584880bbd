use super::*;
use proptest::prelude::*;

fn origin() -> Origin {
    Origin::stored("ORDERS", 7, 1_000, &message())
}

fn message() -> Message {
    Message::new("orders.paid", "{}")
}

fn asked(message: &Message) -> Result<Request<Bytes>, String> {
    let (function, trigger) = ("f".parse().unwrap(), TriggerId::calls());
    request(message, &origin(), &Try { function: &function, trigger: &trigger, attempt: 2, reply: Some("_INBOX.1") })
}

fn fields(message: &Message) -> Vec<(String, String)> {
    let request = asked(message).unwrap();
    let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
    let mut fields: Vec<_> = request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    fields.sort();
    fields
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn event() -> Message {
    let attributes = [("specversion", "1.0"), ("id", "1"), ("source", "/shop"), ("type", "paid")];
    attributes.iter().fold(message(), |message, (name, value)| message.with(format!("ce-{name}"), *value))
}

fn envelope(json: &str) -> Message {
    Message::new("orders.paid", json.to_owned()).with("Content-Type", "application/cloudevents+json; charset=utf-8")
}

#[test]
fn a_plain_message_gets_the_attributes_of_its_origin() {
    let message = message().with("Content-Type", "application/json").with("Shop", "berlin").with("Shop", "köln");
    let expected = pairs(&[
        ("ce-dunlinattempt", "2"),
        ("ce-dunlintrigger", "async"),
        ("ce-id", "ORDERS/7"),
        ("ce-source", "/streams/ORDERS"),
        ("ce-specversion", "1.0"),
        ("ce-subject", "orders.paid"),
        ("ce-time", "1970-01-01T00:00:01Z"),
        ("ce-type", "dev.dunlin.message"),
        ("content-length", "2"),
        ("content-type", "application/json"),
        ("dunlin-reply-to", "_INBOX.1"),
        ("dunlin-subject", "orders.paid"),
        ("nats-shop", "berlin"),
        ("nats-shop", "köln"),
    ]);
    assert_eq!(fields(&message), expected);
    let request = asked(&message).unwrap();
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "http://f.internal/"));
}

#[test]
fn a_change_says_which_store_and_what_happened() {
    for (store, operation, source, kind) in [
        ("store cart", "put", "/kv/store/cart", "dev.dunlin.kv.put"),
        ("bucket b", "delete", "/kv/bucket/b", "dev.dunlin.kv.delete"),
        ("objects o", "put", "/objects/o", "dev.dunlin.kv.put"),
    ] {
        let change = Message::new("user/1", "x").with(CHANGED, store).with(OPERATION, operation);
        let origin = Origin::stored("changes", 3, 0, &change);
        assert_eq!((origin.source.as_str(), origin.kind), (source, kind));
    }
}

#[test]
fn a_binary_event_keeps_its_attributes_and_cannot_set_ours() {
    let event = event().with("ce-subject", "a b").with("ce-city", "K%C3%B6ln").with("ce-quote", "\"köln\" 100%");
    let fields = fields(&event.with("Ce-DunlinAttempt", "9").with("ce-dunlintrigger", "x").with("ce-bad_name", "x"));
    let ce = |name: &str| fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    assert_eq!((ce("ce-id"), ce("ce-source"), ce("ce-type")), (Some("1"), Some("/shop"), Some("paid")));
    assert_eq!((ce("ce-subject"), ce("ce-city")), (Some("a%20b"), Some("K%C3%B6ln")));
    assert_eq!(ce("ce-quote"), Some("%22k%C3%B6ln%22%20100%25"));
    assert_eq!((ce("ce-dunlinattempt"), ce("ce-dunlintrigger"), ce("ce-time")), (Some("2"), Some("async"), None));
    assert!(!fields.iter().any(|(name, _)| name.starts_with("nats-") || name.contains('_')), "{fields:?}");
}

#[test]
fn a_structured_event_is_unwrapped() {
    let head = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","n":3,"dunlinattempt":"9","none":null"#;
    for (data, content_type, body) in [
        (r#","data":{"a":  1.0}"#, Some("application/json"), r#"{"a":  1.0}"#),
        (r#","datacontenttype":"text/plain","data":"h\u00e9"#, Some("text/plain"), "hé"),
        (r#","datacontenttype":"a/b+json","data":"h"#, Some("a/b+json"), "\"h\""),
        (r#","datacontenttype":"text/plain","data_base64":"aGk="#, Some("text/plain"), "hi"),
        ("", None, ""),
    ] {
        let end = if data.ends_with('}') || data.is_empty() { "}" } else { "\"}" };
        let request = asked(&envelope(&format!("{head}{data}{end}"))).unwrap();
        let headers = request.headers();
        assert_eq!(headers.get("content-type").map(|value| value.to_str().unwrap()), content_type, "{data}");
        assert_eq!(request.body(), body);
        assert_eq!((&headers["ce-n"], &headers["ce-dunlinattempt"]), (&"3".parse().unwrap(), &"2".parse().unwrap()));
        assert!(!headers.contains_key("ce-none"));
    }
}

#[test]
fn malformed_events_are_refused_with_the_reason() {
    let without = |name: &str| {
        let mut event = event();
        event.headers.retain(|(found, _)| found != name);
        event
    };
    for (message, part) in [
        (without("ce-id"), "`id`"),
        (without("ce-source"), "`source`"),
        (without("ce-type"), "`type`"),
        (without("ce-specversion"), "`specversion`"),
        (message().with("ce-id", "1").with("ce-source", "/").with("ce-type", "t").with("ce-specversion", "0.3"), "0.3"),
        (envelope("{"), "line 1"),
        (envelope("[]"), "malformed"),
        (envelope(r#"{"specversion":"1.0","id":"1","source":"/s"}"#), "`type`"),
        (envelope(r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#), "`id`"),
        (envelope(r#"{"specversion":"1.0","id":{},"source":"/s","type":"t"}"#), "neither"),
        (envelope(r#"{"data":1,"data_base64":"aGk="}"#), "data_base64"),
        (envelope(r#"{"data_base64":"?"}"#), "data_base64"),
        (message().with("content-type", "application/cloudevents+avro"), "avro"),
        (message().with("content-type", "application/cloudevents-batch+json"), "batch"),
    ] {
        let error = asked(&message).unwrap_err();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn what_is_stamped_is_the_same_event_from_elsewhere() {
    for message in [message().with("Shop", "a"), event(), envelope("{}")] {
        let stamped = stamped(message.clone(), &origin());
        let elsewhere = Origin::stored("other", 1, 9, &stamped);
        let read = |message: &Message, origin: &Origin| read(message, origin).map(|event| event.attributes);
        assert_eq!(read(&stamped, &elsewhere), read(&message, &origin()));
    }
}

#[test]
fn headers_beyond_the_bounds_are_left_out() {
    let many = (0..2 * MAX_FIELDS).fold(message(), |message, n| message.with(format!("h{n}"), "x"));
    let taken = fields(&many).iter().filter(|(name, _)| name.starts_with("nats-")).count();
    assert_eq!(taken, MAX_FIELDS);
    let large = message().with("a", "x".repeat(MAX_FIELD_BYTES - 2)).with("b", "x");
    assert_eq!(fields(&large).iter().filter(|(name, _)| name.starts_with("nats-")).count(), 1);
}

proptest! {
    #[test]
    fn no_message_sets_what_is_ours(headers in prop::collection::vec((name(), "\\PC{0,20}|[\\x00-\\x7f]{0,9}"), 0..12)) {
        let mut message = message();
        message.headers = headers;
        // What claims to be an event may be malformed; nothing else is refused.
        let Ok(request) = asked(&message) else {
            prop_assert!(is_binary(&message) || structured::is(&message));
            return Ok(());
        };
        let headers = request.headers();
        prop_assert_eq!(&headers["dunlin-subject"], "orders.paid");
        prop_assert_eq!(&headers["ce-dunlinattempt"], "2");
        for name in headers.keys().map(HeaderName::as_str) {
            let known = ["dunlin-subject", "dunlin-reply-to", "content-type", "content-length"].contains(&name);
            prop_assert!(known || name.starts_with("nats-") || name.starts_with("ce-"), "{}", name);
            for hidden in ["nats-ce-", "nats-dunlin-", "nats-connection", "nats-host", "nats-transfer-encoding"] {
                prop_assert!(!name.starts_with(hidden), "{}", name);
            }
        }
    }

    #[test]
    fn attributes_come_through_as_they_are(value in "\\PC{1,30}") {
        let mut event = event();
        event.headers[1].1 = escaped(&value);
        let request = asked(&event).unwrap();
        let read = request.headers()["ce-id"].to_str().unwrap();
        prop_assert!(read.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'"'));
        prop_assert_eq!(percent_decode_str(read).decode_utf8().unwrap(), value);
    }
}

/// Names that somebody may try, and others.
fn name() -> impl Strategy<Value = String> {
    let tried = [
        "ce-id",
        "CE-Type",
        "ce-dunlinattempt",
        "Dunlin-Subject",
        "connection",
        "Host",
        "Transfer-Encoding",
        "content-type",
    ];
    prop_oneof![prop::sample::select(tried.to_vec()).prop_map(String::from), "[ -9;-~]{1,12}", "\\PC{1,6}"]
}
