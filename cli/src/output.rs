//! Where words go: data to stdout, everything else to stderr, in the form the caller chose.
//!
//! A reader that leaves ends the command with success ([`OutputClosed`]); a stderr that cannot be written to is ignored.
//! Colour appears only on a terminal and never with `NO_COLOR` (no-color.org). With `--output json` stdout carries only
//! JSON of a stable shape, and errors are one JSON object on stderr.

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

use crate::exit::{Exit, Failure, OutputClosed};

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

/// Colours by meaning (ECMA-48 SGR parameters).
#[derive(Clone, Copy)]
pub(crate) enum Style {
    Good = 32,
    Bad = 31,
    Name = 36,
    Dim = 2,
    Strong = 1,
}

/// The process's two outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    stdout_color: bool,
    stderr_color: bool,
    stderr_terminal: bool,
}

impl Output {
    /// Looks at the terminal and at `NO_COLOR`.
    pub(crate) fn new(format: Format) -> Self {
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let stderr_terminal = io::stderr().is_terminal();
        Self {
            format,
            stdout_color: color && io::stdout().is_terminal(),
            stderr_color: color && stderr_terminal,
            stderr_terminal,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a person watches: then progress and timings are worth showing.
    pub(crate) fn is_watched(&self) -> bool {
        self.stderr_terminal && !self.is_json()
    }

    /// Whether stderr takes colours.
    pub(crate) fn is_colored(&self) -> bool {
        self.stderr_color
    }

    /// One line of data.
    pub(crate) fn data(&self, line: impl Display) -> anyhow::Result<()> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Data as it is, at once.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            other => Ok(other?),
        }
    }

    /// One JSON document on a line of its own.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.data(serde_json::to_string(value)?)
    }

    /// `value` as JSON, or what `human` makes of it.
    pub(crate) fn either(&self, value: &impl Serialize, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        if self.is_json() { self.json(value) } else { self.bytes(human().as_bytes()) }
    }

    /// A line for people, to stderr.
    pub(crate) fn note(&self, line: impl Display) {
        // Without a stderr there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// What to type next; not for programs.
    pub(crate) fn hint(&self, line: impl Display) {
        if !self.is_json() {
            self.note(format_args!("{} {line}", self.paint_err(Style::Dim, "hint:")));
        }
    }

    /// The end of a command that failed.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
        let hint = failure.and_then(|f| f.hint.as_deref());
        if self.is_json() {
            let code = failure.and_then(|f| f.code.as_deref());
            let exit = Exit::of(error) as u8;
            self.note(
                serde_json::json!({ "error": { "message": message(error), "code": code, "hint": hint, "exit": exit } }),
            );
            return;
        }
        self.note(format_args!("{} {}", self.paint_err(Style::Bad, "error:"), message(error)));
        if let Some(hint) = hint {
            self.hint(hint);
        }
    }

    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        paint(self.stdout_color, style, text)
    }

    pub(crate) fn paint_err(&self, style: Style, text: &str) -> String {
        paint(self.stderr_color, style, text)
    }

    /// A table without lines, its head in capitals.
    pub(crate) fn table<const N: usize>(&self, head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(head.map(|h| self.paint(Style::Strong, h)));
        table.add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// `text` without what could control a terminal: for words of guests and of messages.
pub(crate) fn tame(text: &str) -> String {
    let tame =
        |c: char| if c.is_control() && c != '\n' && c != '\t' { c.escape_default().to_string() } else { c.into() };
    text.chars().map(tame).collect()
}

/// The causes in one sentence, each said once.
fn message(error: &anyhow::Error) -> String {
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.iter().any(|s| s.contains(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}

fn paint(color: bool, style: Style, text: &str) -> String {
    if color { format!("\x1b[{}m{text}\x1b[0m", style as u8) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    const PLAIN: Output =
        Output { format: Format::Human, stdout_color: false, stderr_color: false, stderr_terminal: false };

    #[test]
    fn a_table_has_no_colour_and_no_trailing_blanks_off_a_terminal() {
        let text = PLAIN.table(["NAME", "X"], [["hello".into(), "1".into()], ["a".into(), String::new()]]);
        assert_eq!(text, "NAME   X\nhello  1\na\n");
    }

    #[test]
    fn a_message_says_each_cause_once() {
        let error = Err::<(), _>(anyhow::anyhow!("inner")).context("outer: inner").context("top").unwrap_err();
        assert_eq!(message(&error), "top: outer: inner");
    }
}
