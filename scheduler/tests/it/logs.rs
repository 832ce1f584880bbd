//! The log hub: rings, followers, bounds.

use dunlin_api::{FunctionName, InvocationId, LogLine, LogStream, Logs};
use dunlin_scheduler::log_hub::{Bounds, LogHub};
use futures::{FutureExt, Stream, StreamExt};
use std::pin::pin;

fn line(function: &str, text: &str) -> LogLine {
    let (function, revision) = (function.parse().unwrap(), "0123456789ab".parse().unwrap());
    let text = text.to_owned();
    LogLine { time_ms: 0, function, revision, invocation: InvocationId::new(), stream: LogStream::Stderr, text }
}

fn name(text: &str) -> FunctionName {
    text.parse().unwrap()
}

fn texts(hub: &LogHub, function: Option<&str>, count: usize) -> Vec<String> {
    hub.tail(function.map(name).as_ref(), count).into_iter().map(|line| line.text).collect()
}

/// Everything that can be read without waiting.
fn ready(mut stream: impl Stream<Item = LogLine> + Unpin) -> Vec<String> {
    std::iter::from_fn(|| stream.next().now_or_never().flatten()).map(|line| line.text).collect()
}

#[test]
fn keeps_the_last_lines_of_each_function_within_lines_and_bytes() {
    let hub = LogHub::new(Bounds { lines: 3, bytes: 20, ..Bounds::default() });
    for n in 0..5 {
        hub.line(line("a", &n.to_string()));
    }
    hub.line(line("b", "other"));
    assert_eq!(texts(&hub, Some("a"), 10), ["2", "3", "4"]);
    assert_eq!(texts(&hub, Some("a"), 2), ["3", "4"]);
    assert_eq!(texts(&hub, None, 2), ["4", "other"]);
    hub.line(line("a", &"x".repeat(19)));
    assert_eq!(texts(&hub, Some("a"), 10), ["4".to_owned(), "x".repeat(19)]);
    hub.forget(&name("a"));
    assert!(texts(&hub, Some("a"), 10).is_empty());
}

#[test]
fn cuts_long_lines_and_says_how_much() {
    let hub = LogHub::new(Bounds { line_bytes: 5, ..Bounds::default() });
    hub.line(line("a", "12345"));
    hub.line(line("a", "1234ü6"));
    assert_eq!(texts(&hub, Some("a"), 10), ["12345", "1234… (2 more bytes)"]);
}

#[test]
fn forgets_the_function_that_was_silent_longest_when_there_are_too_many() {
    let hub = LogHub::new(Bounds { functions: 2, ..Bounds::default() });
    for (time_ms, function) in [(1, "a"), (2, "b"), (3, "a"), (4, "c")] {
        hub.line(LogLine { time_ms, ..line(function, function) });
    }
    assert_eq!(texts(&hub, None, 10), ["a", "a", "c"]);
}

#[tokio::test]
async fn a_follower_sees_the_tail_and_every_later_line_once() {
    let hub = LogHub::default();
    for n in 0..3 {
        hub.line(line("a", &n.to_string()));
    }
    let mut one = pin!(hub.follow(Some(name("a")), 2).unwrap());
    let mut all = pin!(hub.follow(None, 0).unwrap());
    hub.line(line("b", "other"));
    hub.line(line("a", "3"));
    assert_eq!(ready(&mut one), ["1", "2", "3"]);
    assert_eq!(ready(&mut all), ["other", "3"]);
}

#[tokio::test]
async fn a_follower_that_lags_is_told_how_many_lines_it_missed() {
    let hub = LogHub::new(Bounds { lag: 4, ..Bounds::default() });
    let mut follower = pin!(hub.follow(Some(name("a")), 0).unwrap());
    for n in 0..10 {
        hub.line(line("a", &n.to_string()));
    }
    let read = ready(&mut follower);
    assert!(read[0].starts_with("6 lines are missing"), "{read:?}");
    assert_eq!(read[1..], ["6", "7", "8", "9"]);
}

#[test]
fn takes_as_many_followers_as_it_says_and_one_that_left_makes_room() {
    let hub = LogHub::new(Bounds { followers: 2, ..Bounds::default() });
    let first = hub.follow(None, 0).ok().unwrap();
    let _second = hub.follow(Some(name("a")), 0).ok().unwrap();
    assert!(hub.follow(None, 0).is_err());
    assert!(hub.follow(None, 0).is_err());
    drop(first);
    assert!(hub.follow(None, 0).is_ok());
}
