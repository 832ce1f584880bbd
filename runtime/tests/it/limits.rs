//! Each limit obeyed and broken, on both kinds of guest.

use crate::support::*;
use dunlin_api::*;
use http_body_util::BodyExt;
use std::{sync::Arc, time::Duration};

fn short() -> Settings {
    limits(|l| (l.timeout, l.cpu) = (10 * SECOND, Duration::from_millis(300)))
}

#[test]
fn a_tight_loop_ends_with_its_cpu_time_or_its_deadline_whichever_is_first() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let cpu = node.deploy(name, short()).await;
            let error = node.call(&cpu, "/spin").await.err();
            assert_eq!(error, Some(InvokeError::Cpu(Duration::from_millis(300))), "{name}");
            let wall = node.deploy(name, limits(|l| l.timeout = Duration::from_millis(300))).await;
            let error = node.call(&wall, "/spin").await.err();
            assert_eq!(error, Some(InvokeError::Deadline(Duration::from_millis(300))), "{name}");
        }
    });
}

#[test]
fn a_loop_in_a_start_function_ends_too() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("start-loop", short()).await;
        assert!(matches!(node.call(&revision, "/").await.err(), Some(InvokeError::Cpu(_))));
    });
}

#[test]
fn a_loop_after_the_head_cuts_the_body() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("hostile", short()).await;
        let response = node.call(&revision, "/spin-after-head").await.unwrap();
        assert!(response.into_body().collect().await.is_err());
    });
}

#[test]
fn waiting_costs_no_cpu_time() {
    run(async {
        let node = Node::start();
        let settings = || limits(|l| l.cpu = Duration::from_millis(50));
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, settings()).await;
            assert!(node.text(&revision, "/sleep?ms=300").await.contains("300"), "{name}");
        }
        let revision = node.deploy("hostile", limits(|l| l.cpu = 5 * SECOND)).await;
        node.text(&revision, "/cpu?ms=100").await;
    });
}

#[test]
fn spinning_guests_on_every_core_leave_others_their_turn() {
    run(async {
        let node = Arc::new(Node::start());
        let settings = limits(|l| (l.timeout, l.cpu) = (60 * SECOND, 60 * SECOND));
        let revision = node.deploy("hostile", settings).await;
        let spinners: Vec<_> = (0..2 * std::thread::available_parallelism().unwrap().get())
            .map(|_| {
                let (node, revision) = (node.clone(), revision.clone());
                tokio::task::spawn(async move { node.call(&revision, "/spin").await.map(drop) })
            })
            .collect();
        // Would wait for a minute if the loops did not yield; timers must fire between them too.
        for _ in 0..20 {
            assert_eq!(node.text(&revision, "/ok").await, "ok\n");
            assert!(node.text(&revision, "/sleep?ms=1").await.contains('1'));
        }
        assert!(spinners.iter().all(|s| !s.is_finished()));
        spinners.iter().for_each(|s| s.abort());
    });
}

#[test]
fn memory_is_bounded_over_the_whole_instance() {
    run(async {
        let node = Node::start();
        for name in ["hostile", "hostile3"] {
            let revision = node.deploy(name, limits(|l| l.memory = ByteSize::mib(64))).await;
            assert!(node.text(&revision, "/grow?mb=32").await.contains("32 of 32"), "{name}");
            match node.call(&revision, "/grow?mb=500").await {
                Ok(response) => {
                    let answer = text(response).await;
                    let grown: u64 = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
                    assert!(grown < 64, "{name}: {answer}");
                }
                Err(error) => assert_eq!(error, InvokeError::Memory(ByteSize::mib(64)), "{name}"),
            }
        }
    });
}

#[test]
fn recursion_traps_exits_and_silence_are_the_functions_fault() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("hostile", Settings::default()).await;
        for path in ["/recurse", "/trap", "/panic", "/exit", "/no-response"] {
            let error = node.call(&revision, path).await.err().unwrap();
            assert_eq!((error.fault(), error.status().as_u16()), (Fault::Function, 500), "{path}: {error}");
            assert_eq!(node.text(&revision, "/ok").await, "ok\n");
        }
        let third = node.deploy("hostile3", Settings::default()).await;
        for path in ["/trap", "/error"] {
            let error = node.call(&third, path).await.err().unwrap();
            assert_eq!(error.status().as_u16(), 500, "{path}: {error}");
        }
        // The reason is in the log with a backtrace of the guest, and only there; the host's own stays with the host.
        assert!(node.logs.with("wasm backtrace").await.stream == LogStream::Runtime);
        assert!(node.logs.all().iter().all(|line| !line.text.contains("dunlin_runtime::")));
    });
}

#[test]
fn handles_headers_and_randomness_are_bounded() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("hostile", Settings::default()).await;
        for path in
            ["/fields-bomb", "/headers?n=10000&size=100", "/headers?n=1&size=1000000", "/random?bytes=100000000"]
        {
            match node.call(&revision, path).await {
                Err(error) => assert_eq!(error.status(), 500, "{path}"),
                Ok(response) => assert_eq!(response.status(), 500, "{path}"),
            }
        }
        for path in ["/headers?n=50&size=100", "/random?bytes=1000"] {
            assert_eq!(node.call(&revision, path).await.unwrap().status(), 200, "{path}");
        }
    });
}

#[test]
fn output_becomes_log_lines_up_to_its_limit() {
    run(async {
        let node = Node::start();
        let revision = node.deploy("hostile", limits(|l| l.logs = ByteSize::kib(16))).await;
        node.text(&revision, "/log?bytes=80&lines=3").await;
        let lines = node.logs.all();
        assert_eq!(lines.iter().filter(|l| l.stream != LogStream::Runtime).count(), 3);
        assert!(lines.iter().all(|l| l.function.as_str() == "test" && l.revision == revision.id));
        node.text(&revision, "/log?bytes=80&lines=5000").await;
        let kept: usize = node.logs.all().iter().skip(3).map(|l| l.text.len()).sum();
        assert!(kept < 20 << 10, "{kept}");
        let last = node.logs.all().pop().unwrap();
        assert!(last.stream == LogStream::Runtime && last.text.contains("dropped"), "{}", last.text);
    });
}

#[test]
fn a_functions_own_concurrency_is_refused_with_its_number() {
    run(async {
        let node = Node::start();
        let settings = limits(|l| l.concurrency = Some(1));
        let revision = node.deploy("hostile", settings).await;
        let held = node.call(&revision, "/stream?mb=64").await.unwrap();
        let refused = node.call(&revision, "/ok").await.err().unwrap();
        assert_eq!((&refused, refused.status().as_u16()), (&InvokeError::Concurrency { limit: 1 }, 429));
        drop(held);
        assert_eq!(node.text(&revision, "/ok").await, "ok\n");
    });
}

#[test]
fn a_full_node_refuses_with_its_numbers() {
    run(async {
        let node = Node::with(|config| config.slots = 1);
        let revision = node.deploy("hostile", Settings::default()).await;
        let held = node.call(&revision, "/stream?mb=64").await.unwrap();
        let refused = node.call(&revision, "/ok").await.err().unwrap();
        assert_eq!(refused, InvokeError::Busy(Load { in_flight: 1, slots: 1 }));
        assert_eq!(refused.status(), 503);
        drop(held);
        assert_eq!(node.text(&revision, "/ok").await, "ok\n");
    });
}

#[test]
fn environment_is_what_the_settings_say_and_nothing_else() {
    run(async {
        let node = Node::start();
        let mut settings = Settings::default();
        settings.env.insert("GREETING".into(), "hello".into());
        let revision = node.deploy("hostile", settings).await;
        let answer = node.text(&revision, "/env").await;
        assert!(answer.contains("GREETING") && answer.contains("hello"));
        assert!(!answer.contains("PATH") && !answer.contains("HOME"), "{answer}");
    });
}
