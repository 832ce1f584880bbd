//! From a host to a connection: resolve once, drop every address that is not allowed, connect to what is left.
//!
//! The pool asks [`Dial`] for each new connection. Because the check is on the addresses that are then connected to,
//! no second answer of a name server and no spelling of an address can lead elsewhere.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use dunlin_api::BoxFuture;
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tower_service::Service;

use super::{
    address::is_public,
    error::DialError,
    policy::{Origin, Scope},
};

/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;
/// How long one address may take while others are left to try: one that drops packets must not use up the whole time.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Lookups at once. Each occupies a thread that cannot be cancelled.
const LOOKUPS: usize = 32;

/// The network below the checks; a double of it lets tests answer as a hostile name server would.
pub trait Network: Send + Sync + 'static {
    /// The addresses of `host`, which may be a name or any spelling of an address.
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

    /// A connection to exactly `address`.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}

/// The system's resolver and its TCP.
pub struct SystemNetwork {
    lookups: Arc<Semaphore>,
}

impl Default for SystemNetwork {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

impl Network for SystemNetwork {
    fn resolve(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let lookups = Arc::clone(&self.lookups);
        Box::pin(async move {
            let turn = lookups.acquire_owned().await.map_err(io::Error::other)?;
            let lookup = tokio::task::spawn_blocking(move || {
                let _turn = turn; // held by the thread: who asked may long be gone
                (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}

/// What all dialling of a node shares.
pub(super) struct Dialler {
    pub(super) network: Arc<dyn Network>,
    /// Addresses of the platform itself, which no function may reach whatever its policy says.
    pub(super) forbidden: Vec<SocketAddr>,
    pub(super) connections: Arc<Semaphore>,
}

/// Opens connections of one scope.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) dialler: Arc<Dialler>,
    pub(super) scope: Scope,
}

impl Dial {
    async fn dial(self, uri: Uri) -> Result<TokioIo<Counted>, DialError> {
        let origin = Origin::of(&uri).map_err(|_| DialError::Prohibited)?;
        let addresses = match origin.host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, origin.port)],
            Err(_) => self.dialler.network.resolve(origin.host.clone(), origin.port).await.map_err(DialError::dns)?,
        };
        if addresses.is_empty() {
            return Err(DialError::NotFound);
        }
        let mut allowed = addresses.into_iter().filter(|&to| self.allows(&origin, to)).take(ADDRESSES).peekable();
        let slot = Arc::clone(&self.dialler.connections).try_acquire_owned().map_err(|_| DialError::Limit)?;
        let mut last = DialError::Prohibited;
        while let Some(address) = allowed.next() {
            let connect = self.dialler.network.connect(address);
            let within = if allowed.peek().is_some() { ATTEMPT } else { Duration::MAX };
            match timeout(within, connect).await {
                Ok(Ok(stream)) => {
                    // Small requests must not wait for the acknowledgement of the one before.
                    let _ = stream.set_nodelay(true);
                    return Ok(TokioIo::new(Counted { stream, _slot: slot }));
                }
                Ok(Err(error)) => last = DialError::connect(&error),
                Err(_) => last = DialError::Timeout,
            }
        }
        Err(last)
    }

    fn allows(&self, origin: &Origin, to: SocketAddr) -> bool {
        let scope = match self.scope {
            Scope::Public => is_public(to.ip()),
            Scope::Named if origin.host == "localhost" => to.ip().is_loopback(),
            Scope::Named => origin.host.parse() == Ok(to.ip()),
        };
        scope && to.port() == origin.port && !self.dialler.forbidden.iter().any(|&own| is_same(own, to))
    }
}

/// Whether a connection to `to` could reach what listens on `own`. A listener on one of this machine's addresses is
/// taken to listen on all of them.
fn is_same(own: SocketAddr, to: SocketAddr) -> bool {
    let (own_ip, to_ip) = (own.ip().to_canonical(), to.ip().to_canonical());
    own.port() == to.port() && (own_ip == to_ip || (is_own(to_ip) && (own_ip.is_unspecified() || is_own(own_ip))))
}

/// Whether `ip` is this machine's: only those can be bound.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Counted>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// A connection that gives its slot back when it closes.
pub(super) struct Counted {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
