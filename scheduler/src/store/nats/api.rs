//! Requests to the API of JetStream about streams and consumers, some of which are not ours.
//!
//! Used by the parts of the store that events stand on. Bounds: those of the attempt module. A request that NATS denies
//! is silent to its caller, so the complaints of the server are read meanwhile and make an error that names the subject.

use async_nats::jetstream::{self, response::Response};
use dunlin_api::StoreError;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{ask, attempt::attempts, bucket::refused};
use crate::nats::Nats;

/// Complaints of the server as they come.
type Complaints = Receiver<std::sync::Arc<str>>;

/// What the server may deny.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Publish,
    Subscribe,
}

impl Action {
    /// The error, if `complaint` is about this action on `subject`.
    pub(super) fn denied(self, complaint: &str, subject: &str) -> Option<StoreError> {
        let (kind, words) = match self {
            Self::Publish => ("for publish", "publish to"),
            Self::Subscribe => ("for subscription", "subscribe to"),
        };
        let about = complaint.to_ascii_lowercase().contains(kind) && complaint.contains(&format!("\"{subject}\""));
        about.then(|| {
            StoreError::Invalid(format!(
                "NATS does not allow this node to {words} `{subject}`: grant it to the node's user, in `permissions`"
            ))
        })
    }
}

/// Asks, as often as needed; an answer that is an error is an answer.
pub(super) async fn call<T: DeserializeOwned>(
    nats: &Nats,
    what: &str,
    call: &str,
    payload: &(impl Serialize + Sync),
) -> Result<Result<T, jetstream::Error>, StoreError> {
    let asked = attempts(what, |_| async {
        match ask(&nats.jetstream, call, payload).await? {
            Response::Ok(answer) => Ok(Ok(answer)),
            // There is no leader now.
            Response::Err { error } if error.code() == 503 => Err(refused(&error)),
            Response::Err { error } => Ok(Err(error)),
        }
    });
    unless_denied(nats.complaints(), Action::Publish, &format!("$JS.API.{call}"), asked).await
}

/// Does `work`, or says that NATS denied it.
pub(super) async fn unless_denied<T>(
    mut complaints: Complaints,
    action: Action,
    subject: &str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            complaint = complaints.recv() => match complaint {
                Ok(complaint) => if let Some(denied) = action.denied(&complaint, subject) {
                    return Err(denied);
                },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return work.await,
            },
        }
    }
}
