//! What a build command needs of the machine: said by name, with the command that installs it, before the shell says
//! "not found".

use anyhow::Context as _;
use std::path::Path;
use tokio::process::Command;

use crate::{
    exit::Failure,
    output::Output,
    process::{clean, is_on_path},
};

const WASM_TARGET: &str = "wasm32-wasip2";

/// Tools of the four templates and how each is installed.
const TOOLS: [(&str, &str); 6] = [
    ("cargo", "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"),
    ("node", "see https://nodejs.org/en/download, or use your system's package `nodejs`"),
    ("npm", "see https://nodejs.org/en/download, or use your system's package `npm`"),
    ("npx", "see https://nodejs.org/en/download, or use your system's package `npm`"),
    ("python3", "see https://www.python.org/downloads, or use your system's package `python3`"),
    ("uv", "curl -LsSf https://astral.sh/uv/install.sh | sh"),
];

/// Checks that the machine has what `build` calls, and adds the Wasm target to Rust if that is all that is missing.
pub(crate) async fn check(build: &str, dir: &Path, out: &Output) -> anyhow::Result<()> {
    let script = script_of(build).and_then(|script| std::fs::read_to_string(dir.join(script)).ok());
    let text = format!("{build}\n{}", script.unwrap_or_default());
    for (tool, install) in TOOLS {
        if calls(&text, tool) && !is_on_path(tool) {
            let failure = Failure::caller(format!("the build needs `{tool}`, which is not installed"));
            return Err(failure.hint(format!("install it: {install}")).into());
        }
    }
    if calls(build, "cargo") && build.contains(WASM_TARGET) { add_target(dir, out).await } else { Ok(()) }
}

/// Whether a shell would run `tool` somewhere in `text`: it stands where a command begins.
fn calls(text: &str, tool: &str) -> bool {
    let commands = text.split(['\n', ';', '&', '|', '(', ')']);
    commands.map(str::trim_start).any(|command| command.split_whitespace().next() == Some(tool))
}

/// The script in `sh build.sh`.
fn script_of(build: &str) -> Option<&str> {
    build.trim().strip_prefix("sh ")?.split_whitespace().next().filter(|word| !word.starts_with('-'))
}

async fn add_target(dir: &Path, out: &Output) -> anyhow::Result<()> {
    // Asked in the project's folder: its rust-toolchain.toml decides which Rust this is.
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(dir)).await?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(WASM_TARGET).is_dir() {
        return Ok(());
    }
    let missing = format!("Rust's target {WASM_TARGET} is not installed");
    if !is_on_path("rustup") {
        let hint = format!("install your system's package for {WASM_TARGET}, or use https://rustup.rs");
        return Err(Failure::caller(missing).hint(hint).into());
    }
    out.note(format_args!("{missing}: adding it"));
    let added = crate::process::run(&format!("rustup target add {WASM_TARGET}"), dir).await?;
    if !added.success() {
        return Err(Failure::caller(missing).hint(format!("rustup target add {WASM_TARGET}")).into());
    }
    Ok(())
}

async fn output(command: &mut Command) -> anyhow::Result<String> {
    clean(command);
    let output = command.output().await.context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_called_where_a_command_begins() {
        assert!(calls("cargo build --release", "cargo"));
        assert!(calls("cd x && npm install; node y", "node"));
        assert!(!calls("echo cargo", "cargo") && !calls("cargo-component build", "cargo"));
        assert_eq!(script_of("sh build.sh"), Some("build.sh"));
        assert_eq!(script_of("sh -c x"), None);
    }
}
