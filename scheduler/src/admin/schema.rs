//! The shapes of the contract crate's types in the API's description. That crate knows nothing of OpenAPI, so they stand
//! here a second time; a test holds them to what is really sent.

#![expect(dead_code, reason = "described, never made")]

use std::collections::BTreeMap;
use utoipa::{
    Modify, ToSchema,
    openapi::{
        OpenApi,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

/// A problem document (RFC 9457).
#[derive(ToSchema)]
pub(super) struct Problem {
    r#type: String,
    title: String,
    status: u16,
    /// What went wrong this time, and what to do.
    detail: String,
    /// The stable code of the kind of problem.
    code: String,
    /// The invocation to look for in the logs.
    invocation: Option<String>,
    /// Whether guest code had begun to run.
    started: Option<bool>,
}

/// Everything about a revision that is not its bytes.
#[derive(ToSchema)]
pub(super) struct Settings {
    limits: Limits,
    /// Environment variables.
    env: BTreeMap<String, String>,
    /// Origins it may call.
    egress: Vec<String>,
    /// Key-value stores it may open.
    kv: Vec<String>,
    instances: Instances,
    http: Vec<HttpTrigger>,
    /// Subjects it may publish to.
    publish: Option<Vec<String>>,
    nats: Option<Vec<SubjectTrigger>>,
    stream: Option<Vec<StreamTrigger>>,
    cron: Option<Vec<CronTrigger>>,
    changes: Option<Vec<ChangeTrigger>>,
    r#async: Option<AsyncCalls>,
    place: Option<Placement>,
}

/// A core NATS subject that fires a function: at most once.
#[derive(ToSchema)]
pub(super) struct SubjectTrigger {
    subject: String,
    /// Messages that run at once on one node.
    concurrency: Option<u32>,
}

/// A stream that fires a function: at least once.
#[derive(ToSchema)]
pub(super) struct StreamTrigger {
    subject: String,
    /// An existing stream; absent = the one that takes the subject, or one that is made for it.
    stream: Option<String>,
    /// Where its consumer begins: `all`, `new`, or a time (RFC 3339).
    from: Option<String>,
    /// Which events wait for each other: `none`, `subject`, `token:N` or `all`.
    order: Option<String>,
    /// Events that run at once on one node.
    concurrency: Option<u32>,
    /// Deliveries that may fail before the event is a dead letter.
    max_deliver: Option<u32>,
    /// Waits after the first, second, … failed delivery, such as `1s`; the last one repeats.
    backoff: Option<Vec<String>>,
}

/// A schedule that fires a function.
#[derive(ToSchema)]
pub(super) struct CronTrigger {
    /// Five fields, or six with seconds in front.
    schedule: String,
    /// A name of the IANA time zone database; UTC by default.
    timezone: Option<String>,
    /// Ticks that came while no node ran: `skip`, `once` or `all`.
    missed: Option<String>,
    /// A tick while an earlier run has not ended: `skip`, `queue` or `allow`.
    overlap: Option<String>,
    max_deliver: Option<u32>,
    backoff: Option<Vec<String>>,
}

/// Changes of keys that fire a function. One of `store`, `bucket` and `objects` is given.
#[derive(ToSchema)]
pub(super) struct ChangeTrigger {
    /// A key-value store of functions.
    store: Option<String>,
    /// A key-value bucket of NATS.
    bucket: Option<String>,
    /// An object bucket of NATS.
    objects: Option<String>,
    /// Keys that matter; `*` stands for any text.
    keys: Option<String>,
    concurrency: Option<u32>,
    max_deliver: Option<u32>,
    backoff: Option<Vec<String>>,
}

/// How calls are tried that nobody waits for.
#[derive(ToSchema)]
pub(super) struct AsyncCalls {
    max_deliver: Option<u32>,
    backoff: Option<Vec<String>>,
    /// How long a result is kept.
    keep: Option<String>,
}

/// Constraints on the nodes that run a function.
#[derive(ToSchema)]
pub(super) struct Placement {
    /// Labels that a node must have.
    labels: Option<BTreeMap<String, String>>,
    /// The zone it must be in.
    zone: Option<String>,
}

/// What one invocation may use. Sizes are bytes or text such as `64MiB`, times are text such as `200ms`.
#[derive(ToSchema)]
pub(super) struct Limits {
    memory: u64,
    cpu: String,
    timeout: String,
    concurrency: Option<u32>,
    request_body: u64,
    response_body: Option<u64>,
    logs: u64,
    outbound: u32,
}

/// Reuse of instances.
#[derive(ToSchema)]
pub(super) struct Instances {
    reuse: u32,
    concurrent: u32,
    idle: String,
}

/// An HTTP route that fires a function.
#[derive(ToSchema)]
pub(super) struct HttpTrigger {
    route: String,
    host: Option<String>,
    methods: Option<Vec<String>>,
}

/// One immutable deploy of a function.
#[derive(ToSchema)]
pub(super) struct Revision {
    function: String,
    id: String,
    /// SHA-256 of the component.
    artifact: String,
    size_bytes: u64,
    /// The handler that the component exports.
    world: String,
    settings: Settings,
    /// Milliseconds since the Unix epoch.
    created_ms: u64,
}

/// What a deploy did.
#[derive(ToSchema)]
pub(super) struct DeployResult {
    function: String,
    revision: String,
    artifact: String,
    /// False if exactly this was serving before.
    changed: bool,
    /// The version of the deployment.
    version: u64,
    routes: Vec<String>,
    nodes: Vec<NodeReady>,
}

/// Whether one node has a revision ready.
#[derive(ToSchema)]
pub(super) struct NodeReady {
    node: String,
    ready: bool,
    /// Why it is not.
    reason: Option<String>,
}

/// How busy a node is.
#[derive(ToSchema)]
pub(super) struct Load {
    in_flight: u32,
    slots: u32,
}

/// One line that a function printed.
#[derive(ToSchema)]
pub(super) struct LogLine {
    /// Milliseconds since the Unix epoch.
    time_ms: u64,
    function: String,
    revision: String,
    invocation: String,
    /// `stdout`, `stderr` or `runtime`.
    stream: String,
    text: String,
}

/// Says that a token may be needed.
pub(super) struct Security;

impl Modify for Security {
    fn modify(&self, description: &mut OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::PartialSchema;

    fn properties<T: PartialSchema>() -> Vec<String> {
        let schema = serde_json::to_value(T::schema()).unwrap();
        let mut names: Vec<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    fn members(value: &impl serde::Serialize) -> Vec<String> {
        let value = serde_json::to_value(value).unwrap();
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    #[test]
    fn describes_what_is_sent() {
        let limits = dunlin_api::Limits {
            concurrency: Some(1),
            response_body: Some(dunlin_api::ByteSize(1)),
            ..Default::default()
        };
        let trigger =
            dunlin_api::HttpTrigger { route: "/".into(), host: Some("h".into()), methods: vec!["GET".into()] };
        let invocation = dunlin_api::InvocationId::new();
        let problem = dunlin_api::Problem::of(&dunlin_api::InvokeError::Draining, invocation, false);
        assert_eq!(properties::<Limits>(), members(&limits));
        let place = dunlin_api::Placement { labels: [("a".into(), "b".into())].into(), zone: Some("z".into()) };
        assert_eq!(properties::<Placement>(), members(&place));
        let full: dunlin_api::Settings = serde_json::from_value(serde_json::json!({
            "publish": ["a"],
            "nats": [{"subject": "a"}],
            "stream": [{"subject": "a", "stream": "S", "from": "new", "order": "all", "concurrency": 1}],
            "cron": [{"schedule": "@daily"}],
            "changes": [{"store": "s", "concurrency": 1}],
            "async": {"max_deliver": 1},
        }))
        .unwrap();
        let full = dunlin_api::Settings { place, ..full };
        assert_eq!(properties::<Settings>(), members(&full));
        assert_eq!(properties::<SubjectTrigger>(), members(&full.nats[0]));
        assert_eq!(properties::<StreamTrigger>(), members(&full.stream[0]));
        assert_eq!(properties::<CronTrigger>(), members(&full.cron[0]));
        let mut change = full.changes[0].clone();
        (change.bucket, change.objects) = (Some("B".into()), Some("O".into()));
        assert_eq!(properties::<ChangeTrigger>(), members(&change));
        assert_eq!(properties::<AsyncCalls>(), members(&full.calls));
        assert_eq!(properties::<Instances>(), members(&dunlin_api::Instances::default()));
        assert_eq!(properties::<HttpTrigger>(), members(&trigger));
        assert_eq!(properties::<Load>(), members(&dunlin_api::Load::default()));
        assert_eq!(properties::<Problem>(), members(&problem));
    }
}
