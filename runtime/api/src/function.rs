//! What is deployed: a function's revisions and which of them serve.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

use crate::{
    Digest, FunctionName, Limits, RevisionId,
    trigger::{AsyncCalls, ChangeTrigger, CronTrigger, StreamTrigger, SubjectTrigger},
};

/// One immutable deploy of a function: an artifact and the settings it runs with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// The function it belongs to.
    pub function: FunctionName,
    /// Its id, derived from `artifact` and `settings`.
    pub id: RevisionId,
    /// SHA-256 of the component.
    pub artifact: Digest,
    /// Size of the component in bytes.
    pub size_bytes: u64,
    /// The handler that the component exports.
    pub world: World,
    /// What it may use and how it is reached.
    pub settings: Settings,
    /// When it was first deployed, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// The handler a component exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// `wasi:http/incoming-handler@0.2.x`.
    #[serde(rename = "wasi:http@0.2")]
    Http02,
    /// `wasi:http/handler@0.3.x`.
    #[serde(rename = "wasi:http@0.3")]
    Http03,
    /// `wasmcloud:messaging/handler`: events only.
    #[serde(rename = "wasmcloud:messaging")]
    Messaging,
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http02 => "wasi:http@0.2",
            Self::Http03 => "wasi:http@0.3",
            Self::Messaging => "wasmcloud:messaging",
        })
    }
}

/// Everything about a revision that is not its bytes. Part of the revision's identity, so it holds no machine's paths
/// and no times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Limits of one invocation.
    pub limits: Limits,
    /// Environment variables of the guest.
    pub env: BTreeMap<String, String>,
    /// Origins the guest may call, such as `https://api.example.com` or `https://*.example.com`; empty = none.
    pub egress: Vec<String>,
    /// Key-value stores the guest may open.
    pub kv: Vec<String>,
    /// Whether and how long instances serve more than one invocation.
    pub instances: Instances,
    /// HTTP triggers.
    pub http: Vec<HttpTrigger>,
    /// Subjects the guest may publish to, with wildcards; none by default. What is empty from here on is not written, so
    /// that ids of older revisions stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Core NATS subjects that fire it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nats: Vec<SubjectTrigger>,
    /// JetStream streams that fire it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stream: Vec<StreamTrigger>,
    /// Schedules that fire it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cron: Vec<CronTrigger>,
    /// Changes of keys that fire it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangeTrigger>,
    /// How calls are tried that nobody waits for.
    #[serde(rename = "async", skip_serializing_if = "AsyncCalls::is_default")]
    pub calls: AsyncCalls,
    /// The nodes that may run it; without constraints it is not written, so that ids of older revisions stay.
    #[serde(skip_serializing_if = "Placement::is_anywhere")]
    pub place: Placement,
}

/// Constraints on the nodes that run a function; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Labels that a node must have, with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The zone a node must be in; none = any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl Placement {
    /// Whether there are no constraints.
    pub fn is_anywhere(&self) -> bool {
        self.labels.is_empty() && self.zone.is_none()
    }

    /// Whether a node with these labels in this zone may run it.
    pub fn fits(&self, labels: &BTreeMap<String, String>, zone: Option<&str>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.zone.as_deref().is_none_or(|wanted| zone == Some(wanted))
    }
}

impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let zone = self.zone.iter().map(|zone| format!("zone={zone}"));
        f.write_str(&labels.chain(zone).collect::<Vec<_>>().join(", "))
    }
}

/// Reuse of instances. The default is a fresh instance for every invocation, so that nothing leaks from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Instances {
    /// Invocations that one instance serves before it is retired; 1 = fresh each time.
    pub reuse: u32,
    /// Invocations that one instance serves at once; above 1 only for `wasi:http@0.3` guests.
    pub concurrent: u32,
    /// An instance that waited this long for work is retired.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

impl Default for Instances {
    fn default() -> Self {
        Self { reuse: 1, concurrent: 1, idle: Duration::from_secs(10) }
    }
}

/// An HTTP route that fires a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTrigger {
    /// Path pattern: `/orders/{id}`, `/files/{*path}`. The most specific pattern wins.
    pub route: String,
    /// Host the request must name; none = any host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Methods it takes, upper case; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
}

/// Which revisions of a function serve, and in which proportion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// The function.
    pub function: FunctionName,
    /// Serving revisions with their weights; a weight of 0 receives nothing. Never empty.
    pub serving: Vec<(RevisionId, u32)>,
    /// All revisions kept, newest last.
    pub revisions: Vec<RevisionId>,
}
