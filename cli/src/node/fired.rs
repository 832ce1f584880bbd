//! What fires functions beside requests: their triggers, their schedules, and calls that nobody waits for.
//!
//! Started by [`super::Bound::start`]; its tasks are in the node's set and end with its stop.

use dunlin_api::{LocalNode as _, NodeName};
use dunlin_runtime::Executor;
use dunlin_scheduler::{
    admin::AdminEvents,
    calls::{self, Calls},
    cron::{self, Cron},
    dead_letters::DeadLetters,
    dispatch::Dispatch,
    events::{Events, EventsConfig},
    log_hub::LogHub,
    router::Router,
    store::events::EventStores,
};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{NodeConfig, named, until_stopped};
use crate::cluster::Part;

/// What fires functions beside requests.
pub(super) struct Fired {
    stores: EventStores,
    pub(super) calls: Arc<Calls<Arc<Dispatch<Executor>>>>,
    pub(super) events: Option<Arc<Events<Arc<Dispatch<Executor>>>>>,
}

impl Fired {
    /// Starts it: on a node that runs functions their triggers and schedules, on every node what looks after calls that
    /// nobody waits for.
    pub(super) fn start(
        (config, name): (&NodeConfig, &NodeName),
        stores: EventStores,
        router: &Arc<Router<Arc<Dispatch<Executor>>>>,
        (executor, logs): (&Arc<Executor>, &Arc<LogHub>),
        part: Option<&Part>,
        (tasks, stop): (&mut JoinSet<&'static str>, &CancellationToken),
    ) -> Self {
        let calls = Calls::new(stores.clone(), router.clone(), name.clone(), calls::Config::default());
        tasks.spawn(named("sweeping results", calls.clone().sweep(stop.clone())));
        let cluster = config.cluster.as_ref();
        if cluster.is_some_and(|cluster| !cluster.worker) {
            return Self { stores, calls, events: None };
        }
        let here = EventsConfig {
            node: name.clone(),
            labels: cluster.map(|cluster| cluster.labels.clone()).unwrap_or_default(),
            zone: cluster.and_then(|cluster| cluster.zone.clone()),
            slots: executor.load().slots,
            grace: config.grace,
        };
        let events = Events::new(here, stores.clone(), router.clone(), logs.clone(), calls.clone());
        tasks.spawn(named("events", events.clone().run(stop.clone())));
        let peers: cron::Peers = match part {
            Some(part) => {
                let part = part.clone();
                let (drains, events) = (part.clone(), events.clone());
                let follow = drains.while_draining(move |draining| events.set_open(!draining));
                tasks.spawn(until_stopped(stop.clone(), "draining of events", follow));
                Arc::new(move || part.workers())
            }
            None => {
                events.set_open(true);
                let me = name.clone();
                Arc::new(move || vec![me.clone()])
            }
        };
        let cron = Cron::new(stores.clone(), name.clone(), router.served(), peers);
        tasks.spawn(named("schedules", cron.run(stop.clone())));
        Self { stores, calls, events: Some(events) }
    }

    pub(super) fn admin(&self) -> AdminEvents {
        let dead = Arc::new(DeadLetters::new(self.stores.clone()));
        let events = self.events.clone();
        let stats = Arc::new(move || events.as_ref().map(|events| events.stats()).unwrap_or_default());
        AdminEvents { bus: self.stores.bus.clone(), dead, stats }
    }
}
