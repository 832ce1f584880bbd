//! The objects of an Object Store bucket (ADR-20).
//!
//! Used by the store of artifacts, whose names are the SHA-256 of their bytes, and by that of bodies. An object is one message that describes it and chunks under the subject that it names.
//! Reading verifies. Bounds: one chunk in memory.

use async_nats::{
    HeaderMap,
    jetstream::{message::StreamMessage, object_store::ObjectInfo},
};
use base64::{Engine, engine::general_purpose::URL_SAFE};
use bytes::Bytes;
use dunlin_api::{Digest, StoreError};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{
    bucket::{Bucket, Outcome},
    upload::Received,
};

/// The bucket as a set of objects.
pub(super) struct Objects {
    pub(super) bucket: Bucket,
    /// Chunks without an object are an upload under way, or older than this and the remains of one.
    pub(super) upload_age: Duration,
}

/// What is known of a stored object.
pub(super) struct Object {
    pub(super) info: ObjectInfo,
    /// The sequence of the message about it.
    pub(super) sequence: u64,
    pub(super) used: SystemTime,
}

impl Objects {
    pub(super) fn subject(&self, name: &str) -> String {
        format!("{}M.{}", self.bucket.prefix, URL_SAFE.encode(name))
    }

    pub(super) fn chunks(&self, nuid: &str) -> String {
        format!("{}C.{nuid}", self.bucket.prefix)
    }

    pub(super) async fn find(&self, name: &str) -> Result<Option<Object>, StoreError> {
        let found = self.bucket.last("reading about an object", &self.subject(name)).await?;
        found.map(object).transpose().map(|found| found.filter(|object| !object.info.deleted))
    }

    /// Reads an artifact that is there and intact.
    pub(super) async fn read(&self, digest: Digest, mut take: impl FnMut(Bytes)) -> Result<Object, StoreError> {
        let Some(object) = self.find(&digest.to_string()).await? else {
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
                    let now = match self.find(&digest.to_string()).await {
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

    /// The description of an upload under `nuid` as the object `name`.
    pub(super) fn describe(&self, name: String, nuid: String, received: &Received) -> ObjectInfo {
        ObjectInfo {
            name,
            description: None,
            metadata: [].into(),
            headers: None,
            options: None,
            bucket: self.bucket.prefix.trim_start_matches("$O.").trim_end_matches('.').to_owned(),
            nuid,
            size: received.size,
            chunks: received.chunks,
            modified: None,
            digest: Some(format!("SHA-256={}", URL_SAFE.encode(received.digest.as_bytes()))),
            deleted: false,
        }
    }

    /// Writes the message about an object; clashes if it is not `expected` that it replaces.
    pub(super) async fn announce(&self, info: &ObjectInfo, expected: u64) -> Result<Outcome, StoreError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Rollup", "sub");
        let json = serde_json::to_vec(info).map_err(|e| StoreError::Invalid(e.to_string()))?;
        self.bucket.write("keeping an object", &self.subject(&info.name), headers, json.into(), Some(expected)).await
    }

    /// All objects. Chunks that none of them has are removed, unless they may be an upload under way.
    pub(super) async fn list(&self) -> Result<Vec<Object>, StoreError> {
        let uploads = self.bucket.subjects("listing objects", &self.chunks("*")).await?;
        let found = self.bucket.newest("listing objects", &format!("{}M.*", self.bucket.prefix)).await?;
        let objects: Vec<_> = found.into_iter().filter_map(|m| object(m).ok()).filter(|o| !o.info.deleted).collect();
        let visible: HashSet<_> = objects.iter().map(|object| self.chunks(&object.info.nuid)).collect();
        for orphan in uploads.iter().filter(|upload| !visible.contains(*upload)) {
            self.sweep(orphan).await?;
        }
        Ok(objects)
    }

    /// Removes an object, the bytes last.
    pub(super) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let (what, subject) = ("deleting an object", self.subject(name));
        let Some(found) = self.bucket.last(what, &subject).await? else { return Ok(()) };
        self.bucket.purge(what, &subject, Some(found.sequence)).await?;
        if let Ok(object) = object(found) {
            self.drop_chunks(&object.info.nuid).await;
        }
        Ok(())
    }

    /// Removes chunks that no object has, unless they may be an upload under way.
    async fn sweep(&self, chunks: &str) -> Result<(), StoreError> {
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
            tracing::warn!(%error, nuid, "chunks of an object stay behind until they are swept");
        }
    }
}

/// The description in `message`.
pub(super) fn object(message: StreamMessage) -> Result<Object, StoreError> {
    let info = serde_json::from_slice(&message.payload)
        .map_err(|e| StoreError::Corrupt(format!("the object {}", message.subject), e.to_string()))?;
    Ok(Object { info, sequence: message.sequence, used: message.time.into() })
}
