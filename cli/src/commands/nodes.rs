//! `dunlin nodes`: who is in the cluster, and how busy each node is.

use clap::Subcommand;
use dunlin_api::NodeName;
use dunlin_scheduler::control::NodeStatus;

use crate::{
    client::Client,
    config::ServerArgs,
    output::{Output, Style},
};

const EXAMPLES: &str = "\
Examples:
  dunlin nodes                   every node: state, load, slots, revisions ready, version
  dunlin nodes weight n2 64      n2 gets calls as if it had 64 slots
  dunlin nodes weight n2 own     as many as it was started with
  dunlin nodes forget n3         a node that will not come back";

/// List the nodes of the cluster.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Change the share of the calls that a node gets, while it runs
    #[command(after_help = EXAMPLES)]
    Weight {
        node: NodeName,
        /// Slots to count it with, or `own`
        slots: Slots,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Forget a node that is lost or has left
    #[command(after_help = EXAMPLES)]
    Forget {
        node: NodeName,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Slots(Option<u32>);

impl std::str::FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "own" {
            return Ok(Self(None));
        }
        let slots = text.parse().ok().filter(|slots| (1..=100_000).contains(slots));
        slots
            .map(|slots| Self(Some(slots)))
            .ok_or_else(|| format!("`{text}` is neither a number from 1 to 100000 nor `own`"))
    }
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    match args.change {
        None => list(&Client::new(args.server.resolve()?)?, out).await,
        Some(Change::Weight { node, slots, server }) => {
            Client::new(server.resolve()?)?.set_slots(&node, slots.0).await?;
            let weight = slots.0.map_or_else(|| "its own slots".into(), |slots| format!("{slots} slots"));
            out.note(format_args!("{node} is weighed with {weight}"));
            Ok(())
        }
        Some(Change::Forget { node, server }) => {
            Client::new(server.resolve()?)?.forget(&node).await?;
            out.note(format_args!("{node} is forgotten"));
            Ok(())
        }
    }
}

async fn list(client: &Client, out: &Output) -> anyhow::Result<()> {
    let nodes = client.nodes().await?;
    let list = serde_json::json!({ "nodes": nodes });
    out.either(&list, || {
        let rows = nodes.iter().map(|node| {
            [
                out.paint(Style::Name, node.node.as_str()),
                state(node, out),
                format!("{}/{}", node.in_flight, node.slots),
                node.ready.to_string(),
                node.version.clone(),
                roles(node),
                place(node),
                node.http.clone().unwrap_or_default(),
            ]
        });
        out.table(["NODE", "STATE", "CALLS", "READY", "VERSION", "ROLES", "PLACE", "HTTP"], rows)
    })
}

fn state(node: &NodeStatus, out: &Output) -> String {
    let (style, text) = match (&*node.state, node.drained, &node.unfit) {
        ("up" | "draining", _, Some(why)) => (Style::Bad, format!("unfit: {why}")),
        ("up" | "draining", true, None) => (Style::Dim, "drained".into()),
        ("up", false, None) => (Style::Good, "up".into()),
        ("lost", ..) => (Style::Bad, node.seen_ms_ago.map_or("lost".into(), |ms| format!("lost {} s ago", ms / 1000))),
        (state, ..) => (Style::Dim, state.to_owned()),
    };
    out.paint(style, &text)
}

fn roles(node: &NodeStatus) -> String {
    match (node.gateway, node.worker) {
        (true, true) => "gateway worker",
        (true, false) => "gateway",
        (false, true) => "worker",
        (false, false) => "",
    }
    .into()
}

fn place(node: &NodeStatus) -> String {
    let zone = node.zone.iter().map(|zone| format!("zone={zone}"));
    zone.chain(node.labels.iter().map(|(key, value)| format!("{key}={value}"))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_number_of_slots_or_own() {
        assert_eq!("own".parse(), Ok(Slots(None)));
        assert_eq!("64".parse(), Ok(Slots(Some(64))));
        for bad in ["0", "-1", "100001", "x", ""] {
            assert!(bad.parse::<Slots>().is_err(), "{bad}");
        }
    }
}
