//! `dunlin build`: runs each function's build command and looks at what it made.

use dunlin_api::{ByteSize, FunctionName, manifest::Function};
use serde::Serialize;
use std::{collections::HashSet, path::PathBuf, time::Instant};

use crate::{
    component::Component,
    exit::Failure,
    output::{Output, Style},
    process,
    project::Project,
    signals, toolchain,
};

const EXAMPLES: &str = "\
Examples:
  dunlin build                    every function of the project here
  dunlin build shop --name cart   one function of the project in `shop`";

/// Build the functions of a project.
///
/// Runs each function's `build` command in the folder of dunlin.toml and checks that its `source` is then a component.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The project's folder, or its dunlin.toml
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Only this function; may be repeated
    #[arg(long, value_name = "NAME")]
    name: Vec<FunctionName>,
}

#[derive(Serialize)]
struct Built {
    name: FunctionName,
    source: PathBuf,
    size_bytes: u64,
    digest: String,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let project = Project::load(&args.path)?;
    let functions = project.functions(&args.name)?;
    let components = signals::or_interrupted(all(&project, &functions, out)).await?;
    let built = functions.iter().zip(components).map(|((name, function), component)| Built {
        name: (*name).clone(),
        source: project.source(function),
        size_bytes: component.bytes.len() as u64,
        digest: component.digest.to_string(),
    });
    let built: Vec<_> = built.collect();
    out.either(&serde_json::json!({ "functions": built }), || table(&built, out))?;
    out.hint("`dunlin deploy` puts it on a node, `dunlin dev` serves it here");
    Ok(())
}

fn table(built: &[Built], out: &Output) -> String {
    let row = |b: &Built| [b.name.to_string(), ByteSize(b.size_bytes).to_string(), b.source.display().to_string()];
    out.table(["NAME", "SIZE", "COMPONENT"], built.iter().map(row))
}

/// Builds `functions` in order. A command that several of them share runs once.
pub(crate) async fn all(
    project: &Project,
    functions: &[(&FunctionName, &Function)],
    out: &Output,
) -> anyhow::Result<Vec<Component>> {
    let mut done = HashSet::new();
    for (name, function) in functions {
        if let Some(command) = &function.build
            && done.insert(command)
        {
            one(project, name, command, out).await?;
        }
    }
    functions.iter().map(|(name, function)| made(project, name, function)).collect()
}

async fn one(project: &Project, name: &FunctionName, command: &str, out: &Output) -> anyhow::Result<()> {
    toolchain::check(command, &project.dir, out).await?;
    out.note(format_args!("{} {name}: {command}", out.paint_err(Style::Dim, "building")));
    let started = Instant::now();
    let status = process::run(command, &project.dir).await?;
    if !status.success() {
        let how = status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"));
        let message = format!("the build of function `{name}` failed ({how}): {command}");
        return Err(Failure::caller(message).into());
    }
    out.note(format_args!("{} {name} in {:.1} s", out.paint_err(Style::Dim, "built"), started.elapsed().as_secs_f64()));
    Ok(())
}

/// The component that the build was to make.
pub(crate) fn made(project: &Project, name: &FunctionName, function: &Function) -> anyhow::Result<Component> {
    let source = project.source(function);
    if !source.is_file() {
        let failure = Failure::caller(format!("function `{name}`: its source {} does not exist", source.display()));
        let hint = match &function.build {
            Some(_) => "the build ended well but did not make it: does `source` in dunlin.toml name the right file?",
            None => "dunlin.toml has no `build` command for it: add one, or make the file yourself",
        };
        return Err(failure.hint(hint).into());
    }
    Component::read(&source)
}
