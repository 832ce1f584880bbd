//! Options that describe a function on the command line, as `deploy` and `serve` take them, and how they change the
//! settings that come from a manifest.

use clap::Args;
use dunlin_api::{
    ByteSize, HttpTrigger, Settings,
    trigger::{ChangeTrigger, CronTrigger, StreamTrigger, SubjectTrigger},
};
use serde::de::DeserializeOwned;
use std::time::Duration;

use crate::exit::{Exit, Failure};

/// What a function may use.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Function")]
pub(crate) struct FunctionArgs {
    /// Environment variable; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    /// Origin it may call, `*` for all; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) egress: Vec<String>,
    /// Key-value store it may open; may be repeated
    #[arg(long, value_name = "STORE")]
    pub(crate) kv: Vec<String>,
    /// Subject it may publish to, with wildcards; may be repeated
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) publish: Vec<String>,
    /// Memory of one instance, such as 64MiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// CPU time of one invocation, such as 200ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) cpu: Option<Duration>,
    /// Wall time of one invocation, such as 30s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Invocations at once on one node
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<u32>,
    /// Largest request body, such as 10MiB
    #[arg(long, value_name = "SIZE")]
    pub(crate) request_body: Option<ByteSize>,
    /// Invocations that one instance serves before it is retired; its state lives on between them [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) reuse: Option<u32>,
    /// Invocations that one reused instance serves at once; only wasi:http@0.3 components [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) concurrent: Option<u32>,
    /// Label that the nodes which run it must have; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) place: Vec<(String, String)>,
    /// Zone that the nodes which run it must be in
    #[arg(long, value_name = "ZONE")]
    pub(crate) place_zone: Option<String>,
    #[command(flatten)]
    pub(crate) triggers: TriggerArgs,
}

/// What fires a function beside HTTP. Everything else about a trigger is as it is by default; a manifest can say more.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Events")]
pub(crate) struct TriggerArgs {
    /// Subject that fires it, at most once, with wildcards; may be repeated
    #[arg(long, value_name = "SUBJECT", value_parser = |text: &str| trigger::<SubjectTrigger>("subject", text))]
    pub(crate) on_subject: Vec<SubjectTrigger>,
    /// Subject that fires it from a stream, at least once; may be repeated
    #[arg(long, value_name = "SUBJECT", value_parser = |text: &str| trigger::<StreamTrigger>("subject", text))]
    pub(crate) on_stream: Vec<StreamTrigger>,
    /// Schedule that fires it, in UTC, such as '*/5 * * * *'; may be repeated
    #[arg(long, value_name = "SCHEDULE", value_parser = |text: &str| trigger::<CronTrigger>("schedule", text))]
    pub(crate) cron: Vec<CronTrigger>,
    /// Key-value store whose changes fire it, and which it may open; may be repeated
    #[arg(long, value_name = "STORE", value_parser = |text: &str| trigger::<ChangeTrigger>("store", text))]
    pub(crate) on_kv: Vec<ChangeTrigger>,
}

/// How a function is reached.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Route")]
pub(crate) struct RouteArgs {
    /// Route, such as /orders/{id} or /files/{*path}; may be repeated [default: /NAME/{*path}]
    #[arg(long, value_name = "ROUTE")]
    pub(crate) route: Vec<String>,
    /// Host name that requests must have
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
}

impl FunctionArgs {
    /// Writes what was given over `settings`: single values replace, lists are added to.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        settings.env.extend(self.env.iter().cloned());
        add(&mut settings.egress, &self.egress);
        add(&mut settings.kv, &self.kv);
        add(&mut settings.publish, &self.publish);
        self.triggers.apply(settings);
        let limits = &mut settings.limits;
        replace(&mut limits.memory, self.memory);
        replace(&mut limits.cpu, self.cpu);
        replace(&mut limits.timeout, self.timeout);
        replace(&mut limits.request_body, self.request_body);
        limits.concurrency = self.concurrency.or(limits.concurrency);
        replace(&mut settings.instances.reuse, self.reuse);
        replace(&mut settings.instances.concurrent, self.concurrent);
        settings.place.labels.extend(self.place.iter().cloned());
        settings.place.zone = self.place_zone.clone().or_else(|| settings.place.zone.take());
    }
}

impl TriggerArgs {
    /// Adds what listens to something that nothing of `settings` listens to yet.
    fn apply(&self, settings: &mut Settings) {
        add_by(&mut settings.nats, &self.on_subject, SubjectTrigger::id);
        add_by(&mut settings.stream, &self.on_stream, StreamTrigger::id);
        add_by(&mut settings.cron, &self.cron, CronTrigger::id);
        add_by(&mut settings.changes, &self.on_kv, ChangeTrigger::id);
        self.on_kv.iter().for_each(|trigger| add(&mut settings.kv, trigger.store.as_slice()));
    }
}

/// A trigger of which only `key` is said.
fn trigger<T: DeserializeOwned>(key: &str, text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::json!({ key: text })).map_err(|error| error.to_string())
}

impl RouteArgs {
    /// Routes given replace all others; a host alone is put on those there are.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        if !self.route.is_empty() {
            let trigger = |route: &String| HttpTrigger { route: route.clone(), host: None, methods: Vec::new() };
            settings.http = self.route.iter().map(trigger).collect();
        }
        if let Some(host) = &self.host {
            settings.http.iter_mut().for_each(|trigger| trigger.host = Some(host.clone()));
        }
    }
}

/// Checks settings that the command line changed.
pub(crate) fn checked(settings: Settings) -> anyhow::Result<Settings> {
    settings.check().map_err(|message| Failure::new(Exit::Usage, message))?;
    Ok(settings)
}

fn add(list: &mut Vec<String>, more: &[String]) {
    add_by(list, more, String::clone);
}

fn add_by<T: Clone, K: PartialEq>(list: &mut Vec<T>, more: &[T], key: impl Fn(&T) -> K) {
    for item in more {
        if !list.iter().any(|known| key(known) == key(item)) {
            list.push(item.clone());
        }
    }
}

fn replace<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("write KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use dunlin_api::FunctionName;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        function: FunctionArgs,
        #[command(flatten)]
        route: RouteArgs,
    }

    fn settings(line: &[&str]) -> Settings {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(line)).unwrap();
        let name: FunctionName = "a".parse().unwrap();
        let mut settings = Settings {
            env: [("A".into(), "1".into())].into(),
            egress: vec!["https://a.example".into()],
            http: vec![HttpTrigger::default_for(&name)],
            ..Settings::default()
        };
        line.function.apply(&mut settings);
        line.route.apply(&mut settings);
        settings
    }

    #[test]
    fn lists_grow_and_single_values_replace() {
        let s = settings(&["--env", "B=x=y", "--env", "A=2", "--egress", "https://a.example", "--egress", "*"]);
        assert_eq!(s.env, [("A".into(), "2".into()), ("B".into(), "x=y".into())].into());
        assert_eq!(s.egress, ["https://a.example", "*"]);
        let s = settings(&["--memory", "64MiB", "--cpu", "200ms", "--timeout", "5s", "--concurrency", "3"]);
        assert_eq!((s.limits.memory, s.limits.concurrency), (ByteSize::mib(64), Some(3)));
        let s = settings(&["--place", "disk=ssd", "--place", "cpu=arm", "--place-zone", "a"]);
        assert_eq!(s.place.to_string(), "cpu=arm, disk=ssd, zone=a");
        let s = settings(&["--cpu", "200ms", "--timeout", "5s"]);
        assert_eq!((s.limits.cpu, s.limits.timeout), (Duration::from_millis(200), Duration::from_secs(5)));
    }

    #[test]
    fn triggers_are_added_with_defaults_and_each_once() {
        let line = ["--on-subject", "a.*", "--on-stream", "b.>", "--cron", "*/5 * * * *", "--on-kv", "stock"];
        let twice: Vec<_> = line.iter().chain(&line).copied().chain(["--publish", "c.>"]).collect();
        let s = checked(settings(&twice)).unwrap();
        assert_eq!((s.nats.len(), s.stream.len(), s.cron.len(), s.changes.len()), (1, 1, 1, 1));
        assert_eq!((&*s.stream[0].subject, s.stream[0].max_deliver), ("b.>", dunlin_api::trigger::DEFAULT_MAX_DELIVER));
        assert_eq!((&*s.cron[0].timezone, &*s.changes[0].keys), ("UTC", "*"));
        assert_eq!((s.kv, s.publish), (vec!["stock".to_owned()], vec!["c.>".to_owned()]));
        for bad in [["--on-subject", "dl.>"], ["--on-stream", "a..b"], ["--cron", "61 * * * *"], ["--on-kv", "../x"]] {
            assert!(checked(settings(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_given_changes_nothing() {
        assert_eq!(settings(&[]).limits, dunlin_api::Limits::default());
        assert_eq!(settings(&[]).http[0].route, "/a/{*path}");
    }

    #[test]
    fn routes_replace_and_a_host_is_put_on_them() {
        let s = settings(&["--route", "/x", "--route", "/y/{id}", "--host", "h.example"]);
        let routes: Vec<_> = s.http.iter().map(|t| (t.route.as_str(), t.host.as_deref())).collect();
        assert_eq!(routes, [("/x", Some("h.example")), ("/y/{id}", Some("h.example"))]);
        assert_eq!(settings(&["--host", "h.example"]).http[0].host.as_deref(), Some("h.example"));
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        assert!(Line::try_parse_from(["x", "--env", "A"]).is_err());
        assert!(Line::try_parse_from(["x", "--memory", "lots"]).is_err());
        assert!(checked(settings(&["--memory", "1B"])).is_err());
        assert!(checked(settings(&["--egress", "example.com"])).is_err());
    }
}
