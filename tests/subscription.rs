//! Named cases of who listens to a kernel's new entries, and of what nobody heard: each a trace that the
//! simulation found once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::Duration;

use ctsync_ctnetlink::codec::Event;
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::Role;

#[path = "common/mod.rs"]
mod common;

use common::pair::{Pair, take_over};
use common::{entry, replica};

#[test]
fn a_cold_backup_asks_its_kernel_for_nothing() {
    let mut pair = Pair::with(10, false);
    pair.owner.handle_event(Event::Update(entry(3, 2)), pair.now);
    pair.owner.handle_event(Event::Destroy(entry(4, 1)), pair.now);
    pair.exchange();
    assert_eq!(pair.batches(), Vec::<Vec<Op>>::new());
    assert_eq!(pair.backup.view(pair.now).root, pair.owner.view(pair.now).root);
}

#[test]
fn what_nobody_heard_of_before_a_claim_is_found_by_a_dump_after_it() {
    let mut pair = Pair::start(3);
    assert!(pair.owner.wants_new_entries() && !pair.backup.wants_new_entries());
    assert!(!pair.backup.handle_subscription(false));
    pair.now += Duration::from_millis(1500);
    let Pair { backup, now, .. } = &mut pair;
    take_over(backup, *now);
    assert!(!backup.resyncing(), "the fence does not wait for a dump");
    assert!(backup.wants_new_entries() && backup.handle_subscription(true));
    assert!(backup.poll_dump());
    for number in 0..4 {
        backup.handle_dump_entry(entry(number, 1));
    }
    backup.handle_dump_end(true, *now);
    assert_eq!(backup.entries().count(), 4);
    assert_eq!(backup.unsent(), 1, "told as an owner's");
    assert!(!backup.handle_subscription(true), "once");
}

#[test]
fn a_claim_does_not_wait_for_what_an_earlier_one_has_to_look_at() {
    let mut pair = Pair::start(3);
    assert!(!pair.backup.handle_subscription(false));
    pair.now += Duration::from_millis(1500);
    take_over(&mut pair.backup, pair.now);
    assert!(pair.backup.handle_subscription(true), "a dump is due");
    assert!(!common::protected(&pair.backup, pair.now));
    // One that fails is due again, and is not waited for either.
    assert!(pair.backup.poll_dump());
    pair.backup.handle_dump_end(false, pair.now);
    // It begins, the other node comes back and claims, and dies again.
    assert!(pair.backup.poll_dump());
    pair.backup.handle_role(Role::Backup, pair.now);
    let mut other = common::another_run(1, 1, Role::Primary, false, Vec::new(), pair.now);
    for _ in 0..200 {
        pair.now += Duration::from_millis(10);
        for replica in [&mut other, &mut pair.backup] {
            replica.handle_events_empty();
            replica.handle_timeout(pair.now);
        }
        while let Some(datagram) = other.poll_datagram(pair.now) {
            pair.backup.handle_datagram(&datagram, pair.now);
        }
        while let Some(datagram) = pair.backup.poll_datagram(pair.now) {
            other.handle_datagram(&datagram, pair.now);
        }
    }
    assert!(other.owner() && !pair.backup.owner() && pair.backup.dumping());
    pair.now += Duration::from_millis(1500);
    let Pair { backup, now, .. } = &mut pair;
    take_over(backup, *now);
    assert!(backup.dumping(), "it goes on");
    assert!(backup.handle_subscription(true), "and another one follows");
    backup.handle_dump_end(true, *now);
    backup.handle_events_empty();
    assert!(backup.poll_dump());
}

#[test]
fn a_dump_waits_until_the_events_before_it_are_read() {
    let mut replica = replica(1, Role::Backup, true, common::start());
    replica.handle_overrun();
    assert!(!replica.poll_dump());
    replica.handle_events_empty();
    assert!(replica.poll_dump());
    replica.handle_dump_end(true, common::start());
    assert!(!replica.handle_subscription(false) && replica.handle_subscription(true));
    replica.handle_events_waiting();
    assert!(!replica.poll_dump());
}

#[test]
fn a_former_owner_offers_what_it_did_not_hear_of() {
    let mut pair = Pair::start(0);
    assert!(!pair.backup.handle_subscription(false));
    // It takes over, and another claim comes before it hears of new entries again.
    pair.owner.handle_role(Role::Backup, pair.now);
    pair.backup.handle_role(Role::Primary, pair.now);
    while !pair.backup.owner() {
        pair.exchange();
    }
    pair.backup.handle_role(Role::Backup, pair.now);
    pair.owner.handle_role(Role::Primary, pair.now);
    while !pair.owner.owner() || pair.backup.owner() {
        pair.exchange();
    }
    assert!(pair.backup.poll_dump(), "a dump is due");
    pair.backup.handle_dump_entry(entry(7, 1));
    pair.backup.handle_dump_end(true, pair.now);
    pair.run(2000);
    assert!(pair.owner.entries().any(|(held, _)| held.key() == entry(7, 1).key()));
}
