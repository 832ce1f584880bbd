//! What the benchmarks of this crate ask: a table of 10,000 routes, a balancer of 1,000 nodes, a request's frame.

use bytes::Bytes;
use dunlin_api::{
    Deployment, Digest, FunctionName, HttpTrigger, InvocationId, Load, LogLine, LogStream, NodeName, Placement,
    Revision, RevisionId, Settings, World,
};
use dunlin_scheduler::{
    balancer::{Ask, Balancer, BalancerConfig, Candidate, Choice, RevisionKey},
    routes::{Miss, RouteTable},
    snapshot::{Deployed, Snapshot},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

const ROUTES: usize = 10_000;
const NODES: usize = 1_000;
/// A path that one route has: `/team-42/orders/{id}/lines/{line}`.
pub(crate) const HIT: &str = "/team-4242/orders/4711/lines/3";
/// One that comes as near as it can to a route before it has none.
pub(crate) const MISS: &str = "/team-4242/orders/4711/other/3";

/// [`ROUTES`] routes, each of a function of its own; of the shapes that APIs have.
pub(crate) fn routes() -> RouteTable {
    let (table, errors) = RouteTable::new(&snapshot());
    assert!(errors.is_empty(), "{errors:?}");
    assert!(find(&table, HIT).is_ok() && find(&table, MISS).is_err());
    table
}

/// What is deployed where there are so many routes.
pub(crate) fn snapshot() -> Snapshot {
    let shape = |n: usize| match n % 3 {
        0 => format!("/team-{n}/orders/{{id}}/lines/{{line}}"),
        1 => format!("/team-{n}/health"),
        _ => format!("/files/{n}/{{*rest}}"),
    };
    Snapshot { functions: (0..ROUTES).map(|n| deployed(&format!("f{n}"), shape(n))).collect() }
}

pub(crate) fn find<'a>(table: &'a RouteTable, path: &str) -> Result<&'a Arc<Deployed>, Miss> {
    table.find(Some("api.example.org"), path, &Method::GET)
}

fn deployed(name: &str, route: String) -> (FunctionName, Arc<Deployed>) {
    let http = vec![HttpTrigger { route, host: None, methods: Vec::new() }];
    let revision = revision(name, Settings { http, ..Settings::default() });
    let (function, id) = (revision.function.clone(), revision.id.clone());
    let deployment = Deployment { function: function.clone(), serving: vec![(id.clone(), 1)], revisions: vec![id] };
    (function, Arc::new(Deployed { deployment, version: 1, serving: vec![(Arc::new(revision), 1)] }))
}

fn revision(name: &str, settings: Settings) -> Revision {
    let artifact = Digest::of(b"x");
    let id = RevisionId::of(&artifact, &settings);
    let function = name.parse().unwrap();
    Revision { function, id, artifact, size_bytes: 1, world: World::Http02, settings, created_ms: 0 }
}

/// A gateway that is no worker, in front of [`NODES`] nodes that are busy to different degrees.
pub(crate) struct Fleet {
    balancer: Balancer,
    placement: Placement,
    now: Instant,
    chance: StdRng,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let joined = Instant::now();
        let mut chance = StdRng::seed_from_u64(1);
        let balancer = Balancer::new("gateway".parse().unwrap(), BalancerConfig::default());
        let names: Vec<NodeName> = (0..NODES).map(|n| format!("node-{n}").parse().unwrap()).collect();
        balancer.update(names.iter().map(|name| candidate(name.clone(), joined)).collect());
        for name in &names {
            balancer.report(name, Load { in_flight: chance.next_u32() % 256, slots: 256 });
        }
        // The slow start of every node is over.
        let now = joined + Duration::from_secs(60);
        Self { balancer, placement: Placement::default(), now, chance }
    }

    /// A choice as of a revision that has nodes it prefers.
    pub(crate) fn pick(&mut self) -> Choice {
        self.choose(false)
    }

    /// A choice among all nodes, as of a last try.
    pub(crate) fn pick_any(&mut self) -> Choice {
        self.choose(true)
    }

    fn choose(&mut self, last: bool) -> Choice {
        let ask = Ask { revision: RevisionKey(7), placement: &self.placement, tried: &[], here: None, last };
        self.balancer.pick(&ask, &mut self.chance, self.now)
    }
}

fn candidate(node: NodeName, joined: Instant) -> Candidate {
    Candidate { node, slots: 256, labels: BTreeMap::new(), zone: None, worker: true, draining: false, joined }
}

/// The fields of a request as a browser sends them.
pub(crate) fn fields() -> HeaderMap {
    let fields = [
        ("host", "api.example.org"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "application/json, text/plain;q=0.9, */*;q=0.8"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("content-type", "application/json"),
        ("content-length", "64"),
        ("x-forwarded-for", "192.0.2.17"),
    ];
    fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).into_iter().collect()
}

/// The body beside them.
pub(crate) const BODY: &[u8; 64] = b"{\"article\": \"pliers\", \"count\": 12, \"ship\": \"2026-11-02\", \"x\": 0}";

pub(crate) fn frame() -> Bytes {
    let frame = dunlin_scheduler::remote::bench::write(&fields(), BODY);
    assert_eq!(dunlin_scheduler::remote::bench::read(&frame).unwrap().0, fields());
    frame
}

/// A line as a function prints it.
pub(crate) fn line() -> LogLine {
    let Revision { function, id, .. } = revision("orders", Settings::default());
    LogLine {
        time_ms: 1_700_000_000_000,
        function,
        revision: id,
        invocation: InvocationId::at(1_700_000_000_000, [7; 10]),
        stream: LogStream::Stdout,
        text: "order 4711 was paid in full".into(),
    }
}
