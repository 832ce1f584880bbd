//! One page of a guest store's keys: a consumer that reads the subjects of the store, without their values.
//!
//! Subjects come in the order of their last writes, so a page reads them all and keeps the first of those that are left.
//! (The server's own list of subjects would come as one message, which a guest could make hundreds of megabytes long.)
//! In a cluster the consumer may live beside a replica that is behind, so a listing that ends before the newest write that
//! the leader knows is made again; only a deletion of the last milliseconds may not show. Bounds: one page and one batch
//! in memory.

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;
use std::{collections::BTreeSet, fmt::Display, time::Duration};

use super::{attempt::Failure, bucket::Bucket, record::sets_its_key};
use crate::store::KEYS_PER_PAGE;

/// Subjects asked for at once; the longest has 2 KiB.
const BATCH: usize = 2_000;
/// How long the server keeps a consumer whose reader is gone.
const INACTIVE: Duration = Duration::from_secs(10);
const EXPIRES: Duration = Duration::from_secs(2);

/// The first keys of `store` after `after`, in order.
pub(super) async fn page(bucket: &Bucket, store: &str, after: Option<&str>) -> Result<Vec<String>, Failure> {
    let prefix = format!("{}{store}.", bucket.prefix);
    let filter_subject = format!("{prefix}*");
    let Some(newest) = bucket.last_once(&filter_subject).await? else { return Ok(Vec::new()) };
    let config = pull::Config {
        name: Some(nuid::next().to_string()),
        filter_subject,
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        headers_only: true,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: INACTIVE,
        ..pull::Config::default()
    };
    let mut consumer = bucket.context.create_consumer_on_stream(config, &bucket.name).await.map_err(again)?;
    let (mut page, mut read, mut reached) = (BTreeSet::new(), 0, 0);
    // Who writes meanwhile makes it no longer: it ends at what was the newest write when it began.
    while reached < newest.sequence && consumer.info().await.map_err(again)?.num_pending > 0 {
        let mut batch = consumer.fetch().max_messages(BATCH).expires(EXPIRES).messages().await.map_err(again)?;
        while let Some(message) = batch.next().await {
            let message = message.map_err(again)?;
            read += 1;
            let info = message.info().map_err(again)?;
            if info.consumer_sequence != read {
                return Err(again("a part of the listing was lost"));
            }
            reached = info.stream_sequence;
            let hex = message.subject.strip_prefix(&*prefix).unwrap_or_default();
            if let Some(key) = decode(hex).filter(|_| sets_its_key(message.headers.as_ref())) {
                keep(&mut page, key, after);
            }
        }
    }
    let name = &consumer.cached_info().name;
    if let Err(error) = bucket.context.delete_consumer_from_stream(name, &bucket.name).await {
        tracing::debug!(%error, "the consumer of a listing goes by itself later");
    }
    if reached < newest.sequence {
        return Err(again("it was read beside a replica that is behind, or the newest key went meanwhile"));
    }
    Ok(page.into_iter().collect())
}

fn again(reason: impl Display) -> Failure {
    Failure::NotDone(reason.to_string())
}

fn keep(page: &mut BTreeSet<String>, key: String, after: Option<&str>) {
    if after.is_none_or(|after| key.as_str() > after) {
        page.insert(key);
        if page.len() > KEYS_PER_PAGE {
            page.pop_last();
        }
    }
}

pub(super) fn decode(hex: &str) -> Option<String> {
    let pairs = hex.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}
