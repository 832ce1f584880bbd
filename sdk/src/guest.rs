//! The component's side of `wasi:http`, for the attribute macro and for authors who go without the SDK.
//!
//! The macro's expansion calls [`serve`]. It promises that the host always gets a response, unless the function itself
//! traps; a body that fails after its head is left unfinished, so that the host cuts the connection.

pub use wasip2;
pub use wasip2::exports::http::incoming_handler::Guest;
pub use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::event::Handler;
use crate::{Error, IntoResponse, Request, Response};

/// Runs `handler` on one request and sends its answer: head first, then the body.
pub fn serve<R: IntoResponse>(request: IncomingRequest, out: ResponseOutparam, handler: impl FnOnce(Request) -> R) {
    if let Err(error) = handler(Request::new(request)).into_response().send(out) {
        crate::error::log("the response body was not finished", &error);
    }
}

/// Runs `events` on an event and `otherwise` on any other request, for functions that take both.
pub fn route<Kind, R: IntoResponse>(
    request: Request,
    events: impl Handler<Kind>,
    otherwise: impl FnOnce(Request) -> R,
) -> Response {
    if request.is_event() { events.handle(request) } else { otherwise(request).into_response() }
}

/// Answers what is no event, for functions that take nothing else.
pub fn no_event(_request: Request) -> Error {
    Error::not_found("this function takes events only")
}
