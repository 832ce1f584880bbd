//! One stream that is laid out as a JetStream bucket: the few operations that the stores are made of.
//!
//! Made by [`super::NatsStore`], used by its three stores. Reads ask the stream's leader (`STREAM.MSG.GET`) and the buckets
//! do not allow direct gets: any replica may answer those, also one that has not seen the caller's own last write. Each
//! write carries an id by which the server knows it again, so trying it once more never writes it twice; one whose fate
//! stays unknown is an error that says so. Bounds: those of the attempt module, and the limits of the stream.

use async_nats::{
    Client, HeaderMap, Request, RequestErrorKind,
    jetstream::{
        self, Context, ErrorCode,
        message::StreamMessage,
        publish::PublishAck,
        response::Response,
        stream::{LastRawMessageErrorKind, RawMessageBuilder, Stream},
    },
};
use bytes::Bytes;
use dunlin_api::{StoreError, Version};
use futures::{StreamExt, TryStreamExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::attempt::{ATTEMPT, Failure, READ, attempts, attempts_of};

/// What a key-value bucket's message does to its key (ADR-8); absent = it sets it.
pub(super) const OPERATION: &str = "KV-Operation";
const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Headers and subject of a write also count against `max_payload`.
pub(super) const OVERHEAD_BYTES: usize = 4 << 10;
/// Reads under way at once while a bucket is listed.
const READS: usize = 32;

/// A stream and the connection to it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bucket {
    /// The name of the stream.
    pub(super) name: String,
    /// How the subjects begin, with the last dot.
    pub(super) prefix: String,
    pub(super) context: Context,
    pub(super) stream: Stream<()>,
}

/// How a compare-and-set ended.
pub(super) enum Outcome {
    /// Written, with this version.
    Written(Version),
    /// The subject was at another version.
    Clash,
}

impl Bucket {
    pub(super) fn client(&self) -> Client {
        self.context.client()
    }

    /// Asks the JetStream API once.
    pub(super) async fn api<T: DeserializeOwned>(&self, call: &str, payload: &impl Serialize) -> Result<T, Failure> {
        connected(&self.client())?;
        match self.context.request::<_, _, Response<T>>(format!("{call}.{}", self.name), payload).await {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(refused(&error)),
            Err(error) => Err(Failure::Unknown(error.to_string())),
        }
    }

    /// The newest message of `subject`, which may have wildcards, by the leader.
    pub(super) async fn last(&self, what: &str, subject: &str) -> Result<Option<StreamMessage>, StoreError> {
        attempts_of(what, READ, |_| self.last_once(subject)).await
    }

    pub(super) async fn last_once(&self, subject: &str) -> Result<Option<StreamMessage>, Failure> {
        self.read(self.stream.raw_message_builder().last_by_subject(subject)).await
    }

    /// The first message of `subject` at or after `sequence`, by the leader.
    pub(super) async fn next(
        &self,
        what: &str,
        subject: &str,
        sequence: u64,
    ) -> Result<Option<StreamMessage>, StoreError> {
        let request = || self.stream.raw_message_builder().sequence(sequence).next_by_subject(subject);
        attempts_of(what, READ, |_| self.read(request())).await
    }

    async fn read(&self, request: RawMessageBuilder) -> Result<Option<StreamMessage>, Failure> {
        connected(&self.client())?;
        match request.send().await {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(error) => Err(refused(&error)),
                _ => Err(Failure::NotDone(error.to_string())),
            },
        }
    }

    /// Writes one message, if the newest of its subject still is `expected` (0 = there is none).
    pub(super) async fn write(
        &self,
        what: &str,
        subject: &str,
        mut headers: HeaderMap,
        payload: Bytes,
        expected: Option<Version>,
    ) -> Result<Outcome, StoreError> {
        let id = nuid::next().to_string();
        headers.insert(MESSAGE_ID, id.as_str());
        if let Some(expected) = expected {
            headers.insert(EXPECTED, expected.to_string());
        }
        let (headers, payload, id) = (&headers, &payload, id.as_str());
        attempts(what, |unsure| async move {
            match self.publish(subject, headers.clone(), payload.clone()).await? {
                Outcome::Clash if unsure => self.resolve(what, subject, id).await,
                outcome => Ok(outcome),
            }
        })
        .await
    }

    /// After a clash that may be with our own earlier attempt: the newest message tells whose write it was.
    async fn resolve(&self, what: &str, subject: &str, id: &str) -> Result<Outcome, Failure> {
        let last = self.last_once(subject).await?;
        match last.filter(|m| m.headers.get(MESSAGE_ID).is_some_and(|found| found.as_str() == id)) {
            Some(ours) => Ok(Outcome::Written(ours.sequence)),
            None => Err(Failure::lasting(format!(
                "{what}: the answer of NATS was lost and others have written since: it may have happened or not"
            ))),
        }
    }

    async fn publish(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<Outcome, Failure> {
        let ack = publish(&self.client(), &self.name, subject, headers, payload).await?;
        Ok(ack.map_or(Outcome::Clash, |ack| Outcome::Written(ack.sequence)))
    }

    /// Keeps one message under an `id` by which the server knows it again, and so writes it once. Returns its sequence.
    pub(super) async fn append(
        &self,
        what: &str,
        subject: &str,
        mut headers: HeaderMap,
        payload: Bytes,
        id: &str,
    ) -> Result<u64, StoreError> {
        headers.insert(MESSAGE_ID, id);
        let (headers, payload) = (&headers, &payload);
        let outcome = attempts(what, |_| self.publish(subject, headers.clone(), payload.clone())).await?;
        match outcome {
            Outcome::Written(sequence) => Ok(sequence),
            Outcome::Clash => Err(StoreError::Conflict(format!("`{subject}`"))),
        }
    }

    /// Removes the message with this sequence.
    pub(super) async fn remove(&self, what: &str, sequence: u64) -> Result<(), StoreError> {
        let request = json!({ "seq": sequence, "no_erase": true });
        attempts(what, |_| self.api::<Value>("STREAM.MSG.DELETE", &request)).await.map(|_| ())
    }

    /// The subjects that match `filter`, by the leader.
    pub(super) async fn subjects(&self, what: &str, filter: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.counts(what, filter).await?.into_iter().map(|(subject, _)| subject).collect())
    }

    /// The subjects that match `filter` with the number of their messages, by the leader.
    pub(super) async fn counts(&self, what: &str, filter: &str) -> Result<Vec<(String, usize)>, StoreError> {
        attempts(what, |_| async move {
            connected(&self.client())?;
            let info = self.stream.info_builder().subjects(filter).fetch().await;
            let subjects = match info {
                Ok(info) => info.try_collect().await,
                Err(error) => Err(error),
            };
            subjects.map_err(|error| Failure::NotDone(error.to_string()))
        })
        .await
    }

    /// The newest message of each subject that matches `filter`; those that vanish meanwhile are left out.
    pub(super) async fn newest(&self, what: &str, filter: &str) -> Result<Vec<StreamMessage>, StoreError> {
        let subjects = self.subjects(what, filter).await?;
        let reads = futures::stream::iter(subjects).map(|subject| async move { self.last(what, &subject).await });
        reads.buffer_unordered(READS).try_filter_map(|found| async { Ok(found) }).try_collect().await
    }

    /// Removes the messages of `subject` up to `sequence`, or all.
    pub(super) async fn purge(&self, what: &str, subject: &str, sequence: Option<u64>) -> Result<(), StoreError> {
        attempts(what, |_| self.purge_once(subject, sequence)).await
    }

    pub(super) async fn purge_once(&self, subject: &str, sequence: Option<u64>) -> Result<(), Failure> {
        let request = match sequence {
            Some(sequence) => json!({ "filter": subject, "seq": sequence + 1 }),
            None => json!({ "filter": subject }),
        };
        self.api::<Value>("STREAM.PURGE", &request).await.map(|_| ())
    }
}

/// Publishes to the stream `name`, once; none if the newest message of the subject is not the one that was expected.
pub(super) async fn publish(
    client: &Client,
    name: &str,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<Option<PublishAck>, Failure> {
    connected(client)?;
    let size = payload.len();
    let request = Request::new().headers(headers).payload(payload).timeout(Some(ATTEMPT));
    let answer = client.send_request(subject.to_owned(), request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => Failure::NotDone(format!("the stream {name} has no leader")),
        RequestErrorKind::MaxPayloadExceeded => Failure::Final(too_large(client, size)),
        RequestErrorKind::InvalidSubject => Failure::lasting(error),
        _ => Failure::Unknown(error.to_string()),
    })?;
    match serde_json::from_slice::<Response<PublishAck>>(&answer.payload) {
        Ok(Response::Ok(ack)) => Ok(Some(ack)),
        Ok(Response::Err { error }) => match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => Ok(None),
            ErrorCode::STREAM_STORE_FAILED if error.to_string().contains("maximum bytes") => {
                Err(Failure::lasting(format!(
                    "the stream {name} is full, its max_bytes is reached: delete something, or raise it with \
                     `nats stream edit {name} --max-bytes …`"
                )))
            }
            ErrorCode::MESSAGE_TTL_DISABLED => Err(Failure::lasting(format!(
                "messages of the stream {name} may not expire: allow it with `nats stream edit {name} --allow-msg-ttl`"
            ))),
            _ => Err(refused(&error)),
        },
        Err(error) => Err(Failure::Unknown(format!("an answer that is none: {error}"))),
    }
}

/// For a message of `size` bytes.
pub(super) fn too_large(client: &Client, size: usize) -> StoreError {
    StoreError::Invalid(format!(
        "{size} bytes are too many for this NATS: its max_payload is {} bytes, headers included",
        client.max_payload()
    ))
}

/// Nothing is sent while there is no connection: async-nats would keep it, and send it when nobody waits for it any more.
pub(super) fn connected(client: &Client) -> Result<(), Failure> {
    match client.connection_state() {
        async_nats::connection::State::Connected => Ok(()),
        _ => Err(Failure::NotDone("there is no connection".into())),
    }
}

/// An error that JetStream answers with: 503 is a change of leaders, the others last.
pub(super) fn refused(error: &jetstream::Error) -> Failure {
    match error.error_code() {
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT => Failure::Unknown(error.to_string()),
        ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => Failure::lasting(format!(
            "JetStream has no room: {error}: raise max_file of its servers or the limits of the account"
        )),
        _ if error.code() == 503 => Failure::Unknown(error.to_string()),
        _ => Failure::lasting(error),
    }
}
