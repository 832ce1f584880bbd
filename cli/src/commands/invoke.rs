//! `dunlin invoke`: one HTTP request to a function, through the admin API, so that it works whatever the routes are.

use anyhow::Context as _;
use dunlin_api::{FunctionName, Problem};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Body, Response};
use std::path::Path;
use tokio_util::io::ReaderStream;

use crate::{
    client::Client,
    config::ServerArgs,
    exit::{Exit, Failure},
    output::{Output, Style},
    signals, urls,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// RFC 7240 §4.1.
const PREFER: HeaderName = HeaderName::from_static("prefer");
const RESPOND_ASYNC: HeaderValue = HeaderValue::from_static("respond-async");

const EXAMPLES: &str = "\
Examples:
  dunlin invoke hello                                   GET the first route of `hello`
  dunlin invoke hello '/hello/?name=Ada' -i             with status and headers
  dunlin invoke cart -d '{\"item\": 7}'                   POST text
  dunlin invoke thumbnail -d @photo.jpg > small.png     POST a file
  tail -f log | dunlin invoke count -d @-               POST a stream
  dunlin invoke report --async                          do not wait: writes an id for `dunlin result`

Ends with 0 if the function answered, whatever its status, unless --fail is given.";

/// Call a function.
///
/// The answer's body goes to stdout as it comes; on a terminal, what is known about the call goes to stderr.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The function
    name: FunctionName,
    /// Path and query [default: what its first route begins with]
    path: Option<String>,
    /// Method [default: GET, or POST with --data]
    #[arg(long, short = 'X', value_name = "METHOD")]
    request: Option<Method>,
    /// Body: text, @FILE, or @- for stdin
    #[arg(long, short, value_name = "DATA")]
    data: Option<String>,
    /// Request header; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Write status and headers before the body
    #[arg(long, short)]
    include: bool,
    /// Say node, revision and times, also when stderr is no terminal
    #[arg(long, short)]
    verbose: bool,
    /// End with 5 if the function's status is 400 or above
    #[arg(long)]
    fail: bool,
    /// Do not wait for the answer: the call is stored and tried until it succeeds, and its id written
    #[arg(long = "async", conflicts_with_all = ["include", "fail"])]
    later: bool,
    /// A call with a key that was seen before is not made again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<HeaderValue>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let client = Client::new(args.server.resolve()?)?;
    signals::or_interrupted(async {
        let path = match &args.path {
            Some(path) => rooted(path),
            None => urls::default_path(client.function(&args.name).await?.settings()?).to_owned(),
        };
        let (body, kind) = body(args.data.as_deref()).await?;
        let method = args.request.clone().unwrap_or(if args.data.is_some() { Method::POST } else { Method::GET });
        let mut headers = headers(&args.header, kind);
        headers.extend(args.idempotency_key.clone().map(|key| (IDEMPOTENCY_KEY, key)));
        headers.extend(args.later.then_some((PREFER, RESPOND_ASYNC)));
        let answer = client.invoke(&args.name, method, &path, headers, body).await?;
        if args.later && answer.status() == StatusCode::ACCEPTED {
            return accepted(&answer, out);
        }
        finish(&args, &client, answer, out).await
    })
    .await
}

async fn finish(args: &Args, client: &Client, answer: Response, out: &Output) -> anyhow::Result<()> {
    if args.verbose || out.is_watched() {
        out.note(out.paint_err(Style::Dim, &summary(&answer)));
    }
    let status = answer.status();
    let answer = if is_problem(&answer) { platform_problem(client, answer).await? } else { answer };
    if out.is_json() {
        whole(answer, out).await?;
    } else {
        streamed(args, answer, out).await?;
    }
    if args.fail && (status.is_client_error() || status.is_server_error()) {
        return Err(Failure::new(Exit::Function, format!("function `{}` answered {status}", args.name)).into());
    }
    Ok(())
}

/// The call is stored: its id is what is left to write.
fn accepted(answer: &Response, out: &Output) -> anyhow::Result<()> {
    let location = answer.headers().get(header::LOCATION).map(lossy).unwrap_or_default();
    let id = location.rsplit('/').next().filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Failure::new(Exit::Platform, "the node took the call and did not say its id"))?;
    if out.is_json() {
        return out.json(&serde_json::json!({ "id": id }));
    }
    out.data(id)?;
    out.hint(format_args!("dunlin result {id} --wait"));
    Ok(())
}

async fn streamed(args: &Args, answer: Response, out: &Output) -> anyhow::Result<()> {
    if args.include {
        out.bytes(&head(&answer))?;
    }
    copy(answer, out).await
}

/// Writes the body of `answer` to stdout as it comes.
pub(super) async fn copy(answer: Response, out: &Output) -> anyhow::Result<()> {
    let mut body = answer.bytes_stream();
    while let Some(chunk) = body.next().await {
        let cut = || Failure::new(Exit::Function, "the answer broke off before its end");
        out.bytes(&chunk.with_context(cut)?)?;
    }
    Ok(())
}

/// The answer as one JSON document; a body that is not text is written as a list of its bytes.
async fn whole(answer: Response, out: &Output) -> anyhow::Result<()> {
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body =
        answer.bytes().await.with_context(|| Failure::new(Exit::Function, "the answer broke off before its end"))?;
    let body = match std::str::from_utf8(&body) {
        Ok(text) => serde_json::json!(text),
        Err(_) => serde_json::json!(body.to_vec()),
    };
    let pairs: Vec<_> = headers.iter().map(|(name, value)| [name.as_str().into(), lossy(value)]).collect();
    let told = |name: &str| headers.get(name).map(lossy);
    out.json(&serde_json::json!({
        "status": status,
        "headers": pairs,
        "body": body,
        "revision": told("dunlin-revision"),
        "node": told("dunlin-node"),
        "start": told("dunlin-start"),
        "timing": told("server-timing"),
    }))
}

fn head(answer: &Response) -> Vec<u8> {
    let mut head = format!("{:?} {}\n", answer.version(), answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.push(b'\n');
    }
    head.push(b'\n');
    head
}

/// `200 OK, revision 3f2a9c01b7de on local, warm, queue 0.01 ms, run 2.1 ms`
fn summary(answer: &Response) -> String {
    let told = |name: &str| answer.headers().get(name).map(lossy);
    let mut parts = vec![answer.status().to_string()];
    let node = told("dunlin-node").map(|node| format!(" on {node}")).unwrap_or_default();
    parts.extend(told("dunlin-revision").map(|revision| format!("revision {revision}{node}")));
    parts.extend(told("dunlin-start"));
    parts.extend(told("server-timing").as_deref().map(times).filter(|times| !times.is_empty()));
    parts.join(", ")
}

/// `queue;dur=0.1, run;dur=2` (Server Timing, W3C) in words.
fn times(timing: &str) -> String {
    let time = |metric: &str| {
        let (name, rest) = metric.trim().split_once(';')?;
        let duration = rest.split(';').find_map(|p| p.trim().strip_prefix("dur="))?;
        Some(format!("{name} {duration} ms"))
    };
    timing.split(',').filter_map(time).collect::<Vec<_>>().join(", ")
}

/// Whether this may be the node's own answer and not the function's.
pub(super) fn is_problem(answer: &Response) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    answer.status().as_u16() >= 400 && kind.is_some_and(|kind| kind == "application/problem+json")
}

/// Fails if the problem document is the node's; one that the function made itself is its answer.
pub(super) async fn platform_problem(client: &Client, answer: Response) -> anyhow::Result<Response> {
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await?;
    let own = serde_json::from_slice::<Problem>(&body).is_ok_and(|p| p.r#type.starts_with("urn:dunlin:error:"));
    let mut rebuilt = http::Response::new(body);
    (*rebuilt.status_mut(), *rebuilt.headers_mut()) = (status, headers);
    let rebuilt = Response::from(rebuilt);
    if own { Err(client.failure(rebuilt).await.into()) } else { Ok(rebuilt) }
}

fn headers(given: &[(HeaderName, HeaderValue)], kind: Option<&'static str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        headers.append(name, value.clone());
    }
    if let Some(kind) = kind {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
    }
    headers
}

/// The body and what it looks like.
async fn body(data: Option<&str>) -> anyhow::Result<(Body, Option<&'static str>)> {
    let Some(data) = data else { return Ok((Body::default(), None)) };
    match data.strip_prefix('@') {
        Some(path) => {
            let path = if path == "-" { "/dev/stdin" } else { path };
            let file = tokio::fs::File::open(Path::new(path)).await;
            let file = file.map_err(|e| Failure::caller(format!("cannot read {path}: {e}")))?;
            Ok((Body::wrap_stream(ReaderStream::new(file)), Some("application/octet-stream")))
        }
        None => {
            let json = serde_json::from_str::<serde_json::Value>(data).is_ok_and(|v| v.is_object() || v.is_array());
            let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
            Ok((Body::from(data.to_owned()), Some(kind)))
        }
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("`{}` is not a header name", name.escape_debug()))?;
    let value = value.trim().parse().map_err(|_| "the value has characters that a header cannot carry".to_owned())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_is_put_into_words() {
        assert_eq!(times("queue;dur=0.1, load;desc=\"x\";dur=5"), "queue 0.1 ms, load 5 ms");
        assert_eq!(times("cache;desc=hit, "), "");
    }

    #[test]
    fn headers_are_parsed_and_a_content_type_given_is_kept() {
        let given = parse_header("Content-Type:  text/csv ").unwrap();
        assert_eq!(headers(&[given], Some("text/plain"))["content-type"], "text/csv");
        assert!(parse_header("no colon").is_err() && parse_header("bad name: x").is_err());
        assert!(parse_header("a: b\nc").is_err());
    }

    #[tokio::test]
    async fn data_that_is_json_says_so() {
        for (data, kind) in [("{\"a\":1}", "application/json"), ("7", "text/plain; charset=utf-8")] {
            assert_eq!(body(Some(data)).await.unwrap().1, Some(kind));
        }
        assert_eq!(body(None).await.unwrap().1, None);
        assert!(body(Some("@/no/such/file")).await.is_err());
    }
}
