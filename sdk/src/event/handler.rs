//! Functions that take an [`Event`], with or without `async`.

use std::future::Future;

use super::{Event, IntoOutcome, Payload};
use crate::{IntoResponse, Request, Response, task};

/// A function that takes one [`Event`] and returns what is [`IntoOutcome`], or an `async fn` that does.
///
/// `Kind` tells the two apart and is found by the compiler.
#[diagnostic::on_unimplemented(
    message = "this function does not handle events",
    note = "it takes one `dunlin_sdk::Event<T>` and returns `Result<(), dunlin_sdk::EventError>`; it may be an `async fn`",
    note = "`T` is a type that serde reads (feature `json` of dunlin-sdk), `Vec<u8>`, `String` or `()`",
    note = "a value that is returned as the reply is a type that serde writes (feature `json`), `Vec<u8>`, `String` or `Response`"
)]
pub trait Handler<Kind> {
    /// Runs it on the event that `request` carries. A request that carries none, or a payload of another type, is answered
    /// with 400 and the reason.
    fn handle(self, request: Request) -> Response;
}

/// `Kind` of a function that returns its outcome.
pub enum Returns {}
/// `Kind` of an `async fn`.
pub enum Awaits {}

impl<F, T, R> Handler<(Returns, T, R)> for F
where
    F: FnOnce(Event<T>) -> R,
    T: Payload,
    R: IntoOutcome,
{
    fn handle(self, request: Request) -> Response {
        run(request, self)
    }
}

impl<F, T, R> Handler<(Awaits, T, R)> for F
where
    F: FnOnce(Event<T>) -> R,
    T: Payload,
    R: Future<Output: IntoOutcome>,
{
    fn handle(self, request: Request) -> Response {
        run(request, |event| task::block_on(self(event)))
    }
}

fn run<T: Payload, R: IntoOutcome>(request: Request, handler: impl FnOnce(Event<T>) -> R) -> Response {
    match Event::from_request(request) {
        Ok(event) => {
            let to_requester = event.reply_to.is_some();
            handler(event).into_outcome(to_requester)
        }
        Err(refused) => refused.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventError;

    fn takes<Kind>(_: impl Handler<Kind>) {}

    #[test]
    fn every_shape_of_function_is_a_handler() {
        fn returns(_: Event<String>) -> Result<(), EventError> {
            Ok(())
        }
        async fn awaits(_: Event<Vec<u8>>) -> Result<String, std::io::Error> {
            Ok(String::new())
        }
        async fn nothing(_: Event<()>) {}
        takes(returns);
        takes(awaits);
        takes(nothing);
        takes(|_: Event<()>| ());
    }
}
