//! Which node the client commands talk to: `--server` and `--token`, else the environment (clap reads it), else the config file, else
//! this machine.

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// Where `dunlin node` puts its admin API when nobody says otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:8081";

/// The options of every command that talks to a node.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// Admin API of the node [default: http://127.0.0.1:8081, or `server` in the config file]
    #[arg(long, value_name = "URL", env = "DUNLIN_SERVER", hide_env_values = true)]
    pub(crate) server: Option<String>,
    /// Token of the admin API, if it wants one [default: `token` in the config file]
    #[arg(long, value_name = "TOKEN", env = "DUNLIN_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

/// A node's admin API and what it wants to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Without a trailing slash.
    pub(crate) url: String,
    pub(crate) token: Option<String>,
}

/// `$XDG_CONFIG_HOME/dunlin/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    token: Option<String>,
}

impl ServerArgs {
    /// The server these options, the environment and the config file mean.
    pub(crate) fn resolve(&self) -> anyhow::Result<Server> {
        let path = xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("config.toml"));
        self.over(path.map(|path| read(&path)).transpose()?.unwrap_or_default())
    }

    fn over(&self, file: File) -> anyhow::Result<Server> {
        let url = self.server.clone().or(file.server).unwrap_or_else(|| DEFAULT_SERVER.into());
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        let parsed = reqwest::Url::parse(&url).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        if parsed.is_none() {
            let message = format!("`{url}` is not the address of a node: write for example {DEFAULT_SERVER}");
            return Err(Failure::new(Exit::Usage, message).into());
        }
        let token = self.token.clone().or(file.token).filter(|token| !token.is_empty());
        Ok(Server { url: url.trim_end_matches('/').to_owned(), token })
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("cannot read {}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(File::default()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The `dunlin` directory below an XDG base directory; `fallback` is its default below the home directory. None without
/// a home. Relative values are ignored, as the XDG specification asks.
pub(crate) fn xdg(variable: &str, fallback: &str) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(fallback)));
    base.map(|base| base.join("dunlin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(server: Option<&str>) -> ServerArgs {
        ServerArgs { server: server.map(Into::into), token: None }
    }

    #[test]
    fn an_option_wins_over_the_file_and_the_file_over_the_default() {
        let file = || File { server: Some("https://file/".into()), token: Some("t".into()) };
        assert_eq!(args(Some("http://a:1/")).over(file()).unwrap().url, "http://a:1");
        let from_file = Server { url: "https://file".into(), token: Some("t".into()) };
        assert_eq!(args(None).over(file()).unwrap(), from_file);
        assert_eq!(args(None).over(File::default()).unwrap().url, DEFAULT_SERVER);
    }

    #[test]
    fn a_bare_address_is_http_and_nonsense_is_refused() {
        assert_eq!(args(Some("127.0.0.1:9")).over(File::default()).unwrap().url, "http://127.0.0.1:9");
        for bad in ["ftp://x", "http://", "a b"] {
            assert!(args(Some(bad)).over(File::default()).is_err(), "{bad}");
        }
    }
}
