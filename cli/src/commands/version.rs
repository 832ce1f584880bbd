//! `dunlin version`: this program's version, and the node's if one answers.

use serde_json::Value;

use crate::{
    client::Client,
    config::ServerArgs,
    exit::Exit,
    output::{Output, Style},
};

/// Show the version of this program and of the node.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    let mine = env!("CARGO_PKG_VERSION");
    let server = match client.version().await {
        Ok(version) => Some(version),
        // No node is no mistake here.
        Err(error) if Exit::of(&error) == Exit::Unreachable => None,
        Err(error) => return Err(error),
    };
    out.either(&serde_json::json!({ "client": mine, "server": server }), || {
        let told = server.as_ref().and_then(|s| s.get("version")).and_then(Value::as_str);
        let none = out.paint(Style::Dim, "no node answers");
        let server = told.map(str::to_owned).unwrap_or(none);
        format!("dunlin {mine}\nnode   {server} at {}\n", client.url())
    })
}
