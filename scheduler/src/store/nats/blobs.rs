//! [`Blobs`] as a JetStream Object Store (ADR-20), laid out as that of the artifacts.
//!
//! Complete bytes become visible by the message about them, written last. Bounds: one chunk in memory for each upload and
//! each reader; what uploads leave behind that were cut off goes with the next listing after an hour.

use base64::{Engine, engine::general_purpose::URL_SAFE};
use dunlin_api::{BodyError, BoxFuture, ByteSize, StoreError};
use futures::{StreamExt, stream};
use sha2::{Digest as _, Sha256};
use std::time::UNIX_EPOCH;

use super::{
    artifacts::{CHUNK_BYTES, TRIES, UPLOAD_AGE},
    bucket::{Bucket, OVERHEAD_BYTES, Outcome},
    objects::{Object, Objects, object},
    upload,
};
use crate::store::{ByteStream, PutError, events::Blobs};

const MAX_NAME_BYTES: usize = 100;

/// The bodies of a cluster.
pub struct NatsBlobs {
    objects: Objects,
    chunk_bytes: usize,
}

impl NatsBlobs {
    pub(super) fn new(bucket: Bucket) -> Self {
        let most = bucket.client().max_payload().saturating_sub(OVERHEAD_BYTES);
        Self { objects: Objects { bucket, upload_age: UPLOAD_AGE }, chunk_bytes: CHUNK_BYTES.min(most) }
    }

    async fn put(&self, name: &str, bytes: ByteStream<'_>, max: ByteSize) -> Result<u64, PutError> {
        check(name)?;
        let nuid = nuid::next().to_string();
        let chunks = self.objects.chunks(&nuid);
        let received = upload::receive(&self.objects.bucket, Some(&chunks), self.chunk_bytes, bytes, max).await;
        match received {
            Ok(received) => Ok(self.keep(name, &nuid, &received).await?),
            Err(error) => {
                self.objects.drop_chunks(&nuid).await;
                Err(error)
            }
        }
    }

    /// Makes an upload visible and removes what it replaces.
    async fn keep(&self, name: &str, nuid: &str, received: &upload::Received) -> Result<u64, StoreError> {
        let info = self.objects.describe(name.to_owned(), nuid.to_owned(), received);
        for _ in 0..TRIES {
            let old = self.objects.bucket.last("reading about an object", &self.objects.subject(name)).await?;
            let expected = old.as_ref().map_or(0, |old| old.sequence);
            if let Outcome::Written(_) = self.objects.announce(&info, expected).await? {
                if let Some(Ok(old)) = old.map(object) {
                    self.objects.drop_chunks(&old.info.nuid).await;
                }
                return Ok(received.size as u64);
            }
        }
        self.objects.drop_chunks(nuid).await;
        Err(StoreError::Conflict(format!("the body `{name}`")))
    }

    async fn get(&self, name: &str) -> Result<Option<(u64, ByteStream<'static>)>, StoreError> {
        check(name)?;
        let Some(object) = self.objects.find(name).await? else { return Ok(None) };
        let size = object.info.size as u64;
        let subject = self.objects.chunks(&object.info.nuid);
        let reading =
            Reading { bucket: self.objects.bucket.clone(), subject, object, hash: Sha256::new(), read: 0, next: 1 };
        let bytes = stream::try_unfold(Some(reading), async |reading| {
            let Some(mut reading) = reading else { return Ok(None) };
            let chunk = reading.bucket.next("reading an object", &reading.subject, reading.next).await?;
            let Some(chunk) = chunk else { return reading.end().map(|()| None) };
            reading.next = chunk.sequence + 1;
            reading.read += chunk.payload.len();
            reading.hash.update(&chunk.payload);
            Ok(Some((chunk.payload, Some(reading))))
        });
        Ok(Some((size, bytes.boxed())))
    }

    async fn list(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let age = |object: &Object| object.used.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |object: &Object| u64::try_from(age(object).as_millis()).unwrap_or(u64::MAX);
        Ok(self.objects.list().await?.into_iter().map(|object| (object.info.name.clone(), millis(&object))).collect())
    }
}

/// A blob that is being read.
struct Reading {
    bucket: Bucket,
    subject: String,
    object: Object,
    hash: Sha256,
    read: usize,
    /// The sequence from which the next chunk is looked for.
    next: u64,
}

impl Reading {
    fn end(self) -> Result<(), BodyError> {
        let Object { info, .. } = self.object;
        let digest = format!("SHA-256={}", URL_SAFE.encode(self.hash.finalize()));
        if self.read == info.size && info.digest.as_ref().is_some_and(|expected| *expected == digest) {
            return Ok(());
        }
        let reason = format!("{} of its {} bytes are there, with the digest {digest}", self.read, info.size);
        Err(StoreError::Corrupt(format!("the body `{}`", info.name), reason).into())
    }
}

fn check(name: &str) -> Result<(), StoreError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits) {
        Ok(())
    } else {
        let shown = name.escape_debug();
        Err(StoreError::Invalid(format!(
            "`{shown}` is no name of a body: 1 to {MAX_NAME_BYTES} of a-z, A-Z, 0-9, -, _ and ."
        )))
    }
}

impl Blobs for NatsBlobs {
    fn put<'a>(&'a self, name: &'a str, bytes: ByteStream<'a>, max: ByteSize) -> BoxFuture<'a, Result<u64, PutError>> {
        Box::pin(self.put(name, bytes, max))
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(u64, ByteStream<'static>)>, StoreError>> {
        Box::pin(self.get(name))
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check(name)?;
            self.objects.delete(name).await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        Box::pin(self.list())
    }
}
