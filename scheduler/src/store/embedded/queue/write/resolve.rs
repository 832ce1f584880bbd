//! Which stream a trigger reads.
//!
//! On a node that stands alone nobody else makes streams. So one that a trigger names is made, and takes the subjects of
//! all triggers that name it; one that is found for a subject takes only what it was made for. Streams never overlap: a
//! message is stored once. One that has no consumer any more makes way for others.

use dunlin_api::{StoreError, subject};
use redb::ReadableTable;
use std::time::Duration;

use super::{Applied, Subjects, Tables, row, stream};

/// What the streams begin with that no trigger named.
const MADE: &str = "events-";
/// A stream without a consumer may be waiting for its first one for this long: a deploy under way.
const YOUNG: Duration = Duration::from_secs(600);

impl Tables<'_> {
    pub(super) fn resolve(&mut self, named: Option<&str>, subject: &str) -> Applied<String> {
        let mut taking = Vec::new();
        for row in self.streams.iter()? {
            let (name, row) = row?;
            let subjects = row::subjects(row.value().0);
            if subjects.iter().any(|taken| subject::overlaps(taken, subject)) {
                taking.push((name.value().to_owned(), subjects));
            }
        }
        for (name, subjects) in &taking {
            let whole = subjects.iter().any(|taken| subject::covers(taken, subject));
            if whole && named.is_none_or(|named| named == name) {
                return Ok(Ok(name.clone()));
            }
            if Some(&**name) != named && !self.is_forsaken(name)? {
                return Ok(Err(StoreError::Invalid(refusal(named, subject, name, subjects, whole))));
            }
        }
        let name = named.map_or_else(|| made(subject), str::to_owned);
        let known = self.streams.get(&*name)?.map(|row| row.value().0.to_owned());
        if let Some(known) = known.as_deref().filter(|_| name.starts_with(MADE)) {
            let reason = format!("the stream {name} takes `{known}` and nothing of `{subject}`: name no stream");
            return Ok(Err(StoreError::Invalid(reason)));
        }
        for (forsaken, _) in taking.iter().filter(|(other, _)| *other != name) {
            self.streams.remove(&**forsaken)?;
        }
        let subjects = known.map_or_else(|| subject.to_owned(), |known| format!("{known} {subject}"));
        self.streams.insert(&*name, (&*subjects, self.now))?;
        Ok(Ok(name))
    }

    /// Whether a stream has no consumer and is not so young that one may be about to come.
    fn is_forsaken(&self, name: &str) -> Result<bool, redb::Error> {
        let made = self.streams.get(name)?.map_or(0, |row| row.value().1);
        let log = stream(name);
        let first = self.consumers.range((&*log, "")..)?.next().transpose()?;
        let has_consumer = first.is_some_and(|(key, _)| key.value().0 == log);
        Ok(!has_consumer && self.now.saturating_sub(made) > YOUNG.as_millis() as u64)
    }
}

fn refusal(named: Option<&str>, subject: &str, stream: &str, subjects: &[String], whole: bool) -> String {
    let (taken, part) = (subjects.join("`, `"), if whole { "all" } else { "a part" });
    let advice = match named {
        Some(named) => format!("streams do not overlap, so {named} cannot take it: name {stream}, or no stream"),
        None => format!("narrow it to what {stream} takes, or give all triggers on these subjects one `stream` name"),
    };
    format!("the stream {stream} takes `{taken}`, {part} of `{subject}`; {advice}")
}

/// The name of the stream for a subject: what can be read of it, and a hash that tells apart what cannot.
fn made(subject: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let shown: String = subject.trim_end_matches(['.', '>', '*']).chars().map(word).take(40).collect();
    let hash = dunlin_api::Digest::of(subject.as_bytes()).to_string();
    format!("{MADE}{shown}-{}", &hash[..8])
}

/// What the cache of streams must know after `stream` was resolved for `subject`.
pub(super) fn resolved(streams: &mut Subjects, stream: &str, subject: &str) {
    let covered = |subjects: &[String]| subjects.iter().any(|taken| subject::covers(taken, subject));
    if streams.get(stream).is_some_and(|subjects| covered(subjects)) {
        return;
    }
    // It could only take the subject because the others that did were forsaken.
    let overlaps = |subjects: &[String]| subjects.iter().any(|taken| subject::overlaps(taken, subject));
    streams.retain(|name, subjects| name == stream || !overlaps(subjects));
    streams.entry(stream.to_owned()).or_default().push(subject.to_owned());
}
