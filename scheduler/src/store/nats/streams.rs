//! [`Streams`] on JetStream: one stream for all work, one for dead letters, and consumers on these, on the users' own
//! streams and on the streams behind key-value and object buckets.
//!
//! The stream of work is a work queue in which each queue is a subject: a stream for each would be a Raft group for each.
//! Bounds: those of the attempt module for each request; a listing reads one message after the other.

use async_nats::jetstream::ErrorCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use dunlin_api::{BoxFuture, Message, StoreError, trigger::ChangeSource};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::UNIX_EPOCH};

use super::{
    api,
    bucket::Bucket,
    changes,
    consumer::NatsConsumer,
    message, resolve,
    settle::Settling,
    spec::{self, Plan},
};
use crate::{
    nats::Nats,
    store::events::{Consumer, ConsumerSpec, MAX_MESSAGE_BYTES, Own, Stored, Streams, Waiting},
};

/// The streams of a cluster.
pub struct NatsStreams {
    nats: Nats,
    work: Bucket,
    dead: Bucket,
    attempts: Bucket,
}

impl NatsStreams {
    pub(super) fn new(nats: Nats, work: Bucket, dead: Bucket, attempts: Bucket) -> Self {
        Self { nats, work, dead, attempts }
    }

    fn own(&self, own: Own) -> &Bucket {
        match own {
            Own::Work => &self.work,
            Own::Dead => &self.dead,
        }
    }

    async fn append(&self, to: Own, message: Message, id: Option<&str>) -> Result<u64, StoreError> {
        dunlin_api::subject::check_subject(&message.subject).map_err(StoreError::Invalid)?;
        let (size, most) = (message.size(), MAX_MESSAGE_BYTES);
        if size > most {
            return Err(StoreError::Invalid(format!(
                "a message of {size} bytes is too large to be kept: {most} at most"
            )));
        }
        let bucket = self.own(to);
        let subject = format!("{}{}", bucket.prefix, message.subject);
        let headers = message::headers(&message)?.unwrap_or_default();
        let new = nuid::next();
        bucket.append("keeping a message", &subject, headers, message.payload, id.unwrap_or(&new)).await
    }

    async fn queues(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let counts = self.work.counts("listing queues", &format!("{}>", self.work.prefix)).await?;
        let name = |subject: String| subject.strip_prefix(&*self.work.prefix).map(str::to_owned);
        Ok(counts.into_iter().filter_map(|(subject, count)| Some((name(subject)?, count as u64))).collect())
    }

    async fn list(&self, of: Own, filter: Option<&str>, after: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let subject = format!("{}{}", self.own(of).prefix, filter.unwrap_or(">"));
        let (mut found, mut next) = (Vec::new(), after.saturating_add(1));
        while found.len() < limit
            && let Some(stored) = self.get(of, &json!({ "seq": next, "next_by_subj": subject })).await?
        {
            next = stored.sequence + 1;
            found.push(stored);
        }
        Ok(found)
    }

    /// One message, by the leader.
    async fn get(&self, of: Own, request: &Value) -> Result<Option<Stored>, StoreError> {
        let bucket = self.own(of);
        let call = format!("STREAM.MSG.GET.{}", bucket.name);
        match api::call::<Answer>(&self.nats, "reading a message", &call, request).await? {
            Ok(answer) => answer.message.stored(bucket).map(Some),
            Err(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            Err(error) => Err(StoreError::Unavailable(format!("reading a message of {}: {error}", bucket.name))),
        }
    }

    async fn delete(&self, of: Own, sequence: u64) -> Result<bool, StoreError> {
        let request = json!({ "seq": sequence });
        if self.get(of, &request).await?.is_none() {
            return Ok(false);
        }
        match self.own(of).remove("deleting a message", sequence).await {
            Ok(()) => Ok(true),
            // An earlier attempt removed it, or it was settled.
            Err(error) => match self.get(of, &request).await? {
                Some(_) => Err(error),
                None => Ok(true),
            },
        }
    }

    fn plan(&self, spec: &ConsumerSpec) -> Result<Plan, StoreError> {
        Plan::of(&self.nats, spec)
    }

    async fn open(&self, spec: &ConsumerSpec) -> Result<Box<dyn Consumer>, StoreError> {
        let plan = self.plan(spec)?;
        spec::ensure(&self.nats, &plan).await?;
        let settling = Settling::new(self.nats.jetstream.client(), self.nats.clone(), self.attempts.clone(), &plan);
        Ok(Box::new(NatsConsumer::open(self.nats.clone(), plan, Arc::new(settling)).await?))
    }

    async fn waiting(&self, spec: &ConsumerSpec) -> Result<Option<Waiting>, StoreError> {
        let info = spec::info(&self.nats, &self.plan(spec)?).await?;
        let number = |info: &Value, name: &str| info[name].as_u64().unwrap_or_default();
        Ok(info
            .map(|info| Waiting { pending: number(&info, "num_pending"), unsettled: number(&info, "num_ack_pending") }))
    }

    async fn check_source(&self, source: &ChangeSource) -> Result<(), StoreError> {
        let stream = changes::stream(&self.nats.cluster, source)?;
        let call = format!("STREAM.INFO.{stream}");
        match api::call::<Value>(&self.nats, "looking for a bucket", &call, &()).await? {
            Ok(_) => Ok(()),
            Err(error) => Err(spec::refusal(&error, &stream)),
        }
    }
}

/// An answer to `STREAM.MSG.GET`.
#[derive(Deserialize)]
struct Answer {
    message: Raw,
}

/// A message as the API gives it (ADR-1): headers and payload in base64. async-nats keeps one value of each header.
#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

impl Raw {
    fn stored(self, bucket: &Bucket) -> Result<Stored, StoreError> {
        let corrupt = |e: &dyn Display| StoreError::Corrupt(format!("a message of {}", bucket.name), e.to_string());
        let payload = STANDARD.decode(&self.data).map_err(|e| corrupt(&e))?;
        let headers = STANDARD.decode(&self.hdrs).map_err(|e| corrupt(&e))?;
        let time = humantime::parse_rfc3339(&self.time).map_err(|e| corrupt(&e))?;
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let subject = self.subject.strip_prefix(&*bucket.prefix).unwrap_or(&self.subject).to_owned();
        let message = Message { subject, headers: message::parse(&headers), payload: payload.into() };
        Ok(Stored { sequence: self.seq, time_ms: u64::try_from(since.as_millis()).unwrap_or_default(), message })
    }
}

impl Streams for NatsStreams {
    fn append<'a>(&'a self, to: Own, message: Message, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.append(to, message, id))
    }

    fn queues(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, StoreError>> {
        Box::pin(self.queues())
    }

    fn list<'a>(
        &'a self,
        of: Own,
        filter: Option<&'a str>,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Stored>, StoreError>> {
        Box::pin(self.list(of, filter, after, limit))
    }

    fn read(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreError>> {
        Box::pin(async move { self.get(of, &json!({ "seq": sequence })).await })
    }

    fn delete(&self, of: Own, sequence: u64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(self.delete(of, sequence))
    }

    fn resolve<'a>(&'a self, stream: Option<&'a str>, subject: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(resolve::resolve(&self.nats, stream, subject))
    }

    fn check_source<'a>(&'a self, source: &'a ChangeSource) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.check_source(source))
    }

    fn ensure<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { spec::ensure(&self.nats, &self.plan(spec)?).await })
    }

    fn open<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Box<dyn Consumer>, StoreError>> {
        Box::pin(self.open(spec))
    }

    fn waiting<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<Option<Waiting>, StoreError>> {
        Box::pin(self.waiting(spec))
    }

    fn remove<'a>(&'a self, spec: &'a ConsumerSpec) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { spec::remove(&self.nats, &self.plan(spec)?).await })
    }
}
