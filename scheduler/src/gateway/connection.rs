//! One connection from accept to close: which version of HTTP it speaks, how long it may wait, how it ends.
//!
//! The gateway runs [`serve`] in a task per connection. hyper parses, this keeps time: a connection that waits too long for
//! its client is answered 408 or closed, an idle one is closed gracefully, a stopped gateway finishes what is in flight.
//! A connection holds one timer, one socket and hyper's buffers, which its configuration bounds.

use dunlin_api::Invoke;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    Shared,
    config::Config,
    front::Front,
    pulse::{Busy, Phase, Pulse, Watch},
    socket::Socket,
};

const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A client that still sends a body nobody reads gets this long, and this much of it is thrown away, so that it reads
/// the answer before the kernel tells it that its bytes were refused (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

/// A client that just connected may be about to send; it cannot know whether a request that met a reset ran.
const FRESH: Duration = Duration::from_millis(100);

/// Makes hyper's connections from one configuration.
#[derive(Clone)]
pub(super) struct Builders {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

impl Builders {
    pub(super) fn new(config: &Config, streams: TaskTracker) -> Self {
        let mut http1 = http1::Builder::new();
        // The time of a head is kept here: hyper would make a timer for each. `pipeline_flush` stays off: with it hyper
        // buffers a response without bound for a client that does not read, and keeps an answer back while unread bytes
        // follow its request.
        http1.header_read_timeout(None).max_header_size(config.head_bytes);
        if config.head_fields != Config::default().head_fields {
            http1.max_headers(config.head_fields);
        }
        let mut http2 = http2::Builder::new(Streams(streams));
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.streams)
            .max_header_list_size(u32::try_from(config.head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(64 << 10)
            .keep_alive_interval(config.ping_interval)
            .keep_alive_timeout(config.ping_interval);
        Self { http1, http2 }
    }
}

/// Where the streams of HTTP/2 connections run: the gateway waits for them when it stops. They end with their
/// connection, which resets them.
#[derive(Clone)]
pub(super) struct Streams(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

/// Serves `stream` until it ends.
pub(super) async fn serve<I: Invoke>(shared: Arc<Shared<I>>, stream: TcpStream) {
    let _open = shared.router.metrics().connection();
    let accepted = Instant::now();
    let pulse = Arc::new(Pulse::default());
    let mut socket = Socket::new(stream, pulse.clone());
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(shared.config.head_timeout, socket.speaks_http2()) => sniffed,
        () = stopped_before(&shared) => return,
    };
    let Ok(Ok(is_http2)) = sniffed else { return };
    let watch = Watch::new(pulse.clone(), is_http2, accepted);
    let front = Arc::new(Front::new(shared.clone(), pulse.clone()));
    let service = service_fn(move |request| {
        let (front, busy) = (front.clone(), Busy::begin(&front.pulse));
        async move { Ok::<_, Infallible>(front.serve(request, busy).await) }
    });
    let io = TokioIo::new(socket);
    if is_http2 {
        let mut connection = shared.builders.http2.serve_connection(io, service);
        drive(&mut connection, http2::Connection::graceful_shutdown, &shared, watch).await;
        return;
    }
    let mut connection = shared.builders.http1.serve_connection(io, service);
    let end = drive(&mut connection, http1::Connection::graceful_shutdown, &shared, watch).await;
    let socket = connection.into_parts().io.into_inner();
    match end {
        End::Late(Phase::Head) => socket.try_write(LATE),
        // A body that an HTTP/1.0 client reads up to the close must not seem to end well.
        End::Closed(Err(error)) if error.is_user() && pulse.old_client.load(Relaxed) => socket.reset(),
        End::Closed(Ok(())) if !pulse.had_body.load(Relaxed) => {}
        End::Closed(Err(error)) if error.is_user() => {}
        End::Closed(_) => linger(socket).await,
        End::Late(_) => {}
    }
}

/// When a connection without a request is given up because the gateway stops: what its client sent may be on its way.
async fn stopped_before<I>(shared: &Shared<I>) {
    shared.stop.cancelled().await;
    tokio::time::sleep(FRESH).await;
}

/// How a connection ended.
enum End {
    /// By HTTP, by its service, or by an error of the socket.
    Closed(hyper::Result<()>),
    /// It was too long in this phase.
    Late(Phase),
}

/// Runs `connection` and keeps its time; `finish` makes it end after what is in flight.
async fn drive<I, C>(mut connection: &mut C, finish: fn(Pin<&mut C>), shared: &Shared<I>, mut watch: Watch) -> End
where
    C: Future<Output = hyper::Result<()>> + Unpin,
{
    let config = &shared.config;
    let mut timer = pin!(tokio::time::sleep(config.head_timeout));
    let (mut armed, mut ending, mut begun) = (false, false, false);
    let mut stop = pin!(shared.stop.cancelled());
    // Registers this task once; afterwards a flag is cheaper than the token's lock.
    let mut stopping = poll_fn(|cx| Poll::Ready(stop.as_mut().poll(cx).is_ready())).await;
    poll_fn(|cx| {
        loop {
            stopping |= shared.stopping.load(Relaxed);
            if stopping && !ending && begun {
                ending = true;
                finish(Pin::new(&mut connection));
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(End::Closed(result));
            }
            // Only now has hyper seen the request that may be there: told to finish before, it closes.
            if !mem::replace(&mut begun, true) && stopping {
                continue;
            }
            let (phase, Some(until)) = watch.observe(config, Instant::now) else { return Poll::Pending };
            if !armed || until < timer.deadline() {
                timer.as_mut().reset(until);
                armed = true;
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            armed = false;
            if Instant::now() < until {
                continue;
            }
            if phase != Phase::Idle || ending {
                return Poll::Ready(End::Late(phase));
            }
            // HTTP/1.1 closes at once; HTTP/2 says GOAWAY and gets as long again to leave.
            ending = true;
            finish(Pin::new(&mut connection));
            watch.restart();
        }
    })
    .await
}

/// Throws away what a client still sends, within bounds, until it closes.
async fn linger(mut socket: Socket) {
    let drain = async {
        if socket.shutdown().await.is_err() {
            return;
        }
        let (mut buffer, mut left) = (vec![0; 16 << 10], LINGER_BYTES);
        while let Ok(read @ 1..) = socket.read(&mut buffer).await {
            let Some(rest) = left.checked_sub(read) else { return };
            left = rest;
        }
    };
    // Whoever goes on sending after that gets a reset.
    let _ = tokio::time::timeout(LINGER, drain).await;
}
