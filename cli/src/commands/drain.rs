//! `dunlin drain` and `dunlin undrain`: keep calls from a node, and let it take them again.

use dunlin_api::NodeName;
use dunlin_scheduler::control::NodeStatus;
use std::time::{Duration, Instant};

use crate::{
    client::Client,
    config::ServerArgs,
    exit::{Exit, Failure},
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  dunlin drain n2                until n2 has finished what it runs
  dunlin drain n2 --no-wait      only say so
  dunlin undrain n2              calls go there again

A drained node stays drained when it is restarted. Its gateway goes on taking requests and sends them to other nodes.";

/// How often the node is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Keep calls from a node.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DrainArgs {
    /// The node: see `dunlin nodes`
    node: NodeName,
    /// Return at once
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the calls that it runs
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
}

/// Let a drained node take calls again.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UndrainArgs {
    /// The node: see `dunlin nodes`
    node: NodeName,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn drain(args: DrainArgs, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    client.drain(&args.node, true).await?;
    if args.no_wait {
        out.note(format_args!("{} drains", args.node));
        return Ok(());
    }
    let begun = Instant::now();
    loop {
        let nodes = client.nodes().await?;
        let Some(node) = nodes.iter().find(|node| node.node == args.node) else {
            return Err(Failure::new(Exit::Caller, format!("`{}` is not in the cluster any more", args.node)).into());
        };
        if is_quiet(node) {
            out.note(format_args!("{} is drained", args.node));
            return Ok(());
        }
        if begun.elapsed() >= args.timeout {
            let message = format!("{} still runs {} calls: it drains on", args.node, node.in_flight);
            let failure = Failure::new(Exit::Platform, message);
            return Err(failure.hint("wait longer with --timeout, or end them by stopping the node").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// It knows that it drains, and runs nothing; or it is gone.
fn is_quiet(node: &NodeStatus) -> bool {
    match &*node.state {
        "up" => false,
        "draining" => node.in_flight == 0,
        _ => true,
    }
}

pub(crate) async fn undrain(args: UndrainArgs, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    client.drain(&args.node, false).await?;
    out.note(format_args!("{} takes calls again", args.node));
    Ok(())
}
