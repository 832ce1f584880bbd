//! Counts the orders of the sample `orders` every minute: a tick writes `latest` in the store `report`, `GET /report` reads it.
//!
//! A tick that comes again writes the same report again, so repeating it does no harm.

use std::collections::BTreeMap;

use dunlin_sdk::kv::Store;
use dunlin_sdk::{Error, Event, EventError, Request, Response, info};

#[derive(serde::Serialize)]
struct Report {
    /// The minute it was due, as the schedule has it.
    time: Option<String>,
    orders: u64,
    /// How many are in each state; those that no event has reached are in none.
    states: BTreeMap<String, u64>,
}

#[dunlin_sdk::http(events = on_tick)]
fn handle(_request: Request) -> Result<Response, Error> {
    let latest = Store::open("report")?.get("latest")?;
    let latest = latest.ok_or_else(|| Error::not_found("no report yet: wait for the next minute"))?;
    Ok(Response::bytes(latest).with_content_type("application/json"))
}

fn on_tick(event: Event<()>) -> Result<(), EventError> {
    let orders = Store::open("orders")?;
    let mut report = Report { time: event.time, orders: 0, states: BTreeMap::new() };
    let mut cursor = None;
    loop {
        let (keys, next) = orders.keys(cursor)?;
        report.orders += keys.iter().filter(|key| key.starts_with("order/")).count() as u64;
        let states: Vec<String> = keys.into_iter().filter(|key| key.starts_with("state/")).collect();
        for (_, state) in orders.get_many(&states)? {
            *report.states.entry(String::from_utf8(state)?).or_default() += 1;
        }
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    Store::open("report")?.set("latest", serde_json::to_vec(&report)?)?;
    info!("{} orders at {}", report.orders, report.time.as_deref().unwrap_or("an unknown time"));
    Ok(())
}
