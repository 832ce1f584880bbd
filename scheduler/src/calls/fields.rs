//! The request fields that concern calls nobody waits for: `Prefer` (RFC 7240) and `Idempotency-Key`
//! (draft-ietf-httpapi-idempotency-key-header).

use dunlin_api::InvokeError;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest idempotency key.
const MAX_KEY_BYTES: usize = 255;

/// What a caller would like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// Not to wait for the answer.
    pub respond_async: bool,
    /// To wait so long at most.
    pub wait: Option<Duration>,
    /// Preferences that are none of ours.
    rest: Vec<String>,
}

impl Preferences {
    /// Of a name that comes twice the first one counts (RFC 7240 §2); a value that makes no sense is ignored, as all of
    /// them may be.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| split(value, ',')) {
            let token = split(preference, ';').next().unwrap_or_default();
            let (name, value) = token.split_once('=').map_or((token, ""), |(name, value)| (name.trim(), value.trim()));
            if name.eq_ignore_ascii_case("respond-async") {
                all.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") {
                let seconds = value.trim_matches('"').parse().ok().map(Duration::from_secs);
                all.wait = all.wait.or(seconds);
            } else if !name.is_empty() {
                all.rest.push(preference.to_owned());
            }
        }
        all
    }

    /// Leaves in `headers` only what the function may want to know.
    pub(crate) fn leave_rest(&self, headers: &mut HeaderMap) {
        headers.remove(PREFER);
        if let Ok(value) = HeaderValue::try_from(self.rest.join(", "))
            && !value.is_empty()
        {
            headers.insert(PREFER, value);
        }
    }
}

/// The parts of `text` between `at`, except inside of quoted strings; trimmed.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let splits = c == at && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        splits
    })
    .map(str::trim)
}

/// The idempotency key of a request: a structured field's string (RFC 8941 §3.3.3) or, as many send it, bare.
///
/// # Errors
/// `BadRequest` if it is malformed, too long, or there are several.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, InvokeError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|_| values.next().is_none()).and_then(|text| unquoted(text.trim()));
    match key {
        Some(key) if (1..=MAX_KEY_BYTES).contains(&key.len()) => Ok(Some(key)),
        _ => {
            let text = format!("Idempotency-Key must be one string of 1 to {MAX_KEY_BYTES} characters");
            Err(InvokeError::BadRequest(text))
        }
    }
}

fn unquoted(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else {
        let bare = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';'));
        return bare.then(|| text.to_owned());
    };
    let (mut key, mut rest) = (String::new(), rest.chars());
    loop {
        match rest.next()? {
            '"' => break,
            '\\' => key.push(rest.next().filter(|c| matches!(c, '"' | '\\'))?),
            c if c.is_ascii_graphic() || c == ' ' => key.push(c),
            _ => return None,
        }
    }
    // Parameters of the item mean nothing here.
    let rest = rest.as_str().trim_start();
    (rest.is_empty() || rest.starts_with(';')).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferences(lines: &[&str]) -> (Preferences, Option<String>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, line.parse().unwrap());
        }
        let all = Preferences::of(&headers);
        all.leave_rest(&mut headers);
        (all, headers.get(PREFER).map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn preferences_are_a_list_of_names_values_and_parameters() {
        for (lines, respond_async, wait, rest) in [
            (&["respond-async"][..], true, None, None),
            (&["Respond-Async; x=1, WAIT=\"10\""], true, Some(10), None),
            (&["respond-async, wait = 5", "wait=9, return=minimal"], true, Some(5), Some("return=minimal")),
            (&["wait=x, handling=lenient;a=\"b,c\""], false, None, Some("handling=lenient;a=\"b,c\"")),
            (&["note=\"respond-async, \\\" wait=1\""], false, None, Some("note=\"respond-async, \\\" wait=1\"")),
            (&["", ",,"], false, None, None),
        ] {
            let (all, left) = preferences(lines);
            assert_eq!((all.respond_async, all.wait.map(|w| w.as_secs())), (respond_async, wait), "{lines:?}");
            assert_eq!(left.as_deref(), rest, "{lines:?}");
        }
    }

    #[test]
    fn a_key_is_a_string_or_bare() {
        let key = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IDEMPOTENCY_KEY, line.parse().unwrap());
            }
            idempotency_key(&headers)
        };
        assert_eq!(key(&[]), Ok(None));
        for (line, expected) in
            [("\"a b\"", "a b"), ("abc-1", "abc-1"), (r#""q\"\\";p=1"#, r#"q"\"#), (&"x".repeat(255), &"x".repeat(255))]
        {
            assert_eq!(key(&[line]), Ok(Some(expected.to_owned())));
        }
        for bad in
            [&[""][..], &["\"\""], &["\"a"], &["a b"], &["\"a\"b"], &["a", "a"], &[&"x".repeat(256)], &["\"\\n\""]]
        {
            assert!(key(bad).is_err(), "{bad:?}");
        }
    }
}
