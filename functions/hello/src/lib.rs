//! Greets by the name in the query.

use dunlin_sdk::{Request, Response};

#[dunlin_sdk::http]
fn handle(request: Request) -> Response {
    let name = request.query_param("name").unwrap_or_else(|| "world".into());
    Response::text(format!("Hello, {name}!\n"))
}
