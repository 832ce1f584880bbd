//! Canonical JSON and digests.
//!
//! `POST /transform` with a JSON object answers it with sorted keys, without nulls, with trimmed texts and the SHA-256 of
//! that form; `POST /transform/sha256` answers the digest of the body's bytes, `GET /transform/sha256?text=` of a text.

use std::io::Read;

use dunlin_sdk::{Error, Method, Request, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};

const JSON_LIMIT_BYTES: usize = 1 << 20;

#[dunlin_sdk::http]
fn handle(request: Request) -> Result<Response, Error> {
    if request.path().ends_with("/sha256") {
        return digest(request);
    }
    let Value::Object(mut object) = request.json(JSON_LIMIT_BYTES)? else {
        return Err(Error::bad_request("send a JSON object"));
    };
    object.retain(|_, value| !value.is_null());
    object.values_mut().for_each(clean);
    let mut canonical = Value::Object(object);
    canonical["sha256"] = hex(&Sha256::digest(canonical.to_string())).into();
    Response::json(&canonical)
}

fn digest(request: Request) -> Result<Response, Error> {
    let mut hasher = Sha256::new();
    if request.method() == Method::GET {
        hasher.update(request.query_param("text").unwrap_or_default());
    } else {
        let mut body = request.into_reader()?;
        let mut chunk = vec![0; 16 * 1024];
        loop {
            match body.read(&mut chunk)? {
                0 => break,
                size => hasher.update(&chunk[..size]),
            }
        }
    }
    Ok(Response::text(hex(&hasher.finalize())))
}

/// Objects keep their keys sorted: that is serde_json's default map.
fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.trim().to_owned(),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(clean);
        }
        _ => {}
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(b"0123456789abcdef"[nibble as usize]))
        .collect()
}
