//! How a command ends: the exit codes, and the error that carries one.
//!
//! Every command returns `anyhow::Result`; `main` asks [`Exit::of`] what that means. An error without a [`Failure`] in its
//! chain is a plain failure (1). Scripts may rely on the numbers: they are documented in `dunlin help exit-codes` and
//! never change their meaning.

use dunlin_api::Problem;
use std::{fmt, process::ExitCode};

/// What the number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, also when there was nothing to do.
    Ok = 0,
    /// It failed, and none of the following says it better.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No node answers at the server's address.
    Unreachable = 3,
    /// The caller's mistake: not found, bad input, refused component.
    Caller = 4,
    /// The function failed.
    Function = 5,
    /// The platform is busy or failed.
    Platform = 6,
    /// What was asked about is not over yet.
    NotYet = 7,
    /// Ended by Ctrl-C, as shells count it: 128 + SIGINT.
    Interrupted = 130,
}

/// The text of `dunlin help exit-codes`.
pub(crate) const HELP: &str = "\
Exit codes:
    0  done, also when there was nothing to do
    1  it failed
    2  the command line is wrong
    3  no node answers at the server's address
    4  your mistake: not found, bad input, a component that cannot run here
    5  the function failed: it trapped, gave no response or broke a limit
    6  the platform is busy or failed: trying again may help
    7  not over yet: the call waits or runs (`dunlin result`)
  130  stopped by Ctrl-C
";

/// An error that knows its exit code and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code the process ends with.
    pub(crate) exit: Exit,
    /// What happened.
    pub(crate) message: String,
    /// What to do now; printed last.
    pub(crate) hint: Option<String>,
    /// The stable code of a problem that the server reported.
    pub(crate) code: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, code: None }
    }

    /// The caller's mistake.
    pub(crate) fn caller(message: impl Into<String>) -> Self {
        Self::new(Exit::Caller, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure that a node's answer describes.
    pub(crate) fn of_problem(problem: &Problem) -> Self {
        let mut failure = Self::new(Exit::of_problem(problem), problem.detail.clone());
        failure.code = Some(problem.code.clone());
        failure
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Nobody reads our output any more, as after `dunlin list | head -1`: success, and nothing more to say.
#[derive(Debug)]
pub(crate) struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the output was closed")
    }
}

impl std::error::Error for OutputClosed {}

impl Exit {
    /// What `error` ends the process with.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let of_cause = |cause: &(dyn std::error::Error + 'static)| {
            let closed = cause.downcast_ref::<OutputClosed>().map(|_| Self::Ok);
            closed.or_else(|| cause.downcast_ref::<Failure>().map(|failure| failure.exit))
        };
        error.chain().find_map(of_cause).unwrap_or(Self::Failure)
    }

    /// The codes are those of `InvokeError`'s table; statuses decide about problems that are not in it.
    fn of_problem(problem: &Problem) -> Self {
        match problem.code.as_str() {
            "trap" | "no-response" | "bad-response" | "cpu-limit" | "memory-limit" | "deadline" => Self::Function,
            "concurrency-limit" => Self::Platform,
            _ if problem.status == 429 || problem.status >= 500 => Self::Platform,
            _ => Self::Caller,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use dunlin_api::{ByteSize, InvocationId, InvokeError, Load};
    use std::time::Duration;

    #[test]
    fn a_failure_keeps_its_code_under_any_context() {
        let error = Err::<(), _>(Failure::caller("no")).context("outer").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Caller);
        assert_eq!(Exit::of(&anyhow::anyhow!("plain")), Exit::Failure);
        assert_eq!(Exit::of(&OutputClosed.into()), Exit::Ok);
    }

    #[test]
    fn problems_exit_as_the_error_table_says() {
        let second = Duration::from_secs(1);
        for error in [
            InvokeError::NoRoute("/".into()),
            InvokeError::Method("GET".into()),
            InvokeError::BodyTooLarge(ByteSize(1)),
            InvokeError::BodyTimeout(second),
            InvokeError::Concurrency { limit: 1 },
            InvokeError::Trap("x".into()),
            InvokeError::NoResponse("x".into()),
            InvokeError::BadResponse("x".into()),
            InvokeError::Cpu(second),
            InvokeError::Memory(ByteSize(1)),
            InvokeError::Deadline(second),
            InvokeError::Busy(Load::default()),
            InvokeError::Draining,
            InvokeError::NotReady("x".into()),
            InvokeError::Internal("x".into()),
        ] {
            let problem = Problem::of(&error, InvocationId::new(), false);
            assert_eq!(Exit::of_problem(&problem) as u8, error.exit_code(), "{error}");
        }
    }

    #[test]
    fn the_help_names_every_code() {
        for exit in
            [Exit::Ok, Exit::Failure, Exit::Usage, Exit::Unreachable, Exit::Caller, Exit::Function, Exit::NotYet]
        {
            assert!(HELP.contains(&format!("  {}  ", exit as u8)));
        }
        assert!(HELP.contains("130"));
    }
}
