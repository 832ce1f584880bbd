//! `dunlin deploy`: puts the functions of a project, or one component, on a node.

use anyhow::Context as _;
use dunlin_api::{ByteSize, FunctionName, HttpTrigger, Settings};
use dunlin_scheduler::deploy::{DeployResult, NodeReady};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::build;
use crate::{
    client::Client,
    component::Component,
    config::ServerArgs,
    exit::{Exit, Failure},
    function_args::{FunctionArgs, RouteArgs, checked},
    output::{Output, Style},
    progress::{self, Transfer},
    project::{Project, name_of_file},
    signals, urls,
};

const EXAMPLES: &str = "\
Examples:
  dunlin deploy                                     build the project here and deploy all of it
  dunlin deploy shop --name cart                    one function of the project in `shop`
  dunlin deploy hello.wasm --route '/hi/{*path}'    one component, without a project
  dunlin deploy hello.wasm --env LOG=debug --egress https://api.example.com --memory 64MiB

The same bytes with the same settings change nothing and succeed. If a deploy fails, the revision before it goes on serving.";

/// Put a project or one component on a node.
///
/// A project is built first. Options given here come on top of what its dunlin.toml says.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A project's folder, its dunlin.toml, or a component
    #[arg(default_value = ".", value_name = "PATH")]
    path: PathBuf,
    /// Name of the function; for a project, which of its functions (may be repeated)
    #[arg(long, value_name = "NAME")]
    name: Vec<FunctionName>,
    /// Deploy what was built before
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    route: RouteArgs,
    #[command(flatten)]
    function: FunctionArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// One function on its way to a node.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) name: FunctionName,
    pub(crate) component: Component,
    pub(crate) settings: Settings,
}

/// What `--output json` says about one deployed function.
#[derive(Serialize)]
struct Deployed<'a> {
    name: &'a FunctionName,
    revision: &'a str,
    changed: bool,
    artifact: String,
    size_bytes: usize,
    routes: &'a [String],
    urls: Vec<String>,
    ready: usize,
    nodes: usize,
    /// The nodes that should run it and are not ready, with the reason.
    unready: Vec<&'a NodeReady>,
    version: u64,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    signals::or_interrupted(async {
        // Asked before anything is built: an hour of compiling for a node that is not there helps nobody.
        let base = client.http_url().await?;
        let orders = orders(&args, out).await?;
        let mut done = Vec::new();
        let mut failed = None;
        for order in &orders {
            match ship(&client, order, out).await {
                Ok(result) => done.push((order, result)),
                Err(error) => {
                    failed = Some(error.context(format!("function `{}` was not deployed", order.name)));
                    break;
                }
            }
        }
        report(&done, &base, out)?;
        failed.map_or(Ok(()), Err)
    })
    .await
}

async fn orders(args: &Args, out: &Output) -> anyhow::Result<Vec<Order>> {
    if is_component(&args.path) { Ok(vec![component_order(args)?]) } else { project_orders(args, out).await }
}

/// A file that is not a manifest is taken for a component, whatever it is called.
fn is_component(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension == Some("wasm") || (path.is_file() && extension != Some("toml"))
}

fn component_order(args: &Args) -> anyhow::Result<Order> {
    let name = match args.name.as_slice() {
        [name] => name.clone(),
        [] => name_of_file(&args.path).ok_or_else(|| {
            let message = format!("no function can be called after the file {}", args.path.display());
            Failure::new(Exit::Usage, message).hint("give a name with --name")
        })?,
        _ => return Err(Failure::new(Exit::Usage, "one component becomes one function: give one --name").into()),
    };
    let mut settings = Settings { http: vec![HttpTrigger::default_for(&name)], ..Settings::default() };
    args.route.apply(&mut settings);
    args.function.apply(&mut settings);
    Ok(Order { name, component: Component::read(&args.path)?, settings: checked(settings)? })
}

async fn project_orders(args: &Args, out: &Output) -> anyhow::Result<Vec<Order>> {
    let project = Project::load(&args.path)?;
    let functions = project.functions(&args.name)?;
    if functions.len() > 1 && !args.route.route.is_empty() {
        let message = "several functions cannot share a route: choose one with --name";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let mut wanted = Vec::new();
    for (name, function) in &functions {
        let mut settings = function.settings(name);
        args.route.apply(&mut settings);
        args.function.apply(&mut settings);
        wanted.push(checked(settings)?);
    }
    let components = if args.no_build {
        functions.iter().map(|(name, function)| build::made(&project, name, function)).collect::<Result<_, _>>()?
    } else {
        build::all(&project, &functions, out).await?
    };
    let parts = functions.into_iter().zip(components).zip(wanted);
    Ok(parts.map(|(((name, _), component), settings)| Order { name: name.clone(), component, settings }).collect())
}

/// Uploads the component if the node lacks it, and makes it the serving revision.
pub(crate) async fn ship(client: &Client, order: &Order, out: &Output) -> anyhow::Result<DeployResult> {
    let Order { name, component, settings } = order;
    let Component { bytes, digest } = component;
    if !client.has_artifact(digest).await? {
        let total = bytes.len() as u64;
        let done = Arc::new(AtomicU64::new(0));
        let transfer = Transfer { done: done.clone(), total };
        let upload = client.upload(digest, bytes.clone(), move |sent| done.store(sent, Ordering::Relaxed));
        let upload = progress::bar(out, format!("uploading {name}"), transfer, upload).await;
        upload.with_context(|| format!("the upload of {} failed", ByteSize(total)))?;
    }
    let deploy = client.deploy(name, *digest, settings);
    progress::spinner(out, format!("checking and compiling {name}"), deploy).await
}

fn report(done: &[(&Order, DeployResult)], base: &str, out: &Output) -> anyhow::Result<()> {
    if out.is_json() {
        let functions: Vec<_> = done.iter().map(|(order, result)| describe(order, result, base)).collect();
        return out.json(&serde_json::json!({ "functions": functions }));
    }
    for (order, result) in done {
        out.data(line(order, result, base, out))?;
        for node in unready(result) {
            let reason = node.reason.as_deref().unwrap_or("it did not say why");
            out.note(format_args!("{}: not ready on {}: {reason}", order.name, node.node));
        }
    }
    if let Some((order, _)) = done.first() {
        let curl = order.settings.http.first().map(|trigger| format!("{}  or  ", urls::curl(base, trigger)));
        out.hint(format_args!("{}dunlin invoke {}", curl.unwrap_or_default(), order.name));
    }
    Ok(())
}

fn describe<'a>(order: &'a Order, result: &'a DeployResult, base: &str) -> Deployed<'a> {
    Deployed {
        name: &order.name,
        revision: result.revision.as_str(),
        changed: result.changed,
        artifact: result.artifact.to_string(),
        size_bytes: order.component.bytes.len(),
        routes: &result.routes,
        urls: urls::urls(base, &order.settings),
        ready: ready(result),
        nodes: result.nodes.len(),
        unready: unready(result).collect(),
        version: result.version,
    }
}

fn line(order: &Order, result: &DeployResult, base: &str, out: &Output) -> String {
    let state = match result.changed {
        true => format!("ready on {} of {}", ready(result), result.nodes.len()),
        false => "no change".into(),
    };
    let urls = urls::urls(base, &order.settings).join(" ");
    let name = out.paint(Style::Name, order.name.as_str());
    format!("{name}  {}  {urls}  {}", result.revision, out.paint(Style::Good, &state))
}

fn unready(result: &DeployResult) -> impl Iterator<Item = &NodeReady> {
    result.nodes.iter().filter(|node| !node.ready)
}

fn ready(result: &DeployResult) -> usize {
    result.nodes.iter().filter(|node| node.ready).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn order(line: &[&str]) -> anyhow::Result<Order> {
        component_order(&Line::try_parse_from(std::iter::once(&"x").chain(line))?.args)
    }

    #[test]
    fn a_component_is_called_after_its_file_unless_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("My_Function.wasm");
        std::fs::write(&file, wat::parse_str("(component)").unwrap()).unwrap();
        let path = file.to_str().unwrap();
        let made = order(&[path]).unwrap();
        assert_eq!((made.name.as_str(), made.settings.http[0].route.as_str()), ("my-function", "/my-function/{*path}"));
        let made = order(&[path, "--name", "b", "--route", "/r", "--env", "A=1"]).unwrap();
        assert_eq!((made.name.as_str(), made.settings.http[0].route.as_str()), ("b", "/r"));
        assert_eq!(made.settings.env["A"], "1");
        assert!(order(&[path, "--name", "a", "--name", "b"]).is_err());
        assert!(order(&[path, "--memory", "1B"]).is_err());
    }

    #[test]
    fn folders_and_manifests_are_projects() {
        assert!(is_component(Path::new("no-such.wasm")));
        assert!(!is_component(Path::new(".")) && !is_component(Path::new("x/dunlin.toml")));
    }
}
