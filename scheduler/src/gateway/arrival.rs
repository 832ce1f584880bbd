//! What every request gets when it arrives: an id, a trace, a name of its own for the caller's logs.
//!
//! The HTTP front and the admin API's calls by name both begin here. Taken from the request where the caller gave it,
//! made where it did not; either way the function sees it in the request. One allocation for all that is made.

use bytes::Bytes;
use dunlin_api::{InvocationId, TraceContext};
use http::{HeaderMap, HeaderValue};
use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

use super::fields::{REQUEST_ID, Survey, TRACEPARENT, TRACESTATE};

/// Longest `x-request-id` that is taken over.
const MAX_REQUEST_ID: usize = 128;

/// Random numbers without a call into the kernel: a keyed hash (SipHash) of a counter, with keys of its own. Good for
/// ids and for choosing; not for secrets.
#[derive(Debug, Default)]
pub(super) struct Dice {
    keys: RandomState,
    count: AtomicU64,
}

impl Dice {
    pub(super) fn roll(&self) -> u64 {
        self.keys.hash_one(self.count.fetch_add(1, Relaxed))
    }

    fn roll_wide(&self) -> u128 {
        u128::from(self.roll()) << 64 | u128::from(self.roll())
    }
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub at: Instant,
    pub id: InvocationId,
    pub trace: TraceContext,
    pub request_id: HeaderValue,
}

impl Arrival {
    /// Takes or makes the identifiers of a request and leaves them in its fields.
    pub(super) fn of(headers: &mut HeaderMap, seen: Survey, dice: &Dice) -> Self {
        let at = Instant::now();
        let id = new_id(dice);
        let taken_id = if seen.request_id { taken_request_id(headers) } else { None };
        let taken_trace = if seen.traceparent { taken_trace(headers) } else { None };
        let trace = taken_trace.unwrap_or_else(|| TraceContext::new(dice.roll_wide(), dice.roll()));
        let mut text = [0; 36 + 55];
        text[..36].copy_from_slice(&id.encode());
        text[36..].copy_from_slice(&trace.encode());
        let text = Bytes::from_owner(text);
        if taken_trace.is_none() {
            headers.insert(TRACEPARENT, value(text.slice(36..)));
            if seen.traceparent {
                // A state without its valid parent means nothing (Trace Context §4.3).
                headers.remove(TRACESTATE);
            }
        }
        let request_id = taken_id.unwrap_or_else(|| {
            let made = value(text.slice(..36));
            headers.insert(REQUEST_ID, made.clone());
            made
        });
        Self { at, id, trace, request_id }
    }
}

fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("hex digits and dashes are a valid header value")
}

fn new_id(dice: &Dice) -> InvocationId {
    // A clock before 1970 makes ids that do not sort, nothing worse.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut random = [0; 10];
    random.copy_from_slice(&dice.roll_wide().to_ne_bytes()[..10]);
    InvocationId::at(now.as_millis() as u64, random)
}

fn taken_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(REQUEST_ID).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let fits = (1..=MAX_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    fits.then(|| value.clone())
}

fn taken_trace(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    TraceContext::parse(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn arrive(fields: &[(&'static str, &str)]) -> (Arrival, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let seen = Survey::of(&headers);
        (Arrival::of(&mut headers, seen, &Dice::default()), headers)
    }

    #[test]
    fn takes_what_the_caller_gave() {
        let (arrival, headers) = arrive(&[("x-request-id", "abc-1"), ("traceparent", TRACE), ("tracestate", "a=1")]);
        assert_eq!(arrival.request_id, "abc-1");
        assert_eq!(arrival.trace, TraceContext::parse(TRACE.as_bytes()).unwrap());
        assert_eq!(headers["traceparent"], TRACE);
        assert_eq!(headers["tracestate"], "a=1");
    }

    #[test]
    fn makes_what_is_missing_and_shows_it_to_the_function() {
        let (arrival, headers) = arrive(&[]);
        assert_eq!(headers["x-request-id"], arrival.id.to_string());
        assert_eq!(headers["traceparent"], arrival.trace.to_header());
        assert_eq!(arrival.request_id, arrival.id.to_string());
    }

    #[test]
    fn replaces_what_is_not_valid() {
        let long = "x".repeat(129);
        for bad in ["", "a b", &long] {
            let (arrival, headers) =
                arrive(&[("x-request-id", bad), ("traceparent", "00-0-0-0"), ("tracestate", "a=1")]);
            assert_eq!(arrival.request_id, arrival.id.to_string());
            assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
            assert_eq!(headers["traceparent"], arrival.trace.to_header());
            assert!(!headers.contains_key("tracestate"));
        }
        assert_eq!(arrive(&[("x-request-id", &"x".repeat(128))]).0.request_id, "x".repeat(128));
        let (arrival, headers) = arrive(&[("x-request-id", "a"), ("x-request-id", "b")]);
        assert_eq!(headers["x-request-id"], arrival.id.to_string());
    }

    #[test]
    fn ids_are_version_7_of_now_and_never_the_same() {
        let dice = Dice::default();
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| new_id(&dice)).collect();
        assert_eq!(ids.len(), 10_000);
        let text = new_id(&dice).to_string();
        assert_eq!(&text[14..15], "7");
        let millis = u64::from_str_radix(&text[..13].replace('-', ""), 16).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(now - millis < 60_000);
    }
}
