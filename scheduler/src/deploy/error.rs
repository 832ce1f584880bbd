//! Why a deploy or a removal did not happen: variant → code → status.

use dunlin_api::{Digest, FunctionName, Refusal, StoreError, Version, trigger::TriggerId};
use http::StatusCode;

use crate::routes::RouteError;

/// Why nothing was deployed. The message is for the person who deploys.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// There is no such function.
    #[error("there is no function `{0}`")]
    NoFunction(FunctionName),
    /// The artifact is not in the store.
    #[error("there is no intact artifact {0} here: upload it first with PUT /v1/artifacts/{0}")]
    UnknownArtifact(Digest),
    /// The settings are wrong in themselves.
    #[error("{0}")]
    Settings(String),
    /// A route is malformed or taken.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// What a trigger listens to cannot be listened to.
    #[error("the trigger `{trigger}` on {listens}: {source}")]
    Trigger {
        /// Its id.
        trigger: TriggerId,
        /// What it listens to, with its kind.
        listens: String,
        /// Why not.
        source: StoreError,
    },
    /// A function has too many consumers.
    #[error(
        "`{function}` would have {count} consumers with those of earlier revisions, and at most {limit} are kept: \
         remove the function, then deploy it again"
    )]
    Consumers {
        /// The function.
        function: FunctionName,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// Events would be lost.
    #[error(
        "{count} events wait for `{function}` or run: let it finish them, \
         or give them up with `dunlin remove {function} --discard-events`"
    )]
    EventsWait {
        /// The function.
        function: FunctionName,
        /// How many.
        count: u64,
    },
    /// The component cannot run here.
    #[error(transparent)]
    Refused(Refusal),
    /// Someone else deployed in between.
    #[error(
        "`{function}` is at version {found}, not {expected} (0 = not deployed): look at what changed, then deploy again"
    )]
    Conflict {
        /// The function.
        function: FunctionName,
        /// What the caller saw.
        expected: Version,
        /// What is.
        found: Version,
    },
    /// Others changed the same function all the time.
    #[error("`{0}` is being changed by others all the time: try again")]
    Contended(FunctionName),
    /// Too many deploys at once.
    #[error("{0} deploys run or wait already: try again in a few seconds")]
    Busy(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DeployError {
    /// The status and the stable code of the problem document.
    pub fn problem(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::NoFunction(_) => (S::NOT_FOUND, "no-function"),
            Self::UnknownArtifact(_) => (S::NOT_FOUND, "unknown-artifact"),
            Self::Settings(_) => (S::UNPROCESSABLE_ENTITY, "bad-settings"),
            Self::Route(RouteError::Invalid { .. }) => (S::UNPROCESSABLE_ENTITY, "bad-route"),
            Self::Route(RouteError::Conflict { .. }) => (S::CONFLICT, "route-conflict"),
            Self::Refused(refusal) => refused(refusal),
            Self::Trigger { source: StoreError::Unavailable(_), .. } => (S::SERVICE_UNAVAILABLE, "store-unavailable"),
            Self::Trigger { .. } => (S::UNPROCESSABLE_ENTITY, "bad-trigger"),
            Self::Consumers { .. } => (S::UNPROCESSABLE_ENTITY, "too-many-consumers"),
            Self::EventsWait { .. } => (S::CONFLICT, "events-wait"),
            Self::Conflict { .. } => (S::CONFLICT, "version-conflict"),
            Self::Contended(_) => (S::CONFLICT, "contended"),
            Self::Busy(_) => (S::SERVICE_UNAVAILABLE, "busy"),
            Self::Store(StoreError::Unavailable(_)) => (S::SERVICE_UNAVAILABLE, "store-unavailable"),
            Self::Store(StoreError::Invalid(_)) => (S::UNPROCESSABLE_ENTITY, "too-large"),
            Self::Store(StoreError::Conflict(_)) => (S::CONFLICT, "version-conflict"),
            Self::Store(StoreError::NotFound(_) | StoreError::Corrupt(..)) => (S::INTERNAL_SERVER_ERROR, "corrupt"),
        }
    }
}

fn refused(refusal: &Refusal) -> (StatusCode, &'static str) {
    let code = match refusal {
        Refusal::TooLarge { .. } => "component-too-large",
        Refusal::NotComponent(_) => "not-a-component",
        Refusal::CoreModule => "core-module",
        Refusal::NoHandler(_) => "no-handler",
        Refusal::Imports(_) => "missing-imports",
        Refusal::Limits(_) => "beyond-limits",
        Refusal::Compile(_) => "does-not-compile",
        Refusal::Settings(_) => "bad-settings",
        Refusal::Node(_) => return (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
    };
    (StatusCode::UNPROCESSABLE_ENTITY, code)
}
