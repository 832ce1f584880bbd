//! What fires a function beside HTTP: subjects, streams, schedules, changes of keys; and how calls that nobody waits for are tried.

use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

use crate::{Digest, FunctionName, subject::check_listenable};

mod choices;
mod retry;

pub use choices::{Missed, Order, Overlap, Start};
pub use retry::{DEFAULT_BACKOFF, DEFAULT_MAX_DELIVER, MAX_DELIVER, RetryPolicy};
use retry::{default_backoff, default_max_deliver, durations};

/// A core NATS subject: at most once, each message to one node of the cluster; a message with a reply subject is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectTrigger {
    /// The subject; wildcards `*` and `>` are allowed.
    pub subject: String,
    /// Messages that this trigger runs at once on one node; as many again may wait, more are dropped and counted.
    #[serde(default = "default_subject_concurrency")]
    pub concurrency: u32,
}

fn default_subject_concurrency() -> u32 {
    64
}

/// A JetStream stream: at least once, acknowledged after success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamTrigger {
    /// The subjects of the messages; wildcards are allowed.
    pub subject: String,
    /// An existing stream, of which nothing is changed but that it gets a consumer. None = the stream that takes the
    /// subject, or one that is made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Where the consumer begins when it is made. It never goes back by itself afterwards.
    #[serde(default, skip_serializing_if = "Start::is_all")]
    pub from: Start,
    /// Which events wait for each other.
    #[serde(default, skip_serializing_if = "Order::is_none")]
    pub order: Order,
    /// Events of this trigger that run at once on one node; none = as many as there are slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Deliveries that may fail before the event is a dead letter.
    #[serde(default = "default_max_deliver")]
    pub max_deliver: u32,
    /// Waits after the first, second, … failed delivery, each ± 20 %; the last one repeats.
    #[serde(default = "default_backoff", with = "durations")]
    pub backoff: Vec<Duration>,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CronTrigger {
    /// Five fields, or six with seconds in front (POSIX crontab with the extensions of Vixie cron), or `@hourly` and the like.
    pub schedule: String,
    /// A name of the IANA time zone database; UTC by default.
    #[serde(default = "default_timezone")]
    pub timezone: String,
    /// What happens with ticks that came while no node ran.
    #[serde(default)]
    pub missed: Missed,
    /// What happens with a tick while the run of an earlier one has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// Deliveries that may fail before the tick is a dead letter.
    #[serde(default = "default_max_deliver")]
    pub max_deliver: u32,
    /// Waits after the first, second, … failed delivery, each ± 20 %; the last one repeats.
    #[serde(default = "default_backoff", with = "durations")]
    pub backoff: Vec<Duration>,
}

fn default_timezone() -> String {
    "UTC".into()
}

/// Changes of keys: at least once, the last change of a key always; changes in between may be skipped if they come faster
/// than they are handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeTrigger {
    /// A key-value store of functions. One of `store`, `bucket` and `objects` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// A key-value bucket of NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// An object bucket of NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<String>,
    /// Keys that matter: a pattern in which `*` stands for any text, also none.
    #[serde(default = "default_keys")]
    pub keys: String,
    /// Events of this trigger that run at once on one node; none = as many as there are slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Deliveries that may fail before the event is a dead letter.
    #[serde(default = "default_max_deliver")]
    pub max_deliver: u32,
    /// Waits after the first, second, … failed delivery, each ± 20 %; the last one repeats.
    #[serde(default = "default_backoff", with = "durations")]
    pub backoff: Vec<Duration>,
}

/// Where keys change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeSource {
    /// A key-value store of functions.
    Store(String),
    /// A key-value bucket of NATS.
    Bucket(String),
    /// An object bucket of NATS.
    Objects(String),
}

impl fmt::Display for ChangeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(name) => write!(f, "store {name}"),
            Self::Bucket(name) => write!(f, "bucket {name}"),
            Self::Objects(name) => write!(f, "objects {name}"),
        }
    }
}

fn default_keys() -> String {
    "*".into()
}

/// How calls are tried that nobody waits for (`Prefer: respond-async`), and how long their results are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AsyncCalls {
    /// Calls that may fail before the call is a dead letter.
    pub max_deliver: u32,
    /// Waits after the first, second, … failed call, each ± 20 %; the last one repeats.
    #[serde(with = "durations")]
    pub backoff: Vec<Duration>,
    /// How long a result is kept after the call has ended.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
}

impl Default for AsyncCalls {
    fn default() -> Self {
        Self { max_deliver: DEFAULT_MAX_DELIVER, backoff: DEFAULT_BACKOFF.into(), keep: Duration::from_secs(24 * 3600) }
    }
}

impl AsyncCalls {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Names a trigger among those of its function: what it is and a hash of what it listens to, so that a trigger stays the
/// same when only its limits change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TriggerId(String);

impl TriggerId {
    fn of(kind: &str, identity: &[&str]) -> Self {
        let hash = Digest::of(identity.join("\0").as_bytes()).to_string();
        Self(format!("{kind}-{}", &hash[..8]))
    }

    /// The id of calls that nobody waits for.
    pub fn calls() -> Self {
        Self("async".into())
    }

    /// Its text: letters, digits and dashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TriggerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SubjectTrigger {
    /// Its id.
    pub fn id(&self) -> TriggerId {
        TriggerId::of("nats", &[&self.subject])
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        check_listened("nats.subject", &self.subject)?;
        check_concurrency("nats.concurrency", Some(self.concurrency))
    }
}

impl StreamTrigger {
    /// Its id.
    pub fn id(&self) -> TriggerId {
        TriggerId::of("stream", &[self.stream.as_deref().unwrap_or_default(), &self.subject])
    }

    /// How failed deliveries are repeated.
    pub fn retry(&self) -> RetryPolicy<'_> {
        RetryPolicy { max_deliver: self.max_deliver, backoff: &self.backoff }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        check_listened("stream.subject", &self.subject)?;
        if let Some(stream) = &self.stream {
            check_bucket("stream.stream", stream)?;
        }
        check_concurrency("stream.concurrency", self.concurrency)?;
        self.retry().check("stream")
    }
}

impl CronTrigger {
    /// Its id.
    pub fn id(&self) -> TriggerId {
        TriggerId::of("cron", &[&self.schedule, &self.timezone])
    }

    /// How failed deliveries are repeated.
    pub fn retry(&self) -> RetryPolicy<'_> {
        RetryPolicy { max_deliver: self.max_deliver, backoff: &self.backoff }
    }

    /// The schedule, parsed.
    ///
    /// # Errors
    /// Says what is wrong with it, by the name of its key.
    pub fn parsed(&self) -> Result<croner::Cron, String> {
        let parser = croner::parser::CronParser::builder().seconds(croner::parser::Seconds::Optional).build();
        parser.parse(&self.schedule).map_err(|error| {
            let shown: String = self.schedule.escape_debug().take(80).collect();
            format!("cron.schedule `{shown}`: {error}: write five fields such as `*/5 * * * *`, or six with seconds in front")
        })
    }

    /// The time zone of the schedule.
    ///
    /// # Errors
    /// When there is no such zone.
    pub fn zone(&self) -> Result<jiff::tz::TimeZone, String> {
        jiff::tz::TimeZone::get(&self.timezone).map_err(|_| {
            let shown: String = self.timezone.escape_debug().take(80).collect();
            format!("cron.timezone: `{shown}` is no time zone: write a name such as `Europe/Berlin`")
        })
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.parsed()?;
        self.zone()?;
        self.retry().check("cron")
    }
}

impl ChangeTrigger {
    /// Its id.
    pub fn id(&self) -> TriggerId {
        let source = self.source().map(|source| source.to_string()).unwrap_or_default();
        TriggerId::of("kv", &[&source, &self.keys])
    }

    /// What changes.
    ///
    /// # Errors
    /// When not exactly one source is named.
    pub fn source(&self) -> Result<ChangeSource, String> {
        match (&self.store, &self.bucket, &self.objects) {
            (Some(name), None, None) => Ok(ChangeSource::Store(name.clone())),
            (None, Some(name), None) => Ok(ChangeSource::Bucket(name.clone())),
            (None, None, Some(name)) => Ok(ChangeSource::Objects(name.clone())),
            _ => Err("kv: a trigger needs exactly one of `store`, `bucket` and `objects`".into()),
        }
    }

    /// How failed deliveries are repeated.
    pub fn retry(&self) -> RetryPolicy<'_> {
        RetryPolicy { max_deliver: self.max_deliver, backoff: &self.backoff }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.source()? {
            ChangeSource::Store(name) => drop(name.parse::<FunctionName>().map_err(|e| format!("kv.store: {e}"))?),
            ChangeSource::Bucket(name) => check_bucket("kv.bucket", name)?,
            ChangeSource::Objects(name) => check_bucket("kv.objects", name)?,
        }
        if self.keys.is_empty() || self.keys.len() > 1_024 {
            return Err("kv.keys must have 1 to 1024 bytes, such as `*` or `orders/*`".into());
        }
        check_concurrency("kv.concurrency", self.concurrency)?;
        self.retry().check("kv")
    }
}

impl AsyncCalls {
    /// How failed calls are repeated.
    pub fn retry(&self) -> RetryPolicy<'_> {
        RetryPolicy { max_deliver: self.max_deliver, backoff: &self.backoff }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let bounds = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
        if !bounds.contains(&self.keep) {
            return Err("async.keep must be between 1s and 30days".into());
        }
        self.retry().check("async")
    }
}

/// Checks a subject that a trigger listens to or a function publishes to.
pub(crate) fn check_listened(key: &str, subject: &str) -> Result<(), String> {
    check_listenable(subject).map_err(|e| format!("{key}: {e}"))
}

fn check_concurrency(key: &str, limit: Option<u32>) -> Result<(), String> {
    match limit {
        Some(0) => Err(format!("{key} is 0: nothing could ever run")),
        Some(100_001..) => Err(format!("{key} must be at most 100000")),
        _ => Ok(()),
    }
}

/// Names of streams and buckets, as NATS allows them; those that begin with `dl-` are the cluster's own.
fn check_bucket(key: &str, name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let shown: String = name.escape_debug().take(80).collect();
    if !(1..=255).contains(&name.len()) || !name.bytes().all(allowed) {
        return Err(format!("{key}: `{shown}` must be 1 to 255 of a-z, A-Z, 0-9, `-` and `_`"));
    }
    if ["dl-", "KV_dl-", "OBJ_dl-"].iter().any(|own| name.starts_with(own)) {
        return Err(format!("{key}: `{shown}` belongs to the cluster itself"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_keeps_its_id_when_only_its_limits_change() {
        let trigger = |extra: &str| toml::from_str::<StreamTrigger>(&format!("subject = \"a.>\"\n{extra}")).unwrap();
        assert_eq!(trigger("").id(), trigger("max_deliver = 9\nconcurrency = 2").id());
        assert_ne!(trigger("").id(), trigger("stream = \"S\"").id());
        assert!(trigger("").id().as_str().starts_with("stream-"));
    }
}
