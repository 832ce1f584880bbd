//! `dunlin why`: where a function would run now, and why there.

use dunlin_api::FunctionName;
use serde_json::Value;

use crate::{
    client::Client,
    config::ServerArgs,
    output::{Output, Style},
    time,
};

const EXAMPLES: &str = "\
Examples:
  dunlin why checkout                     the choice, every node with its numbers, the last failures
  dunlin why checkout --output json       the same for programs";

/// Say where a function would run now.
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
    let why = client.why(&args.name).await?;
    out.either(&why, || show(&why, out))
}

fn show(why: &Value, out: &Output) -> String {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let node = why["node"].as_str().unwrap_or("no node");
    let mut shown = format!(
        "A call of {} that arrives at {} would run on {}: {}.\n",
        out.paint(Style::Name, &text(why, "function")),
        text(why, "gateway"),
        out.paint(Style::Strong, node),
        text(why, "reason"),
    );
    if !text(why, "place").is_empty() {
        shown += &format!("It may only run where {}.\n", text(why, "place"));
    }
    let nodes = why["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !nodes.is_empty() {
        let rows = nodes.iter().map(|node| {
            let number = |key: &str, digits| node[key].as_f64().map_or(String::new(), |n| format!("{n:.digits$}"));
            [
                text(node, "node"),
                node["preferred"].as_u64().map_or(String::new(), |place| place.to_string()),
                format!("{}/{}", node["in_flight"], node["slots"]),
                number("speed", 2),
                number("score", 4),
                verdict(&node["verdict"]),
            ]
        });
        shown += &format!("\n{}", out.table(["NODE", "PREFERRED", "CALLS", "SPEED", "SCORE", "VERDICT"], rows));
    }
    let failures = why["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !failures.is_empty() {
        let rows = failures.iter().map(|failure| {
            let at = failure["at_ms"].as_u64().unwrap_or_default();
            let again = if failure["tried_again"].as_bool() == Some(true) { "tried again" } else { "failed" };
            [time::local(at), text(failure, "node"), again.into(), text(failure, "error")]
        });
        shown += &format!("\nThe last failures here:\n{}", out.table(["AT", "NODE", "THEN", "WHAT"], rows));
    }
    shown
}

fn verdict(verdict: &Value) -> String {
    match verdict {
        Value::String(text) => text.replace('-', " "),
        Value::Object(fields) => fields.keys().next().map_or(String::new(), |key| format!("{key} for a while")),
        _ => String::new(),
    }
}
