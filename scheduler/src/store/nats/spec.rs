//! How a [`ConsumerSpec`] is a durable consumer of JetStream, and how that is made, looked at and removed.
//!
//! Consumers acknowledge each message, never give up by themselves, and are shared by all nodes. With an order they have a
//! priority group with a pinned client (ADR-42): the server gives messages to one of those who pull, until it has not
//! pulled for [`PINNED`]. Bounds: [`MAX_PENDING`] deliveries out at once.

use async_nats::jetstream::{self, ErrorCode};
use dunlin_api::{
    StoreError,
    trigger::{Order, Start},
};
use serde_json::{Value, json};
use std::time::Duration;

use super::{api, changes, delivery::Shape};
use crate::{
    nats::Nats,
    store::events::{ACK_WAIT, ConsumerSpec, MAX_PENDING, Source},
};

/// The priority group of consumers with an order.
pub(super) const GROUP: &str = "node";
/// How long the server waits for the next request of the node that it pinned: longer than [`ACK_WAIT`], so that what a
/// node had that is gone comes again before anything new.
const PINNED: Duration = Duration::from_secs(15);
/// Consumers of queues go when nobody has asked them for so long.
const INACTIVE: Duration = Duration::from_secs(300);
/// Requests of nodes that may wait at one consumer: a handful for each of hundreds of nodes.
const WAITING: usize = 2_048;

/// A consumer as JetStream shall have it.
pub(super) struct Plan {
    pub(super) stream: String,
    pub(super) name: String,
    /// What is told of its messages.
    pub(super) shape: Shape,
    /// Whether one node at a time gets messages.
    pub(super) pinned: bool,
    config: Value,
}

impl Plan {
    pub(super) fn of(nats: &Nats, spec: &ConsumerSpec) -> Result<Self, StoreError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if spec.name.is_empty() || spec.name.len() > 128 || !spec.name.bytes().all(fits) {
            let shown = spec.name.escape_debug();
            return Err(StoreError::Invalid(format!(
                "`{shown}` is no name of a consumer: 1 to 128 of a-z, A-Z, 0-9, - and _"
            )));
        }
        let (cluster, pattern) = (&nats.cluster, dunlin_api::subject::check_pattern);
        let mut deliver = match spec.start {
            Start::All => json!({ "deliver_policy": "all" }),
            Start::New => json!({ "deliver_policy": "new" }),
            Start::Time(ms) => json!({ "deliver_policy": "by_start_time", "opt_start_time": timestamp(ms)? }),
        };
        let (stream, filter, shape) = match &spec.source {
            Source::Queue(queue) => {
                pattern(queue).map_err(StoreError::Invalid)?;
                // A work queue is read from its beginning; what is done has left it.
                deliver = json!({ "deliver_policy": "all" });
                let subject = nats.subjects.work(queue);
                let prefix = subject[..subject.len() - queue.len()].to_owned();
                (format!("dl-{cluster}-work"), subject, Shape::Queue { prefix })
            }
            Source::Stream { stream, subject } => {
                pattern(subject).map_err(StoreError::Invalid)?;
                check_stream(stream)?;
                (stream.clone(), subject.clone(), Shape::Plain)
            }
            Source::Changes { source, keys } => {
                if spec.start == Start::All {
                    deliver = json!({ "deliver_policy": "last_per_subject" });
                }
                let (stream, filter) = (changes::stream(cluster, source)?, changes::filter(cluster, source, keys));
                (stream, filter, Shape::Changes { source: source.clone(), keys: keys.clone() })
            }
        };
        let name = format!("dl-{cluster}-{}", spec.name);
        let queue = matches!(spec.source, Source::Queue(_));
        let pinned = spec.order != Order::None;
        let mut config = json!({
            "name": name,
            "durable_name": name,
            "filter_subject": filter,
            "ack_policy": "explicit",
            "ack_wait": nanos(ACK_WAIT),
            "max_deliver": -1,
            "max_ack_pending": MAX_PENDING,
            "max_waiting": WAITING,
            "replay_policy": "instant",
            "inactive_threshold": if queue { nanos(INACTIVE) } else { 0 },
        });
        merge(&mut config, deliver);
        if pinned {
            merge(
                &mut config,
                json!({
                    "priority_policy": "pinned_client",
                    "priority_groups": [GROUP],
                    "priority_timeout": nanos(PINNED),
                }),
            );
        }
        Ok(Self { stream, name, shape, pinned, config })
    }
}

/// Makes a consumer or gives it what is new in its plan.
pub(super) async fn ensure(nats: &Nats, plan: &Plan) -> Result<(), StoreError> {
    let mut config = plan.config.clone();
    if let Some(info) = info(nats, plan).await? {
        let old = &info["config"];
        // Where it began cannot be changed, and need not.
        for begin in ["deliver_policy", "opt_start_time", "opt_start_seq"] {
            match old.get(begin) {
                Some(value) => config[begin] = value.clone(),
                None => drop(config.as_object_mut().map(|config| config.remove(begin))),
            }
        }
        let same = |(name, value): (&String, &Value)| old.get(name).map_or(*value == json!(0), |old| old == value);
        if config.as_object().is_some_and(|config| config.iter().all(same)) {
            return Ok(());
        }
    }
    let filter = config["filter_subject"].as_str().unwrap_or_default();
    let call = format!("CONSUMER.CREATE.{}.{}.{filter}", plan.stream, plan.name);
    let request = json!({ "stream_name": plan.stream, "config": config });
    let made = api::call::<Value>(nats, "making a consumer", &call, &request).await?;
    made.map(|_| ()).map_err(|error| refusal(&error, &plan.stream))
}

/// What is known of a consumer, if it exists.
pub(super) async fn info(nats: &Nats, plan: &Plan) -> Result<Option<Value>, StoreError> {
    let call = format!("CONSUMER.INFO.{}.{}", plan.stream, plan.name);
    match api::call::<Value>(nats, "looking at a consumer", &call, &json!({})).await? {
        Ok(info) => Ok(Some(info)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(refusal(&error, &plan.stream)),
    }
}

/// Removes a consumer.
pub(super) async fn remove(nats: &Nats, plan: &Plan) -> Result<(), StoreError> {
    let call = format!("CONSUMER.DELETE.{}.{}", plan.stream, plan.name);
    match api::call::<Value>(nats, "removing a consumer", &call, &json!({})).await? {
        Err(error) if !is_absent(&error) => Err(refusal(&error, &plan.stream)),
        _ => Ok(()),
    }
}

fn is_absent(error: &jetstream::Error) -> bool {
    matches!(error.error_code(), ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::STREAM_NOT_FOUND)
}

/// What JetStream says against a consumer of `stream`.
pub(super) fn refusal(error: &jetstream::Error, stream: &str) -> StoreError {
    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND => match stream.split_once('_') {
            Some(("KV", bucket)) => StoreError::NotFound(format!("the key-value bucket `{bucket}` of NATS")),
            Some(("OBJ", bucket)) => StoreError::NotFound(format!("the object bucket `{bucket}` of NATS")),
            _ => StoreError::NotFound(format!("the stream `{stream}`")),
        },
        _ => StoreError::Invalid(format!("the stream `{stream}` refuses a consumer: {error}")),
    }
}

/// Checks the name of somebody's stream.
pub(super) fn check_stream(stream: &str) -> Result<(), StoreError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    if stream.is_empty() || stream.len() > 255 || stream.contains(bad) {
        return Err(StoreError::Invalid(format!("`{}` is no name of a stream", stream.escape_debug())));
    }
    Ok(())
}

fn merge(config: &mut Value, more: Value) {
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// RFC 3339, as JetStream has times.
fn timestamp(ms: i64) -> Result<String, StoreError> {
    let invalid = || StoreError::Invalid(format!("{ms} ms since 1970 is no time"));
    let since = u64::try_from(ms).map_err(|_| invalid())?;
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(since)).ok_or_else(invalid)?;
    Ok(humantime::format_rfc3339_millis(time).to_string())
}
