//! What heals by itself, and what it costs until then: a stranger's datagrams on an open channel, a path that
//! loses what is long, a channel that is deaf in one direction.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::Duration;

use ctsync_ctnetlink::codec::Event;
use ctsync_engine::facts::Role;
use ctsync_engine::wire::{self, Alive, Body, Claim, Header, Heard, Incarnation, NodeId, StreamHead};
use fastrand::Rng;

#[path = "common/mod.rs"]
mod common;

use common::pair::Pair;
use common::{contents, entry};

/// Which way a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToBackup,
    ToOwner,
}

/// One turn of both: what passes is decided by `passes`. Bytes that were sent.
fn turn(pair: &mut Pair, mut passes: impl FnMut(Way, &[u8]) -> bool) -> usize {
    pair.now += Duration::from_millis(10);
    let mut bytes = 0;
    let Pair { owner, backup, now } = pair;
    for replica in [&mut *owner, &mut *backup] {
        replica.handle_events_empty();
        replica.handle_timeout(*now);
    }
    while let Some(datagram) = owner.poll_datagram(*now) {
        bytes += datagram.len();
        if passes(Way::ToBackup, &datagram) {
            backup.handle_datagram(&datagram, *now);
        }
    }
    while let Some(datagram) = backup.poll_datagram(*now) {
        bytes += datagram.len();
        if passes(Way::ToOwner, &datagram) {
            owner.handle_datagram(&datagram, *now);
        }
    }
    pair.answer_all();
    bytes
}

/// In a word: one owner, the other one in step with it.
fn is_well(pair: &mut Pair) -> bool {
    let owners = [&pair.owner, &pair.backup].into_iter().filter(|replica| replica.owner()).count();
    let (now, marker) = (pair.now, entry(40_000, 7));
    let owner = if pair.owner.owner() { &mut pair.owner } else { &mut pair.backup };
    owner.handle_event(Event::New(marker.clone()), now);
    turn(pair, |_, _| true);
    turn(pair, |_, _| true);
    let well = owners == 1
        && contents(&pair.owner) == contents(&pair.backup)
        && pair.owner.holds(&marker)
        && pair.backup.holds(&marker);
    let now = pair.now;
    let owner = if pair.owner.owner() { &mut pair.owner } else { &mut pair.backup };
    owner.handle_event(Event::Destroy(marker), now);
    turn(pair, |_, _| true);
    well
}

/// A number that a stranger would choose.
fn wild(random: &mut Rng, near: u64) -> u64 {
    let all = [0, 1, near, near + 1, near + random.u64(0..2000), near << 20, 1 << 40, 1 << 61, (1 << 63) - 1];
    all[random.usize(0..all.len())]
}

/// What he says in the name of a node, after what that node said last.
fn forged(random: &mut Rng, header: &Header, to: Incarnation, last: &Alive) -> Vec<u8> {
    let mut alive = last.clone();
    let mut datagram = Vec::new();
    match random.u8(0..8) {
        0..=3 => {
            alive.turn = if random.bool() { alive.turn + 1 } else { random.u32(..) };
            if random.bool() {
                alive.last = wild(random, alive.last);
                alive.oldest = wild(random, alive.oldest);
            }
            if random.bool() {
                alive.owner = random.bool();
                let node = if random.bool() { header.sender } else { NodeId(random.u64(1..4)) };
                alive.claim = Claim { epoch: wild(random, alive.claim.epoch), node };
            }
            if random.bool() {
                alive.next = wild(random, alive.next);
                alive.seed = u128::from(random.u64(..));
                alive.root = random.u64(..);
            }
            (alive.owes, alive.fresh, alive.ready) = (random.bool(), random.bool(), random.bool());
            alive.truth = random.bool().then_some(alive.claim);
            alive.role = Role::ALL[random.usize(0..4)];
            let node = NodeId(random.u64(1..4));
            alive.peers = vec![Heard { node, longest: random.u16(..) }];
            wire::emit_body(&mut datagram, header, &Body::Alive(Box::new(alive)));
        }
        4 => {
            // What it says of entries is another matter: an open channel lets them land.
            let head = StreamHead {
                sequence: wild(random, last.last),
                root: random.u64(..),
                ..StreamHead::default()
            };
            wire::emit_stream(&mut datagram, header, &head, &[]);
        }
        5 => {
            let from = wild(random, last.last);
            let holes = vec![(from, wild(random, from))];
            wire::emit_body(&mut datagram, header, &Body::Nack { to, holes });
        }
        6 => wire::emit_body(&mut datagram, header, &Body::Flush { to, token: random.u32(..) }),
        _ => wire::emit_body(&mut datagram, header, &Body::Proof { to, nonce: random.u64(..) }),
    }
    datagram
}

/// Without a key anybody on the link can confuse a pair. When he stops, it is well again within the peer
/// timeout and what a challenge and a claim take.
#[test]
fn what_a_stranger_broke_heals_when_he_stops() {
    for seed in 0..400 {
        let mut random = Rng::with_seed(seed);
        let mut pair = Pair::start(20);
        let mut said: Vec<(Header, Alive)> = Vec::new();
        for _ in 0..100 {
            turn(&mut pair, |_, datagram| {
                if let Ok((header, Body::Alive(alive))) = wire::parse(datagram) {
                    said.retain(|(known, _)| known.sender != header.sender);
                    said.push((header, *alive));
                }
                true
            });
        }
        assert_eq!(said.len(), 2);
        for _ in 0..random.u32(1..60) {
            let at = random.usize(0..2);
            let (header, alive) = &said[at];
            let other = said[1 - at].0.incarnation;
            let datagram = forged(&mut random, header, other, alive);
            let now = pair.now;
            let to = if header.sender == NodeId(1) { &mut pair.backup } else { &mut pair.owner };
            to.handle_datagram(&datagram, now);
            if random.bool() {
                turn(&mut pair, |_, _| true);
            }
        }
        // The peer timeout, and as much again for a challenge, a claim and a repair.
        for _ in 0..250 {
            turn(&mut pair, |_, _| true);
        }
        assert!(
            is_well(&mut pair),
            "seed {seed}: {:#?} {:#?}",
            pair.owner.view(pair.now),
            pair.backup.view(pair.now)
        );
    }
}

/// Who comes and goes under many names keeps no new run of the true peer out.
#[test]
fn many_strangers_keep_nobody_out() {
    let mut pair = Pair::start(5);
    let said = |name: u64, body: &Body<'_>| {
        let header = Header { node_group: 0, sender: NodeId(name), incarnation: Incarnation(name.into()) };
        let mut datagram = Vec::new();
        wire::emit_body(&mut datagram, &header, body);
        datagram
    };
    for name in 100..120 {
        let alive = Alive { turn: 1, mechanism_group: "manual G".into(), ..Alive::default() };
        let now = pair.now;
        pair.owner.handle_datagram(&said(name, &Body::Alive(Box::new(alive))), now);
        let asked =
            std::iter::from_fn(|| pair.owner.poll_datagram(now)).find_map(|datagram| {
                match wire::parse(&datagram) {
                    Ok((header, Body::Challenge { to: Incarnation(to), nonce }))
                        if to == u128::from(name) =>
                    {
                        Some((header.incarnation, nonce))
                    }
                    _ => None,
                }
            });
        if let Some((to, nonce)) = asked {
            pair.owner.handle_datagram(&said(name, &Body::Proof { to, nonce }), now);
        }
        turn(&mut pair, |_, _| true);
    }
    for _ in 0..150 {
        turn(&mut pair, |_, _| true);
    }
    // A node that was never here: one that is known has its place.
    let now = pair.now;
    pair.backup = common::another_run(3, 7, Role::Backup, true, Vec::new(), now);
    for _ in 0..150 {
        turn(&mut pair, |_, _| true);
    }
    assert!(is_well(&mut pair), "{:#?}", pair.owner.view(pair.now));
}

/// A switch that drops what is longer than 1280 bytes and tells nobody: the tables become equal all the same,
/// and what is sent in vain is bounded.
#[test]
fn a_narrow_path_is_found_and_no_storm() {
    for narrow_from_the_start in [true, false] {
        let passes = |_, datagram: &[u8]| datagram.len() + 48 <= 1280;
        let mut pair = Pair::start(0);
        for _ in 0..200 {
            turn(&mut pair, |way, datagram| !narrow_from_the_start || passes(way, datagram));
        }
        for number in 0..3000u16 {
            pair.owner.handle_event(Event::New(entry(number, 1)), pair.now);
        }
        let mut bytes = 0;
        let mut took = 0;
        for step in 1..=3500 {
            bytes += turn(&mut pair, passes);
            if took == 0 && contents(&pair.owner) == contents(&pair.backup) {
                took = step * 10;
            }
        }
        let view = pair.owner.view(pair.now);
        assert_eq!((view.narrow, view.datagram), (Some(1400), 1232), "it is told");
        assert!(took > 0 && took <= 3000, "in step after {took} ms");
        // 3000 entries of 40 bytes, ten times over until their length is doubted, once more then; eight long
        // alives at first, one each 10 s; 35 s of signs of life both ways. It was 213 MB once.
        assert!(bytes < 900_000, "{bytes} bytes in 35 s");
        assert!(common::protected(&pair.owner, pair.now), "{view:#?}");
        // It is widened: long ones again.
        for _ in 0..1100 {
            turn(&mut pair, |_, _| true);
        }
        let view = pair.owner.view(pair.now);
        assert_eq!((view.narrow, view.datagram), (None, 1400));
    }
}

/// A channel that is deaf in one direction, changes going on: a sender that gets no answer repeats itself
/// less and less.
#[test]
fn a_deaf_channel_makes_no_storm() {
    for deaf in [Way::ToBackup, Way::ToOwner] {
        for entries_change in [false, true] {
            let mut pair = Pair::start(200);
            let (mut bytes, mut changes) = (0, 0);
            for step in 0..6000u16 {
                if entries_change && step % 10 == 0 {
                    let changed = entry(step / 10 % 200, u32::from(step) + 2);
                    pair.owner.handle_event(Event::Update(changed), pair.now);
                    changes += 1;
                }
                // Both have the role that they had: nobody is elected.
                bytes += turn(&mut pair, |way, _| way != deaf);
            }
            // What is said once each: signs of life of 180 bytes at most and challenges, both ways, four a
            // second; each change in a datagram of its own.
            let said = 60 * 4 * 2 * (200 + 100) + changes * 100;
            assert!(bytes < said, "{bytes} bytes in a minute, {said} would be plenty");
            for _ in 0..300 {
                turn(&mut pair, |_, _| true);
            }
            assert!(is_well(&mut pair), "it is over: {:#?}", pair.backup.view(pair.now));
        }
    }
}

/// Everything long is lost one way, and what is short gets through: nacks and repairs do, their answers do
/// not.
#[test]
fn answers_that_never_come_are_asked_for_less_and_less() {
    let mut pair = Pair::start(0);
    for _ in 0..200 {
        turn(&mut pair, |_, _| true);
    }
    for number in 0..3000u16 {
        pair.owner.handle_event(Event::New(entry(number, 1)), pair.now);
    }
    let passes = |way: Way, datagram: &[u8]| way == Way::ToOwner || datagram.len() < 300;
    let mut by_minute = Vec::new();
    for _ in 0..3 {
        by_minute.push((0..6000).map(|_| turn(&mut pair, passes)).sum::<usize>());
    }
    let per_second = by_minute[2] / 60;
    assert!(per_second < 20_000, "{per_second} bytes a second in the third minute of {by_minute:?}");
    for _ in 0..2000 {
        turn(&mut pair, |_, _| true);
    }
    assert!(is_well(&mut pair), "{:#?}", pair.backup.view(pair.now));
}

/// A new run of the backup has everything to ask for, and what it asks never arrives.
#[test]
fn questions_that_never_arrive_are_asked_less_and_less() {
    const ASK: u8 = 4;
    let mut pair = Pair::start(200);
    let now = pair.now;
    pair.backup = common::another_run(2, 9, Role::Backup, true, Vec::new(), now);
    let mut by_minute = Vec::new();
    for _ in 0..3 {
        let mut asked = 0;
        for _ in 0..6000 {
            turn(&mut pair, |way, datagram| {
                let lost = way == Way::ToOwner && datagram.get(3) == Some(&ASK);
                asked += u32::from(lost);
                !lost
            });
        }
        by_minute.push(asked);
    }
    assert!(by_minute[0] > 5 && by_minute[2] <= 10, "asked so often in each minute: {by_minute:?}");
    for _ in 0..2000 {
        turn(&mut pair, |_, _| true);
    }
    assert!(is_well(&mut pair), "{:#?}", pair.backup.view(pair.now));
}

/// An owner's machine boots anew while the channel is cut, and claims as it did the first time: the same
/// claim, another run. What only the backup has is offered to it, not purged.
#[test]
fn the_same_claim_of_another_run_is_heard() {
    let mut pair = Pair::start(20);
    let now = pair.now;
    let claimed = pair.owner.view(now).epoch;
    pair.owner = common::another_run(1, 9, Role::Primary, true, Vec::new(), now);
    // It is alone, as far as it knows.
    for _ in 0..2000 {
        turn(&mut pair, |_, _| false);
    }
    assert!(
        pair.owner.owner() && pair.owner.view(pair.now).epoch == claimed,
        "{:#?}",
        pair.owner.view(pair.now)
    );
    for number in 100..120 {
        pair.owner.handle_event(Event::New(entry(number, 1)), pair.now);
    }
    for _ in 0..500 {
        turn(&mut pair, |_, _| true);
    }
    assert!(is_well(&mut pair), "{:#?}", pair.backup.view(pair.now));
    for number in 0..20 {
        let before = entry(number, 1);
        assert!(pair.backup.holds(&before) && pair.owner.holds(&before), "entry {number} is lost");
    }
}
