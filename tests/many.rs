//! More than two nodes: each of the rules N1 to N9 of `docs/protocol.md`, by the shortest story that needs
//! it. All of them together, at random, are the simulation's affair.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::Duration;

use ctsync_engine::facts::KernelSettings;
use ctsync_engine::replica::{Kept, Role};
use ctsync_engine::verdict::{Around, Judge, Verdict};
use ctsync_engine::wire::Body;

#[path = "common/mod.rs"]
mod common;

use common::many::Many;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// N1: who is even or behind owes nothing, and walks no table.
#[test]
fn a_follower_that_is_not_ahead_owes_nothing() {
    let mut many = Many::start(3, 100);
    many.fail_over(A, B);
    many.until("router3 follows", |many| many.follows(C, B));
    let counters = many.replica(C).counters();
    assert_eq!((counters.covered, counters.offered), (1, 0));
    assert!(many.replica(B).owner());
    assert_eq!(many.nodes[B].reports[0].taken, 0);
}

/// N1: who is ahead offers what the new owner lacks, before the fence is closed.
#[test]
fn a_backup_that_is_behind_catches_up_from_who_is_ahead() {
    let mut many = Many::start(3, 10);
    many.cut(A, B);
    for number in 100..600 {
        many.open(A, number);
    }
    many.run(500);
    assert!(many.has(C, 599) && !many.has(B, 599));
    many.power_off(A);
    many.run(1500);
    assert!(!many.replica(B).gate_open() && many.replica(C).gate_open(), "the fitter one is to be elected");
    many.role(B, Role::Primary);
    many.until("the fence of router2", |many| !many.nodes[B].reports.is_empty());
    let report = many.nodes[B].reports[0].clone();
    assert_eq!((report.taken, report.held, report.failed), (500, 510, 0), "{report:?}");
    assert!((100..600).all(|number| many.has(B, number)), "in its kernel");
    assert!(report.took < Duration::from_millis(100), "nobody is waited for longer: {report:?}");
    many.until("router3 follows", |many| many.follows(C, B));
}

/// N1: ... and if that one dies, too, it is not waited for.
#[test]
fn who_is_ahead_and_silent_is_not_waited_for_long() {
    let mut many = Many::start(3, 10);
    many.cut(A, B);
    many.open(A, 100);
    many.run(200);
    many.power_off(A);
    many.run(1000);
    many.cut(B, C);
    many.role(B, Role::Primary);
    many.until("the fence of router2", |many| !many.nodes[B].reports.is_empty());
    let report = many.nodes[B].reports[0].clone();
    assert!(report.taken == 0 && report.took >= Duration::from_millis(100), "{report:?}");
    assert!(report.took <= Duration::from_millis(150), "{report:?}");
    // It is back, and what it has comes.
    many.mend(B, C);
    many.until("router3 follows", |many| many.follows(C, B));
    assert!(many.has(B, 100));
}

/// N2: an owner knows what has ended, better than who offers it.
#[test]
fn what_has_ended_is_not_brought_back_by_who_was_late() {
    let mut many = Many::start(3, 10);
    many.open(A, 100);
    many.run(100);
    many.cut(A, C);
    many.open(A, 101);
    many.run(100);
    assert!(many.has(B, 100) && many.has(B, 101) && many.has(C, 100) && !many.has(C, 101));
    many.power_off(A);
    many.cut(B, C);
    many.run(1500);
    many.role(C, Role::Primary);
    many.run(500);
    many.end(C, 100);
    many.run(500);
    many.mend(B, C);
    many.until("router2 follows", |many| many.follows(B, C));
    assert!(many.has(C, 101), "what it lacked it has taken");
    assert!(!many.has(C, 100), "what had ended has not come back");
    assert!(!many.has(B, 100), "... and has ended where it was offered from");
    assert_eq!(many.replica(C).counters().ended_offers, 1);
}

/// N2: so does a follower that was told of the end, once it owns the group.
#[test]
fn a_follower_remembers_what_its_owner_has_ended() {
    let mut many = Many::start(4, 10);
    let d = 3;
    many.open(A, 100);
    many.run(100);
    many.cut(A, B);
    many.open(A, 101);
    many.run(100);
    assert!(many.has(d, 101) && many.has(C, 101) && !many.has(B, 101));
    // router4 is heard by router2 and hears nothing, while router2 owns the group and router3 follows.
    many.cut_off(B, d);
    many.cut(C, d);
    many.fail_over(A, B);
    many.until("router3 follows", |many| many.follows(C, B));
    many.end(B, 100);
    many.end(B, 5);
    many.run(500);
    assert!(!many.has(C, 100));
    many.fail_over(B, C);
    many.run(500);
    many.mend(C, d);
    many.until("router4 follows", |many| many.follows(d, C));
    assert!(!many.has(C, 100) && !many.has(C, 5) && !many.has(d, 100) && !many.has(d, 5));
    assert!(many.has(C, 101) && many.has(d, 101));
}

/// N3: a claim is believed from its maker only.
#[test]
fn nobody_yields_to_hearsay() {
    let mut many = Many::start(3, 10);
    many.cut(A, B);
    many.run(1500);
    many.role(B, Role::Primary);
    many.run(1500);
    assert!(many.replica(A).owner() && many.replica(B).owner(), "neither hears the other");
    let claims = many.replica(A).counters().claims + many.replica(B).counters().claims;
    many.run(5000);
    assert_eq!(many.replica(A).counters().claims + many.replica(B).counters().claims, claims);
    assert!(many.replica(A).owner() && many.in_step(C), "router3 hears both, and follows the higher claim");
    many.mend(A, B);
    many.until("one of them yields", |many| many.in_step(A));
    assert!(many.replica(B).owner());
}

/// N4: a claim binds while its maker is heard to own the group.
#[test]
fn a_dead_claimant_is_followed_no_more() {
    let mut many = Many::start(3, 10);
    many.cut(A, B);
    many.run(1500);
    many.role(B, Role::Primary);
    many.until("router3 follows router2", |many| many.follows(C, B));
    let epoch = many.epoch(B);
    many.power_off(B);
    many.open(A, 100);
    many.run(3000);
    assert!(many.in_step(C) && many.has(C, 100), "router3 follows router1, whose claim is lower");
    assert_eq!(many.replica(C).counters().fallbacks, 1);
    many.fail_over(A, C);
    many.run(100);
    assert!(many.epoch(C) > epoch, "above all that was ever heard of");
}

/// N5: a start ends without an owner when all that there are have been heard.
#[test]
fn a_start_waits_for_whoever_may_own_the_group() {
    let mut many = Many::start(3, 10);
    let kept = many.crash(C);
    assert_eq!(kept.peers, 2);
    many.cut(A, C);
    many.cut(A, B);
    many.run(1500);
    many.begin(C, kept);
    many.role(C, Role::Primary);
    many.run(500);
    assert!(!many.replica(C).owner(), "router2 owns nothing, and router1 may live");
}

/// N5: those that peers hear are waited for, too, without any memory.
#[test]
fn a_start_waits_for_those_that_its_peers_hear() {
    let mut many = Many::start(3, 10);
    many.power_off(C);
    many.cut(A, C);
    many.run(1500);
    many.begin(C, Kept::default());
    many.role(C, Role::Primary);
    many.run(500);
    assert!(!many.replica(C).owner(), "router2 hears router1, which owns the group");
    many.run(1500);
    assert!(many.replica(C).owner(), "... and for ever it is not waited");
}

/// N6: an owner that is no primary is no reason to wait, nor is a primary that owns nothing.
#[test]
fn owner_and_primary_are_asked_of_the_same_node() {
    let mut many = Many::start(3, 10);
    // router3 never ends its start: what it lacks it asks for, and that does not arrive.
    let kept = many.crash(C);
    many.open(A, 100);
    many.run(500);
    let primary = Kept { role: Some(Role::Primary), ..many.crash(B) };
    many.role(A, Role::Backup);
    many.questions_lost = true;
    many.begin(C, kept);
    many.role(C, Role::Primary);
    many.run(1500);
    assert!(many.replica(A).owner() && !many.replica(C).owner());
    // Remembered only: it claims nothing from a living primary.
    many.begin(B, primary);
    many.until("router2 claims", |many| many.replica(B).owner());
}

/// N7: the last changes are asked of the owner with the highest claim.
#[test]
fn the_owner_with_the_highest_claim_is_asked_to_flush() {
    let mut many = Many::start(3, 10);
    many.cut(A, B);
    many.run(1500);
    many.role(B, Role::Primary);
    many.until("router3 follows router2", |many| many.follows(C, B));
    let asked = many.replica(B).incarnation();
    many.sent.clear();
    many.role(C, Role::Primary);
    many.run(200);
    let flushed = many.take_sent(C, |body| match body {
        Body::Flush { to, .. } => Some(*to),
        _ => None,
    });
    assert!(!flushed.is_empty() && flushed.iter().all(|run| *run == asked));
}

/// N8: what is owed stays owed, whoever owns the group meanwhile.
#[test]
fn a_debt_outlives_the_owner_that_it_was_owed_to() {
    let mut many = Many::start(3, 10);
    many.cut(A, B);
    many.cut(A, C);
    many.open(A, 100);
    many.run(1500);
    many.role(B, Role::Primary);
    many.until("router3 follows router2", |many| many.follows(C, B));
    // router1 hears router2's claim and yields; nothing that it says arrives.
    many.mend(A, B);
    many.mend(A, C);
    many.cut_off(A, B);
    many.cut_off(A, C);
    many.role(A, Role::Backup);
    many.until("router1 yields", |many| !many.replica(A).owner());
    many.fail_over(B, C);
    many.run(300);
    many.mend(A, B);
    many.mend(A, C);
    many.until("router1 follows router3", |many| many.follows(A, C));
    assert!(many.has(C, 100));
}

/// N9: a kernel that survived its daemon is the truth of its own claim, not of what came after that.
#[test]
fn a_truth_is_none_for_who_has_followed_a_later_claim() {
    let mut many = Many::start(3, 10);
    let kept = many.crash(A);
    assert!(kept.truth);
    many.run(1500);
    many.role(B, Role::Primary);
    many.open(B, 100);
    many.until("router3 follows router2", |many| many.follows(C, B));
    assert!(many.has(C, 100));
    many.power_off(B);
    many.run(1500);
    many.cut(A, C);
    many.begin(A, kept);
    many.role(A, Role::Primary);
    many.until("router1 claims", |many| many.replica(A).owner());
    many.role(A, Role::Backup);
    many.role(A, Role::Primary);
    many.mend(A, C);
    many.until("router3 follows router1", |many| {
        many.in_step(C) || many.in_step(A) && many.replica(C).owner()
    });
    many.run(1000);
    assert!(many.has(A, 100) && many.has(C, 100));
}

/// 18: two nodes that lost power are in step with each other, and have nothing; the third one's daemon was
/// down meanwhile, and its kernel has all.
#[test]
fn who_survived_is_not_purged_by_two_who_did_not() {
    let mut many = Many::start(3, 10);
    many.power_off(A);
    many.power_off(B);
    let kept = many.crash(C);
    many.run(1500);
    for x in [A, B] {
        many.begin(x, Kept::default());
    }
    many.role(A, Role::Primary);
    many.until("router2 follows router1", |many| many.follows(B, A));
    many.run(1000);
    many.begin(C, kept);
    many.until("router3 follows router1", |many| many.follows(C, A));
    many.run(1000);
    let held = |x| (0..10).filter(|number| many.has(x, *number)).count();
    assert_eq!([held(A), held(B), held(C)], [10; 3]);
}

/// As router1 judges.
fn verdict(many: &mut Many) -> Verdict {
    let now = many.now;
    Judge::default().judge(&many.replica(A).view(now), &Around::default(), now)
}

#[test]
fn one_fit_backup_of_two_is_protection_unless_the_other_could_be_elected() {
    let mut many = Many::start(3, 10);
    let fit = |verdict: &Verdict| (verdict.backups.fit, verdict.backups.known);
    let seen = verdict(&mut many);
    assert_eq!((seen.verdict.as_str(), fit(&seen)), ("protected: 2 of 2 backups hold 10 entries", (2, 2)));
    // It could be elected, and its kernel would not take them all.
    let small = KernelSettings { max: 5, ..KernelSettings::default() };
    many.replica(C).set_kernel(small);
    many.run(1500);
    let seen = verdict(&mut many);
    assert!(!seen.protected && fit(&seen) == (1, 2), "{seen:?}");
    assert!(seen.verdict.contains("nf_conntrack_max is 5 on router3"), "{seen:?}");
    many.replica(C).set_kernel(KernelSettings::default());
    // It cannot be elected.
    many.role(C, Role::Fault);
    many.run(1500);
    let seen = verdict(&mut many);
    assert_eq!(seen.verdict, "protected by 1 of 2 backups: router2 holds 10 entries");
    assert_eq!(seen.backups.unfit[0].word, "role-fault");
    // It is gone.
    many.power_off(C);
    many.run(1500);
    let seen = verdict(&mut many);
    assert!(seen.protected && seen.backups.unfit[0].word == "peer-lost", "{seen:?}");
    many.power_off(B);
    many.run(1500);
    let seen = verdict(&mut many);
    assert!(!seen.protected && seen.verdict.contains("router2 not for"), "{seen:?}");
    assert!(seen.verdict.contains("router3 not for"), "{seen:?}");
}
