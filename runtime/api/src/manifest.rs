//! The project file `dunlin.toml`: which functions there are, how each is built, reached and limited.
//!
//! The command line reads it; what of it defines a revision becomes [`Settings`]. Parsing promises that every value is
//! in range and every key is known: an unknown key is an error that names the nearest known one.

use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    FunctionName, HttpTrigger, Instances, Limits, Placement, Settings,
    trigger::{AsyncCalls, ChangeTrigger, CronTrigger, StreamTrigger, SubjectTrigger, TriggerId, check_listened},
};

/// A parsed `dunlin.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The functions by name.
    #[serde(rename = "function")]
    pub functions: BTreeMap<FunctionName, Function>,
}

/// One `[function.NAME]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// The component, relative to the manifest.
    pub source: PathBuf,
    /// The command that makes `source`, run by the shell in the manifest's folder; none = it is made elsewhere.
    pub build: Option<String>,
    /// What `dunlin dev` watches, relative to the manifest.
    #[serde(default = "default_watch")]
    pub watch: Vec<PathBuf>,
    /// Limits of one invocation.
    #[serde(default)]
    pub limits: Limits,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Origins it may call; none by default.
    #[serde(default)]
    pub egress: Vec<String>,
    /// Key-value stores it may open, and changes that fire it; none by default.
    #[serde(default)]
    pub kv: Vec<KvEntry>,
    /// Reuse of instances.
    #[serde(default)]
    pub instances: Instances,
    /// HTTP triggers; without one the function is reached at `/NAME/{*path}`.
    #[serde(default)]
    pub http: Vec<HttpTrigger>,
    /// Subjects it may publish to; none by default.
    #[serde(default)]
    pub publish: Vec<String>,
    /// Core NATS subjects that fire it.
    #[serde(default)]
    pub nats: Vec<SubjectTrigger>,
    /// Streams that fire it.
    #[serde(default)]
    pub stream: Vec<StreamTrigger>,
    /// Schedules that fire it.
    #[serde(default)]
    pub cron: Vec<CronTrigger>,
    /// How calls are tried that nobody waits for.
    #[serde(default, rename = "async")]
    pub calls: AsyncCalls,
    /// The nodes of a cluster that may run it; all by default.
    #[serde(default)]
    pub place: Placement,
}

/// One entry of `kv`: a store that may be opened, or a table `[[function.NAME.kv]]` with changes that fire the function,
/// which also lets it open that store.
#[derive(Clone, Debug)]
pub enum KvEntry {
    /// A store that it may open.
    Store(String),
    /// Changes that fire it.
    Changes(Box<ChangeTrigger>),
}

impl<'de> Deserialize<'de> for KvEntry {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> serde::de::Visitor<'de> for Entry {
            type Value = KvEntry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a store, or a table with `store`, `bucket` or `objects`")
            }

            fn visit_str<E>(self, name: &str) -> Result<KvEntry, E> {
                Ok(KvEntry::Store(name.to_owned()))
            }

            // Not an untagged enum: that would not say which key is unknown.
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<KvEntry, A::Error> {
                let trigger = ChangeTrigger::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(KvEntry::Changes(Box::new(trigger)))
            }
        }
        from.deserialize_any(Entry)
    }
}

/// Triggers beside HTTP that one function may have: each costs every node a subscription or a consumer.
pub const MAX_TRIGGERS: usize = 64;

fn default_watch() -> Vec<PathBuf> {
    vec!["src".into()]
}

/// Why a manifest was refused: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{message}{}", hint(.suggestion))]
    Syntax {
        /// What the parser says, with line, column and the line itself.
        message: String,
        /// The known key nearest to an unknown one.
        suggestion: Option<String>,
    },
    /// A value out of range.
    #[error("function `{function}`: {message}")]
    Value {
        /// The function it stands in.
        function: FunctionName,
        /// Which key, which value, which range.
        message: String,
    },
    /// There is no `[function.NAME]` table.
    #[error("it defines no function: add a table `[function.NAME]` with a `source`")]
    Empty,
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or_else(String::new, |key| format!("did you mean `{key}`?"))
}

impl Manifest {
    /// Parses the text of a `dunlin.toml`.
    ///
    /// # Errors
    /// The first mistake found, with line and column where it has one.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text).map_err(|error| ManifestError::Syntax {
            suggestion: nearest_key(error.message()),
            message: error.to_string(),
        })?;
        if manifest.functions.is_empty() {
            return Err(ManifestError::Empty);
        }
        for (name, function) in &manifest.functions {
            let settings = function.settings(name);
            settings.check().map_err(|message| ManifestError::Value { function: name.clone(), message })?;
        }
        Ok(manifest)
    }
}

impl Function {
    /// The settings a revision of this function gets.
    pub fn settings(&self, name: &FunctionName) -> Settings {
        let http = if self.http.is_empty() { vec![HttpTrigger::default_for(name)] } else { self.http.clone() };
        let mut kv = Vec::new();
        let mut changes = Vec::new();
        for entry in &self.kv {
            match entry {
                KvEntry::Store(store) => kv.push(store.clone()),
                KvEntry::Changes(trigger) => {
                    kv.extend(trigger.store.clone());
                    changes.push((**trigger).clone());
                }
            }
        }
        kv.sort();
        kv.dedup();
        Settings {
            limits: self.limits.clone(),
            env: self.env.clone(),
            egress: self.egress.clone(),
            kv,
            instances: self.instances,
            http,
            publish: self.publish.clone(),
            nats: self.nats.clone(),
            stream: self.stream.clone(),
            cron: self.cron.clone(),
            changes,
            calls: self.calls.clone(),
            place: self.place.clone(),
        }
    }
}

impl HttpTrigger {
    /// The route of a function that names none: everything below `/NAME`.
    pub fn default_for(name: &FunctionName) -> Self {
        Self { route: format!("/{name}/{{*path}}"), host: None, methods: Vec::new() }
    }
}

impl Placement {
    fn tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let labels = self.labels.iter().flat_map(|(key, value)| [("place.labels", &**key), ("place.labels", &**value)]);
        labels.chain(self.zone.as_deref().map(|zone| ("place.zone", zone)))
    }
}

impl Settings {
    /// Checks all values against their ranges; the error names the key and the range.
    pub fn check(&self) -> Result<(), String> {
        self.limits.check()?;
        let Instances { reuse, concurrent, .. } = self.instances;
        if reuse == 0 || concurrent == 0 {
            return Err("instances.reuse and instances.concurrent must be at least 1".into());
        }
        if concurrent > 1 && reuse == 1 {
            return Err(
                "instances.concurrent above 1 needs instances.reuse above 1: a fresh instance serves one call".into()
            );
        }
        for key in self.env.keys() {
            if key.is_empty() || key.contains(['=', '\0']) {
                return Err(format!("env: `{}` is not a variable name", key.escape_debug()));
            }
        }
        for store in &self.kv {
            store.parse::<FunctionName>().map_err(|e| format!("kv: {e}"))?;
        }
        for (what, text) in self.place.tokens() {
            check_label(what, text)?;
        }
        self.egress.iter().try_for_each(|origin| check_origin(origin))?;
        self.http.iter().try_for_each(check_trigger)?;
        self.check_events()
    }

    /// Checks what has to do with events.
    fn check_events(&self) -> Result<(), String> {
        self.publish.iter().try_for_each(|subject| check_listened("publish", subject))?;
        self.nats.iter().try_for_each(SubjectTrigger::check)?;
        self.stream.iter().try_for_each(StreamTrigger::check)?;
        self.cron.iter().try_for_each(CronTrigger::check)?;
        self.changes.iter().try_for_each(ChangeTrigger::check)?;
        self.calls.check()?;
        let ids = self.trigger_ids();
        if let Some(at) = ids.iter().enumerate().position(|(at, id)| ids[..at].contains(id)) {
            return Err(format!("two triggers are the same, see `{}`: leave one out", ids[at]));
        }
        if ids.len() > MAX_TRIGGERS {
            return Err(format!("there are {} triggers beside HTTP: at most {MAX_TRIGGERS} are allowed", ids.len()));
        }
        Ok(())
    }

    /// The ids of all triggers but HTTP.
    pub fn trigger_ids(&self) -> Vec<TriggerId> {
        let nats = self.nats.iter().map(SubjectTrigger::id);
        let stream = self.stream.iter().map(StreamTrigger::id);
        let cron = self.cron.iter().map(CronTrigger::id);
        nats.chain(stream).chain(cron).chain(self.changes.iter().map(ChangeTrigger::id)).collect()
    }
}

/// Checks a key, a value of a label, or a zone, as nodes declare them and functions ask for them.
///
/// # Errors
/// Says which text is wrong and what is allowed: 1 to 63 of `a-z`, `A-Z`, `0-9`, `-`, `_`, `.` and `/`.
pub fn check_label(what: &str, text: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    let text: String = text.escape_debug().take(80).collect();
    Err(format!("{what}: `{text}` must be 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.` and `/`"))
}

/// An origin is scheme, host and optional port; the host may start with `*.`; `*` alone allows every public host.
fn check_origin(origin: &str) -> Result<(), String> {
    let bad = || {
        format!(
            "egress: `{origin}` is not an origin: write for example `https://api.example.com` or `http://localhost:3000`"
        )
    };
    if origin == "*" {
        return Ok(());
    }
    let url = url::Url::parse(&origin.replacen("://*.", "://wildcard.", 1)).map_err(|_| bad())?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain {
        return Err(bad());
    }
    Ok(())
}

fn check_trigger(trigger: &HttpTrigger) -> Result<(), String> {
    let route = &trigger.route;
    if !route.starts_with('/') || route.bytes().any(|b| b.is_ascii_control() || b == b'?' || b == b'#' || b == b' ') {
        return Err(format!("http.route `{}` must start with `/` and hold no space, `?` or `#`", route.escape_debug()));
    }
    if route == "/_dunlin" || route.starts_with("/_dunlin/") {
        return Err(format!(
            "http.route `{}`: paths below /_dunlin/ are answered by the gateway",
            route.escape_debug()
        ));
    }
    if let Some(host) = &trigger.host
        && (host.is_empty() || host.parse::<http::uri::Authority>().is_err() || host.contains([':', '@']))
    {
        return Err(format!("http.host `{}` must be a host name without port", host.escape_debug()));
    }
    for method in &trigger.methods {
        if http::Method::from_bytes(method.as_bytes()).is_err() || method.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err(format!("http.methods: `{}` is not a method in upper case", method.escape_debug()));
        }
    }
    Ok(())
}

/// serde's message for an unknown key quotes that key first and then every known one.
fn nearest_key(message: &str) -> Option<String> {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (unknown, known) = quoted.split_first().filter(|_| message.starts_with("unknown field"))?;
    let scored = known.iter().map(|key| (strsim::jaro_winkler(unknown, key), *key));
    let (score, key) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score > 0.7).then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteSize;
    use std::time::Duration;

    const FULL: &str = r#"
        [function.checkout]
        source = "target/checkout.wasm"
        build = "cargo build --release --target wasm32-wasip2"
        watch = ["src", "Cargo.toml"]
        limits = { memory = "64MiB", cpu = "200ms", timeout = "5s", concurrency = 200, request_body = "10MiB" }
        env = { LOG = "info" }
        egress = ["https://api.stripe.com", "https://*.example.com", "http://localhost:3000"]
        kv = ["cart"]
        instances = { reuse = 1000, concurrent = 16, idle = "10s" }
        place = { labels = { region = "eu" }, zone = "a" }
        [[function.checkout.http]]
        route = "/checkout/{id}"
        host = "shop.example.com"
        methods = ["POST"]
    "#;

    const EVENTS: &str = r#"
        [function.checkout]
        source = "target/checkout.wasm"
        publish = ["orders.>"]
        kv = ["cart", { store = "stock", keys = "item/*" }]
        async = { max_deliver = 2, backoff = ["1s"], keep = "1h" }
        [[function.checkout.nats]]
        subject = "orders.quote"
        [[function.checkout.stream]]
        subject = "orders.paid.>"
        stream = "ORDERS"
        from = "2026-01-01T00:00:00Z"
        order = "token:3"
        concurrency = 7
        max_deliver = 3
        backoff = ["1s", "10s", "1m"]
        [[function.checkout.cron]]
        schedule = "*/5 * * * *"
        timezone = "Europe/Berlin"
        missed = "all"
        overlap = "queue"
    "#;

    #[test]
    fn reads_every_trigger() {
        let manifest = Manifest::parse(EVENTS).unwrap();
        let (name, function) = manifest.functions.first_key_value().unwrap();
        let settings = function.settings(name);
        assert_eq!(settings.kv, ["cart", "stock"]);
        assert_eq!(settings.changes[0].keys, "item/*");
        assert_eq!(settings.stream[0].backoff[2], Duration::from_secs(60));
        assert_eq!(settings.calls.keep, Duration::from_secs(3600));
        assert_eq!(settings.trigger_ids().len(), 4);
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
    }

    #[test]
    fn settings_without_events_are_written_as_before_there_were_any() {
        let text = serde_json::to_string(&Settings::default()).unwrap();
        for key in ["publish", "nats", "stream", "cron", "changes", "async"] {
            assert!(!text.contains(&format!("\"{key}\"")), "{text}");
        }
    }

    fn refusal(text: &str) -> String {
        Manifest::parse(text).unwrap_err().to_string()
    }

    fn with(line: &str) -> String {
        format!("[function.a]\nsource = \"a.wasm\"\n{line}\n")
    }

    #[test]
    fn reads_every_key() {
        let manifest = Manifest::parse(FULL).unwrap();
        let (name, function) = manifest.functions.first_key_value().unwrap();
        let settings = function.settings(name);
        assert_eq!(settings.limits.memory, ByteSize::mib(64));
        assert_eq!(settings.limits.cpu, Duration::from_millis(200));
        assert_eq!(settings.limits.concurrency, Some(200));
        assert_eq!(settings.instances.reuse, 1000);
        assert_eq!(settings.place.to_string(), "region=eu, zone=a");
        assert_eq!(settings.http[0].host.as_deref(), Some("shop.example.com"));
    }

    #[test]
    fn name_and_source_are_enough() {
        let manifest = Manifest::parse(&with("")).unwrap();
        let (name, function) = manifest.functions.first_key_value().unwrap();
        assert_eq!(function.settings(name).http[0].route, "/a/{*path}");
        assert_eq!(function.watch, [PathBuf::from("src")]);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one_and_its_line() {
        let message = refusal(&with("limits = { memry = \"1MiB\" }"));
        assert!(message.contains("did you mean `memory`?") && message.contains("line 3"), "{message}");
        assert!(refusal(&with("routes = []")).contains("line 3"));
    }

    #[test]
    fn values_out_of_range_name_key_value_and_range() {
        for (line, part) in [
            ("limits = { memory = \"1kB\" }", "limits.memory"),
            ("limits = { memory = \"5GiB\" }", "4 GiB"),
            ("limits = { cpu = \"0s\" }", "limits.cpu"),
            ("limits = { timeout = \"48h\" }", "24h"),
            ("limits = { concurrency = 0 }", "limits.concurrency"),
            ("instances = { reuse = 0 }", "instances.reuse"),
            ("instances = { concurrent = 2 }", "instances.concurrent"),
            ("kv = [\"../x\"]", "kv"),
            ("egress = [\"api.example.com\"]", "https://api.example.com"),
            ("egress = [\"https://a.example/path\"]", "egress"),
            ("env = { \"A=B\" = \"x\" }", "env"),
            ("place = { labels = { region = \"e u\" } }", "place.labels"),
            ("place = { zone = \"\" }", "place.zone"),
            ("publish = [\">\"]", "publish"),
            ("[[function.a.nats]]\nsubject = \"dl.v1.x\"", "dl.>"),
            ("[[function.a.nats]]\nsubject = \"a..b\"", "nats.subject"),
            ("[[function.a.nats]]\nsubject = \"a\"\nconcurrency = 0", "nats.concurrency"),
            ("[[function.a.stream]]\nsubject = \"$SYS.>\"", "stream.subject"),
            ("[[function.a.stream]]\nsubject = \"a\"\nstream = \"KV_dl-x\"", "stream.stream"),
            ("[[function.a.stream]]\nsubject = \"a\"\nmax_deliver = 0", "stream.max_deliver"),
            ("[[function.a.stream]]\nsubject = \"a\"\nbackoff = []", "stream.backoff"),
            ("[[function.a.stream]]\nsubject = \"a\"\norder = \"key\"", "token:N"),
            ("[[function.a.stream]]\nsubject = \"a\"\nfrom = \"yesterday\"", "2026-"),
            ("[[function.a.cron]]\nschedule = \"61 * * * *\"", "cron.schedule"),
            ("[[function.a.cron]]\nschedule = \"* * * *\"", "cron.schedule"),
            ("[[function.a.cron]]\nschedule = \"* * * * *\"\ntimezone = \"Mars/Olympus\"", "cron.timezone"),
            ("[[function.a.kv]]\nkeys = \"*\"", "exactly one"),
            ("[[function.a.kv]]\nstore = \"../x\"", "kv:"),
            ("async = { keep = \"0s\" }", "async.keep"),
            ("[[function.a.nats]]\nsubject = \"a\"\n[[function.a.nats]]\nsubject = \"a\"", "the same"),
            ("[[function.a.http]]\nroute = \"x\"", "http.route"),
            ("[[function.a.http]]\nroute = \"/_dunlin/x\"", "answered by the gateway"),
            ("[[function.a.http]]\nroute = \"/x\"\nhost = \"a:80\"", "http.host"),
            ("[[function.a.http]]\nroute = \"/x\"\nmethods = [\"get\"]", "http.methods"),
        ] {
            let message = refusal(&with(line));
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn bad_names_and_empty_manifests_are_refused() {
        assert!(refusal("[function.Bad_Name]\nsource = \"x\"").contains("not a function name"));
        assert!(refusal("[function]").contains("no function"));
        assert!(refusal("x").contains("line 1"));
    }
}
