//! `dunlin doctor`: checks a cluster end to end.

use dunlin_scheduler::control::{Finding, Level};

use crate::{
    client::Client,
    config::ServerArgs,
    exit::{Exit, Failure},
    output::{Output, Style},
};

const EXAMPLES: &str = "\
Examples:
  dunlin doctor                                   NATS, stores, nodes, clocks, revisions: each finding with its remedy
  dunlin doctor --server http://10.0.0.2:8081     as another node sees it

Ends with exit code 6 if something does not work.";

/// Check the cluster.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    let findings = client.doctor().await?;
    out.either(&serde_json::json!({ "findings": findings }), || findings.iter().map(|f| show(f, out)).collect())?;
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Platform, "one thing does not work").into()),
        many => Err(Failure::new(Exit::Platform, format!("{many} things do not work")).into()),
    }
}

fn show(finding: &Finding, out: &Output) -> String {
    let (style, mark) = match finding.level {
        Level::Good => (Style::Good, "ok"),
        Level::Warning => (Style::Strong, "warning"),
        Level::Problem => (Style::Bad, "problem"),
    };
    let remedy = finding.remedy.as_ref().map(|remedy| format!("{:9}{} {remedy}\n", "", out.paint(Style::Dim, "→")));
    let mark = format!("{}{:pad$}", out.paint(style, mark), "", pad = 9 - mark.len());
    format!("{mark}{}: {}\n{}", finding.about, finding.message, remedy.unwrap_or_default())
}
