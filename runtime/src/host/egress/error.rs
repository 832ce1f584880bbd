//! What went wrong on the way out, in the words of `wasi:http`.

use std::{error::Error as StdError, io};

use hyper_util::client::legacy;
use wasmtime_wasi_http::Error;

/// Why there is no connection. Travels through the pool as an error's source.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the name does not resolve: {0}")]
    Dns(String),
    #[error("the name has no address")]
    NotFound,
    #[error("no address of the host may be reached")]
    Prohibited,
    #[error("connection refused")]
    Refused,
    #[error("no route to the host")]
    Unroutable,
    #[error("connecting took too long")]
    Timeout,
    #[error("the node has no connection left")]
    Limit,
    #[error("connecting failed: {0}")]
    Failed(String),
}

impl DialError {
    pub(super) fn dns(error: io::Error) -> Self {
        Self::Dns(error.to_string())
    }

    pub(super) fn connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unroutable,
            _ => Self::Failed(error.to_string()),
        }
    }

    fn code(&self) -> Error {
        match self {
            Self::Dns(_) => Error::DnsError { rcode: None, info_code: None },
            Self::NotFound => Error::DestinationNotFound,
            Self::Prohibited => Error::DestinationIpProhibited,
            Self::Refused => Error::ConnectionRefused,
            Self::Unroutable => Error::DestinationIpUnroutable,
            Self::Timeout => Error::ConnectionTimeout,
            Self::Limit => Error::ConnectionLimitReached,
            Self::Failed(_) => Error::DestinationUnavailable,
        }
    }
}

/// Why a request has no response.
pub(super) fn sending(error: &legacy::Error) -> Error {
    match classify(error) {
        // A peer that hangs up before there is a connection cut no response short.
        Some(Error::HttpResponseIncomplete) if error.is_connect() => Error::ConnectionTerminated,
        Some(code) => code,
        None if error.is_connect() => Error::DestinationUnavailable,
        // The pool closed the connection, or the peer did before the first byte.
        None => Error::ConnectionTerminated,
    }
}

/// Why a response ended before its end.
pub(super) fn receiving(error: &hyper::Error) -> Error {
    match classify(error) {
        None | Some(Error::ConnectionTerminated) => Error::HttpResponseIncomplete,
        Some(code) => code,
    }
}

/// The most specific thing that the chain of causes says; the innermost cause knows best.
fn classify(error: &(dyn StdError + 'static)) -> Option<Error> {
    // An `io::Error` that wraps another error names the cause of that error as its own and leaves it out.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = match wrapped {
        Some(wrapped) => classify(wrapped),
        None => error.source().and_then(classify),
    };
    inner.or_else(|| {
        if let Some(error) = error.downcast_ref::<DialError>() {
            Some(error.code())
        } else if let Some(error) = error.downcast_ref::<rustls::Error>() {
            Some(tls(error))
        } else if let Some(error) = error.downcast_ref::<Error>() {
            Some(guest(error))
        } else if let Some(error) = error.downcast_ref::<hyper::Error>() {
            Some(http(error))
        } else {
            error.downcast_ref::<io::Error>().and_then(transport)
        }
    })
}

fn tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Error::TlsCertificateError,
        rustls::Error::AlertReceived(alert) => {
            Error::TlsAlertReceived { alert_id: Some(u8::from(*alert)), alert_message: Some(format!("{alert:?}")) }
        }
        _ => Error::TlsProtocolError,
    }
}

/// The guest's own body failed.
fn guest(error: &Error) -> Error {
    match error {
        Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
        other => Error::InternalError(Some(format!("the request body ended before its end: {other}"))),
    }
}

fn http(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_timeout() {
        Error::ConnectionReadTimeout
    } else if error.is_canceled() || error.is_closed() || error.is_body_write_aborted() {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

fn transport(error: &io::Error) -> Option<Error> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
    match error.kind() {
        UnexpectedEof => Some(Error::HttpResponseIncomplete),
        ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => Some(Error::ConnectionTerminated),
        TimedOut => Some(Error::ConnectionReadTimeout),
        _ => None,
    }
}
