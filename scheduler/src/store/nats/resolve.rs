//! Which stream a trigger on a subject reads: a named one, the one that takes the subject, or one that is made for it.
//!
//! Called when a function is deployed. Streams of users are never changed. One that is made keeps messages until every
//! consumer has them (`interest`), is named by its subject, and stays when its consumers go; then it is empty. Bounds:
//! 1 GiB for a stream that is made; when it is full, publishers are told.

use async_nats::jetstream::{
    ErrorCode,
    stream::{Config, DiscardPolicy, Info, RetentionPolicy},
};
use dunlin_api::{
    Digest, StoreError,
    subject::{check_listenable, covers, overlaps},
};
use serde::Deserialize;
use serde_json::json;

use super::{api, create, spec};
use crate::{nats::Nats, store::events::DUPLICATES};

const MADE_BYTES: i64 = 1 << 30;
/// Of the subject in the name of a stream, for people.
const SLUG_CHARS: usize = 40;

#[derive(Default, Deserialize)]
struct Names {
    #[serde(default)]
    streams: Option<Vec<String>>,
}

/// See [`crate::store::events::Streams::resolve`].
pub(super) async fn resolve(nats: &Nats, stream: Option<&str>, subject: &str) -> Result<String, StoreError> {
    check_listenable(subject).map_err(StoreError::Invalid)?;
    if let Some(stream) = stream {
        spec::check_stream(stream)?;
        let takes = subjects(nats, stream).await?;
        if takes.iter().any(|taken| overlaps(taken, subject)) {
            return Ok(stream.to_owned());
        }
        return Err(StoreError::Invalid(format!(
            "the stream `{stream}` takes `{}`, nothing of `{subject}`: name another stream, or add the subject with \
             `nats stream edit {stream}`",
            takes.join("`, `")
        )));
    }
    let found = taking(nats, subject).await?;
    let [one] = &found[..] else {
        return if found.is_empty() { make(nats, subject).await } else { Err(parts(&found, subject)) };
    };
    if subjects(nats, one).await?.iter().any(|taken| covers(taken, subject)) {
        return Ok(one.clone());
    }
    Err(parts(&found, subject))
}

fn parts(streams: &[String], subject: &str) -> StoreError {
    StoreError::Invalid(format!(
        "`{subject}` is taken only in parts, by the stream{} `{}`: name the one to read with `stream`, or narrow the subject",
        if streams.len() == 1 { "" } else { "s" },
        streams.join("`, `")
    ))
}

/// The streams that take some of `subject`.
pub(super) async fn taking(nats: &Nats, subject: &str) -> Result<Vec<String>, StoreError> {
    let request = json!({ "subject": subject });
    let names = api::call::<Names>(nats, "looking for streams", "STREAM.NAMES", &request).await?;
    let names = names.map_err(|error| StoreError::Unavailable(format!("looking for streams: {error}")))?;
    Ok(names.streams.unwrap_or_default())
}

async fn subjects(nats: &Nats, stream: &str) -> Result<Vec<String>, StoreError> {
    let call = format!("STREAM.INFO.{stream}");
    let info = api::call::<Info>(nats, "looking at a stream", &call, &()).await?;
    info.map(|info| info.config.subjects).map_err(|error| match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND => StoreError::NotFound(format!("the stream `{stream}`")),
        _ => StoreError::Unavailable(format!("looking at the stream `{stream}`: {error}")),
    })
}

async fn make(nats: &Nats, subject: &str) -> Result<String, StoreError> {
    let slug: String =
        subject.chars().take(SLUG_CHARS).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let hash = Digest::of(subject.as_bytes()).to_string();
    let hash = &hash[hash.len() - 8..];
    let plan = Config {
        name: format!("dl-{}-events-{}-{hash}", nats.cluster, slug.trim_matches('-')),
        subjects: vec![subject.to_owned()],
        retention: RetentionPolicy::Interest,
        discard: DiscardPolicy::New,
        max_bytes: MADE_BYTES,
        duplicate_window: DUPLICATES,
        allow_direct: false,
        ..Config::default()
    };
    let what = format!("making the stream {} for `{subject}`", plan.name);
    let denied = format!("$JS.API.STREAM.CREATE.{}", plan.name);
    let made = create(&nats.jetstream, &plan, &what);
    api::unless_denied(nats.complaints(), api::Action::Publish, &denied, made).await?;
    tracing::info!(stream = plan.name, subject, "made a stream for a trigger");
    Ok(plan.name)
}
