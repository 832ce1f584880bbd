//! Events that were given up: kept with all that is needed to see why, and to try them again.
//!
//! [`crate::events`] buries them, the admin API shows, redrives and purges them. A letter is a message of [`Own::Dead`]: the
//! payload as it was, and what else there is to know as JSON in one header, so that no header of the original can mean
//! something to the store. It stays 30 days at most. What is too large for a message is a blob: headers as a line of JSON,
//! then the payload. Bounds: [`MAX_LETTER`] for a payload that is read, 20 lines and 4 KiB of log.

use bytes::Bytes;
use dunlin_api::{
    ByteSize, Digest, FunctionName, Message, StoreError,
    subject::{check_not_reserved, check_subject},
    trigger::TriggerId,
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    events::{
        answer::one_line,
        cloud_event::{Origin, stamped},
        item,
        plan::trigger_id,
        work::blob,
    },
    store::{
        PutError,
        events::{Delivery, EventStores, MAX_MESSAGE_BYTES, Own, Stored},
    },
};

/// The header that describes a letter.
const HEAD: &str = "Dunlin-Letter";
/// Largest payload that is read from a blob.
pub const MAX_LETTER: ByteSize = ByteSize::mib(128);

/// The dead letters of a cluster.
#[derive(Clone)]
pub struct DeadLetters {
    stores: EventStores,
}

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number.
    pub sequence: u64,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub died_ms: u64,
    /// The function.
    pub function: FunctionName,
    /// The trigger.
    pub trigger: TriggerId,
    /// The stream that it came from.
    pub stream: String,
    /// Its number there.
    pub origin: u64,
    /// Tries that counted.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: String,
    /// What the function printed in its last tries.
    pub log: Vec<String>,
    /// The message as it was: subject, headers, payload.
    pub message: Message,
    /// Bytes of its payload, also where it was not read.
    pub size: u64,
}

/// What stands in [`HEAD`].
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    stream: String,
    origin: u64,
    /// When the message was stored there.
    time_ms: u64,
    attempts: u32,
    reason: String,
    log: Vec<String>,
    subject: String,
    /// Empty if they are in the blob.
    headers: Vec<(String, String)>,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
}

impl DeadLetters {
    /// Those in `stores`.
    pub fn new(stores: EventStores) -> Self {
        Self { stores }
    }

    /// Keeps a delivery that is given up; durable when it returns. The same delivery again within two minutes is kept once.
    /// Returns its number.
    ///
    /// # Errors
    /// When a store fails: then nothing may be given up.
    pub async fn bury(
        &self,
        function: &FunctionName,
        trigger: &TriggerId,
        delivery: &Delivery,
        attempts: u32,
        reason: &str,
        log: Vec<String>,
    ) -> Result<u64, StoreError> {
        let Stored { sequence, time_ms, message } = &delivery.stored;
        let queue = item::queue(function, trigger);
        let id = format!("{}:{sequence}:{queue}", delivery.stream);
        let size = match message.header(item::BLOB) {
            Some(name) => self.stores.blobs.get(name).await?.map_or(0, |(size, _)| size),
            None => message.payload.len() as u64,
        };
        // One that was redriven came from a queue, and is still known by its own subject.
        let subject = message.header(item::SUBJECT).unwrap_or(&message.subject).to_owned();
        let (stream, headers) = (delivery.stream.clone(), message.headers.clone());
        let (origin, time_ms, reason) = (*sequence, *time_ms, one_line(reason));
        let mut head = Head { stream, origin, time_ms, attempts, reason, log, subject, headers, size, blob: None };
        let mut letter = Message::new(queue.clone(), message.payload.clone()).with(HEAD, json(&head));
        if letter.size() > MAX_MESSAGE_BYTES {
            let name = format!("dead-{}", Digest::of(id.as_bytes()));
            let mut line = json(&std::mem::take(&mut head.headers)).into_bytes();
            line.push(b'\n');
            self.keep(&name, vec![line.into(), message.payload.clone()]).await?;
            head.blob = Some(name);
            letter = Message::new(queue, Bytes::new()).with(HEAD, json(&head));
        }
        self.stores.streams.append(Own::Dead, letter, Some(&id)).await
    }

    /// The letters of `function`, or all, at most `limit` of those after the number `after`. What is in blobs is not read.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(
        &self,
        function: Option<&FunctionName>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Letter>, StoreError> {
        let filter = function.map(|function| format!("{function}.>"));
        let stored = self.stores.streams.list(Own::Dead, filter.as_deref(), after, limit).await?;
        Ok(stored.into_iter().filter_map(open).map(|(letter, _)| letter).collect())
    }

    /// One letter with its whole payload.
    ///
    /// # Errors
    /// When a store fails, `Corrupt` if its payload is gone.
    pub async fn show(&self, sequence: u64) -> Result<Option<Letter>, StoreError> {
        let Some((mut letter, _)) = self.read(sequence).await? else { return Ok(None) };
        if let Some(name) = letter.message.header(item::BLOB) {
            letter.message.payload = self.load(name).await?;
        }
        Ok(Some(letter))
    }

    /// Tries a letter again from its first attempt: as an item of its function's own queue, or as a message on the subject
    /// `to`. Returns where it went. It is a dead letter no more.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a subject that is none or that no stream keeps, or when a store fails; then the letter is
    /// still there.
    pub async fn redrive(&self, sequence: u64, to: Option<&str>) -> Result<String, StoreError> {
        let missing = || StoreError::NotFound(format!("the dead letter {sequence}"));
        let (letter, head) = self.read(sequence).await?.ok_or_else(missing)?;
        let Some(to) = to else {
            let queue = item::queue(&letter.function, &letter.trigger);
            let item = self.item(sequence, letter, &head, &queue).await?;
            let carried_on = item.header(item::BLOB).map(ToOwned::to_owned);
            self.stores.streams.append(Own::Work, item, Some(&format!("redrive:{sequence}"))).await?;
            // Those who missed it find the queue by looking.
            let _ = self.stores.bus.signal(&format!("{}.{queue}", item::QUEUE_TOPIC), Bytes::new()).await;
            self.stores.streams.delete(Own::Dead, sequence).await?;
            self.forget(head.blob.filter(|name| carried_on.as_ref() != Some(name))).await?;
            return Ok(format!("queue {queue}"));
        };
        check_subject(to).and_then(|()| check_not_reserved(to)).map_err(StoreError::Invalid)?;
        let held = letter.message.header(item::BLOB).map(ToOwned::to_owned);
        let mut message = Message { subject: to.into(), ..letter.message };
        if let Some(name) = &held {
            message.payload = self.load(name).await?;
        }
        message.headers.retain(|(name, _)| passes(name) && !item::is_ours(name));
        let published = self.stores.bus.publish(message).await?;
        let Some((stream, number)) = published.stored else {
            return Err(StoreError::Invalid(format!(
                "no stream keeps what is published to `{to}`: those who listen now have it, and the dead letter stays"
            )));
        };
        self.stores.streams.delete(Own::Dead, sequence).await?;
        self.forget([head.blob, held].into_iter().flatten()).await?;
        Ok(format!("subject {to}, number {number} of stream {stream}"))
    }

    /// Deletes a letter with all that belongs to it; whether it was there.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn purge(&self, sequence: u64) -> Result<bool, StoreError> {
        let Some(stored) = self.stores.streams.read(Own::Dead, sequence).await? else { return Ok(false) };
        let blobs = blobs_of(stored);
        let deleted = self.stores.streams.delete(Own::Dead, sequence).await?;
        self.forget(blobs).await?;
        Ok(deleted)
    }

    /// A letter with the headers and the payload that it holds itself.
    async fn read(&self, sequence: u64) -> Result<Option<(Letter, Head)>, StoreError> {
        let Some(stored) = self.stores.streams.read(Own::Dead, sequence).await? else { return Ok(None) };
        let (mut letter, head) = open(stored).ok_or_else(|| corrupt(sequence, "its description cannot be read"))?;
        if let Some(name) = &head.blob {
            let content = self.load(name).await?;
            let end = content.iter().position(|b| *b == b'\n').ok_or_else(|| corrupt(sequence, "it has no headers"))?;
            let headers = serde_json::from_slice(&content[..end]);
            letter.message.headers = headers.map_err(|_| corrupt(sequence, "its headers cannot be read"))?;
            letter.message.payload = content.slice(end + 1..);
        }
        Ok(Some((letter, head)))
    }

    /// The letter as an item of its function's queue.
    async fn item(&self, sequence: u64, letter: Letter, head: &Head, queue: &str) -> Result<Message, StoreError> {
        let original = letter.message;
        let mut item = if original.header(item::KIND).is_some() {
            original
        } else {
            let origin = Origin::stored(&head.stream, head.origin, head.time_ms, &original);
            let mut message = stamped(original, &origin);
            message.headers.retain(|(name, _)| passes(name) && !item::is_ours(name));
            let subject = message.subject.clone();
            message.with(item::KIND, item::KIND_EVENT).with(item::SUBJECT, subject)
        };
        item.subject = queue.into();
        if item.size() > MAX_MESSAGE_BYTES {
            let name = format!("redrive-{sequence}-{}", head.origin);
            let payload = std::mem::take(&mut item.payload);
            self.keep(&name, vec![payload]).await?;
            item.headers.push((item::BLOB.into(), name));
        }
        Ok(item)
    }

    async fn keep(&self, name: &str, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let bytes = stream::iter(parts).map(Ok).boxed();
        match self.stores.blobs.put(name, bytes, ByteSize(u64::MAX)).await {
            Ok(_) => Ok(()),
            Err(PutError::Store(error)) => Err(error),
            Err(other) => Err(StoreError::Unavailable(other.to_string())),
        }
    }

    async fn load(&self, name: &str) -> Result<Bytes, StoreError> {
        let found = blob(&*self.stores.blobs, name, MAX_LETTER).await?;
        found.ok_or_else(|| StoreError::Corrupt(format!("the payload `{name}`"), "it is gone".into()))
    }

    async fn forget(&self, blobs: impl IntoIterator<Item = String>) -> Result<(), StoreError> {
        for name in blobs {
            self.stores.blobs.delete(&name).await?;
        }
        Ok(())
    }
}

/// The blobs that a message of [`Own::Dead`] names.
pub(crate) fn blobs_of(stored: Stored) -> Vec<String> {
    let Some((letter, head)) = open(stored) else { return Vec::new() };
    [head.blob, letter.message.header(item::BLOB).map(ToOwned::to_owned)].into_iter().flatten().collect()
}

fn corrupt(sequence: u64, why: &str) -> StoreError {
    StoreError::Corrupt(format!("the dead letter {sequence}"), why.into())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names, numbers and text are always JSON")
}

/// Whether a header of the original is sent again: those of NATS would tell the server what was meant for the first time,
/// and `Nats-Msg-Id` would make it drop the message as a duplicate.
fn passes(name: &str) -> bool {
    !name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

/// Reads what a message of [`Own::Dead`] says; none if it was not written here.
fn open(stored: Stored) -> Option<(Letter, Head)> {
    let Stored { sequence, time_ms: died_ms, message } = stored;
    let (function, trigger) = item::owner(&message.subject)?;
    let trigger = trigger_id(trigger)?;
    let mut head: Head = serde_json::from_str(message.header(HEAD)?).ok()?;
    let letter = Letter {
        sequence,
        died_ms,
        function,
        trigger,
        stream: head.stream.clone(),
        origin: head.origin,
        attempts: head.attempts,
        reason: std::mem::take(&mut head.reason),
        log: std::mem::take(&mut head.log),
        size: head.size,
        message: Message {
            subject: std::mem::take(&mut head.subject),
            headers: std::mem::take(&mut head.headers),
            payload: message.payload,
        },
    };
    Some((letter, head))
}
