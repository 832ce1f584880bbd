//! Why an invocation failed: one table of variant → fault → HTTP status → retry advice → exit code.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::{ByteSize, FunctionName, Load, NodeName};

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request could never have worked.
    Caller,
    /// The function failed or used more than it may.
    Function,
    /// Dunlin or its machine failed.
    Platform,
}

/// What a caller may do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same call would fail again.
    Never,
    /// Nothing ran: any call may be sent again, after this time.
    After(Duration),
    /// Something may have run: only calls that are idempotent may be sent again.
    IfIdempotent,
}

/// Why an invocation did not end with the function's own answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum InvokeError {
    /// No function has a route for this request.
    #[error("no function serves {0}")]
    NoRoute(String),
    /// The route exists, for other methods.
    #[error("this route takes only {0}")]
    Method(String),
    /// The function is not deployed.
    #[error("there is no function `{0}`")]
    NoFunction(FunctionName),
    /// The request is not well-formed.
    #[error("the request is malformed: {0}")]
    BadRequest(String),
    /// The request body is over the function's limit.
    #[error("the request body is larger than limits.request_body = {0}")]
    BodyTooLarge(ByteSize),
    /// The client sent its body too slowly or stopped sending.
    #[error("the request body did not arrive: nothing came for {}", humantime::format_duration(*.0))]
    BodyTimeout(Duration),
    /// The function's own concurrency limit is reached.
    #[error("the function runs {limit} invocations already, its limits.concurrency")]
    Concurrency {
        /// The limit.
        limit: u32,
    },
    /// The guest trapped.
    #[error("the function trapped: {0}")]
    Trap(String),
    /// The guest returned without a response, or with an error instead of one.
    #[error("the function gave no response: {0}")]
    NoResponse(String),
    /// The guest's response cannot be sent as it is.
    #[error("the function's response is invalid: {0}")]
    BadResponse(String),
    /// The guest used up its CPU time.
    #[error("the function used up its CPU time, limits.cpu = {}", humantime::format_duration(*.0))]
    Cpu(Duration),
    /// The guest asked for more memory than it may have and did not survive that.
    #[error("the function needed more memory than limits.memory = {0}")]
    Memory(ByteSize),
    /// The deadline passed.
    #[error("the function did not finish within limits.timeout = {}", humantime::format_duration(*.0))]
    Deadline(Duration),
    /// The node has no slot free.
    #[error("the node is full: {} of {} slots are taken", .0.in_flight, .0.slots)]
    Busy(Load),
    /// The node is shutting down.
    #[error("the node is draining and takes no new invocations")]
    Draining,
    /// The component could not be made ready here.
    #[error("the function could not be made ready on this node: {0}")]
    NotReady(String),
    /// No node may run it, or none that may takes it.
    #[error("no node takes this call: {0}")]
    NoNode(String),
    /// The node that ran it was lost.
    #[error("outcome unknown: the node `{node}` was lost while it ran this call, which may have had its effect")]
    Lost {
        /// The node.
        node: NodeName,
    },
    /// The node that it was sent to does not answer.
    #[error("outcome unknown: the node `{node}` does not answer; most likely this call did not run")]
    Silent {
        /// The node.
        node: NodeName,
    },
    /// A fault of the host itself.
    #[error("the node failed: {0}")]
    Internal(String),
}

/// One row of the table: code, fault, status, exit code of the command line.
type Row = (&'static str, Fault, StatusCode, u8);

impl InvokeError {
    fn row(&self) -> Row {
        use Fault::{Caller, Function, Platform};
        use StatusCode as S;
        match self {
            Self::NoRoute(_) => ("no-route", Caller, S::NOT_FOUND, 4),
            Self::Method(_) => ("method-not-allowed", Caller, S::METHOD_NOT_ALLOWED, 4),
            Self::NoFunction(_) => ("no-function", Caller, S::NOT_FOUND, 4),
            Self::BadRequest(_) => ("bad-request", Caller, S::BAD_REQUEST, 4),
            Self::BodyTooLarge(_) => ("body-too-large", Caller, S::PAYLOAD_TOO_LARGE, 4),
            Self::BodyTimeout(_) => ("body-timeout", Caller, S::REQUEST_TIMEOUT, 4),
            Self::Concurrency { .. } => ("concurrency-limit", Function, S::TOO_MANY_REQUESTS, 6),
            Self::Trap(_) => ("trap", Function, S::INTERNAL_SERVER_ERROR, 5),
            Self::NoResponse(_) => ("no-response", Function, S::INTERNAL_SERVER_ERROR, 5),
            Self::BadResponse(_) => ("bad-response", Function, S::INTERNAL_SERVER_ERROR, 5),
            Self::Cpu(_) => ("cpu-limit", Function, S::GATEWAY_TIMEOUT, 5),
            Self::Memory(_) => ("memory-limit", Function, S::INTERNAL_SERVER_ERROR, 5),
            Self::Deadline(_) => ("deadline", Function, S::GATEWAY_TIMEOUT, 5),
            Self::Busy(_) => ("busy", Platform, S::SERVICE_UNAVAILABLE, 6),
            Self::Draining => ("draining", Platform, S::SERVICE_UNAVAILABLE, 6),
            Self::NotReady(_) => ("not-ready", Platform, S::SERVICE_UNAVAILABLE, 6),
            Self::NoNode(_) => ("no-node", Platform, S::SERVICE_UNAVAILABLE, 6),
            Self::Lost { .. } => ("node-lost", Platform, S::BAD_GATEWAY, 6),
            Self::Silent { .. } => ("node-silent", Platform, S::GATEWAY_TIMEOUT, 6),
            Self::Internal(_) => ("internal", Platform, S::INTERNAL_SERVER_ERROR, 6),
        }
    }

    /// A stable machine-readable code.
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.row().1
    }

    /// The status an HTTP caller receives.
    pub fn status(&self) -> StatusCode {
        self.row().2
    }

    /// The exit code of a command that ended with this error.
    pub fn exit_code(&self) -> u8 {
        self.row().3
    }

    /// Whether sending the call again may help, and when.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Busy(_) | Self::Draining | Self::Concurrency { .. } | Self::NotReady(_) | Self::NoNode(_) => {
                Retry::After(Duration::from_secs(1))
            }
            Self::Internal(_) | Self::Lost { .. } | Self::Silent { .. } => Retry::IfIdempotent,
            _ => Retry::Never,
        }
    }

    /// What a caller may read. Details of the machine or of the guest's insides stay in the log.
    pub fn public_detail(&self) -> String {
        match self {
            Self::Trap(_) => "the function trapped".into(),
            Self::Internal(_) => "the node failed".into(),
            Self::NotReady(_) => "the function could not be made ready on this node".into(),
            other => other.to_string(),
        }
    }
}
