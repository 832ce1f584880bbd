//! What every store promises, whichever stands behind the traits. A store joins with one line per suite.

pub(crate) mod artifacts;
pub(crate) mod blobs;
pub(crate) mod bus;
pub(crate) mod catalog;
pub(crate) mod keyvalue;
pub(crate) mod streams;

use std::time::Duration;

/// How long a test waits for what must come: longer than any store needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a test waits for what must not come.
const QUIET: Duration = Duration::from_millis(500);

/// A name that nobody else uses: the suites do not need an empty store.
fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", nuid::next().to_lowercase())
}

/// Asks again until `found` says yes: what is settled may be counted a moment later.
async fn eventually<F: Future<Output = bool>>(what: &str, mut found: impl FnMut() -> F) {
    let asking = async {
        while !found().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"));
}
