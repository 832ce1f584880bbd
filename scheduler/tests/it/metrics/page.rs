//! Reads a page as a scraper does: every line must be what OpenMetrics 1.0 allows.

use dunlin_api::Load;
use dunlin_scheduler::{
    events::{Counts, TriggerStats},
    metrics::{Metrics, Readings, Scrape, page},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The series of a page with their values.
pub(crate) struct Page(BTreeMap<String, f64>);

impl Page {
    /// Reads `text`.
    pub(crate) fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends as it must");
        let mut kinds = HashMap::new();
        let (mut helped, mut series) = (Vec::new(), BTreeMap::new());
        for line in body.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').expect(line);
                assert!(text.ends_with('.') && !helped.contains(&name.to_owned()), "{line}");
                helped.push(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect(line);
                assert_eq!(helped.last().map(String::as_str), Some(name));
                kinds.insert(name.to_owned(), kind.to_owned());
            } else if let Some(unit) = line.strip_prefix("# UNIT ") {
                let (name, unit) = unit.split_once(' ').expect(line);
                assert!(name.ends_with(unit), "{line}");
            } else {
                let (name, value) = sample(line, helped.last().expect(line), &kinds);
                assert!(series.insert(name, value).is_none(), "twice: {line}");
            }
        }
        Self(series)
    }

    /// The value of `series`, as it is written.
    pub(crate) fn value(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// All series of `name`.
    pub(crate) fn names(&self, name: &str) -> Vec<String> {
        let of = |series: &&String| series.split('{').next() == Some(name);
        self.0.keys().filter(of).cloned().collect()
    }
}

/// One sample, which must be of the family `family` and have the suffix that its type wants.
fn sample(line: &str, family: &str, kinds: &HashMap<String, String>) -> (String, f64) {
    let (series, value) = line.rsplit_once(' ').expect(line);
    let name = series.split('{').next().unwrap_or_default();
    let suffix = name.strip_prefix(family).expect(line);
    let allowed: &[&str] = match kinds[family].as_str() {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        other => panic!("a type that nobody writes here: {other}"),
    };
    assert!(allowed.contains(&suffix), "{line}");
    (series.to_owned(), value.parse().expect(line))
}

pub(crate) fn read(metrics: &Arc<Metrics>, scrape: Scrape) -> Page {
    Page::parse(&page(metrics, scrape).unwrap())
}

/// A node with two triggers of `f` and one of a function that is not deployed any more.
pub(crate) fn scrape() -> Scrape {
    let counts = Counts { running: 1, done: 2, failed: 3, dead: 2, ..Counts::default() };
    let stats = |function: &str| TriggerStats {
        function: function.parse().unwrap(),
        trigger: dunlin_api::trigger::TriggerId::calls(),
        listens: "x".into(),
        counts: counts.clone(),
    };
    Scrape {
        node: "here".into(),
        version: "1.2.3".into(),
        load: Load { in_flight: 1, slots: 8 },
        functions: 4,
        members: BTreeMap::new(),
        events: ["f", "f", "gone"].map(stats).into(),
        readings: Readings::default(),
    }
}
