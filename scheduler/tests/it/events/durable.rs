//! Durable triggers: the table of outcomes, order, fairness, and what a node that stops gives back.

use dunlin_api::{Body, InvokeError, Load, Message, Settings};
use http::Response;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{Answer, GRACE, SLOTS, World, memory::How, on, order, status};

const TEN: Duration = Duration::from_secs(10);

fn retry_after(code: u16, value: &str) -> Answer {
    Ok(Response::builder().status(code).header("retry-after", value).body(Body::Empty).unwrap())
}

/// How the first delivery is settled if the function answers like this.
async fn first(answer: impl Fn() -> Answer + Send + Sync + 'static) -> (How, usize) {
    let world = World::start(&[("f", on("orders.>"))], move |_| std::future::ready(answer())).await;
    world.memory.put(order("a"));
    let settled = world.settled(1).await;
    (settled[0].1.clone(), world.memory.dead())
}

#[tokio::test(start_paused = true)]
async fn each_answer_settles_as_the_table_says() {
    assert_eq!(first(|| status(200)).await, (How::Ack, 0));
    assert_eq!(first(|| retry_after(429, "7")).await, (How::Retry(Duration::from_secs(7), 1), 0));
    assert_eq!(first(|| retry_after(503, "3600")).await, (How::Retry(Duration::from_secs(3_600), 1), 0));
    assert_eq!(first(|| retry_after(503, "3601")).await, (How::Retry(Duration::from_secs(3_600), 1), 0));
    let failures: [fn() -> Answer; 5] = [
        || status(429),
        || status(503),
        || retry_after(500, "7"),
        || Err(InvokeError::Trap("x".into())),
        || Err(InvokeError::Deadline(TEN)),
    ];
    for failure in failures {
        let (How::Retry(wait, 1), 0) = first(failure).await else { panic!("{:?}", failure()) };
        assert!((TEN.mul_f64(0.8)..=TEN.mul_f64(1.2)).contains(&wait), "{wait:?}");
    }
    let rejections: [fn() -> Answer; 3] = [|| status(404), || status(302), || Err(InvokeError::BadRequest("x".into()))];
    for rejection in rejections {
        let (how, dead) = first(rejection).await;
        assert!(matches!(how, How::GiveUp(_)) && dead == 1, "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_did_not_run_is_not_counted() {
    let tries = AtomicU32::new(0);
    let world = World::start(&[("f", on("orders.>"))], move |call| {
        let n = tries.fetch_add(1, SeqCst);
        std::future::ready(match n {
            0 => Err(InvokeError::Busy(Load::default())),
            1 => Err(InvokeError::Lost { node: "n".parse().unwrap() }),
            2 => Err(InvokeError::Concurrency { limit: 1 }),
            _ => {
                assert_eq!(call.attempt(), 1);
                status(200)
            }
        })
    })
    .await;
    world.memory.put(order("a"));
    assert_eq!(world.settled(1).await, [("a".into(), How::Ack)]);
    let stats = world.stats();
    assert_eq!((stats.not_run, stats.failed, stats.done), (3, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_node_for_long_is_given_back_uncounted() {
    let world =
        World::start(&[("f", on("orders.>"))], |_| std::future::ready(Err(InvokeError::NoNode("x".into())))).await;
    let start = Instant::now();
    world.memory.put(order("a"));
    let settled = world.settled(1).await;
    let How::Retry(wait, 0) = settled[0].1 else { panic!("{settled:?}") };
    assert!(start.elapsed() >= Duration::from_secs(30) && start.elapsed() < Duration::from_secs(40));
    assert!(wait > Duration::from_secs(20) && wait < Duration::from_secs(40), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn the_last_try_decides() {
    for (failures, dead) in [(2, 0), (3, 1)] {
        let world = World::start(&[("f", on("orders.>"))], move |call| {
            std::future::ready(status(if call.attempt() <= failures { 500 } else { 200 }))
        })
        .await;
        world.memory.put(order("a"));
        let settled = world.settled(3).await;
        assert_eq!(matches!(settled[2].1, How::GiveUp(_)), dead == 1, "{settled:?}");
        assert_eq!((world.memory.dead(), world.stats().dead), (dead, dead as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_before_its_dead_letter_is_stored() {
    let world = World::start(&[("f", on("orders.>"))], |_| std::future::ready(status(400))).await;
    world.memory.fail_appends(7);
    world.memory.put(order("a"));
    let settled = world.settled(1).await;
    assert!(matches!(settled[0].1, How::GiveUp(_)));
    assert_eq!(world.memory.dead(), 1);
}

fn ordered(subject: &str, order: &str) -> Settings {
    let mut settings = on(subject);
    settings.stream[0].order = order.parse().unwrap();
    settings
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_wait_for_each_other_and_no_others() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let world = World::start(&[("f", ordered("orders.>", "subject"))], move |call| {
        log.lock().unwrap().push(call.text.clone());
        std::future::ready(status(if call.text == "a1" && call.attempt() < 3 { 500 } else { 200 }))
    })
    .await;
    // More than there are slots: those that wait hold none.
    for (subject, payload) in
        [("a", "a1"), ("a", "a2"), ("a", "a3"), ("a", "a4"), ("a", "a5"), ("b", "b1"), ("b", "b2")]
    {
        world.memory.put(Message::new(format!("orders.{subject}"), payload.to_owned()));
    }
    world.settled(7).await;
    let seen = seen.lock().unwrap().clone();
    let lane = |letter: char| seen.iter().filter(|text| text.starts_with(letter)).cloned().collect::<Vec<_>>();
    assert_eq!(lane('a'), ["a1", "a1", "a1", "a2", "a3", "a4", "a5"]);
    assert_eq!(lane('b'), ["b1", "b2"]);
    let at = |text: &str| seen.iter().rposition(|seen| seen == text).unwrap();
    assert!(at("b2") < at("a1"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_never_works_leaves_its_lane_as_a_dead_letter() {
    let world = World::start(&[("f", ordered("orders.>", "all"))], |call| {
        std::future::ready(status(if call.text == "a" { 500 } else { 200 }))
    })
    .await;
    for payload in ["a", "b"] {
        world.memory.put(order(payload));
    }
    let settled = world.settled(2).await;
    assert!(
        matches!(&settled[0], (a, How::GiveUp(_)) if a == "a") && settled[1] == ("b".into(), How::Ack),
        "{settled:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_poison_event_does_not_delay_its_neighbours() {
    let world = World::start(&[("f", on("orders.>"))], |call| {
        std::future::ready(status(if call.text == "poison" { 500 } else { 200 }))
    })
    .await;
    let start = Instant::now();
    world.memory.put(order("poison"));
    for n in 0..50 {
        world.memory.put(order(&n.to_string()));
    }
    world.memory.until(|memory| memory.count(|_, how| *how == How::Ack) == 50).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    world.memory.until(|memory| memory.dead() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_function_that_runs_one_at_a_time_does_not_starve_another() {
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let seen = most.clone();
    let mut slow = on("orders.slow");
    slow.limits.concurrency = Some(1);
    let world = World::start(&[("slow", slow), ("fast", on("orders.fast"))], move |call| {
        let (running, seen) = (running.clone(), seen.clone());
        async move {
            if call.function == "slow" {
                seen.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                sleep(TEN).await;
                running.fetch_sub(1, SeqCst);
            }
            status(200)
        }
    })
    .await;
    let start = Instant::now();
    for n in 0..20 {
        world.memory.put(Message::new("orders.slow", format!("slow {n}")));
    }
    sleep(Duration::from_millis(1)).await;
    for n in 0..20 {
        world.memory.put(Message::new("orders.fast", format!("fast {n}")));
    }
    world.memory.until(|memory| memory.count(|text, _| text.starts_with("fast")) == 20).await;
    assert!(start.elapsed() < TEN, "{:?}", start.elapsed());
    world.settled(40).await;
    assert_eq!(most.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_run_at_once_than_there_are_slots() {
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let seen = most.clone();
    let names = ["a", "b", "c"];
    let functions: Vec<_> = names.iter().map(|name| (*name, on(&format!("orders.{name}")))).collect();
    let world = World::start(&functions, move |_| {
        let (running, seen) = (running.clone(), seen.clone());
        async move {
            seen.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            sleep(TEN).await;
            running.fetch_sub(1, SeqCst);
            status(200)
        }
    })
    .await;
    for n in 0..30 {
        world.memory.put(Message::new(format!("orders.{}", names[n % 3]), n.to_string()));
    }
    world.settled(30).await;
    assert_eq!(most.load(SeqCst), SLOTS);
    assert!(world.memory.largest_pull() <= SLOTS as usize);
}

/// A function whose events end when the test says so.
async fn gated(settings: Settings) -> (World, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let inside = gate.clone();
    let world = World::start(&[("f", settings)], move |_| {
        let gate = inside.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            status(200)
        }
    })
    .await;
    (world, gate)
}

#[tokio::test(start_paused = true)]
async fn a_closed_node_ends_what_runs_and_gives_back_what_waits() {
    let (world, gate) = gated(ordered("orders.>", "all")).await;
    for n in 0..5 {
        world.memory.put(order(&n.to_string()));
    }
    sleep(Duration::from_secs(1)).await;
    world.events.set_open(false);
    let settled = world.settled(4).await;
    assert!(settled.iter().all(|(text, how)| text != "0" && matches!(how, How::Retry(_, 0))), "{settled:?}");
    gate.add_permits(1);
    assert_eq!(world.settled(5).await[4], ("0".into(), How::Ack));
    world.events.idle().await;
    world.memory.put(order("5"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.memory.settled().len(), 5);
    world.events.set_open(true);
    gate.add_permits(9);
    world.settled(10).await;
    let order: Vec<_> = world.memory.settled()[5..].iter().map(|(text, _)| text.clone()).collect();
    assert_eq!(order, ["1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_waits_for_its_grace_and_gives_back_the_rest() {
    for ends in [true, false] {
        let (mut world, gate) = gated(on("orders.>")).await;
        world.memory.put(order("a"));
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        world.stop.cancel();
        if ends {
            gate.add_permits(1);
        }
        world.tasks.join_next().await.unwrap().unwrap();
        let settled = world.memory.settled();
        assert_eq!(settled.len(), 1);
        assert_eq!(settled[0].1 == How::Ack, ends, "{settled:?}");
        assert_eq!(start.elapsed() >= GRACE, !ends);
    }
}

#[tokio::test(start_paused = true)]
async fn long_work_is_delivered_once() {
    let (world, gate) = gated(on("orders.>")).await;
    world.memory.put(order("a"));
    sleep(Duration::from_secs(25)).await;
    assert_eq!(world.stats().running, 1);
    gate.add_permits(9);
    world.settled(1).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.memory.settled(), [("a".into(), How::Ack)]);
}

#[tokio::test(start_paused = true)]
async fn triggers_follow_what_is_deployed() {
    let world = World::start(&[], |_| std::future::ready(status(200))).await;
    world.memory.put(order("a"));
    sleep(Duration::from_secs(1)).await;
    assert!(world.events.stats().is_empty() && world.memory.settled().is_empty());
    let mut elsewhere = on("orders.>");
    elsewhere.place.labels.insert("region".into(), "us".into());
    world.deploy(&[("f", elsewhere)]);
    sleep(Duration::from_secs(1)).await;
    assert!(world.events.stats().is_empty());
    world.deploy(&[("f", on("orders.>"))]);
    world.settled(1).await;
    world.deploy(&[]);
    sleep(Duration::from_secs(1)).await;
    world.memory.put(order("b"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.memory.settled().len(), 1);
    assert!(world.events.stats().is_empty(), "{:?}", world.events.stats());
}

#[tokio::test(start_paused = true)]
async fn changed_terms_hold_for_the_next_failure() {
    let world = World::start(&[("f", on("orders.>"))], |_| std::future::ready(status(500))).await;
    let mut patient = on("orders.>");
    patient.stream[0].backoff = vec![Duration::from_secs(100)];
    world.memory.put(order("a"));
    world.settled(1).await;
    world.deploy(&[("f", patient)]);
    let settled = world.settled(2).await;
    assert!(matches!(settled[1].1, How::Retry(wait, 2) if wait >= Duration::from_secs(80)), "{settled:?}");
}

#[tokio::test(start_paused = true)]
async fn every_event_is_done_or_dead() {
    const EVENTS: u32 = 5_000;
    let done = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
    let ids = done.clone();
    let world = World::start(&[("f", on("orders.>"))], move |call| {
        let n: u32 = call.text.parse().unwrap();
        std::future::ready(if n % 1_000 == 7 {
            status(422)
        } else if n.is_multiple_of(10) && call.attempt() == 1 {
            status(500)
        } else {
            ids.lock().unwrap().insert(n);
            status(200)
        })
    })
    .await;
    for n in 0..EVENTS {
        world.memory.put(order(&n.to_string()));
    }
    world.memory.until(|m| m.count(|_, how| !matches!(how, How::Retry(..))) == EVENTS as usize).await;
    let (done, dead) = (done.lock().unwrap().len(), world.memory.dead());
    assert_eq!((done, dead), (EVENTS as usize - 5, 5));
    let stats = world.stats();
    assert_eq!((stats.done, stats.failed, stats.rejected, stats.dead), (4_995, 500, 5, 5));
}
