//! Outbound HTTP of guests, 0.2 and 0.3 alike: what a function may reach, and how it gets there.
//!
//! The node makes one [`EgressClient`], every revision has an [`EgressPolicy`], every store an [`Outbound`], which is the
//! hook that wasmtime calls for each request. It promises that a connection goes only to an origin that the manifest
//! names, and to an address that was checked *after* the name was resolved and is the very one connected to, so that
//! neither a name that changes its mind nor a creative spelling of an address leads inside. Redirects are the guest's to
//! follow, and each is checked like a first request. Bodies stream both ways with the back-pressure of the connection.
//!
//! Bounds: `limits.outbound` requests per invocation, [`PARALLEL`] of them waiting for a response head at once and
//! [`OPEN`] with an unfinished response; every wait ends with the invocation's deadline; a node keeps at most
//! [`CONNECTIONS`] connections.

mod address;
mod body;
mod client;
mod connect;
mod error;
mod headers;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use http::{HeaderName, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, Result, WasiBody, WasiHttpHooks,
};

use super::Output;
use body::{Arriving, Leaving};
use client::Times;
use headers::strip_hop_by_hop;
use policy::{Origin, Scope};

pub use client::{CONNECTIONS, EgressClient, EgressConfig};
pub use connect::{Network, SystemNetwork};
pub use policy::EgressPolicy;

/// Requests of one store that may wait for their response heads at once; the next one waits for its turn.
pub const PARALLEL: usize = 6;
/// Responses of one store whose bodies are not finished; one more is refused, because waiting for a body that the guest
/// forgot could last until the deadline.
pub const OPEN: usize = 32;

/// The outbound requests of one store.
pub struct Outbound {
    client: Arc<EgressClient>,
    policy: Arc<EgressPolicy>,
    output: Output,
    limit: u32,
    sent: u32,
    deadline: Instant,
    /// Made by the first request: most invocations send none.
    turns: Option<Turns>,
}

#[derive(Clone)]
struct Turns {
    parallel: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

type Ended = Box<dyn Future<Output = Result<()>> + Send>;
type Sent = Result<(Response<WasiBody>, Ended)>;

impl Outbound {
    /// Requests of a store go through `client`, as `policy` allows, at most `limit` of them, none later than `deadline`.
    /// Refusals are remarked in `output`.
    pub fn new(
        client: Arc<EgressClient>,
        policy: Arc<EgressPolicy>,
        output: Output,
        limit: u32,
        deadline: Instant,
    ) -> Self {
        Self { client, policy, output, limit, sent: 0, deadline, turns: None }
    }

    /// Counts anew for the next invocation of the same store.
    pub fn begin(&mut self, deadline: Instant) {
        (self.sent, self.deadline) = (0, deadline);
    }

    /// When the invocation ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Counts a request that does not go by HTTP against the same limit.
    ///
    /// # Errors
    /// If it is used up, in words for the function's author.
    pub fn count(&mut self) -> std::result::Result<(), String> {
        if self.sent >= self.limit {
            return Err(format!("limits.outbound = {} is used up: raise it in dunlin.toml", self.limit));
        }
        self.sent += 1;
        Ok(())
    }
}

/// A request that may be sent, if its address may be reached.
struct Permitted {
    origin: Origin,
    scope: Scope,
    request: Request<Leaving>,
    times: Times,
    turns: Turns,
}

impl Outbound {
    fn permit(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>) -> Result<Permitted> {
        let origin = Origin::of(request.uri())?;
        let Some(scope) = self.policy.scope(&origin) else {
            self.output
                .remark(format_args!("refused a request to {origin}: to allow it, add \"{origin}\" to `egress`"));
            return Err(Error::HttpRequestDenied);
        };
        if !self.client.serves(scope) {
            self.output.remark(format_args!("refused a request to {origin}: this node allows only public addresses"));
            return Err(Error::DestinationIpProhibited);
        }
        if self.sent >= self.limit {
            self.output
                .remark(format_args!("refused a request to {origin}: limits.outbound = {} is used up", self.limit));
            return Err(Error::ConnectionLimitReached);
        }
        let request = outgoing(request, &origin)?;
        self.sent += 1;
        let turns = self.turns.get_or_insert_with(Turns::new).clone();
        Ok(Permitted { origin, scope, request, times: Times::new(options, self.deadline), turns })
    }
}

impl Turns {
    fn new() -> Self {
        Self { parallel: Arc::new(Semaphore::new(PARALLEL)), open: Arc::new(Semaphore::new(OPEN)) }
    }
}

/// The request as it goes out: to the origin that was checked and nowhere else, whatever its own fields say.
fn outgoing(request: Request<WasiBody>, origin: &Origin) -> Result<Request<Leaving>> {
    // CONNECT asks for a tunnel: what is behind it would be reached without a check.
    if request.method() == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    // A path in absolute form would name a second host (GHSA-5qpp).
    if !path.as_str().starts_with('/') && path != "*" {
        return Err(Error::HttpRequestUriInvalid);
    }
    let uri = Uri::builder().scheme(origin.scheme()).authority(origin.authority()).path_and_query(path);
    head.uri = uri.build().map_err(|_| Error::HttpRequestUriInvalid)?;
    head.version = http::Version::HTTP_11; // the pool negotiates; this only must not demand another one
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove(header::HOST); // the client writes it from the authority
    Ok(Request::from_parts(head, Leaving(body)))
}

async fn send(client: Arc<EgressClient>, output: Output, permitted: Permitted) -> Sent {
    let Permitted { origin, scope, request, times, turns } = permitted;
    let turn = timeout_at(times.deadline, turns.parallel.acquire_owned()).await;
    let turn = turn.ok().and_then(Result::ok).ok_or(Error::ConnectionLimitReached)?;
    let open = turns.open.try_acquire_owned().map_err(|_| {
        output.remark(format_args!("refused a request to {origin}: {OPEN} responses are not read to their end"));
        Error::ConnectionLimitReached
    })?;
    let response = client.send(scope, request, &times).await.inspect_err(|error| {
        if matches!(error, Error::DestinationIpProhibited) {
            output.remark(format_args!("refused a request to {origin}: functions may not reach its address"));
        }
    })?;
    drop(turn);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::HttpUpgradeFailed);
    }
    let mut response =
        response.map(|body| Arriving::new(body, times.between_bytes, times.deadline, open).boxed_unsync());
    strip_hop_by_hop(response.headers_mut());
    // The connection lives in the pool: a request that failed after its response began shows in the body.
    Ok((response, Box::new(std::future::ready(Ok(())))))
}

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _consumed: Ended,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        match self.permit(request, options) {
            Ok(permitted) => Box::new(send(Arc::clone(&self.client), self.output.clone(), permitted)),
            Err(error) => Box::new(std::future::ready(Err(error))),
        }
    }

    // Called for every field that a guest makes or reads: the default allocates each time. Both must say the same, or
    // forwarded trailers escape the check (GHSA-jxcf-8qw5-5c33).
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: LazyLock<ForbiddenHeaderFilter> =
            LazyLock::new(|| Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name)));
        FILTER.clone()
    }
}
