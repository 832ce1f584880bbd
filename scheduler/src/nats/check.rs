//! The check at start: is this the NATS that a node needs, and may the node do there what it will do?
//!
//! Called by the node before it serves. A denied publish or subscription is silent to its caller: the server only
//! complains beside the stream of messages. So every subject is tried, then a message to ourselves on the same connection
//! proves that the server has worked through all of it, and its complaints are compared with what was tried. Probes do
//! nothing: they go where nobody listens, or are no valid request or frame. Bounds: five seconds for each answer.

use async_nats::{Client, HeaderMap, jetstream::context::AccountErrorKind};
use futures::{StreamExt, future::try_join_all};
use semver::Version;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::timeout};

use super::{ANSWER, Nats, Role, needs};
use needs::{Need, Purpose};

/// The oldest server that is taken: with cron schedules that do not drift, and without holes known since.
const OLDEST: Version = Version::new(2, 14, 3);
/// JetStream's API level of that server.
const API_LEVEL: usize = 4;
/// Frames with a body inline need 128 KiB and their heads.
const MIN_PAYLOAD: usize = 256 << 10;
/// The server's complaints arrive before the message that ends a check, but their callback runs in a task of its own.
const COMPLAINTS: Duration = Duration::from_millis(200);
/// The beginning of a JSON object that is none: JetStream refuses it. What does not even begin like an object it takes for
/// an empty request, and an empty request to purge is carried out.
pub(crate) const PROBE: &str = "{?";

/// Why a node cannot work with this NATS.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The server is too old, or its version cannot be read.
    #[error("nats-server {found} at {server} is too old: install {OLDEST} or newer")]
    Version {
        /// The server.
        server: String,
        /// Its version.
        found: String,
    },
    /// Messages may be too small.
    #[error(
        "nats-server at {server} takes messages of {found} bytes: set max_payload to at least {MIN_PAYLOAD} in its \
         configuration (1 MB is its default)"
    )]
    Payload {
        /// The server.
        server: String,
        /// Its limit.
        found: usize,
    },
    /// Permissions are missing.
    #[error("NATS does not allow this node to {}: grant it to the node's user, in `permissions`", Listed(.0))]
    Denied(Vec<String>),
    /// There is no JetStream.
    #[error(
        "NATS has no JetStream for this node's account: start its servers, most of which must be up, add \
         `jetstream {{ store_dir: … }}` to their configuration, and enable it for the account"
    )]
    NoJetStream,
    /// JetStream is older than the server that answered: another server of the cluster leads it.
    #[error(
        "JetStream has API level {found}, not {API_LEVEL}: update every nats-server of the cluster to {OLDEST} or newer"
    )]
    ApiLevel {
        /// Its level.
        found: usize,
    },
    /// Nothing came back.
    #[error("NATS did not answer within {} s while {what}: check that its servers are up and see each other", ANSWER.as_secs())]
    Silent {
        /// What was tried.
        what: String,
    },
}

struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl Nats {
    /// Checks that the server is one that a node can work with, and that it allows what a node does in `role`.
    ///
    /// # Errors
    /// Says what is missing and what to do.
    pub async fn check(&self, role: Role) -> Result<(), CheckError> {
        let info = self.control.server_info();
        let server = format!("{}:{}", info.host, info.port);
        if Version::parse(&info.version).map_or(true, |version| version < OLDEST) {
            return Err(CheckError::Version { server, found: info.version });
        }
        if info.max_payload < MIN_PAYLOAD {
            return Err(CheckError::Payload { server, found: info.max_payload });
        }
        self.check_permissions(role).await?;
        self.check_jetstream().await
    }

    async fn check_permissions(&self, role: Role) -> Result<(), CheckError> {
        let needs = needs::of(self, role);
        let store = self.jetstream.client();
        let connections = [(&self.control, Purpose::Control), (&self.bulk, Purpose::Bulk), (&store, Purpose::Store)];
        // All at once: most of the time is spent waiting for complaints.
        let tried = connections.map(|(client, purpose)| {
            let needs: Vec<_> = needs.iter().filter(|need| need.purpose == purpose).collect();
            let mut faults = self.faults.subscribe();
            async move {
                let tried = timeout(2 * ANSWER, exercise(client, &needs, &mut faults)).await;
                tried.unwrap_or_else(|_| Err(CheckError::Silent { what: "it was sent messages".into() }))
            }
        });
        let mut denied: Vec<_> = try_join_all(tried).await?.into_iter().flatten().collect();
        denied.dedup();
        if denied.is_empty() { Ok(()) } else { Err(CheckError::Denied(denied)) }
    }

    async fn check_jetstream(&self) -> Result<(), CheckError> {
        let silent = || CheckError::Silent { what: "JetStream was asked for its state".into() };
        let account = timeout(ANSWER, self.jetstream.query_account()).await.map_err(|_| silent())?;
        let account = account.map_err(|error| match error.kind() {
            AccountErrorKind::TimedOut => silent(),
            _ => CheckError::NoJetStream,
        })?;
        match account.requests.level {
            found if found < API_LEVEL => Err(CheckError::ApiLevel { found }),
            _ => Ok(()),
        }
    }
}

/// Tries `needs` on one connection and says which of them the server complained about.
async fn exercise(
    client: &Client,
    needs: &[&Need],
    faults: &mut broadcast::Receiver<Arc<str>>,
) -> Result<Vec<String>, CheckError> {
    let failed = |error: &dyn fmt::Display| CheckError::Silent { what: format!("permissions were tried ({error})") };
    let inbox = client.new_inbox();
    let mut own = client.subscribe(inbox.clone()).await.map_err(|e| failed(&e))?;
    let mut subscriptions = Vec::new();
    for need in needs {
        if need.publish {
            // A stream that takes the subject does not keep the message, because it has another name.
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Stream", "none");
            let sent = client.publish_with_headers(need.subject.clone(), headers, PROBE.into()).await;
            sent.map_err(|e| failed(&e))?;
        } else {
            subscriptions.push(client.subscribe(need.subject.clone()).await.map_err(|e| failed(&e))?);
        }
    }
    client.publish(inbox.clone(), PROBE.into()).await.map_err(|e| failed(&e))?;
    let mut complaints = Vec::new();
    let mut limit = ANSWER;
    loop {
        tokio::select! {
            _ = own.next(), if limit == ANSWER => limit = COMPLAINTS,
            fault = timeout(limit, faults.recv()) => match fault {
                Ok(Ok(fault)) => {
                    // Without its inbox a node learns nothing more.
                    if fault.contains(&inbox) {
                        let all = inbox.rsplit_once('.').map_or("", |(prefix, _)| prefix);
                        return Ok(vec![format!("publish and subscribe to its inbox `{all}.>`")]);
                    }
                    complaints.push(fault);
                }
                Err(_) if limit == ANSWER => return Err(failed(&"no answer")),
                Ok(Err(_)) | Err(_) => break,
            },
        }
    }
    Ok(needs.iter().filter(|need| complaints.iter().any(|text| is_about(text, need))).map(|need| words(need)).collect())
}

fn is_about(complaint: &str, need: &Need) -> bool {
    let kind = if need.publish { "for publish" } else { "for subscription" };
    complaint.to_ascii_lowercase().contains(kind) && complaint.contains(&format!("\"{}\"", need.subject))
}

fn words(need: &Need) -> String {
    let action = if need.publish { "publish to" } else { "subscribe to" };
    format!("{action} `{}`", need.subject)
}
