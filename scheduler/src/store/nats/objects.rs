//! The objects of an Object Store bucket (ADR-20) whose names are the SHA-256 of their bytes.
//!
//! Used by the artifact store. An object is one message that describes it and chunks under the subject that it names.
//! Reading verifies. Bounds: one chunk in memory.

use async_nats::{
    HeaderMap,
    jetstream::{message::StreamMessage, object_store::ObjectInfo},
};
use base64::{Engine, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use dunlin_api::{Digest, StoreError};
use sha2::{Digest as _, Sha256};
use std::time::{Duration, SystemTime};

use super::bucket::{Bucket, Outcome};

/// The bucket as a set of objects.
pub(super) struct Objects {
    pub(super) bucket: Bucket,
    /// Chunks without an object are an upload under way, or older than this and the remains of one.
    pub(super) upload_age: Duration,
}

/// What is known of a stored artifact.
pub(super) struct Object {
    pub(super) info: ObjectInfo,
    /// The sequence of the message about it.
    pub(super) sequence: u64,
    pub(super) used: SystemTime,
}

impl Objects {
    pub(super) fn subject(&self, digest: Digest) -> String {
        format!("{}M.{}", self.bucket.prefix, URL_SAFE.encode(digest.to_string()))
    }

    pub(super) fn chunks(&self, nuid: &str) -> String {
        format!("{}C.{nuid}", self.bucket.prefix)
    }

    async fn find(&self, digest: Digest) -> Result<Option<Object>, StoreError> {
        let found = self.bucket.last("reading about an artifact", &self.subject(digest)).await?;
        found.map(object).transpose().map(|found| found.filter(|object| !object.info.deleted))
    }

    /// Reads an artifact that is there and intact.
    pub(super) async fn read(&self, digest: Digest, mut take: impl FnMut(Bytes)) -> Result<Object, StoreError> {
        let Some(object) = self.find(digest).await? else {
            return Err(StoreError::NotFound(format!("the artifact {digest}")));
        };
        let corrupt = |reason: String| Err(StoreError::Corrupt(format!("the artifact {digest}"), reason));
        let subject = self.chunks(&object.info.nuid);
        let (mut hash, mut size, mut next) = (Sha256::new(), 0, 1);
        while let Some(chunk) = self.bucket.next("reading an artifact", &subject, next).await? {
            size += chunk.payload.len();
            if size > object.info.size {
                return corrupt(format!("it has more than its {} bytes", object.info.size));
            }
            next = chunk.sequence + 1;
            hash.update(&chunk.payload);
            take(chunk.payload);
        }
        let actual = Digest::from_bytes(hash.finalize().into());
        if actual != digest {
            return corrupt(format!("its {size} bytes have the digest {actual}"));
        }
        Ok(object)
    }

    /// The artifact if it is there and intact. Corrupt counts as absent, unless it was replaced while it was read.
    pub(super) async fn intact(&self, digest: Digest) -> Result<Option<Object>, StoreError> {
        let mut seen = None;
        loop {
            match self.read(digest, drop).await {
                Ok(object) => return Ok(Some(object)),
                Err(StoreError::NotFound(_)) => return Ok(None),
                Err(StoreError::Corrupt(..)) => {
                    let now = match self.find(digest).await {
                        Err(StoreError::Corrupt(..)) => None,
                        found => found?.map(|object| object.info.nuid),
                    };
                    if now == seen {
                        return Ok(None);
                    }
                    seen = now;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes the message about an artifact; clashes if it is not `expected` that it replaces.
    pub(super) async fn announce(
        &self,
        digest: Digest,
        info: &ObjectInfo,
        expected: u64,
    ) -> Result<Outcome, StoreError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let json = serde_json::to_vec(info).map_err(|e| StoreError::Invalid(e.to_string()))?;
        self.bucket.write("keeping an artifact", &self.subject(digest), headers, json.into(), Some(expected)).await
    }

    /// Removes chunks that no object has, unless they may be an upload under way.
    pub(super) async fn sweep(&self, chunks: &str) -> Result<(), StoreError> {
        let Some(newest) = self.bucket.last("sweeping uploads", chunks).await? else { return Ok(()) };
        let age = SystemTime::now().duration_since(newest.time.into()).unwrap_or_default();
        if age > self.upload_age {
            self.bucket.purge("sweeping uploads", chunks, None).await?;
        }
        Ok(())
    }

    /// Chunks that stay because this fails are invisible and swept later.
    pub(super) async fn drop_chunks(&self, nuid: &str) {
        if let Err(error) = self.bucket.purge("removing chunks", &self.chunks(nuid), None).await {
            tracing::warn!(%error, nuid, "chunks of an artifact stay behind until they are swept");
        }
    }
}

/// The description in `message`.
pub(super) fn object(message: StreamMessage) -> Result<Object, StoreError> {
    let info = serde_json::from_slice(&message.payload)
        .map_err(|e| StoreError::Corrupt(format!("the object {}", message.subject), e.to_string()))?;
    Ok(Object { info, sequence: message.sequence, used: message.time.into() })
}
