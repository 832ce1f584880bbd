//! `dunlin dev`: builds and serves a project, and does it again for every function whose sources change.
//!
//! A round looks at all functions, builds and deploys those that are not what the last round tried, and waits until the
//! files stir. A build that fails or a deploy that is refused leaves the last good revision serving. What is deployed and
//! the key-value stores stay in the project's `.dunlin` between runs.

use anyhow::Context as _;
use dunlin_api::{Digest, FunctionName, LogLine, manifest::Function};
use futures::{StreamExt as _, pin_mut};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    build,
    deploy::{self, Order},
    logs::format,
};
use crate::{
    client::{Client, LogQuery},
    config::Server,
    node::{Bound, NodeConfig},
    output::{Output, Style},
    project::{MANIFEST, Project},
    signals::Stop,
    urls,
    watch::{Watch, fingerprint},
};

const EXAMPLES: &str = "\
Examples:
  dunlin dev                           the project here
  dunlin dev shop --http 127.0.0.1:0   the one in `shop`, on a free port";

/// The same address every time is one that can stay open in a browser; a free port if it is taken.
const PREFERRED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);
/// Running invocations get this long at Ctrl-C.
const GRACE: Duration = Duration::from_secs(1);

/// Build and serve a project, and do it again on every change.
///
/// If a build fails, the last good revision goes on serving. What functions print goes to stdout. Ctrl-C ends it.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The project's folder, or its dunlin.toml
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where functions are served [default: 127.0.0.1:3000, or a free port if that is taken]
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<SocketAddr>,
    /// Where the admin API is served, for `dunlin list` and the like with --server
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    admin: SocketAddr,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let project = Project::load(&args.path)?;
    let config = NodeConfig {
        http: args.http.unwrap_or(PREFERRED),
        admin: args.admin,
        data: data_dir(&project.dir)?,
        volatile: false,
        code: project.dir.join(".dunlin"),
        code_memory: dunlin_runtime::DEFAULT_CODE_MEMORY,
        slots: None,
        token: None,
        grace: GRACE,
        timing: true,
        cluster: None,
        open: None,
    };
    let mut node = listen(config, args.http.is_some()).await?.start().await?;
    let client = Client::new(Server { url: node.admin_url(), token: None })?;
    out.note(format_args!("http     {}/", node.http_url()));
    out.note(format_args!("admin    {}/", node.admin_url()));
    let mut dev = Dev { path: args.path, base: node.http_url(), client: &client, out, project, tried: BTreeMap::new() };
    let outcome = tokio::select! {
        () = stop.asked() => Ok(()),
        failure = node.failed() => Err(failure),
        ended = dev.run() => ended.map(|never| match never {}),
        printed = print_logs(&client, out) => printed,
    };
    tokio::select! {
        _ = node.stop() => {}
        () = stop.asked() => {}
    }
    outcome
}

async fn listen(config: NodeConfig, given: bool) -> anyhow::Result<Bound> {
    match Bound::listen(config.clone()).await {
        Err(_) if !given => Bound::listen(NodeConfig { http: (Ipv4Addr::LOCALHOST, 0).into(), ..config }).await,
        bound => bound,
    }
}

/// `.dunlin` in the project, which git then leaves alone.
fn data_dir(project: &Path) -> anyhow::Result<PathBuf> {
    let dir = project.join(".dunlin");
    let made = fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(".gitignore"), "*\n"));
    made.with_context(|| format!("cannot write to {}", dir.display()))?;
    Ok(dir)
}

async fn print_logs(client: &Client, out: &Output) -> anyhow::Result<()> {
    let lines = client.logs(&LogQuery { function: None, tail: 0, follow: true }).await?;
    pin_mut!(lines);
    while let Some(line) = lines.next().await {
        let line: LogLine = line?;
        if out.is_json() { out.json(&line)? } else { out.data(format(&line, |style, text| out.paint(style, text)))? }
    }
    Ok(())
}

/// What the rounds know of each other.
struct Dev<'a> {
    path: PathBuf,
    base: String,
    client: &'a Client,
    out: &'a Output,
    /// As its manifest last parsed.
    project: Project,
    /// What each function was when it was last built and deployed, or failed to.
    tried: BTreeMap<FunctionName, (Digest, String)>,
}

impl Dev<'_> {
    async fn run(&mut self) -> anyhow::Result<Infallible> {
        self.remove_unknown().await?;
        let mut manifest_error = None;
        loop {
            // Watching begins before looking, so that no change falls in between.
            let mut watch = Watch::new(&self.watched())?;
            match Project::load(&self.path) {
                Ok(project) => {
                    self.project = project;
                    manifest_error = None;
                    self.round().await?;
                }
                Err(error) => {
                    let text = error.to_string();
                    if manifest_error.as_ref() != Some(&text) {
                        self.out.error(&error);
                        manifest_error = Some(text);
                    }
                }
            }
            watch.stirred().await;
        }
    }

    /// Brings every function that changed up to date. Its failures are shown, not returned.
    async fn round(&mut self) -> anyhow::Result<()> {
        let functions: Vec<_> = self.project.manifest.functions.clone().into_iter().collect();
        let mut worked = false;
        for (name, function) in &functions {
            let now = (self.fingerprint(function), format!("{function:?}"));
            if self.tried.get(name) == Some(&now) {
                continue;
            }
            worked = true;
            self.warn_if_unwatched(name, function);
            self.tried.insert(name.clone(), now);
            if let Err(error) = self.update(name, function).await {
                self.out.error(&error);
                self.out.note(format_args!("{name}: what served before goes on serving"));
            }
        }
        self.remove_unknown().await?;
        if worked {
            self.out.note(self.out.paint_err(Style::Dim, "watching for changes"));
        }
        Ok(())
    }

    async fn update(&self, name: &FunctionName, function: &Function) -> anyhow::Result<()> {
        let started = Instant::now();
        let components = build::all(&self.project, &[(name, function)], self.out).await?;
        let component = components.into_iter().next().context("one function makes one component")?;
        let order = Order { name: name.clone(), component, settings: function.settings(name) };
        let result = deploy::ship(self.client, &order, self.out).await?;
        let urls = urls::urls(&self.base, &order.settings).join(" ");
        let state = if result.changed { "ready" } else { "no change" };
        let state = format!("{state} after {:.1} s", started.elapsed().as_secs_f64());
        let name = self.out.paint_err(Style::Name, name.as_str());
        self.out.note(format_args!("{name}  {urls}  {}", self.out.paint_err(Style::Good, &state)));
        Ok(())
    }

    /// Functions of an earlier manifest do not go on serving.
    async fn remove_unknown(&mut self) -> anyhow::Result<()> {
        let known = &self.project.manifest.functions;
        for function in self.client.functions().await?.functions {
            if !known.contains_key(&function.name) {
                self.client.remove(&function.name, true).await?;
                self.tried.remove(&function.name);
                self.out.note(format_args!("{} is not in {MANIFEST} any more: removed", function.name));
            }
        }
        Ok(())
    }

    fn warn_if_unwatched(&self, name: &FunctionName, function: &Function) {
        if !self.sources(function).iter().any(|path| path.exists()) {
            let paths: Vec<_> = function.watch.iter().map(|path| path.display().to_string()).collect();
            let paths = paths.join(", ");
            self.out
                .note(format_args!("{name}: nothing to watch at {paths}; name its sources with `watch` in {MANIFEST}"));
        }
    }

    fn fingerprint(&self, function: &Function) -> Digest {
        let product = function.build.as_ref().map(|_| self.project.source(function)).unwrap_or_default();
        fingerprint(&self.sources(function), &product)
    }

    fn sources(&self, function: &Function) -> Vec<PathBuf> {
        let mut paths: Vec<_> = function.watch.iter().map(|path| self.project.dir.join(path)).collect();
        if function.build.is_none() {
            // Somebody else builds it: the component itself is the source.
            paths = vec![self.project.source(function)];
        }
        paths
    }

    /// Everything whose change may matter, the manifest included.
    fn watched(&self) -> Vec<PathBuf> {
        let functions = self.project.manifest.functions.values();
        let mut paths: Vec<_> = functions.flat_map(|function| self.sources(function)).collect();
        paths.push(self.project.dir.join(MANIFEST));
        paths
    }
}
