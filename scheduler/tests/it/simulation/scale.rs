//! 1,000 nodes and 10,000 functions: what the balancer costs and how preferred nodes spread and move.

use dunlin_api::{Load, NodeName, Placement};
use dunlin_scheduler::balancer::{Ask, Balancer, BalancerConfig, Candidate, Choice, MIN_PREFERRED, RevisionKey};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::policy::candidate;

const NODES: usize = 1_000;
const FUNCTIONS: u64 = 10_000;

/// A fifth with 16 slots, two fifths each with 8 and 4.
fn slots(index: usize) -> u32 {
    [16, 8, 8, 4, 4][index % 5]
}

fn fleet(joined: Instant) -> Vec<Candidate> {
    (0..NODES).map(|index| candidate(format!("node-{index}").parse().unwrap(), slots(index), joined)).collect()
}

fn preferred(balancer: &Balancer) -> Vec<Vec<NodeName>> {
    let of = |function| balancer.preferred(RevisionKey(function), &Placement::default(), MIN_PREFERRED);
    (0..FUNCTIONS).map(of).collect()
}

fn balancer(nodes: Vec<Candidate>) -> Balancer {
    let balancer = Balancer::new("gateway".parse().unwrap(), BalancerConfig::default());
    balancer.update(nodes);
    balancer
}

#[test]
fn only_what_a_node_has_or_gets_moves_when_it_leaves_or_joins() {
    let mut nodes = fleet(Instant::now());
    let all = preferred(&balancer(nodes.clone()));
    let gone = nodes.remove(500);
    let without = preferred(&balancer(nodes));
    let mut moved = 0;
    for (all, without) in all.iter().zip(&without) {
        // One way it left, the other way it joined: the others keep their places.
        let others: Vec<_> = all.iter().filter(|node| **node != gone.node).collect();
        assert!(others.iter().zip(without).all(|(before, after)| *before == after), "{all:?} {without:?}");
        moved += u32::from(all != without);
    }
    let slots_in_all: u32 = (0..NODES).map(slots).sum();
    let share = 3.0 * f64::from(gone.slots) / f64::from(slots_in_all) * FUNCTIONS as f64;
    println!("{moved} of {FUNCTIONS} functions moved; a node of its weight has {share:.1} on average");
    // Three standard deviations above the average of a Poisson variable.
    assert!(moved > 0 && f64::from(moved) <= share + 3.0 * share.sqrt());
}

#[test]
fn preferred_sets_spread_by_weight() {
    let nodes = fleet(Instant::now());
    let mut counts: HashMap<NodeName, u32> = HashMap::new();
    for node in preferred(&balancer(nodes.clone())).into_iter().flatten() {
        *counts.entry(node).or_default() += 1;
    }
    let slots_in_all: u32 = (0..NODES).map(slots).sum();
    let per_slot = 3.0 * FUNCTIONS as f64 / f64::from(slots_in_all);
    let share = |node: &Candidate| f64::from(counts.get(&node.node).copied().unwrap_or(0)) / per_slot;
    let most = nodes.iter().map(|node| share(node) / f64::from(node.slots)).fold(0.0, f64::max);
    println!("functions per node over those by its slots: {most:.2} at most");
    for weight in [4, 8, 16] {
        let of_weight: Vec<_> = nodes.iter().filter(|node| node.slots == weight).map(share).collect();
        let mean = of_weight.iter().sum::<f64>() / of_weight.len() as f64 / f64::from(weight);
        println!("nodes of {weight} slots: {mean:.3} of their share on average");
        assert!((0.95..=1.05).contains(&mean));
    }
}

#[test]
fn a_pick_among_a_thousand_nodes_is_cheap() {
    const PICKS: u32 = 200_000;
    let start = Instant::now();
    let resident = resident_kib();
    let balancer = balancer(fleet(start));
    let now = start + Duration::from_secs(60);
    let mut chance = Xoshiro256PlusPlus::seed_from_u64(11);
    let functions: Vec<u64> = (0..PICKS).map(|_| chance.random_range(0..FUNCTIONS)).collect();
    let placement = Placement::default();
    let mut pick = |function| {
        let ask = Ask { revision: RevisionKey(function), placement: &placement, tried: &[], here: None, last: false };
        balancer.pick(&ask, &mut chance, now)
    };
    let cold = Instant::now();
    for function in 0..FUNCTIONS {
        let Choice::There(node) = pick(function) else { panic!("a thousand nodes are there") };
        balancer.report(&node, Load { in_flight: 1, slots: 8 });
    }
    let cold = cold.elapsed() / FUNCTIONS as u32;
    let grown = resident_kib().saturating_sub(resident);
    let warm = Instant::now();
    assert!(functions.into_iter().all(|function| matches!(pick(function), Choice::There(_))));
    println!("a pick: {:?}; the first of a revision: {cold:?}; resident: {grown} KiB more", warm.elapsed() / PICKS);
}

fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}
