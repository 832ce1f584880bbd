//! `dunlin show`: everything about one function.

use dunlin_api::{FunctionName, Revision, Settings};
use dunlin_scheduler::events::Counts;
use std::fmt::Write as _;

use crate::{
    client::Client,
    config::ServerArgs,
    output::{Output, Style, tame},
    time, urls,
    wire::{Details, Trigger},
};

const EXAMPLES: &str = "\
Examples:
  dunlin show cart
  dunlin show cart --output json | jq -r '.revisions[].id'";

/// Show one function: revisions, routes, triggers, limits, grants.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The function
    name: FunctionName,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    let details = client.function(&args.name).await?;
    let base = client.http_url().await?;
    let urls = urls::urls(&base, details.settings()?);
    if out.is_json() {
        let mut value = serde_json::to_value(&details)?;
        value["urls"] = serde_json::json!(urls);
        return out.json(&value);
    }
    out.bytes(describe(&details, details.serving()?, &urls, out).as_bytes())
}

fn describe(details: &Details, serving: &Revision, urls: &[String], out: &Output) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}{value}", out.paint(Style::Strong, &format!("{key:<10}")));
        }
    };
    let settings = &serving.settings;
    line("name", details.summary.name.as_str());
    line("revision", &format!("{}, deployed {}", serving.id, time::ago(serving.created_ms)));
    line("artifact", &format!("sha256:{} ({})", serving.artifact, dunlin_api::ByteSize(serving.size_bytes)));
    line("world", &serving.world.to_string());
    details.summary.routes.iter().for_each(|route| line("route", route));
    urls.iter().for_each(|url| line("url", url));
    details.triggers.iter().for_each(|trigger| line("trigger", &listens(trigger)));
    limits(settings).iter().for_each(|(key, value)| line(key, value));
    settings.env.iter().for_each(|(key, value)| line("env", &format!("{key}={value}")));
    line("egress", &settings.egress.join(" "));
    line("kv", &settings.kv.join(" "));
    line("publish", &settings.publish.join(" "));
    line("place", &settings.place.to_string());
    text + &revisions(details, out)
}

/// `stream orders.paid.> of ORDERS, 3 wait, 1 under way`
fn listens(trigger: &Trigger) -> String {
    let stream = trigger.stream.as_ref().map(|stream| format!(" of {stream}")).unwrap_or_default();
    let parts = [
        Some(format!("{} {}{stream}", trigger.kind, trigger.listens)),
        trigger.pending.map(|count| format!("{count} wait")),
        trigger.unsettled.map(|count| format!("{count} under way")),
        trigger.next.as_ref().map(|next| format!("next at {next}")),
        trigger.here.as_ref().map(here),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `here 12 done, 3 dropped: 64 messages of this trigger run …`
fn here(counts: &Counts) -> String {
    let rare = [
        (counts.failed, "failed tries"),
        (counts.rejected, "rejected"),
        (counts.dead, "dead"),
        (counts.dropped, "dropped"),
    ];
    let rare = rare.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    let error = counts.last_error.as_ref().map(|error| format!("; last error: {}", tame(error))).unwrap_or_default();
    format!("here {} done{}{error}", counts.done, rare.collect::<String>())
}

fn limits(settings: &Settings) -> Vec<(&'static str, String)> {
    let l = &settings.limits;
    let mut all = vec![
        ("memory", l.memory.to_string()),
        ("cpu", humantime::format_duration(l.cpu).to_string()),
        ("timeout", humantime::format_duration(l.timeout).to_string()),
        ("request", format!("{} at most", l.request_body)),
    ];
    all.extend(l.response_body.map(|size| ("response", format!("{size} at most"))));
    all.extend(l.concurrency.map(|count| ("at once", count.to_string())));
    if settings.instances.reuse > 1 {
        all.push(("reuse", format!("{} calls per instance", settings.instances.reuse)));
    }
    all
}

fn revisions(details: &Details, out: &Output) -> String {
    let weight = |revision: &Revision| {
        let serving = details.summary.serving.iter().find(|serving| serving.revision == revision.id);
        serving.map(|serving| serving.weight.to_string()).unwrap_or_default()
    };
    // Newest first: the one that is looked for.
    let rows = details.revisions.iter().rev().map(|revision| {
        [revision.id.to_string(), weight(revision), time::local(revision.created_ms), revision.world.to_string()]
    });
    format!("\n{}", out.table(["REVISION", "WEIGHT", "DEPLOYED", "WORLD"], rows))
}
