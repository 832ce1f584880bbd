//! The stores of a cluster: two JetStream key-value buckets and an Object Store, shared by all of its nodes.
//!
//! Opened once by each node that joins a cluster; the traits it provides are those of [`super::embedded`]. What is missing
//! is created; what is there is used as it is, so an operator may give a bucket other limits with `nats stream edit`.
//! Whatever was acknowledged is held by a majority of the replicas. While NATS is away every read and every write fails
//! within thirteen seconds. A write whose fate is unknown says so; carried out late it undoes nothing, because every
//! write is a compare-and-set. Bounds: the sizes below; JetStream refuses what does not fit.

use async_nats::jetstream::{
    Context, ErrorCode,
    response::Response,
    stream::{Config, DiscardPolicy, Info, Stream},
};
use dunlin_api::{ClusterName, StoreError};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

use crate::nats::Nats;

mod artifacts;
mod attempt;
mod bucket;
mod catalog;
mod keys;
mod keyvalue;
mod objects;
mod record;
#[cfg(test)]
mod tests;
mod upload;
mod watch;

pub use artifacts::NatsArtifacts;
use attempt::{Failure, attempts};
use bucket::Bucket;
pub use catalog::NatsCatalog;
pub use keyvalue::NatsKeyValue;

/// Ten thousand functions with ten revisions each of 2 KiB.
const CATALOG_BYTES: i64 = 256 << 20;
/// States of a record that a watcher may be behind before it has to reload.
const CATALOG_HISTORY: i64 = 8;
const KEYVALUE_BYTES: i64 = 1 << 30;
/// Some hundred components.
const ARTIFACT_BYTES: i64 = 2 << 30;
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
}

impl NatsStore {
    /// Opens the buckets of the cluster and creates those that are missing.
    ///
    /// # Errors
    /// `Unavailable`, when JetStream does not answer or has no room; says what to do.
    pub async fn open(nats: &Nats) -> Result<Self, StoreError> {
        let [catalog, keyvalue, artifacts] = plans(&nats.cluster);
        let catalog = open(&nats.jetstream, catalog).await?;
        let keyvalue = open(&nats.jetstream, keyvalue).await?;
        let artifacts = open(&nats.jetstream, artifacts).await?;
        Ok(Self {
            catalog: Arc::new(NatsCatalog::new(catalog)),
            keyvalue: Arc::new(NatsKeyValue::new(keyvalue)),
            artifacts: Arc::new(NatsArtifacts::new(artifacts)),
        })
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

/// How the streams are made: catalog, key-value, artifacts.
fn plans(cluster: &ClusterName) -> [Config; 3] {
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
    let object = format!("dl-{cluster}-artifacts");
    [
        keyvalue("catalog", CATALOG_HISTORY, CATALOG_BYTES),
        keyvalue("kv", 1, KEYVALUE_BYTES),
        Config {
            name: format!("OBJ_{object}"),
            subjects: vec![format!("$O.{object}.C.>"), format!("$O.{object}.M.>")],
            max_bytes: ARTIFACT_BYTES,
            ..common
        },
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
