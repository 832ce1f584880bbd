use super::*;
use dunlin_api::Load;

const MS: Duration = Duration::from_millis(1);
const INTERVAL: Duration = Duration::from_millis(400);

fn info(name: &str, boot: u64) -> Arc<NodeInfo> {
    Arc::new(NodeInfo {
        node: name.parse().unwrap(),
        boot,
        slots: 8,
        labels: BTreeMap::new(),
        zone: None,
        version: "0.1.0".into(),
        gateway: true,
        worker: true,
        http: None,
        admin: None,
        started_ms: boot,
    })
}

/// A roster under a clock of its own: `step` is what every node does in one tick.
struct World {
    roster: Roster,
    now: Instant,
    ticks: u32,
    sequence: u32,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let rules = Rules { interval: INTERVAL, misses: 3, clock_limit: 50 * MS };
        Self { roster: Roster::new(info("me", 1), rules, now), now, ticks: 0, sequence: 0 }
    }

    fn beat(&mut self, name: &str, boot: u64) -> Beat {
        self.sequence += 1;
        Beat {
            info: info(name, boot),
            state: NodeState::Up,
            load: Load::default(),
            ready: 0,
            every_ms: 400,
            sequence: self.sequence,
            sent_us: 0,
        }
    }

    fn hear(&mut self, name: &str, boot: u64) -> Heard {
        let beat = self.beat(name, boot);
        self.roster.heard(beat, self.now, 0)
    }

    /// Time passes; `speaking` send their heartbeats, and this node hears its own if it is `connected`.
    fn pass(&mut self, time: Duration, connected: bool, speaking: &[&str]) {
        for _ in 0..time.as_millis() / 100 {
            if self.ticks.is_multiple_of(4) && connected {
                self.sequence += 1;
                self.roster.sent(self.sequence, self.now);
                self.roster.echo(self.sequence, self.now);
                for name in speaking {
                    self.hear(name, 1);
                }
            }
            self.roster.tick(self.now);
            self.ticks += 1;
            self.now += 100 * MS;
        }
    }

    fn state(&self, name: &str) -> Option<NodeState> {
        self.roster.state(&name.parse().unwrap())
    }

    fn record(&mut self, name: &str, boot: u64) -> bool {
        let record = Record { info: info(name, boot), drained: false, slots: None, left: false };
        self.roster.record(&name.parse().unwrap(), Some(&record), self.now)
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_is_lost_within_a_second_and_a_half_and_nobody_else() {
    let mut world = World::new();
    world.pass(2_000 * MS, true, &["a", "b"]);
    // b was last heard at 1.6 s.
    world.pass(900 * MS, true, &["a"]);
    assert_eq!(world.state("b"), Some(NodeState::Up));
    world.pass(300 * MS, true, &["a"]);
    assert_eq!((world.state("a"), world.state("b")), (Some(NodeState::Up), Some(NodeState::Lost)));
    assert_eq!(world.roster.changed(), Changed::Now);
    world.hear("b", 1);
    assert_eq!(world.state("b"), Some(NodeState::Up));
}

#[tokio::test(start_paused = true)]
async fn who_was_deaf_blames_nobody_and_then_judges_anew() {
    let mut world = World::new();
    world.pass(2_000 * MS, true, &["a", "b"]);
    world.pass(60_000 * MS, false, &[]);
    assert_eq!(world.state("a"), Some(NodeState::Up));
    // A second longer than else: that is how long they may need to find NATS again.
    world.pass(2_000 * MS, true, &[]);
    assert_eq!(world.state("a"), Some(NodeState::Up));
    world.pass(600 * MS, true, &["b"]);
    assert_eq!((world.state("a"), world.state("b")), (Some(NodeState::Lost), Some(NodeState::Up)));
}

#[tokio::test(start_paused = true)]
async fn who_was_stopped_blames_nobody() {
    let mut world = World::new();
    world.pass(2_000 * MS, true, &["a"]);
    world.now += 30_000 * MS;
    world.roster.tick(world.now);
    world.pass(400 * MS, true, &["a"]);
    assert_eq!(world.state("a"), Some(NodeState::Up));
}

#[tokio::test(start_paused = true)]
async fn an_interval_is_the_senders_own() {
    let mut world = World::new();
    let slow = Beat { every_ms: 2_000, ..world.beat("slow", 1) };
    world.pass(400 * MS, true, &[]);
    world.roster.heard(slow, world.now, 0);
    world.pass(6_000 * MS, true, &[]);
    assert_eq!(world.state("slow"), Some(NodeState::Up));
    world.pass(1_000 * MS, true, &[]);
    assert_eq!(world.state("slow"), Some(NodeState::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_has_a_moment_to_answer() {
    let mut world = World::new();
    world.pass(2_000 * MS, true, &["a", "b"]);
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    assert!(world.roster.suspect(&a) && world.roster.suspect(&b));
    assert!(!world.roster.suspect(&a), "asked once");
    world.hear("b", 1);
    world.pass(400 * MS, true, &[]);
    assert_eq!((world.state("a"), world.state("b")), (Some(NodeState::Lost), Some(NodeState::Up)));
    assert!(!world.roster.suspect(&a) && !world.roster.suspect(&"me".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn the_record_says_which_process_owns_a_name() {
    let mut world = World::new();
    world.record("a", 5);
    assert_eq!(world.state("a"), Some(NodeState::Lost));
    assert_eq!(world.hear("a", 4), Heard::Ignored, "an older process woke up");
    assert_eq!(world.hear("a", 5), Heard::Taken);
    assert_eq!(world.hear("a", 6), Heard::Ignored, "the owner lives");
    assert!(world.record("a", 6), "the new owner is asked");
    assert_eq!(world.state("a"), Some(NodeState::Lost));
    assert_eq!(world.hear("a", 5), Heard::Ignored);
    assert_eq!(world.hear("a", 6), Heard::Taken);
    assert_eq!(world.hear("me", 2), Heard::Rival);
}

#[tokio::test(start_paused = true)]
async fn what_was_overtaken_is_old() {
    let mut world = World::new();
    let early = world.beat("a", 1);
    let left = Beat { state: NodeState::Left, ..world.beat("a", 1) };
    assert_eq!(world.roster.heard(left, world.now, 0), Heard::Taken);
    assert_eq!(world.roster.heard(early, world.now, 0), Heard::Ignored);
    assert_eq!(world.hear("a", 1), Heard::Ignored, "a goodbye is final");
    assert_eq!(world.state("a"), Some(NodeState::Left));
    assert_eq!(world.hear("a", 2), Heard::Taken);
}

#[tokio::test(start_paused = true)]
async fn load_alone_changes_no_view() {
    let mut world = World::new();
    world.roster.publish();
    world.hear("a", 1);
    assert_eq!(world.roster.changed(), Changed::Soon);
    let version = world.roster.publish().version();
    let busy = Beat { load: Load { in_flight: 7, slots: 8 }, ready: 3, ..world.beat("a", 1) };
    world.roster.heard(busy, world.now, 0);
    assert_eq!(world.roster.changed(), Changed::Nothing);
    let seen = world.roster.view();
    assert_eq!((seen.version(), seen.get(&"a".parse().unwrap()).unwrap().load.in_flight), (version, 7));
    let draining = Beat { state: NodeState::Draining, ..world.beat("a", 1) };
    world.roster.heard(draining, world.now, 0);
    assert_eq!(world.roster.changed(), Changed::Now);
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_ten_thousand_nodes() {
    let mut world = World::new();
    for n in 1..MAX_NODES {
        assert_eq!(world.hear(&format!("n{n}"), 1), Heard::Taken);
    }
    assert_eq!(world.hear("one-more", 1), Heard::Ignored);
    assert!(!world.record("one-more", 1));
    assert_eq!(world.roster.publish().len(), MAX_NODES);
}
