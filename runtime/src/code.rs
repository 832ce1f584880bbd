//! Compiled code on disk. Whoever can write such a file owns the process that maps it, so a file is mapped only after
//! its keyed hash shows that this node wrote it, for this artifact, with this engine.
//!
//! Files live in a directory only this user can enter, are written under another name, synced and renamed, and never
//! change afterwards. So a file is hashed once per process: while the system says that it is the same and unchanged
//! (the `verified` module), it is mapped at once. A file that fails the check is counted, removed and compiled again.
//!
//! The time of a tag's file says when its code was last used, which [`CodeStore::note`] keeps roughly current: after a
//! restart it is the order of prefetching, and when the disk space that is allowed is used up, of removal.

use dunlin_api::{ByteSize, Digest};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};
use wasmtime::{Engine, component::Component};

use crate::engine::Target;
use space::Space;
use verified::{Identity, Verified};

mod space;
mod verified;

/// A BLAKE3 keyed hash (<https://github.com/BLAKE3-team/BLAKE3-specs>, §2.3): a MAC at several gigabytes a second on each
/// core, so that checking 35 MB of JavaScript engine takes a few milliseconds.
type Tag = blake3::Hash;

/// Above this size all cores hash: below it, waking them takes longer than the work.
const PARALLEL_BYTES: u64 = 1 << 20;

/// What is called all the time is noted this often: an order by minutes is good enough for what to load first.
pub(crate) const NOTED: Duration = Duration::from_secs(60);

/// How files begin that are not finished.
const UNFINISHED: &str = "unfinished-";
/// No compilation takes this long: its process would have been ended.
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);

/// The compiled code of this node.
pub(crate) struct CodeStore {
    dir: PathBuf,
    key: [u8; 32],
    space: Space,
    verified: Verified,
    corrupt: AtomicU64,
}

/// Code that was just mapped.
pub(crate) struct Mapped {
    pub(crate) component: Component,
    /// The size of its file.
    pub(crate) bytes: u64,
}

impl CodeStore {
    /// Opens or makes the store in `dir`.
    pub(crate) fn open(dir: PathBuf, capacity: ByteSize) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let key = key(&dir.join("node.key"))?;
        let space = Space::new(dir.clone(), capacity);
        let store = Self { dir, key, space, verified: Verified::default(), corrupt: AtomicU64::new(0) };
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

    /// Whether there may be code of `artifact`. Blocks for a microsecond.
    pub(crate) fn has(&self, artifact: &Digest, target: Target) -> bool {
        self.path(artifact, target).exists()
    }

    /// Maps the code of `artifact`, or none if it has to be compiled. Blocks: the first time in a process it reads the
    /// whole file.
    ///
    /// # Errors
    /// When the system gives no room to map it.
    pub(crate) fn load(&self, artifact: &Digest, target: Target, engine: &Engine) -> wasmtime::Result<Option<Mapped>> {
        let path = self.path(artifact, target);
        // Taken before the file is read: whatever changes from here on gives it another identity.
        let Ok(identity) = Identity::of(&path) else { return Ok(None) };
        if !self.verified.contains(&path, &identity) {
            match self.is_genuine(artifact, target, &path) {
                Some(true) => self.verified.remember(&path, &identity),
                Some(false) => {
                    self.corrupt.fetch_add(1, Relaxed);
                    let file = path.display();
                    tracing::warn!(%artifact, %file, "compiled code is corrupt or not ours: it is compiled again");
                    self.remove(&path);
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
        // It is what this node wrote, so another try after compiling it again would fail as this one does.
        let component = map(engine, &path)?;
        Ok(Some(Mapped { component, bytes: identity.bytes() }))
    }

    /// Whether this node wrote the file for this purpose; none if there is no tag to tell by.
    fn is_genuine(&self, artifact: &Digest, target: Target, path: &Path) -> Option<bool> {
        let expected = fs::read(path.with_extension("mac")).ok()?;
        let expected = blake3::Hash::from_slice(&expected);
        let found = self.tag(artifact, target, path);
        // The comparison takes the same time wherever the difference is.
        Some(expected.is_ok_and(|expected| found.is_ok_and(|found| found == expected)))
    }

    /// Notes that the code of `artifact` was used at `at`, unless a note says almost that. Blocks for some microseconds.
    /// Notes are never synced: a power loss costs some of the order and nothing else.
    pub(crate) fn note(&self, artifact: &Digest, target: Target, at: SystemTime) {
        let noted = self.last_used(artifact, target);
        if noted.is_some_and(|noted| at.duration_since(noted).is_ok_and(|since| since >= NOTED)) {
            let tag = self.path(artifact, target).with_extension("mac");
            // It may have been removed meanwhile.
            let _ = File::open(tag).and_then(|tag| tag.set_modified(at));
        }
    }

    /// When the code of `artifact` was last used, as far as it was noted; none if there is none. Blocks.
    pub(crate) fn last_used(&self, artifact: &Digest, target: Target) -> Option<SystemTime> {
        let tag = self.path(artifact, target).with_extension("mac");
        fs::metadata(tag).and_then(|meta| meta.modified()).ok()
    }

    /// Takes over the file `compiled` as the code of `artifact`. Blocks.
    pub(crate) fn save(&self, artifact: &Digest, target: Target, compiled: &Path) -> io::Result<()> {
        File::open(compiled)?.sync_all()?;
        let tag = self.tag(artifact, target, compiled)?;
        let path = self.path(artifact, target);
        // The tag first: code without a tag would be an error, a tag without code is nothing.
        let mut mac = self.unfinished()?;
        mac.write_all(tag.as_bytes())?;
        mac.as_file().sync_all()?;
        mac.persist(path.with_extension("mac"))?;
        fs::rename(compiled, &path)?;
        File::open(&self.dir)?.sync_all()?;
        for path in self.space.added(&path)? {
            self.remove(&path);
        }
        Ok(())
    }

    /// Removes the code of `artifact`. What another version of this program compiled goes when space is needed.
    pub(crate) fn forget(&self, artifact: &Digest, target: Target) {
        self.remove(&self.path(artifact, target));
    }

    fn path(&self, artifact: &Digest, target: Target) -> PathBuf {
        self.dir.join(format!("{artifact}-{}-{:016x}.cwasm", target.kind.as_str(), target.compatibility))
    }

    /// The tag covers what the file is for, so that no file can stand in for another.
    fn tag(&self, artifact: &Digest, target: Target, path: &Path) -> io::Result<Tag> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher
            .update(artifact.as_bytes())
            .update(target.kind.as_str().as_bytes())
            .update(&target.compatibility.to_le_bytes());
        if fs::metadata(path)?.len() < PARALLEL_BYTES {
            hasher.update(&fs::read(path)?);
        } else {
            hasher.update_mmap_rayon(path)?;
        }
        Ok(hasher.finalize())
    }

    fn remove(&self, path: &Path) {
        self.verified.forget(path);
        for path in [path.to_owned(), path.with_extension("mac")] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %path.display(), %error, "cannot remove compiled code");
            }
        }
    }

    /// Removes what a crash left. Younger files may belong to another process that shares the directory.
    fn sweep_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Only of those: asking for the age of 10,000 finished ones would show in the time of a start.
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
                && entry.metadata()?.modified()?.elapsed().unwrap_or_default() > UNFINISHED_AGE
            {
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
    use crate::engine::{EngineKind, base_config};
    use std::os::unix::fs::PermissionsExt;

    struct Fixture {
        dir: tempfile::TempDir,
        engine: Engine,
        target: Target,
    }

    const KIND: EngineKind = EngineKind::Plain;

    impl Fixture {
        fn new() -> Self {
            let engine = Engine::new(&base_config(KIND)).unwrap();
            Self { dir: tempfile::tempdir().unwrap(), target: Target::of(KIND, &engine), engine }
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
            store.save(&digest, self.target, &scratch).unwrap();
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
        assert!(store.load(&digest, fixture.target, &fixture.engine).unwrap().is_some());
        assert!(store.load(&Digest::of(b"other"), fixture.target, &fixture.engine).unwrap().is_none());
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
            assert!(store.load(&digest, fixture.target, &fixture.engine).unwrap().is_none());
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
        assert!(store.load(&digest, ours.target, &ours.engine).unwrap().is_none());
    }

    #[test]
    fn never_maps_one_artifacts_code_for_another() {
        let fixture = Fixture::new();
        let store = fixture.open(1 << 30);
        let (a, b) = (fixture.put(&store, 4), fixture.put(&store, 5));
        let path = |d: &Digest, e: &str| store.path(d, fixture.target).with_extension(e);
        for extension in ["cwasm", "mac"] {
            fs::copy(path(&a, extension), path(&b, extension)).unwrap();
        }
        assert!(store.load(&b, fixture.target, &fixture.engine).unwrap().is_none());
        assert!(store.load(&a, fixture.target, &fixture.engine).unwrap().is_some());
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
        assert!(store.load(&first, fixture.target, &fixture.engine).unwrap().is_none());
    }

    #[test]
    fn a_verified_file_is_not_read_again_until_it_changes() {
        let fixture = Fixture::new();
        let store = fixture.open(1 << 30);
        let digest = fixture.put(&store, 13);
        let (path, tag) = (&fixture.files("cwasm")[0], &fixture.files("mac")[0]);
        // It is remembered as soon as its stamp is old enough to tell it from a later change.
        while !store.verified.contains(path, &Identity::of(path).unwrap()) {
            assert!(store.load(&digest, fixture.target, &fixture.engine).unwrap().is_some());
            std::thread::sleep(Duration::from_millis(5));
        }
        let kept = fs::read(tag).unwrap();
        fs::write(tag, b"nothing to compare with").unwrap();
        assert!(store.load(&digest, fixture.target, &fixture.engine).unwrap().is_some(), "nobody looks at the tag");
        fs::write(tag, kept).unwrap();

        let (mut bytes, written) = (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap());
        bytes[5000] ^= 1;
        fs::write(path, bytes).unwrap();
        File::open(path).unwrap().set_modified(written).unwrap();
        assert!(
            store.load(&digest, fixture.target, &fixture.engine).unwrap().is_none(),
            "same size, same time of writing"
        );
        assert_eq!(store.corrupt_files(), 1);
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let fixture = Fixture::new();
        let store = fixture.open(1 << 30);
        let [old, unused, recent] = [14, 15, 16].map(|n| fixture.put(&store, n));
        let now = SystemTime::now();
        let tag = |digest: &Digest| store.path(digest, fixture.target).with_extension("mac");
        for (digest, hours) in [(old, 3), (unused, 2), (recent, 1)] {
            let at = now - Duration::from_secs(3600 * hours);
            File::open(tag(&digest)).unwrap().set_modified(at).unwrap();
        }
        store.note(&old, fixture.target, now);
        let size = fs::metadata(&fixture.files("cwasm")[0]).unwrap().len();
        let store = fixture.open(size * 7 / 2);
        let new = fixture.put(&store, 17);
        let kept = |digest| store.load(digest, fixture.target, &fixture.engine).unwrap().is_some();
        assert_eq!([&old, &unused, &recent, &new].map(kept), [true, false, true, true]);
    }

    #[test]
    fn what_is_used_all_the_time_is_noted_once_in_a_while() {
        let fixture = Fixture::new();
        let store = fixture.open(1 << 30);
        let digest = fixture.put(&store, 18);
        let noted = || store.last_used(&digest, fixture.target).unwrap();
        let written = noted();
        store.note(&digest, fixture.target, written + NOTED / 2);
        assert_eq!(noted(), written);
        store.note(&digest, fixture.target, written + NOTED);
        assert_eq!(noted(), written + NOTED);
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
