//! Takes connections, as many as there may be, and goes on whatever happens.
//!
//! At its bound of connections it leaves new ones in the kernel's queue. Without file descriptors it waits a moment: the
//! kernel keeps a connection that could not be accepted, and one that ends gives its descriptor back.

use dunlin_api::Invoke;
use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, ErrorKind},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinError, JoinSet},
};

use super::{Shared, connection};

/// How long to wait when accepting fails for want of descriptors or memory: long enough not to spin, short enough not
/// to be noticed.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until it is dropped. Connections run in `connections`.
pub(super) async fn run<I: Invoke>(listener: &TcpListener, shared: &Arc<Shared<I>>, connections: &mut JoinSet<()>) {
    let places = Arc::new(Semaphore::new(shared.config.connections));
    let sources = Arc::new(Sources::default());
    let mut failing = false;
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = loop {
            tokio::select! {
                Some(ended) = connections.join_next() => report(ended),
                accepted = listener.accept() => break accepted,
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                let Some(source) = sources.enter(peer.ip(), shared.config.connections_per_ip) else {
                    tracing::debug!(%peer, "refused a connection: its address has as many as it may");
                    continue;
                };
                // Answers are written whole; waiting to fill a segment only delays them.
                let _ = stream.set_nodelay(true);
                let shared = shared.clone();
                connections.spawn(async move {
                    connection::serve(shared, stream).await;
                    drop((place, source));
                });
            }
            Err(error) if concerns_one(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, open = connections.len(), "cannot accept connections now");
                }
                failing = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Takes what the kernel has connected already and ends `listener`: to close it would reset those connections, although
/// their requests may be here. The kernel's queue bounds them.
pub(super) fn last<I: Invoke>(listener: TcpListener, shared: &Arc<Shared<I>>, connections: &mut JoinSet<()>) {
    // Not tokio's `accept`: it sees a connection only when its own loop has.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, _)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            let _ = stream.set_nodelay(true);
            connections.spawn(connection::serve(shared.clone(), stream));
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// Whether an error of accept is that of the connection that came, not of the listener.
fn concerns_one(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// Open connections by address.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

impl Sources {
    /// A place for one more connection from `ip`; none if it has `limit` already. Loopback has no limit: what stands
    /// there is a proxy, which sends everybody.
    fn enter(self: &Arc<Self>, ip: IpAddr, limit: Option<usize>) -> Option<Source> {
        let Some(limit) = limit.filter(|_| !ip.to_canonical().is_loopback()) else { return Some(Source(None)) };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&ip).copied().unwrap_or(0);
        (count < limit).then(|| {
            counts.insert(ip, count + 1);
            Source(Some((self.clone(), ip)))
        })
    }
}

/// One counted connection, until it is dropped.
struct Source(Option<(Arc<Sources>, IpAddr)>);

impl Drop for Source {
    fn drop(&mut self) {
        let Some((sources, ip)) = self.0.take() else { return };
        let mut counts = sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(ip) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_connections_as_it_may_and_others_are_not_concerned() {
        let sources = Arc::new(Sources::default());
        let ip = |text: &str| text.parse().unwrap();
        let first = sources.enter(ip("192.0.2.1"), Some(2)).unwrap();
        let _second = sources.enter(ip("192.0.2.1"), Some(2)).unwrap();
        assert!(sources.enter(ip("192.0.2.1"), Some(2)).is_none());
        assert!(sources.enter(ip("192.0.2.2"), Some(2)).is_some());
        drop(first);
        let third = sources.enter(ip("192.0.2.1"), Some(2));
        assert!(third.is_some());
        let loopback: Vec<_> = (0..5).map(|_| sources.enter(ip("127.0.0.1"), Some(2))).collect();
        assert!(loopback.iter().all(Option::is_some));
        drop((_second, third));
        assert!(sources.0.lock().unwrap().is_empty());
    }

    #[test]
    fn only_errors_of_one_connection_are_passed_over_at_once() {
        assert!(concerns_one(&ErrorKind::ConnectionAborted.into()));
        let no_descriptors = io::Error::from_raw_os_error(24);
        assert!(!concerns_one(&no_descriptors));
    }
}
