//! The peer's datagrams: alives and claims, the stream.

use std::time::{Duration, Instant};

use super::door::Refused;
use super::hashing::Hashed;
use super::peers::{Overtaken, Place as Followed};
use super::repair::Repair;
use super::{Cache, Replica, Verb};
use crate::digest::Sums;
use crate::stream::Place;
use crate::table::{Flags, SlotId, is_present};
use crate::wire::{Alive, Body, Changed, Header, Message, Messages, NodeId, Refusal, StreamHead};
use ctsync_ctnetlink::entry::Entry;

/// Messages for which there is room at once: what a full datagram of the usual ones holds.
const MESSAGES: usize = 64;

impl Replica {
    /// Whether a datagram is for this run, this group, and the role that this node has; if not, why not.
    fn concerns(&self, header: &Header, body: &Body<'_>) -> Result<(), Refused> {
        let owner = self.ownership.is_owner();
        let (to, group, fits) = match body {
            Body::Alive(_) => return Ok(()),
            Body::Stream(head, _) => {
                let followed =
                    self.follows(header.sender) && self.group.claim_incarnation == Some(header.incarnation);
                // What another owner sends is for those that follow it.
                let peer = self.peers.get(header.sender).is_some_and(|peer| peer.owner);
                return match (followed && head.group == self.group.id, peer && !followed) {
                    (true, _) => Ok(()),
                    (false, true) => Err(Refused::Elsewhere),
                    (false, false) => Err(Refused::Misdirected),
                };
            }
            Body::Nack { to, .. } | Body::Challenge { to, .. } | Body::Proof { to, .. } => {
                (to, self.group.id, true)
            }
            Body::Flush { to, .. } => (to, self.group.id, owner),
            Body::Ask { to, group, .. } | Body::Offer { to, group, .. } => (to, *group, owner),
            Body::Look { to, group, .. } | Body::Seen { to, group, .. } => (to, *group, true),
        };
        if *to == self.settings.incarnation {
            return if fits && group == self.group.id { Ok(()) } else { Err(Refused::Misdirected) };
        }
        let known = self.peers.all().any(|peer| peer.incarnation == *to);
        Err(if known { Refused::Elsewhere } else { Refused::Misdirected })
    }

    /// What an admitted peer says, or a stranger's challenge.
    pub(super) fn hear(&mut self, header: &Header, body: Body<'_>, now: Instant) -> Result<(), Refused> {
        self.concerns(header, &body)?;
        match body {
            Body::Alive(alive) => return self.handle_alive(header, &alive, now),
            Body::Stream(head, messages) => self.handle_stream(&head, messages, now),
            Body::Nack { holes, .. } => self.handle_nack(&holes, now),
            Body::Ask { wants, .. } => self.out.answers.want(&wants),
            Body::Offer { messages, .. } => self.handle_offer(messages),
            Body::Flush { token, .. } => self.out.alives.flush(token),
            Body::Look { wants, .. } => self.handle_look(header.incarnation, &wants),
            Body::Seen { messages, .. } => self.handle_seen(header.incarnation, messages, now),
            Body::Challenge { nonce, .. } => {
                self.queue_body(&Body::Proof { to: header.incarnation, nonce });
                // Whoever asked waits to hear the rest.
                self.presence.tell_all();
                self.alive_now(now);
            }
            // It has let its run in (`door`), and says nothing else.
            Body::Proof { .. } => {}
        }
        Ok(())
    }

    /// Peers that have been silent for too long are lost.
    pub(super) fn judge_silence(&mut self, now: Instant) {
        self.peers.judge_silence(self.settings.tunables.lost_after, now);
        if !self.peers.own() {
            self.give_refill_up();
        }
        self.end_start(now);
    }

    fn handle_alive(&mut self, header: &Header, alive: &Alive, now: Instant) -> Result<(), Refused> {
        let from = header.sender;
        self.peers
            .hear_alive(from, alive, self.settings.tunables.lost_after, now)
            .map_err(|Overtaken| Refused::Overtaken)?;
        self.note_lag(from, alive, now);
        if let Some(longest) = self.peers.living().map(|peer| peer.longest).min() {
            self.out.size.note_heard(usize::from(longest), now);
        }
        if !self.is_absurd(alive.claim) {
            self.hear_claim(header, alive, now);
        }
        if self.follows(from) && alive.owner && alive.claim == self.group.claim {
            // The seed goes with the claim: whoever claims next goes on with it, and nobody hashes anew.
            self.hash_by(alive.seed);
            self.take_position(alive, now);
        }
        self.answer_flush(header.incarnation, alive.token, alive.last);
        // In step with a peer at last: nobody's copies are missing here any more.
        let followed = self.ownership.is_owner() && alive.ready && alive.claim == self.group.claim;
        if followed || self.following.is_equal() {
            self.worth.settle();
        }
        if self.following.is_equal() && self.follows(from) {
            self.group.lineage = alive.lineage;
        }
        self.end_start(now);
        Ok(())
    }

    /// How far a backup was behind this node's stream when it spoke.
    fn note_lag(&mut self, from: NodeId, alive: &Alive, now: Instant) {
        let follows = self.ownership.is_owner() && alive.claim == self.group.claim && alive.next > 0;
        let last = self.out.sender.last();
        let behind = if follows { (last + 1).saturating_sub(alive.next) } else { 0 };
        let since = if behind > 0 { self.out.sender.sent_at(alive.next) } else { None };
        let lag = since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let place = Followed { next: follows.then_some(alive.next), behind, lag };
        let equal = alive.root == self.group.sums.root();
        self.peers.note_place(from, place, equal, self.settings.tunables.lost_after, now);
        // Who is lost may come back and miss what the others have: with the ring gone, its digest tells. Who
        // lives and does not follow yet, or owes something, may still offer what has ended (N2).
        let mut all = self.peers.living().map(|peer| peer.place.next.filter(|_| !peer.owes));
        let applied = all.try_fold(u64::MAX, |least, next| Some(least.min(next?)));
        if let Some(applied) = applied.filter(|_| self.ownership.is_owner()) {
            self.out.sender.forget_before(applied);
            self.ends.forget_before(applied);
        }
    }

    /// The owner whose stream this node follows.
    fn follows(&self, node: NodeId) -> bool {
        !self.ownership.is_owner() && self.group.claim.node == node
    }

    /// Where the owner's stream stands, told by its alive (5).
    fn take_position(&mut self, alive: &Alive, now: Instant) {
        let expected = match self.following.expected() {
            Some(expected) => expected,
            None => self.take_stream_up(alive),
        };
        self.following.heard_of(alive.last);
        // What its ring does not have any more every living node has applied (N2).
        self.ends.forget_before(alive.oldest.min(expected));
        // An alive that is late says less than has been applied; one after another does not: a number was
        // forged.
        let beyond = expected > alive.last + 1;
        if self.following.is_beyond(beyond, now, self.settings.tunables.lost_after) {
            self.following.reset();
            self.take_stream_up(alive);
        }
        if expected < alive.oldest && expected <= alive.last {
            // The ring has moved on. What it still has would be told twice: the digest repairs all that is
            // missing.
            self.counters.lost += alive.oldest - expected;
            self.take_stream_up(alive);
            self.apply_waiting(now);
        }
        if self.following.expected() == Some(alive.last + 1) {
            self.following.compare(alive.root == self.group.sums.root());
            if self.following.is_equal() {
                self.end_repair();
                self.forgive_offers();
            } else {
                self.begin_repair(now);
            }
        }
    }

    /// Go on behind what the owner has sent so far; the digest tells what is missing. The number that comes
    /// next.
    fn take_stream_up(&mut self, alive: &Alive) -> u64 {
        self.following.take_up(alive.last);
        self.ends.take_up(alive.last + 1);
        self.gate.forget_step();
        alive.last + 1
    }

    /// Another stream, or another run's: to be taken up where its owner's next alive says.
    pub(super) fn begin_following(&mut self) {
        self.following.reset();
        self.gate.forget_step();
    }

    /// What this node holds is not known to be what the owner holds any more.
    pub(super) fn fall_out_of_step(&mut self) {
        self.following.differ();
        self.gate.forget_step();
    }

    /// Nack what is missing, once, and all of it again while it stays missing; send the asks whose turn has
    /// come.
    pub(super) fn chase_gap(&mut self, now: Instant) {
        self.chase_repair(now);
        let to = self.group.claim_incarnation;
        if to.is_none() && self.following.has_gap() {
            return;
        }
        let (nacks, lost) = self.following.nacks(now);
        self.counters.lost += lost;
        for holes in nacks {
            let Some(to) = to else { return };
            self.counters.nacks += 1;
            self.queue_body(&Body::Nack { to, holes });
        }
    }

    fn handle_stream(&mut self, head: &StreamHead, messages: &[u8], now: Instant) {
        match self.following.place(head, messages) {
            Place::Next => {
                self.apply(head, messages, now);
                self.apply_waiting(now);
            }
            Place::Ahead | Place::Old | Place::Unknown => {}
        }
        self.chase_gap(now);
        self.end_start(now);
    }

    /// Datagrams that came early and whose turn has come.
    fn apply_waiting(&mut self, now: Instant) {
        while let Some((head, messages)) = self.following.take_waiting() {
            self.apply(&head, &messages, now);
        }
    }

    /// One datagram of the stream, in its order: all of it, or nothing if a part of it cannot be read.
    fn apply(&mut self, head: &StreamHead, messages: &[u8], now: Instant) {
        let mut all = Vec::with_capacity(MESSAGES);
        for message in Messages::new(messages) {
            let Ok(message) = message else {
                // Asking for it again would bring the same bytes: the stream goes on, and the digest tells
                // what is missing.
                self.counters.unusable += 1;
                all.clear();
                break;
            };
            all.push(message);
        }
        let hashes = self.hashing.batch(all.iter().map(|message| match message {
            Message::Put { entry, .. } => Hashed::of(entry),
            Message::Change { key, .. } | Message::Destroy { key, .. } | Message::Refusal { key, .. } => {
                Hashed::Known(*key)
            }
            Message::Sums { .. } | Message::List { .. } => Hashed::Known(0),
        }));
        self.table.prefetch(&hashes);
        for (message, hash) in all.into_iter().zip(&hashes) {
            match message {
                Message::Put { entry, birth, repair } => {
                    if repair {
                        self.counters.repaired_in += 1;
                        self.following.repair.note_progress(now);
                    }
                    self.apply_put(*hash, entry, birth);
                }
                Message::Change { key, birth, changed } => self.apply_change(key, birth, changed),
                Message::Destroy { key, birth } => {
                    self.ends.push(head.sequence, key, birth);
                    self.apply_destroy(key, birth);
                }
                Message::Refusal { key, birth, why } => self.apply_refusal(key, birth, why),
                Message::Sums { node, sums } => self.apply_sums(node, &sums, now),
                Message::List { bucket, last, lines } => self.apply_list(bucket, last, lines, now),
            }
        }
        self.hashing.give_back(hashes);
        if self.following.advance() {
            self.alive_now(now);
        }
        self.following.compare(head.root == self.group.sums.root());
        self.forgive_offers();
        self.chase_repair(now);
    }

    fn apply_put(&mut self, hash: u64, entry: Entry, birth: u16) {
        let content = self.hashing.content(&entry);
        let id = match self.table.find(hash, &entry.key()) {
            Some(id) => {
                self.take_over(id, entry, birth);
                id
            }
            None => self.table.insert(hash, entry),
        };
        self.note_put(id, content, birth);
    }

    /// The slot has the entry that the owner told.
    fn note_put(&mut self, id: SlotId, content: u64, birth: u16) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.birth = birth;
        // Who owns the group next goes on with what all have.
        slot.sent_birth = birth;
        let (present, before) = (slot.has(Flags::PRESENT), slot.sent);
        self.set_present(id, true);
        self.drop_offer(id);
        self.count_as(id, content);
        self.watch(id);
        self.changes(Cache::External, id).note(present);
        self.note_change(id, Cache::External, if present { Verb::Update } else { Verb::New });
        let settled = self.table.get(id).is_some_and(|slot| {
            slot.sent == before
                && slot.has(Flags::INSTALLED)
                && slot.failure().is_none()
                && !slot.has(Flags::ASKED)
        });
        if !settled {
            self.want_kernel(id, false);
        }
    }

    /// Who has taken the stream up lately may not have the entry yet: what it asks for tells of the change,
    /// too. No owner changes an expectation, whose own part is a part of its key.
    fn apply_change(&mut self, key: u64, birth: u16, changed: Changed) {
        let Some(id) = self.table.find_hash(key) else { return };
        let held = self
            .table
            .get(id)
            .filter(|slot| slot.has(Flags::PRESENT) && slot.birth == birth && !slot.is_expectation());
        let Some(entry) = held.map(|slot| changed.applied_to(&slot.entry())) else { return };
        let content = self.hashing.content(&entry);
        self.take_over(id, entry, birth);
        self.note_put(id, content, birth);
    }

    /// What the owner says of a key of which something is known here.
    fn take_over(&mut self, id: SlotId, entry: Entry, birth: u16) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has_any(Flags::REPLACE | Flags::STRAY | Flags::ASKED) {
            // Whether the kernel's is another connection has to be seen (again), once what it is being asked
            // is answered.
            slot.clear(Flags::REPLACE);
            slot.set(Flags::READ_BACK);
        } else if slot.has(Flags::INSTALLED) && slot.entry().must_be_replaced_by(&entry) {
            slot.set(Flags::REPLACE);
        }
        slot.clear(Flags::FORGOTTEN);
        if slot.birth != birth {
            // What the kernel did not take of the last one may go into this one.
            slot.clear(Flags::HELPLESS | Flags::UNLABELLED | Flags::MASTERLESS);
            slot.put(Flags::REBORN, slot.has_any(Flags::INSTALLED | Flags::ASKED));
        }
        slot.set_entry(entry);
    }

    /// The owner says that an entry has ended. What that means depends on how this node came to hold it:
    ///
    /// | held | meaning |
    /// |---|---|
    /// | or offered, of another birth | nothing: it ends another connection (17) |
    /// | aside, by a reset | it is held no more; the kernel's copy ends, not what came up there meanwhile |
    /// | and in the kernel or on its way there | both end |
    /// | by a cold backup | the table's part ends, the kernel has none |
    fn apply_destroy(&mut self, key: u64, birth: u16) {
        let Some(id) = self.table.find_hash(key) else { return };
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has(Flags::PRESENT | Flags::OFFER) && slot.birth != birth {
            return;
        }
        if slot.has(Flags::FORGOTTEN) {
            // What came up there meanwhile is another connection, a stray.
            let copy = slot.has(Flags::INSTALLED) && !slot.has(Flags::STRAY);
            slot.put(Flags::MINE, slot.has(Flags::MINE) || copy);
            self.drop_forgotten(id);
            return;
        }
        // What is pending may be there, if an answer was lost.
        let may_be_there = slot.has_any(Flags::INSTALLED | Flags::PENDING);
        if slot.has(Flags::PRESENT) && may_be_there {
            slot.set(Flags::MINE);
        }
        self.drop_key(id);
    }

    /// What was offered is not taken, and leaves the table. Has it ended, so does what this kernel has (N2);
    /// else that stays there as a stray (11).
    fn apply_refusal(&mut self, key: u64, birth: u16, why: Refusal) {
        let Some(id) = self.table.find_hash(key) else { return };
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if !slot.has(Flags::PRESENT | Flags::OFFER) || slot.birth != birth {
            return;
        }
        if why == Refusal::Ended && slot.has_any(Flags::INSTALLED | Flags::PENDING) {
            slot.set(Flags::MINE);
        }
        self.drop_key(id);
    }

    pub(super) fn drop_key(&mut self, id: SlotId) {
        if is_present(&self.table, id) {
            self.changes(Cache::External, id).destroyed += 1;
            self.note_change(id, Cache::External, Verb::Destroy);
            self.set_present(id, false);
            self.count_as(id, 0);
            self.want_kernel(id, false);
        }
        self.release(id);
    }

    /// Everything held here is owed to the new owner, until it is known to have it (17).
    pub(super) fn owe_all(&mut self) {
        for id in 0..self.table.end() {
            self.owe(id);
        }
    }

    pub(super) fn owe(&mut self, id: SlotId) {
        if let Some(mut slot) = self.table.get_mut(id)
            && slot.has(Flags::PRESENT)
        {
            slot.set(Flags::OFFER);
        }
    }

    /// Entries owed to the owner. An owner owes nothing; its slots' flags mean nothing until it yields, and
    /// are set anew then.
    pub(super) fn offers(&self) -> usize {
        if self.ownership.is_owner() { 0 } else { self.table.counts().offers }
    }

    /// Equal digests: the owner has everything.
    fn forgive_offers(&mut self) {
        if self.offers() == 0 || !self.following.is_equal() || self.dumps.late() {
            return;
        }
        for id in 0..self.table.end() {
            self.drop_offer(id);
        }
    }

    /// Hash by another seed from now on: the owner's. Walks the whole table, so it happens when two tables
    /// that grew apart meet, never at a takeover.
    fn hash_by(&mut self, seed: u128) {
        if !self.hashing.adopt(seed) {
            return;
        }
        self.group.sums = Sums::default();
        self.fall_out_of_step();
        self.following.repair = Repair::default();
        self.out.unsent.forget_refused();
        self.ends.forget();
        self.give_comparison_up();
        let hashing = &mut self.hashing;
        self.table.rehash(|key| hashing.key(key));
        for id in 0..self.table.end() {
            if let Some(mut slot) = self.table.get_mut(id) {
                slot.sent = 0;
                self.count_as_held(id);
            }
        }
    }
}
