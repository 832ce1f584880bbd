//! `dunlin list`: what is deployed.

use crate::{
    client::Client,
    config::ServerArgs,
    output::{Output, Style},
};

/// List the functions.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    let list = client.functions().await?;
    out.either(&list, || {
        let rows = list.functions.iter().map(|f| {
            let revision = f.serving.first();
            [
                out.paint(Style::Name, f.name.as_str()),
                revision.map(|r| r.revision.to_string()).unwrap_or_default(),
                f.routes.join(" "),
            ]
        });
        out.table(["NAME", "REVISION", "ROUTES"], rows)
    })?;
    if list.functions.is_empty() {
        out.hint("nothing is deployed yet: `dunlin deploy`");
    }
    Ok(())
}
