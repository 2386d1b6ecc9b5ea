//! When a takeover goes on: not before everything that was heard has been dealt with, and even when there is
//! no end to that.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
#![allow(dead_code, reason = "shared with other tests")]

#[path = "common/mod.rs"]
mod common;

use std::time::Duration;

use common::entry;
use common::pair::Pair;
use ctsync_engine::replica::{Kept, Role};

/// The peer talks and never answers the flush: its sign of life has only just been heard.
fn told_primary() -> Pair {
    let mut pair = Pair::start(3);
    pair.exchange();
    pair.backup.handle_events_empty();
    pair.backup.handle_role(Role::Primary, pair.now);
    assert!(pair.backup.fencing() && !pair.backup.owner(), "it asks for the last changes first");
    pair
}

/// Of what a turn has read, the role comes last: until then it may be another one.
#[test]
fn nothing_is_claimed_in_the_middle_of_a_turn() {
    let mut pair = told_primary();
    pair.now += Duration::from_secs(1);
    pair.backup.handle_events_empty();
    pair.backup.handle_overrun();
    pair.backup.handle_events_empty();
    assert!(pair.backup.poll_dump());
    pair.backup.handle_dump_end(true, pair.now);
    assert!(!pair.backup.owner(), "a role that is still to be read may be backup");
    pair.backup.handle_role(Role::Backup, pair.now);
    pair.backup.handle_timeout(pair.now);
    assert!(!pair.backup.owner() && !pair.backup.fencing());
}

#[test]
fn a_channel_that_is_never_read_empty_holds_no_takeover_up() {
    let mut pair = told_primary();
    pair.backup.handle_busy_turn(pair.now);
    assert!(!pair.backup.owner());
    pair.now += Duration::from_secs(1);
    pair.backup.handle_busy_turn(pair.now);
    assert!(pair.backup.owner(), "the peer had its time to answer");
}

/// An owner's daemon is started again. What ended in its kernel meanwhile has ended: nobody has to be asked
/// for it (19).
#[test]
fn an_owner_whose_kernel_survived_is_offered_nothing() {
    let mut pair = Pair::start(5);
    let kept = pair.owner.persist();
    pair.owner = common::remembering(1, 9, kept, pair.now);
    pair.owner.resync();
    assert!(pair.owner.poll_dump());
    for number in 0..4 {
        pair.owner.handle_dump_entry(entry(number, 1));
    }
    pair.owner.handle_dump_end(true, pair.now);
    pair.owner.handle_role(Role::Primary, pair.now);
    pair.run(3000);
    assert!(pair.owner.owner());
    assert_eq!(
        (pair.owner.entries().count(), pair.backup.entries().count()),
        (4, 4),
        "the fifth stays ended"
    );
}

/// A daemon that was dead while its peer was told MASTER remembers that it was primary, too: it claims
/// nothing from the living primary, and neither takes the group from the other by a wish of long ago.
#[test]
fn a_remembered_role_claims_nothing_from_a_living_primary() {
    let mut pair = Pair::start(5);
    // Demoted and promoted again while it owns: it has nothing to wish for.
    pair.owner.handle_role(Role::Backup, pair.now);
    pair.owner.handle_role(Role::Primary, pair.now);
    pair.run(500);
    let claims = |pair: &Pair| (pair.owner.counters().claims, pair.owner.counters().yields);
    let before = claims(&pair);
    let kept = Kept { settled: true, role: Some(Role::Primary), ..Kept::default() };
    pair.backup = common::remembering(2, 9, kept, pair.now);
    pair.run(5000);
    assert!(pair.owner.owner() && !pair.backup.owner());
    assert_eq!(claims(&pair), before, "nothing was taken and taken back");
    // Told so, it claims, and keeps it, although the other one has not heard yet that it is backup.
    pair.backup.handle_role(Role::Primary, pair.now);
    pair.backup.handle_role(Role::Backup, pair.now);
    pair.backup.handle_role(Role::Primary, pair.now);
    pair.run(2000);
    assert!(pair.backup.owner() && !pair.owner.owner());
    assert_eq!(claims(&pair), (before.0, before.1 + 1));
}

/// Nobody lives who is primary: what is remembered is enough.
#[test]
fn a_remembered_role_claims_when_its_peer_is_lost() {
    let mut pair = Pair::start(5);
    let kept = Kept { settled: true, role: Some(Role::Primary), ..Kept::default() };
    pair.backup = common::remembering(2, 9, kept, pair.now);
    for _ in 0..200 {
        pair.now += Duration::from_millis(10);
        let now = pair.now;
        pair.backup.handle_events_empty();
        pair.backup.handle_timeout(now);
        pair.answer_all();
    }
    assert!(pair.backup.owner());
}
