//! What the gateway may be told, and its bounds when it is told nothing.

use http::HeaderValue;
use std::time::Duration;

/// Settings and limits of the HTTP front. Each protects the node from one way to hold its memory, its sockets or its
/// time; what exceeds one is answered or cut as the field says.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, shown as `dunlin-node` to callers that ask for timing.
    pub node: HeaderValue,
    /// Adds the timing fields to every response, not only where the request has `dunlin-timing`.
    pub always_timing: bool,
    /// From the connection, or from the first byte of a later request, to the end of the request's head. Later: 408 if
    /// some of it came, else closed.
    pub head_timeout: Duration,
    /// A connection without a request in flight; then closed. HTTP/2 gets a GOAWAY first.
    pub idle_timeout: Duration,
    /// A function waits for its request body and nothing comes: 408, or cut if the response has begun.
    pub body_timeout: Duration,
    /// The client does not take what is sent to it: cut.
    pub write_timeout: Duration,
    /// From the stop to the moment when connections still busy are cut.
    pub grace: Duration,
    /// A request's head in bytes, HTTP/2: as RFC 9113 §6.5.2 counts. More: 431. At least 8 KiB.
    pub head_bytes: usize,
    /// Fields in a request's head. More: 431.
    pub head_fields: usize,
    /// Path and query in bytes. More: 414.
    pub uri_bytes: usize,
    /// Open connections. More wait in the kernel's accept queue.
    pub connections: usize,
    /// Open connections from one address, loopback excepted; more are closed at once. None = no bound but `connections`.
    pub connections_per_ip: Option<usize>,
    /// Requests in flight on one HTTP/2 connection.
    pub streams: u32,
    /// After this long without a sign of an HTTP/2 peer it is asked for one, and gone if none comes in the same time.
    pub ping_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: HeaderValue::from_static("local"),
            always_timing: false,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(30),
            head_bytes: 64 << 10,
            head_fields: 100,
            uri_bytes: 8 << 10,
            connections: 10_000,
            connections_per_ip: None,
            streams: 128,
            ping_interval: Duration::from_secs(20),
        }
    }
}
