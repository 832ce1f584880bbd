//! The stores of a cluster: JetStream key-value buckets, Object Stores and streams, shared by all of its nodes.
//!
//! Opened once by each node that joins a cluster; the traits it provides are those of [`super::embedded`]. What is missing
//! is created; what is there is used as it is, so an operator may give a bucket other limits with `nats stream edit`.
//! Whatever was acknowledged is held by a majority of the replicas. While NATS is away every read and every write fails
//! within thirteen seconds. A write whose fate is unknown says so; carried out late it undoes nothing, because every
//! write is a compare-and-set. Bounds: the sizes below; JetStream refuses what does not fit.

use async_nats::jetstream::{
    Context, ErrorCode,
    response::Response,
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, Stream},
};
use dunlin_api::{ClusterName, StoreError};
use futures::future::try_join_all;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

use super::events::{self, EventStores};
use crate::{nats::Nats, subjects::Subjects};

mod api;
mod artifacts;
mod attempt;
mod blobs;
mod bucket;
mod bus;
mod catalog;
mod changes;
mod consumer;
mod delivery;
mod keys;
mod keyvalue;
mod message;
mod objects;
mod publish;
mod record;
mod resolve;
mod settle;
mod spec;
mod streams;
#[cfg(test)]
mod tests;
mod upload;
mod watch;

pub use artifacts::NatsArtifacts;
use attempt::{Failure, attempts};
pub use blobs::NatsBlobs;
use bucket::Bucket;
pub use bus::NatsBus;
pub use catalog::NatsCatalog;
pub use keyvalue::NatsKeyValue;
pub use streams::NatsStreams;

/// Ten thousand functions with ten revisions each of 2 KiB.
const CATALOG_BYTES: i64 = 256 << 20;
/// States of a record that a watcher may be behind before it has to reload.
const CATALOG_HISTORY: i64 = 8;
const KEYVALUE_BYTES: i64 = 1 << 30;
/// Some hundred components.
const ARTIFACT_BYTES: i64 = 2 << 30;
/// Some hundred thousand calls of some KiB that wait.
const WORK_BYTES: i64 = 1 << 30;
const DEAD_BYTES: i64 = 256 << 20;
const DEAD_AGE: Duration = Duration::from_secs(30 * 86_400);
/// Half a million outcomes without bodies; larger bodies are blobs.
const OUTCOME_BYTES: i64 = 512 << 20;
/// Numbers of failures: some hundred thousand messages that failed and are not settled.
const ATTEMPT_BYTES: i64 = 64 << 20;
/// Longer than any message waits for its tries, by the largest backoff that makes sense.
const ATTEMPT_AGE: Duration = Duration::from_secs(7 * 86_400);
const BODY_BYTES: i64 = 1 << 30;
/// The largest value or chunk, with its headers.
const MESSAGE_BYTES: i32 = (1 << 20) + (4 << 10);
/// A write that was not answered is tried again for ten seconds; the server must know it again for longer.
const DUPLICATES: Duration = Duration::from_secs(30);
/// How long servers of a cluster that just started may take to find each other.
const PEERS: Duration = Duration::from_secs(10);
/// How long several nodes may need to create the same stream.
const SETTLED: Duration = Duration::from_secs(2);
/// JetStream's answer if fewer servers can take a replica than were asked for.
const NO_PEERS: ErrorCode = ErrorCode::CLUSTER_NO_PEERS;

/// The open stores.
pub struct NatsStore {
    catalog: Arc<NatsCatalog>,
    keyvalue: Arc<NatsKeyValue>,
    artifacts: Arc<NatsArtifacts>,
    streams: Arc<NatsStreams>,
    bus: Arc<NatsBus>,
    blobs: Arc<NatsBlobs>,
    outcomes: Arc<NatsCatalog>,
}

impl NatsStore {
    /// Opens the buckets of the cluster and creates those that are missing.
    ///
    /// # Errors
    /// `Unavailable`, when JetStream does not answer or has no room; says what to do.
    pub async fn open(nats: &Nats) -> Result<Self, StoreError> {
        let opened = try_join_all(plans(&nats.cluster).map(|plan| open(&nats.jetstream, plan))).await?;
        let opened: [Bucket; 8] =
            opened.try_into().map_err(|_| StoreError::Unavailable("a bucket is missing".into()))?;
        let [catalog, keyvalue, artifacts, work, dead, outcomes, attempts, bodies] = opened;
        Ok(Self {
            catalog: Arc::new(NatsCatalog::new(catalog)),
            keyvalue: Arc::new(NatsKeyValue::new(keyvalue)),
            artifacts: Arc::new(NatsArtifacts::new(artifacts)),
            streams: Arc::new(NatsStreams::new(nats.clone(), work, dead, attempts)),
            bus: Arc::new(NatsBus::new(nats.clone())),
            blobs: Arc::new(NatsBlobs::new(bodies)),
            outcomes: Arc::new(NatsCatalog::new(outcomes)),
        })
    }

    /// What events stand on.
    pub fn events(&self) -> EventStores {
        EventStores {
            streams: self.streams.clone(),
            bus: self.bus.clone(),
            blobs: self.blobs.clone(),
            records: self.outcomes.clone(),
        }
    }

    /// The catalog's records.
    pub fn catalog(&self) -> Arc<NatsCatalog> {
        self.catalog.clone()
    }

    /// The guests' key-value stores.
    pub fn keyvalue(&self) -> Arc<NatsKeyValue> {
        self.keyvalue.clone()
    }

    /// The artifacts.
    pub fn artifacts(&self) -> Arc<NatsArtifacts> {
        self.artifacts.clone()
    }
}

/// The streams that a cluster keeps, the membership's among them.
pub fn streams(cluster: &ClusterName) -> Vec<String> {
    plans(cluster).into_iter().map(|plan| plan.name).chain([format!("KV_dl-{cluster}-nodes")]).collect()
}

/// How the streams are made: catalog, key-value, artifacts, work, dead letters, outcomes, attempts, bodies.
fn plans(cluster: &ClusterName) -> [Config; 8] {
    let common = Config {
        discard: DiscardPolicy::New,
        max_message_size: MESSAGE_BYTES,
        allow_rollup: true,
        duplicate_window: DUPLICATES,
        // Any replica answers a direct get, also one that is behind the caller's own write.
        allow_direct: false,
        ..Config::default()
    };
    let keyvalue = |bucket: &str, history, bytes| Config {
        name: format!("KV_dl-{cluster}-{bucket}"),
        subjects: vec![format!("$KV.dl-{cluster}-{bucket}.>")],
        max_messages_per_subject: history,
        max_bytes: bytes,
        ..common.clone()
    };
    let object = |bucket: &str, bytes| Config {
        name: format!("OBJ_dl-{cluster}-{bucket}"),
        subjects: ["C", "M"].map(|part| format!("$O.dl-{cluster}-{bucket}.{part}.>")).into(),
        max_bytes: bytes,
        ..common.clone()
    };
    let subjects = Subjects::of(cluster);
    let stream = |name: &str, subject, bytes| Config {
        name: format!("dl-{cluster}-{name}"),
        subjects: vec![subject],
        max_bytes: bytes,
        allow_rollup: false,
        duplicate_window: events::DUPLICATES,
        ..common.clone()
    };
    [
        keyvalue("catalog", CATALOG_HISTORY, CATALOG_BYTES),
        // Markers of deletions go by themselves.
        Config { allow_message_ttl: true, ..keyvalue("kv", 1, KEYVALUE_BYTES) },
        object("artifacts", ARTIFACT_BYTES),
        Config { retention: RetentionPolicy::WorkQueue, ..stream("work", subjects.work(">"), WORK_BYTES) },
        Config { max_age: DEAD_AGE, ..stream("dead", subjects.dead(">"), DEAD_BYTES) },
        keyvalue("outcomes", CATALOG_HISTORY, OUTCOME_BYTES),
        Config { max_age: ATTEMPT_AGE, ..keyvalue("attempts", 1, ATTEMPT_BYTES) },
        object("bodies", BODY_BYTES),
    ]
}

async fn open(context: &Context, plan: Config) -> Result<Bucket, StoreError> {
    let what = format!("opening the bucket {}", plan.name);
    let info = match find(context, &plan.name, &what).await? {
        Some(info) => info,
        None => create(context, &plan, &what).await?,
    };
    let clustered = context.client().server_info().cluster.is_some();
    if clustered && info.config.num_replicas < 3 {
        tracing::warn!(
            bucket = plan.name,
            replicas = info.config.num_replicas,
            "a bucket of the cluster has fewer than 3 replicas: with 3 servers, raise it with `nats stream edit --replicas 3`"
        );
    }
    let subject = plan.subjects.first().map_or("", String::as_str);
    let prefix = subject.trim_end_matches("C.>").trim_end_matches('>').to_owned();
    let stream: Stream<()> =
        context.get_stream_no_info(&plan.name).await.map_err(|e| StoreError::Unavailable(format!("{what}: {e}")))?;
    Ok(Bucket { name: plan.name, prefix, context: context.clone(), stream })
}

async fn find(context: &Context, name: &str, what: &str) -> Result<Option<Info>, StoreError> {
    attempts(what, |_| async {
        match ask(context, &format!("STREAM.INFO.{name}"), &()).await? {
            Response::Ok(info) => Ok(Some(info)),
            Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            Response::Err { error } => Err(bucket::refused(&error)),
        }
    })
    .await
}

/// Creates a stream with three replicas, or as many as there are servers.
async fn create(context: &Context, plan: &Config, what: &str) -> Result<Info, StoreError> {
    let clustered = context.client().server_info().cluster.is_some();
    let mut replicas = if clustered { 3 } else { 1 };
    let (settled, end) = (Instant::now() + SETTLED, Instant::now() + PEERS);
    loop {
        let config = Config { num_replicas: replicas, ..plan.clone() };
        let subject = format!("STREAM.CREATE.{}", plan.name);
        let made = attempts(what, |_| ask::<Info>(context, &subject, &config)).await?;
        let error = match made {
            Response::Ok(info) => return Ok(info),
            Response::Err { error } => error,
        };
        match error.error_code() {
            // The room is counted twice while another node creates the same stream.
            ErrorCode::STORAGE_RESOURCES_EXCEEDED if Instant::now() < settled => {
                sleep(Duration::from_millis(100)).await;
                if let Some(info) = find(context, &plan.name, what).await? {
                    return Ok(info);
                }
            }
            // Servers that just started do not know all of each other; one that is known and away must come back first.
            NO_PEERS if Instant::now() < end => sleep(Duration::from_millis(250)).await,
            NO_PEERS if replicas > 1 && !error.to_string().contains("offline") => replicas -= 1,
            // Another node made it at this moment, of another version perhaps.
            ErrorCode::STREAM_NAME_EXIST => {
                let found = find(context, &plan.name, what).await?;
                return found.ok_or_else(|| StoreError::Unavailable(format!("{what}: it was deleted meanwhile")));
            }
            _ => {
                let words = match bucket::refused(&error) {
                    Failure::Final(StoreError::Unavailable(words)) => words,
                    _ => error.to_string(),
                };
                return Err(StoreError::Unavailable(format!("{what} with {replicas} replicas: {words}")));
            }
        }
    }
}

/// Asks the JetStream API; an answer that is an error is an answer.
async fn ask<T: serde::de::DeserializeOwned>(
    context: &Context,
    subject: &str,
    payload: &impl serde::Serialize,
) -> Result<Response<T>, Failure> {
    bucket::connected(&context.client())?;
    context.request(subject.to_owned(), payload).await.map_err(|error| Failure::Unknown(error.to_string()))
}
