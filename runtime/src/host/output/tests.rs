use std::{
    sync::{Arc, Mutex},
    task::{Context, Waker},
};

use dunlin_api::{ByteSize, Digest, InvocationId, LogLine, LogStream, Logs, Revision, RevisionId, Settings, World};
use wasmtime_wasi::{cli::StdoutStream, p2::OutputStream};

use super::{BURST, MAX_LINE, MAX_LINES, Output, OutputSink};

#[derive(Default)]
pub(crate) struct Kept(Mutex<Vec<LogLine>>);

impl Logs for Kept {
    fn line(&self, line: LogLine) {
        self.0.lock().unwrap().push(line);
    }
}

impl Kept {
    fn texts(&self, of: LogStream) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.stream == of).map(|line| line.text.clone()).collect()
    }

    pub(crate) fn remarks(&self) -> Vec<String> {
        self.texts(LogStream::Runtime)
    }
}

pub(crate) fn sink(limit: u64) -> (Arc<Kept>, Arc<OutputSink>) {
    let mut settings = Settings::default();
    settings.limits.logs = ByteSize(limit);
    let artifact = Digest::of(b"");
    let revision = Revision {
        function: "printer".parse().unwrap(),
        id: RevisionId::of(&artifact, &settings),
        artifact,
        size_bytes: 0,
        world: World::Http02,
        settings,
        created_ms: 0,
    };
    let kept = Arc::new(Kept::default());
    (kept.clone(), OutputSink::new(kept, Arc::new(revision)))
}

fn print(output: &Output, text: &[u8]) {
    output.stdout().write(text.to_vec().into()).unwrap();
}

#[test]
fn both_streams_become_lines_of_the_invocation() {
    let (kept, sink) = sink(1_000);
    let id = InvocationId::new();
    let output = Output::new(sink, id);
    print(&output, b"one\ntw");
    let mut stderr = Box::into_pin(output.stderr().async_stream());
    assert!(stderr.as_mut().poll_write(&mut Context::from_waker(Waker::noop()), b"bad\n").is_ready());
    print(&output, b"o");
    // Each stream is a clone of the output; the last one ends it.
    drop((output, stderr));
    assert_eq!(kept.texts(LogStream::Stdout), ["one", "two"]);
    assert_eq!(kept.texts(LogStream::Stderr), ["bad"]);
    assert!(kept.0.lock().unwrap().iter().all(|line| line.invocation == id && line.function.as_str() == "printer"));
}

#[test]
fn a_flood_ends_at_the_limit_with_one_count() {
    let (kept, sink) = sink(4 << 10);
    let output = Output::new(sink, InvocationId::new());
    let line = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<u8>>();
    for _ in 0..10_000 {
        print(&output, &line);
    }
    output.end();
    assert_eq!(kept.texts(LogStream::Stdout).len(), 40);
    let remarks = kept.remarks();
    assert_eq!(remarks.len(), 1);
    assert!(remarks[0].contains("in 9960 lines") && remarks[0].contains("limits.logs = 4"), "{remarks:?}");
    drop(output);
    assert_eq!(kept.remarks().len(), 1, "the count is said once");
}

#[test]
fn escaping_counts_against_the_limit() {
    let (kept, sink) = sink(1_000);
    let output = Output::new(sink, InvocationId::new());
    print(&output, &[b"\x1b".repeat(500), b"\n".to_vec()].concat());
    output.end();
    assert_eq!(kept.texts(LogStream::Stdout), [""; 0]);
    assert_eq!(kept.remarks().len(), 1);
}

#[test]
fn lines_are_limited_in_number_too() {
    let (kept, sink) = sink(1 << 20);
    let output = Output::new(sink, InvocationId::new());
    print(&output, &b"\n".repeat(5_000));
    output.end();
    assert_eq!(kept.texts(LogStream::Stdout).len(), MAX_LINES as usize);
}

#[test]
fn a_long_line_is_cut_and_no_memory_is_kept_for_more() {
    let (kept, sink) = sink(1 << 20);
    let output = Output::new(sink, InvocationId::new());
    print(&output, &vec![b'x'; 3 * MAX_LINE + 5]);
    output.end();
    let lengths: Vec<usize> = kept.texts(LogStream::Stdout).iter().map(String::len).collect();
    assert_eq!(lengths, [MAX_LINE, MAX_LINE, MAX_LINE, 5]);
}

#[test]
fn the_next_invocation_of_a_store_starts_anew() {
    let (kept, sink) = sink(10);
    let (first, second) = (InvocationId::new(), InvocationId::new());
    let output = Output::new(sink, first);
    print(&output, b"a line that is too long\npart");
    output.begin(second);
    print(&output, b"fits\n");
    output.end();
    let lines = kept.0.lock().unwrap();
    let of = |line: &LogLine| (line.invocation, line.stream);
    let seen: Vec<_> = lines.iter().map(of).collect();
    assert_eq!(seen, [(first, LogStream::Runtime), (second, LogStream::Stdout)]);
}

#[test]
fn many_invocations_share_the_rate_of_their_function() {
    let (kept, sink) = sink(16 * BURST);
    let line = [vec![b'x'; MAX_LINE - 1], b"\n".to_vec()].concat();
    for _ in 0..4 {
        let output = Output::new(sink.clone(), InvocationId::new());
        for _ in 0..MAX_LINES - 1 {
            print(&output, &line);
        }
    }
    let bytes: usize = kept.texts(LogStream::Stdout).iter().map(|line| line.len() + 1).sum();
    // What the bucket refilled during the test comes on top; a quarter is far more than that.
    assert!((BURST as usize - MAX_LINE..BURST as usize * 5 / 4).contains(&bytes), "{bytes}");
    assert!(kept.remarks().iter().all(|text| text.contains("per second")) && !kept.remarks().is_empty());
}

#[test]
fn remarks_are_escaped_and_bounded() {
    let (kept, sink) = sink(0);
    let output = Output::new(sink, InvocationId::new());
    output.remark("trap:\n\x1b[1m");
    for n in 0..1_000 {
        output.remark(n);
    }
    let remarks = kept.remarks();
    assert_eq!(remarks[0], "trap:\\u{a}\\u{1b}[1m");
    assert_eq!(remarks.len(), super::MAX_REMARKS as usize);
}
