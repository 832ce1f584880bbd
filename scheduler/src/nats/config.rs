//! How to reach NATS, and as whom.
//!
//! Made by the command line from its flags and by tests. Secrets are read from files when a connection is made, and no
//! text that is shown or logged contains one.

use async_nats::{ConnectOptions, ServerAddr};
use dunlin_api::{ClusterName, NodeName};
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::ConnectError;
use crate::subjects::Subjects;

/// A server that answers no ping is given up after two to three of these.
const PING: Duration = Duration::from_secs(2);
/// Commands that wait for a connection; more make their senders wait.
const COMMANDS: usize = 8_192;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach NATS.
#[derive(Clone)]
pub struct NatsConfig {
    /// URLs of the servers, joined by commas. May name a user: `nats://user:password@host` or `nats://token@host`.
    pub servers: String,
    /// The cluster to be a member of.
    pub cluster: ClusterName,
    /// The name of this node: in the names of its connections, and in the subjects at which it receives answers.
    pub node: NodeName,
    /// How long the first connection may take; each server has an equal part of it.
    pub connect_timeout: Duration,
    /// As whom.
    pub auth: NatsAuth,
    /// How the connection is encrypted.
    pub tls: NatsTls,
}

/// As whom to connect.
#[derive(Clone, Default)]
pub enum NatsAuth {
    /// As the URL says, or as nobody.
    #[default]
    Url,
    /// A credentials file: a JWT with its NKEY seed.
    Credentials(PathBuf),
    /// A file with an NKEY seed.
    Nkey(PathBuf),
    /// A user with a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

/// How the connection is encrypted. A `tls://` URL or a server that demands it turns TLS on.
#[derive(Clone, Debug, Default)]
pub struct NatsTls {
    /// The authorities that are trusted, as PEM; without it, those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, as PEM, for servers that ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Begins with TLS instead of NATS' greeting, for servers with `handshake_first`.
    pub first: bool,
}

impl NatsConfig {
    /// `servers` without more authentication or encryption than their URLs name.
    pub fn new(servers: impl Into<String>, cluster: ClusterName, node: NodeName) -> Self {
        let (auth, tls) = Default::default();
        Self { servers: servers.into(), cluster, node, connect_timeout: CONNECT_TIMEOUT, auth, tls }
    }

    /// The servers, without what is secret in their URLs.
    pub(super) fn shown(&self) -> String {
        let shown = |url: &str| {
            let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        };
        self.servers.split(',').map(|url| shown(url.trim())).collect::<Vec<_>>().join(", ")
    }

    /// Addresses and options of the connection for `purpose`.
    pub(super) async fn options(&self, purpose: &str) -> Result<(Vec<ServerAddr>, ConnectOptions), ConnectError> {
        let mut addresses: Vec<ServerAddr> = Vec::new();
        for url in self.servers.split(',').map(str::trim) {
            let address = url.parse().map_err(|_| ConnectError::Address { servers: self.shown() })?;
            addresses.push(address);
        }
        let options = ConnectOptions::new()
            .name(format!("dunlin {} {purpose}", self.node))
            .custom_inbox_prefix(Subjects::of(&self.cluster).inbox(&self.node))
            .ping_interval(PING)
            .reconnect_delay_callback(delay)
            .connection_timeout(self.connect_timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX))
            .client_capacity(COMMANDS);
        let options = self.encrypted(options)?;
        Ok((addresses.clone(), self.authenticated(options, &addresses).await?))
    }

    fn encrypted(&self, options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
        let mut options = options;
        for path in self.tls.ca.iter().chain(self.tls.client.iter().flat_map(|(cert, key)| [cert, key])) {
            std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
        }
        if let Some(ca) = &self.tls.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &self.tls.client {
            options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        Ok(if self.tls.first { options.tls_first() } else { options })
    }

    async fn authenticated(
        &self,
        options: ConnectOptions,
        addresses: &[ServerAddr],
    ) -> Result<ConnectOptions, ConnectError> {
        Ok(match &self.auth {
            NatsAuth::Credentials(path) => {
                options.credentials_file(path).await.map_err(|error| unreadable(path, &error))?
            }
            NatsAuth::Nkey(path) => {
                let seed = tokio::fs::read_to_string(path).await.map_err(|error| unreadable(path, &error))?;
                options.nkey(seed.trim().to_owned())
            }
            NatsAuth::Password { user, password } => options.user_and_password(user.clone(), password.clone()),
            NatsAuth::Token(token) => options.token(token.clone()),
            // Given to all servers, also to those that are learned of later: their URLs name nobody.
            NatsAuth::Url => match addresses.iter().find_map(|a| a.username().map(|user| (user, a.password()))) {
                Some((user, Some(password))) => options.user_and_password(user.to_owned(), password.to_owned()),
                Some((token, None)) => options.token(token.to_owned()),
                None => options,
            },
        })
    }
}

/// Doubles to a second at most, so that a NATS that comes back is used within a second; half of it is left to chance.
fn delay(attempts: usize) -> Duration {
    let full = Duration::from_millis(1 << attempts.min(10)).min(Duration::from_secs(1));
    full.mul_f64(rand::random_range(0.5..1.0))
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConnectError {
    ConnectError::File { path: path.to_owned(), error: error.to_string() }
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, node, connect_timeout, auth, tls, .. } = self;
        let mut shown = f.debug_struct("NatsConfig");
        shown.field("servers", &self.shown()).field("cluster", cluster).field("node", node);
        shown.field("connect_timeout", connect_timeout).field("auth", auth).field("tls", tls).finish()
    }
}

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("Url"),
            Self::Credentials(path) => write!(f, "Credentials({})", path.display()),
            Self::Nkey(path) => write!(f, "Nkey({})", path.display()),
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}
