//! The connections of one node to its NATS.
//!
//! Three, because one connection is one stream of bytes: `control` carries small frames that must not wait, `bulk` carries
//! bodies, `jetstream` the stores. Each reconnects by itself, for ever, and moves to another server when its own is about
//! to end; [`Nats::connection`] tells whether `control` stands. [`Nats::check`] tells at start what is missing.
//! Bounds: the first connection has a limit of time, and so has every answer of JetStream.

use async_nats::{Client, Event, ServerError, jetstream};
use dunlin_api::{ClusterName, NodeName};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{broadcast, watch};

use crate::subjects::Subjects;

mod check;
mod config;
mod error;
mod needs;

pub use check::CheckError;
pub(crate) use check::PROBE;
pub use config::{NatsAuth, NatsConfig, NatsTls};
pub use error::ConnectError;
pub use needs::Role;

/// How long JetStream may take to answer where nobody sets another limit.
const ANSWER: Duration = Duration::from_secs(5);
/// Complaints of the server that a check may be behind; async-nats holds no more.
const FAULTS: usize = 128;

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
    node: NodeName,
    connected: watch::Receiver<bool>,
    faults: broadcast::Sender<Arc<str>>,
    /// Keeps what the callbacks of the connections refer to.
    _handles: [Arc<OnceLock<Client>>; 3],
}

impl Nats {
    /// Connects.
    ///
    /// # Errors
    /// When no server can be reached in time, or none lets us in; says what to do.
    pub async fn connect(config: &NatsConfig) -> Result<Self, ConnectError> {
        let (sender, connected) = watch::channel(true);
        let faults = broadcast::Sender::new(FAULTS);
        let handles: [Arc<OnceLock<Client>>; 3] = Default::default();
        let control = open(config, "control", Some(sender), &faults, &handles[0]).await?;
        let bulk = open(config, "bulk", None, &faults, &handles[1]).await?;
        let store = open(config, "store", None, &faults, &handles[2]).await?;
        Ok(Self {
            cluster: config.cluster.clone(),
            subjects: Subjects::of(&config.cluster),
            control,
            bulk,
            jetstream: jetstream::ContextBuilder::new().timeout(ANSWER).build(store),
            node: config.node.clone(),
            connected,
            faults,
            _handles: handles,
        })
    }

    /// Whether `control` is connected now.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// What the servers complain about on any of the connections from now on: the only sign of a denied permission.
    pub(crate) fn complaints(&self) -> broadcast::Receiver<Arc<str>> {
        self.faults.subscribe()
    }

    /// Whether `control` is connected, now and from now on.
    pub fn connection(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

async fn open(
    config: &NatsConfig,
    purpose: &'static str,
    connected: Option<watch::Sender<bool>>,
    faults: &broadcast::Sender<Arc<str>>,
    handle: &Arc<OnceLock<Client>>,
) -> Result<Client, ConnectError> {
    let (addresses, options) = config.options(purpose).await?;
    // Weak, because the callback lives as long as the connection, and that as long as its clients.
    let (faults, weak) = (faults.clone(), Arc::downgrade(handle));
    let options = options.event_callback(move |event| {
        let client = weak.upgrade().and_then(|handle| handle.get().cloned());
        match &event {
            Event::Connected | Event::Disconnected | Event::Closed => {
                if let Some(connected) = &connected {
                    connected.send_replace(event == Event::Connected);
                }
                match event {
                    Event::Connected => tracing::info!(purpose, "connected to NATS"),
                    Event::Disconnected => tracing::warn!(purpose, "the connection to NATS is lost: trying again"),
                    _ => {}
                }
            }
            Event::ServerError(ServerError::Other(text)) => {
                // Nobody may listen.
                let _ = faults.send(text.as_str().into());
                tracing::warn!(purpose, error = %text, "NATS complains");
            }
            // Every attempt to connect again that fails.
            Event::ClientError(error) => tracing::debug!(purpose, %error, "NATS"),
            other => tracing::warn!(purpose, event = %other, "NATS"),
        }
        async move {
            if let (Event::LameDuckMode, Some(client)) = (event, client) {
                leave(&client).await;
            }
        }
    });
    let client = tokio::time::timeout(config.connect_timeout, options.connect(addresses)).await;
    let client = client
        .unwrap_or_else(|_| Err(async_nats::ConnectErrorKind::TimedOut.into()))
        .map_err(|error| ConnectError::of(config, &error))?;
    // It is set once, here.
    let _ = handle.set(client.clone());
    Ok(client)
}

/// Moves to another server, if one is known: a server in lame duck mode takes no new connections, so alone it is kept
/// until it ends.
async fn leave(client: &Client) {
    let others = client.server_pool().await.is_ok_and(|servers| servers.len() > 1);
    if others && let Err(error) = client.force_reconnect().await {
        tracing::warn!(%error, "cannot leave a server that is about to end");
    }
}
