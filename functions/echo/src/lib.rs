//! Sends back what it gets, while it gets it: content type, body and trailers. Memory use does not grow with the body.

use dunlin_sdk::{Error, HeaderValue, Request, Response, header};

#[dunlin_sdk::http]
fn handle(request: Request) -> Result<Response, Error> {
    let content_type = request.header(&header::CONTENT_TYPE);
    let mut response = Response::forward(request.into_reader()?);
    if let Some(value) = content_type {
        response = response.with_header(header::CONTENT_TYPE, HeaderValue::try_from(value)?);
    }
    Ok(response)
}
