//! The few pure things functions do with a path and a query: match a `{param}`, find a `name=value`, undo `%41`.
//!
//! Used by `Request` and `Event`. Formats: RFC 3986 §2.1 (percent-encoding) and the URL standard's form encoding for queries.

/// The segment of `path` at `{name}` in `template`, decoded; `None` when path and template do not match.
///
/// `{name}` stands for one segment, `{*name}` at the end for the rest, as in the routes of `dunlin.toml`.
pub(crate) fn path_param(template: &str, path: &str, name: &str) -> Option<String> {
    let (mut wanted, mut rest) = (template, path);
    let mut found = None;
    loop {
        let (pattern, more_pattern) = wanted.split_once('/').map_or((wanted, None), |(a, b)| (a, Some(b)));
        let key = pattern.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
        if let Some(tail) = key.and_then(|key| key.strip_prefix('*')) {
            return if tail == name { Some(decode(rest, false)) } else { found };
        }
        let (segment, more) = rest.split_once('/').map_or((rest, None), |(a, b)| (a, Some(b)));
        match key {
            Some(key) if !segment.is_empty() => {
                if key == name {
                    found = Some(decode(segment, false));
                }
            }
            None if pattern == segment => {}
            _ => return None,
        }
        match (more_pattern, more) {
            (Some(pattern), Some(path)) => (wanted, rest) = (pattern, path),
            (None, None) => return found,
            _ => return None,
        }
    }
}

/// The first value of `name` in a query string, decoded.
pub(crate) fn query_param(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key, true) == name).then(|| decode(value, true))
    })
}

/// Undoes percent-encoding; what is not valid encoding stays as it is, what is not UTF-8 becomes U+FFFD.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_path_parameters() {
        assert_eq!(path_param("/r/{id}", "/r/a%20b", "id").as_deref(), Some("a b"));
        assert_eq!(path_param("/r/{id}/stats", "/r/7/stats", "id").as_deref(), Some("7"));
        assert_eq!(path_param("/r/{id}/{*rest}", "/r/7/a/b", "rest").as_deref(), Some("a/b"));
        assert_eq!(path_param("/r/{id}/{*rest}", "/r/7/a/b", "id").as_deref(), Some("7"));
    }

    #[test]
    fn a_path_of_another_shape_has_no_parameters() {
        for path in ["/r", "/r/", "/r/7/8", "/s/7", "r/7", ""] {
            assert_eq!(path_param("/r/{id}", path, "id"), None, "{path}");
        }
        assert_eq!(path_param("/r/{id}", "/r/7", "name"), None);
    }

    #[test]
    fn finds_query_parameters() {
        assert_eq!(query_param("a=1&b=x+y%21&b=2", "b").as_deref(), Some("x y!"));
        assert_eq!(query_param("flag", "flag").as_deref(), Some(""));
        assert_eq!(query_param("a=1", "b"), None);
    }

    #[test]
    fn keeps_what_is_not_valid_encoding() {
        assert_eq!(decode("100%", false), "100%");
        assert_eq!(decode("%zz+%4", false), "%zz+%4");
        assert_eq!(decode("%ff", false), "\u{fffd}");
    }
}
