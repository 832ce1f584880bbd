//! A TCP proxy that can be cut: what goes through then stays where it is, as with a cable that is pulled.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// How soon a thread sees that the proxy was cut, healed or dropped.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    cut: AtomicBool,
    gone: AtomicBool,
}

/// Forwards connections to one address until it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let seen = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if seen.gone.load(Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                forward(client.try_clone().unwrap(), server.try_clone().unwrap(), seen.clone());
                forward(server, client, seen.clone());
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Nothing goes through from now on, and no side is told.
    pub(crate) fn cut(&self) {
        self.state.cut.store(true, Relaxed);
    }

    pub(crate) fn heal(&self) {
        self.state.cut.store(false, Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.gone.store(true, Relaxed);
        self.state.cut.store(false, Relaxed);
        let _wakes_the_listener = TcpStream::connect(self.address);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, state: Arc<State>) {
    from.set_read_timeout(Some(LOOK)).unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while !state.gone.load(Relaxed) {
            if state.cut.load(Relaxed) {
                thread::sleep(LOOK);
                continue;
            }
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    while state.cut.load(Relaxed) {
                        thread::sleep(LOOK);
                    }
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
}
