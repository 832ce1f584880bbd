//! Instructions of what every call passes on its way, held to the numbers in `bench/instructions.toml`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot go on should say where")]
#![allow(dead_code, reason = "the other benchmark calls the rest of the scene")]

#[path = "../../bench/instructions.rs"]
mod gate;
mod scene;

use dunlin_scheduler::remote::bench;
use gate::Case;
use scene::{BODY, Fleet, HIT, MISS, fields, find, frame, routes};
use std::hint::black_box;

fn main() -> std::process::ExitCode {
    gate::main(&[
        case("route_hit", || find_again(HIT)),
        case("route_miss", || find_again(MISS)),
        case("pick_any", || {
            let mut fleet = Fleet::new();
            Box::new(move || drop(black_box(fleet.pick_any())))
        }),
        case("frame_write", || {
            let fields = fields();
            Box::new(move || drop(black_box(bench::write(black_box(&fields), BODY))))
        }),
        case("frame_read", || {
            let frame = frame();
            Box::new(move || drop(black_box(bench::read(black_box(&frame)))))
        }),
    ])
}

/// They take microseconds at most, so a thousand calls are counted.
fn case(name: &'static str, prepare: fn() -> Box<dyn FnMut()>) -> Case {
    Case { name, calls: 1_000, prepare }
}

fn find_again(path: &'static str) -> Box<dyn FnMut()> {
    let table = routes();
    Box::new(move || _ = black_box(find(&table, black_box(path)).is_ok()))
}
