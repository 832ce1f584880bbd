//! The connections of one node to its NATS.
//!
//! Three, because one connection is one stream of bytes: `control` carries small frames that must not wait, `bulk` carries
//! bodies, `jetstream` the stores. Each reconnects by itself, for ever; [`Nats::connection`] tells whether `control` stands.

use async_nats::{Client, ConnectOptions, Event, jetstream};
use dunlin_api::ClusterName;
use std::time::Duration;
use tokio::sync::watch;

use crate::subjects::Subjects;

/// A server that answers no ping is given up after two to three of these.
const PING: Duration = Duration::from_secs(2);

/// How to reach NATS.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// URLs of the servers, joined by commas.
    pub servers: String,
    /// The cluster to be a member of.
    pub cluster: ClusterName,
    /// The name of this node, which NATS shows to its operators.
    pub client: String,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
}

/// The connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Nats {
    /// The cluster.
    pub cluster: ClusterName,
    /// The cluster's subjects.
    pub subjects: Subjects,
    /// Small frames: heartbeats, invocations, replies.
    pub control: Client,
    /// Bodies.
    pub bulk: Client,
    /// The stores.
    pub jetstream: jetstream::Context,
    connected: watch::Receiver<bool>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No server could be reached, or none let us in.
    #[error("cannot connect to NATS at {servers}: {error}")]
    Connect {
        /// The servers.
        servers: String,
        /// What went wrong.
        error: async_nats::ConnectError,
    },
}

impl Nats {
    /// Connects.
    ///
    /// # Errors
    /// When no server can be reached in time, or none lets us in.
    pub async fn connect(config: &NatsConfig) -> Result<Self, ConnectError> {
        let (sender, connected) = watch::channel(true);
        let control = open(config, "control", Some(sender)).await?;
        let bulk = open(config, "bulk", None).await?;
        let store = open(config, "store", None).await?;
        Ok(Self {
            cluster: config.cluster.clone(),
            subjects: Subjects::of(&config.cluster),
            control,
            bulk,
            jetstream: jetstream::new(store),
            connected,
        })
    }

    /// Whether `control` is connected now.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Whether `control` is connected, now and from now on.
    pub fn connection(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

async fn open(
    config: &NatsConfig,
    purpose: &str,
    connected: Option<watch::Sender<bool>>,
) -> Result<Client, ConnectError> {
    let name = format!("dunlin {} {purpose}", config.client);
    let options = ConnectOptions::new().name(name).ping_interval(PING).connection_timeout(config.connect_timeout);
    let options = options.client_capacity(8_192).event_callback(move |event| {
        match &event {
            Event::Connected => connected.iter().for_each(|c| drop(c.send_replace(true))),
            Event::Disconnected | Event::Closed => connected.iter().for_each(|c| drop(c.send_replace(false))),
            other => tracing::warn!(event = %other, "NATS"),
        }
        std::future::ready(())
    });
    let servers: Vec<_> = config.servers.split(',').map(str::trim).collect();
    let client = tokio::time::timeout(config.connect_timeout, options.connect(servers)).await;
    client
        .unwrap_or_else(|_| Err(async_nats::ConnectErrorKind::TimedOut.into()))
        .map_err(|error| ConnectError::Connect { servers: config.servers.clone(), error })
}
