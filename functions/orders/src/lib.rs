//! Orders that are taken at once and paid afterwards: HTTP in, an event out, and the same function handles it.
//!
//! `POST /orders` stores the order, publishes `orders.placed.ID` and answers 202. The event of that subject charges the card.
//! `GET /orders/{id}` says how far it is; `PUT /orders/{id}` gives another card.
//!
//! The store has `order/ID`, which only HTTP writes, and `state/ID`, which only events write, so that neither undoes the other.

use dunlin_sdk::kv::Store;
use dunlin_sdk::{Error, Event, EventError, HeaderValue, Method, Request, Response, StatusCode, header, info, publish};
use serde::{Deserialize, Serialize};

const REQUEST_LIMIT_BYTES: usize = 4096;

/// What a customer sends.
#[derive(Deserialize, Serialize)]
struct Order {
    item: String,
    cents: u64,
    card: String,
}

/// Another card for an order.
#[derive(Deserialize)]
struct Card {
    card: String,
}

/// The payload of `orders.placed.ID`. What was ordered is in the store: an event may be old when it is handled.
#[derive(Deserialize, Serialize)]
struct Placed {
    id: String,
}

/// What a customer reads.
#[derive(Serialize)]
struct Status {
    id: String,
    item: String,
    cents: u64,
    state: String,
}

#[dunlin_sdk::http(events = on_placed)]
fn handle(request: Request) -> Result<Response, Error> {
    let store = Store::open("orders")?;
    let Some(id) = request.path_param("/orders/{id}", "id") else {
        return place(&store, request);
    };
    let mut order = order(&store, &id)?.ok_or_else(|| Error::not_found(format!("no order {id:?}")))?;
    if request.method() == Method::PUT {
        order.card = request.json::<Card>(REQUEST_LIMIT_BYTES)?.card;
        store.set(&format!("order/{id}"), serde_json::to_vec(&order)?)?;
    }
    let state = state(&store, &id)?.unwrap_or_else(|| "placed".into());
    Response::json(&Status { id, item: order.item, cents: order.cents, state })
}

fn place(store: &Store, request: Request) -> Result<Response, Error> {
    let order: Order = request.json(REQUEST_LIMIT_BYTES)?;
    if order.cents == 0 || order.item.is_empty() {
        return Err(Error::bad_request("an order needs an `item` and `cents` above 0"));
    }
    let id = store.increment("next", 1)?.to_string();
    // Stored first: whoever has the event finds its order. Without the event there is no 202, and the customer orders again.
    store.set(&format!("order/{id}"), serde_json::to_vec(&order)?)?;
    publish(&format!("orders.placed.{id}"), &Placed { id: id.clone() })?;
    let location = HeaderValue::try_from(format!("/orders/{id}"))?;
    let status = Status { id, item: order.item, cents: order.cents, state: "placed".into() };
    Ok(Response::json(&status)?.with_status(StatusCode::ACCEPTED).with_header(header::LOCATION, location))
}

fn on_placed(event: Event<Placed>) -> Result<(), EventError> {
    let (store, id) = (Store::open("orders")?, &event.data.id);
    if state(&store, id)?.as_deref() == Some("paid") {
        info!("order {id} was paid already: event {} came again", event.id);
        return Ok(());
    }
    let order = order(&store, id)?.ok_or_else(|| EventError::reject(format!("there is no order {id:?}")))?;
    if let Err(why) = charge(id, &order, event.attempt) {
        store.set(&format!("state/{id}"), "unpaid")?;
        return Err(why);
    }
    store.set(&format!("state/{id}"), "paid")?;
    info!("order {id} is paid at attempt {}", event.attempt);
    Ok(())
}

/// Stands for a payment service. A crash between the charge and the line that stores it makes the event come again, so a real
/// one must be given `id` as the key by which it knows a repeated charge.
fn charge(id: &str, order: &Order, attempt: u32) -> Result<(), EventError> {
    match &*order.card {
        "declined" => Err(EventError::reject(format!("the card of order {id} was declined"))),
        "flaky" if attempt <= 2 => Err(EventError::failed("the payment service does not answer")),
        _ => Ok(()),
    }
}

fn order(store: &Store, id: &str) -> Result<Option<Order>, Error> {
    let order = store.get(&format!("order/{id}"))?;
    Ok(order.map(|json| serde_json::from_slice(&json)).transpose()?)
}

fn state(store: &Store, id: &str) -> Result<Option<String>, Error> {
    let state = store.get(&format!("state/{id}"))?;
    Ok(state.map(String::from_utf8).transpose()?)
}
