//! Each try of an event is one invocation, whatever fired it.

use dunlin_api::{Message, Settings};
use dunlin_scheduler::{
    events::item::{KIND, KIND_EVENT},
    store::events::Own,
};

use super::{World, on, order, status};
use crate::metrics::page::{read, scrape};

#[tokio::test(start_paused = true)]
async fn each_try_counts_once_as_what_fired_it() {
    let fails_once = |call: super::Call| {
        let fails = call.text == "a" && call.attempt() == 1;
        std::future::ready(status(if fails { 500 } else { 200 }))
    };
    let world = World::start(&[("f", on("orders.>")), ("g", Settings::default())], fails_once).await;
    world.memory.put(order("a"));
    let tick = Message::new("g.cron-1", "").with(KIND, KIND_EVENT).with("ce-specversion", "1.0").with("ce-id", "1");
    let tick = tick.with("ce-source", "/cron/cron-1").with("ce-type", "dev.dunlin.cron");
    world.stores.streams.append(Own::Work, tick, None).await.unwrap();
    world.settled(3).await;
    let mut scrape = scrape();
    scrape.events = world.events.stats();
    let page = read(&world.metrics, scrape);
    let count = |function: &str, trigger: &str, outcome: &str| {
        let labels = format!(r#"function="{function}",trigger="{trigger}",outcome="{outcome}""#);
        page.value(&format!("dunlin_invocations_total{{{labels}}}"))
    };
    assert_eq!((count("f", "event", "function"), count("f", "event", "ok")), (Some(1.0), Some(1.0)));
    assert_eq!((count("g", "cron", "ok"), count("g", "event", "ok")), (Some(1.0), None));
    assert_eq!(page.value(r#"dunlin_events_total{function="f",outcome="done"}"#), Some(1.0));
    assert_eq!(page.value(r#"dunlin_event_tries_failed_total{function="f",reason="failed"}"#), Some(1.0));
}
