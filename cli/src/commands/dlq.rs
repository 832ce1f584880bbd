//! `dunlin dlq`: events that were given up: look at them, try them again, throw them away.

use clap::Subcommand;
use dunlin_api::FunctionName;
use futures::{StreamExt as _, stream};
use serde_json::json;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::invoke;
use crate::{
    client::Client,
    config::ServerArgs,
    confirm::confirm,
    exit::Failure,
    output::{Output, Style, tame},
    progress::{self, Transfer},
    signals, time,
    wire::{LetterPage, LetterSummary},
};

mod show;

const EXAMPLES: &str = "\
Examples:
  dunlin dlq list --function ship       what was given up, the oldest first
  dunlin dlq show 12                    subject, headers, payload, reason and the last log lines
  dunlin dlq redrive 12 13              give them to their function again
  dunlin dlq redrive --all --function ship
  dunlin dlq redrive 12 --to orders.v2  publish it to another subject
  dunlin dlq purge 12                   throw it away";

/// Most that the node lists at once.
const PAGE: usize = 100;
/// Purged at once; redriving goes one by one, so that their order stays.
const AT_ONCE: usize = 16;
/// Characters of a reason in a table.
const REASON: usize = 60;

/// Dead letters: events that failed too often or were rejected.
///
/// They stay for 30 days, or until they are redriven or purged.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List them, the oldest first
    #[command(after_help = EXAMPLES, visible_alias = "ls")]
    List {
        /// Those of this function only
        #[arg(long, short, value_name = "NAME")]
        function: Option<FunctionName>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Go on after this number
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show one with all that is known of it
    #[command(after_help = EXAMPLES)]
    Show {
        /// Its number
        number: u64,
        /// Write its payload and nothing else, byte for byte
        #[arg(long)]
        payload: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Try them again: their tries are counted from the beginning
    #[command(after_help = EXAMPLES)]
    Redrive {
        #[command(flatten)]
        which: Which,
        /// Publish them to this subject instead of giving them to their function
        #[arg(long, value_name = "SUBJECT")]
        to: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Throw them away
    #[command(after_help = EXAMPLES)]
    Purge {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(clap::Args, Debug)]
struct Which {
    /// Their numbers
    #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with = "all")]
    numbers: Vec<u64>,
    /// All that there are now
    #[arg(long)]
    all: bool,
    /// With --all: those of this function only
    #[arg(long, short, value_name = "NAME", requires = "all", conflicts_with = "numbers")]
    function: Option<FunctionName>,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    signals::or_interrupted(async {
        match args.what {
            What::List { function, limit, after, server } => {
                list(&Client::new(server.resolve()?)?, function.as_ref(), after, limit, out).await
            }
            What::Show { number, payload, server } => {
                let client = Client::new(server.resolve()?)?;
                if payload {
                    return invoke::copy(client.letter_payload(number).await?, out).await;
                }
                show::show(&client.letter(number).await?, out)
            }
            What::Redrive { which, to, server } => {
                let client = Client::new(server.resolve()?)?;
                let act = |number| client.redrive(number, to.as_deref());
                let (done, failed) = each(&client, &which, "redriving", 1, out, act).await?;
                for (number, redriven) in done.iter().filter(|_| !which.all && !out.is_json()) {
                    out.note(format_args!("{number}: {}", tame(&redriven.to)));
                }
                let places: Vec<_> = done.iter().map(|(_, redriven)| redriven).collect();
                report("redriven", &json!(places), done.len(), failed, out)
            }
            What::Purge { which, yes, server } => {
                let client = Client::new(server.resolve()?)?;
                if which.all && !yes {
                    let whose = which.function.as_ref().map(|name| format!(" of `{name}`")).unwrap_or_default();
                    let question = format!("Throw away all dead letters{whose} on {}?", client.url());
                    confirm(&question, "purging all dead letters")?;
                }
                let (done, failed) =
                    each(&client, &which, "purging", AT_ONCE, out, |number| client.purge(number)).await?;
                let numbers: Vec<_> = done.iter().map(|(number, ())| number).collect();
                report("purged", &json!(numbers), done.len(), failed, out)
            }
        }
    })
    .await
}

async fn list(
    client: &Client,
    function: Option<&FunctionName>,
    after: u64,
    limit: u64,
    out: &Output,
) -> anyhow::Result<()> {
    let page = page(client, function, after, usize::try_from(limit).unwrap_or(usize::MAX)).await?;
    out.either(&page, || table(&page.letters, out))?;
    match (page.letters.first(), page.next) {
        (None, _) => out.hint("no event was given up"),
        (Some(_), Some(next)) => out.hint(format_args!("there may be more: `dunlin dlq list --after {next}`")),
        (Some(first), None) => out.hint(format_args!("dunlin dlq show {}", first.sequence)),
    }
    Ok(())
}

/// Up to `limit` letters after number `after`.
async fn page(
    client: &Client,
    function: Option<&FunctionName>,
    after: u64,
    limit: usize,
) -> anyhow::Result<LetterPage> {
    let mut all = LetterPage { letters: Vec::new(), next: Some(after) };
    while let Some(after) = all.next.filter(|_| all.letters.len() < limit) {
        let page = client.letters(function, after, PAGE.min(limit - all.letters.len())).await?;
        all.letters.extend(page.letters);
        all.next = page.next;
    }
    Ok(all)
}

fn table(letters: &[LetterSummary], out: &Output) -> String {
    let rows = letters.iter().map(|letter| {
        [
            letter.sequence.to_string(),
            time::local(letter.died_ms),
            out.paint(Style::Name, letter.function.as_str()),
            letter.trigger.clone(),
            tame(&letter.subject),
            letter.attempts.to_string(),
            shortened(&tame(&letter.reason)),
        ]
    });
    out.table(["NUMBER", "DIED", "FUNCTION", "TRIGGER", "SUBJECT", "TRIES", "REASON"], rows)
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(REASON) {
        Some((at, _)) => format!("{}…", &reason[..at]),
        None => reason.into(),
    }
}

/// What was done to each letter, and the first error.
type Done<T> = (Vec<(u64, T)>, Option<anyhow::Error>);

/// Does `act` to each letter that is meant, `at_once` at a time. The numbers are known before it begins, so that those that
/// die again meanwhile are left alone; with --all, one that somebody else took meanwhile is no failure.
async fn each<T, F: Future<Output = anyhow::Result<T>>>(
    client: &Client,
    which: &Which,
    doing: &str,
    at_once: usize,
    out: &Output,
    act: impl Fn(u64) -> F,
) -> anyhow::Result<Done<T>> {
    let numbers = if which.all {
        let all = page(client, which.function.as_ref(), 0, usize::MAX).await?;
        all.letters.iter().map(|letter| letter.sequence).collect()
    } else {
        which.numbers.clone()
    };
    let (count, total) = (Arc::new(AtomicU64::new(0)), numbers.len() as u64);
    let transfer = Transfer { done: count.clone(), total };
    let acts = stream::iter(numbers).map(|number| {
        let (act, count) = (act(number), &count);
        async move {
            let result = act.await;
            count.fetch_add(1, Ordering::Relaxed);
            (number, result)
        }
    });
    let results: Vec<_> = progress::count(out, doing.into(), transfer, acts.buffered(at_once).collect()).await;
    let (mut done, mut failed) = (Vec::new(), None);
    for (number, result) in results {
        match result {
            Ok(value) => done.push((number, value)),
            Err(error) if which.all && is_gone(&error) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Ok((done, failed))
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.code.as_deref() == Some("no-dead-letter"))
}

fn report(
    word: &str,
    letters: &serde_json::Value,
    count: usize,
    failed: Option<anyhow::Error>,
    out: &Output,
) -> anyhow::Result<()> {
    if out.is_json() {
        out.json(&json!({ word: letters }))?;
    } else {
        out.note(format_args!("{word} {count} dead letter{}", if count == 1 { "" } else { "s" }));
    }
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn either_numbers_or_all_are_named() {
        let parse = |line: &[&str]| Line::try_parse_from(["x"].iter().chain(line));
        for good in [&["redrive", "1", "2"][..], &["purge", "--all"], &["redrive", "--all", "-f", "a", "--to", "b"]] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["redrive"][..],
            &["purge", "1", "--all"],
            &["purge", "1", "-f", "a"],
            &["purge", "-f", "a"],
            &["purge", "x"],
            &["show"],
            &[],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(REASON + 1);
        assert_eq!(shortened(&long), format!("{}…", "ä".repeat(REASON)));
        assert_eq!(shortened(&long[2..]), long[2..]);
    }
}
