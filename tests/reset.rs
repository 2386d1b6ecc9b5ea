//! `reset external-cache`: the owner's entries are forgotten and sent again; nothing of the kernel's is lost
//! by it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
#![allow(dead_code, reason = "shared with other tests")]

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use common::entry;
use common::pair::Pair;
use ctsync_ctnetlink::codec::Event;
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::{Kept, Refill};

/// A reset forgets, and the owner dies before it could send anything again: everything is as it was, and
/// nothing was removed from the kernel.
#[test]
fn a_reset_is_given_up_when_the_owner_dies() {
    let mut pair = Pair::start(50);
    assert!(pair.backup.reset_external());
    assert_eq!(pair.backup.entries().count(), 0);
    for _ in 0..150 {
        pair.now += Duration::from_millis(10);
        pair.backup.handle_events_empty();
        pair.backup.handle_timeout(pair.now);
        assert_eq!(pair.batches(), Vec::<Vec<Op>>::new());
    }
    assert_eq!(pair.backup.refill(), Refill::GivenUp);
    assert_eq!(pair.backup.entries().filter(|(_, installed)| *installed).count(), 50);
}

/// A reset with a living owner: the owner's entries come back, what it no longer has goes from the kernel.
#[test]
fn a_reset_fetches_everything_again() {
    let mut pair = Pair::start(50);
    assert!(pair.backup.reset_external());
    assert!(!pair.owner.reset_external(), "an owner has no external entries");
    pair.run(2000);
    assert_eq!(pair.backup.refill(), Refill::Done);
    assert_eq!(pair.backup.entries().filter(|(_, installed)| *installed).count(), 50);
    assert!(pair.backup.readiness(pair.now).is_ready());
}

/// A destroy that comes during a reset counts: what the owner ended does not rise again when the owner is
/// lost.
#[test]
fn what_ends_during_a_reset_stays_ended() {
    let mut pair = Pair::start(50);
    assert!(pair.backup.reset_external());
    for number in 0..10 {
        pair.owner.handle_event(Event::Destroy(entry(number, 1)), pair.now);
    }
    // Live changes go before the repair: they arrive, the repair does not.
    let destroys = pair.owner.poll_datagram(pair.now).unwrap();
    pair.backup.handle_datagram(&destroys, pair.now);
    for _ in 0..150 {
        pair.now += Duration::from_millis(10);
        pair.backup.handle_events_empty();
        pair.backup.handle_timeout(pair.now);
        pair.answer_all();
    }
    assert_eq!(pair.backup.refill(), Refill::GivenUp);
    assert_eq!(pair.backup.entries().count(), 40);
}

/// What a standby's own kernel told it before it had heard of an owner is not the owner's: it stays there
/// when the reset has ended, and no longer counts as held.
#[test]
fn a_reset_removes_nothing_that_the_kernel_had_by_itself() {
    let mut pair = Pair::start(50);
    let settled = Kept { settled: true, ..Kept::default() };
    pair.backup = common::remembering(2, 9, settled, pair.now);
    pair.backup.handle_event(Event::New(entry(77, 1)), pair.now);
    assert_eq!(pair.backup.entries().count(), 1, "with no owner in sight the kernel is believed");
    while !pair.backup.reset_external() {
        pair.exchange();
    }
    assert_eq!(pair.backup.entries().count(), 0, "the reset came before any repair");
    let mut destroyed = Vec::new();
    for _ in 0..200 {
        pair.exchange();
        while pair.backup.waiting() > 0 {
            let requests = pair.batch(&[]);
            if requests.is_empty() {
                break;
            }
            destroyed.extend(requests.into_iter().filter(|(op, _)| *op == Op::Destroy));
        }
    }
    assert_eq!(pair.backup.refill(), Refill::Done);
    assert_eq!(pair.backup.entries().filter(|(_, installed)| *installed).count(), 50);
    assert!(destroyed.is_empty(), "{destroyed:?}");
}

/// A cold standby's kernel has none of what a reset keeps aside: what a dump finds there under one of those
/// tuples is another connection, and stays when the owner's ends.
#[test]
fn what_came_up_under_a_forgotten_tuple_stays() {
    let mut pair = Pair::with(50, false);
    assert!(pair.backup.reset_external());
    pair.backup.resync();
    pair.backup.handle_events_empty();
    assert!(pair.backup.poll_dump());
    pair.backup.handle_dump_entry(entry(3, 9));
    pair.backup.handle_dump_end(true, pair.now);
    pair.owner.handle_event(Event::Destroy(entry(3, 1)), pair.now);
    let destroys = pair.owner.poll_datagram(pair.now).unwrap();
    pair.backup.handle_datagram(&destroys, pair.now);
    pair.backup.handle_events_empty();
    pair.backup.handle_timeout(pair.now);
    let requests = pair.batch(&[]);
    assert!(requests.iter().all(|(op, _)| *op != Op::Destroy), "{requests:?}");
    assert!(pair.backup.entries().all(|(held, _)| held.key() != entry(3, 1).key()), "it is held no more");
}
