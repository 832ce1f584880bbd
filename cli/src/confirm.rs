//! Asks before something is destroyed.

use anyhow::Context as _;
use std::io::{IsTerminal as _, Write as _};

use crate::exit::{Exit, Failure};

/// Asks `question` on the terminal; succeeds only on a yes. Without a terminal it fails and says that `doing` needs --yes.
pub(crate) fn confirm(question: &str, doing: &str) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let message = format!("{doing} needs a yes, and there is no terminal to ask on");
        return Err(Failure::new(Exit::Usage, message).hint("add --yes").into());
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("cannot ask")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("cannot read the answer")?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::caller("nothing was removed").into()) }
}
