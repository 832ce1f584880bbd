//! The gate of instruction counts: runs each case of a benchmark under callgrind and holds it to `bench/instructions.toml`.
//!
//! `runtime/benches/instructions.rs` and its namesake of the scheduler include this file and give it their cases:
//!
//!     cargo bench --workspace --bench instructions                # fails if a count grew by more than 5 %
//!     cargo bench --workspace --bench instructions -- --update    # writes the counts of today
//!
//! A count is that of one call, on the thread that makes it, after a warm-up; what other threads do does not count, and
//! noise of the machine does not reach it. Two runs differ by less than 1 %. Machines agree as far as valgrind shows them
//! the same processor (x86-64 with AVX2, whatever is newer is hidden) and the kernel is 6.7 or later, from where on the
//! pool scans the page map. Elsewhere than on x86-64 Linux it says that nothing was counted; without valgrind it fails.
//! Bounds: one process at a time, a minute each at most on an idle machine.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// By how much a count may differ from the one in the file, in percent: a new compiler or library moves it by 1 to 2.
const TOLERANCE: f64 = 5.0;
/// Calls before the counted ones: caches are filled, pools have their slots.
const WARM: u32 = 20;
/// Callgrind counts `rep stosb` once a byte, and whether libc uses it depends on the machine: have it use vectors.
const TUNABLES: &str = "glibc.cpu.x86_rep_stosb_threshold=1000000000:glibc.cpu.x86_rep_movsb_threshold=1000000000";
const NUMBERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/instructions.toml");

/// Something that is counted.
pub(crate) struct Case {
    /// Its name in the file of numbers.
    pub(crate) name: &'static str,
    /// Calls that are counted; the number is their mean.
    pub(crate) calls: u32,
    /// Makes what is called.
    pub(crate) prepare: fn() -> Box<dyn FnMut()>,
}

/// Counts `cases` and compares; or, as the process under callgrind, runs the one it is asked for.
pub(crate) fn main(cases: &[Case]) -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let Some(name) = args.iter().skip_while(|arg| *arg != "--case").nth(1) {
        cases.iter().filter(|case| case.name == name).for_each(run);
        return ExitCode::SUCCESS;
    }
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        println!("NOT COUNTED: the numbers are of x86-64 Linux");
        return ExitCode::SUCCESS;
    }
    match gate(cases, args.iter().any(|arg| arg == "--update")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("the instructions cannot be counted: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(case: &Case) {
    let mut call = (case.prepare)();
    (0..WARM).for_each(|_| call());
    counted_by_callgrind(&mut || (0..case.calls).for_each(|_| call()));
}

/// Callgrind counts what the thread does between entry and return of this function, which it knows by its name.
#[inline(never)]
fn counted_by_callgrind(calls: &mut dyn FnMut()) {
    calls();
}

/// Whether no count grew too much. With `update` the file gets the counts, and nothing is too much.
fn gate(cases: &[Case], update: bool) -> io::Result<bool> {
    let mut numbers = Numbers::read()?;
    let mut good = true;
    for case in cases {
        let new = count(case)?;
        let old = numbers.get(case.name);
        if update {
            println!("{} = {new}", case.name);
        } else {
            println!("{}", verdict(case.name, old, new));
        }
        good &= old.is_some_and(|old| growth(old, new) <= TOLERANCE);
        numbers.set(case.name, new);
    }
    if update {
        numbers.write()?;
    } else if !good {
        println!(
            "If that is meant: `cargo bench --workspace --bench instructions -- --update`, and say in the commit why."
        );
    }
    Ok(good || update)
}

fn growth(old: u64, new: u64) -> f64 {
    (new as f64 / old as f64 - 1.0) * 100.0
}

fn verdict(name: &str, old: Option<u64>, new: u64) -> String {
    let Some(old) = old else {
        return format!(
            "{:6} {name}: {new} instructions a call; bench/instructions.toml has no number for it",
            "FAILED"
        );
    };
    let change = growth(old, new);
    let (word, hint) = match change {
        _ if change > TOLERANCE => ("FAILED", ": more than 5 % more than bench/instructions.toml says"),
        _ if change < -TOLERANCE => ("note", ": lower the number in bench/instructions.toml, so that it stays so"),
        _ => ("ok", ""),
    };
    format!("{word:6} {name}: {new} instructions a call, {old} before ({change:+.2} %){hint}")
}

/// Instructions of one call of `case`.
fn count(case: &Case) -> io::Result<u64> {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{}", case.name));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_by_callgrind*", "--dump-instr=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe()?)
        .args(["--case", case.name])
        .env_remove("RUST_BACKTRACE")
        .env("GLIBC_TUNABLES", TUNABLES)
        .output()
        .map_err(|e| {
            io::Error::other(format!("valgrind: {e} (install it, for example by `apt-get install valgrind`)"))
        })?;
    let counted = total(&file).filter(|counted| *counted > 0 && output.status.success());
    let told = || io::Error::other(format!("{}: {}", case.name, String::from_utf8_lossy(&output.stderr)));
    counted.map(|counted| counted / u64::from(case.calls)).ok_or_else(told)
}

/// The sum in a file of callgrind's: the line `totals: 123`.
fn total(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

/// The file of numbers: comments, and lines `name = 123`.
struct Numbers(Vec<String>);

impl Numbers {
    fn read() -> io::Result<Self> {
        Ok(Self(fs::read_to_string(NUMBERS)?.lines().map(Into::into).collect()))
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.0.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")?.parse().ok())
    }

    fn set(&mut self, name: &str, count: u64) {
        let start = format!("{name} = ");
        let line = format!("{start}{count}");
        match self.0.iter_mut().find(|line| line.starts_with(&start)) {
            Some(place) => *place = line,
            None => self.0.push(line),
        }
    }

    fn write(&self) -> io::Result<()> {
        fs::write(NUMBERS, self.0.join("\n") + "\n")
    }
}
