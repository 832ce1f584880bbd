//! `dunlin remove`: takes a function off the node.

use dunlin_api::FunctionName;

use crate::{client::Client, config::ServerArgs, confirm::confirm, output::Output};

const EXAMPLES: &str = "\
Examples:
  dunlin remove cart
  dunlin remove cart --yes                without asking, as in scripts
  dunlin remove cart --discard-events     also if events wait for it";

/// Take a function off the node.
///
/// Its routes end at once; invocations that run are finished. Its key-value stores and dead letters stay. While events or calls
/// wait for it, it is only removed with --discard-events.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The function
    name: FunctionName,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Throw away the events and calls that wait for it
    #[arg(long)]
    discard_events: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    if !args.yes {
        let question = format!("Remove function `{}` from {}?", args.name, client.url());
        confirm(&question, &format!("removing `{}`", args.name))?;
    }
    client.remove(&args.name, args.discard_events).await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "name": args.name, "removed": true }));
    }
    out.note(format_args!("removed {}", args.name));
    Ok(())
}
