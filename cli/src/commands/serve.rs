//! `dunlin serve`: one component, no project. An embedded node on a temporary directory, all paths routed to it.

use anyhow::Context as _;
use dunlin_api::{ByteSize, FunctionName, HttpTrigger, LogLine, LogStream, Settings};
use futures::{StreamExt as _, pin_mut};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

use super::deploy::Order;
use crate::{
    client::{Client, LogQuery},
    component::Component,
    config::{self, Server},
    function_args::{FunctionArgs, checked},
    node::{Bound, NodeConfig},
    output::{Output, Style},
    progress,
    project::name_of_file,
    signals::Stop,
};

const EXAMPLES: &str = "\
Examples:
  dunlin serve hello.wasm
  dunlin serve hello.wasm --addr 127.0.0.1:3000 --env LOG=debug --kv cart
  dunlin serve proxy.wasm --egress https://api.example.com

The first line on stderr is the URL. What the function prints follows. Ctrl-C ends it.";

/// Larger than any request: `serve` is for trying things out, where a limit nobody set surprises.
const NO_LIMIT: ByteSize = ByteSize(1 << 60);
/// Running invocations get this long at Ctrl-C.
const GRACE: Duration = Duration::from_secs(2);

/// Serve one component, without a project.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The component
    component: PathBuf,
    /// Where to serve it; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// Invocations at once [default: 256 for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: Option<u32>,
    #[command(flatten)]
    function: FunctionArgs,
}

impl Args {
    fn order(&self) -> anyhow::Result<Order> {
        let fallback = || "function".parse::<FunctionName>().context("this is a function name");
        let name = name_of_file(&self.component).map_or_else(fallback, Ok)?;
        let trigger = HttpTrigger { route: "/{*path}".into(), host: None, methods: Vec::new() };
        let mut settings = Settings { http: vec![trigger], ..Settings::default() };
        settings.limits.request_body = NO_LIMIT;
        self.function.apply(&mut settings);
        Ok(Order { name, component: Component::read(&self.component)?, settings: checked(settings)? })
    }
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let order = args.order()?;
    let mut stop = Stop::listen()?;
    let data = tempfile::tempdir().context("no temporary directory can be made")?;
    // Kept between runs, so that only the first one compiles; a home that cannot be written to costs only that.
    let cache = config::xdg("XDG_CACHE_HOME", ".cache").filter(|dir| std::fs::create_dir_all(dir).is_ok());
    let code = cache.unwrap_or_else(|| data.path().to_owned());
    // Nobody shall meet a server that does not know its only component yet.
    let open = CancellationToken::new();
    let config = NodeConfig {
        http: args.addr,
        admin: (Ipv4Addr::LOCALHOST, 0).into(),
        data: data.path().to_owned(),
        volatile: true,
        code,
        code_memory: dunlin_runtime::DEFAULT_CODE_MEMORY,
        slots: args.slots,
        token: None,
        grace: GRACE,
        timing: false,
        cluster: None,
        open: Some(open.clone()),
    };
    let mut node = Bound::listen(config).await?.start().await?;
    let Order { name, component, settings } = order;
    let deploy = node.deploy(name, component, settings);
    let shipped = tokio::select! {
        shipped = progress::spinner(out, "checking and compiling".into(), deploy) => shipped,
        () = stop.asked() => return Ok(()),
    };
    // The node speaks of a function; here it is a file.
    shipped.with_context(|| args.component.display().to_string())?;
    open.cancel();
    out.note(format_args!("{}/", node.http_url()));
    let client = Client::new(Server { url: node.admin_url(), token: None })?;
    let failure = tokio::select! {
        () = stop.asked() => None,
        failure = node.failed() => Some(failure),
        printed = logs(&client, out) => printed.err(),
    };
    tokio::select! {
        _ = node.stop() => {}
        () = stop.asked() => {}
    }
    failure.map_or(Ok(()), Err)
}

/// What the function prints, each stream to ours.
async fn logs(client: &Client, out: &Output) -> anyhow::Result<()> {
    let lines = client.logs(&LogQuery { function: None, tail: 1_000, follow: true }).await?;
    pin_mut!(lines);
    while let Some(line) = lines.next().await {
        let LogLine { stream, text, .. } = line?;
        match stream {
            LogStream::Stdout => out.data(text)?,
            LogStream::Stderr => out.note(text),
            LogStream::Runtime => out.note(out.paint_err(Style::Bad, &text)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn all_paths_lead_to_it_and_bodies_have_no_limit_unless_given() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("_.wasm");
        std::fs::write(&file, wat::parse_str("(component)").unwrap()).unwrap();
        let order = |more: &[&str]| {
            let line = ["x", file.to_str().unwrap()].into_iter().chain(more.iter().copied());
            Line::try_parse_from(line).unwrap().args.order().unwrap()
        };
        let plain = order(&[]);
        assert_eq!((plain.name.as_str(), plain.settings.http[0].route.as_str()), ("function", "/{*path}"));
        assert_eq!(plain.settings.limits.request_body, NO_LIMIT);
        assert_eq!(order(&["--request-body", "1MiB"]).settings.limits.request_body, ByteSize::mib(1));
    }
}
