//! The path patterns of HTTP routes: what is valid, and when two of them are the same.
//!
//! Routes call it on every deploy and on every rebuild of the table. A pattern that passes here never fails in the
//! table. At most 1,024 bytes.
//!
//! Paths are compared as sent, byte for byte: percent-encoding is not decoded, so `/a%2Fb` is one segment, and neither
//! `%2e%2e` nor `%61` is ever another way to write a path. A path with plain dot segments is refused before it gets here
//! ([`has_dot_segment`]), because whoever serves it might resolve it to a route of another function.

/// Longest pattern in bytes; far above any route written by hand, small enough to be quoted in messages.
const MAX_BYTES: usize = 1024;

/// A valid pattern. Two that differ in the names of their parameters only are equal: they match the same paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Segment>);

/// What stands between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Exactly this; empty only at the end, for a path that ends in a slash.
    Text(Box<str>),
    /// Any one segment that is not empty.
    Param,
    /// All the rest. Only at the end.
    Rest,
}

impl Pattern {
    /// Parses `/a/{param}/{*rest}`.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence that began with the pattern.
    pub(super) fn parse(route: &str) -> Result<Self, String> {
        check_text(route)?;
        let mut parsed = Vec::new();
        let mut segments = route[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            parsed.push(match parameter(segment)? {
                None if segment.is_empty() && !last => return Err("has an empty segment (`//`)".into()),
                None => Segment::Text(segment.into()),
                Some(name) if !name.starts_with('*') => Segment::Param,
                Some(_) if last => Segment::Rest,
                Some(name) => {
                    return Err(format!("goes on after `{{{name}}}`, which stands for all the rest of the path"));
                }
            });
        }
        Ok(Self(parsed))
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }
}

fn check_text(route: &str) -> Result<(), String> {
    if !route.starts_with('/') {
        return Err("does not start with `/`".into());
    }
    if route.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    if let Some(bad) = route.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '\\')) {
        return Err(format!("holds `{}`, which no path holds as it is: percent-encode it", bad.escape_default()));
    }
    if has_dot_segment(route) {
        return Err("has a segment `.` or `..`, and such requests are refused".into());
    }
    Ok(())
}

/// The name in a segment that is a parameter; none for plain text.
fn parameter(segment: &str) -> Result<Option<&str>, String> {
    let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) else {
        let plain = !segment.contains(['{', '}']);
        return plain.then_some(None).ok_or_else(|| {
            format!("has `{segment}`: a parameter is a whole segment, such as `/{{id}}`, or `/{{*rest}}` at the end")
        });
    };
    let letters = name.strip_prefix('*').unwrap_or(name);
    let valid = !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    valid
        .then_some(Some(name))
        .ok_or_else(|| format!("has `{{{name}}}`: a parameter's name is made of a-z, 0-9, `_`, `-`"))
}

/// Whether a segment of `path` is `.` or `..` as plain text.
pub fn has_dot_segment(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.windows(2).enumerate().any(|(at, pair)| {
        let rest = &bytes[at + 2..];
        let rest = rest.strip_prefix(b".").unwrap_or(rest);
        pair == b"/." && (rest.is_empty() || rest[0] == b'/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_differ_in_names_only_are_equal() {
        let parse = |route| Pattern::parse(route).unwrap();
        assert_eq!(parse("/a/{x}/b/{y}"), parse("/a/{one}/b/{two}"));
        assert_eq!(parse("/a/{*x}"), parse("/a/{*y}"));
        assert_ne!(parse("/a/{x}"), parse("/a/{*x}"));
        assert_ne!(parse("/a"), parse("/a/"));
    }

    #[test]
    fn says_what_is_wrong_with_a_pattern() {
        for (route, part) in [
            ("a", "start with `/`"),
            ("/a//b", "empty segment"),
            ("/a b", "percent-encode"),
            ("/é", "percent-encode"),
            ("/a?b", "percent-encode"),
            ("/a/../b", "`..`"),
            ("/a/.", "`.`"),
            ("/a{b}", "whole segment"),
            ("/{b", "whole segment"),
            ("/{}", "name"),
            ("/{*}", "name"),
            ("/{a.b}", "name"),
            ("/{*a}/b", "goes on after"),
        ] {
            let message = Pattern::parse(route).unwrap_err();
            assert!(message.contains(part), "{route}: {message}");
        }
        assert!(Pattern::parse(&format!("/{}", "x".repeat(1023))).is_ok());
        assert!(Pattern::parse(&format!("/{}", "x".repeat(1024))).unwrap_err().contains("1024"));
    }

    #[test]
    fn finds_plain_dot_segments_only() {
        for path in ["/..", "/.", "/a/../b", "/a/./b", "/a/.."] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/", "/a", "/.well-known/x", "/a..b", "/...", "/a/%2e%2e/b", "/a/..b"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
