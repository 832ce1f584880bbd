//! Instructions of whole invocations, held to the numbers in `bench/instructions.toml`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot go on should say where")]
#![allow(dead_code, reason = "the other benchmark calls the rest of the scene")]

#[path = "../../bench/instructions.rs"]
mod gate;
mod scene;

use gate::Case;
use scene::{Guest, HELLO_02, HELLO_03, Scene};

fn main() -> std::process::ExitCode {
    gate::main(&[
        Case { name: "invoke_02_fresh", calls: 50, prepare: || calls(HELLO_02, 1) },
        Case { name: "invoke_02_reused", calls: 50, prepare: || calls(HELLO_02, u32::MAX) },
        Case { name: "invoke_03_fresh", calls: 50, prepare: || calls(HELLO_03, 1) },
    ])
}

fn calls(guest: Guest, reuse: u32) -> Box<dyn FnMut()> {
    let scene = Scene::new(guest, reuse, 1);
    Box::new(move || scene.invoke(scene.call()))
}
