//! `dunlin logs`: what functions print. `dev` and `serve` show lines in the same form.

use dunlin_api::{FunctionName, LogLine, LogStream};
use futures::{StreamExt as _, pin_mut};

use crate::{
    client::{Client, LogQuery},
    config::ServerArgs,
    output::{Output, Style},
    signals::Stop,
    time,
};

const EXAMPLES: &str = "\
Examples:
  dunlin logs                    the last lines of all functions
  dunlin logs cart -f            those of `cart`, and every new one until Ctrl-C
  dunlin logs --tail 1000 --output json | jq -r .text";

/// Show what functions print.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only this function
    name: Option<FunctionName>,
    /// Go on with new lines until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How many of the last lines to show
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=10_000))]
    tail: u32,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    let query = LogQuery { function: args.name, tail: args.tail, follow: args.follow };
    let mut stop = Stop::listen()?;
    tokio::select! {
        result = show(&client, &query, out) => result,
        // Leaving a log is how following it ends.
        () = stop.asked() => Ok(()),
    }
}

async fn show(client: &Client, query: &LogQuery, out: &Output) -> anyhow::Result<()> {
    let lines = client.logs(query).await?;
    pin_mut!(lines);
    while let Some(line) = lines.next().await {
        let line = line?;
        if out.is_json() { out.json(&line)? } else { out.data(format(&line, |style, text| out.paint(style, text)))? }
    }
    Ok(())
}

/// `15:41:50.123 hello greeting Ada`; what did not come from stdout says so.
pub(crate) fn format(line: &LogLine, paint: impl Fn(Style, &str) -> String) -> String {
    let stream = match line.stream {
        LogStream::Stdout => String::new(),
        LogStream::Stderr => paint(Style::Dim, "stderr: "),
        LogStream::Runtime => paint(Style::Bad, "runtime: "),
    };
    let time = paint(Style::Dim, &time::clock(line.time_ms));
    format!("{time} {} {stream}{}", paint(Style::Name, line.function.as_str()), line.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_api::{Digest, InvocationId, RevisionId, Settings};

    #[test]
    fn a_line_says_function_and_stream() {
        let line = LogLine {
            time_ms: 0,
            function: "hello".parse().unwrap(),
            revision: RevisionId::of(&Digest::of(b""), &Settings::default()),
            invocation: InvocationId::new(),
            stream: LogStream::Stderr,
            text: "oh".into(),
        };
        let plain = |line: &LogLine| format(line, |_, text| text.into());
        assert!(plain(&line).ends_with(" hello stderr: oh"));
        assert!(plain(&LogLine { stream: LogStream::Stdout, ..line }).ends_with(" hello oh"));
    }
}
