//! Why there is no connection to NATS, and what to do about it.

use async_nats::ConnectErrorKind;
use std::{error::Error, io, path::PathBuf, time::Duration};

use super::NatsConfig;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URLs are none.
    #[error("`{servers}` is not a list of NATS URLs: write nats://host:4222, joined by commas")]
    Address {
        /// The URLs.
        servers: String,
    },
    /// A file with keys or certificates cannot be used.
    #[error("{path} cannot be used for the connection to NATS: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// The server does not know us.
    #[error("NATS at {servers} refuses these credentials: check the user, password, token, NKEY or credentials file")]
    Refused {
        /// The servers.
        servers: String,
    },
    /// TLS was not agreed on.
    #[error(
        "no TLS connection to NATS at {servers}: {error}: check the CA file, the client certificate if the server asks for \
         one, and that TLS comes first on both sides or on neither"
    )]
    Tls {
        /// The servers.
        servers: String,
        /// What failed.
        error: String,
    },
    /// Nobody answered.
    #[error(
        "NATS at {servers} did not answer within {}: check the address, the firewall, and whether the server waits for TLS",
        humantime::format_duration(*.after)
    )]
    TimedOut {
        /// The servers.
        servers: String,
        /// The limit.
        after: Duration,
    },
    /// No connection was made.
    #[error("NATS at {servers} cannot be reached: {error}: start nats-server there, or correct the URL")]
    Unreachable {
        /// The servers.
        servers: String,
        /// What the system said.
        error: String,
    },
}

impl ConnectError {
    pub(super) fn of(config: &NatsConfig, error: &async_nats::ConnectError) -> Self {
        let servers = config.shown();
        match error.kind() {
            ConnectErrorKind::ServerParse => Self::Address { servers },
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Self::Refused { servers },
            ConnectErrorKind::TimedOut => Self::TimedOut { servers, after: config.connect_timeout },
            ConnectErrorKind::Tls => Self::Tls { servers, error: innermost(error) },
            _ if is_tls(error) => Self::Tls { servers, error: innermost(error) },
            _ => Self::Unreachable { servers, error: innermost(error) },
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// rustls reports as invalid data what it does not accept; a server that hangs up during a handshake is an early end, and
/// one that waits for TLS hangs up without its greeting.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    if causes(error).any(|e| e.to_string().contains("expected INFO, got nothing")) {
        return true;
    }
    let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
    causes(error).any(|e| e.downcast_ref::<io::Error>().is_some_and(|io| kinds.contains(&io.kind())))
}
