//! [`Blobs`] as a directory: one file for each blob, its bytes followed by their SHA-256.
//!
//! Uploads are those of the upload module, so a crash leaves the blob that was there or the new one. A reader gets pieces and
//! learns at the end whether they were damaged. Bounds: the size that the caller of `put` gives; a read holds two pieces.

use bytes::Bytes;
use dunlin_api::{BoxFuture, ByteSize, Digest, StoreError};
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};
use tokio::task::spawn_blocking;

use super::{
    create_private, sync_dir, unavailable,
    upload::{self, BUFFER_BYTES, Place, Upload},
};
use crate::store::{ByteStream, PutError, events::Blobs};

/// What files of blobs are called, so that no name has a meaning of its own.
const PREFIX: &str = "blob-";
/// Bytes of the checksum at the end of a file.
const SUM: u64 = 32;

/// The blobs of a node that stands alone.
pub struct EmbeddedBlobs {
    place: Place,
    _lock: Arc<File>,
}

impl EmbeddedBlobs {
    pub(super) fn open(dir: PathBuf, durable: bool, lock: Arc<File>) -> io::Result<Self> {
        create_private(&dir)?;
        upload::sweep(&dir)?;
        Ok(Self { place: Place { dir: dir.into(), durable }, _lock: lock })
    }

    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=100).contains(&name.len()) && name.chars().all(allowed) {
            return Ok(self.place.dir.join(format!("{PREFIX}{name}")));
        }
        let shown: String = name.escape_debug().take(120).collect();
        Err(StoreError::Invalid(format!("`{shown}` is no name of a blob: 1 to 100 letters, digits, `-`, `_` and `.`")))
    }
}

impl Blobs for EmbeddedBlobs {
    fn put<'a>(&'a self, name: &'a str, bytes: ByteStream<'a>, max: ByteSize) -> BoxFuture<'a, Result<u64, PutError>> {
        Box::pin(async move {
            let path = self.path(name)?;
            let mut upload = Upload::receive(&self.place, bytes, max).await?;
            let (size, digest) = (upload.size, upload.digest);
            upload.append(digest.as_bytes()).await?;
            let keep = upload.finish().await?;
            blocking(move || keep(&path)).await?;
            Ok(size)
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(u64, ByteStream<'static>)>, StoreError>> {
        Box::pin(async move {
            let path = self.path(name)?;
            let opened = blocking(move || match Reader::open(&path) {
                Ok(reader) => Ok(Some(reader)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(unavailable("reading a blob", error)),
            });
            let Some(reader) = opened.await? else { return Ok(None) };
            let (size, name) = (reader.left, name.to_owned());
            Ok(Some((size, reader.stream(name))))
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let (path, dir) = (self.path(name)?, self.place.dir.clone());
            blocking(move || match fs::remove_file(path).and_then(|()| sync_dir(&dir)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(unavailable("deleting a blob", error)),
                _ => Ok(()),
            })
            .await
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        let dir = self.place.dir.clone();
        Box::pin(blocking(move || list(&dir).map_err(|e| unavailable("listing blobs", e))))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|e| unavailable("working on a blob", e))?
}

fn list(dir: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut blobs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)) {
            // One that was deleted meanwhile is not listed.
            let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
            let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            blobs.push((name.to_owned(), since.as_millis() as u64));
        }
    }
    Ok(blobs)
}

/// Reads a blob piece by piece.
struct Reader {
    file: File,
    left: u64,
    hash: Sha256,
    sum: [u8; SUM as usize],
}

impl Reader {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let left = file.metadata()?.len().checked_sub(SUM).ok_or(ErrorKind::UnexpectedEof)?;
        let mut sum = [0; SUM as usize];
        file.seek(SeekFrom::Start(left))?;
        file.read_exact(&mut sum)?;
        file.rewind()?;
        Ok(Self { file, left, hash: Sha256::new(), sum })
    }

    /// The next piece; none at the end, if all that came was right.
    fn next(&mut self, name: &str) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            let actual = Digest::from_bytes(self.hash.clone().finalize().into());
            let whole = *actual.as_bytes() == self.sum;
            let reason = || format!("its bytes have the digest {actual}, not the one they were stored with");
            return if whole { Ok(None) } else { Err(StoreError::Corrupt(format!("the blob {name}"), reason())) };
        }
        let mut piece = vec![0; usize::try_from(self.left).unwrap_or(usize::MAX).min(BUFFER_BYTES)];
        self.file.read_exact(&mut piece).map_err(|e| unavailable("reading a blob", e))?;
        self.hash.update(&piece);
        self.left -= piece.len() as u64;
        Ok(Some(piece.into()))
    }

    fn stream(self, name: String) -> ByteStream<'static> {
        let pieces = futures::stream::try_unfold((self, name), |(mut reader, name)| async move {
            let read = blocking(move || {
                let piece = reader.next(&name)?;
                Ok(piece.map(|piece| (piece, (reader, name))))
            });
            Ok(read.await?)
        });
        pieces.boxed()
    }
}
