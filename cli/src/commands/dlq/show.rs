//! One dead letter, for people: what it was, why it died, what its function said.

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dunlin_api::ByteSize;
use std::fmt::Write as _;

use crate::{
    output::{Output, Style, tame},
    time,
    wire::Letter,
};

/// Characters of a payload that is text, and bytes of one that is not, that are shown.
const SHOWN_TEXT: usize = 4_096;
const SHOWN_BYTES: usize = 256;

pub(super) fn show(letter: &Letter, out: &Output) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json(letter);
    }
    out.bytes(describe(letter, decoded(letter)?.as_deref(), out).as_bytes())?;
    let number = letter.summary.sequence;
    out.hint(format_args!("dunlin dlq redrive {number}  or  dunlin dlq purge {number}"));
    Ok(())
}

/// The payload as it was, if it was told.
fn decoded(letter: &Letter) -> anyhow::Result<Option<Vec<u8>>> {
    let decoded = letter.payload.as_ref().map(|payload| STANDARD.decode(payload)).transpose();
    decoded.context("the node sent a payload that cannot be read")
}

fn describe(letter: &Letter, payload: Option<&[u8]>, out: &Output) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}{}", out.paint(Style::Strong, &format!("{key:<10}")), tame(value));
    };
    let l = &letter.summary;
    line("number", &l.sequence.to_string());
    line("died", &format!("{}, {}", time::local(l.died_ms), time::ago(l.died_ms)));
    line("function", l.function.as_str());
    line("trigger", &l.trigger);
    line("subject", &l.subject);
    line("from", &format!("{} as {}", l.stream, l.origin));
    line("tries", &l.attempts.to_string());
    line("reason", &l.reason);
    letter.headers.iter().for_each(|(name, value)| line("header", &format!("{name}: {value}")));
    line("payload", &ByteSize(l.size).to_string());
    let head = |title: &str| out.paint(Style::Strong, title);
    let preview = payload.map_or_else(|| more(1).to_owned(), preview);
    if !preview.is_empty() {
        let _ = write!(text, "\n{}\n{preview}", head("payload"));
    }
    if !letter.log.is_empty() {
        let _ = writeln!(text, "\n{}", head("log"));
        text.extend(letter.log.iter().map(|line| tame(line) + "\n"));
    }
    text
}

/// The beginning of a payload: text as it is, else its bytes in hexadecimal.
fn preview(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok("") => String::new(),
        Ok(text) => {
            let end = text.char_indices().nth(SHOWN_TEXT).map_or(text.len(), |(at, _)| at);
            tame(&text[..end]) + more(text.len() - end)
        }
        Err(_) => {
            let shown = &payload[..payload.len().min(SHOWN_BYTES)];
            let line = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
            shown.chunks(16).map(line).collect::<Vec<_>>().join("\n") + more(payload.len() - shown.len())
        }
    }
}

fn more(left: usize) -> &'static str {
    if left == 0 { "\n" } else { "…\nthe rest: `dunlin dlq show NUMBER --payload`\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::LetterSummary;

    #[test]
    fn a_payload_shows_its_beginning_and_controls_no_terminal() {
        assert_eq!(preview(b""), "");
        assert_eq!(preview("{\"ä\":\t1}".as_bytes()), "{\"ä\":\t1}\n");
        assert_eq!(preview(b"a\x1b[31m"), "a\\u{1b}[31m\n");
        assert_eq!(preview(&[0xff; 17]), format!("{}\nff\n", ["ff"; 16].join(" ")));
        assert!(preview(&[0xff; SHOWN_BYTES + 1]).contains("--payload"));
        assert!(preview("ä".repeat(SHOWN_TEXT + 1).as_bytes()).contains("--payload"));
        assert!(!preview("ä".repeat(SHOWN_TEXT).as_bytes()).contains("--payload"));
    }

    #[test]
    fn everything_known_is_told_in_order() {
        let summary = LetterSummary {
            sequence: 12,
            died_ms: 0,
            function: "ship".parse().unwrap(),
            trigger: "stream-0011aabb".into(),
            subject: "orders.paid".into(),
            stream: "ORDERS".into(),
            origin: 17,
            attempts: 5,
            reason: "status 500".into(),
            size: 2,
        };
        let letter = Letter {
            summary,
            headers: vec![("Nats-Msg-Id".into(), "7".into())],
            payload: Some("aGk=".into()),
            text: None,
            log: vec!["no stock".into()],
        };
        let text = describe(&letter, decoded(&letter).unwrap().as_deref(), &Output::new(crate::output::Format::Json));
        let wanted = [
            "number    12",
            "subject   orders.paid",
            "from      ORDERS as 17",
            "tries     5",
            "reason    status 500",
            "header    Nats-Msg-Id: 7",
            "payload   2 B",
            "\nhi\n",
            "\nlog\nno stock\n",
        ];
        let mut rest = &text[..];
        for part in wanted {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is not where it should be in {text}"));
            rest = &rest[at..];
        }
    }
}
