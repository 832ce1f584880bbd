//! The way of an upload into the chunks of an object: gathered, counted and hashed, never held whole.

use async_nats::HeaderMap;
use bytes::{Bytes, BytesMut};
use dunlin_api::{ByteSize, Digest};
use futures::StreamExt;
use sha2::{Digest as _, Sha256};

use super::bucket::Bucket;
use crate::store::{ByteStream, PutError};

/// What came.
pub(super) struct Received {
    pub(super) size: usize,
    pub(super) chunks: usize,
    pub(super) digest: Digest,
}

/// Writes `bytes` as messages of `subject` (none = only reads them), of `chunk_bytes` each but the last.
///
/// # Errors
/// As [`crate::store::ArtifactStore::put`]; the caller removes the messages that were written.
pub(super) async fn receive(
    bucket: &Bucket,
    subject: Option<&str>,
    chunk_bytes: usize,
    mut bytes: ByteStream<'_>,
    max: ByteSize,
) -> Result<Received, PutError> {
    let (mut hash, mut gathered) = (Sha256::new(), BytesMut::new());
    let (mut size, mut chunks) = (0, 0);
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(PutError::Source)?;
        size += piece.len();
        if size as u64 > max.bytes() {
            return Err(PutError::TooLarge { limit: max });
        }
        hash.update(&piece);
        gathered.extend_from_slice(&piece);
        while gathered.len() >= chunk_bytes {
            write(bucket, subject, gathered.split_to(chunk_bytes).freeze()).await?;
            chunks += 1;
        }
    }
    if !gathered.is_empty() {
        write(bucket, subject, gathered.freeze()).await?;
        chunks += 1;
    }
    Ok(Received { size, chunks, digest: Digest::from_bytes(hash.finalize().into()) })
}

async fn write(bucket: &Bucket, subject: Option<&str>, chunk: Bytes) -> Result<(), PutError> {
    if let Some(subject) = subject {
        bucket.write("writing an object", subject, HeaderMap::new(), chunk, None).await?;
    }
    Ok(())
}
