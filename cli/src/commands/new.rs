//! `dunlin new`: a project that builds, from a template in this binary.
//!
//! A template is a folder of `cli/templates`. In its files `{{name}}`, `{{crate}}` and `{{sdk}}` are replaced; `_gitignore`
//! becomes `.gitignore` and `Cargo.toml.in` becomes `Cargo.toml`, names under which cargo and git leave the originals alone.
//! `_wit` is shared by the templates whose tools want the interfaces as files.

use anyhow::Context as _;
use clap::ValueEnum;
use dunlin_api::FunctionName;
use include_dir::{Dir, include_dir};
use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{exit::Failure, output::Output};

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");

const EXAMPLES: &str = "\
Examples:
  dunlin new hello                       Rust, in the folder `hello`
  dunlin new hello --template python     Python
  dunlin new hello --path functions/hi   in another folder";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Name of the function: a-z, 0-9 and `-`
    name: FunctionName,
    /// What to write it in
    #[arg(long, short, value_enum, default_value_t)]
    template: Template,
    /// Folder to make [default: the name]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Template {
    /// Rust with dunlin-sdk
    #[default]
    Rust,
    /// Rust with an axum router, without our SDK
    RustAxum,
    /// JavaScript with componentize-js
    Js,
    /// Python with componentize-py
    Python,
}

pub(crate) fn run(args: &Args, out: &Output) -> anyhow::Result<()> {
    let dir = args.path.clone().unwrap_or_else(|| args.name.as_str().into());
    refuse_occupied(&dir)?;
    let files = files(args.template, &args.name);
    for (path, text) in &files {
        write(&dir.join(path), text)?;
    }
    let names: Vec<_> = files.iter().map(|(path, _)| path).collect();
    let template = args.template.folder();
    let made = serde_json::json!({ "name": args.name, "template": template, "path": dir, "files": names });
    if out.is_json() {
        out.json(&made)?;
    } else {
        out.note(format_args!("made {} with {} files from the template `{template}`", dir.display(), files.len()));
    }
    let shown = dir.display().to_string();
    let cd = if shown.contains(|c: char| c.is_whitespace()) { format!("'{shown}'") } else { shown };
    out.hint(format_args!("cd {cd} && dunlin dev"));
    Ok(())
}

fn refuse_occupied(dir: &Path) -> anyhow::Result<()> {
    let refuse = |what| {
        Err(Failure::caller(format!("{} {what}", dir.display())).hint("choose another folder with --path").into())
    };
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => refuse("exists and is not empty"),
            None => Ok(()),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => refuse("exists and is not a folder"),
        Err(e) => Err(e).with_context(|| format!("cannot look into {}", dir.display())),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let parent = path.parent().context("a file of a template stands in a folder")?;
    let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(path, text));
    written.with_context(|| format!("cannot write {}", path.display()))
}

impl Template {
    fn folder(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::RustAxum => "rust-axum",
            Self::Js => "js",
            Self::Python => "python",
        }
    }

    fn wants_wit(self) -> bool {
        matches!(self, Self::Js | Self::Python)
    }
}

/// Paths and contents of the project, in order of the paths.
fn files(template: Template, name: &FunctionName) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    collect(template.folder(), Path::new(""), name, &mut files);
    if template.wants_wit() {
        collect("_wit", Path::new("wit"), name, &mut files);
    }
    files.sort();
    files
}

fn collect(folder: &str, below: &Path, name: &FunctionName, files: &mut Vec<(PathBuf, String)>) {
    let mut dirs: Vec<_> = TEMPLATES.get_dir(folder).into_iter().collect();
    while let Some(dir) = dirs.pop() {
        dirs.extend(dir.dirs());
        for file in dir.files() {
            let path = file.path().strip_prefix(folder).unwrap_or(file.path());
            files.push((below.join(target(path)), fill(file.contents_utf8().unwrap_or_default(), name)));
        }
    }
}

fn target(path: &Path) -> PathBuf {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("_gitignore") => path.with_file_name(".gitignore"),
        Some(name) => path.with_file_name(name.strip_suffix(".in").unwrap_or(name)),
        None => path.to_owned(),
    }
}

fn fill(text: &str, name: &FunctionName) -> String {
    let name = name.as_str();
    text.replace("{{name}}", name).replace("{{crate}}", &name.replace('-', "_")).replace("{{sdk}}", &sdk())
}

/// The SDK beside the sources that this binary was built from, while they are still there; else the published one.
fn sdk() -> String {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk");
    match local.canonicalize() {
        Ok(path) if path.join("Cargo.toml").is_file() => {
            format!("{{ path = {} }}", toml::Value::from(path.to_string_lossy().as_ref()))
        }
        _ => format!("\"{}\"", env!("CARGO_PKG_VERSION")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Project;

    #[test]
    fn every_template_is_a_whole_project() {
        for &template in Template::value_variants() {
            let dir = tempfile::tempdir().unwrap();
            let name = "my-fn".parse().unwrap();
            let files = files(template, &name);
            for (path, text) in &files {
                assert!(!text.contains("{{") || path.ends_with("README.md"), "{}", path.display());
                write(&dir.path().join(path), text).unwrap();
            }
            for wanted in ["dunlin.toml", "README.md", ".gitignore"] {
                assert!(files.iter().any(|(path, _)| path == Path::new(wanted)), "{template:?} has no {wanted}");
            }
            let project = Project::load(dir.path()).unwrap();
            let function = &project.manifest.functions[&name];
            assert!(function.build.is_some());
            for watched in &function.watch {
                assert!(dir.path().join(watched).exists(), "{template:?} watches {}", watched.display());
            }
        }
    }

    #[test]
    fn an_occupied_folder_is_refused_and_an_empty_one_taken() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_occupied(dir.path()).is_ok());
        let file = dir.path().join("x");
        std::fs::write(&file, "").unwrap();
        assert!(refuse_occupied(dir.path()).is_err() && refuse_occupied(&file).is_err());
    }
}
