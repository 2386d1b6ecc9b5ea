//! A virtual address that leaves its router: what the kernel ends for it lives on in the other one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
#![allow(dead_code, reason = "shared with other tests")]

use std::net::IpAddr;
use std::time::Duration;

use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::Entry;
use ctsync_engine::facts::Role;
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::Tunables;

#[path = "common/mod.rs"]
mod common;

use common::pair::Pair;
use common::{contents, entry};

const VIRTUAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// Masqueraded to the virtual address.
fn masqueraded(number: u16) -> Entry {
    let mut entry = entry(number, 1);
    entry.reply.dst = VIRTUAL;
    entry
}

/// A pair with ten masqueraded connections and ten others.
fn translating() -> Pair {
    let mut pair = Pair::start(10);
    for number in 100..110 {
        pair.owner.handle_event(Event::New(masqueraded(number)), pair.now);
    }
    pair.run(100);
    assert_eq!(contents(&pair.owner), contents(&pair.backup));
    pair
}

/// The address leaves; the kernel ends what was masqueraded to it (`masq_inet_event`), and one connection of
/// its own accord.
fn leave(pair: &mut Pair) {
    let now = pair.now;
    pair.owner.handle_departed([VIRTUAL], now);
    for number in 100..110 {
        pair.owner.handle_event(Event::Destroy(masqueraded(number)), now);
    }
    pair.owner.handle_event(Event::Destroy(entry(3, 1)), now);
    pair.owner.handle_events_empty();
}

fn counts(pair: &Pair) -> (usize, usize) {
    (pair.owner.entries().count(), pair.backup.entries().count())
}

/// keepalived is stopped: it removes the address first and tells afterwards. The standby's copies stay, it
/// takes over, and this node becomes its backup with all of them.
#[test]
fn an_address_that_leaves_ends_nothing_on_the_peer() {
    let mut pair = translating();
    pair.owner.tune(Tunables {
        alive: Duration::from_millis(250),
        lost_after: Duration::from_secs(1),
        gate_limit: Duration::from_secs(30),
        owner_lost: Duration::from_secs(3600),
        hot: true,
        track_windows: false,
    });
    leave(&mut pair);
    pair.run(500);
    assert_eq!(counts(&pair), (19, 19), "the ends of ten are held back, the eleventh's is told");
    pair.owner.handle_role(Role::Fault, pair.now);
    pair.run(500);
    pair.backup.handle_role(Role::Primary, pair.now);
    pair.run(500);
    assert!(pair.backup.owner() && !pair.owner.owner());
    assert_eq!(counts(&pair), (19, 19));
    assert_eq!(pair.backup.entries().filter(|(_, installed)| *installed).count(), 19);
    // The former owner's kernel gets its copies back.
    let mut created = 0;
    while pair.owner.waiting() > 0 {
        let count = pair.owner.poll_requests(64, |request| created += u32::from(request.op == Op::Create));
        pair.owner.handle_answers_end(&vec![false; count], pair.now);
    }
    assert_eq!(created, 10);
}

/// The address comes back to a node that is still primary: so do its connections.
#[test]
fn an_address_that_comes_back_brings_its_connections() {
    let mut pair = translating();
    leave(&mut pair);
    pair.run(1000);
    pair.owner.handle_returned(&[VIRTUAL]);
    let mut created = 0;
    while pair.owner.waiting() > 0 {
        let count = pair.owner.poll_requests(64, |request| created += u32::from(request.op == Op::Create));
        pair.owner.handle_answers_end(&vec![false; count], pair.now);
    }
    pair.run(5000);
    assert_eq!((created, counts(&pair)), (10, (19, 19)));
}

/// Packets come while the address is away, and the kernel translates them to another one: neither the peer's
/// copies nor the connections are lost by that, and what the kernel made is replaced when the address is
/// back.
#[test]
fn what_the_kernel_makes_meanwhile_takes_no_connections_place() {
    let other = |number: u16| {
        let mut strange = masqueraded(number);
        strange.reply.dst = [10, 0, 0, 10].into();
        strange
    };
    let away = || {
        let mut pair = translating();
        leave(&mut pair);
        for number in 100..105 {
            pair.owner.handle_event(Event::New(other(number)), pair.now);
            pair.owner.handle_event(Event::Update(other(number)), pair.now);
        }
        pair.run(500);
        assert_eq!(counts(&pair), (19, 19));
        assert!(
            (100..110).all(|number| pair.backup.holds(&masqueraded(number))),
            "the peer keeps the good copies"
        );
        pair
    };
    let mut pair = away();
    pair.owner.handle_returned(&[VIRTUAL]);
    let mut asked = Vec::new();
    while pair.owner.waiting() > 0 {
        let count = pair.owner.poll_requests(64, |request| asked.push(request.op));
        pair.owner.handle_answers_end(&vec![false; count], pair.now);
    }
    let of = |op: Op| asked.iter().filter(|asked| **asked == op).count();
    assert_eq!((of(Op::Destroy), of(Op::Create), asked.len()), (5, 10, 15), "{asked:?}");
    pair.run(1000);
    assert!(
        (100..110)
            .all(|number| pair.owner.holds(&masqueraded(number)) && pair.backup.holds(&masqueraded(number)))
    );
    // It stays away and nobody takes over: what the kernel has is what there is.
    let mut pair = away();
    pair.run(4000);
    let mut read = 0;
    pair.owner.poll_requests(64, |request| read += u32::from(request.op == Op::Get));
    assert_eq!(read, 5);
}

/// It does not come back, and nobody takes over: they have ended.
#[test]
fn what_no_handover_follows_has_ended() {
    let mut pair = translating();
    leave(&mut pair);
    pair.run(2900);
    assert_eq!(counts(&pair), (19, 19));
    pair.run(300);
    assert_eq!(counts(&pair), (9, 9));
    // In a node that is not primary they wait for whoever is.
    let mut pair = translating();
    leave(&mut pair);
    pair.owner.handle_role(Role::Fault, pair.now);
    pair.run(60_000);
    assert_eq!(counts(&pair), (19, 19));
    assert!(pair.owner.poll_timeout(pair.now) > pair.now, "nothing is due: the loop sleeps");
}

/// An overrun swallows the ends: the dump that follows ends nothing either.
#[test]
fn a_dump_ends_nothing_that_an_address_took_away() {
    let mut pair = translating();
    let now = pair.now;
    pair.owner.handle_departed([VIRTUAL], now);
    pair.owner.handle_overrun();
    pair.owner.handle_events_empty();
    assert!(pair.owner.poll_dump());
    for number in 0..10 {
        pair.owner.handle_dump_entry(entry(number, 1));
    }
    pair.owner.handle_dump_end(true, now);
    while pair.owner.waiting() > 0 {
        // Each that the dump lacked is asked for, and is not there.
        let count = pair.owner.poll_requests(64, |request| assert_eq!(request.op, Op::Get));
        for at in 0..count {
            pair.owner.handle_answer(at, nix::libc::ENOENT);
        }
        pair.owner.handle_answers_end(&vec![true; count], now);
    }
    pair.run(500);
    assert_eq!(counts(&pair), (20, 20));
}
