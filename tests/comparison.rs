//! Two replicas whose tables were made to differ: an operator who compares finds just that, entry by entry,
//! and changes nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::{Duration, Instant};

use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::{Entry, L4};
use ctsync_engine::replica::{Compared, Replica, Role};

#[path = "common/mod.rs"]
mod common;

use common::{entry, replica};

struct Pair {
    replicas: [Replica; 2],
    now: Instant,
    /// Datagrams to router2 are lost.
    deaf: bool,
    /// All that router1 has said.
    said: Vec<Vec<u8>>,
}

impl Pair {
    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        for x in 0..2 {
            self.replicas[x].handle_events_empty();
            self.replicas[x].handle_timeout(self.now);
            while let Some(datagram) = self.replicas[x].poll_datagram(self.now) {
                if x == 0 {
                    self.said.push(datagram.clone());
                    if self.deaf {
                        continue;
                    }
                }
                self.replicas[1 - x].handle_datagram(&datagram, self.now);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn compare(&mut self, x: usize) -> Compared {
        let now = self.now;
        self.replicas[x].begin_comparison(now);
        for _ in 0..600 {
            self.step();
            if let Some(compared) = self.replicas[x].poll_comparison() {
                return compared;
            }
        }
        panic!("a comparison does not end");
    }
}

#[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
fn start() -> Pair {
    let now = Instant::now();
    // Cold: the kernel is not part of this.
    let replicas = [replica(1, Role::Primary, false, now), replica(2, Role::Backup, false, now)];
    let mut pair = Pair { replicas, now, deaf: false, said: Vec::new() };
    pair.run(Duration::from_secs(2));
    for number in 0..500 {
        let now = pair.now;
        pair.replicas[0].handle_event(Event::New(entry(number, 1)), now);
    }
    pair.run(Duration::from_secs(1));
    assert!(pair.replicas[0].owner());
    assert_eq!(pair.replicas[1].entries().count(), 500);
    pair
}

/// What is asked again is asked in an order that another run has, too: otherwise no seed replays a
/// simulation.
#[test]
fn two_runs_say_the_same() {
    let said = || {
        let mut pair = start();
        pair.deaf = true;
        for number in 500..900 {
            let now = pair.now;
            pair.replicas[0].handle_event(Event::New(entry(number, 1)), now);
        }
        pair.run(Duration::from_millis(100));
        let now = pair.now;
        pair.replicas[0].begin_comparison(now);
        let before = pair.said.len();
        for step in 0..100 {
            // The first questions arrive, so that there are many to be asked again.
            pair.deaf = step >= 4;
            pair.step();
        }
        pair.said.split_off(before)
    };
    let (first, second) = (said(), said());
    assert!(first.len() > 10, "{} datagrams", first.len());
    assert!(first == second, "two runs say different things");
}

#[test]
fn equal_tables_are_equal_from_both_sides() {
    let mut pair = start();
    for x in 0..2 {
        match pair.compare(x) {
            Compared::Done { count: 0, moving: 0, unseen: 0, differing, peer } => {
                assert!(differing.is_empty());
                assert_eq!(peer, format!("router{}", 2 - x));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What changes on the owner while the backup hears nothing, compared before a repair can begin: the alive
/// that would begin it is lost too, the answers to the looks are not.
#[test]
fn planted_differences_are_found_one_by_one() {
    let mut pair = start();
    pair.deaf = true;
    let now = pair.now;
    pair.replicas[0].handle_event(Event::Update(entry(7, 2)), now);
    pair.replicas[0].handle_event(Event::Destroy(entry(8, 1)), now);
    pair.replicas[0].handle_event(Event::New(entry(900, 1)), now);
    pair.step();
    let compared = compare_deaf(&mut pair);
    let Compared::Done { mut differing, count, .. } = compared else { panic!("{compared:?}") };
    assert_eq!((count, differing.len()), (3, 3));
    let port = |entry: &Option<Entry>| {
        entry.as_ref().map(|entry| match entry.orig.l4 {
            L4::Ports { src, .. } => (src, entry.mark.unwrap()),
            _ => unreachable!(),
        })
    };
    differing.sort_by_key(|pair| port(&pair.here).or(port(&pair.there)));
    let found: Vec<_> = differing.iter().map(|pair| (port(&pair.here), port(&pair.there))).collect();
    assert_eq!(found, [(Some((7, 2)), Some((7, 1))), (None, Some((8, 1))), (Some((900, 1)), None)]);
    // Nothing was changed by looking, and the repair still comes.
    assert_eq!(pair.replicas[1].entries().count(), 500);
    pair.deaf = false;
    pair.run(Duration::from_secs(2));
    assert!(matches!(pair.compare(0), Compared::Done { count: 0, .. }));
}

/// Only looks reach the backup.
fn compare_deaf(pair: &mut Pair) -> Compared {
    const KIND: usize = 3;
    const LOOK: u8 = 9;
    let now = pair.now;
    pair.replicas[0].begin_comparison(now);
    for _ in 0..600 {
        pair.now += Duration::from_millis(10);
        let now = pair.now;
        for x in 0..2 {
            pair.replicas[x].handle_events_empty();
            pair.replicas[x].handle_timeout(now);
            while let Some(datagram) = pair.replicas[x].poll_datagram(now) {
                if x == 1 || datagram[KIND] == LOOK {
                    pair.replicas[1 - x].handle_datagram(&datagram, now);
                }
            }
        }
        if let Some(compared) = pair.replicas[0].poll_comparison() {
            return compared;
        }
    }
    panic!("a comparison does not end");
}

#[test]
fn a_peer_that_is_not_there_is_said() {
    let mut pair = start();
    pair.deaf = true;
    let now = pair.now;
    pair.replicas[0].begin_comparison(now);
    let mut told = None;
    for _ in 0..600 {
        pair.step();
        told = told.or(pair.replicas[0].poll_comparison());
    }
    assert!(matches!(told, Some(Compared::Silent { .. })), "{told:?}");
    let alone = Pair { deaf: true, ..start() };
    let mut alone = alone;
    // Both ways cut: the peer is lost first.
    for _ in 0..300 {
        alone.now += Duration::from_millis(10);
        let now = alone.now;
        alone.replicas[0].handle_timeout(now);
    }
    let now = alone.now;
    alone.replicas[0].begin_comparison(now);
    assert!(matches!(alone.replicas[0].poll_comparison(), Some(Compared::NoPeer)));
}
