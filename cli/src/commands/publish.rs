//! `dunlin publish`: sends messages to a subject, through the admin API.

use bytes::Bytes;
use dunlin_api::ByteSize;
use dunlin_scheduler::store::events::MAX_MESSAGE_BYTES;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::HeaderValue;
use serde_json::json;
use std::{
    future,
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::io::AsyncReadExt as _;

use crate::{
    client::{Client, Outgoing, Reply},
    config::ServerArgs,
    exit::Failure,
    output::{Output, Style, tame},
    progress::{self, Transfer},
    signals,
    wire::Published,
};

const EXAMPLES: &str = "\
Examples:
  dunlin publish orders.paid -d '{\"order\": 7}'          text
  dunlin publish photos.new -d @photo.jpg               a file; `-d @-` or nothing reads stdin
  dunlin publish orders.paid -d 7 -H 'Nats-Msg-Id: 7'   with a header
  dunlin publish orders.quote -d '{\"item\": 3}' --wait   waits for a reply and writes its payload
  dunlin publish load.test -d x --count 100000          many, and how fast they went";

/// Messages under way at once with --count.
const AT_ONCE: usize = 32;

/// Publish a message to a subject.
///
/// If a stream takes the subject, the message is stored when this returns; else those have it who listen now.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The subject, without wildcards
    subject: String,
    /// Payload: text, @FILE, or @- for stdin [default: stdin, unless it is a terminal]
    #[arg(long, short, value_name = "DATA")]
    data: Option<String>,
    /// Message header; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<HeaderValue>,
    /// Publish it so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Wait for a reply, for 5s or the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "5s",
        value_parser = humantime::parse_duration, conflicts_with = "count")]
    wait: Option<Duration>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    signals::or_interrupted(async {
        let payload = payload(args.data.as_deref()).await?;
        let message = Outgoing { subject: args.subject, headers: args.header, payload };
        match (args.wait, args.count) {
            (Some(wait), _) => reply(client.request_reply(&message, wait).await?, out),
            (None, 1) => {
                let published = client.publish(&message).await?;
                out.either(&published, || format!("{}\n", place(&published)))
            }
            (None, count) => many(&client, &message, count, out).await,
        }
    })
    .await
}

fn reply(reply: Reply, out: &Output) -> anyhow::Result<()> {
    let Reply { headers, payload } = reply;
    if out.is_json() {
        let text = std::str::from_utf8(&payload).map_or_else(|_| json!(payload.to_vec()), |text| json!(text));
        return out.json(&json!({ "headers": headers, "payload": text }));
    }
    if out.is_watched() {
        for (name, value) in &headers {
            out.note(out.paint_err(Style::Dim, &tame(&format!("{name}: {value}"))));
        }
    }
    out.bytes(&payload)
}

/// `stored in ORDERS as 17`
fn place(published: &Published) -> String {
    match (&published.stream, published.sequence) {
        (Some(stream), Some(sequence)) => format!("stored in {stream} as {sequence}"),
        _ => "sent to those who listen now".into(),
    }
}

async fn many(client: &Client, message: &Outgoing, count: u64, out: &Output) -> anyhow::Result<()> {
    let done = Arc::new(AtomicU64::new(0));
    let publish = |_| async {
        let published = client.publish(message).await?;
        done.fetch_add(1, Ordering::Relaxed);
        anyhow::Ok(published)
    };
    let started = Instant::now();
    let all = stream::iter(0..count).map(publish).buffer_unordered(AT_ONCE);
    let all = all.try_fold(Many::default(), |many, published| future::ready(Ok(many.and(published))));
    let transfer = Transfer { done: done.clone(), total: count };
    let many = progress::count(out, format!("publishing to {}", message.subject), transfer, all).await;
    let sent = done.load(Ordering::Relaxed);
    let many = many.map_err(|error| error.context(format!("{sent} of {count} messages were published, then")))?;
    let seconds = started.elapsed().as_secs_f64();
    let told = json!({
        "subject": message.subject, "count": count, "stream": many.stream,
        "first": many.range.map(|(first, _)| first), "last": many.range.map(|(_, last)| last), "seconds": seconds,
    });
    out.either(&told, || {
        let rate = count as f64 / seconds;
        format!("{count} messages in {seconds:.2} s, {rate:.0}/s: {}\n", many.place())
    })
}

/// Where many messages went.
#[derive(Default)]
struct Many {
    stream: Option<String>,
    /// The lowest and the highest number.
    range: Option<(u64, u64)>,
}

impl Many {
    fn and(mut self, published: Published) -> Self {
        self.stream = published.stream.or(self.stream);
        if let Some(n) = published.sequence {
            self.range = Some(self.range.map_or((n, n), |(first, last)| (first.min(n), last.max(n))));
        }
        self
    }

    fn place(&self) -> String {
        match (&self.stream, self.range) {
            (Some(stream), Some((first, last))) => format!("stored in {stream} as {first} to {last}"),
            _ => "sent to those who listen now".into(),
        }
    }
}

/// The whole payload; read no further than a message may be large.
async fn payload(data: Option<&str>) -> anyhow::Result<Bytes> {
    let path = match data {
        Some(data) => match data.strip_prefix('@') {
            Some("-") => "/dev/stdin",
            Some(path) => path,
            None => return Ok(Bytes::copy_from_slice(data.as_bytes())),
        },
        None if std::io::stdin().is_terminal() => return Ok(Bytes::new()),
        None => "/dev/stdin",
    };
    let unreadable = |error| Failure::caller(format!("cannot read {path}: {error}"));
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut payload = Vec::new();
    file.take(MAX_MESSAGE_BYTES as u64 + 1).read_to_end(&mut payload).await.map_err(unreadable)?;
    if payload.len() > MAX_MESSAGE_BYTES {
        let most = ByteSize(MAX_MESSAGE_BYTES as u64);
        let failure = Failure::caller(format!("{path} is larger than {most}, the most that a message may have"));
        return Err(failure.hint("publish where it can be fetched instead").into());
    }
    Ok(payload.into())
}

fn parse_header(text: &str) -> Result<HeaderValue, String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("`{}` is not a header name", name.escape_debug()));
    }
    HeaderValue::from_bytes(format!("{name}: {}", value.trim()).as_bytes())
        .map_err(|_| "the value has characters that a header cannot carry".into())
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

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from(["x", "a.b"].iter().chain(line)).map(|line| line.args)
    }

    #[test]
    fn waiting_takes_a_time_only_after_an_equals_sign() {
        assert_eq!(parse(&["--wait"]).unwrap().wait, Some(Duration::from_secs(5)));
        assert_eq!(parse(&["--wait=1m"]).unwrap().wait, Some(Duration::from_secs(60)));
        assert_eq!((parse(&[]).unwrap().wait, parse(&[]).unwrap().count), (None, 1));
        for bad in [&["--wait", "1m"][..], &["--wait=x"], &["--count", "0"], &["--wait", "--count", "2"], &["-H", "x"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn headers_keep_their_case() {
        assert_eq!(parse_header("Nats-Msg-Id:7").unwrap(), "Nats-Msg-Id: 7");
        assert!(parse_header("a b: c").is_err() && parse_header(": c").is_err() && parse_header("a: b\nc").is_err());
    }

    #[test]
    fn the_place_of_many_is_a_range() {
        let at = |stream: Option<&str>, sequence| Published {
            subject: "a".into(),
            stream: stream.map(Into::into),
            sequence,
        };
        let many = [5, 3, 9].into_iter().fold(Many::default(), |many, n| many.and(at(Some("S"), Some(n))));
        assert_eq!(many.place(), "stored in S as 3 to 9");
        assert_eq!(Many::default().and(at(None, None)).place(), "sent to those who listen now");
        assert_eq!(place(&at(Some("S"), Some(7))), "stored in S as 7");
    }

    #[tokio::test]
    async fn a_payload_over_the_limit_is_refused_before_it_is_sent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let data = format!("@{}", file.path().display());
        file.as_file().set_len(MAX_MESSAGE_BYTES as u64).unwrap();
        assert_eq!(payload(Some(&data)).await.unwrap().len(), MAX_MESSAGE_BYTES);
        file.as_file().set_len(MAX_MESSAGE_BYTES as u64 + 1).unwrap();
        assert!(payload(Some(&data)).await.unwrap_err().to_string().contains("larger than"));
        assert!(payload(Some("@/no/such/file")).await.is_err());
        assert_eq!(payload(Some("text")).await.unwrap(), "text");
    }
}
