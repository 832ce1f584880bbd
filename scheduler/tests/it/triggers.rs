//! What deploys and removals do with triggers.

use dunlin_api::{FunctionName, Message, Settings};
use dunlin_scheduler::{
    admin::serve,
    deploy::{DeployError, DeployRequest, DeployResult},
    store::{
        CatalogStore,
        events::{Own, Streams, Waiting},
    },
};
use http::StatusCode;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    doubles::{Scheduler, request},
    memory::Memory,
};

struct World {
    _dir: TempDir,
    scheduler: Scheduler,
    store: Arc<Memory>,
}

impl World {
    async fn new() -> Self {
        let (dir, store) = (TempDir::new().unwrap(), Arc::<Memory>::default());
        let scheduler = Scheduler::build(dir.path(), |deployer| deployer.with_events(store.stores())).await;
        scheduler.upload(b"one").await;
        Self { _dir: dir, scheduler, store }
    }

    async fn deploy(&self, settings: Value) -> Result<DeployResult, DeployError> {
        let settings: Settings = serde_json::from_value(settings).unwrap();
        self.scheduler.deployer.deploy(DeployRequest { settings, ..request("f", b"one") }).await
    }

    async fn remove(&self, discard: bool) -> Result<(), DeployError> {
        self.scheduler.deployer.remove(&f(), discard).await
    }

    fn consumers(&self) -> Vec<String> {
        self.store.state().consumers.keys().cloned().collect()
    }

    async fn records(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for prefix in ["cron/", "triggers/"] {
            keys.extend(CatalogStore::list(&*self.store, prefix).await.unwrap().into_iter().map(|record| record.key));
        }
        keys
    }
}

fn f() -> FunctionName {
    "f".parse().unwrap()
}

fn cron_key(settings: &Value) -> String {
    let settings: Settings = serde_json::from_value(settings.clone()).unwrap();
    format!("cron/f/{}", settings.cron[0].id())
}

#[tokio::test]
async fn consumers_and_marks_exist_when_the_deploy_has_answered() {
    let world = World::new().await;
    let settings = json!({
        "stream": [{"subject": "orders.>"}],
        "changes": [{"store": "cart"}],
        "cron": [{"schedule": "@hourly"}],
        "nats": [{"subject": "quotes"}],
    });
    assert!(world.deploy(settings.clone()).await.unwrap().changed);
    let consumers = world.consumers();
    assert!(matches!(&*consumers, [kv, stream] if kv.starts_with("f-kv-") && stream.starts_with("f-stream-")));
    assert_eq!(world.records().await, [cron_key(&settings), "triggers/f".into()]);
    assert!(!world.deploy(settings).await.unwrap().changed);
}

#[tokio::test]
async fn a_trigger_that_cannot_listen_is_refused_by_name_and_the_old_revision_serves_on() {
    let world = World::new().await;
    let before = world.deploy(json!({})).await.unwrap();
    for (settings, says) in [
        (json!({"stream": [{"subject": "a.b", "stream": "NOPE"}]}), "stream `a.b`: the stream NOPE does not exist"),
        (json!({"stream": [{"subject": "split.>"}]}), "stream `split.>`: two streams take parts"),
        (json!({"stream": [{"subject": "denied.>"}]}), "stream `denied.>`: the stream takes no more consumers"),
        (json!({"changes": [{"bucket": "B"}]}), "kv `bucket B *`: bucket B does not exist"),
        (json!({"cron": [{"schedule": "0 0 30 2 *"}]}), "cron `0 0 30 2 * UTC`: no date fits this schedule"),
    ] {
        let error = world.deploy(settings).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.problem(), (StatusCode::UNPROCESSABLE_ENTITY, "bad-trigger"));
    }
    for (settings, says) in [
        (json!({"cron": [{"schedule": "every day"}]}), "cron.schedule `every day`"),
        (json!({"cron": [{"schedule": "@daily", "timezone": "Berlin"}]}), "`Berlin` is no time zone"),
        (json!({"stream": [{"subject": "dl.>"}]}), "which the cluster uses itself"),
        (json!({"changes": [{"store": "s", "bucket": "B"}]}), "exactly one of"),
    ] {
        let error = world.deploy(settings).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.problem(), (StatusCode::UNPROCESSABLE_ENTITY, "bad-settings"));
    }
    world.store.state().down = true;
    let error = world.deploy(json!({"stream": [{"subject": "a"}]})).await.unwrap_err();
    assert_eq!(error.problem(), (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable"));
    let serving = world.scheduler.catalog.snapshot().functions[&f()].serving[0].0.id.clone();
    assert_eq!(serving, before.revision);
}

#[tokio::test]
async fn without_a_store_for_events_only_http_is_taken() {
    let dir = TempDir::new().unwrap();
    let scheduler = Scheduler::open(dir.path()).await;
    scheduler.deploy("f", b"one").await;
    let settings = serde_json::from_value(json!({"nats": [{"subject": "quotes"}]})).unwrap();
    let error = scheduler.deployer.deploy(DeployRequest { settings, ..request("f", b"one") }).await.unwrap_err();
    assert!(error.to_string().contains("nats `quotes`: this node has no store for events"), "{error}");
    scheduler.deployer.remove(&f(), false).await.unwrap();
}

#[tokio::test]
async fn a_redeploy_with_other_triggers_keeps_the_place_of_the_old_ones_and_a_removal_ends_all() {
    let world = World::new().await;
    let old = json!({"stream": [{"subject": "old"}]});
    world.deploy(old.clone()).await.unwrap();
    let [first] = &*world.consumers() else { panic!() };
    world.deploy(json!({"stream": [{"subject": "new"}]})).await.unwrap();
    assert_eq!(world.consumers().len(), 2);
    world.store.state().waiting.insert(first.clone(), Waiting { pending: 3, unsettled: 0 });
    // Rolled back: the consumer of before is there, with what came meanwhile.
    world.deploy(old).await.unwrap();
    assert_eq!(world.store.state().waiting[first].pending, 3);
    assert!(matches!(world.remove(false).await, Err(DeployError::EventsWait { count: 3, .. })));
    world.store.state().waiting.insert(first.clone(), Waiting::default());
    world.remove(false).await.unwrap();
    assert!(world.consumers().is_empty() && world.records().await.is_empty());
    assert!(matches!(world.remove(false).await, Err(DeployError::NoFunction(_))));
}

#[tokio::test]
async fn a_function_that_events_wait_for_is_removed_only_if_they_are_given_up() {
    let world = World::new().await;
    world.deploy(json!({"stream": [{"subject": "a"}], "cron": [{"schedule": "@hourly"}]})).await.unwrap();
    let [consumer] = &*world.consumers() else { panic!() };
    world.store.state().waiting.insert(consumer.clone(), Waiting { pending: 2, unsettled: 1 });
    for (n, queue) in ["f.async", "f.cron-1", "other.async"].into_iter().enumerate() {
        let item = Message::new(queue, "").with("ce-id", queue);
        world.store.append(Own::Work, item, Some(&n.to_string())).await.unwrap();
    }
    let error = world.remove(false).await.unwrap_err();
    assert!(matches!(error, DeployError::EventsWait { count: 5, .. }), "{error}");
    assert!(error.to_string().contains("dunlin remove f --discard-events"));
    assert_eq!(error.problem(), (StatusCode::CONFLICT, "events-wait"));
    assert!(world.scheduler.serving("f").is_some() && world.consumers().len() == 1, "nothing was touched");
    world.remove(true).await.unwrap();
    assert!(world.scheduler.serving("f").is_none() && world.consumers().is_empty() && world.records().await.is_empty());
    assert_eq!(world.store.ids(), ["other.async"]);
}

#[tokio::test]
async fn what_a_failed_first_deploy_left_is_removed_too() {
    let world = World::new().await;
    let settings = json!({"stream": [{"subject": "a"}, {"subject": "denied.>"}]});
    assert!(world.deploy(settings).await.is_err());
    assert_eq!(world.consumers().len(), 1);
    world.remove(false).await.unwrap();
    assert!(world.consumers().is_empty() && world.records().await.is_empty());
}

#[tokio::test]
async fn a_schedule_that_serves_goes_on_and_one_that_comes_back_begins_anew() {
    let world = World::new().await;
    let (hourly, daily) = (json!({"cron": [{"schedule": "@hourly"}]}), json!({"cron": [{"schedule": "@daily"}]}));
    let key = cron_key(&hourly);
    let read = || async { world.store.get(&key).await.unwrap().unwrap() };
    world.deploy(hourly.clone()).await.unwrap();
    let (_, version) = read().await;
    let old = json!({"tick": 1_000}).to_string();
    let version = world.store.put(&key, old.into(), Some(version)).await.unwrap();
    world.deploy(json!({"cron": [{"schedule": "@hourly", "missed": "all"}]})).await.unwrap();
    assert_eq!(read().await.1, version, "only its policy changed");
    world.deploy(daily).await.unwrap();
    world.deploy(hourly).await.unwrap();
    let (value, _) = read().await;
    let tick = serde_json::from_slice::<Value>(&value).unwrap()["tick"].as_i64().unwrap();
    assert!(tick > 1_700_000_000_000, "what came while it was not deployed was not missed");
}

#[tokio::test]
async fn more_consumers_than_are_kept_are_refused() {
    let world = World::new().await;
    let deploy = |round: usize| {
        let triggers: Vec<_> = (0..64).map(|n| json!({"subject": format!("a{round}.{n}")})).collect();
        world.deploy(json!({"stream": triggers}))
    };
    for round in 0..4 {
        deploy(round).await.unwrap();
    }
    assert!(!deploy(3).await.unwrap().changed);
    let error = deploy(4).await.unwrap_err();
    assert!(matches!(error, DeployError::Consumers { count: 320, limit: 256, .. }), "{error}");
}

#[tokio::test]
async fn the_api_shows_triggers_and_removes_with_and_without_events() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/functions/f", listener.local_addr().unwrap());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let admin = Arc::new(world.scheduler.admin());
    let served = tokio::task::spawn(serve(listener, admin.clone(), Duration::from_secs(5)));
    let client = reqwest::Client::new();
    let settings = json!({
        "nats": [{"subject": "quotes"}],
        "stream": [{"subject": "orders.>", "stream": "ORDERS"}],
        "cron": [{"schedule": "0 0 1 1 *", "timezone": "Europe/Berlin"}],
        "changes": [{"store": "cart", "keys": "a*"}],
    });
    world.deploy(settings).await.unwrap();
    let show = || async {
        let shown: Value = client.get(&url).send().await.unwrap().json().await.unwrap();
        let mut triggers = shown["triggers"].as_array().unwrap().clone();
        for trigger in &mut triggers {
            assert!(trigger.as_object_mut().unwrap().remove("id").is_some());
        }
        triggers
    };
    let stream = world.consumers().pop().unwrap();
    world.store.state().waiting.insert(stream, Waiting { pending: 2, unsettled: 1 });
    let shown = show().await;
    assert_eq!(shown[0], json!({"kind": "nats", "listens": "quotes"}));
    let orders = json!({"kind": "stream", "listens": "orders.>", "stream": "ORDERS", "pending": 2, "unsettled": 1});
    assert_eq!(shown[1], orders);
    assert_eq!((&shown[2]["kind"], &shown[2]["listens"]), (&json!("cron"), &json!("0 0 1 1 * Europe/Berlin")));
    assert!(shown[2]["next"].as_str().unwrap().ends_with("-01-01T00:00:00+01:00") && shown[2]["pending"] == 0);
    assert_eq!(shown[3], json!({"kind": "kv", "listens": "store cart a*", "pending": 0, "unsettled": 0}));
    world.store.state().down = true;
    assert_eq!(show().await[1], json!({"kind": "stream", "listens": "orders.>"}));
    world.store.state().down = false;
    let refused = client.delete(&url).send().await.unwrap();
    assert_eq!(refused.status(), 409);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "events-wait");
    assert_eq!(client.delete(format!("{url}?discard_events=maybe")).send().await.unwrap().status(), 400);
    assert_eq!(client.delete(format!("{url}?discard_events=true")).send().await.unwrap().status(), 204);
    admin.stop.cancel();
    served.await.unwrap();
}
