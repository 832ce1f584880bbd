//! `dunlin node`: a node that stands alone or joins a cluster, until it is told to stop.

use anyhow::Context as _;
use dunlin_api::ByteSize;
use dunlin_scheduler::admin::Token;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    cluster_args::{ClusterArgs, ClusterConfig},
    config,
    exit::{Exit, Failure},
    node::{Bound, Node, NodeConfig},
    output::{Output, Style},
    signals::Stop,
};

const EXAMPLES: &str = "\
Examples:
  dunlin node                                          on this machine only
  dunlin node --http 0.0.0.0:80 --data /var/lib/dunlin functions for everyone, the admin API for this machine
  dunlin node --admin 0.0.0.0:8081 --token-file token  the admin API for whoever has the token
  dunlin node --nats nats://10.0.0.1 --name n1         a member of the cluster on that NATS

Stops on SIGINT or SIGTERM: it refuses new invocations and lets running ones finish until the grace ends. A second signal
ends it at once.";

/// Run a node.
///
/// It keeps what is deployed in its data directory, serves functions on one address and its admin API on another.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where functions are served; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where the admin API is served; off this machine only with a token
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8081")]
    admin: SocketAddr,
    /// Data directory [default: $XDG_DATA_HOME/dunlin]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Invocations at once [default: 256 for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: Option<u32>,
    /// Compiled code kept loaded, the least recently used goes first; at least 16MiB
    #[arg(long, value_name = "SIZE", default_value_t = dunlin_runtime::DEFAULT_CODE_MEMORY, value_parser = code_memory)]
    code_memory: ByteSize,
    /// File with the token that the admin API then asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The token itself, where there is no --token-file
    #[arg(long, value_name = "TOKEN", env = "DUNLIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How long running invocations may go on when the node stops
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    grace: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Args {
    fn resolve(self) -> anyhow::Result<NodeConfig> {
        let cluster = self.cluster.resolve()?;
        let data = match self.data {
            Some(data) => data,
            None => default_data(cluster.as_ref())?,
        };
        let token = token(self.token, self.token_file.as_deref())?;
        if token.is_none() && !self.admin.ip().is_loopback() {
            let message = format!("the admin API on {} would let everyone deploy who reaches it", self.admin);
            return Err(Failure::new(Exit::Usage, message)
                .hint("give a token with --token-file or DUNLIN_TOKEN")
                .into());
        }
        Ok(NodeConfig {
            http: self.http,
            admin: self.admin,
            code: data.clone(),
            volatile: false,
            data,
            slots: self.slots,
            code_memory: self.code_memory,
            token,
            grace: self.grace,
            timing: false,
            cluster,
            open: None,
        })
    }
}

/// Below this a node would load code all the time: it is the room of some dozens of small functions.
const MIN_CODE_MEMORY: ByteSize = ByteSize::mib(16);

fn code_memory(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size < MIN_CODE_MEMORY {
        return Err(format!("it must be at least {MIN_CODE_MEMORY}: a node loads again what does not fit"));
    }
    Ok(size)
}

/// Members of clusters on one machine keep their compiled code apart, so that they can run side by side.
fn default_data(cluster: Option<&ClusterConfig>) -> anyhow::Result<PathBuf> {
    let none = || Failure::new(Exit::Usage, "there is no home directory for the data").hint("give --data DIR");
    let data = config::xdg("XDG_DATA_HOME", ".local/share").ok_or_else(none)?;
    Ok(match cluster {
        Some(cluster) => data.join("nodes").join(cluster.nats.cluster.as_str()).join(cluster.nats.node.as_str()),
        None => data,
    })
}

fn token(text: Option<String>, file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path);
        text.map_err(|e| Failure::caller(format!("cannot read the token file {}: {e}", path.display())))
    };
    let text = file.map(read).transpose()?.or(text);
    let text = text.as_deref().map(str::trim).filter(|text| !text.is_empty() || file.is_some());
    let token = text.map(|text| Token::new(text).map_err(|e| Failure::new(Exit::Usage, e.to_string())));
    Ok(token.transpose()?)
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = args.resolve()?;
    let mut stop = Stop::listen()?;
    let data = config.data.clone();
    let bound = Bound::listen(config).await?;
    if let Some(http) = bound.http_addr {
        out.note(format_args!("http     http://{http}/"));
    }
    out.note(format_args!("admin    http://{}/", bound.admin_addr));
    let node = bound.start().await.with_context(|| format!("the node in {} cannot start", data.display()))?;
    let ready_ms = started.elapsed().as_millis();
    let plural = if node.functions == 1 { "" } else { "s" };
    out.note(out.paint_err(Style::Good, &format!("ready in {ready_ms} ms, {} function{plural}", node.functions)));
    if out.is_json() {
        let (http, admin) = (node.http_addr, node.admin_addr);
        out.json(
            &serde_json::json!({ "node": node.name, "http": http, "admin": admin, "functions": node.functions, "ready_ms": ready_ms }),
        )?;
    }
    serve(node, &mut stop, out).await
}

/// Until a signal, or until the node breaks.
pub(crate) async fn serve(mut node: Node, stop: &mut Stop, out: &Output) -> anyhow::Result<()> {
    let failure = tokio::select! {
        () = stop.asked() => None,
        failure = node.failed() => Some(failure),
    };
    out.note("draining: new invocations are refused; a second signal ends at once");
    tokio::select! {
        drained = node.stop() => {
            if !drained {
                out.note("some invocations were cut: they outlived the grace");
            }
        }
        () = stop.asked() => out.note("ended at once"),
    }
    failure.map_or(Ok(()), Err)
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

    fn resolve(line: &[&str]) -> anyhow::Result<NodeConfig> {
        Line::try_parse_from(["x", "--data", "/d"].iter().chain(line))?.args.resolve()
    }

    #[test]
    fn the_admin_api_leaves_this_machine_only_with_a_token() {
        assert!(resolve(&["--admin", "127.0.0.1:0"]).is_ok() && resolve(&["--admin", "[::1]:0"]).is_ok());
        let error = resolve(&["--admin", "0.0.0.0:0"]).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(resolve(&["--admin", "0.0.0.0:0", "--token", "0123456789abcdef"]).is_ok());
        assert!(resolve(&["--token", "short"]).is_err());
    }

    #[test]
    fn the_memory_for_code_has_a_least_value() {
        assert_eq!(resolve(&[]).unwrap().code_memory, dunlin_runtime::DEFAULT_CODE_MEMORY);
        assert_eq!(resolve(&["--code-memory", "16MiB"]).unwrap().code_memory, ByteSize::mib(16));
        for bad in ["15MiB", "0", "-1", "much"] {
            assert!(resolve(&[&format!("--code-memory={bad}")]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_token_file_is_a_mistake_and_not_an_open_door() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(token(None, Some(file.path())).is_err());
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        assert!(token(None, Some(file.path())).unwrap().is_some());
        assert!(token(Some(String::new()), None).unwrap().is_none());
    }
}
