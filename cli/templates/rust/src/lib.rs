//! Greets whoever the query names: `GET /{{name}}/?name=Ada`.

use dunlin_sdk::{Error, Request, Response};

#[dunlin_sdk::http]
fn handle(request: Request) -> Result<Response, Error> {
    let name = request.query_param("name").unwrap_or_else(|| "world".into());
    println!("greeting {name}");
    Ok(Response::text(greeting(&name)))
}

fn greeting(name: &str) -> String {
    format!("Hello, {name}!\n")
}

#[cfg(test)]
mod tests {
    use super::greeting;

    #[test]
    fn greets_by_name() {
        assert_eq!(greeting("Ada"), "Hello, Ada!\n");
    }
}
