//! [`ArtifactStore`] as a directory: one file for each artifact, named by its SHA-256.
//!
//! An upload (see the upload module) is hashed on its way and renamed when it is complete and right. So a name always
//! stands for complete bytes, and a crash leaves only a temporary file, which the next start removes. Every read hashes what it read. Bounds: the size that the caller of `put` gives; a read
//! holds one artifact in memory.

use bytes::Bytes;
use dunlin_api::{Artifacts, BoxFuture, ByteSize, Digest, StoreError};
use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use tokio::task::spawn_blocking;

use super::{
    create_private, unavailable,
    upload::{self, Place, Upload},
};
use crate::store::{ArtifactInfo, ArtifactStore, ByteStream, PutError, Stored};

/// The artifacts of a node that stands alone.
pub struct EmbeddedArtifacts {
    place: Place,
    _lock: Arc<File>,
}

impl EmbeddedArtifacts {
    pub(super) fn open(dir: PathBuf, durable: bool, lock: Arc<File>) -> io::Result<Self> {
        create_private(&dir)?;
        upload::sweep(&dir)?;
        Ok(Self { place: Place { dir: dir.into(), durable }, _lock: lock })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.place.dir.join(digest.to_string())
    }

    /// Runs file work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        digest: Digest,
        work: impl FnOnce(PathBuf) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let path = self.path(digest);
        spawn_blocking(move || work(path)).await.map_err(|e| unavailable("working on an artifact", e))?
    }
}

impl Artifacts for EmbeddedArtifacts {
    fn fetch(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(self.blocking(digest, move |path| read_verified(&path, digest)))
    }
}

impl ArtifactStore for EmbeddedArtifacts {
    fn put<'a>(
        &'a self,
        digest: Digest,
        bytes: ByteStream<'a>,
        max: ByteSize,
    ) -> BoxFuture<'a, Result<Stored, PutError>> {
        Box::pin(async move {
            let upload = Upload::receive(&self.place, bytes, max).await?;
            if upload.digest != digest {
                return Err(PutError::WrongDigest { expected: digest, actual: upload.digest });
            }
            let keep = upload.finish().await?;
            let kept = self.blocking(digest, move |path| {
                let stored = if read_verified(&path, digest).is_ok() { Stored::Known } else { Stored::New };
                keep(&path)?;
                Ok(stored)
            });
            Ok(kept.await?)
        })
    }

    fn touch(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(self.blocking(digest, move |path| {
            let size = match read_verified(&path, digest) {
                Ok(bytes) => bytes.len() as u64,
                Err(StoreError::NotFound(_) | StoreError::Corrupt(..)) => return Ok(None),
                Err(error) => return Err(error),
            };
            let touched = File::options().append(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
            touched.map_err(|e| unavailable("marking an artifact as used", e))?;
            Ok(Some(size))
        }))
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.blocking(digest, move |path| match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(unavailable("deleting an artifact", error)),
            _ => Ok(()),
        }))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ArtifactInfo>, StoreError>> {
        let dir = self.place.dir.clone();
        Box::pin(async move {
            let listed = spawn_blocking(move || list(&dir)).await;
            listed.map_err(io::Error::other).flatten().map_err(|e| unavailable("listing artifacts", e))
        })
    }
}

fn read_verified(path: &Path, digest: Digest) -> Result<Bytes, StoreError> {
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => StoreError::NotFound(format!("the artifact {digest}")),
        _ => unavailable("reading an artifact", error),
    })?;
    let actual = Digest::of(&bytes);
    if actual != digest {
        let reason = format!("its bytes have the digest {actual}");
        return Err(StoreError::Corrupt(format!("the artifact {digest}"), reason));
    }
    Ok(bytes.into())
}

fn list(dir: &Path) -> io::Result<Vec<ArtifactInfo>> {
    let mut artifacts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Other names are uploads under way, or not ours.
        if let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            let meta = entry.metadata()?;
            artifacts.push(ArtifactInfo { digest, size_bytes: meta.len(), used: meta.modified()? });
        }
    }
    Ok(artifacts)
}
