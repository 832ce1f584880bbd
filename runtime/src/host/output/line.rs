//! Bytes to lines, and lines to text that is safe to show.

use std::{borrow::Cow, fmt::Write};

use super::MAX_LINE;

/// Collects the bytes of one stream until a line is complete. Holds at most [`MAX_LINE`] bytes.
#[derive(Default)]
pub(super) struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// The next complete line, without its end, from what is held and `rest`; none when `rest` is used up.
    pub(super) fn next_line<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let room = MAX_LINE - self.0.len();
        let (head, tail) = match rest.iter().take(room + 1).position(|&byte| byte == b'\n') {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None if rest.len() > room => rest.split_at(room),
            None => {
                self.0.extend_from_slice(rest);
                *rest = &[];
                return None;
            }
        };
        let ended = head.len() + tail.len() < rest.len();
        *rest = tail;
        if !ended {
            return Some(self.cut(head));
        }
        if self.0.is_empty() {
            return Some(Cow::Borrowed(head.strip_suffix(b"\r").unwrap_or(head)));
        }
        let mut line = std::mem::take(&mut self.0);
        line.extend_from_slice(head);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(Cow::Owned(line))
    }

    /// A full buffer as a line of its own; a character that is not complete yet stays for the next one.
    fn cut<'a>(&mut self, head: &[u8]) -> Cow<'a, [u8]> {
        let mut line = std::mem::take(&mut self.0);
        line.extend_from_slice(head);
        let start = line.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(0);
        let incomplete = std::str::from_utf8(&line[start..]).is_err_and(|e| e.error_len().is_none());
        if incomplete {
            self.0 = line.split_off(start);
        }
        Cow::Owned(line)
    }

    /// What is left when nothing more will come.
    pub(super) fn rest(self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then_some(self.0)
    }
}

/// The bytes as text: invalid UTF-8 becomes U+FFFD, and whatever could move a cursor, end a line or turn the direction
/// of writing becomes `\u{…}`. Tabs stay.
pub(super) fn escape(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    if !text.contains(unsafe_to_show) {
        return text.into_owned();
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if unsafe_to_show(c) {
            write!(safe, "{}", c.escape_unicode()).expect("writing to a string cannot fail");
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Control characters (C0, C1, DEL), line and paragraph separators, and the bidirectional controls that let a line read
/// differently from what it is (Unicode TR 36, §2.9).
fn unsafe_to_show(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> (Vec<String>, Option<Vec<u8>>) {
        let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
        for chunk in chunks {
            let mut rest = *chunk;
            while let Some(line) = buffer.next_line(&mut rest) {
                lines.push(escape(&line));
            }
        }
        (lines, buffer.rest())
    }

    #[test]
    fn joins_chunks_and_splits_at_line_ends() {
        let (lines, rest) = lines(&[b"a", b"b\nc\r\n\nd", b"", b"e"]);
        assert_eq!(lines, ["ab", "c", ""]);
        assert_eq!(rest.as_deref(), Some(&b"de"[..]));
    }

    #[test]
    fn a_line_of_exactly_the_limit_stays_whole() {
        for (lines, rest) in [lines(&[&[b'x'; MAX_LINE], b"\n"]), lines(&[&[&[b'x'; MAX_LINE][..], b"\n"].concat()])] {
            assert_eq!((lines.len(), lines[0].len(), rest), (1, MAX_LINE, None));
        }
    }

    #[test]
    fn cuts_long_lines_between_characters() {
        let text = format!("x{}", "é".repeat(MAX_LINE));
        for size in [1, 7, 4096, text.len()] {
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (lines, rest) = lines(&chunks);
            assert!(lines.iter().all(|line| line.len() <= MAX_LINE));
            let all = lines.concat() + std::str::from_utf8(rest.as_deref().unwrap_or_default()).unwrap();
            assert_eq!(all, text, "chunks of {size}");
        }
    }

    #[test]
    fn a_long_run_of_invalid_bytes_is_cut_too() {
        let (lines, rest) = lines(&[&[0x80; 3 * MAX_LINE]]);
        assert_eq!((lines.len(), rest.map(|rest| rest.len())), (2, Some(MAX_LINE)));
    }

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let escaped = escape(b"\x1b[2J\ta\x07\x7f\xc2\x9b\xe2\x80\xae\xff\0");
        assert_eq!(escaped, "\\u{1b}[2J\ta\\u{7}\\u{7f}\\u{9b}\\u{202e}\u{fffd}\\u{0}");
        assert_eq!(escape("naïve 🐦".as_bytes()), "naïve 🐦");
    }
}
