//! `dunlin result`: what became of a call that nobody waited for.

use http::StatusCode;
use std::time::{Duration, Instant};

use super::invoke;
use crate::{
    client::Client,
    config::ServerArgs,
    exit::{Exit, Failure},
    output::{Output, Style, tame},
    signals,
    wire::{Record, State},
};

const EXAMPLES: &str = "\
Examples:
  id=$(dunlin invoke report --async)
  dunlin result $id                     how far it is, and its answer if there is one
  dunlin result $id --wait > report     waits for 30s
  dunlin result $id --wait=1h --fail    ends with 5 if the function's status is 400 or above
  dunlin result $id --cancel

Ends with 0 if the function answered, 5 if it never did, 4 if the call was cancelled, 7 if it is not over.";

/// Show what became of an asynchronous call.
///
/// The answer's body goes to stdout, what is known about the call to stderr.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The id that `dunlin invoke --async` wrote
    id: String,
    /// Wait for its end, for 30s or the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s",
        value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Cancel it
    #[arg(long, conflicts_with_all = ["wait", "fail"])]
    cancel: bool,
    /// End with 5 if the function's status is 400 or above
    #[arg(long)]
    fail: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    signals::or_interrupted(async {
        if args.cancel {
            client.cancel(&args.id).await?;
            if out.is_json() {
                return out.json(&serde_json::json!({ "id": args.id, "cancelled": true }));
            }
            out.note(format_args!("cancelled {}", args.id));
            return Ok(());
        }
        let record = ended(&client, &args.id, args.wait.unwrap_or_default()).await?;
        show(&client, &record, out).await?;
        verdict(&record, args.fail)
    })
    .await
}

/// The record of the call once it has ended, or after `wait`.
async fn ended(client: &Client, id: &str, wait: Duration) -> anyhow::Result<Record> {
    let started = Instant::now();
    loop {
        let left = wait.saturating_sub(started.elapsed());
        let record = client.record(id, left).await?;
        if record.state.is_final() || started.elapsed() >= wait {
            return Ok(record);
        }
    }
}

async fn show(client: &Client, record: &Record, out: &Output) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json(record);
    }
    out.note(out.paint_err(Style::Dim, &summary(record)));
    // A try that failed may have answered too; that is not the result.
    if record.response.is_none() || !record.state.is_final() {
        return Ok(());
    }
    let answer = client.result(&record.id).await?;
    let answer = if invoke::is_problem(&answer) { invoke::platform_problem(client, answer).await? } else { answer };
    invoke::copy(answer, out).await
}

/// `done: 200 OK, 2 tries, on n1, took 1.2 s`
fn summary(record: &Record) -> String {
    let state = match record.state {
        State::Queued => "queued",
        State::Running => "running",
        State::Done => "done",
        State::Dead => "dead",
        State::Cancelled => "cancelled",
    };
    let status = record
        .response
        .as_ref()
        .map(|head| StatusCode::from_u16(head.status).map_or_else(|_| head.status.to_string(), |s| s.to_string()));
    let took = record.ended_ms.map(|end| end.saturating_sub(record.submitted_ms) as f64 / 1_000.0);
    let tries = if record.attempts == 1 { "1 try".into() } else { format!("{} tries", record.attempts) };
    let parts = [
        status,
        Some(tries),
        record.node.as_ref().map(|node| format!("on {node}")),
        took.map(|seconds| format!("took {seconds:.1} s")),
    ];
    format!("{state}: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// How the command ends.
fn verdict(record: &Record, fail: bool) -> anyhow::Result<()> {
    let Record { id, function, state, reason, .. } = record;
    let reason = reason.as_deref().map(|reason| format!(": {}", tame(reason))).unwrap_or_default();
    let failure = match state {
        State::Done => match &record.response {
            Some(head) if fail && head.status >= 400 => {
                Failure::new(Exit::Function, format!("function `{function}` answered {}", head.status))
            }
            _ => return Ok(()),
        },
        State::Dead => Failure::new(Exit::Function, format!("function `{function}` never did it{reason}"))
            .hint(format!("`dunlin dlq list --function {function}` has the call, `dunlin dlq redrive` tries it again")),
        State::Cancelled => Failure::caller(format!("call {id} was cancelled")),
        State::Queued | State::Running => Failure::new(Exit::NotYet, format!("call {id} is not over{reason}"))
            .hint(format!("dunlin result {id} --wait")),
    };
    Err(failure.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16) -> serde_json::Value {
        serde_json::json!({ "status": status, "headers": [], "bytes": 0 })
    }

    fn record(state: State, status: Option<u16>) -> Record {
        Record {
            id: "7".into(),
            function: "f".parse().unwrap(),
            state,
            submitted_ms: 1_000,
            started_ms: None,
            ended_ms: state.is_final().then_some(2_500),
            attempts: 2,
            node: Some("n1".into()),
            reason: None,
            response: status.map(|status| serde_json::from_value(head(status)).unwrap()),
        }
    }

    fn code(record: &Record, fail: bool) -> Exit {
        verdict(record, fail).map_or_else(|error| Exit::of(&error), |()| Exit::Ok)
    }

    #[test]
    fn the_exit_code_says_how_far_the_call_is() {
        assert_eq!(code(&record(State::Done, Some(200)), true), Exit::Ok);
        assert_eq!(code(&record(State::Done, Some(404)), false), Exit::Ok);
        assert_eq!(code(&record(State::Done, Some(404)), true), Exit::Function);
        assert_eq!(code(&record(State::Dead, None), false), Exit::Function);
        assert_eq!(code(&record(State::Cancelled, None), false), Exit::Caller);
        assert_eq!(code(&record(State::Queued, None), false), Exit::NotYet);
        assert_eq!(code(&record(State::Running, None), true), Exit::NotYet);
    }

    #[test]
    fn a_summary_has_what_is_known() {
        assert_eq!(summary(&record(State::Done, Some(200))), "done: 200 OK, 2 tries, on n1, took 1.5 s");
        assert_eq!(summary(&Record { attempts: 1, node: None, ..record(State::Running, None) }), "running: 1 try");
    }
}
