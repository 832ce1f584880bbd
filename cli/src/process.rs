//! A shell command of the user in a process group of its own, so that stopping it stops everything it started.
//!
//! Its output goes to our stderr as it comes: stdout belongs to our data. It sees the user's environment without what an
//! outer cargo adds for its own children, which would make an inner cargo build something else.

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{os::fd::AsFd as _, path::Path, process::ExitStatus, process::Stdio, time::Duration};
use tokio::process::{Child, Command};

/// What a build may take to end after it was asked to.
const GRACE: Duration = Duration::from_millis(500);

/// Runs `command` in `dir` until it ends; dropping the future stops it.
pub(crate) async fn run(command: &str, dir: &Path) -> anyhow::Result<ExitStatus> {
    let stderr = || std::io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(dir).stdin(Stdio::null()).stdout(stderr()?).stderr(stderr()?);
    clean(&mut shell);
    let child = shell.process_group(0).spawn().context("cannot start the shell `sh`")?;
    let mut group = Group { child };
    let status = group.child.wait().await?;
    Ok(status)
}

/// Removes from the environment what cargo and rustup set for the processes they start.
pub(crate) fn clean(command: &mut Command) {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let inside_cargo = std::env::var_os("CARGO").is_some();
    for name in names.filter(|name| is_of_cargo(name, inside_cargo)) {
        command.env_remove(name);
    }
}

/// What the user may have set stays: where cargo lives, its registries and network. A target directory does not: the
/// manifest says where the component is.
fn is_of_cargo(name: &str, inside_cargo: bool) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_BUILD_JOBS", "CARGO_INCREMENTAL"];
    match name {
        "CARGO" => true,
        "RUSTUP_TOOLCHAIN" | "RUSTC" | "RUSTDOC" | "RUSTC_WRAPPER" => inside_cargo,
        _ => name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept)),
    }
}

/// Whether `program` is on the PATH.
pub(crate) fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A child and all that it started; ends with this value.
struct Group {
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        // No id: it has ended and was waited for.
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return };
        let _ = kill_process_group(pid, Signal::TERM);
        // We are being dropped and cannot wait for long; whoever ignores the request is not asked again.
        let started = std::time::Instant::now();
        while started.elapsed() < GRACE && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_outer_cargo_sets_is_not_passed_on() {
        for name in ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS"] {
            assert!(is_of_cargo(name, false), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_TOKEN", "PATH", "RUSTUP_TOOLCHAIN", "CC"] {
            assert!(!is_of_cargo(name, false), "{name}");
        }
        assert!(is_of_cargo("RUSTUP_TOOLCHAIN", true));
    }

    #[tokio::test]
    async fn stopping_a_command_stops_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let alive = dir.path().join("alive");
        let command = "sleep 600 & echo $! > alive; wait";
        let mut run = Box::pin(run(command, dir.path()));
        while std::fs::read_to_string(&alive).unwrap_or_default().trim().is_empty() {
            tokio::select! {
                _ = &mut run => panic!("it ended by itself"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        let pid: i32 = std::fs::read_to_string(&alive).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_ok());
        drop(run);
        // Reaped by init; until then it is a zombie whose command line is empty.
        let gone = || std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|c| c.is_empty());
        let ended = || rustix::process::test_kill_process(pid).is_err() || gone();
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !ended() && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(ended());
    }
}
