//! Notices that the sources of a function changed.
//!
//! Events of the file system only wake us: whether something changed is decided by a fingerprint of the watched files'
//! contents. So neither an editor that saves by renaming, nor a build that writes below a watched folder, nor a tool that
//! only touches files makes `dunlin dev` build in circles. Bounds: files above [`HASHED_BYTES`] count by size and time
//! only, and a burst of events is waited out for [`PATIENCE`] at most.

use anyhow::Context as _;
use dunlin_api::Digest;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

/// Events that come closer together are one change.
const QUIET: Duration = Duration::from_millis(150);
/// A burst that does not end is taken for a change after this time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sources are smaller; a larger file is not worth reading on every save.
const HASHED_BYTES: u64 = 4 << 20;
/// Folders that tools write to and people do not.
const IGNORED: [&str; 8] =
    ["target", "node_modules", ".dunlin", ".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache"];

/// Watches the file system until dropped.
pub(crate) struct Watch {
    _watcher: RecommendedWatcher,
    events: mpsc::Receiver<()>,
}

impl Watch {
    /// Watches `paths`. A file is watched by way of its folder, for editors replace files by renaming.
    pub(crate) fn new(paths: &[PathBuf]) -> anyhow::Result<Self> {
        // One place is enough: an event says only that it is time to look.
        let (wake, events) = mpsc::channel(1);
        let handler = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(&event)) {
                let _ = wake.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler).context("cannot watch files")?;
        let mut folders = BTreeSet::new();
        for path in paths {
            if path.is_dir() {
                collect_folders(path, &mut folders);
            } else if let Some(parent) = path.parent().filter(|parent| parent.is_dir()) {
                folders.insert(parent.to_owned());
            }
        }
        for folder in &folders {
            let watched = watcher.watch(folder, RecursiveMode::NonRecursive);
            watched.with_context(|| format!("cannot watch {}", folder.display()))?;
        }
        Ok(Self { _watcher: watcher, events })
    }

    /// Waits for events, then until they have come to rest.
    pub(crate) async fn stirred(&mut self) {
        if self.events.recv().await.is_none() {
            // The watcher lives as long as we do.
            return std::future::pending().await;
        }
        let latest = Instant::now() + PATIENCE;
        loop {
            let quiet = Instant::now() + QUIET;
            if quiet >= latest {
                return sleep_until(latest).await;
            }
            if timeout_at(quiet, self.events.recv()).await.is_err() {
                return;
            }
        }
    }
}

/// Reading a file is no change, nor is a change of its times alone.
fn is_change(event: &Event) -> bool {
    let kind = !matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)));
    kind && (event.paths.is_empty() || event.paths.iter().any(|path| !is_ignored(path)))
}

/// Whether the last parts of `path` lead through a folder that tools write to.
fn is_ignored(path: &Path) -> bool {
    let ignored = |part: Component<'_>| matches!(part, Component::Normal(name) if name.to_str().is_some_and(is_tools));
    path.components().rev().take(2).any(ignored)
}

fn is_tools(name: &str) -> bool {
    IGNORED.contains(&name) || name.ends_with('~') || name.ends_with(".swp")
}

/// `folder` and all folders below it that people write to.
fn collect_folders(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    into.insert(folder.to_owned());
    for entry in entries(folder) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_folders(&entry.path(), into);
        }
    }
}

/// What people wrote in `folder`, in order; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<fs::DirEntry> {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.retain(|entry| !entry.file_name().to_str().is_some_and(is_tools));
    entries.sort_by_key(fs::DirEntry::file_name);
    entries
}

/// A digest of the names and contents of everything at `paths`, except `product`, which the build itself makes.
pub(crate) fn fingerprint(paths: &[PathBuf], product: &Path) -> Digest {
    let mut seen = Vec::new();
    for path in paths {
        add(path, product, &mut seen);
    }
    Digest::of(&seen)
}

fn add(path: &Path, product: &Path, seen: &mut Vec<u8>) {
    if path == product {
        return;
    }
    if path.is_dir() {
        return entries(path).iter().for_each(|entry| add(&entry.path(), product, seen));
    }
    seen.extend_from_slice(path.as_os_str().as_encoded_bytes());
    // A file that vanishes while we look is a state like any other.
    seen.extend(state(path).unwrap_or_default());
}

fn state(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if metadata.len() > HASHED_BYTES {
        return Ok(format!("{} {:?}", metadata.len(), metadata.modified()?).into_bytes());
    }
    Ok(Digest::of(&fs::read(path)?).as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, CreateKind, DataChange, MetadataKind};

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    #[test]
    fn reading_touching_and_tools_are_no_change() {
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(is_change(&event(written, "/p/src/lib.rs")));
        assert!(is_change(&event(EventKind::Create(CreateKind::File), "/p/src/new.rs")));
        assert!(!is_change(&event(EventKind::Access(AccessKind::Any), "/p/src/lib.rs")));
        assert!(!is_change(&event(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "/p/src/lib.rs")));
        for path in
            ["/p/target", "/p/node_modules/x", "/p/src/__pycache__/a.pyc", "/p/src/lib.rs~", "/p/src/.lib.rs.swp"]
        {
            assert!(!is_change(&event(written, path)), "{path}");
        }
    }

    #[test]
    fn a_fingerprint_follows_contents_and_names_but_not_times_tools_or_the_product() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let product = path("out.wasm");
        let print = || fingerprint(&[dir.path().to_owned()], &product);
        fs::write(path("a"), "1").unwrap();
        let first = print();
        fs::write(path("a"), "1").unwrap();
        fs::write(&product, "x").unwrap();
        fs::create_dir(path("target")).unwrap();
        fs::write(path("target/x"), "x").unwrap();
        assert_eq!(print(), first);
        fs::write(path("a"), "2").unwrap();
        let second = print();
        assert_ne!(second, first);
        fs::rename(path("a"), path("b")).unwrap();
        assert_ne!(print(), second);
    }

    #[tokio::test]
    async fn a_saved_file_stirs_also_when_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.py");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&file)).unwrap();
        fs::write(dir.path().join("new"), "2").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.stirred()).await.unwrap();
    }
}
