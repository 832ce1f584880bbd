//! The grammar of subjects and their wildcards, as NATS has it: tokens joined by dots, `*` for one token, `>` for one or
//! more at the end (NATS documentation, "Subject-Based Messaging").

/// Longest subject that is taken.
pub const MAX_SUBJECT_BYTES: usize = 255;

/// What the cluster and NATS itself use: no trigger listens there and no function publishes there.
pub const RESERVED: [&str; 3] = ["dl.>", "_INBOX.>", "_R_.>"];

/// Checks a subject that a message may have.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_subject(subject: &str) -> Result<(), String> {
    check(subject, false)
}

/// Checks a subject that may have wildcards.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    check(pattern, true)
}

fn check(subject: &str, wildcards: bool) -> Result<(), String> {
    let shown: String = subject.escape_debug().take(80).collect();
    if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES {
        return Err(format!("`{shown}` must have 1 to {MAX_SUBJECT_BYTES} bytes"));
    }
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() {
            return Err(format!("`{shown}` has an empty token: tokens are joined by single dots"));
        }
        if token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("`{shown}` has a space or a control character in it"));
        }
        if matches!(token, "*" | ">") {
            if !wildcards {
                return Err(format!("`{shown}` has a wildcard: a message has one subject"));
            }
            if token == ">" && tokens.peek().is_some() {
                return Err(format!("`{shown}` goes on after `>`, which matches all that follows"));
            }
        } else if token.contains(['*', '>']) {
            return Err(format!("`{shown}`: a wildcard stands alone between dots"));
        }
    }
    Ok(())
}

/// Checks that `pattern` touches nothing that the cluster or NATS itself uses.
///
/// # Errors
/// Names what it overlaps with.
pub fn check_not_reserved(pattern: &str) -> Result<(), String> {
    if pattern.starts_with('$') {
        return Err(format!("`{pattern}` begins with `$`: these subjects belong to NATS itself"));
    }
    match RESERVED.iter().find(|reserved| overlaps(reserved, pattern)) {
        Some(reserved) => Err(format!("`{pattern}` overlaps `{reserved}`, which the cluster uses itself: narrow it")),
        None => Ok(()),
    }
}

/// Checks a pattern that may be listened to: one that is well-formed and touches nothing that is reserved.
///
/// # Errors
/// As [`check_pattern`] and [`check_not_reserved`].
pub fn check_listenable(pattern: &str) -> Result<(), String> {
    check_pattern(pattern)?;
    check_not_reserved(pattern)
}

/// Whether `subject` is one at which somebody awaits a reply: the inbox of a NATS client or of a node. Only replies go there.
pub fn is_inbox(subject: &str) -> bool {
    ["_INBOX.>", "_R_.>", "dl.*.*.inbox.>"].iter().any(|inbox| covers(inbox, subject))
}

/// Whether every subject that matches `narrow` matches `wide`. Both may have wildcards; a subject without any matches
/// itself, so that this also says whether a subject matches a pattern.
pub fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Whether some subject matches both patterns.
pub fn overlaps(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_that_of_nats() {
        for good in ["a", "a.b.c", "orders.eu-1.paid_2", "ä.ö", "a.$b"] {
            check_subject(good).unwrap();
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nb", "a.*", "a.>", "a*b", &"x".repeat(256)] {
            assert!(check_subject(bad).is_err(), "{bad:?}");
        }
        for good in ["*", ">", "a.*.c", "a.>", "*.*"] {
            check_pattern(good).unwrap();
        }
        for bad in ["a.>.b", "a.b*", "a.>>", "> "] {
            assert!(check_pattern(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn covering_and_overlapping() {
        for (wide, narrow) in
            [("a", "a"), ("*", "a"), ("a.*", "a.b"), ("a.>", "a.b.c"), ("a.>", "a.*"), (">", ">"), ("*.b", "*.b")]
        {
            assert!(covers(wide, narrow), "{wide} covers {narrow}");
            assert!(overlaps(wide, narrow) && overlaps(narrow, wide));
        }
        for (wide, narrow) in [("a", "b"), ("a.*", "a"), ("a.>", "a"), ("a.*", "a.b.c"), ("a.*", "a.>"), ("a.b", "a.*")]
        {
            assert!(!covers(wide, narrow), "{wide} does not cover {narrow}");
        }
        assert!(
            overlaps("a.*.c", "*.b.*") && overlaps("a.*", ">") && !overlaps("a.*", "a.*.c") && !overlaps("a.>", "a")
        );
    }

    #[test]
    fn what_the_cluster_uses_is_refused() {
        for bad in [">", "*.x", "dl.>", "dl.v1.x", "$JS.API.>", "_INBOX.x", "*.>"] {
            assert!(check_not_reserved(bad).is_err(), "{bad}");
        }
        for inbox in ["_INBOX.x", "_R_.x.y", "dl.v1.c.inbox.n.x"] {
            assert!(is_inbox(inbox) && check_not_reserved(inbox).is_err(), "{inbox}");
        }
        assert!(!is_inbox("dl.v1.c.work.x") && !is_inbox("a.inbox.x") && !is_inbox("_INBOX"));
        for good in ["orders.>", "a", "dlx.>", "*"] {
            check_not_reserved(good).unwrap();
        }
    }
}
