//! Compiled code on disk. Whoever can write such a file owns the process that maps it, so a file is mapped only after
//! its keyed hash shows that this node wrote it, for this artifact, with this engine.
//!
//! Files live in a directory only this user can enter, are written under another name, synced and renamed, and never
//! change afterwards. The total size is bounded: the least recently loaded go first. A file that fails the check is
//! counted, removed and compiled again.

use dunlin_api::{ByteSize, Digest};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};
use wasmtime::{Engine, component::Component};

use crate::engine::{EngineKind, compatibility};

/// A BLAKE3 keyed hash (<https://github.com/BLAKE3-team/BLAKE3-specs>, §2.3): a MAC at several gigabytes a second, so
/// that 35 MB of JavaScript engine can be checked at every load.
type Tag = blake3::Hash;

/// How files begin that are not finished.
const UNFINISHED: &str = "unfinished-";
/// No compilation takes this long: its process would have been ended.
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);

/// The compiled code of this node.
pub(crate) struct CodeStore {
    dir: PathBuf,
    key: [u8; 32],
    capacity: ByteSize,
    corrupt: AtomicU64,
}

impl CodeStore {
    /// Opens or makes the store in `dir`.
    pub(crate) fn open(dir: PathBuf, capacity: ByteSize) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let key = key(&dir.join("node.key"))?;
        let store = Self { dir, key, capacity, corrupt: AtomicU64::new(0) };
        store.sweep_unfinished()?;
        Ok(store)
    }

    /// Files that failed their check since start.
    pub(crate) fn corrupt_files(&self) -> u64 {
        self.corrupt.load(Relaxed)
    }

    /// A path in the store's directory for work in progress; removed at the next start if it is left.
    pub(crate) fn scratch(&self) -> io::Result<tempfile::TempPath> {
        Ok(self.unfinished()?.into_temp_path())
    }

    fn unfinished(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)
    }

    /// Maps the code of `artifact`, or none if it has to be compiled. Blocks: it reads the whole file once.
    pub(crate) fn load(&self, artifact: &Digest, kind: EngineKind, engine: &Engine) -> Option<Component> {
        let path = self.path(artifact, kind, engine);
        let expected = fs::read(path.with_extension("mac")).ok()?;
        let file = File::open(&path).ok()?;
        let found = self.tag(artifact, kind, engine, &file);
        let genuine = found.as_ref().is_ok_and(|tag| blake3::Hash::from_slice(&expected).is_ok_and(|e| e == *tag));
        let component = genuine.then(|| map(engine, &path)).transpose();
        if let Ok(Some(component)) = component {
            // Marks it as recently used; if that fails it is only evicted sooner.
            let _ = file.set_modified(SystemTime::now());
            return Some(component);
        }
        self.corrupt.fetch_add(1, Relaxed);
        tracing::warn!(%artifact, file = %path.display(), "compiled code is corrupt or not ours: it is compiled again");
        self.remove(&path);
        None
    }

    /// Takes over the file `compiled` as the code of `artifact`. Blocks.
    pub(crate) fn save(&self, artifact: &Digest, kind: EngineKind, engine: &Engine, compiled: &Path) -> io::Result<()> {
        let file = File::open(compiled)?;
        file.sync_all()?;
        let tag = self.tag(artifact, kind, engine, &file)?;
        let path = self.path(artifact, kind, engine);
        // The tag first: code without a tag would be an error, a tag without code is nothing.
        let mut mac = self.unfinished()?;
        mac.write_all(tag.as_bytes())?;
        mac.as_file().sync_all()?;
        mac.persist(path.with_extension("mac"))?;
        fs::rename(compiled, &path)?;
        File::open(&self.dir)?.sync_all()?;
        self.evict(&path)
    }

    /// Removes the code of `artifact`, for every engine.
    pub(crate) fn forget(&self, artifact: &Digest) {
        let prefix = artifact.to_string();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // Gone already is as good; anything else shows up in the size bound.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, artifact: &Digest, kind: EngineKind, engine: &Engine) -> PathBuf {
        self.dir.join(format!("{artifact}-{}-{:016x}.cwasm", kind.as_str(), compatibility(engine)))
    }

    /// The tag covers what the file is for, so that no file can stand in for another.
    fn tag(&self, artifact: &Digest, kind: EngineKind, engine: &Engine, mut file: &File) -> io::Result<Tag> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher
            .update(artifact.as_bytes())
            .update(kind.as_str().as_bytes())
            .update(&compatibility(engine).to_le_bytes());
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize()),
                n => hasher.update(&buffer[..n]),
            };
        }
    }

    fn remove(&self, path: &Path) {
        for path in [path.to_owned(), path.with_extension("mac")] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %path.display(), %error, "cannot remove compiled code");
            }
        }
    }

    /// Removes the least recently loaded until the rest fits; `keep` was just written and stays. Mapped code stays
    /// mapped: the system keeps a removed file until its last user lets go.
    fn evict(&self, keep: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let (path, meta) = entry.and_then(|e| Ok((e.path(), e.metadata()?)))?;
            if path.extension().is_some_and(|e| e == "cwasm") {
                files.push((meta.modified()?, meta.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files.iter().filter(|(_, _, path)| path != keep) {
            if total <= self.capacity.bytes() {
                break;
            }
            self.remove(path);
            total -= len;
        }
        Ok(())
    }

    /// Removes what a crash left. Younger files may belong to another process that shares the directory.
    fn sweep_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if unfinished && age > UNFINISHED_AGE {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The node's secret: made at first start, readable by this user only. Whoever comes second uses the first one's.
fn key(path: &Path) -> io::Result<[u8; 32]> {
    let damaged = |_| {
        let message = format!("{} is damaged: remove it and restart", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    if !path.exists() {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        // Temporary files are made for this user only.
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(&key)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Err(e) if e.error.kind() != io::ErrorKind::AlreadyExists => return Err(e.error),
            _ => {}
        }
    }
    fs::read(path)?.try_into().map_err(damaged)
}

/// The only unsafe code of the project.
#[expect(unsafe_code, reason = "wasmtime cannot check that machine code is what it claims to be")]
fn map(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize_file` trusts the file's code and expects it not to change while it is mapped. The caller has
    // verified, by a hash keyed with this node's secret, that this node's own compiler wrote exactly these bytes for
    // this engine; and files in this directory, which no other user can enter, are only ever replaced by rename.
    unsafe { Component::deserialize_file(engine, path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::base_config;
    use std::os::unix::fs::PermissionsExt;

    struct Fixture {
        dir: tempfile::TempDir,
        engine: Engine,
    }

    const KIND: EngineKind = EngineKind::Plain;

    impl Fixture {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), engine: Engine::new(&base_config(KIND)).unwrap() }
        }

        fn open(&self, capacity: u64) -> CodeStore {
            CodeStore::open(self.dir.path().join("code"), ByteSize(capacity)).unwrap()
        }

        /// Compiles a small component that differs with `n` and stores it.
        fn put(&self, store: &CodeStore, n: u32) -> Digest {
            let text = format!("(component (core module (func (export \"f\") (result i32) i32.const {n})))");
            let component = wat::parse_str(text).unwrap();
            let digest = Digest::of(&component);
            let scratch = store.scratch().unwrap();
            fs::write(&scratch, self.engine.precompile_component(&component).unwrap()).unwrap();
            store.save(&digest, KIND, &self.engine, &scratch).unwrap();
            digest
        }

        fn files(&self, extension: &str) -> Vec<PathBuf> {
            let dir = fs::read_dir(self.dir.path().join("code")).unwrap();
            dir.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
        }
    }

    #[test]
    fn loads_what_it_saved_also_after_a_restart() {
        let fixture = Fixture::new();
        let digest = fixture.put(&fixture.open(1 << 30), 1);
        let store = fixture.open(1 << 30);
        assert!(store.load(&digest, KIND, &fixture.engine).is_some());
        assert!(store.load(&Digest::of(b"other"), KIND, &fixture.engine).is_none());
        assert_eq!(store.corrupt_files(), 0);
    }

    #[test]
    fn never_maps_a_file_with_one_flipped_bit_anywhere() {
        let fixture = Fixture::new();
        let store = fixture.open(1 << 30);
        for place in [0, 100, 5000] {
            let digest = fixture.put(&store, 2);
            let path = &fixture.files("cwasm")[0];
            let mut bytes = fs::read(path).unwrap();
            bytes[place] ^= 1;
            fs::write(path, bytes).unwrap();
            assert!(store.load(&digest, KIND, &fixture.engine).is_none());
            assert!(fixture.files("cwasm").is_empty(), "the bad file is removed");
        }
        assert_eq!(store.corrupt_files(), 3);
    }

    #[test]
    fn never_maps_code_that_another_node_or_nobody_signed() {
        let (ours, theirs) = (Fixture::new(), Fixture::new());
        let store = ours.open(1 << 30);
        let digest = ours.put(&store, 3);
        theirs.put(&theirs.open(1 << 30), 3);
        for extension in ["cwasm", "mac"] {
            fs::copy(&theirs.files(extension)[0], &ours.files(extension)[0]).unwrap();
        }
        assert!(store.load(&digest, KIND, &ours.engine).is_none());
    }

    #[test]
    fn never_maps_one_artifacts_code_for_another() {
        let fixture = Fixture::new();
        let store = fixture.open(1 << 30);
        let (a, b) = (fixture.put(&store, 4), fixture.put(&store, 5));
        let path = |d: &Digest, e: &str| store.path(d, KIND, &fixture.engine).with_extension(e);
        for extension in ["cwasm", "mac"] {
            fs::copy(path(&a, extension), path(&b, extension)).unwrap();
        }
        assert!(store.load(&b, KIND, &fixture.engine).is_none());
        assert!(store.load(&a, KIND, &fixture.engine).is_some());
    }

    #[test]
    fn stays_within_its_size_and_keeps_the_newest() {
        let fixture = Fixture::new();
        let roomy = fixture.open(1 << 30);
        let first = fixture.put(&roomy, 6);
        let size = fs::metadata(&fixture.files("cwasm")[0]).unwrap().len();
        let store = fixture.open(size * 2);
        for n in 7..12 {
            fixture.put(&store, n);
        }
        assert!(fixture.files("cwasm").len() <= 2);
        assert!(store.load(&first, KIND, &fixture.engine).is_none());
    }

    #[test]
    fn leftovers_of_a_crash_are_swept_and_nobody_else_may_look() {
        let fixture = Fixture::new();
        let old = fixture.open(1).scratch().unwrap().keep().unwrap();
        let young = fixture.open(1).scratch().unwrap().keep().unwrap();
        let long_ago = SystemTime::now() - UNFINISHED_AGE * 2;
        File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        fixture.open(1);
        assert!(!old.exists() && young.exists(), "a young one may be somebody's work");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&fixture.dir.path().join("code")), 0o700);
        assert_eq!(mode(&fixture.dir.path().join("code/node.key")), 0o600);
    }
}
