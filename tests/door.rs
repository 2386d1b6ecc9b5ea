//! The closed door: what somebody on the channel's link can do with a key between the routers, and without
//! one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::{Duration, Instant};

use ctsync_ctnetlink::codec::Event;
use ctsync_engine::digest::{Digester, bucket_of};
use ctsync_engine::replica::{Refused, Replica, Role};
use ctsync_engine::seal::Key;
use ctsync_engine::wire::{self, Body, Listed, Node, StreamHead, Want};

#[path = "common/mod.rs"]
mod common;

use common::{another_run, entry, keyed};

struct Pair {
    owner: Replica,
    backup: Replica,
    now: Instant,
    /// Everything the owner has sent, as somebody on the link sees it.
    seen: Vec<Vec<u8>>,
    /// What somebody sends the backup, again and again, a part of it before each datagram of the owner's.
    flood: Vec<Vec<u8>>,
}

fn keys(bytes: &[u8]) -> Vec<Key> {
    bytes.iter().map(|byte| Key([*byte; 32])).collect()
}

impl Pair {
    fn start(owner: &[u8], backup: &[u8]) -> Pair {
        #[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
        let now = Instant::now();
        let owner = keyed(1, Role::Primary, false, keys(owner), now);
        let backup = keyed(2, Role::Backup, false, keys(backup), now);
        let mut pair = Pair { owner, backup, now, seen: Vec::new(), flood: Vec::new() };
        pair.run(2000);
        for number in 0..10 {
            pair.owner.handle_event(Event::New(entry(number, 1)), pair.now);
        }
        pair.run(1000);
        pair
    }

    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 10 {
            self.now += Duration::from_millis(10);
            for replica in [&mut self.owner, &mut self.backup] {
                replica.handle_events_empty();
                replica.handle_timeout(self.now);
            }
            while let Some(datagram) = self.owner.poll_datagram(self.now) {
                self.seen.push(datagram.clone());
                for old in &self.flood {
                    self.backup.handle_datagram(old, self.now);
                }
                self.backup.handle_datagram(&datagram, self.now);
            }
            while let Some(datagram) = self.backup.poll_datagram(self.now) {
                self.owner.handle_datagram(&datagram, self.now);
            }
        }
    }

    /// Where a backup keeps its entries.
    fn buckets(replica: &Replica) -> Vec<u16> {
        // By the owner's seed, and its secret is its number.
        let digester = Digester::new(Digester::seed(1));
        let bucket = |(entry, _): (std::borrow::Cow<'_, ctsync_ctnetlink::entry::Entry>, bool)| {
            bucket_of(digester.hash_key(&mut Vec::new(), &entry.key()))
        };
        replica.entries().map(bucket).collect()
    }

    /// Any datagram of the backup.
    fn backup_says(&mut self) -> Vec<u8> {
        self.now += Duration::from_millis(250);
        self.backup.handle_timeout(self.now);
        self.backup.poll_datagram(self.now).unwrap()
    }

    fn held(&self) -> usize {
        self.backup.entries().count()
    }

    /// The next datagram of the owner's stream, with an entry in it that the owner does not have.
    fn forged(&self) -> Vec<u8> {
        let mut messages = Vec::new();
        wire::emit_put(&mut messages, &entry(999, 1), 1, false);
        self.continued(0, &messages)
    }

    /// The datagram of the owner's stream that comes after so many more.
    fn continued(&self, after: u64, messages: &[u8]) -> Vec<u8> {
        let (header, _) = wire::peek(self.seen.last().unwrap()).unwrap();
        let sequence = self.seen.iter().filter_map(|datagram| match wire::parse(datagram) {
            Ok((_, Body::Stream(head, _))) => Some(head.sequence),
            _ => None,
        });
        let head = StreamHead { sequence: sequence.max().unwrap_or(0) + 1 + after, ..StreamHead::default() };
        let mut datagram = Vec::new();
        wire::emit_stream(&mut datagram, &header, &head, messages);
        datagram
    }
}

/// The positive control: what the key is for.
#[test]
fn without_a_key_a_forged_entry_lands() {
    let mut pair = Pair::start(&[], &[]);
    assert_eq!(pair.held(), 10);
    pair.backup.handle_datagram(&pair.forged(), pair.now);
    assert_eq!(pair.held(), 11);
}

#[test]
fn with_a_key_nothing_enters() {
    let mut pair = Pair::start(&[1], &[1]);
    assert_eq!(pair.held(), 10);
    // Nobody sees what is said.
    assert!(pair.seen.iter().all(|datagram| wire::parse(datagram).is_err()));
    let forged = pair.forged();
    pair.backup.handle_datagram(&forged, pair.now);
    assert_eq!((pair.held(), pair.backup.counters().refused(Refused::Unsealed)), (10, 1));
    // Marked as sealed, and sealed under another key.
    let mut marked = forged.clone();
    wire::mark_sealed(&mut marked);
    let (header, _) = wire::peek(&forged).unwrap();
    let mut seal = ctsync_engine::seal::Seal::new(&keys(&[2]), 0, header.incarnation);
    for datagram in [marked.clone(), seal.seal(marked)] {
        pair.backup.handle_datagram(&datagram, pair.now);
    }
    assert_eq!((pair.held(), pair.backup.counters().refused(Refused::Forged)), (10, 2));
    // Everything that was ever sent, once more, with one bit changed and as it was.
    let seen = pair.seen.clone();
    for datagram in &seen {
        let mut changed = datagram.clone();
        *changed.last_mut().unwrap() ^= 1;
        pair.backup.handle_datagram(&changed, pair.now);
        pair.backup.handle_datagram(datagram, pair.now);
    }
    let counters = pair.backup.counters().clone();
    assert_eq!(counters.refused(Refused::Forged), 2 + seen.len() as u64);
    // Not those that came before it had proved itself: they are old, and no more.
    assert!(
        counters.refused(Refused::Replayed) + 3 >= seen.len() as u64,
        "{} of {}",
        counters.refused(Refused::Replayed),
        seen.len()
    );
    assert_eq!(pair.held(), 10);
    // And the pair goes on.
    pair.owner.handle_event(Event::New(entry(50, 1)), pair.now);
    pair.run(500);
    assert_eq!(pair.held(), 11);
}

#[test]
fn different_keys_or_a_key_on_one_side_only_keep_them_apart() {
    for (one, two) in [(&[1][..], &[2][..]), (&[1], &[]), (&[], &[1])] {
        let pair = Pair::start(one, two);
        assert_eq!(pair.held(), 0, "{one:?} {two:?}");
        let counters = pair.backup.counters();
        let refused = [
            counters.refused(Refused::Forged),
            counters.refused(Refused::Unsealed),
            counters.refused(Refused::Unreadable),
        ];
        let expected = [two != [0; 0] && one != [0; 0], one.is_empty(), two.is_empty()];
        assert_eq!(refused.map(|count| count > 0), expected, "{one:?} {two:?}");
        assert!(!common::protected(&pair.owner, pair.now));
    }
}

/// New key as the second one on both, then as the first one on both, then alone: never a gap.
#[test]
fn keys_rotate_without_a_gap() {
    let mut pair = Pair::start(&[1], &[1]);
    for step in [
        [&[1, 2][..], &[1]],
        [&[1, 2], &[1, 2]],
        [&[2, 1], &[1, 2]],
        [&[2, 1], &[2, 1]],
        [&[2], &[2, 1]],
        [&[2], &[2]],
    ] {
        pair.owner.set_keys(&keys(step[0]));
        pair.backup.set_keys(&keys(step[1]));
        pair.owner.handle_event(Event::New(entry(100, 1)), pair.now);
        pair.run(100);
        assert_eq!(pair.held(), 11, "{step:?}");
        pair.owner.handle_event(Event::Destroy(entry(100, 1)), pair.now);
        pair.run(100);
        assert_eq!(pair.held(), 10, "{step:?}");
    }
    let refused = |replica: &Replica| {
        replica.counters().refused(Refused::Forged) + replica.counters().refused(Refused::Unsealed)
    };
    assert_eq!((refused(&pair.owner), refused(&pair.backup)), (0, 0));
}

/// A daemon that has just started remembers no numbers: what the peer sent before it proved itself again is
/// refused all the same, or an old alive would unseat the owner for a moment.
#[test]
fn a_restarted_backup_takes_nothing_from_before() {
    let mut pair = Pair::start(&[1], &[1]);
    let before = pair.seen.clone();
    // Another number is another incarnation.
    pair.backup = keyed(3, Role::Backup, false, keys(&[1]), pair.now);
    pair.run(1000);
    assert_eq!(pair.held(), 10);
    for datagram in &before {
        pair.backup.handle_datagram(datagram, pair.now);
    }
    assert_eq!(pair.backup.counters().refused(Refused::Replayed), before.len() as u64);
    assert!(pair.backup.readiness(pair.now).is_ready() && pair.held() == 10);
}

/// A sign of life that was overtaken, late or sent again by somebody, says nothing: with a key and without.
#[test]
fn an_overtaken_alive_is_not_heard() {
    for keys in [&[][..], &[1]] {
        let mut pair = Pair::start(keys, keys);
        assert!(pair.backup.readiness(pair.now).is_ready());
        // The first one is of before the claim.
        for datagram in pair.seen.iter().take(1).cloned().collect::<Vec<_>>() {
            pair.backup.handle_datagram(&datagram, pair.now);
        }
        assert!(pair.backup.readiness(pair.now).is_ready(), "{:?}", pair.backup.readiness(pair.now));
    }
}

/// Router1 starts twice more while somebody sends its former run's datagrams again, without a pause. Neither
/// these nor its former answers to our questions let anybody in, and the true run is let in all the same.
#[test]
fn a_flood_from_a_former_run_keeps_nobody_out() {
    for keys in [keys(&[1]), Vec::new()] {
        let mut pair = Pair::start(&[1][..keys.len()], &[1][..keys.len()]);
        pair.flood = pair.seen.clone();
        for run in [7, 8] {
            pair.owner = another_run(1, run, Role::Primary, false, keys.clone(), pair.now);
            pair.run(2000);
        }
        assert!(pair.owner.owner() && pair.backup.readiness(pair.now).is_ready());
        // Its kernel is new, and the backup has offered what it had.
        assert_eq!((pair.owner.entries().count(), pair.held()), (10, 10));
        pair.owner.handle_event(Event::New(entry(50, 1)), pair.now);
        pair.run(500);
        assert_eq!(pair.held(), 11);
        let counters = pair.backup.counters();
        assert!(counters.refused(Refused::Unproved) > 100, "{counters:?}");
    }
}

/// Whoever floods a node makes it say no more than a few words a turn.
#[test]
fn strangers_are_answered_at_a_pace() {
    let mut pair = Pair::start(&[], &[]);
    let (header, _) = wire::peek(pair.seen.last().unwrap()).unwrap();
    let alive =
        pair.seen.iter().find(|datagram| matches!(wire::parse(datagram), Ok((_, Body::Alive(_))))).unwrap();
    let (_, alive) = wire::parse(alive).unwrap();
    for number in 0..1000 {
        let stranger = wire::Header { incarnation: wire::Incarnation(1_000_000 + number), ..header };
        let ours = wire::Incarnation(2);
        for body in [alive.clone(), Body::Challenge { to: ours, nonce: 1 }] {
            let mut datagram = Vec::new();
            wire::emit_body(&mut datagram, &stranger, &body);
            pair.backup.handle_datagram(&datagram, pair.now);
        }
    }
    let mut said = 0;
    while pair.backup.poll_datagram(pair.now).is_some() {
        said += 1;
    }
    assert!(said < 50, "{said} datagrams said for 2000 heard");
}

/// A broken peer that asks for everything, many times in a datagram: an owner does not look through its table
/// for each.
#[test]
fn asking_for_everything_again_and_again_holds_nobody_up() {
    let mut pair = Pair::start(&[], &[]);
    let (backup, _) = wire::peek(&pair.backup_says()).unwrap();
    let (owner, _) = wire::peek(pair.seen.last().unwrap()).unwrap();
    let wants = vec![Want::Subtree(Node { level: 0, index: 0 }); 100];
    let (to, group) = (owner.incarnation, wire::GroupId(0));
    let mut ask = Vec::new();
    wire::emit_body(&mut ask, &backup, &Body::Ask { to, group, wants });
    pair.owner.handle_datagram(&ask, pair.now);
    pair.run(1000);
    let repaired = pair.owner.counters().repaired_out;
    assert!((10..=40).contains(&repaired), "{repaired} entries sent");
}

/// A broken owner whose list of a bucket does not end: what is kept of it has a limit, and it removes
/// nothing.
#[test]
fn an_endless_list_is_not_believed() {
    // An entry is in one of the buckets; a list that leaves it out removes it.
    for (parts, held) in [(0, 0), (2, 10)] {
        let mut pair = Pair::start(&[], &[]);
        let line = Listed { key: u64::MAX, content: 1 };
        for (number, bucket) in (0..).zip(Pair::buckets(&pair.backup)) {
            let mut messages = Vec::new();
            for _ in 0..parts {
                wire::emit_list(&mut messages, bucket, false, &vec![line; 40_000]);
            }
            wire::emit_list(&mut messages, bucket, true, &[]);
            let datagram = pair.continued(number, &messages);
            pair.backup.handle_datagram(&datagram, pair.now);
        }
        assert_eq!(pair.held(), held, "{parts} parts");
    }
}

/// A datagram of the stream with a message that nobody understands: nothing of it is taken, the stream goes
/// on, and the digest repairs what it would have told.
#[test]
fn a_datagram_with_a_bad_message_is_left_out_whole() {
    let mut pair = Pair::start(&[], &[]);
    let mut messages = Vec::new();
    wire::emit_put(&mut messages, &entry(999, 1), 1, false);
    messages.push(0xff);
    let bad = pair.continued(0, &messages);
    pair.backup.handle_datagram(&bad, pair.now);
    assert_eq!((pair.held(), pair.backup.counters().unusable), (10, 1));
    // The owner's own datagram of that number comes too late.
    pair.owner.handle_event(Event::New(entry(50, 1)), pair.now);
    pair.run(2000);
    assert_eq!(pair.held(), 11);
    assert!(pair.backup.readiness(pair.now).is_ready());
}

/// A peer that has proved itself and does not own the group says what only an owner may say: a former owner,
/// for one.
#[test]
fn only_the_owner_is_followed() {
    let mut pair = Pair::start(&[], &[]);
    let stranger =
        wire::Header { node_group: 0, sender: wire::NodeId(9), incarnation: wire::Incarnation(9 << 64 | 9) };
    let say = |pair: &mut Pair, body: &Body<'_>| {
        let mut datagram = Vec::new();
        wire::emit_body(&mut datagram, &stranger, body);
        pair.backup.handle_datagram(&datagram, pair.now);
    };
    say(
        &mut pair,
        &Body::Alive(Box::new(wire::Alive {
            turn: 1,
            mechanism_group: "manual G".into(),
            ..wire::Alive::default()
        })),
    );
    let asked = std::iter::from_fn(|| pair.backup.poll_datagram(pair.now)).find_map(|datagram| {
        match wire::parse(&datagram) {
            Ok((header, Body::Challenge { nonce, .. })) => Some((header.incarnation, nonce)),
            _ => None,
        }
    });
    let (to, nonce) = asked.unwrap();
    say(&mut pair, &Body::Proof { to, nonce });
    assert_eq!(pair.backup.view(pair.now).peers.len(), 2, "it is let in");
    let mut messages = Vec::new();
    wire::emit_put(&mut messages, &entry(999, 1), 1, false);
    let next = pair.backup.position() + 1;
    say(&mut pair, &Body::Stream(StreamHead { sequence: next, ..StreamHead::default() }, &messages));
    assert_eq!((pair.held(), pair.backup.counters().refused(Refused::Misdirected)), (10, 1));
}

/// A datagram that came before its turn waits for those that are missing, and they are asked for.
#[test]
fn a_gap_is_not_skipped() {
    let mut pair = Pair::start(&[], &[]);
    let mut messages = Vec::new();
    wire::emit_put(&mut messages, &entry(999, 1), 1, false);
    let early = pair.continued(9, &messages);
    pair.backup.handle_datagram(&early, pair.now);
    assert_eq!((pair.held(), pair.backup.counters().nacks), (10, 1));
    assert!(!pair.backup.readiness(pair.now).is_ready());
}

/// Nobody waits for anybody's next sign of life: whoever is asked who it is asks, too.
#[test]
fn a_new_run_is_in_step_at_once() {
    let Pair { mut owner, now, .. } = Pair::start(&[1], &[1]);
    let mut backup = keyed(3, Role::Backup, false, keys(&[1]), now);
    for _ in 0..10 {
        while let Some(datagram) = backup.poll_datagram(now) {
            owner.handle_datagram(&datagram, now);
        }
        owner.handle_timeout(now);
        while let Some(datagram) = owner.poll_datagram(now) {
            backup.handle_datagram(&datagram, now);
        }
    }
    assert_eq!(backup.view(now).external, 10);
}

/// Its proof and what it says may come in different turns.
#[test]
fn a_peer_that_has_said_nothing_yet_opens_no_gate() {
    let Pair { mut owner, mut now, .. } = Pair::start(&[1], &[1]);
    let mut backup = keyed(3, Role::Backup, false, keys(&[1]), now);
    let mut proofs = 0;
    // Every datagram in a turn of its own, and a look at the gate between any two.
    for _ in 0..100 {
        now += Duration::from_millis(20);
        for replica in [&mut owner, &mut backup] {
            replica.handle_events_empty();
            replica.handle_timeout(now);
        }
        while let Some(datagram) = backup.poll_datagram(now) {
            owner.handle_datagram(&datagram, now);
        }
        while let Some(datagram) = owner.poll_datagram(now) {
            backup.handle_datagram(&datagram, now);
            now += Duration::from_millis(120);
            backup.handle_timeout(now);
            proofs += u32::from(backup.view(now).peers.iter().any(|peer| peer.name.is_empty()));
            assert!(backup.gate_open() <= backup.view(now).ready, "{}", backup.readiness(now).word());
        }
    }
    assert!(proofs > 0, "the peer never was proved and silent");
    assert!(backup.gate_open(), "{}", backup.readiness(now).word());
}
