//! Log lines of functions, on their way from a sandbox to whoever reads them.

use serde::{Deserialize, Serialize};

use crate::{FunctionName, InvocationId, RevisionId};

/// One line that a function printed, or that the runtime says about an invocation of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Which function.
    pub function: FunctionName,
    /// Which revision of it.
    pub revision: RevisionId,
    /// Which invocation.
    pub invocation: InvocationId,
    /// Where it was printed.
    pub stream: LogStream,
    /// The line without its end. Control characters are escaped, invalid UTF-8 is replaced.
    pub text: String,
}

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// The runtime, about this invocation: a trap, a limit, how much output was dropped.
    Runtime,
}

/// Takes log lines. Never blocks and never fails: a sink that cannot keep up drops lines and counts them.
pub trait Logs: Send + Sync + 'static {
    /// Takes one line.
    fn line(&self, line: LogLine);
}
