//! A URL shortener, JSON in and out: `POST /shorten` makes a code, `GET /shorten/{code}` redirects,
//! `GET /shorten/{code}/stats` counts.
//!
//! The store holds `url/CODE` and `hits/CODE`. Codes are a counter in base 36, so two calls at once never get the same.

use dunlin_sdk::kv::Store;
use dunlin_sdk::{Error, HeaderValue, Method, Request, Response, StatusCode, Uri, header};

const REQUEST_LIMIT_BYTES: usize = 4096;

#[derive(serde::Deserialize)]
struct New {
    url: String,
}

#[derive(serde::Serialize)]
struct Link {
    code: String,
    url: String,
    hits: u64,
}

#[dunlin_sdk::http]
fn handle(request: Request) -> Result<Response, Error> {
    let store = Store::open("links")?;
    if request.method() == Method::POST {
        return shorten(&store, request);
    }
    if let Some(code) = request.path_param("/shorten/{code}/stats", "code") {
        let hits = store.increment(&format!("hits/{code}"), 0)?;
        return Response::json(&Link { url: url_of(&store, &code)?, code, hits });
    }
    let code = request.path_param("/shorten/{code}", "code").ok_or_else(|| Error::not_found("GET /shorten/CODE"))?;
    let url = url_of(&store, &code)?;
    store.increment(&format!("hits/{code}"), 1)?;
    Ok(Response::new(StatusCode::FOUND).with_header(header::LOCATION, HeaderValue::try_from(url)?))
}

fn shorten(store: &Store, request: Request) -> Result<Response, Error> {
    let New { url } = request.json(REQUEST_LIMIT_BYTES)?;
    let uri: Uri = url.parse().map_err(Error::bad_request)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(Error::bad_request("`url` must be an http or https URL"));
    }
    let code = base36(store.increment("next", 1)?);
    store.set(&format!("url/{code}"), url.as_str())?;
    let location = HeaderValue::try_from(format!("/shorten/{code}"))?;
    let link = Link { code, url, hits: 0 };
    Ok(Response::json(&link)?.with_status(StatusCode::CREATED).with_header(header::LOCATION, location))
}

fn url_of(store: &Store, code: &str) -> Result<String, Error> {
    let url = store.get(&format!("url/{code}"))?.ok_or_else(|| Error::not_found(format!("no link {code:?}")))?;
    Ok(String::from_utf8(url)?)
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}
