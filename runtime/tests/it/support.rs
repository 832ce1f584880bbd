//! A node without a scheduler: artifacts and keys in memory, messages and log lines collected.

use bytes::Bytes;
use dunlin_api::*;
use dunlin_runtime::{Executor, RuntimeConfig};
use http::{Request, Response};
use http_body_util::BodyExt;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// Runs a test on the runtime that nodes use.
pub(crate) fn run(test: impl Future<Output = ()>) {
    dunlin_runtime::tokio_runtime().unwrap().block_on(test);
}

#[derive(Default)]
pub(crate) struct Store {
    artifacts: Mutex<HashMap<Digest, Bytes>>,
    pub(crate) keys: Mutex<HashMap<(String, String), (Bytes, Version)>>,
    pub(crate) fetches: Mutex<u32>,
}

impl Artifacts for Store {
    fn fetch(&self, digest: Digest) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        *self.fetches.lock().unwrap() += 1;
        let found = self.artifacts.lock().unwrap().get(&digest).cloned();
        Box::pin(async move { found.ok_or_else(|| StoreError::NotFound(digest.to_string())) })
    }
}

impl KeyValue for Store {
    fn get<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<(Bytes, Version)>, StoreError>> {
        let found = self.keys.lock().unwrap().get(&(store.into(), key.into())).cloned();
        Box::pin(async move { Ok(found) })
    }

    fn set<'a>(&'a self, store: &'a str, key: &'a str, value: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut keys = self.keys.lock().unwrap();
        let version = keys.len() as Version + 1;
        keys.insert((store.into(), key.into()), (value, version));
        Box::pin(async { Ok(()) })
    }

    fn delete<'a>(&'a self, store: &'a str, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.keys.lock().unwrap().remove(&(store.into(), key.into()));
        Box::pin(async { Ok(()) })
    }

    fn swap<'a>(
        &'a self,
        _: &'a str,
        key: &'a str,
        _: Option<Version>,
        _: Bytes,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { Err(StoreError::Conflict(key.into())) })
    }

    fn increment<'a>(&'a self, store: &'a str, key: &'a str, delta: i64) -> BoxFuture<'a, Result<i64, StoreError>> {
        let mut keys = self.keys.lock().unwrap();
        let entry = keys.entry((store.into(), key.into())).or_default();
        let sum = std::str::from_utf8(&entry.0).unwrap().parse().unwrap_or(0) + delta;
        *entry = (sum.to_string().into(), entry.1 + 1);
        Box::pin(async move { Ok(sum) })
    }

    fn keys<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Collects messages. The first token of a subject says what becomes of one.
#[derive(Default)]
pub(crate) struct Post(Mutex<Vec<Message>>);

impl Post {
    /// What was sent since the last time: subjects with their payloads.
    pub(crate) fn take(&self) -> Vec<(String, String)> {
        let text = |message: Message| (message.subject, String::from_utf8(message.payload.into()).unwrap());
        self.0.lock().unwrap().drain(..).map(text).collect()
    }

    async fn take_in(&self, message: Message) -> Result<(), StoreError> {
        match message.subject.split('.').next().unwrap() {
            "never" => std::future::pending().await,
            "down" => return Err(StoreError::Unavailable("a detail of the machine".into())),
            "deaf" => return Err(StoreError::NotFound("a listener".into())),
            _ if message.payload.len() > MAX_PAYLOAD => {
                return Err(StoreError::Invalid(format!("a message has at most {MAX_PAYLOAD} bytes")));
            }
            _ => self.0.lock().unwrap().push(message),
        }
        Ok(())
    }
}

/// The store's own bound in these tests.
pub(crate) const MAX_PAYLOAD: usize = 1 << 20;

impl Publish for Post {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<Published, StoreError>> {
        Box::pin(async move { self.take_in(message).await.map(|()| Published::default()) })
    }

    fn request(&self, message: Message, _: Duration) -> BoxFuture<'_, Result<Message, StoreError>> {
        Box::pin(async move {
            let reply = message.payload.to_ascii_uppercase();
            self.take_in(message).await.map(|()| Message::new("_INBOX.reply", reply))
        })
    }
}

/// Collects lines; a test can wait for one.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Mutex<Vec<LogLine>>,
    came: Notify,
}

impl Logs for Lines {
    fn line(&self, line: LogLine) {
        self.lines.lock().unwrap().push(line);
        self.came.notify_waiters();
    }
}

impl Lines {
    pub(crate) fn all(&self) -> Vec<LogLine> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until a line contains `text`.
    pub(crate) async fn with(&self, text: &str) -> LogLine {
        loop {
            let came = self.came.notified();
            if let Some(line) = self.all().into_iter().find(|l| l.text.contains(text)) {
                return line;
            }
            came.await;
        }
    }
}

pub(crate) struct Node {
    pub(crate) executor: Arc<Executor>,
    pub(crate) store: Arc<Store>,
    pub(crate) post: Arc<Post>,
    pub(crate) logs: Arc<Lines>,
    pub(crate) dir: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut RuntimeConfig)) -> Self {
        Self::within(tempfile::tempdir().unwrap(), change)
    }

    pub(crate) fn within(dir: tempfile::TempDir, change: impl FnOnce(&mut RuntimeConfig)) -> Self {
        let mut config = RuntimeConfig::new(dir.path());
        change(&mut config);
        let (store, logs) = (Arc::new(Store::default()), Arc::new(Lines::default()));
        let post = Arc::new(Post::default());
        let executor = Executor::new(config, store.clone(), store.clone(), post.clone(), logs.clone()).unwrap();
        Self { executor, store, post, logs, dir }
    }

    /// Checks `component` and makes a revision of it, as a deploy does.
    pub(crate) async fn revision(&self, component: Vec<u8>, settings: Settings) -> Result<Arc<Revision>, Refusal> {
        let component = Bytes::from(component);
        let world = self.executor.check(component.clone(), &settings).await?;
        let artifact = Digest::of(&component);
        let size_bytes = component.len() as u64;
        self.store.artifacts.lock().unwrap().insert(artifact, component);
        let id = RevisionId::of(&artifact, &settings);
        let function = "test".parse().unwrap();
        Ok(Arc::new(Revision { function, id, artifact, size_bytes, world, settings, created_ms: 0 }))
    }

    /// Deploys the fixture `name`.
    pub(crate) async fn deploy(&self, name: &str, settings: Settings) -> Arc<Revision> {
        let revision = self.revision(dunlin_fixtures::bytes(name), settings).await.unwrap();
        self.executor.prepare(revision.clone()).await.unwrap();
        revision
    }

    pub(crate) async fn call(&self, revision: &Arc<Revision>, path: &str) -> Result<Response<Body>, InvokeError> {
        self.executor.invoke(call(revision, get(path))).await
    }

    /// The whole answer as text.
    pub(crate) async fn text(&self, revision: &Arc<Revision>, path: &str) -> String {
        text(self.call(revision, path).await.unwrap()).await
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "test.example:8080").body(Body::Empty).unwrap()
}

pub(crate) fn post(path: &str, body: Body) -> Request<Body> {
    Request::post(path).header("host", "test.example:8080").body(body).unwrap()
}

pub(crate) fn call(revision: &Arc<Revision>, request: Request<Body>) -> Invocation {
    Invocation {
        deadline: Instant::now() + revision.settings.limits.timeout,
        revision: revision.clone(),
        request,
        id: InvocationId::new(),
        trace: TraceContext::new(1, 1),
        last: false,
        started: Started::default(),
    }
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn limits(change: impl FnOnce(&mut Limits)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.limits);
    settings
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
