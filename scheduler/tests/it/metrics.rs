//! What a node counts, as Prometheus would read it: every test looks at a whole page.

pub(crate) mod page;

use dunlin_api::{Body, InvokeError, Timing};
use dunlin_scheduler::{
    gateway::{Caller, Config},
    metrics::{Cluster, MAX_FUNCTIONS, Metrics, Outcome, Readings, Trigger},
    router::Router,
    snapshot::Snapshot,
};
use http::{Request, Response};
use http_body_util::Full;
use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::watch;

use crate::{
    calls::Bench,
    gateway::{Answer, Front, Script, snapshot},
};
use page::{Page, read, scrape};

/// Answers as the path says.
async fn scripted(call: dunlin_api::Invocation) -> Answer {
    let status = |status: u16| Ok(Response::builder().status(status).body(Body::Empty).unwrap());
    match call.request.uri().path() {
        "/404" => status(404),
        "/503" => status(503),
        "/trap" => Err(InvokeError::Trap("as the test wants".into())),
        "/busy" => Err(InvokeError::Busy(dunlin_api::Load { in_flight: 8, slots: 8 })),
        "/1xx" => status(100),
        "/cold" => {
            let mut response = Response::new(Body::Empty);
            let load = Duration::from_millis(40);
            response.extensions_mut().insert(Timing { cold: true, load, ..Timing::default() });
            Ok(response)
        }
        "/never" => std::future::pending().await,
        _ => status(200),
    }
}

/// The function `f` behind a gateway; `called` gets its router.
async fn gateway(called: &OnceLock<Arc<Router<Script>>>) -> Front {
    let keep = |gateway, router| {
        assert!(called.set(router).is_ok());
        gateway
    };
    Front::start_with(Config::default(), scripted, keep).await
}

fn page_of(router: &Router<Script>) -> Page {
    read(router.metrics(), scrape())
}

#[tokio::test]
async fn every_request_counts_once_as_what_became_of_it() {
    let called = OnceLock::new();
    let front = gateway(&called).await;
    for path in ["/", "/", "/404", "/503", "/trap", "/busy", "/1xx", "/cold"] {
        front.send(&format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await;
    }
    front.send("GET /only-put HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    front.send("GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    let page = page_of(called.get().unwrap());
    let count = |outcome| {
        page.value(&format!(r#"dunlin_invocations_total{{function="f",trigger="http",outcome="{outcome}"}}"#))
    };
    // The function's 503, its trap and its answer with a status that is none.
    let counts = ["ok", "caller", "function", "platform", "abandoned"].map(count);
    assert_eq!(counts, [Some(3.0), Some(1.0), Some(3.0), Some(1.0), Some(0.0)]);
    assert_eq!(page.value(r#"dunlin_invocation_duration_seconds_count{function="f"}"#), Some(8.0));
    assert_eq!(page.value(r#"dunlin_invocation_duration_seconds_bucket{le="+Inf",function="f"}"#), Some(8.0));
    for (reason, refused) in [("busy", 1.0), ("method-not-allowed", 1.0), ("malformed", 1.0), ("draining", 0.0)] {
        assert_eq!(page.value(&format!(r#"dunlin_refused_total{{reason="{reason}"}}"#)), Some(refused), "{reason}");
    }
    assert_eq!(page.value("dunlin_cold_starts_total"), Some(1.0));
    assert_eq!(page.value("dunlin_load_duration_seconds_sum"), Some(0.04));
}

#[tokio::test]
async fn a_client_that_leaves_abandons_its_call_and_its_connection_no_longer_counts() {
    let called = OnceLock::new();
    let front = gateway(&called).await;
    let client = front.ask("GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let router = called.get().unwrap();
    assert_eq!(page_of(router).value("dunlin_http_connections"), Some(1.0));
    drop(client);
    let gone = async {
        while page_of(router).value("dunlin_http_connections") != Some(0.0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::gateway::PATIENCE, gone).await.unwrap();
    let abandoned = r#"dunlin_invocations_total{function="f",trigger="http",outcome="abandoned"}"#;
    assert_eq!(page_of(router).value(abandoned), Some(1.0));
}

#[tokio::test]
async fn calls_by_name_and_calls_that_nobody_waits_for_count_as_such() {
    let mut bench = Bench::new(scripted).await;
    let caller = Caller::new(bench.router().clone(), Config::default());
    let empty = || Request::new(Full::default());
    assert_eq!(caller.call(&"f".parse().unwrap(), empty()).await.status(), 200);
    assert_eq!(caller.call(&"g".parse().unwrap(), empty()).await.status(), 404);
    let request = Request::builder().uri("/503").body(Body::Empty).unwrap();
    bench.submit(request).await;
    bench.run_next().await;
    let page = page_of(bench.router());
    let of = |trigger: &str, outcome: &str| {
        page.value(&format!(r#"dunlin_invocations_total{{function="f",trigger="{trigger}",outcome="{outcome}"}}"#))
    };
    assert_eq!((of("name", "ok"), of("async", "function"), of("http", "ok")), (Some(1.0), Some(1.0), None));
    assert_eq!(page.value(r#"dunlin_refused_total{reason="no-function"}"#), Some(1.0));
}

/// Functions with these names, all the same.
fn deployed(names: impl Iterator<Item = String>) -> Arc<Snapshot> {
    let one = snapshot().functions.into_values().next().unwrap();
    Arc::new(Snapshot { functions: names.map(|name| (name.parse().unwrap(), one.clone())).collect() })
}

#[test]
fn functions_beyond_the_bound_share_one_series() {
    let names = || (0..MAX_FUNCTIONS + 5).map(|n| format!("f{n:05}"));
    let metrics = Arc::new(Metrics::new(&deployed(names())));
    for name in names() {
        metrics.record(&name.parse().unwrap(), Trigger::Http, Outcome::Ok, Duration::from_millis(3));
    }
    let page = read(&metrics, scrape());
    let series = page.names("dunlin_invocation_duration_seconds_count");
    assert_eq!(series.len(), MAX_FUNCTIONS + 1);
    assert_eq!(page.value(r#"dunlin_invocation_duration_seconds_count{function="_other"}"#), Some(5.0));
    // Who has a series keeps it; the room of those that went is taken by those that had none.
    metrics.follow(&deployed(names().skip(3)));
    let page = read(&metrics, scrape());
    assert_eq!(page.names("dunlin_invocation_duration_seconds_count").len(), MAX_FUNCTIONS - 3 + 1);
    metrics.record(&"f01000".parse().unwrap(), Trigger::Http, Outcome::Ok, Duration::ZERO);
    let page = read(&metrics, scrape());
    assert_eq!(page.value(r#"dunlin_invocation_duration_seconds_count{function="f01000"}"#), Some(1.0));
    assert_eq!(page.value(r#"dunlin_invocation_duration_seconds_count{function="_other"}"#), Some(5.0));
}

#[tokio::test]
async fn a_function_that_was_removed_loses_its_series() {
    let script = Script(Box::new(|call| Box::pin(scripted(call))));
    let names = |names: &[&str]| deployed(names.iter().map(ToString::to_string));
    let router = Arc::new(Router::new(script, names(&["a", "b"])));
    for name in ["a", "b"] {
        router.metrics().record(&name.parse().unwrap(), Trigger::Cron, Outcome::Ok, Duration::ZERO);
    }
    let series = || page_of(&router).names("dunlin_invocation_duration_seconds_count");
    assert_eq!(series().len(), 2);
    let (publish, snapshots) = watch::channel(names(&["b"]));
    drop(publish);
    pin!(router.clone().follow(snapshots)).await;
    assert_eq!(series(), [r#"dunlin_invocation_duration_seconds_count{function="b"}"#]);
}

#[test]
fn the_page_has_what_is_read_when_it_is_asked_for() {
    let mut scrape = scrape();
    scrape.members = [("up".to_owned(), 2), ("lost".to_owned(), 1)].into();
    let cluster = Cluster { connected: true, sent: 7, retries: 2, received: 5 };
    scrape.readings = Readings { loaded: 3, corrupt_code_files: 1, cluster: Some(cluster) };
    let page = read(&Arc::new(Metrics::new(&snapshot())), scrape);
    for (series, value) in [
        (r#"dunlin_info{version="1.2.3",node="here"}"#, 1.0),
        ("dunlin_in_flight", 1.0),
        ("dunlin_slots", 8.0),
        ("dunlin_functions", 4.0),
        ("dunlin_functions_loaded", 3.0),
        ("dunlin_corrupt_code_files_total", 1.0),
        (r#"dunlin_members{state="up"}"#, 2.0),
        (r#"dunlin_members{state="lost"}"#, 1.0),
        (r#"dunlin_members{state="left"}"#, 0.0),
        ("dunlin_nats_connected", 1.0),
        ("dunlin_remote_sent_total", 7.0),
        ("dunlin_remote_retries_total", 2.0),
        ("dunlin_remote_received_total", 5.0),
        (r#"dunlin_events_total{function="_other",outcome="dead"}"#, 2.0),
        (r#"dunlin_events_total{function="f",outcome="done"}"#, 4.0),
        (r#"dunlin_event_tries_failed_total{function="f",reason="failed"}"#, 6.0),
        ("dunlin_events_running", 3.0),
    ] {
        assert_eq!(page.value(series), Some(value), "{series}");
    }
    for series in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(page.value(series).is_some_and(|value| value > 0.0), "{series}");
    }
    // 2020: what a clock that is set has passed.
    assert!(page.value("process_start_time_seconds").unwrap() > 1_577_836_800.0);
}
