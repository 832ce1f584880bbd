//! Accepting a call: its body is taken in, its key reserved, its message appended; from then on it will run. What comes
//! after, the record and the signal, only lets it be seen and run sooner.
//!
//! A caller that leaves half-way leaves at most a blob or a reservation behind: the sweep removes the one, a repeat uses
//! the other.

use bytes::Bytes;
use dunlin_api::{
    Body, BodyError, Digest, InvocationId, Invoke, InvokeError, Problem, Revision, StoreError, trigger::TriggerId,
};
use http::{HeaderValue, Request, Response, StatusCode, header};
use sha2::Digest as _;

use super::{
    Calls, State,
    body::Place,
    fields::idempotency_key,
    idempotency::{self, Reservation},
    item::{self, Head, Item, Payload},
};
use crate::{
    deploy::now_ms,
    events::item::{QUEUE_TOPIC, queue},
    gateway::{BodyBounds, bounded},
    store::{PutError, events::Own},
};

/// A call that will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: InvocationId,
    /// Whether this is the call of an earlier request with the same key.
    pub replayed: bool,
    /// Where it was when this was answered.
    pub state: State,
}

/// A call that was not accepted and will not run.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The request cannot be run.
    #[error(transparent)]
    Refused(#[from] InvokeError),
    /// The key belongs to another request.
    #[error("this Idempotency-Key was used for a request with another method, target or body: use a new one")]
    KeyReused,
    /// It could not be stored.
    #[error("the call was not accepted: {0}")]
    Store(#[from] StoreError),
}

impl SubmitError {
    /// The answer: a problem document that names no invocation, for there is none.
    pub(crate) fn to_response(&self) -> Response<Body> {
        let problem = match self {
            Self::Refused(error) => Problem::new(error.status(), error.code(), error.public_detail()),
            Self::KeyReused => {
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", self.to_string())
            }
            Self::Store(_) => {
                let detail = "the call could not be stored and was not accepted: try again";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-accepted", detail)
            }
        };
        let mut response = super::http::problem(&problem);
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl<I: Invoke> Calls<I> {
    /// Accepts `request` for the function of `revision`, whose limits hold; it is durable when this returns. `host` is the
    /// one that the request was sent to, if it came through the gateway.
    ///
    /// # Errors
    /// `Refused` with `BodyTooLarge`, `BodyTimeout` or `BadRequest`, `KeyReused`, `Store`.
    pub async fn submit<B>(
        &self,
        revision: &Revision,
        request: Request<B>,
        host: Option<String>,
    ) -> Result<Accepted, SubmitError>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
    {
        let now = now_ms();
        // From the thread's own generator of cryptographic quality: the id is what lets its owner read the result.
        let id = InvocationId::at(now, rand::random());
        let key = idempotency_key(request.headers())?;
        let idempotency = key.map(|key| idempotency::record(&revision.function, &key));
        let (parts, body) = request.into_parts();
        let (method, target) = item::line(&parts);
        let mut hash = idempotency.as_ref().map(|_| idempotency::fingerprint(&method, &target));
        let body = self.take(id, revision, body, hash.as_mut()).await?;
        let keep_ms = revision.settings.calls.keep.as_millis() as u64;
        let fields = item::shown(&parts.headers);
        let head = Head { id, submitted_ms: now, keep_ms, host, idempotency, method, target, fields };
        let mut item = Item { function: revision.function.clone(), head, body };
        let mut replayed = false;
        if let (Some(key), Some(hash)) = (&item.head.idempotency, hash) {
            let fingerprint = Digest::from_bytes(hash.finalize().into());
            let mine = Reservation { id, fingerprint, created_ms: now, keep_ms };
            let reserved = idempotency::reserve(&*self.stores.records, key, mine).await;
            let first = match reserved {
                Ok(reserved) => reserved.id,
                Err(error) => {
                    self.forget(&item.body).await;
                    return Err(error);
                }
            };
            replayed = first != id;
            if replayed && let Some(call) = self.status(first).await? {
                self.forget(&item.body).await;
                return Ok(Accepted { id: first, replayed, state: call.state });
            }
            item.head.id = first;
        }
        self.enqueue(&item).await?;
        Ok(Accepted { id: item.head.id, replayed, state: State::Queued })
    }

    async fn take<B>(
        &self,
        id: InvocationId,
        revision: &Revision,
        body: B,
        hash: Option<&mut sha2::Sha256>,
    ) -> Result<Payload, SubmitError>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
    {
        let max = revision.settings.limits.request_body;
        let (body, fault) = bounded(body, BodyBounds { size: max, idle: self.config.body_timeout })?;
        let place = Place { blobs: &*self.stores.blobs, name: id.to_string(), inline: self.config.inline_request, max };
        place.take(body, hash).await.map_err(|error| match (fault.error(), error) {
            (Some(error), _) => error.into(),
            (None, PutError::TooLarge { limit }) => InvokeError::BodyTooLarge(limit).into(),
            (None, PutError::Store(error)) => error.into(),
            (None, PutError::Source(_) | PutError::WrongDigest { .. }) => {
                InvokeError::BadRequest("its body broke off".into()).into()
            }
        })
    }

    /// Appends the call, makes it visible and known. Done twice with one id, it is appended once, if not too long apart.
    async fn enqueue(&self, item: &Item) -> Result<(), SubmitError> {
        let id = item.head.id.to_string();
        match self.stores.streams.append(Own::Work, item.message(), Some(&id)).await {
            Ok(_) => {}
            Err(StoreError::Invalid(why)) => {
                self.forget(&item.body).await;
                return Err(InvokeError::BadRequest(why).into());
            }
            // It may have been appended all the same: the blob stays until the sweep finds that nothing names it.
            Err(error) => {
                tracing::error!(%error, function = %item.function, "a call was not accepted");
                return Err(error.into());
            }
        }
        if let Err(error) = self.records.create(&item.entry()).await {
            tracing::warn!(%error, invocation = id, "an accepted call has no record until it runs");
        }
        let topic = format!("{QUEUE_TOPIC}.{}", queue(&item.function, &TriggerId::calls()));
        if let Err(error) = self.stores.bus.signal(&topic, Bytes::new()).await {
            tracing::debug!(%error, topic, "a signal was not sent");
        }
        Ok(())
    }

    /// Removes a body that no message names.
    pub(super) async fn forget(&self, body: &Payload) {
        if let Some(name) = body.blob()
            && let Err(error) = self.stores.blobs.delete(&name).await
        {
            tracing::debug!(%error, name, "a blob stays until it is swept");
        }
    }
}
