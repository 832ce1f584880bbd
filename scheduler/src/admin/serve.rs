//! Serves the admin API on a listener that its caller bound.
//!
//! A loop of our own instead of axum's, because that one bounds neither connections nor the time a request head takes.
//! Bounds: [`CONNECTIONS`] at once, further ones wait in the kernel's queue; [`HEAD`] for a request's head and for the
//! next request on a connection; requests that are over when `grace` ends are cut.

use axum::{Router, extract::ConnectInfo};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{Admin, router};

/// Far more than people and their tools need, followers of logs included.
const CONNECTIONS: usize = 256;
/// Time for a request's head, and for an idle connection to begin the next.
const HEAD: Duration = Duration::from_secs(10);
/// Before accepting again when the process has no file descriptor left.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until [`Admin::stop`] is cancelled, then ends idle connections and gives requests under way `grace` to finish.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, grace: Duration) {
    let stop = admin.stop.clone();
    let router = router(admin);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &places)).await {
        if let Some((stream, peer, place)) = accepted {
            let served = connection(stream, peer, router.clone(), stop.clone());
            connections.spawn(async move {
                served.await;
                drop(place);
            });
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "admin requests were cut: they outlived the grace period");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.expect("the semaphore of places is never closed");
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::warn!(%error, "a connection to the admin API could not be accepted");
            tokio::time::sleep(BREATH).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "an admin connection broke off");
    }
}
