//! The page that Prometheus reads: all counters, and what is read at that moment, as OpenMetrics 1.0.
//!
//! Asked for by the admin API. Its size is bounded by [`MAX_FUNCTIONS`](super::MAX_FUNCTIONS): with that many, all called, some
//! two megabytes, so it is written on a blocking thread.

use dunlin_api::Load;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::{Registry, Unit},
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::UNIX_EPOCH,
};

use super::{Metrics, functions::Functions, histogram::Reading, process::Process};
use crate::{
    events::{Counts, TriggerStats},
    membership::NodeState,
};
use sheet::Sheet;

mod sheet;

/// The type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What parts of the node know that the admin API has not.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Revisions that can be called without being loaded first.
    pub loaded: usize,
    /// Files of compiled code that were found corrupt since the start.
    pub corrupt_code_files: u64,
    /// The wire to other nodes; none on a node that stands alone.
    pub cluster: Option<Cluster>,
}

/// What a member of a cluster knows of its wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cluster {
    /// Whether NATS is there.
    pub connected: bool,
    /// Tries of calls that were sent to other nodes.
    pub sent: u64,
    /// Those of them that were not the first of their call.
    pub retries: u64,
    /// Tries of calls that other nodes sent.
    pub received: u64,
}

/// What is read when the page is asked for.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The name of the node.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// How busy it is.
    pub load: Load,
    /// Functions that are deployed.
    pub functions: usize,
    /// Nodes by their state, as this one sees them.
    pub members: BTreeMap<String, u64>,
    /// What became of the events of its triggers.
    pub events: Vec<TriggerStats>,
    /// What its other parts know.
    pub readings: Readings,
}

/// Writes the page.
///
/// # Errors
/// Never, as long as text can be written to memory.
pub fn page(metrics: &Arc<Metrics>, scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page { metrics: metrics.clone(), scrape }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Page {
    metrics: Arc<Metrics>,
    scrape: Scrape,
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        let functions = self.metrics.functions.load();
        self.node(&mut sheet)?;
        self.invocations(&mut sheet, &functions)?;
        self.events(&mut sheet, &functions)?;
        self.cluster(&mut sheet)?;
        self.process(&mut sheet)
    }
}

impl Page {
    fn node(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Scrape { node, version, load, functions, readings, .. } = &self.scrape;
        sheet.info("dunlin", "This node.", &[("version", version), ("node", node)])?;
        let open = self.metrics.connections.load(Relaxed);
        sheet.gauge("dunlin_in_flight", "Invocations that run here or wait for a slot.", load.in_flight)?;
        sheet.gauge("dunlin_slots", "Invocations that may run here at once.", load.slots)?;
        sheet.gauge("dunlin_functions", "Functions that are deployed.", *functions as u64)?;
        let help = "Revisions that can be called here without being loaded first.";
        sheet.gauge("dunlin_functions_loaded", help, readings.loaded as u64)?;
        sheet.gauge("dunlin_http_connections", "Open connections to the gateway.", open)?;
        let help = "Files of compiled code that were found corrupt and compiled again.";
        sheet.counter("dunlin_corrupt_code_files", help, readings.corrupt_code_files)
    }

    fn invocations(&self, sheet: &mut Sheet<'_>, functions: &Functions) -> fmt::Result {
        let all = functions.all();
        let help =
            "Invocations that arrived here, by what asked for them and who is to blame if they did not end well.";
        let counts = all.iter().flat_map(|(name, function)| {
            let labelled = move |(trigger, outcome, count): (super::Trigger, super::Outcome, u64)| {
                ([("function", *name), ("trigger", trigger.as_str()), ("outcome", outcome.as_str())], count)
            };
            function.counts().map(labelled)
        });
        sheet.counters("dunlin_invocations", help, counts)?;
        let help = "From the arrival of an invocation to the head of its answer.";
        let durations = all.iter().map(|(name, function)| ([("function", *name)], function.durations.read()));
        let called = durations.filter(|(_, reading)| reading.count > 0);
        sheet.histograms("dunlin_invocation_duration", help, called)?;
        let help = "Calls that were refused before anything ran, by the code of the error.";
        let refused = self.metrics.refusals.all().map(|(reason, count)| ([("reason", reason)], count));
        sheet.counters("dunlin_refused", help, refused)?;
        let loads: Reading = self.metrics.loads.read();
        let help = "Invocations that arrived here and had to wait until their function was loaded.";
        sheet.counter("dunlin_cold_starts", help, loads.count)?;
        sheet.histogram("dunlin_load_duration", "How long such invocations waited for that.", &loads)
    }

    fn events(&self, sheet: &mut Sheet<'_>, functions: &Functions) -> fmt::Result {
        let by_function = sum(&self.scrape.events, functions);
        let running = by_function.values().map(|counts| u64::from(counts.running)).sum::<u64>();
        sheet.gauge("dunlin_events_running", "Events that run here.", running)?;
        let ended = by_function.iter().flat_map(|(function, counts)| {
            let ends = [("done", counts.done), ("dead", counts.dead), ("dropped", counts.dropped)];
            ends.map(|(outcome, count)| ([("function", *function), ("outcome", outcome)], count))
        });
        let help = "Events that ended here: done, stored as dead letters, or dropped because too many waited.";
        sheet.counters("dunlin_events", help, ended)?;
        let failed = by_function.iter().flat_map(|(function, counts)| {
            let reasons = [("failed", counts.failed), ("rejected", counts.rejected), ("not-run", counts.not_run)];
            reasons.map(|(reason, count)| ([("function", *function), ("reason", reason)], count))
        });
        sheet.counters("dunlin_event_tries_failed", "Tries of events that did not do it.", failed)
    }

    fn cluster(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Some(Cluster { connected, sent, retries, received }) = self.scrape.readings.cluster else { return Ok(()) };
        // All states, so that one that nobody has is zero.
        let states = [NodeState::Up, NodeState::Draining, NodeState::Lost, NodeState::Left].map(NodeState::as_str);
        let members = |state| self.scrape.members.get(state).copied().unwrap_or_default();
        let members = states.into_iter().map(|state| ([("state", state)], members(state)));
        sheet.gauges("dunlin_members", "Nodes of the cluster as this one sees them.", members)?;
        sheet.gauge("dunlin_nats_connected", "Whether NATS is there.", u32::from(connected))?;
        sheet.counter("dunlin_remote_sent", "Calls that were sent to other nodes, each try of them.", sent)?;
        sheet.counter("dunlin_remote_retries", "Those that were not the first try of their call.", retries)?;
        sheet.counter("dunlin_remote_received", "Calls that other nodes sent, each try of them.", received)
    }

    fn process(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Process { cpu_seconds, resident_bytes, virtual_bytes, open_files, max_files } = Process::read();
        let started = self.metrics.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        sheet.counter_in("process_cpu", "CPU time of the process.", seconds, cpu_seconds)?;
        sheet.gauge_in("process_start_time", "When the node started, since the Unix epoch.", seconds, started)?;
        let sizes = [
            ("process_resident_memory", "Memory of the process that is resident.", bytes, resident_bytes),
            ("process_virtual_memory", "Address space of the process.", bytes, virtual_bytes),
            ("process_open_fds", "Open file descriptors.", None, open_files),
            ("process_max_fds", "File descriptors that may be open at once.", None, max_files),
        ];
        for (name, help, unit, value) in sizes {
            if let Some(value) = value {
                sheet.gauge_in(name, help, unit, value)?;
            }
        }
        Ok(())
    }
}

/// The counts of all triggers of each function.
fn sum<'a>(stats: &'a [TriggerStats], functions: &Functions) -> BTreeMap<&'a str, Counts> {
    let mut by_function: BTreeMap<_, Counts> = BTreeMap::new();
    for TriggerStats { function, counts, .. } in stats {
        let entry = by_function.entry(functions.label(function)).or_default();
        *entry = std::mem::take(entry).and(counts);
    }
    by_function
}
