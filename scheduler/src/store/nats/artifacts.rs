//! [`ArtifactStore`] as a JetStream Object Store (ADR-20): chunks under a subject of their own for each upload, and a
//! message about the object that makes them visible.
//!
//! That message is written last, by compare-and-set, after the bytes proved to have the digest; so a name stands for
//! complete bytes, and of several uploads one wins. What others leave of uploads that were cut off is removed by the
//! next listing after an hour. Every read hashes what it read, by the stream's leader. The time of the message about the
//! object is when it was last used. Bounds: one chunk in memory for an upload and a check, one artifact for a fetch.

use async_nats::jetstream::object_store::ObjectInfo;
use bytes::{Bytes, BytesMut};
use dunlin_api::{Artifacts, BoxFuture, ByteSize, Digest, StoreError};
use std::time::Duration;

use super::{
    bucket::{Bucket, OVERHEAD_BYTES, Outcome},
    objects::{Objects, object},
    upload,
};
use crate::store::{ArtifactInfo, ArtifactStore, ByteStream, PutError, Stored};

/// Larger chunks are not faster (nats-server: 320 to 400 MiB/s from here on).
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// The longest that an upload may take to its next chunk.
pub(super) const UPLOAD_AGE: Duration = Duration::from_secs(3_600);
/// Tries against others who replace the same artifact.
pub(super) const TRIES: usize = 4;

/// The artifacts of a cluster.
pub struct NatsArtifacts {
    pub(super) objects: Objects,
    chunk_bytes: usize,
}

impl NatsArtifacts {
    pub(super) fn new(bucket: Bucket) -> Self {
        let most = bucket.client().max_payload().saturating_sub(OVERHEAD_BYTES);
        Self { objects: Objects { bucket, upload_age: UPLOAD_AGE }, chunk_bytes: CHUNK_BYTES.min(most) }
    }

    /// Makes an upload visible, or finds that someone else's already is.
    async fn keep(&self, digest: Digest, info: &ObjectInfo) -> Result<Stored, StoreError> {
        for _ in 0..TRIES {
            if self.objects.intact(digest).await?.is_some() {
                self.objects.drop_chunks(&info.nuid).await;
                return Ok(Stored::Known);
            }
            let old = self.objects.bucket.last("reading about an object", &self.objects.subject(&info.name)).await?;
            let expected = old.as_ref().map_or(0, |old| old.sequence);
            if let Outcome::Written(_) = self.objects.announce(info, expected).await? {
                if let Some(Ok(old)) = old.map(object) {
                    self.objects.drop_chunks(&old.info.nuid).await;
                }
                return Ok(Stored::New);
            }
        }
        self.objects.drop_chunks(&info.nuid).await;
        Err(StoreError::Conflict(format!("the artifact {digest}")))
    }

    async fn put(&self, digest: Digest, bytes: ByteStream<'_>, max: ByteSize) -> Result<Stored, PutError> {
        let known = self.objects.intact(digest).await?.is_some();
        let nuid = nuid::next().to_string();
        let chunks = (!known).then(|| self.objects.chunks(&nuid));
        let received = upload::receive(&self.objects.bucket, chunks.as_deref(), self.chunk_bytes, bytes, max).await;
        let received = match received {
            Ok(received) if received.digest == digest => received,
            wrong => {
                if !known {
                    self.objects.drop_chunks(&nuid).await;
                }
                let expected = digest;
                return Err(wrong.map_or_else(|e| e, |r| PutError::WrongDigest { expected, actual: r.digest }));
            }
        };
        if known {
            let still = self.touch(digest).await?;
            let gone = || StoreError::Conflict(format!("the artifact {digest}"));
            return still.map(|_| Stored::Known).ok_or_else(gone).map_err(PutError::Store);
        }
        let info = self.objects.describe(digest.to_string(), nuid, &received);
        Ok(self.keep(digest, &info).await?)
    }

    async fn touch(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        let Some(mut object) = self.objects.intact(digest).await? else { return Ok(None) };
        if let Outcome::Clash = self.objects.announce(&object.info, object.sequence).await? {
            // Someone else marked it as used at this moment, or removed it.
            let Some(now) = self.objects.intact(digest).await? else { return Ok(None) };
            object = now;
        }
        Ok(Some(object.info.size as u64))
    }

    async fn list(&self) -> Result<Vec<ArtifactInfo>, StoreError> {
        let objects = self.objects.list().await?;
        // Other names are objects of somebody else's.
        let infos = objects.iter().filter_map(|object| {
            let digest = object.info.name.parse().ok()?;
            Some(ArtifactInfo { digest, size_bytes: object.info.size as u64, used: object.used })
        });
        Ok(infos.collect())
    }
}

impl Artifacts for NatsArtifacts {
    fn fetch(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let mut bytes = BytesMut::new();
            let mut read = self.objects.read(digest, |chunk| bytes.extend_from_slice(&chunk)).await;
            if let Err(StoreError::Corrupt(..)) = read {
                // It may have been replaced while it was read.
                bytes.clear();
                read = self.objects.read(digest, |chunk| bytes.extend_from_slice(&chunk)).await;
            }
            read.map(|_| bytes.freeze())
        })
    }
}

impl ArtifactStore for NatsArtifacts {
    fn put<'a>(
        &'a self,
        digest: Digest,
        bytes: ByteStream<'a>,
        max: ByteSize,
    ) -> BoxFuture<'a, Result<Stored, PutError>> {
        Box::pin(self.put(digest, bytes, max))
    }

    fn touch(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(self.touch(digest))
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.objects.delete(&digest.to_string()).await })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ArtifactInfo>, StoreError>> {
        Box::pin(self.list())
    }
}
