//! `dunlin remove`: takes a function off the node.

use anyhow::Context as _;
use dunlin_api::FunctionName;
use std::io::{IsTerminal as _, Write as _};

use crate::{
    client::Client,
    config::ServerArgs,
    exit::{Exit, Failure},
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  dunlin remove cart
  dunlin remove cart --yes     without asking, as in scripts";

/// Take a function off the node.
///
/// Its routes end at once; invocations that run are finished. Its key-value stores stay.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The function
    name: FunctionName,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    if !args.yes {
        confirm(&args.name, client.url())?;
    }
    client.remove(&args.name).await?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "name": args.name, "removed": true }));
    }
    out.note(format_args!("removed {}", args.name));
    Ok(())
}

fn confirm(name: &FunctionName, server: &str) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let message = format!("removing `{name}` needs a yes, and there is no terminal to ask on");
        return Err(Failure::new(Exit::Usage, message).hint("add --yes").into());
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "Remove function `{name}` from {server}? [y/N] ")
        .and_then(|()| stderr.flush())
        .context("cannot ask")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("cannot read the answer")?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::caller("nothing was removed").into()) }
}
