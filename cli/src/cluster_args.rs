//! The options of `dunlin node` that make it a member of a cluster.

use dunlin_api::{ClusterName, NodeName, manifest::check_label};
use dunlin_scheduler::nats::{NatsAuth, NatsConfig, NatsTls};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::exit::{Exit, Failure};

/// A cluster whose NATS cannot be reached within this time is told about; whoever supervises the node starts it again.
const CONNECT: Duration = Duration::from_secs(5);
/// What a node is called where the machine's name is none that a node can have.
const FALLBACK: &str = "node";

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Join the cluster on this NATS; several URLs are joined by commas
    #[arg(long, value_name = "URL", env = "DUNLIN_NATS")]
    nats: Option<String>,
    /// The cluster's name; clusters of different names share a NATS
    #[arg(long, value_name = "NAME", default_value = "dunlin", requires = "nats")]
    cluster: ClusterName,
    /// This node's name, unique in the cluster [default: the machine's name]
    #[arg(long, value_name = "NAME", requires = "nats")]
    name: Option<NodeName>,
    /// A label that functions may ask for in `place`; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, requires = "nats")]
    labels: Vec<(String, String)>,
    /// The zone this node stands in
    #[arg(long, value_parser = zone, requires = "nats")]
    zone: Option<String>,
    /// Serve HTTP; this is the default
    #[arg(long, overrides_with = "no_gateway", requires = "nats")]
    gateway: bool,
    /// Serve no HTTP: only run what other nodes send
    #[arg(long, requires = "nats")]
    no_gateway: bool,
    /// Run functions; this is the default
    #[arg(long, overrides_with = "no_worker", requires = "nats")]
    worker: bool,
    /// Run no functions: send every call to other nodes
    #[arg(long, requires = "nats", conflicts_with = "no_gateway")]
    no_worker: bool,
    /// Credentials file for NATS
    #[arg(long, value_name = "FILE", requires = "nats", conflicts_with_all = ["nats_nkey", "nats_user", "nats_token"])]
    nats_creds: Option<PathBuf>,
    /// File with the seed of an NKEY for NATS
    #[arg(long, value_name = "FILE", requires = "nats", conflicts_with_all = ["nats_user", "nats_token"])]
    nats_nkey: Option<PathBuf>,
    /// User name for NATS
    #[arg(long, value_name = "NAME", requires_all = ["nats", "nats_password"], conflicts_with = "nats_token")]
    nats_user: Option<String>,
    /// Password for NATS
    #[arg(long, value_name = "PASSWORD", env = "DUNLIN_NATS_PASSWORD", hide_env_values = true)]
    nats_password: Option<String>,
    /// Token for NATS
    #[arg(long, value_name = "TOKEN", env = "DUNLIN_NATS_TOKEN", hide_env_values = true)]
    nats_token: Option<String>,
    /// File with the authorities that vouch for the NATS servers, in PEM
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_ca: Option<PathBuf>,
    /// File with this node's certificate for NATS, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["nats", "nats_key"])]
    nats_cert: Option<PathBuf>,
    /// File with the key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["nats", "nats_cert"])]
    nats_key: Option<PathBuf>,
    /// Begin with TLS at once (`handshake_first` of the servers)
    #[arg(long, requires = "nats")]
    nats_tls_first: bool,
}

/// What makes a node a member of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterConfig {
    pub(crate) nats: NatsConfig,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) zone: Option<String>,
    /// Whether it serves HTTP.
    pub(crate) gateway: bool,
    /// Whether it runs functions.
    pub(crate) worker: bool,
}

impl ClusterArgs {
    /// The cluster to join; none for a node that stands alone.
    pub(crate) fn resolve(self) -> anyhow::Result<Option<ClusterConfig>> {
        let Some(servers) = self.nats.filter(|servers| !servers.trim().is_empty()) else { return Ok(None) };
        let mut labels = BTreeMap::new();
        for (key, value) in self.labels {
            if let Some(other) = labels.insert(key.clone(), value.clone()) {
                let message = format!("the label `{key}` has two values, `{other}` and `{value}`");
                return Err(Failure::new(Exit::Usage, message).into());
            }
        }
        let auth = match (self.nats_creds, self.nats_nkey, self.nats_user, self.nats_password, self.nats_token) {
            (Some(file), ..) => NatsAuth::Credentials(file),
            (_, Some(file), ..) => NatsAuth::Nkey(file),
            (.., Some(user), Some(password), _) => NatsAuth::Password { user, password },
            (.., Some(token)) => NatsAuth::Token(token),
            _ => NatsAuth::Url,
        };
        let tls = NatsTls { ca: self.nats_ca, client: self.nats_cert.zip(self.nats_key), first: self.nats_tls_first };
        let node = self.name.unwrap_or_else(machine);
        let nats = NatsConfig { servers, cluster: self.cluster, node, auth, tls, connect_timeout: CONNECT };
        Ok(Some(ClusterConfig { nats, labels, zone: self.zone, gateway: !self.no_gateway, worker: !self.no_worker }))
    }
}

/// The machine's name as that of a node: its first label, in lower case.
fn machine() -> NodeName {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_ascii_lowercase();
    let first = host.split('.').next().unwrap_or_default();
    first.parse().unwrap_or_else(|_| FALLBACK.parse().expect("it is a name"))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    check_label("its key", key)?;
    check_label("its value", value)?;
    Ok((key.to_owned(), value.to_owned()))
}

fn zone(text: &str) -> Result<String, String> {
    check_label("the zone", text)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ClusterArgs,
    }

    fn resolve(line: &[&str]) -> anyhow::Result<Option<ClusterConfig>> {
        Line::try_parse_from(["x"].iter().chain(line))?.args.resolve()
    }

    fn member(line: &[&str]) -> ClusterConfig {
        resolve(&[&["--nats", "nats://a:1"], line].concat()).unwrap().unwrap()
    }

    #[test]
    fn without_nats_there_is_no_cluster_and_its_options_are_mistakes() {
        assert!(resolve(&[]).unwrap().is_none());
        for options in [&["--zone", "a"][..], &["--label", "a=b"], &["--no-worker"], &["--name", "n"]] {
            assert!(resolve(options).is_err(), "{options:?}");
        }
    }

    #[test]
    fn roles_labels_and_zone_are_taken_as_they_are_given() {
        let config =
            member(&["--name", "n1", "--label", "disk=ssd", "--label", "cpu=arm", "--zone", "a", "--no-gateway"]);
        assert_eq!(config.nats.node.as_str(), "n1");
        assert_eq!(config.labels.len(), 2);
        assert_eq!((config.zone.as_deref(), config.gateway, config.worker), (Some("a"), false, true));
        assert!(member(&["--no-worker", "--worker"]).worker);
        assert!(resolve(&["--nats", "x", "--no-worker", "--no-gateway"]).is_err());
        assert!(resolve(&["--nats", "x", "--label", "disk"]).is_err());
        assert!(resolve(&["--nats", "x", "--label", "a=b", "--label", "a=c"]).is_err());
    }

    #[test]
    fn one_way_to_authenticate_is_enough() {
        assert!(matches!(member(&["--nats-creds", "f"]).nats.auth, NatsAuth::Credentials(_)));
        assert!(matches!(member(&["--nats-user", "u", "--nats-password", "p"]).nats.auth, NatsAuth::Password { .. }));
        assert!(matches!(member(&["--nats-token", "t"]).nats.auth, NatsAuth::Token(_)));
        for both in [&["--nats-creds", "f", "--nats-token", "t"][..], &["--nats-user", "u"], &["--nats-cert", "c"]] {
            assert!(resolve(&[&["--nats", "x"], both].concat()).is_err(), "{both:?}");
        }
    }
}
