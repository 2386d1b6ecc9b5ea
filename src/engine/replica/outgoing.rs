//! What goes to the peer: the owner's stream, answers to repairs and nacks, alives, asks, offers.

use std::time::{Duration, Instant};

use super::size::Size;
use super::{Job, Replica};
use crate::digest::{BUCKETS, LEVELS, bucket_range};
use crate::table::{Flags, Slot, SlotId};
use crate::wire::{
    self, Alive, Body, Changed, HEADER, LIST_HEAD, LISTED_SIZE, Listed, Message, Messages, STREAM_HEAD,
    StreamHead, packed,
};

/// Room that a put of an entry needs at most, or a destroy.
fn put_room(slot: Option<&Slot>) -> usize {
    let rare = slot.is_some_and(|slot| slot.rare().is_some());
    1 + packed::COMMON_ROOM + if rare { packed::RARE_ROOM } else { 0 }
}
/// The largest put fits the smallest datagram: 576 bytes less IPv6 and UDP headers and the seal.
const _: () = assert!(
    1 + packed::COMMON_ROOM + packed::RARE_ROOM <= 576 - 48 - crate::seal::OVERHEAD - HEADER - STREAM_HEAD
);
/// Datagrams of the stream that may be under way to a node that follows it. What a narrow channel, or a slow peer, cannot take
/// waits here, where later changes of one entry become one: sent at full rate it would be lost on the way, three quarters of it
/// in a channel of a quarter, and repairs with it. With datagrams so large that the ring could not send all of them again, half
/// of what the ring holds, but never fewer than the least.
const WINDOW: usize = 256;
const LEAST_WINDOW: usize = 128;
/// After so many a backup says how far it is: twice within the least window.
pub(super) const ACKNOWLEDGED: u32 = 64;
/// Of so many datagrams one is a repair, when both wait: under changes that never leave the channel room a new backup would get
/// nothing else.
const REPAIR_SHARE: u32 = 4;
/// Repair datagrams per [`JOB_TICK`] for somebody who does not follow the stream yet, and datagrams sent again: the peer's socket
/// buffer must hold a tick's worth.
const JOBS_PER_TICK: u32 = 24;
/// Pace of repairs.
pub(super) const JOB_TICK: Duration = Duration::from_millis(1);
/// Most buckets that wait to be looked at: whoever asks for everything again and again holds nobody up.
const BUCKETS_DUE: usize = 4 * BUCKETS;
/// Slots looked at for one datagram: after a peak most of them may be empty.
const WALKED: usize = 4096;
/// Most repair jobs waiting; the asking side asks again for what was dropped here.
const JOBS: usize = 8192;
/// Most datagrams waiting to be sent again.
const RESENDS: usize = 4096;
/// Most control datagrams waiting.
const CONTROLS: usize = 1024;

/// How the stream stands with the nodes that follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Window {
    /// Nobody is known to follow.
    Unknown,
    /// More may be sent.
    Open,
    /// Somebody has not got on with a [`WINDOW`] of it; waited for until then, if nothing moves.
    Full(Instant),
}

impl Replica {
    /// A node whose place does not move holds the others up for as long as a silent one would count as alive.
    pub(super) fn window(&self, now: Instant) -> Window {
        let living = self.peers.values().filter(|peer| !peer.lost);
        let held = self.settings.ring / (2 * self.size.now());
        let most = held.clamp(LEAST_WINDOW, WINDOW) as u64;
        let (mut followed, mut full) = (false, None);
        for (next, moved) in living.filter_map(|peer| Some((peer.next?, peer.moved))) {
            // What it waits for may have been sent long after it last moved; what the ring has dropped was sent long ago.
            let sent = self.sender.sent_at(next).filter(|_| next >= self.sender.oldest());
            let waits = sent.map_or(moved, |sent| sent.max(moved));
            let until = waits + self.settings.lost_after;
            followed = true;
            if (self.sender.last() + 1).saturating_sub(next) >= most && now < until {
                full = full.max(Some(until));
            }
        }
        match full {
            Some(until) => Window::Full(until),
            None if followed => Window::Open,
            None => Window::Unknown,
        }
    }

    /// Changes wait for the channel for longer than a peer may be silent: a failover now would lose them.
    pub(super) fn backlog(&self, now: Instant) -> bool {
        self.group.owner && self.waits.oldest(now).is_some_and(|age| age >= self.settings.lost_after)
    }

    /// The next datagram for the peer, most urgent first, sealed if there is a key. `None`: nothing to send now.
    pub fn poll_datagram(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut datagram = self.next_datagram(now)?;
        if self.seal.is_on() {
            wire::mark_sealed(&mut datagram);
        }
        Some(self.seal.seal(datagram))
    }

    fn next_datagram(&mut self, now: Instant) -> Option<Vec<u8>> {
        if !self.dumped {
            // Nothing is said before the first dump is complete (10).
            return None;
        }
        if let Some(datagram) = self.control.pop_front() {
            return Some(datagram);
        }
        self.refill_credit(now);
        if let Some(datagram) = self.resent_datagram() {
            return Some(datagram);
        }
        let window = self.window(now);
        // Who takes over waits for all that is left.
        let open = !matches!(window, Window::Full(_)) || self.flush_token != 0;
        let may_repair = window == Window::Open || window == Window::Unknown && self.job_credit > 0;
        let repair = self.group.owner && may_repair && !self.jobs.is_empty();
        if self.group.owner && open && (!self.dirty.is_empty() || !self.refused.is_empty()) {
            self.unrepaired = if repair && self.flush_token == 0 { self.unrepaired + 1 } else { 0 };
            if self.unrepaired < REPAIR_SHARE {
                return Some(self.live_datagram(now));
            }
        }
        if self.flush_token != 0 && self.group.owner {
            self.alive_due = now;
        }
        if now >= self.alive_due {
            self.alive_due = now + self.settings.alive;
            return Some(self.alive(now));
        }
        if repair {
            self.unrepaired = 0;
            self.job_credit = self.job_credit.saturating_sub(1);
            return Some(self.repair_datagram(now));
        }
        None
    }

    fn refill_credit(&mut self, now: Instant) {
        if now >= self.job_refill + JOB_TICK {
            self.job_refill = now;
            self.job_credit = JOBS_PER_TICK;
        }
    }

    /// What a nack asked for, at the pace of repairs: one small datagram must not make this node send thousands at once.
    fn resent_datagram(&mut self) -> Option<Vec<u8>> {
        while self.job_credit > 0 {
            let sequence = self.resend.pop_first()?;
            if let Some(datagram) = self.sender.get(sequence) {
                self.job_credit -= 1;
                self.counters.resent += 1;
                return Some(datagram.to_vec());
            }
        }
        None
    }

    fn room(&self) -> usize {
        self.size.now() - self.seal.overhead() - HEADER - STREAM_HEAD
    }

    /// Number it, keep it in the ring, give it out.
    fn stream(&mut self, messages: &[u8], now: Instant) -> Vec<u8> {
        let head =
            StreamHead { group: self.group.id, sequence: self.sender.next(), root: self.group.sums.root() };
        let mut datagram = Vec::with_capacity(HEADER + STREAM_HEAD + messages.len());
        wire::emit_stream(&mut datagram, &self.header, &head, messages);
        self.sender.push(datagram.clone(), now);
        datagram
    }

    /// Live changes: what each entry is now, not what it was when it changed.
    fn live_datagram(&mut self, now: Instant) -> Vec<u8> {
        let room = self.room();
        let mut messages = Vec::with_capacity(room);
        loop {
            let next = self.dirty.at(0).and_then(|id| self.table.get(id));
            if messages.len() + put_room(next) > room {
                break;
            }
            if let Some((key, birth)) = self.refused.pop_front() {
                wire::emit_destroy(&mut messages, key, birth);
                continue;
            }
            let Some(id) = self.dirty.pop(&mut self.table) else { break };
            self.waits.sent(now);
            self.emit_change(id, &mut messages);
        }
        self.stream(&messages, now)
    }

    fn emit_change(&mut self, id: SlotId, messages: &mut Vec<u8>) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.clear(Flags::DESTROY_DUE);
        if slot.has(Flags::DIRTY) {
            slot.clear(Flags::DIRTY);
            if slot.has(Flags::PRESENT) {
                self.emit_present(id, messages, false);
            } else {
                wire::emit_destroy(messages, slot.key_hash, slot.sent_birth);
                self.count_as(id, 0);
            }
        }
        self.release(id);
    }

    /// Put an entry into the stream, without its tuples where they have gone before; without need only when a repair asked for it.
    fn emit_present(&mut self, id: SlotId, messages: &mut Vec<u8>, repair: bool) {
        let content = self.content_hash(id);
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if !repair && slot.sent == content && slot.sent_birth == slot.birth {
            return;
        }
        let known = slot.sent != 0 && slot.sent_birth == slot.birth && !slot.has(Flags::REWRITTEN);
        slot.sent_birth = slot.birth;
        slot.clear(Flags::REWRITTEN);
        let entry = slot.entry();
        match Changed::of(&entry).filter(|_| known && !repair) {
            Some(changed) => wire::emit_change(messages, slot.key_hash, slot.birth, &changed),
            None => wire::emit_put(messages, &entry, slot.birth, repair),
        }
        self.counters.repaired_out += u64::from(repair);
        self.count_as(id, content);
    }

    /// One datagram's worth of answers to repairs, in the same stream, so that nothing can be resurrected.
    fn repair_datagram(&mut self, now: Instant) -> Vec<u8> {
        let room = self.room();
        let mut messages = Vec::with_capacity(room);
        let mut walked = 0;
        while walked < WALKED
            && let Some(job) = self.jobs.front_mut()
        {
            match job {
                Job::Sums(node) => {
                    if messages.len() + 4 + 16 * 8 > room {
                        break;
                    }
                    wire::emit_sums(&mut messages, *node, &self.group.sums.children(*node));
                    self.jobs.pop_front();
                }
                Job::Key(key) => {
                    let key = *key;
                    let slot = self.table.find_hash(key).and_then(|id| self.table.get(id));
                    if messages.len() + put_room(slot) > room {
                        break;
                    }
                    self.jobs.pop_front();
                    self.emit_wanted(key, &mut messages);
                }
                Job::List(bucket) => {
                    let bucket = *bucket;
                    if !self.emit_list(bucket, &mut messages, room, now) {
                        break;
                    }
                    self.jobs.pop_front();
                }
                Job::Everything(next) => {
                    let slot = self.table.get(*next);
                    if messages.len() + put_room(slot) > room {
                        break;
                    }
                    let (id, present) = (*next, slot.is_some_and(|slot| slot.has(Flags::PRESENT)));
                    *next += 1;
                    walked += 1;
                    if id >= self.table.end() {
                        self.jobs.pop_front();
                    } else if present {
                        self.emit_present(id, &mut messages, true);
                    }
                }
                Job::Buckets(range) => {
                    let Some(bucket) = range.clone().next() else {
                        self.jobs.pop_front();
                        continue;
                    };
                    let bucket = u16::try_from(bucket).unwrap_or(u16::MAX);
                    let present = || self.table.bucket(bucket).filter(|(_, slot)| slot.has(Flags::PRESENT));
                    let needed: usize = present().map(|(_, slot)| put_room(Some(slot))).sum();
                    let ids: Vec<SlotId> = present().map(|(id, _)| id).collect();
                    // A bucket is sent whole; one too large for a datagram goes key by key.
                    if needed > room {
                        range.start += 1;
                        for id in ids {
                            if let Some(slot) = self.table.get(id) {
                                let key = slot.key_hash;
                                self.jobs.push_front(Job::Key(key));
                            }
                        }
                        continue;
                    }
                    if messages.len() + needed > room {
                        break;
                    }
                    range.start += 1;
                    for id in ids {
                        self.emit_present(id, &mut messages, true);
                    }
                }
            }
        }
        self.stream(&messages, now)
    }

    /// A wanted key that is gone is answered by a destroy (4).
    fn emit_wanted(&mut self, key: u64, messages: &mut Vec<u8>) {
        match self.table.find_hash(key) {
            Some(id) if self.table.get(id).is_some_and(|slot| slot.has(Flags::PRESENT)) => {
                self.emit_present(id, messages, true);
            }
            found => {
                wire::emit_destroy(messages, key, 0);
                if let Some(id) = found {
                    self.count_as(id, 0);
                }
            }
        }
    }

    /// A bucket's contents as sent at this point of the stream. False: not in this datagram any more.
    fn emit_list(&mut self, bucket: u16, messages: &mut Vec<u8>, room: usize, now: Instant) -> bool {
        let lines: Vec<Listed> = self
            .table
            .bucket(bucket)
            .filter(|(_, slot)| slot.sent != 0)
            .map(|(_, slot)| Listed { key: slot.key_hash, content: slot.sent })
            .collect();
        if messages.len() + LIST_HEAD + lines.len() * LISTED_SIZE <= room {
            wire::emit_list(messages, bucket, true, &lines);
            return true;
        }
        if !messages.is_empty() {
            return false;
        }
        // Larger than a datagram: in parts, one datagram each, with nothing in between. The last part goes into
        // the datagram under construction.
        let mut rest = lines.as_slice();
        let most = (room - LIST_HEAD) / LISTED_SIZE;
        while rest.len() > most {
            let (part, more) = rest.split_at(most);
            rest = more;
            let mut whole = Vec::with_capacity(room);
            wire::emit_list(&mut whole, bucket, false, part);
            let datagram = self.stream(&whole, now);
            self.queue_control(datagram);
        }
        wire::emit_list(messages, bucket, true, rest);
        true
    }

    fn alive(&mut self, now: Instant) -> Vec<u8> {
        let token = if self.group.owner { std::mem::take(&mut self.flush_token) } else { 0 };
        self.alive_turn += 1;
        self.unacknowledged = 0;
        let heard: Vec<u16> =
            self.peers.values().filter(|peer| !peer.lost).map(|peer| peer.heard_longest.bytes()).collect();
        let alive = Alive {
            name: self.settings.name.clone(),
            told_group: self.presence.told_group.clone(),
            turn: self.alive_turn,
            last: self.sender.last(),
            oldest: self.sender.oldest(),
            token,
            group: self.group.id,
            claim: self.group.claim,
            owner: self.group.owner,
            role: self.group.role,
            seat: self.presence.seat,
            longest: heard.iter().copied().min().unwrap_or(0),
            survived: self.survived,
            fresh: self.fresh,
            ready: self.in_step(now) && !self.backlog(now),
            seed: self.seed,
            root: self.group.sums.root(),
            count: u32::try_from(self.connections()).unwrap_or(u32::MAX),
            kernel: self.kernel_for_alive(),
            next: if self.group.owner { 0 } else { self.group.receiver.expected().unwrap_or(0) },
        };
        let mut datagram = Vec::new();
        wire::emit_body(&mut datagram, &self.header, &Body::Alive(alive));
        if let Some(full) = self.size.probe(!heard.is_empty(), now) {
            datagram.resize(datagram.len().max(full - self.seal.overhead()), 0);
        }
        datagram
    }

    /// Send an alive as soon as possible: something changed that the peer should know.
    pub(super) fn alive_now(&mut self, now: Instant) {
        self.alive_due = now;
    }

    pub(super) fn queue_body(&mut self, body: &Body<'_>) {
        let mut datagram = Vec::new();
        wire::emit_body(&mut datagram, &self.header, body);
        self.queue_control(datagram);
    }

    fn queue_control(&mut self, datagram: Vec<u8>) {
        if self.control.len() < CONTROLS {
            self.control.push_back(datagram);
        }
    }

    /// Does what is asked for again and again not get through because it is long?
    fn doubt_length(&mut self, holes: &[(u64, u64)], now: Instant) {
        let overhead = self.seal.overhead();
        let length = |at: u64| self.sender.get(at).map(|datagram| datagram.len() + overhead);
        let (Some((first, _)), Some((_, last))) = (holes.first(), holes.last()) else { return };
        let missing = |at: u64| holes.iter().any(|(from, until)| (*from..=*until).contains(&at));
        let between = (*first..=(*last).min(self.sender.last())).take(WINDOW);
        if between.filter(|at| !missing(*at)).filter_map(length).any(Size::is_long) {
            self.size.trust();
            return;
        }
        if length(*first).is_some_and(|length| self.size.doubts(*first, length, now)) {
            self.sender.forget_before(u64::MAX);
        }
    }

    /// A peer misses these datagrams.
    pub(super) fn handle_nack(&mut self, holes: &[(u64, u64)], now: Instant) {
        self.doubt_length(holes, now);
        let (oldest, last) = (self.sender.oldest(), self.sender.last());
        if holes.iter().any(|(from, _)| *from < oldest) {
            // The ring has moved on: the alive says from where the stream can be taken up.
            self.alive_now(now);
        }
        for (from, until) in holes {
            for sequence in (*from).max(oldest)..=(*until).min(last) {
                if self.resend.len() >= RESENDS {
                    return;
                }
                self.resend.insert(sequence);
            }
        }
    }

    /// A peer repairs its table.
    pub(super) fn handle_ask(&mut self, wants: &[wire::Want]) {
        let width = |job: &Job| match job {
            Job::Buckets(range) => range.len(),
            Job::Everything(_) => BUCKETS,
            Job::Sums(_) | Job::List(_) | Job::Key(_) => 0,
        };
        let mut due: usize = self.jobs.iter().map(width).sum();
        for want in wants {
            if let wire::Want::Subtree(node) = want {
                due += bucket_range(*node).len();
            }
            if self.jobs.len() >= JOBS || due > BUCKETS_DUE {
                break;
            }
            self.jobs.push_back(match *want {
                wire::Want::Sums(node) if node.level < LEVELS => Job::Sums(node),
                wire::Want::Sums(node) => Job::List(node.index),
                wire::Want::Subtree(wire::Node::ROOT) => Job::Everything(0),
                wire::Want::Subtree(node) => Job::Buckets(bucket_range(node)),
                wire::Want::List(bucket) => Job::List(bucket),
                wire::Want::Key(key) => Job::Key(key),
            });
        }
    }

    /// The new owner lacks an entry that this node has owned: offer it (17).
    pub(super) fn offer(&mut self, id: SlotId, to: wire::Incarnation) {
        let Some(slot) = self.table.get(id) else { return };
        let mut messages = Vec::new();
        wire::emit_put(&mut messages, &slot.entry(), slot.birth, true);
        self.counters.offered += 1;
        let group = self.group.id;
        self.queue_body(&Body::Offer { to, group, messages: &messages });
    }

    /// A former owner offers entries: taken only where the key is absent, the winner's entry stands (17).
    pub(super) fn handle_offer(&mut self, messages: &[u8]) {
        for message in Messages::new(messages) {
            let Ok(Message::Put { entry, birth, .. }) = message else { break };
            let id = self.slot_for(&entry);
            let Some(mut slot) = self.table.get_mut(id) else { continue };
            if slot.has(Flags::PRESENT) {
                continue;
            }
            slot.set_entry(entry);
            slot.birth = birth;
            self.set_present(id, true);
            self.watch(id);
            self.mark_dirty(id);
            self.want_kernel(id, false);
        }
    }
}
