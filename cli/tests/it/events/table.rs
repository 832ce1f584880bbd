//! What an answer means, row by row on each trigger: what is done is booked once, what never will be is a dead letter with the
//! tries that it took and its reason.

use serde_json::Value;
use std::fmt::Write as _;

use super::place::Place;
use crate::{
    cluster::support::until,
    support::{get, post},
};

/// Tries that a function has.
const TRIES: u64 = 3;
const LIMITS: &str = "limits = { cpu = \"300ms\", timeout = \"30s\" }\n";

/// What a function does with all that comes, and what becomes of that.
struct Row {
    name: &'static str,
    command: &'static str,
    /// Tries and a part of the reason of its dead letter; `None` if it is done in the end.
    dead: Option<(u64, &'static str)>,
    /// The status of its first try, for a sender who waits for the reply; 0 if nothing is said of it.
    first: u16,
}

const fn done(name: &'static str, command: &'static str, first: u16) -> Row {
    Row { name, command, dead: None, first }
}

const fn dead(name: &'static str, command: &'static str, first: u16, tries: u64, reason: &'static str) -> Row {
    Row { name, command, dead: Some((tries, reason)), first }
}

const ROWS: &[Row] = &[
    done("ok", "do=ok", 204),
    done("later", "do=retry-after&seconds=1", 503),
    done("limited", "do=status&status=429&times=1", 429),
    done("fail-once", "do=fail&times=1", 500),
    done("trap-once", "do=trap&times=1", 0),
    done("spin-once", "do=spin&times=1", 0),
    dead("busy", "do=status&status=503", 503, TRIES, "503"),
    dead("fail", "do=fail", 500, TRIES, "500"),
    dead("trap", "do=trap", 0, TRIES, "trap"),
    dead("spin", "do=spin", 0, TRIES, "CPU"),
    dead("reject", "do=reject", 422, 1, "422"),
    dead("gone", "do=status&status=404", 404, 1, "404"),
];

impl Row {
    /// The command as JSON, booked as `id`.
    fn json(&self, id: &str) -> String {
        let mut json = format!(r#"{{"id": "{id}""#);
        for pair in self.command.split('&') {
            let (name, value) = pair.split_once('=').unwrap();
            let quote = if value.parse::<u32>().is_ok() { "" } else { "\"" };
            write!(json, r#", "{name}": {quote}{value}{quote}"#).unwrap();
        }
        json + "}"
    }
}

fn manifest() -> String {
    let tries = format!("max_deliver = {TRIES}\nbackoff = [\"50ms\"]\n");
    let mut text = again(Some(r#"{"do": "reject"}"#));
    for row in ROWS {
        let (name, command) = (row.name, row.json(row.name));
        write!(
            text,
            "[function.{name}]\nSOURCE\nenv = {{ COMMAND = '{command}' }}\n{LIMITS}\
             kv = [\"seen\", {{ store = \"booked\", keys = \"put/*\", max_deliver = {TRIES}, backoff = [\"50ms\"] }}]\n\
             async = {{ max_deliver = {TRIES}, backoff = [\"50ms\"] }}\n\
             [[function.{name}.nats]]\nsubject = \"ask.{name}\"\n\
             [[function.{name}.stream]]\nsubject = \"in.{name}\"\n{tries}\
             [[function.{name}.cron]]\nschedule = \"*/5 * * * * *\"\n{tries}"
        )
        .unwrap();
    }
    text
}

/// The function whose dead letters are redriven: with a command it does that with all, without one what each of them says.
fn again(command: Option<&str>) -> String {
    let env = command.map(|command| format!("env = {{ COMMAND = '{command}' }}\n")).unwrap_or_default();
    format!(
        "[function.again]\nSOURCE\nkv = [\"booked\", \"seen\"]\n{LIMITS}{env}\
         [[function.again.stream]]\nsubject = \"again.>\"\nmax_deliver = {TRIES}\nbackoff = [\"50ms\"]\n"
    )
}

#[test]
fn every_answer_means_what_the_table_says_alone() {
    check(&Place::alone());
}

#[test]
fn every_answer_means_what_the_table_says_in_a_cluster() {
    check(&Place::cluster());
}

fn check(place: &Place) {
    place.deploy("events", &manifest());
    let url = |rest: &str| format!("{}/{rest}", place.http());
    until("the gateway knows it", || get(&url("ok/booked")).0 == 200);

    for row in ROWS {
        let name = row.name;
        place.ok(&["publish", &format!("in.{name}"), "-d", "{}"]);
        place.ok(&["publish", &format!("again.{name}"), "-d", &row.json(&format!("again-{name}"))]);
        place.ok(&["invoke", name, &format!("/call?id=call-{name}&{}", row.command), "--async", "-X", "POST"]);
    }
    // One change of a key fires them all.
    assert_eq!(post(&url("ok/call?id=put/x"), b"").0, 200);
    ROWS.iter().for_each(|row| answers_the_sender(place, row));

    until("all that is to be redriven is dead", || place.letters("again").len() == ROWS.len());
    place.deploy("events", &again(None));
    place.ok(&["dlq", "redrive", "--all", "--function", "again"]);
    for row in ROWS {
        for kind in ["stream", "cron", "kv"] {
            settles(place, row, kind, |id| id.starts_with(&format!("{}/{kind}-", row.name)));
        }
        settles(place, row, "async", |id| id == format!("call-{}", row.name));
    }
    let redriven = died_again(place);
    for row in ROWS {
        let booked = booked(place).iter().filter(|(id, _)| *id == format!("again-{}", row.name)).count();
        let letter = redriven.iter().find(|letter| letter["subject"] == format!("again.{}", row.name));
        match row.dead {
            None => assert!(booked == 1 && letter.is_none(), "{} redriven: {booked} {letter:?}", row.name),
            Some(dead) => {
                let letter = letter.unwrap_or_else(|| panic!("{}: {redriven:?}", row.name));
                is_dead(row, "redriven", letter, dead);
            }
        }
    }
}

/// The letters that died again, as soon as all that is done is done.
fn died_again(place: &Place) -> Vec<Value> {
    let dead = ROWS.iter().filter(|row| row.dead.is_some()).count();
    until("what was redriven is settled", || {
        let done = booked(place).iter().filter(|(id, _)| id.starts_with("again-")).count();
        place.letters("again").len() == dead && done == ROWS.len() - dead
    });
    place.letters("again")
}

/// Who waits for a reply gets the answer of the only try.
fn answers_the_sender(place: &Place, row: &Row) {
    let reply = place.json(&["publish", &format!("ask.{}", row.name), "-d", "{}", "--wait=30s"]);
    let headers = reply["headers"].as_array().unwrap();
    let code = headers.iter().find(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case("Nats-Service-Error-Code"));
    let code = code.map(|pair| pair[1].as_str().unwrap().parse::<u16>().unwrap());
    match row.first {
        204 => assert_eq!(code, None, "{}: {reply}", row.name),
        0 => assert!(code.is_some_and(|code| code >= 500), "{}: {reply}", row.name),
        status => assert_eq!(code, Some(status), "{}: {reply}", row.name),
    }
}

/// It is done once for each event and no dead letter, or a dead letter and never done.
fn settles(place: &Place, row: &Row, kind: &str, is_its: impl Fn(&str) -> bool) {
    let what = format!("{} by {kind}", row.name);
    let its_booked = || booked(place).into_iter().find(|(id, _)| is_its(id)).map(|(_, times)| times);
    let its_letters = || -> Vec<_> {
        let of_kind = |letter: &Value| letter["trigger"].as_str().unwrap().starts_with(kind);
        place.letters(row.name).into_iter().filter(of_kind).collect()
    };
    let Some(expected) = row.dead else {
        until(&format!("{what} is done"), || its_booked().is_some());
        assert_eq!(its_letters().len(), 0, "{what}");
        assert!(kind == "cron" || its_booked() == Some(1), "{what}: {:?}", its_booked());
        return;
    };
    until(&format!("{what} is dead"), || !its_letters().is_empty());
    let letters = its_letters();
    assert!(kind == "cron" || letters.len() == 1, "{what}: {letters:?}");
    is_dead(row, kind, &letters[0], expected);
    assert_eq!(its_booked(), None, "{what}");
}

fn is_dead(row: &Row, kind: &str, letter: &Value, (tries, reason): (u64, &str)) {
    assert_eq!(letter["attempts"], tries, "{} by {kind}: {letter}", row.name);
    let said = letter["reason"].as_str().unwrap();
    assert!(said.to_lowercase().contains(&reason.to_lowercase()), "{} by {kind}: {letter}", row.name);
}

/// What was done, and how often.
fn booked(place: &Place) -> Vec<(String, u64)> {
    let (status, body) = get(&format!("{}/ok/entries", place.http()));
    assert_eq!(status, 200, "{body}");
    let pair = |line: &str| line.split_once(' ').map(|(id, times)| (id.to_owned(), times.parse().unwrap()));
    body.lines().filter_map(pair).collect()
}
