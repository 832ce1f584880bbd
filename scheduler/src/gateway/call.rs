//! Calls by a function's name, for the admin API and for whoever knows the function and not its route.
//!
//! They take the same path as HTTP requests, with the same limits, ids and answers, only without routing; the response
//! always says where the time went.

use bytes::Bytes;
use dunlin_api::{Body, BodyError, FunctionName, Invoke};
use http::{HeaderMap, Request, Response};
use std::sync::Arc;

use super::{
    arrival::{Arrival, Dice},
    config::Config,
    exchange::Exchange,
    fields::{Survey, TIMING, strip},
};
use crate::{metrics::Trigger, router::Router};

/// Removes from a request what a function must not see, and says what else is in it.
pub(crate) fn without_hop_fields(headers: &mut HeaderMap) -> Survey {
    let seen = Survey::of(headers);
    strip(headers, seen);
    headers.remove(TIMING);
    seen
}

/// Calls functions by name.
pub struct Caller<I> {
    router: Arc<Router<I>>,
    config: Config,
    dice: Dice,
}

impl<I: Invoke> Caller<I> {
    /// A caller over `router` with the node's name and the body timeout of `config`.
    pub fn new(router: Arc<Router<I>>, config: Config) -> Self {
        Self { router, config, dice: Dice::default() }
    }

    /// Sends `request` to `function` and returns its answer, or the problem document of the error there was instead.
    pub async fn call<B>(&self, function: &FunctionName, mut request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
    {
        let headers = request.headers_mut();
        let seen = without_hop_fields(headers);
        let arrival = Arrival::of(headers, seen, &self.dice);
        let revision = self.router.resolve(function, self.dice.roll());
        let metrics = &**self.router.metrics();
        let exchange = Exchange { config: &self.config, metrics, trigger: Trigger::Name, arrival, timing: true };
        exchange.run(&*self.router, revision, request).await.response
    }
}
