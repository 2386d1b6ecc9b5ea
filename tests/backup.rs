//! Named cases of a backup that installs: each a trace that the simulation found once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::{Duration, Instant};

use ctsync_ctnetlink::codec::Event;
use ctsync_ctnetlink::entry::{Entry, Expectation, Rare};
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::{Replica, Role};
use nix::errno::Errno;

#[path = "common/mod.rs"]
mod common;

use common::pair::Pair;
use common::{entry, replica};

/// Between a request and its answer nothing is said to be installed: the answer may be no.
#[test]
fn what_the_kernel_has_not_answered_is_not_ready() {
    let mut pair = Pair::start(3);
    pair.owner.handle_event(Event::New(entry(100, 1)), pair.now);
    pair.exchange();
    let asked = pair.backup.poll_requests(64, |_| {});
    assert_eq!(
        (asked, pair.backup.readiness(pair.now).word()),
        (1, "not ready: entries wait for the kernel")
    );
    pair.backup.handle_answers_end(&[false], pair.now);
    assert!(pair.backup.readiness(pair.now).is_ready());
}

/// Another translation under the same key: destroyed and created in one batch, so that a daemon that dies in
/// between has not removed the only copy.
#[test]
fn a_replacement_is_one_batch() {
    let mut pair = Pair::start(3);
    let mut other = entry(1, 1);
    other.reply.dst = [192, 0, 2, 1].into();
    pair.owner.handle_event(Event::New(other), pair.now);
    pair.exchange();
    assert_eq!(pair.batches(), [[Op::Destroy, Op::Create]]);
    assert_eq!(pair.backup.entries().filter(|(_, installed)| *installed).count(), 3);
}

/// A replacement whose first half the kernel refuses and whose second it takes: nothing is refused in the
/// end, and none is counted.
#[test]
fn what_was_refused_and_then_done_is_not_counted_as_refused() {
    let labelled =
        |entry: Entry| Entry { rare: Rare { labels: Some([7; 16]), ..Rare::default() }.boxed(), ..entry };
    let mut pair = Pair::start(3);
    pair.owner.handle_event(Event::New(labelled(entry(1, 1))), pair.now);
    pair.exchange();
    pair.answer_all();
    let mut other = labelled(entry(1, 1));
    other.reply.dst = [192, 0, 2, 1].into();
    pair.owner.handle_event(Event::New(other), pair.now);
    pair.exchange();
    let asked: Vec<Op> =
        pair.batch(&[(Op::Destroy, Errno::EPERM as i32)]).into_iter().map(|(op, _)| op).collect();
    assert_eq!(asked, [Op::Destroy, Op::Create]);
    pair.answer_all();
    let listed = pair.backup.entries().filter(|(_, installed)| !*installed).count();
    assert_eq!((pair.backup.view(pair.now).failed, listed), (0, 0));
}

/// A replaced master takes with it what its helper foresaw (`nf_ct_remove_expectations`): that is created
/// again in the same batch.
#[test]
fn what_a_replaced_master_foresaw_comes_back_with_it() {
    let mut pair = Pair::start(3);
    let helped = |helper: &str, own: Option<Expectation>| {
        Rare { helper: Some(helper.into()), expectation: own, ..Rare::default() }.boxed()
    };
    let master = Entry { rare: helped("ftp", None), ..entry(100, 1) };
    let mask = entry(200, 1).orig;
    let own = Expectation { mask, flags: 0, class: 0, function: None, nat: None };
    let child =
        Entry { master: Some(Box::new(master.orig)), rare: helped("ftp", Some(own)), ..entry(200, 1) };
    let filter =
        ctsync_engine::filter::Filter { expect: vec!["ftp".to_owned()], ..pair.owner.filter().clone() };
    pair.owner.set_filter(filter);
    for new in [&master, &child] {
        pair.owner.handle_event(Event::New(new.clone()), pair.now);
    }
    pair.run(100);
    let mut other = master.clone();
    other.reply.dst = [192, 0, 2, 1].into();
    pair.owner.handle_event(Event::New(other), pair.now);
    pair.exchange();
    let asked: Vec<_> = pair.batch(&[]).into_iter().map(|(op, entry)| (op, entry.key())).collect();
    assert_eq!(asked, [(Op::Destroy, master.key()), (Op::Create, master.key()), (Op::Create, child.key())]);
}

/// The same after the kernel refused an update with EBUSY: a fresh state over an assured copy.
#[test]
fn a_refused_update_is_replaced_in_one_batch() {
    let mut pair = Pair::start(3);
    pair.owner.handle_event(Event::New(entry(1, 2)), pair.now);
    pair.exchange();
    assert_eq!(pair.batch(&[(Op::Update, nix::libc::EBUSY)]).len(), 1);
    assert_eq!(pair.batches(), [[Op::Destroy, Op::Create]]);
}

/// The same refusal of the very connection that was installed: its packets come here already, the virtual
/// address has moved and the role is not told yet. Replaced, it would be gone for a moment, and the next
/// packet would begin another.
#[test]
fn what_packets_have_moved_on_is_not_replaced() {
    let mut pair = Pair::start(3);
    let mut assured = entry(1, 1);
    assured.status |= ctsync_ctnetlink::entry::Status::Assured;
    pair.backup.handle_event(Event::Update(assured.clone()), pair.now);
    pair.exchange();
    let asked = pair.backup.poll_requests(64, |request| assert_eq!(request.op, Op::Get));
    assert_eq!(asked, 1);
    pair.backup.handle_read_back(0, assured);
    pair.backup.handle_answers_end(&[true], pair.now);
    let refused = pair.batch(&[(Op::Update, nix::libc::EBUSY)]);
    assert!(refused.iter().all(|(op, _)| *op == Op::Update), "{refused:?}");
    assert!(pair.batches().is_empty());
    assert_eq!(pair.backup.entries().filter(|(_, installed)| *installed).count(), 3);
}

/// A dump lists an entry otherwise than the table has it, although a request was sent for it since the dump
/// began: an overrun had swallowed its event, and the request changed only a part of it.
#[test]
fn what_a_dump_lists_otherwise_is_read_back() {
    let mut pair = Pair::start(3);
    pair.backup.handle_overrun();
    pair.backup.handle_events_empty();
    assert!(pair.backup.poll_dump());
    // A request in the course of the dump.
    pair.owner.handle_event(Event::Update(entry(1, 2)), pair.now);
    pair.exchange();
    assert_eq!(pair.batches(), [[Op::Update]]);
    for number in 0..3 {
        let mut listed = entry(number, if number == 1 { 2 } else { 1 });
        if number == 1 {
            listed.reply.dst = [192, 0, 2, 1].into();
        }
        pair.backup.handle_dump_entry(listed);
    }
    pair.backup.handle_dump_end(true, pair.now);
    let asked = pair.batch(&[]);
    assert_eq!(
        asked.iter().map(|(op, entry)| (*op, entry.key())).collect::<Vec<_>>(),
        [(Op::Get, entry(1, 0).key())]
    );
}

/// A backup that hears nothing is not ready, whatever it thinks of being alone, and the owner does not say
/// "protected".
#[test]
fn an_owner_with_a_deaf_backup_is_not_protected() {
    let mut pair = Pair::start(5);
    assert!(common::protected(&pair.owner, pair.now));
    pair.owner.handle_event(Event::New(entry(100, 1)), pair.now);
    for _ in 0..300 {
        pair.now += Duration::from_millis(10);
        for replica in [&mut pair.owner, &mut pair.backup] {
            replica.handle_events_empty();
            replica.handle_timeout(pair.now);
        }
        while pair.owner.poll_datagram(pair.now).is_some() {}
        while let Some(datagram) = pair.backup.poll_datagram(pair.now) {
            pair.owner.handle_datagram(&datagram, pair.now);
        }
    }
    let view = pair.owner.view(pair.now);
    assert!(
        view.peers[0].alive && !view.peers[0].ready && !common::protected(&pair.owner, pair.now),
        "{view:?}"
    );
    assert_eq!(view.equal_for, None, "{view:?}");
    assert!(!pair.backup.view(pair.now).ready && pair.backup.gate_open(), "alone, it may still be elected");
}

#[test]
fn an_offer_that_the_owner_refuses_stays_in_the_kernel_it_was_born_in() {
    let now = common::start();
    let (owner, mut backup) = (replica(1, Role::Primary, false, now), replica(2, Role::Backup, true, now));
    // Heard of before any owner was.
    backup.handle_event(Event::New(entry(7, 1)), now);
    let mut pair = Pair { owner, backup, now };
    let mut refused = 0;
    for _ in 0..200 {
        pair.now += Duration::from_millis(10);
        for replica in [&mut pair.owner, &mut pair.backup] {
            replica.handle_events_empty();
            replica.handle_timeout(pair.now);
        }
        while let Some(datagram) = pair.backup.poll_datagram(pair.now) {
            pair.owner.handle_datagram(&datagram, pair.now);
        }
        // As in a daemon's turn, the kernel is asked before the peer is told: another connection has the
        // reply tuple.
        while pair.owner.waiting() > 0 {
            let mut asked = Vec::new();
            pair.owner.poll_requests(64, |request| asked.push(request.op));
            for (at, op) in asked.iter().enumerate() {
                let errno = if *op == Op::Create { Errno::EEXIST } else { Errno::ENOENT };
                pair.owner.handle_answer(at, errno as i32);
            }
            pair.owner.handle_answers_end(&vec![true; asked.len()], pair.now);
            refused += asked.len();
        }
        while let Some(datagram) = pair.owner.poll_datagram(pair.now) {
            pair.backup.handle_datagram(&datagram, pair.now);
        }
        for (op, _) in pair.batch(&[]) {
            assert_ne!(op, Op::Destroy);
        }
    }
    assert!(refused > 0, "it was offered");
    assert_eq!(pair.backup.entries().count(), 0);
}

#[test]
fn a_narrow_channel_is_not_flooded() {
    /// All that a node says now.
    fn said(replica: &mut Replica, now: Instant) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| replica.poll_datagram(now)).collect()
    }

    let mut pair = Pair::start(0);
    for number in 0..20_000 {
        pair.owner.handle_event(Event::New(entry(number, 1)), pair.now);
    }
    let under_way = said(&mut pair.owner, pair.now);
    assert!((256..260).contains(&under_way.len()), "{} datagrams", under_way.len());
    let waiting = pair.owner.view(pair.now).unsent;
    assert!(waiting > 5_000, "{waiting} wait");
    // What waits is told once, however often it changes.
    for mark in 2..5 {
        pair.owner.handle_event(Event::Update(entry(19_999, mark)), pair.now);
    }
    assert_eq!(pair.owner.view(pair.now).unsent, waiting);
    assert!(common::protected(&pair.owner, pair.now), "for a moment");
    pair.now += Duration::from_secs(1);
    pair.backup.handle_timeout(pair.now);
    for datagram in said(&mut pair.backup, pair.now) {
        pair.owner.handle_datagram(&datagram, pair.now);
    }
    assert!(!common::protected(&pair.owner, pair.now), "what waits would be lost");
    for datagram in under_way {
        pair.backup.handle_datagram(&datagram, pair.now);
    }
    for datagram in said(&mut pair.backup, pair.now) {
        pair.owner.handle_datagram(&datagram, pair.now);
    }
    let more = said(&mut pair.owner, pair.now);
    assert!(!more.is_empty(), "it goes on when the backup has");
    for datagram in more {
        pair.backup.handle_datagram(&datagram, pair.now);
    }
    pair.run(200);
    assert_eq!(pair.owner.view(pair.now).unsent, 0);
    assert_eq!(pair.owner.view(pair.now).root, pair.backup.view(pair.now).root);

    // Whoever says that it lives, and never gets on, is not waited for.
    for number in 0..20_000 {
        pair.owner.handle_event(Event::Update(entry(number, 7)), pair.now);
    }
    for _ in 0..150 {
        pair.now += Duration::from_millis(10);
        pair.backup.handle_timeout(pair.now);
        for datagram in said(&mut pair.backup, pair.now) {
            pair.owner.handle_datagram(&datagram, pair.now);
        }
        pair.owner.handle_timeout(pair.now);
        said(&mut pair.owner, pair.now);
    }
    assert_eq!(pair.owner.view(pair.now).unsent, 0);
}

/// A reload that leaves entries out: they go here and at the peer, and neither a dump nor an event brings
/// them back.
#[test]
fn what_a_new_filter_leaves_out_is_gone() {
    let mut pair = Pair::start(50);
    let filter = ctsync_engine::filter::Filter { accept: vec![6], ..pair.owner.filter().clone() };
    pair.owner.set_filter(filter);
    pair.owner.handle_event(Event::Update(entry(3, 2)), pair.now);
    pair.owner.handle_events_empty();
    assert!(pair.owner.poll_dump());
    for number in 0..50 {
        pair.owner.handle_dump_entry(entry(number, 1));
    }
    pair.owner.handle_dump_end(true, pair.now);
    assert_eq!(pair.owner.entries().count(), 0);
    pair.run(1000);
    assert_eq!((pair.owner.entries().count(), pair.backup.entries().count()), (0, 0));
}

/// Destroyed and created again before it was sent, ever so often: a destroy is still a destroy, not left to
/// the digest.
#[test]
fn reused_tuples_do_not_use_up_the_queue_of_destroys() {
    let mut pair = Pair::start(1);
    for _ in 0..70_000 {
        pair.owner.handle_event(Event::Destroy(entry(0, 1)), pair.now);
        pair.owner.handle_event(Event::New(entry(0, 1)), pair.now);
    }
    pair.run(1000);
    pair.owner.handle_event(Event::Destroy(entry(0, 1)), pair.now);
    pair.run(100);
    assert_eq!(pair.owner.counters().dropped_destroys, 0);
    assert_eq!(pair.backup.entries().count(), 0);
}

/// Window tracking comes back after a takeover for connections seen to speak both ways, not for silent ones.
#[test]
fn window_tracking_comes_back_for_those_that_speak() {
    use ctsync_ctnetlink::entry::TcpInfo;
    let liberal = |more: u8| {
        let flags = TcpInfo::BE_LIBERAL | more;
        Some(TcpInfo { state: 3, wscale_orig: 7, wscale_reply: 7, flags_orig: flags, flags_reply: flags })
    };
    for (on, expected) in [(true, vec![1]), (false, vec![])] {
        let mut pair = Pair::start(3);
        pair.backup.tune(ctsync_engine::replica::Tunables {
            alive: Duration::from_millis(250),
            lost_after: Duration::from_secs(1),
            gate_limit: Duration::from_secs(30),
            owner_lost: Duration::from_secs(3600),
            hot: true,
            track_windows: on,
        });
        pair.backup.handle_role(Role::Primary, pair.now);
        let mut tracked = Vec::new();
        for _ in 0..600 {
            pair.now += Duration::from_millis(10);
            let now = pair.now;
            pair.backup.handle_events_empty();
            pair.backup.handle_timeout(now);
            if pair.backup.poll_dump() {
                // 0 is no TCP, 1 speaks, 2 is silent.
                for (number, tcp) in [(0, None), (1, liberal(TcpInfo::MAXACK_SET)), (2, liberal(0))] {
                    pair.backup.handle_dump_entry(Entry { tcp, ..entry(number, 1) });
                }
                pair.backup.handle_dump_end(true, now);
            }
            for (op, entry) in pair.batch(&[]) {
                if let (Op::Track, ctsync_ctnetlink::entry::L4::Ports { src, .. }) = (op, entry.orig.l4) {
                    tracked.push(src);
                }
            }
        }
        assert!(pair.backup.owner());
        assert_eq!(tracked, expected, "window-tracking {on}");
    }
}

/// A kernel table that is nearly full: destroys first, then assured entries; the others wait, counted, and
/// come in when there is room, or when this node takes over.
#[test]
fn a_nearly_full_table_takes_assured_entries_first() {
    use ctsync_ctnetlink::entry::Status;
    let held = |pair: &Pair| pair.backup.entries().filter(|(_, installed)| *installed).count();
    for take_over in [false, true] {
        let mut pair = Pair::start(3);
        pair.backup.handle_fill(900, 1000);
        for number in 10..14u16 {
            let assured = if number == 13 { Status::Assured | Status::SeenReply } else { Status::empty() };
            let entry = entry(number, 1);
            let entry = Entry { status: entry.status | assured, ..entry };
            pair.owner.handle_event(Event::New(entry), pair.now);
        }
        pair.owner.handle_event(Event::Destroy(entry(0, 1)), pair.now);
        pair.exchange();
        pair.backup.handle_fill(900, 1000);
        assert_eq!(pair.batches(), [[Op::Destroy, Op::Create]], "the assured one alone");
        let view = pair.backup.view(pair.now);
        assert_eq!((view.failed, held(&pair)), (3, 3));
        assert!(
            view.failures.contains(&("table-full", 3)) && !common::protected(&pair.backup, pair.now),
            "{:?}",
            view.failures
        );
        pair.run(1000);
        assert_eq!(held(&pair), 3, "no loop");
        if take_over {
            pair.backup.handle_role(Role::Primary, pair.now);
        } else {
            pair.backup.handle_fill(899, 1000);
        }
        pair.run(500);
        assert_eq!((pair.backup.view(pair.now).failed, held(&pair)), (0, 6));
    }
}

/// What a helper watched is forgotten on a backup when it has ended: no list grows with what ever was.
#[test]
fn ended_entries_with_a_helper_leave_nothing() {
    use ctsync_ctnetlink::entry::Rare;
    let helped = |number: u16| Entry {
        rare: Rare { helper: Some("ftp".into()), ..Rare::default() }.boxed(),
        ..entry(number, 1)
    };
    let mut pair = Pair::start(0);
    for round in 0..20u16 {
        for number in 0..500 {
            pair.owner.handle_event(Event::New(helped(round * 500 + number)), pair.now);
        }
        pair.run(300);
        for number in 0..500 {
            pair.owner.handle_event(Event::Destroy(helped(round * 500 + number)), pair.now);
        }
        pair.run(300);
    }
    let slots = pair.backup.slots();
    assert!(slots < 2500, "{slots} slots remember {} entries", pair.backup.entries().count());
}

/// A connection whose master has ended everywhere lives without it; until then it waits, and is shown as
/// waiting.
#[test]
fn a_child_outlives_its_master() {
    let mut pair = Pair::start(0);
    let child = Entry { master: Some(Box::new(entry(999, 1).orig)), ..entry(1, 1) };
    pair.owner.handle_event(Event::New(child), pair.now);
    pair.exchange();
    let absent = Errno::ENOENT as i32;
    assert_eq!(pair.batch(&[(Op::Create, absent)]).len(), 1);
    let view = pair.backup.view(pair.now);
    assert_eq!((view.orphans, view.failed, common::protected(&pair.backup, pair.now)), (1, 1, false));
    pair.run(2000);
    assert_eq!(pair.backup.view(pair.now).orphans, 1, "its master may still come");
    pair.run(2000);
    let view = pair.backup.view(pair.now);
    assert_eq!((view.orphans, view.failed), (0, 0));
    assert!(view.failures.contains(&("no-master", 1)), "{:?}", view.failures);
    assert_eq!(pair.backup.entries().filter(|(_, installed)| *installed).count(), 1);
}

/// Somebody on the LAN looks at the standby through the active router's translation: on the standby that is a
/// connection of its own, whose reply tuple the replicated one has, too. It is no failure.
#[test]
fn a_look_at_the_standby_is_no_failure() {
    let mut pair = Pair::start(3);
    let own: std::net::IpAddr = [10, 0, 0, 11].into();
    pair.backup.handle_addresses([own].into());
    let mut look = entry(100, 1);
    look.orig.dst = own;
    look.reply = look.orig.inverse();
    look.reply.dst = [10, 0, 0, 1].into();
    pair.owner.handle_event(Event::New(look), pair.now);
    pair.exchange();
    // What the kernel would say of it.
    assert!(pair.batch(&[(Op::Create, Errno::EEXIST as i32)]).is_empty(), "it is not asked for");
    pair.run(2000);
    let view = pair.backup.view(pair.now);
    assert_eq!((view.external, view.failed), (4, 0));
    assert!(common::protected(&pair.owner, pair.now) && common::protected(&pair.backup, pair.now));
}

/// A cold backup has installed nothing, and so has nothing to remove.
#[test]
fn a_cold_backup_asks_its_kernel_for_nothing_when_entries_end() {
    let mut pair = Pair::with(10, false);
    for number in 0..5 {
        pair.owner.handle_event(Event::Destroy(entry(number, 1)), pair.now);
    }
    for _ in 0..50 {
        pair.exchange();
        assert_eq!(pair.batches(), Vec::<Vec<Op>>::new());
    }
    assert_eq!(pair.backup.view(pair.now).external, 5);
}
