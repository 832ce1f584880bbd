//! What happens after a try: the retry table of the design, as a function.

use dunlin_api::{InvokeError, NodeName};
use http::{HeaderMap, HeaderName, Method};
use std::time::Duration;

use crate::remote::Seen;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a call is, as far as trying again goes.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Running it twice is harmless: an idempotent method (RFC 9110 §9.2.2) or an `Idempotency-Key`.
    pub idempotent: bool,
    /// It is still whole: no byte of its body is lost to the node that failed.
    pub whole: bool,
    /// The function's own time limit, for the error that names it.
    pub timeout: Duration,
}

/// What to do with a call after a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did not run: any node may take it, and this is why the last one did not.
    Elsewhere(InvokeError),
    /// It may have run and may run again, if the retry budget allows; else this is the answer.
    Again(InvokeError),
    /// This is the answer.
    Answer(InvokeError),
}

/// Whether running a request twice has the effect of running it once.
pub fn idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key(IDEMPOTENCY_KEY)
}

/// What follows from what was `seen` of `node`.
pub fn verdict(node: &NodeName, seen: Seen, facts: Facts) -> Verdict {
    let unknown = |error| if facts.idempotent && facts.whole { Verdict::Again(error) } else { Verdict::Answer(error) };
    match seen {
        Seen::NotSent(why) => not_run(InvokeError::NoNode(why), facts),
        Seen::NoResponders => not_run(InvokeError::NoNode(format!("`{node}` is gone")), facts),
        // The function's own limit: it holds wherever the call was sent.
        Seen::Refused(error @ InvokeError::Concurrency { .. }) => Verdict::Answer(error),
        Seen::Refused(error) => not_run(error, facts),
        Seen::Silent => unknown(InvokeError::Silent { node: node.clone() }),
        Seen::Lost => unknown(InvokeError::Lost { node: node.clone() }),
        Seen::Answered { error, .. } => Verdict::Answer(error),
        Seen::Deadline => Verdict::Answer(InvokeError::Deadline(facts.timeout)),
    }
}

fn not_run(error: InvokeError, facts: Facts) -> Verdict {
    if facts.whole { Verdict::Elsewhere(error) } else { Verdict::Answer(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunlin_api::Load;

    const TIMEOUT: Duration = Duration::from_secs(7);

    #[test]
    fn the_retry_table() {
        use InvokeError as E;
        let node: NodeName = "n".parse().unwrap();
        let busy = E::Busy(Load { in_flight: 5, slots: 4 });
        let lost = E::Lost { node: node.clone() };
        let silent = E::Silent { node: node.clone() };
        let gone = E::NoNode("`n` is gone".into());
        let limit = E::Concurrency { limit: 1 };
        let trap = E::Trap("x".into());
        let (elsewhere, again, answer) = (Verdict::Elsewhere, Verdict::Again, Verdict::Answer);
        let answered = || Seen::Answered { error: trap.clone(), started: true };
        // What was seen, idempotent, whole → what happens.
        let table = [
            (Seen::NoResponders, false, true, elsewhere(gone.clone())),
            (Seen::NoResponders, true, true, elsewhere(gone.clone())),
            (Seen::NoResponders, true, false, answer(gone)),
            (Seen::NotSent("no link".into()), false, true, elsewhere(E::NoNode("no link".into()))),
            (Seen::Refused(busy.clone()), false, true, elsewhere(busy)),
            (Seen::Refused(E::Draining), false, true, elsewhere(E::Draining)),
            (Seen::Refused(E::NotReady("x".into())), false, true, elsewhere(E::NotReady("x".into()))),
            (Seen::Refused(limit.clone()), true, true, answer(limit)),
            (Seen::Silent, true, true, again(silent.clone())),
            (Seen::Silent, false, true, answer(silent.clone())),
            (Seen::Silent, true, false, answer(silent)),
            (Seen::Lost, true, true, again(lost.clone())),
            (Seen::Lost, false, true, answer(lost.clone())),
            (Seen::Lost, true, false, answer(lost)),
            (answered(), true, true, answer(trap.clone())),
            (answered(), false, false, answer(trap.clone())),
            (Seen::Deadline, true, true, answer(E::Deadline(TIMEOUT))),
        ];
        for (seen, idempotent, whole, expected) in table {
            let facts = Facts { idempotent, whole, timeout: TIMEOUT };
            let shown = format!("{seen:?}, idempotent {idempotent}, whole {whole}");
            assert_eq!(verdict(&node, seen, facts), expected, "{shown}");
        }
    }

    #[test]
    fn methods_and_keys_make_a_call_idempotent() {
        let none = HeaderMap::new();
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            assert!(idempotent(&method, &none), "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::CONNECT] {
            assert!(!idempotent(&method, &none), "{method}");
        }
        let keyed = [(IDEMPOTENCY_KEY, http::HeaderValue::from_static("k"))].into_iter().collect();
        assert!(idempotent(&Method::POST, &keyed));
    }
}
