//! The node's one HTTP client: its connections, their encryption, and how long anything may take.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use dunlin_api::BoxFuture;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::capture_connection},
    rt::TokioTimer,
};
use rustls::ClientConfig;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;
use wasmtime_wasi_http::{Error, RequestOptions};

use super::{
    body::Leaving,
    connect::{Dial, Dialler, Network, SystemNetwork},
    error,
    policy::Scope,
};

/// Connections of the node, busy and idle. Below the usual limit of 1,024 files per process there is room for the rest.
pub const CONNECTIONS: usize = 512;
/// Idle connections kept per origin.
const IDLE: usize = 8;
/// How long they are kept. Servers commonly close theirs after 5 to 75 s; early enough avoids most of those races.
const IDLE_FOR: Duration = Duration::from_secs(15);
/// Longest time for a connection, with name and TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time between two pieces of a response, or until its first one, whatever the guest asks for.
const SILENCE: Duration = Duration::from_secs(600);
/// Bytes of a response that the host reads ahead, and the largest response head.
const READ_AHEAD: usize = 64 << 10;

/// What the node decides about outbound HTTP.
pub struct EgressConfig {
    /// The platform's own listeners and servers, which no function may reach: admin API, NATS. On this machine's
    /// addresses a forbidden port is forbidden on all of them.
    pub forbidden: Vec<SocketAddr>,
    /// Whether a manifest's explicit `localhost` or private address is obeyed. Right for development and for nodes whose
    /// deployers are trusted with the node's network.
    pub named: bool,
    /// The network below.
    pub network: Arc<dyn Network>,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self { forbidden: Vec::new(), named: true, network: Arc::new(SystemNetwork::default()) }
    }
}

type Http = Client<Within<HttpsConnector<Dial>>, Leaving>;

/// A pooled HTTP/1.1 and HTTP/2 client, shared by all functions of the node.
///
/// Connections that were opened under the permission of a named private origin are in a pool of their own: there the
/// pool's key, the origin, is the permission, so no request without it can take one.
pub struct EgressClient {
    clients: OnceCell<Clients>,
    config: EgressConfig,
    tasks: Tasks,
}

/// One client for each scope.
struct Clients {
    public: Http,
    named: Option<Http>,
}

impl EgressClient {
    /// A client without connections. The machine's root certificates, or Mozilla's where it has none, are read when the
    /// first request wants to leave: that takes 15 ms, and many a node never sends one.
    pub fn new(config: EgressConfig) -> Self {
        Self { clients: OnceCell::new(), config, tasks: Tasks::default() }
    }

    /// The clients, made by the first who asks.
    async fn clients(&self) -> Result<&Clients, Error> {
        let make = async {
            let tls = tokio::task::spawn_blocking(tls).await;
            tls.map(|tls| Clients::new(&self.config, &self.tasks, &tls))
        };
        self.clients.get_or_try_init(|| make).await.map_err(|e| Error::InternalError(Some(e.to_string())))
    }

    /// Closes every connection and waits for their tasks. Requests fail from now on.
    pub async fn close(&self) {
        self.tasks.stop.cancel();
        self.tasks.running.close();
        self.tasks.running.wait().await;
    }

    pub(super) fn serves(&self, scope: Scope) -> bool {
        scope == Scope::Public || self.config.named
    }

    /// Sends a request whose origin was permitted with `scope`; answers with the head as soon as it is there.
    pub(super) async fn send(
        &self,
        scope: Scope,
        mut request: Request<Leaving>,
        times: &Times,
    ) -> Result<Response<Incoming>, Error> {
        let clients = self.clients().await?;
        let http = match scope {
            Scope::Public => &clients.public,
            Scope::Named => clients.named.as_ref().ok_or(Error::DestinationIpProhibited)?,
        };
        let mut connection = capture_connection(&mut request);
        let mut response = std::pin::pin!(http.request(request));
        let connect_by = times.until(times.connect);
        let connected = async {
            let connected = timeout_at(connect_by, connection.wait_for_connection_metadata()).await;
            connected.is_ok()
        };
        tokio::select! {
            biased;
            response = &mut response => return response.map_err(|error| error::sending(&error)),
            connected = connected => if !connected { return Err(Error::ConnectionTimeout) },
        }
        match timeout_at(times.until(times.first_byte), response).await {
            Ok(response) => response.map_err(|error| error::sending(&error)),
            Err(_) => Err(Error::ConnectionReadTimeout),
        }
    }
}

impl Clients {
    fn new(config: &EgressConfig, tasks: &Tasks, tls: &ClientConfig) -> Self {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let (network, forbidden) = (config.network.clone(), config.forbidden.clone());
        let dialler = Arc::new(Dialler { network, forbidden, connections });
        let http = |scope| {
            let dial = Dial { dialler: Arc::clone(&dialler), scope };
            let https = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
            let connector = Within(https.enable_http1().enable_http2().wrap_connector(dial));
            Client::builder(tasks.clone())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_max_idle_per_host(IDLE)
                .pool_idle_timeout(IDLE_FOR)
                .http1_max_buf_size(READ_AHEAD)
                .http2_initial_stream_window_size(READ_AHEAD as u32)
                .http2_initial_connection_window_size(16 * READ_AHEAD as u32)
                .http2_max_header_list_size(READ_AHEAD as u32)
                .build(connector)
        };
        Self { public: http(Scope::Public), named: config.named.then(|| http(Scope::Named)) }
    }
}

impl Drop for EgressClient {
    fn drop(&mut self) {
        self.tasks.stop.cancel();
    }
}

/// What a guest asked for, within what it may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) between_bytes: Duration,
    pub(super) deadline: Instant,
}

impl Times {
    pub(super) fn new(options: Option<RequestOptions>, deadline: Instant) -> Self {
        let options = options.unwrap_or_default();
        let within = |asked: Option<Duration>, most: Duration| asked.unwrap_or(most).min(most);
        Self {
            connect: within(options.connect_timeout, CONNECT),
            first_byte: within(options.first_byte_timeout, SILENCE),
            between_bytes: within(options.between_bytes_timeout, SILENCE),
            deadline,
        }
    }

    fn until(&self, wait: Duration) -> Instant {
        Instant::now().checked_add(wait).map_or(self.deadline, |until| until.min(self.deadline))
    }
}

/// ALPN is left to the connector.
fn tls() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = || {
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the ring provider has suites for TLS 1.2 and 1.3")
    };
    let native = builder().with_native_roots();
    native.unwrap_or_else(|_| builder().with_webpki_roots()).with_no_client_auth()
}

/// Bounds connecting as a whole, also where the pool goes on with it after its request is gone.
#[derive(Clone)]
struct Within<C>(C);

impl<C> Service<Uri> for Within<C>
where
    C: Service<Uri, Error = Box<dyn std::error::Error + Send + Sync>>,
    C::Future: Send + 'static,
    C::Response: 'static,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = BoxFuture<'static, Result<C::Response, C::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connect = self.0.call(uri);
        Box::pin(
            async move { timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(Box::new(error::DialError::Timeout))) },
        )
    }
}

/// Owns the tasks of the connections, of which there are as many as connections.
#[derive(Clone, Default)]
struct Tasks {
    running: TaskTracker,
    stop: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let stop = self.stop.clone();
        self.running.spawn(async move {
            tokio::select! {
                _ = stop.cancelled() => {}
                _ = task => {}
            }
        });
    }
}
