//! A client of a node's admin API: the only way in which commands act on a node.
//!
//! An answer that is not a success becomes a [`Failure`] with the exit code its problem document implies; a server that
//! does not answer becomes exit code 3. Bodies stream both ways. A call has no timeout of its own (a deploy may compile
//! for a minute), connecting has [`CONNECT`].

use anyhow::Context as _;
use bytes::Bytes;
use dunlin_api::{Digest, FunctionName, LogLine, NodeName, Problem, Settings};
use dunlin_scheduler::{
    control::{Finding, NodeStatus},
    deploy::DeployResult,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use std::time::Duration;

use crate::{
    config::Server,
    exit::{Exit, Failure},
    wire::{Details, Functions, NodeInfo},
};

mod events;

pub(crate) use events::{Outgoing, Reply};

/// A node that cannot be connected to within this time does not answer.
const CONNECT: Duration = Duration::from_secs(5);
/// Uploads go in pieces of this size, so that progress can be shown and nothing is copied twice.
const CHUNK_BYTES: usize = 64 << 10;
/// The longest line of a log stream: a line of a guest is far below, so more is not our protocol.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A connection to one node's admin API.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: Server,
}

/// Which log lines are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogQuery {
    pub(crate) function: Option<FunctionName>,
    pub(crate) tail: u32,
    pub(crate) follow: bool,
}

impl Client {
    pub(crate) fn new(server: Server) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("dunlin/", env!("CARGO_PKG_VERSION")));
        if is_local(&server.url) {
            http = http.no_proxy();
            if server.url.starts_with("http://") {
                // Without redirects and proxies it stays without TLS: reading the machine's certificates takes 15 ms.
                http = http.tls_certs_only([]);
            }
        }
        Ok(Self { http: http.build().context("cannot set up the HTTP client")?, server })
    }

    pub(crate) fn url(&self) -> &str {
        &self.server.url
    }

    /// What the node says about its version.
    pub(crate) async fn version(&self) -> anyhow::Result<serde_json::Value> {
        self.json(self.request(Method::GET, "/v1/version")).await
    }

    /// The URL of the node's HTTP front, without a trailing slash.
    pub(crate) async fn http_url(&self) -> anyhow::Result<String> {
        let node: NodeInfo = self.json(self.request(Method::GET, "/v1/node")).await?;
        Ok(node.http_url(&self.server.url))
    }

    /// Whether the node has this artifact already.
    pub(crate) async fn has_artifact(&self, digest: &Digest) -> anyhow::Result<bool> {
        let answer = self.answer(self.request(Method::HEAD, &format!("/v1/artifacts/{digest}"))).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            // An answer to HEAD has no body that says more.
            status if status.is_server_error() => {
                let message = format!("the node at {} cannot use its store of artifacts ({status})", self.server.url);
                Err(Failure::new(Exit::Platform, message).hint("is NATS up? `dunlin doctor` looks").into())
            }
            _ => self.success(answer).await.map(|_| true),
        }
    }

    /// Uploads an artifact; `sent` hears how many bytes left so far.
    pub(crate) async fn upload(
        &self,
        digest: &Digest,
        bytes: Bytes,
        sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let size = bytes.len();
        let starts = (0..size).step_by(CHUNK_BYTES);
        let chunks = stream::iter(starts).map(move |start| {
            let end = size.min(start + CHUNK_BYTES);
            sent(end as u64);
            Ok::<_, std::convert::Infallible>(bytes.slice(start..end))
        });
        let request = self
            .request(Method::PUT, &format!("/v1/artifacts/{digest}"))
            .header(header::CONTENT_LENGTH, size)
            .header(header::CONTENT_TYPE, "application/wasm")
            .body(reqwest::Body::wrap_stream(chunks));
        let answer = self.answer(request).await?;
        self.success(answer).await.map(drop)
    }

    /// Makes an artifact that the node has, with these settings, the serving revision of `name`.
    pub(crate) async fn deploy(
        &self,
        name: &FunctionName,
        artifact: Digest,
        settings: &Settings,
    ) -> anyhow::Result<DeployResult> {
        let order = serde_json::json!({ "artifact": artifact, "settings": settings });
        self.json(self.request(Method::POST, &format!("/v1/functions/{name}/deploy")).json(&order)).await
    }

    /// All functions, page by page.
    pub(crate) async fn functions(&self) -> anyhow::Result<Functions> {
        let mut all = Functions::default();
        loop {
            // A name needs no escaping wherever it stands.
            let after = all.next.map(|name| format!("?after={name}")).unwrap_or_default();
            let page: Functions = self.json(self.request(Method::GET, &format!("/v1/functions{after}"))).await?;
            all.functions.extend(page.functions);
            all.next = page.next;
            if all.next.is_none() {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn function(&self, name: &FunctionName) -> anyhow::Result<Details> {
        self.json(self.request(Method::GET, &format!("/v1/functions/{name}"))).await
    }

    /// Removes a function; with `discard_events` also if events wait for it.
    pub(crate) async fn remove(&self, name: &FunctionName, discard_events: bool) -> anyhow::Result<()> {
        let query = if discard_events { "?discard_events=true" } else { "" };
        self.done(self.request(Method::DELETE, &format!("/v1/functions/{name}{query}"))).await
    }

    /// The nodes of the cluster, in order of their names.
    pub(crate) async fn nodes(&self) -> anyhow::Result<Vec<NodeStatus>> {
        #[derive(serde::Deserialize)]
        struct List {
            nodes: Vec<NodeStatus>,
        }
        let List { nodes } = self.json(self.request(Method::GET, "/v1/nodes")).await?;
        Ok(nodes)
    }

    /// Asks for the drain of `node`, or ends it.
    pub(crate) async fn drain(&self, node: &NodeName, on: bool) -> anyhow::Result<()> {
        let method = if on { Method::PUT } else { Method::DELETE };
        self.done(self.request(method, &format!("/v1/nodes/{node}/drain"))).await
    }

    /// Gives `node` another weight, or with none its own again.
    pub(crate) async fn set_slots(&self, node: &NodeName, slots: Option<u32>) -> anyhow::Result<()> {
        let weight = serde_json::json!({ "slots": slots });
        self.done(self.request(Method::PUT, &format!("/v1/nodes/{node}/slots")).json(&weight)).await
    }

    /// Forgets a node that is gone.
    pub(crate) async fn forget(&self, node: &NodeName) -> anyhow::Result<()> {
        self.done(self.request(Method::DELETE, &format!("/v1/nodes/{node}"))).await
    }

    /// Where a function would run.
    pub(crate) async fn why(&self, name: &FunctionName) -> anyhow::Result<serde_json::Value> {
        self.json(self.request(Method::GET, &format!("/v1/functions/{name}/why"))).await
    }

    /// What is wrong with the cluster.
    pub(crate) async fn doctor(&self) -> anyhow::Result<Vec<Finding>> {
        #[derive(serde::Deserialize)]
        struct Diagnosis {
            findings: Vec<Finding>,
        }
        let Diagnosis { findings } = self.json(self.request(Method::GET, "/v1/doctor")).await?;
        Ok(findings)
    }

    /// Log lines as they come; ends when the node has no more, or never when it follows.
    pub(crate) async fn logs(
        &self,
        query: &LogQuery,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<LogLine>> + use<>> {
        let LogQuery { function, tail, follow } = query;
        let function = function.as_ref().map(|name| format!("&function={name}")).unwrap_or_default();
        let path = format!("/v1/logs?follow={follow}&tail={tail}{function}");
        let answer = self.success(self.answer(self.request(Method::GET, &path)).await?).await?;
        let lines = lines(answer.bytes_stream().map_err(anyhow::Error::from).boxed());
        Ok(lines.map(|line| serde_json::from_slice(&line?).context("the node sent a log line that cannot be read")))
    }

    /// Calls a function through the admin API. Whatever comes back, from the function or about it, is the answer.
    pub(crate) async fn invoke(
        &self,
        name: &FunctionName,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: reqwest::Body,
    ) -> anyhow::Result<Response> {
        let request = self.request(method, &format!("/v1/functions/{name}/invoke{path}"));
        self.answer(request.headers(headers).body(body)).await
    }

    /// What a failed answer says went wrong.
    pub(crate) async fn failure(&self, answer: Response) -> Failure {
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if status == StatusCode::UNAUTHORIZED => Failure::of_problem(&problem)
                .hint("give the node's token with --token, DUNLIN_TOKEN or the config file"),
            Ok(problem) => Failure::of_problem(&problem),
            Err(_) => {
                let message = format!("{} answers {status}, not as a dunlin node does", self.server.url);
                Failure::new(Exit::Failure, message).hint("is this the admin address of the node?")
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server.url));
        match &self.server.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|e| self.unanswered(e))
    }

    async fn success(&self, answer: Response) -> anyhow::Result<Response> {
        if answer.status().is_success() { Ok(answer) } else { Err(self.failure(answer).await.into()) }
    }

    async fn done(&self, request: RequestBuilder) -> anyhow::Result<()> {
        self.success(self.answer(request).await?).await.map(drop)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let answer = self.success(self.answer(request).await?).await?;
        let body = answer.bytes().await?;
        serde_json::from_slice(&body).map_err(|e| {
            let message = format!("{} does not answer as a dunlin node of this version does: {e}", self.server.url);
            Failure::new(Exit::Failure, message).hint("compare the versions: `dunlin version`").into()
        })
    }

    fn unanswered(&self, error: reqwest::Error) -> anyhow::Error {
        let url = &self.server.url;
        if error.is_builder() {
            return anyhow::Error::new(error).context(Failure::new(Exit::Usage, "this request cannot be sent"));
        }
        if error.is_connect() || error.is_timeout() {
            let failure = Failure::new(Exit::Unreachable, format!("no dunlin node answers at {url}"));
            return failure.hint("start one with `dunlin node`, or name another with --server").into();
        }
        anyhow::Error::new(error).context(Failure::new(Exit::Platform, format!("the connection to {url} broke")))
    }
}

/// A proxy from the environment must not come between us and our own machine.
fn is_local(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|u| u.host_str().map(str::to_owned)).unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Cuts a stream of bytes into lines without their ends; empty ones are left out.
fn lines<S>(chunks: S) -> impl Stream<Item = anyhow::Result<Vec<u8>>>
where
    S: Stream<Item = anyhow::Result<Bytes>> + Unpin,
{
    stream::unfold((chunks, Vec::new(), false), |(mut chunks, mut rest, ended)| async move {
        loop {
            if let Some(end) = rest.iter().position(|&b| b == b'\n') {
                let tail = rest.split_off(end + 1);
                let mut line = std::mem::replace(&mut rest, tail);
                line.pop();
                if !line.is_empty() {
                    return Some((Ok(line), (chunks, rest, ended)));
                }
                continue;
            }
            if ended {
                return None;
            }
            match chunks.next().await {
                Some(Ok(chunk)) => rest.extend_from_slice(&chunk),
                Some(Err(e)) => return Some((Err(e), (chunks, Vec::new(), true))),
                None => return (!rest.is_empty()).then(|| (Ok(std::mem::take(&mut rest)), (chunks, rest, true))),
            }
            if rest.len() > MAX_LINE_BYTES {
                return Some((Err(anyhow::anyhow!("the node sent a line without an end")), (chunks, Vec::new(), true)));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_wherever_the_chunks_are() {
        let chunks = ["a", "b\n", "\nc", "d\ne\n", "f"].map(|c| Ok(Bytes::from_static(c.as_bytes())));
        let lines: Vec<_> = lines(stream::iter(chunks)).map(|l| String::from_utf8(l.unwrap()).unwrap()).collect().await;
        assert_eq!(lines, ["ab", "cd", "e", "f"]);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_an_error() {
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[b'x'; 4096])));
        let all: Vec<_> = lines(endless).collect().await;
        assert!(all.len() == 1 && all[0].is_err());
    }

    #[test]
    fn only_this_machine_is_local() {
        for url in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:2"] {
            assert!(is_local(url), "{url}");
        }
        assert!(!is_local("http://10.0.0.1") && !is_local("http://localhost.example"));
    }
}
