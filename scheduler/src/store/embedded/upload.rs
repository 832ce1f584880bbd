//! Files that appear complete or not at all: written beside their place, synced, renamed, and their directory synced.

use dunlin_api::{ByteSize, Digest, StoreError};
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use std::{fs, io, path::Path, sync::Arc};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncWriteExt, BufWriter},
    task::spawn_blocking,
};

use super::{sync_dir, unavailable};
use crate::store::{ByteStream, PutError};

/// How unfinished uploads are called.
const TEMPORARY: &str = ".upload-";
/// Bytes gathered before they are handed to the blocking pool: a network chunk is far smaller.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// Removes what a crash cut off. The data directory's lock must be ours, so that no upload is under way.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A directory of such files.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) dir: Arc<Path>,
    /// Whether what is there must survive a power loss.
    pub(super) durable: bool,
}

/// A file that is complete and has no name yet. Dropping it removes it.
pub(super) struct Upload {
    place: Place,
    temporary: NamedTempFile,
    file: BufWriter<tokio::fs::File>,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Upload {
    /// Receives what `bytes` yields into `dir`, `max` at most.
    pub(super) async fn receive(place: &Place, mut bytes: ByteStream<'_>, max: ByteSize) -> Result<Self, PutError> {
        let dir = place.dir.clone();
        let made = spawn_blocking(move || tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)).await;
        let temporary = made.map_err(io::Error::other).flatten().map_err(failed)?;
        let file = temporary.as_file().try_clone().map_err(failed)?;
        let mut file = BufWriter::with_capacity(BUFFER_BYTES, tokio::fs::File::from_std(file));
        let (mut hash, mut size) = (Sha256::new(), 0);
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(PutError::Source)?;
            size += chunk.len() as u64;
            if size > max.bytes() {
                return Err(PutError::TooLarge { limit: max });
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(failed)?;
        }
        let digest = Digest::from_bytes(hash.finalize().into());
        Ok(Self { place: place.clone(), temporary, file, digest, size })
    }

    /// Adds bytes that are not in the digest.
    pub(super) async fn append(&mut self, bytes: &[u8]) -> Result<(), PutError> {
        self.file.write_all(bytes).await.map_err(failed)
    }

    /// Syncs the file if it is to be durable; what is returned gives it its name and blocks.
    pub(super) async fn finish(mut self) -> Result<impl FnOnce(&Path) -> Result<(), StoreError> + Send, PutError> {
        self.file.flush().await.map_err(failed)?;
        let (place, temporary) = (self.place, self.temporary);
        if place.durable {
            self.file.get_ref().sync_all().await.map_err(failed)?;
        }
        Ok(move |path: &Path| {
            temporary.persist(path).map_err(|e| unavailable("keeping a file", e.error))?;
            if place.durable { sync_dir(&place.dir).map_err(|e| unavailable("keeping a file", e)) } else { Ok(()) }
        })
    }
}

fn failed(error: io::Error) -> PutError {
    PutError::Store(unavailable("writing a file", error))
}
