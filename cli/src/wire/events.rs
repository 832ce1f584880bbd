//! What the admin API answers about triggers, messages, dead letters and calls that nobody waits for.

use dunlin_api::FunctionName;
use dunlin_scheduler::events::Counts;
use serde::{Deserialize, Serialize};

/// What fires a function beside HTTP, and how far it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trigger {
    pub(crate) id: String,
    pub(crate) kind: String,
    /// The subject, the schedule, or where keys change.
    pub(crate) listens: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    /// Events that were not delivered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<u64>,
    /// Events that run, or wait for their next try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unsettled: Option<u64>,
    /// When a schedule fires next, as RFC 3339 writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
    /// What became of its events on the node that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) here: Option<Counts>,
}

/// Where a message went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) subject: String,
    /// The stream that keeps it; none if only those who listened have it.
    pub(crate) stream: Option<String>,
    pub(crate) sequence: Option<u64>,
}

/// Dead letters, the oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LetterPage {
    pub(crate) letters: Vec<LetterSummary>,
    /// The last number of this page; none if it is empty.
    pub(crate) next: Option<u64>,
}

/// A dead letter in a list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LetterSummary {
    pub(crate) sequence: u64,
    pub(crate) died_ms: u64,
    pub(crate) function: FunctionName,
    pub(crate) trigger: String,
    pub(crate) subject: String,
    pub(crate) stream: String,
    pub(crate) origin: u64,
    pub(crate) attempts: u32,
    pub(crate) reason: String,
    pub(crate) size: u64,
}

/// A dead letter with all that is known of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    #[serde(flatten)]
    pub(crate) summary: LetterSummary,
    pub(crate) headers: Vec<(String, String)>,
    /// In Base64 (RFC 4648 §4); none if it is too large to be told with the rest.
    #[serde(default)]
    pub(crate) payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    pub(crate) log: Vec<String>,
}

/// Where a dead letter went that is tried again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Redriven {
    pub(crate) sequence: u64,
    /// In words.
    pub(crate) to: String,
}

/// How far a call is that nobody waits for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) function: FunctionName,
    pub(crate) state: State,
    pub(crate) submitted_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_ms: Option<u64>,
    #[serde(default)]
    pub(crate) attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<Head>,
}

/// What is known of a function's answer without its body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) bytes: u64,
}

/// The life of a call that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Queued,
    Running,
    Done,
    Dead,
    Cancelled,
}

impl State {
    /// Whether nothing more will happen.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled)
    }
}
