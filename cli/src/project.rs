//! A project: a folder with a `dunlin.toml`.

use anyhow::Context as _;
use dunlin_api::{
    FunctionName,
    manifest::{Function, Manifest},
};
use std::{
    io,
    path::{Path, PathBuf},
};

use crate::exit::Failure;

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "dunlin.toml";

/// A project whose manifest was read.
#[derive(Debug)]
pub(crate) struct Project {
    /// The folder, absolute; every path in the manifest is relative to it.
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Manifest,
}

impl Project {
    /// Reads the project at `path`: its folder or the manifest itself.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let file = if path.is_dir() { path.join(MANIFEST) } else { path.to_owned() };
        let text = std::fs::read_to_string(&file).map_err(|e| {
            let failure = Failure::caller(format!("cannot read {}: {e}", file.display()));
            let absent = e.kind() == io::ErrorKind::NotFound && file.ends_with(MANIFEST);
            if absent {
                failure.hint("`dunlin new NAME` makes a project; `cd` into it, or name its folder")
            } else {
                failure
            }
        })?;
        let manifest =
            Manifest::parse(&text).map_err(|e| Failure::caller(format!("{} is not valid: {e}", file.display())))?;
        let file = std::path::absolute(&file).context("the current folder is gone")?;
        let dir = file.parent().context("a manifest stands in a folder")?.to_owned();
        Ok(Self { dir, manifest })
    }

    /// The functions called `names`, or all of them.
    pub(crate) fn functions(&self, names: &[FunctionName]) -> anyhow::Result<Vec<(&FunctionName, &Function)>> {
        let all = &self.manifest.functions;
        if names.is_empty() {
            return Ok(all.iter().collect());
        }
        let find = |name| {
            all.get_key_value(name).ok_or_else(|| {
                let known: Vec<_> = all.keys().map(FunctionName::as_str).collect();
                let message = format!("{MANIFEST} has no function `{name}`; it has {}", known.join(", "));
                Failure::caller(message).into()
            })
        };
        names.iter().map(find).collect()
    }

    /// Where the component of `function` is.
    pub(crate) fn source(&self, function: &Function) -> PathBuf {
        self.dir.join(&function.source)
    }
}

/// A function's name from a file's: `My_Function.v2.wasm` → `my-function`.
pub(crate) fn name_of_file(path: &Path) -> Option<FunctionName> {
    let stem = path.file_name()?.to_str()?.split('.').next()?;
    let name: String = stem.chars().map(|c| if c == '_' || c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_becomes_a_function_name_or_none() {
        let name = |path: &str| name_of_file(Path::new(path)).map(|n| n.to_string());
        assert_eq!(name("a/My_Function.v2.wasm").as_deref(), Some("my-function"));
        assert_eq!(name("hello.wasm").as_deref(), Some("hello"));
        assert_eq!(name("_.wasm"), None);
    }

    #[test]
    fn a_project_is_found_by_folder_or_file_and_unknown_functions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(MANIFEST);
        assert!(Project::load(dir.path()).is_err());
        std::fs::write(&file, "[function.a]\nsource = \"x.wasm\"\n").unwrap();
        for path in [dir.path(), &file] {
            let project = Project::load(path).unwrap();
            let (_, function) = project.functions(&[]).unwrap()[0];
            assert_eq!(project.source(function), dir.path().join("x.wasm"));
        }
        let error = Project::load(dir.path()).unwrap().functions(&["b".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("no function `b`; it has a"), "{error}");
    }
}
