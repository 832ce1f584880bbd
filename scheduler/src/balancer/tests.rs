//! The rules of the balancer, each obeyed and broken.

use super::*;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use std::collections::BTreeSet;

const SECOND: Duration = Duration::from_secs(1);
const REVISION: RevisionKey = RevisionKey(42);
const ANYWHERE: &Placement = &Placement { labels: BTreeMap::new(), zone: None };

fn name(index: usize) -> NodeName {
    format!("n{index}").parse().unwrap()
}

/// A gateway `here` that is no worker, nodes that are long past their slow start, and now.
struct Bench {
    balancer: Balancer,
    nodes: Vec<Candidate>,
    rng: Xoshiro256PlusPlus,
    now: Instant,
}

impl Bench {
    fn new(slots: &[u32]) -> Self {
        let joined = Instant::now();
        let node = |(index, slots): (usize, &u32)| Candidate {
            node: name(index),
            slots: *slots,
            labels: BTreeMap::new(),
            zone: None,
            worker: true,
            draining: false,
            joined,
        };
        let nodes: Vec<_> = slots.iter().enumerate().map(node).collect();
        let balancer = Balancer::new("here".parse().unwrap(), BalancerConfig::default());
        balancer.update(nodes.clone());
        Self { balancer, nodes, rng: Xoshiro256PlusPlus::seed_from_u64(1), now: joined + 100 * SECOND }
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Candidate>)) {
        change(&mut self.nodes);
        self.balancer.update(self.nodes.clone());
    }

    fn ask(&mut self, ask: Ask<'_>) -> Choice {
        self.balancer.pick(&ask, &mut self.rng, self.now)
    }

    fn pick(&mut self) -> Choice {
        self.ask(ask())
    }

    /// The nodes that many picks chose.
    fn picked(&mut self, ask: Ask<'_>) -> BTreeSet<NodeName> {
        let there = |choice| match choice {
            Choice::There(node) => node,
            other => panic!("{other:?}"),
        };
        (0..200).map(|_| there(self.ask(ask))).collect()
    }

    fn report(&self, index: usize, in_flight: u32) {
        self.balancer.report(&name(index), Load { in_flight, slots: 0 });
    }

    fn sent(&self, index: usize) -> Sent {
        self.balancer.sent(&name(index), REVISION, self.now)
    }

    fn eject(&self, index: usize) {
        (0..2).for_each(|_| self.sent(index).failed(Failure::Silent, self.now));
    }

    fn verdict(&self, index: usize) -> Verdict {
        let explained = self.balancer.explain(&ask(), self.now);
        explained.iter().find(|node| node.node == name(index)).unwrap().verdict
    }

    fn width(&self) -> usize {
        self.balancer.explain(&ask(), self.now).iter().filter(|node| node.preferred.is_some()).count()
    }
}

fn ask() -> Ask<'static> {
    Ask { revision: REVISION, placement: ANYWHERE, tried: &[], here: None, last: false }
}

fn here(in_flight: u32, ready: bool) -> Option<Here> {
    Some(Here { load: Load { in_flight, slots: 8 }, ready })
}

fn labelled(key: &str, value: &str) -> Placement {
    Placement { labels: [(key.to_owned(), value.to_owned())].into(), zone: None }
}

#[test]
fn the_lowest_score_wins_by_load_and_slots() {
    let mut bench = Bench::new(&[8, 8, 16]);
    bench.report(0, 3);
    bench.report(1, 2);
    bench.report(2, 5);
    // 4/8, 3/8, 6/16: equal ones share, the other gets none.
    assert!(!bench.picked(ask()).contains(&name(0)));
    bench.report(2, 2);
    assert_eq!(bench.pick(), Choice::There(name(2)));
}

#[test]
fn calls_sent_since_a_report_count_until_the_next_one_and_own_ones_always() {
    let bench = Bench::new(&[8, 8, 8]);
    let in_flight = |index: usize| {
        let explained = bench.balancer.explain(&ask(), bench.now);
        explained.iter().find(|node| node.node == name(index)).map(|node| (node.in_flight, node.own)).unwrap()
    };
    bench.report(0, 2);
    let sent: Vec<_> = (0..3).map(|_| bench.sent(0)).collect();
    assert_eq!(in_flight(0), (5, 3));
    bench.report(0, 1);
    assert_eq!(in_flight(0), (3, 3));
    drop(sent);
    assert_eq!(in_flight(0), (1, 0));
}

#[test]
fn tried_nodes_are_not_chosen_again_and_the_reserve_follows_the_preferred() {
    let mut bench = Bench::new(&[8; 6]);
    let preferred = bench.balancer.preferred(REVISION, ANYWHERE, 3);
    let all: BTreeSet<_> = (0..6).map(name).collect();
    let reserve: BTreeSet<_> = all.iter().filter(|node| !preferred.contains(node)).cloned().collect();
    assert!(bench.picked(ask()).iter().all(|node| preferred.contains(node)));
    assert_eq!(bench.picked(Ask { tried: &preferred[..2], ..ask() }), [preferred[2].clone()].into());
    assert!(bench.picked(Ask { tried: &preferred, ..ask() }).is_subset(&reserve));
    let everyone: Vec<_> = all.into_iter().collect();
    assert_eq!(bench.ask(Ask { tried: &everyone, ..ask() }), Choice::None(Nowhere::NoneLeft));
}

#[test]
fn the_last_try_may_go_to_any_node() {
    let mut bench = Bench::new(&[8; 6]);
    let all: BTreeSet<_> = (0..6).map(name).collect();
    assert_eq!(bench.picked(Ask { last: true, ..ask() }), all);
}

#[test]
fn here_wins_unless_another_is_better_by_more_than_a_hop_is_worth() {
    let mut bench = Bench::new(&[8; 3]);
    // (1 + 1)/8 here against 1/8 there, then (3 + 1)/8.
    assert_eq!(bench.ask(Ask { here: here(1, true), ..ask() }), Choice::Here);
    assert!(matches!(bench.ask(Ask { here: here(3, true), ..ask() }), Choice::There(_)));
    (0..3).for_each(|index| bench.report(index, 3));
    assert_eq!(bench.ask(Ask { here: here(3, true), ..ask() }), Choice::Here);
}

#[test]
fn here_takes_what_is_not_ready_here_only_where_it_belongs_or_if_alone() {
    let mut bench = Bench::new(&[8; 6]);
    let preferred = bench.balancer.preferred(REVISION, ANYWHERE, 3);
    let of = |index: usize| (0..6).map(name).find(|node| preferred.contains(node) == (index == 0)).unwrap();
    for (here_is, expected) in [(of(0), true), (of(1), false)] {
        bench.balancer = Balancer::new(here_is.clone(), BalancerConfig::default());
        bench.balancer.update(bench.nodes.clone());
        assert_eq!(bench.ask(Ask { here: here(0, false), ..ask() }) == Choice::Here, expected, "{here_is}");
        assert_eq!(bench.ask(Ask { here: here(0, true), ..ask() }), Choice::Here);
        assert!(!bench.picked(ask()).contains(&here_is), "never to itself over the network");
    }
    bench.change(Vec::clear);
    assert_eq!(bench.ask(Ask { here: here(0, false), ..ask() }), Choice::Here);
}

#[test]
fn placement_asks_for_every_label_and_the_zone() {
    let mut bench = Bench::new(&[8; 3]);
    bench.change(|nodes| {
        nodes[0].labels.insert("region".into(), "eu".into());
        nodes[1].labels.insert("region".into(), "eu".into());
        nodes[1].zone = Some("a".into());
        nodes[2].labels.insert("region".into(), "us".into());
    });
    let eu = labelled("region", "eu");
    let eu_a = Placement { zone: Some("a".into()), ..eu.clone() };
    let in_eu: BTreeSet<_> = bench.balancer.preferred(REVISION, &eu, 3).into_iter().collect();
    assert_eq!(in_eu, [name(0), name(1)].into());
    assert!(bench.picked(Ask { placement: &eu, last: true, ..ask() }).is_subset(&in_eu));
    assert_eq!(bench.picked(Ask { placement: &eu_a, ..ask() }), [name(1)].into());
    let mars = labelled("region", "mars");
    assert_eq!(bench.ask(Ask { placement: &mars, ..ask() }), Choice::None(Nowhere::NoneFits));
}

#[test]
fn drained_lost_and_weightless_nodes_and_gateways_get_nothing_at_once() {
    let mut bench = Bench::new(&[8; 5]);
    assert!(matches!(bench.pick(), Choice::There(_)));
    bench.change(|nodes| {
        nodes[0].draining = true;
        nodes[1].worker = false;
        nodes[2].slots = 0;
        nodes.remove(3);
    });
    assert_eq!(bench.picked(ask()), [name(4)].into());
    bench.change(|nodes| nodes[3].draining = true);
    assert_eq!(bench.pick(), Choice::None(Nowhere::NoWorker));
    bench.change(|nodes| nodes[0].draining = false);
    assert_eq!(bench.picked(ask()), [name(0)].into());
}

#[test]
fn what_was_seen_of_a_node_stays_until_it_joins_again() {
    let mut bench = Bench::new(&[8; 3]);
    bench.report(0, 5);
    bench.change(|nodes| nodes[0].slots = 4);
    let load = |bench: &Bench| {
        let explained = bench.balancer.explain(&ask(), bench.now);
        explained.into_iter().find(|node| node.node == name(0)).map(|node| (node.in_flight, node.slots)).unwrap()
    };
    assert_eq!(load(&bench), (5, 4));
    bench.change(|nodes| nodes[0].joined += SECOND);
    assert_eq!(load(&bench), (0, 4));
}

#[test]
fn an_ejected_node_is_left_out_until_its_time_is_over() {
    let mut bench = Bench::new(&[8; 3]);
    bench.sent(0).failed(Failure::Silent, bench.now);
    assert_eq!(bench.verdict(0), Verdict::Preferred);
    bench.sent(0).failed(Failure::Silent, bench.now);
    assert_eq!(bench.verdict(0), Verdict::Ejected(SECOND));
    assert!(!bench.picked(ask()).contains(&name(0)));
    bench.now += SECOND;
    assert_eq!(bench.verdict(0), Verdict::Preferred);
}

#[test]
fn no_more_than_half_of_the_nodes_are_ejected_and_the_least_bad_come_back() {
    let mut bench = Bench::new(&[8; 4]);
    let is_ejected = |bench: &Bench, index| matches!(bench.verdict(index), Verdict::Ejected(_));
    bench.eject(0);
    bench.now += SECOND;
    bench.eject(0);
    bench.eject(1);
    assert_eq!([0, 1, 2, 3].map(|index| is_ejected(&bench, index)), [true, true, false, false]);
    // Node 0 was ejected for two seconds, the others for one.
    bench.eject(2);
    assert!(is_ejected(&bench, 0));
    assert_eq!([1, 2, 3].iter().filter(|index| is_ejected(&bench, **index)).count(), 1);
    // And as nodes leave, so do places for ejected ones.
    bench.change(|nodes| nodes.truncate(1));
    assert!(!is_ejected(&bench, 0));
}

#[test]
fn the_first_to_come_back_serves_when_only_ejected_nodes_fit() {
    let mut bench = Bench::new(&[8; 6]);
    bench.change(|nodes| nodes[..2].iter_mut().for_each(|node| node.zone = Some("a".into())));
    let zone_a = Placement { zone: Some("a".into()), ..Placement::default() };
    bench.eject(0);
    bench.now += SECOND / 2;
    bench.eject(1);
    assert_eq!(bench.ask(Ask { placement: &zone_a, ..ask() }), Choice::There(name(0)));
}

#[test]
fn a_node_that_is_not_ready_is_left_out_for_that_revision_and_for_a_while() {
    let mut bench = Bench::new(&[8; 3]);
    (1..3).for_each(|index| bench.report(index, 5));
    assert_eq!(bench.pick(), Choice::There(name(0)));
    bench.sent(0).refused(None, Refused::NotReady, bench.now);
    assert!(!bench.picked(ask()).contains(&name(0)));
    assert_eq!(bench.ask(Ask { revision: RevisionKey(43), ..ask() }), Choice::There(name(0)));
    bench.now += SECOND;
    assert_eq!(bench.verdict(0), Verdict::Preferred);
}

#[test]
fn a_new_node_begins_with_a_tenth_of_its_weight() {
    let mut bench = Bench::new(&[8; 3]);
    let now = bench.now;
    bench.change(|nodes| nodes[0].joined = now);
    (1..3).for_each(|index| bench.report(index, 5));
    // 1 ÷ 0.8 against 6 ÷ 8, and five seconds later 1 ÷ 4.
    assert!(!bench.picked(ask()).contains(&name(0)));
    bench.now += 5 * SECOND;
    assert_eq!(bench.pick(), Choice::There(name(0)));
}

#[test]
fn a_slow_node_is_known_by_its_run_times_and_few_of_them_say_little() {
    let bench = Bench::new(&[8; 3]);
    let speed = |index: usize| {
        let explained = bench.balancer.explain(&ask(), bench.now);
        explained.iter().find(|node| node.node == name(index)).unwrap().speed
    };
    let answer = |index: usize, ms: u64| bench.sent(index).answered(None, Duration::from_millis(ms), bench.now);
    (0..40).for_each(|_| answer(1, 10));
    (0..3).for_each(|_| answer(0, 40));
    assert!(speed(0) > 0.8, "{}", speed(0));
    for _ in 0..1_000 {
        answer(0, 40);
        (0..3).for_each(|_| answer(1, 10));
        (0..3).for_each(|_| answer(2, 10));
    }
    let ratio = speed(0) / speed(1);
    assert!((0.2..0.35).contains(&ratio), "{ratio}");
    (0..2_000).for_each(|_| answer(0, 100_000));
    assert!(speed(0) >= 0.25);
}

#[test]
fn the_list_widens_with_demand_and_refusals_and_narrows_again() {
    let mut bench = Bench::new(&[8; 100]);
    assert_eq!(bench.width(), MIN_PREFERRED);
    let mut sent = Vec::new();
    for _ in 0..64 {
        sent.push(bench.sent(0));
    }
    // Demand is an average: a burst is not, a minute of it is. 64 × 1.25 ÷ 8 = 10.
    assert_eq!(bench.width(), MIN_PREFERRED);
    for _ in 0..60 {
        bench.now += SECOND;
        drop(bench.sent(0));
    }
    assert_eq!(bench.width(), 10);
    for _ in 0..5 {
        bench.sent(0).refused(None, Refused::Busy, bench.now);
    }
    assert_eq!(bench.width(), 15);
    drop(sent);
    bench.now += 300 * SECOND;
    drop(bench.sent(0));
    assert_eq!(bench.width(), MIN_PREFERRED);
}

#[test]
fn counts_hold_when_many_threads_choose_while_nodes_change() {
    let bench = Bench::new(&[8; 10]);
    let (balancer, nodes, now) = (&bench.balancer, &bench.nodes, bench.now);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
                for _ in 0..2_000 {
                    let Choice::There(node) = balancer.pick(&ask(), &mut rng, now) else { panic!("ten nodes live") };
                    balancer.sent(&node, REVISION, now).answered(None, SECOND, now);
                }
            });
        }
        scope.spawn(move || {
            for slots in 1..200 {
                balancer.update(nodes.iter().cloned().map(|node| Candidate { slots, ..node }).collect());
            }
        });
    });
    assert!(balancer.explain(&ask(), now).iter().all(|node| node.own == 0));
}

#[test]
fn everybody_has_a_verdict() {
    let mut bench = Bench::new(&[8; 9]);
    bench.change(|nodes| {
        nodes[0].worker = false;
        nodes[1].draining = true;
        nodes[2].zone = Some("b".into());
        nodes[3..].iter_mut().for_each(|node| node.zone = Some("a".into()));
    });
    bench.eject(3);
    bench.sent(4).refused(None, Refused::Draining, bench.now);
    let zone_a = Placement { zone: Some("a".into()), ..Placement::default() };
    let tried = [name(5)];
    let explained = bench.balancer.explain(&Ask { placement: &zone_a, tried: &tried, ..ask() }, bench.now);
    let of = |index: usize| explained.iter().find(|node| node.node == name(index)).unwrap();
    assert_eq!([0, 1, 2].map(|index| of(index).verdict), [Verdict::NoWorker, Verdict::Draining, Verdict::Misplaced]);
    assert_eq!([3, 4].map(|index| of(index).verdict), [Verdict::Ejected(SECOND), Verdict::NotReady]);
    assert_eq!(of(5).verdict, Verdict::Tried);
    for node in &explained {
        let choosable = matches!(node.verdict, Verdict::Preferred | Verdict::Reserve);
        assert_eq!(node.score.is_some(), choosable, "{node:?}");
    }
    let places: Vec<_> = explained.iter().filter_map(|node| node.preferred).collect();
    assert_eq!(places, [1, 2, 3]);
}

#[test]
fn the_hash_is_the_one_of_its_specification() {
    // The empty input, from the test vectors of xxHash 0.8: gateways of all versions must agree.
    assert_eq!(twox_hash::XxHash3_64::oneshot(b""), 0x2D06_8005_38D3_94C2);
}

proptest! {
    #[test]
    fn a_node_that_leaves_moves_only_its_own_revisions(
        slots in proptest::collection::vec(1_u32..64, 2..40), gone in any::<proptest::sample::Index>(), k in 1_usize..8,
    ) {
        let mut bench = Bench::new(&slots);
        let gone = name(gone.index(slots.len()));
        let order = |bench: &Bench, revision, k| bench.balancer.preferred(RevisionKey(revision), ANYWHERE, k);
        let before: Vec<_> = (0..50).map(|revision| order(&bench, revision, k)).collect();
        bench.change(|nodes| nodes.retain(|node| node.node != gone));
        bench.nodes.reverse();
        bench.balancer.update(bench.nodes.clone());
        for (revision, before) in (0..50).zip(before) {
            let stay: Vec<_> = before.iter().filter(|node| **node != gone).cloned().collect();
            prop_assert_eq!(order(&bench, revision, stay.len()), stay);
        }
    }

    #[test]
    fn first_places_are_shared_by_weight(seed in any::<u64>()) {
        let bench = Bench::new(&[1, 2, 4, 8]);
        let mut first = [0.0_f64; 4];
        for revision in 0..3_000_u64 {
            let key = RevisionKey(seed.wrapping_add(revision.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            let node = &bench.balancer.preferred(key, ANYWHERE, 1)[0];
            first[node.as_str()[1..].parse::<usize>().unwrap()] += 1.0;
        }
        for (count, weight) in first.iter().zip([1.0, 2.0, 4.0, 8.0]) {
            let expected = 3_000.0 * weight / 15.0;
            // Five standard deviations at least.
            prop_assert!((count - expected).abs() < 5.5 * expected.sqrt(), "{first:?}");
        }
    }

    #[test]
    fn a_choice_is_always_live_fitting_and_untried(
        nodes in proptest::collection::vec((0_u32..20, any::<bool>(), any::<bool>(), any::<bool>()), 0..30),
        tried in proptest::collection::vec(0_usize..30, 0..5), last in any::<bool>(), seed in any::<u64>(),
    ) {
        let slots: Vec<_> = nodes.iter().map(|node| node.0).collect();
        let mut bench = Bench::new(&slots);
        bench.rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        bench.change(|candidates| for (candidate, (_, worker, draining, zone)) in candidates.iter_mut().zip(&nodes) {
            (candidate.worker, candidate.draining) = (*worker, *draining);
            candidate.zone = zone.then(|| "a".to_owned());
        });
        let zone_a = Placement { zone: Some("a".into()), ..Placement::default() };
        let tried: Vec<_> = tried.into_iter().map(name).collect();
        let good = |node: &Candidate| {
            node.worker && !node.draining && node.slots > 0 && node.zone.is_some() && !tried.contains(&node.node)
        };
        let choice = bench.ask(Ask { placement: &zone_a, tried: &tried, last, ..ask() });
        match choice {
            Choice::There(chosen) => prop_assert!(bench.nodes.iter().any(|node| node.node == chosen && good(node))),
            other => prop_assert!(!bench.nodes.iter().any(good), "{other:?}"),
        }
    }
}
