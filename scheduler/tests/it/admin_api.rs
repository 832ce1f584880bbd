//! The admin API over real HTTP.

use dunlin_api::{Digest, FunctionName, InvocationId, LogLine, LogStream, Logs, RevisionId};
use dunlin_scheduler::admin::{Admin, Phase, Token, serve};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{calls::Bench, doubles::Scheduler, gateway::echo, metrics::page::Page};

mod events;

struct Api {
    _dir: TempDir,
    scheduler: Scheduler,
    admin: Arc<Admin>,
    client: Client,
    url: String,
    served: JoinHandle<()>,
}

impl Api {
    async fn start(change: impl FnOnce(&mut Admin)) -> Self {
        Self::start_with(|_, admin| change(admin)).await
    }

    async fn start_with(change: impl FnOnce(&Scheduler, &mut Admin)) -> Self {
        let dir = TempDir::new().unwrap();
        let scheduler = Scheduler::open(dir.path()).await;
        let mut admin = scheduler.admin();
        change(&scheduler, &mut admin);
        let admin = Arc::new(admin);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // The client is built with TLS and without a provider for it; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let served = tokio::task::spawn(serve(listener, admin.clone(), Duration::from_secs(5)));
        Self { _dir: dir, scheduler, admin, client: Client::new(), url, served }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }

    async fn upload(&self, digest: Digest, bytes: &[u8]) -> Response {
        self.ask(Method::PUT, &format!("/v1/artifacts/{digest}")).body(bytes.to_vec()).send().await.unwrap()
    }

    async fn deploy(&self, name: &str, bytes: &[u8], more: Value) -> Response {
        let settings = json!({"http": [{"route": format!("/{name}")}]});
        let mut body = json!({"artifact": Digest::of(bytes), "settings": settings});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask(Method::POST, &format!("/v1/functions/{name}/deploy")).json(&body).send().await.unwrap()
    }

    async fn deployed(&self, name: &str) {
        self.upload(Digest::of(b"one"), b"one").await;
        assert_eq!(self.deploy(name, b"one", json!({})).await.status(), 200);
    }
}

/// The problem's code, after checking that it is a whole problem document.
async fn problem(response: Response, status: u16) -> String {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
    problem["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tells_life_readiness_version_and_node() {
    let api = Api::start(|_| ()).await;
    assert_eq!(api.get("/healthz").await.status(), 200);
    assert_eq!(api.get("/readyz").await.status(), 200);
    assert_eq!(api.json("/v1/version").await, json!({"version": "1.2.3"}));
    let node = api.json("/v1/node").await;
    assert_eq!((&node["node"], &node["functions"], &node["state"]), (&json!("here"), &json!(0), &json!("ready")));
    assert_eq!(node["load"], json!({"in_flight": 1, "slots": 8}));
    for phase in [Phase::Draining, Phase::Starting] {
        api.admin.readiness.set(phase);
        assert_eq!(api.get("/healthz").await.status(), 200);
        assert_eq!(problem(api.get("/readyz").await, 503).await, "not-ready");
    }
}

#[tokio::test]
async fn shows_what_it_counts_as_openmetrics() {
    let api = Api::start(|_| ()).await;
    api.deployed("f").await;
    let answer = api.get("/metrics").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let page = Page::parse(&answer.text().await.unwrap());
    assert_eq!(page.value(r#"dunlin_info{version="1.2.3",node="here"}"#), Some(1.0));
    assert_eq!((page.value("dunlin_functions"), page.value("dunlin_slots")), (Some(1.0), Some(8.0)));
}

#[tokio::test]
async fn uploads_deploys_shows_calls_and_removes() {
    let api = Api::start(|_| ()).await;
    let digest = Digest::of(b"one");
    let has = || async { api.ask(Method::HEAD, &format!("/v1/artifacts/{digest}")).send().await.unwrap().status() };
    assert_eq!(has().await, 404);
    assert_eq!(problem(api.deploy("f", b"one", json!({})).await, 404).await, "unknown-artifact");
    assert_eq!(api.upload(digest, b"one").await.status(), 201);
    assert_eq!(api.upload(digest, b"one").await.status(), 200);
    assert_eq!(has().await, 200);
    let done: Value = api.deploy("f", b"one", json!({"expected": 0})).await.json().await.unwrap();
    assert_eq!((&done["changed"], &done["routes"]), (&json!(true), &json!(["/f"])));
    let again: Value = api.deploy("f", b"one", json!({})).await.json().await.unwrap();
    assert_eq!(again["changed"], false);
    assert_eq!(problem(api.deploy("f", b"one", json!({"expected": 0})).await, 409).await, "version-conflict");
    let list = api.json("/v1/functions").await;
    assert_eq!(list["functions"][0]["name"], "f");
    assert_eq!(list["functions"][0]["serving"], json!([{"revision": done["revision"], "weight": 1}]));
    let shown = api.json("/v1/functions/f").await;
    assert_eq!((&shown["version"], &shown["revisions"][0]["artifact"]), (&done["version"], &json!(digest)));
    let removed = api.ask(Method::DELETE, "/v1/functions/f").send().await.unwrap();
    assert_eq!(removed.status(), 204);
    assert_eq!(problem(api.get("/v1/functions/f").await, 404).await, "no-function");
    assert_eq!(problem(api.ask(Method::DELETE, "/v1/functions/f").send().await.unwrap(), 404).await, "no-function");
}

#[tokio::test]
async fn refuses_uploads_that_are_too_large_or_not_what_they_say() {
    let api = Api::start(|_| ()).await;
    let (most, over) = (vec![1; 1_000], vec![1; 1_001]);
    assert_eq!(api.upload(Digest::of(&most), &most).await.status(), 201);
    assert_eq!(problem(api.upload(Digest::of(&over), &over).await, 413).await, "component-too-large");
    let unannounced = futures::stream::iter([Ok::<_, std::io::Error>(over.clone())]);
    let put = api.ask(Method::PUT, &format!("/v1/artifacts/{}", Digest::of(&over)));
    let put = put.body(reqwest::Body::wrap_stream(unannounced)).send().await.unwrap();
    assert_eq!(problem(put, 413).await, "component-too-large");
    assert_eq!(problem(api.upload(Digest::of(b"x"), b"y").await, 422).await, "wrong-digest");
    assert_eq!(api.scheduler.artifacts.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn answers_every_mistake_with_a_problem_document() {
    let api = Api::start(|_| ()).await;
    let post = |path: &str, body: &'static str| {
        api.ask(Method::POST, path).header("content-type", "application/json").body(body).send()
    };
    let deploy = "/v1/functions/f/deploy";
    assert_eq!(problem(api.get("/nothing").await, 404).await, "not-found");
    let wrong = api.ask(Method::PATCH, "/v1/functions/f").send().await.unwrap();
    assert!(wrong.headers()["allow"].to_str().unwrap().contains("DELETE"));
    assert_eq!(problem(wrong, 405).await, "method-not-allowed");
    assert_eq!(problem(post(deploy, "{").await.unwrap(), 400).await, "malformed-json");
    assert_eq!(problem(post(deploy, "{\"artifact\": 1}").await.unwrap(), 400).await, "malformed-json");
    let artifact = Digest::of(b"x");
    let unknown = json!({"artifact": artifact, "setings": {}});
    let unknown = api.ask(Method::POST, deploy).json(&unknown).send().await.unwrap();
    assert_eq!(problem(unknown, 400).await, "malformed-json");
    let form = api.ask(Method::POST, deploy).header("content-type", "text/plain").body("{}").send().await.unwrap();
    assert_eq!(problem(form, 415).await, "not-json");
    let large = api.ask(Method::POST, deploy).json(&json!({"pad": "x".repeat(1 << 20)})).send().await.unwrap();
    assert_eq!(problem(large, 413).await, "body-too-large");
    for path in ["/v1/functions/NO", "/v1/functions/a%2fb", "/v1/functions/%00", "/v1/functions/a.b/invoke"] {
        assert_eq!(problem(api.get(path).await, 400).await, "bad-path", "{path}");
    }
    assert_eq!(problem(api.ask(Method::PUT, "/v1/artifacts/abc").send().await.unwrap(), 400).await, "bad-path");
    for query in ["/v1/functions?limit=0", "/v1/functions?limit=x", "/v1/functions?what=1", "/v1/logs?tail=10001"] {
        assert_eq!(problem(api.get(query).await, 400).await, "bad-query", "{query}");
    }
    api.upload(Digest::of(b"core"), b"core").await;
    assert_eq!(problem(api.deploy("f", b"core", json!({})).await, 422).await, "core-module");
    api.deployed("g").await;
    let taken = json!({"settings": {"http": [{"route": "/g"}]}});
    assert_eq!(problem(api.deploy("f", b"one", taken).await, 409).await, "route-conflict");
}

#[tokio::test]
async fn runs_a_function_by_name_and_shows_where_and_how() {
    let api = Api::start(|_| ()).await;
    api.deployed("f").await;
    let call = api.ask(Method::from_bytes(b"REPORT").unwrap(), "/v1/functions/f/invoke/a%2fb/c?q=1").body("hello");
    let answer = call.header("authorization", "mine").send().await.unwrap();
    let headers = answer.headers().clone();
    let revision = api.json("/v1/functions/f").await["serving"][0]["revision"].clone();
    assert_eq!(headers["dunlin-revision"], revision.as_str().unwrap());
    assert_eq!(
        (&headers["dunlin-node"], &headers["dunlin-start"]),
        (&"here".parse().unwrap(), &"cold".parse().unwrap())
    );
    assert!(headers["server-timing"].to_str().unwrap().contains("run;dur=1.500"));
    assert_eq!(headers["content-security-policy"], "sandbox");
    assert_eq!(answer.text().await.unwrap(), "REPORT /a%2fb/c?q=1 hello true");
    assert_eq!(api.get("/v1/functions/f/invoke").await.text().await.unwrap(), "GET /  false");
    assert_eq!(problem(api.get("/v1/functions/g/invoke").await, 404).await, "no-function");
    let trap = api.get("/v1/functions/f/invoke/trap").await;
    let trap: Value = trap.json().await.unwrap();
    assert_eq!((&trap["code"], &trap["started"]), (&json!("trap"), &json!(true)));
    assert!(!trap.to_string().contains("secret"));
}

#[tokio::test]
async fn refuses_browsers_and_foreign_hosts() {
    let api = Api::start(|_| ()).await;
    let with = |name: &'static str, value: &str| api.ask(Method::GET, "/v1/node").header(name, value.to_owned()).send();
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "dunlin.example.evil.example"] {
        assert_eq!(problem(with("host", host).await.unwrap(), 403).await, "foreign-host", "{host}");
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9", "dunlin.example:80", "Dunlin.Example."] {
        assert_eq!(with("host", host).await.unwrap().status(), 200, "{host}");
    }
    assert_eq!(problem(with("origin", "null").await.unwrap(), 403).await, "from-browser");
    assert_eq!(problem(with("sec-fetch-site", "cross-site").await.unwrap(), 403).await, "from-browser");
    assert_eq!(with("sec-fetch-site", "none").await.unwrap().status(), 200);
    for head in ["", "Host: a\r\nHost: b\r\n", "Host: a b\r\n"] {
        let mut stream = TcpStream::connect(&api.url["http://".len()..]).await.unwrap();
        stream.write_all(format!("GET /v1/node HTTP/1.1\r\n{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{head:?}: {answer}");
    }
}

#[tokio::test]
async fn with_a_token_nothing_but_health_is_told_without_it() {
    let secret = "0123456789abcdef";
    let api = Api::start(|admin| admin.token = Some(Token::new(secret).unwrap())).await;
    let paths =
        ["/v1/functions", "/metrics", "/v1/node", "/v1/logs", "/v1/functions/f/invoke", "/openapi.json", "/other"];
    for path in paths {
        let answer = api.get(path).await;
        assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{path}");
        assert_eq!(problem(answer, 401).await, "unauthorized", "{path}");
    }
    assert_eq!(api.get("/healthz").await.status(), 200);
    assert_eq!(api.get("/readyz").await.status(), 200);
    let with = |value: String| api.ask(Method::GET, "/v1/node").header("authorization", value).send();
    assert_eq!(with(format!("Bearer {secret}")).await.unwrap().status(), 200);
    assert_eq!(with(format!("bearer  {secret}")).await.unwrap().status(), 200);
    let mut refused = Vec::new();
    for n in 0..22 {
        refused.push(with(format!("Bearer wrong{n}")).await.unwrap().status().as_u16());
    }
    assert_eq!((refused[0], refused[19], refused[20]), (401, 401, 429));
    assert_eq!(with(format!("Bearer {secret}")).await.unwrap().status(), 200, "the owner is never locked out");
    api.scheduler.deploy("f", b"one").await;
    let called = api.ask(Method::GET, "/v1/functions/f/invoke").bearer_auth(secret).send().await.unwrap();
    assert_eq!(called.text().await.unwrap(), "GET /  false", "a guest does not see the token");
}

fn line(function: &str, text: &str) -> LogLine {
    let function: FunctionName = function.parse().unwrap();
    let revision: RevisionId = "0123456789ab".parse().unwrap();
    let text = text.to_owned();
    LogLine { time_ms: 1, function, revision, invocation: InvocationId::new(), stream: LogStream::Stdout, text }
}

#[tokio::test]
async fn streams_log_lines_until_the_node_stops() {
    let api = Api::start(|_| ()).await;
    api.deployed("f").await;
    for n in 0..3 {
        api.admin.logs.line(line("f", &format!("line {n}")));
    }
    let tail = api.get("/v1/logs?function=f&tail=2").await;
    assert_eq!(tail.headers()["content-type"], "application/x-ndjson");
    let tail = tail.text().await.unwrap();
    let texts: Vec<_> = tail.lines().map(|l| serde_json::from_str::<LogLine>(l).unwrap().text).collect();
    assert_eq!(texts, ["line 1", "line 2"]);
    assert_eq!(problem(api.get("/v1/logs?function=g").await, 404).await, "no-function");
    let mut followed = api.get("/v1/logs?function=f&tail=1&follow=true").await;
    let first = followed.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("line 2"));
    api.admin.logs.line(line("f", "live"));
    let live = followed.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&live).contains("live"));
    api.admin.stop.cancel();
    assert_eq!(followed.chunk().await.unwrap(), None, "it ends cleanly");
    tokio::time::timeout(Duration::from_secs(3), api.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn describes_every_route_in_openapi_3_1() {
    let api = Api::start(|_| ()).await;
    let description = api.json("/openapi.json").await;
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(description["info"]["version"], "1.2.3");
    let paths = description["paths"].as_object().unwrap();
    for (path, method) in [
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/v1/version", "get"),
        ("/v1/node", "get"),
        ("/v1/artifacts/{digest}", "head"),
        ("/v1/artifacts/{digest}", "put"),
        ("/v1/functions", "get"),
        ("/v1/functions/{name}", "get"),
        ("/v1/functions/{name}", "delete"),
        ("/v1/functions/{name}/deploy", "post"),
        ("/v1/functions/{name}/invoke", "post"),
        ("/v1/functions/{name}/invoke/{path}", "get"),
        ("/v1/logs", "get"),
    ] {
        assert!(paths[path][method]["responses"].is_object(), "{method} {path}");
    }
}

#[tokio::test]
async fn lists_functions_in_pages() {
    let api = Api::start(|_| ()).await;
    for name in ["c", "a", "b"] {
        api.deployed(name).await;
    }
    let names = |list: &Value| -> Vec<String> {
        list["functions"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = api.json("/v1/functions?limit=2").await;
    assert_eq!((names(&first), &first["next"]), (vec!["a".into(), "b".into()], &json!("b")));
    let last = api.json("/v1/functions?limit=2&after=b").await;
    assert_eq!((names(&last), last.get("next")), (vec!["c".into()], None));
}

#[tokio::test]
async fn calls_that_nobody_waits_for_are_accepted_asked_about_and_cancelled() {
    let mut bench = Bench::new(echo).await;
    let calls = bench.calls.clone();
    let api = Api::start(|admin| admin.calls = Some(calls)).await;
    let submit = |name: &str| {
        let path = format!("/v1/functions/{name}/invoke/a?b");
        let request = api.ask(Method::POST, &path).header("prefer", "respond-async").header("dunlin-subject", "s");
        request.body("body").send()
    };
    let first = submit("f").await.unwrap();
    assert_eq!(
        (first.status().as_u16(), &first.headers()["preference-applied"]),
        (202, &"respond-async".parse().unwrap())
    );
    let location = first.headers()["location"].to_str().unwrap().to_owned();
    assert!(location.starts_with("/v1/invocations/"), "{location}");
    assert_eq!(api.json(&location).await["state"], "queued");
    assert_eq!(api.get(&format!("{location}/result")).await.status(), 202);
    bench.run_next().await;
    assert_eq!(api.json(&format!("{location}?wait_ms=20000")).await["state"], "done");
    let result = api.get(&format!("{location}/result")).await;
    assert_eq!(result.headers()["content-security-policy"], "sandbox");
    let text = result.text().await.unwrap();
    assert!(text.starts_with("POST /a?b\n") && text.ends_with("\nbody") && !text.contains("dunlin-"), "{text}");
    assert_eq!(problem(api.ask(Method::DELETE, &location).send().await.unwrap(), 409).await, "already-ended");
    let second = submit("f").await.unwrap().headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(api.ask(Method::DELETE, &second).send().await.unwrap().status(), 200);
    assert_eq!(problem(api.get(&format!("{second}/result")).await, 410).await, "cancelled");
    assert_eq!(problem(submit("none").await.unwrap(), 404).await, "no-function");
    assert_eq!(problem(api.get("/v1/invocations/x").await, 404).await, "no-invocation");
    let without = Api::start(|_| ()).await;
    assert_eq!(problem(without.get("/v1/invocations/x").await, 501).await, "no-calls");
}
