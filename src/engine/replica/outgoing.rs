//! What goes to the peer: the owner's stream, answers to repairs and nacks, alives, asks, offers.

use std::collections::VecDeque;
use std::time::Instant;

use super::alives::Alives;
use super::answers::Answers;
use super::size::{Size, put_room};
use super::unsent::Unsent;
use super::{Replica, Settings};
use crate::seal::Seal;
use crate::stream::Sender;
use crate::table::{Flags, SlotId};
use crate::wire::{
    self, Alive, Body, Changed, HEADER, Header, Heard, Message, Messages, Refusal, STREAM_HEAD, StreamHead,
};

/// Datagrams of the stream that may be under way to a node that follows it. What a narrow channel, or a slow
/// peer, cannot take waits here, where later changes of one entry become one: sent at full rate it would be
/// lost on the way, three quarters of it in a channel of a quarter, and repairs with it. With datagrams so
/// large that the ring could not send all of them again, half of what the ring holds, but never fewer than
/// the least.
const WINDOW: usize = 256;
const LEAST_WINDOW: usize = 128;
/// Most control datagrams waiting.
const CONTROLS: usize = 1024;

/// What goes out, each part with its own room.
pub(super) struct Outgoing {
    header: Header,
    pub(super) seal: Seal,
    /// How long a datagram may be.
    pub(super) size: Size,
    /// The ring: the stream as it was sent.
    pub(super) sender: Sender,
    /// Datagrams that go before everything else.
    control: VecDeque<Vec<u8>>,
    pub(super) unsent: Unsent,
    pub(super) answers: Answers,
    pub(super) alives: Alives,
}

impl Outgoing {
    pub(super) fn new(settings: &Settings, now: Instant) -> Outgoing {
        let Settings { node_group, node, incarnation, .. } = *settings;
        Outgoing {
            header: Header { node_group, sender: node, incarnation },
            seal: Seal::new(&settings.keys, node_group, incarnation),
            size: Size::new(settings.datagram),
            sender: Sender::new(settings.ring),
            control: VecDeque::new(),
            unsent: Unsent::new(),
            answers: Answers::new(now),
            alives: Alives::new(now),
        }
    }
}

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
        let followers = self.peers.living();
        let held = self.settings.ring / (2 * self.out.size.now());
        let most = held.clamp(LEAST_WINDOW, WINDOW) as u64;
        let (mut followed, mut full) = (false, None);
        for (next, moved) in followers.filter_map(|peer| Some((peer.place.next?, peer.moved))) {
            // What it waits for may have been sent long after it last moved; what the ring has dropped was
            // sent long ago.
            let sent = self.out.sender.sent_at(next).filter(|_| next >= self.out.sender.oldest());
            let waits = sent.map_or(moved, |sent| sent.max(moved));
            let until = waits + self.settings.tunables.lost_after;
            followed = true;
            if (self.out.sender.last() + 1).saturating_sub(next) >= most && now < until {
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
        self.ownership.is_owner()
            && self.out.unsent.oldest(now).is_some_and(|age| age >= self.settings.tunables.lost_after)
    }

    /// The next datagram for the peer, most urgent first, sealed if there is a key. `None`: nothing to send
    /// now.
    pub fn poll_datagram(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut datagram = self.next_datagram(now)?;
        if self.out.seal.is_on() {
            wire::mark_sealed(&mut datagram);
        }
        Some(self.out.seal.seal(datagram))
    }

    fn next_datagram(&mut self, now: Instant) -> Option<Vec<u8>> {
        if !self.dumps.known() {
            // Nothing is said before the first dump is complete (10).
            return None;
        }
        if let Some(datagram) = self.out.control.pop_front() {
            return Some(datagram);
        }
        self.out.answers.refill(now);
        if let Some(sequence) =
            self.out.answers.next_resend(|sequence| self.out.sender.get(sequence).is_some())
        {
            self.counters.resent += 1;
            return self.out.sender.get(sequence).map(<[u8]>::to_vec);
        }
        let window = self.window(now);
        // Who takes over waits for all that is left.
        let open = !matches!(window, Window::Full(_)) || self.out.alives.flushing();
        let may_repair = window == Window::Open || window == Window::Unknown && self.out.answers.has_credit();
        let repair = self.ownership.is_owner() && may_repair && self.out.answers.repairs();
        if self.ownership.is_owner()
            && open
            && !self.out.unsent.is_empty()
            && self.out.answers.lets_live_pass(repair, self.out.alives.flushing())
        {
            return Some(self.live_datagram(now));
        }
        if self.out.alives.flushing() && self.ownership.is_owner() {
            self.out.alives.hurry(now);
        }
        if self.out.alives.take_turn(now, self.settings.tunables.alive) {
            return Some(self.alive(now));
        }
        if repair {
            self.out.answers.begin_repair();
            return Some(self.repair_datagram(now));
        }
        None
    }

    pub(super) fn room(&self) -> usize {
        self.out.size.now() - self.out.seal.overhead() - HEADER - STREAM_HEAD
    }

    /// Number it, keep it in the ring, give it out.
    pub(super) fn stream(&mut self, messages: &[u8], now: Instant) -> Vec<u8> {
        let head = StreamHead {
            group: self.group.id,
            sequence: self.out.sender.next(),
            root: self.group.sums.root(),
        };
        let mut datagram = Vec::with_capacity(HEADER + STREAM_HEAD + messages.len());
        wire::emit_stream(&mut datagram, &self.out.header, &head, messages);
        self.out.sender.push(datagram.clone(), now);
        datagram
    }

    /// Live changes: what each entry is now, not what it was when it changed.
    fn live_datagram(&mut self, now: Instant) -> Vec<u8> {
        let room = self.room();
        let mut messages = Vec::with_capacity(room);
        loop {
            if messages.len() + put_room(self.out.unsent.first(&self.table)) > room {
                break;
            }
            if let Some((key, birth, why)) = self.out.unsent.pop_refused() {
                wire::emit_refusal(&mut messages, key, birth, why);
                continue;
            }
            let Some(id) = self.out.unsent.pop(&mut self.table, now) else { break };
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
                self.ends.push(self.out.sender.next(), slot.key_hash, slot.sent_birth);
                self.count_as(id, 0);
            }
        }
        self.release(id);
    }

    /// Put an entry into the stream: whole, or as a change when the followers have its tuples already.
    /// Nothing is written when they have all of it, unless a repair asked for it.
    pub(super) fn emit_present(&mut self, id: SlotId, messages: &mut Vec<u8>, repair: bool) {
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

    fn alive(&mut self, now: Instant) -> Vec<u8> {
        let (turn, token) = self.out.alives.next(self.ownership.is_owner());
        self.following.acknowledged();
        let peers = self.peers.living_nodes();
        let peers: Vec<Heard> =
            peers.map(|(node, peer)| Heard { node, longest: peer.heard_bytes() }).collect();
        let heard = !peers.is_empty();
        let alive = Alive {
            name: self.settings.name.clone(),
            mechanism_group: self.presence.mechanism_group.clone(),
            turn,
            last: self.out.sender.last(),
            oldest: self.out.sender.oldest(),
            token,
            group: self.group.id,
            claim: self.group.claim,
            owner: self.ownership.is_owner(),
            role: self.group.role,
            seat: self.presence.seat,
            peers,
            owes: self.offers() > 0 || self.dumps.late(),
            truth: self.worth.survived().then_some(self.group.truth),
            lineage: if self.ownership.is_owner() { self.group.lineage } else { 0 },
            stood: self.group.stood.filter(|_| self.ownership.is_owner()),
            fresh: self.worth.fresh(),
            ready: self.in_step(now) && !self.backlog(now),
            seed: self.hashing.seed(),
            root: self.group.sums.root(),
            count: u32::try_from(self.connections()).unwrap_or(u32::MAX),
            kernel: self.kernel_for_alive(),
            next: if self.ownership.is_owner() { 0 } else { self.following.expected().unwrap_or(0) },
        };
        let mut datagram = Vec::new();
        wire::emit_body(&mut datagram, &self.out.header, &Body::Alive(Box::new(alive)));
        if let Some(full) = self.out.size.probe(heard, now) {
            datagram.resize(datagram.len().max(full - self.out.seal.overhead()), 0);
        }
        datagram
    }

    /// Send an alive as soon as possible: something changed that the peer should know.
    pub(super) fn alive_now(&mut self, now: Instant) {
        self.out.alives.hurry(now);
    }

    pub(super) fn queue_body(&mut self, body: &Body<'_>) {
        let mut datagram = Vec::new();
        wire::emit_body(&mut datagram, &self.out.header, body);
        self.queue_control(datagram);
    }

    pub(super) fn queue_control(&mut self, datagram: Vec<u8>) {
        if self.out.control.len() < CONTROLS {
            self.out.control.push_back(datagram);
        }
    }

    /// Does what is asked for again and again not get through because it is long?
    fn doubt_length(&mut self, holes: &[(u64, u64)], now: Instant) {
        let overhead = self.out.seal.overhead();
        let length = |at: u64| self.out.sender.get(at).map(|datagram| datagram.len() + overhead);
        let (Some((first, _)), Some((_, last))) = (holes.first(), holes.last()) else { return };
        let missing = |at: u64| holes.iter().any(|(from, until)| (*from..=*until).contains(&at));
        let between = (*first..=(*last).min(self.out.sender.last())).take(WINDOW);
        if between.filter(|at| !missing(*at)).filter_map(length).any(Size::is_long) {
            self.out.size.trust();
            return;
        }
        if length(*first).is_some_and(|length| self.out.size.doubts(*first, length, now)) {
            self.out.sender.forget_before(u64::MAX);
        }
    }

    /// A peer misses these datagrams.
    pub(super) fn handle_nack(&mut self, holes: &[(u64, u64)], now: Instant) {
        self.doubt_length(holes, now);
        let (oldest, last) = (self.out.sender.oldest(), self.out.sender.last());
        if holes.iter().any(|(from, _)| *from < oldest) {
            // The ring has moved on: the alive says from where the stream can be taken up.
            self.alive_now(now);
        }
        let missing = |(from, until): &(u64, u64)| (*from).max(oldest)..=(*until).min(last);
        self.out.answers.resend(holes.iter().flat_map(missing));
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
            let (hash, _) = self.look_up(&entry);
            if self.ends.has(hash, birth) {
                // Who offers it has missed its end (N2).
                self.counters.ended_offers += 1;
                self.out.unsent.refuse(hash, birth, Refusal::Ended);
                continue;
            }
            let id = self.slot_for(&entry);
            let Some(mut slot) = self.table.get_mut(id) else { continue };
            if slot.has(Flags::PRESENT) {
                continue;
            }
            self.counters.taken += 1;
            slot.set_entry(entry);
            slot.birth = birth;
            self.set_present(id, true);
            self.watch(id);
            self.mark_dirty(id);
            self.want_kernel(id, false);
        }
    }
}
