//! What the replica shows: numbers and states for `statistics`, `status` and the lab. Reads only.

use std::borrow::Cow;
use std::time::Instant;

use serde::Serialize;

use super::{Counters, Replica, Role};
use crate::facts::Seat;
use crate::failure::Failure;
use crate::table::Flags;
use crate::wire::{Incarnation, KernelTold};
use ctsync_ctnetlink::entry::Entry;

/// A peer, as `status` shows it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerView {
    /// Configured name.
    pub name: String,
    /// Heard within the peer timeout.
    pub alive: bool,
    /// Milliseconds since its last datagram.
    pub silent_ms: u64,
    /// Owns the group.
    pub owner: bool,
    /// Its role.
    pub role: Role,
    /// Its role is primary.
    pub primary: bool,
    /// How it knows it, and where its virtual addresses are.
    pub seat: Seat,
    /// Says it could take over.
    pub ready: bool,
    /// Says that it hears this node.
    pub hears: bool,
    /// It follows this node, and its digest has been seen to equal what was sent.
    pub equal: bool,
    /// Entries in its table.
    pub entries: u32,
    /// Datagrams of this node's stream that it had not applied when last heard.
    pub behind: u64,
    /// For how long the oldest of them had been sent then.
    pub lag_seconds: f64,
    /// Its kernel, once it has told of it.
    pub kernel: Option<KernelTold>,
}

/// The replica's state at one moment.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct View {
    /// This node.
    pub node: String,
    /// Role as last told.
    pub role: Role,
    /// How it is known, and where the virtual addresses are.
    pub seat: Seat,
    /// This node's kernel, as peers are told of it.
    pub kernel: KernelTold,
    /// One of the addresses of this router alone to which entries are translated.
    pub bound_to: Option<std::net::IpAddr>,
    /// Owns the group.
    pub owner: bool,
    /// The highest claim's epoch.
    pub epoch: u64,
    /// Could take over without loss, or owns the group.
    pub ready: bool,
    /// Ready, or why not.
    pub readiness: &'static str,
    /// ... or was a moment ago: being behind for less than a silent peer counts as alive is what is on its
    /// way at any time.
    pub in_step: bool,
    /// A takeover is under way.
    pub fencing: bool,
    /// Changes have waited for the channel for as long as a peer may be silent.
    pub backlog: bool,
    /// The gate is open: this node may be elected.
    pub gate_open: bool,
    /// Entries of the group when owned here.
    pub internal: usize,
    /// Entries of the group when owned by a peer.
    pub external: usize,
    /// Expectations of the group when owned here.
    pub internal_expected: usize,
    /// Expectations of the group when owned by a peer.
    pub external_expected: usize,
    /// Children that wait for their masters.
    pub orphans: usize,
    /// Keys waiting for the kernel.
    pub pending: usize,
    /// Changes waiting for the channel.
    pub unsent: usize,
    /// Seconds for which the oldest of them has waited.
    pub unsent_for: Option<f64>,
    /// Entries the kernel refuses, now.
    pub failed: usize,
    /// Refusals by reason, since start.
    pub failures: Vec<(&'static str, u64)>,
    /// Entries owed to the owner.
    pub offers: usize,
    /// Datagrams of the owner's stream not applied yet.
    pub behind: u64,
    /// New entries of this kernel are heard of when they come, and those of before have been looked for. Not
    /// so on a backup, and on an owner until some time after its claim.
    pub hears_new_entries: bool,
    /// Seconds for which the digests have been equal: a backup's and the owner's, an owner's and its
    /// backup's.
    pub equal_for: Option<f64>,
    /// Seconds since the last whole sweep, or since start.
    pub sweep_age: f64,
    /// A whole sweep has happened.
    pub swept: bool,
    /// Bytes of the longest datagram that is sent.
    pub datagram: usize,
    /// ... and what the interface carries and the path to the peer does not, if so.
    pub narrow: Option<usize>,
    /// Digest root.
    pub root: String,
    /// The peers.
    pub peers: Vec<PeerView>,
}

impl Replica {
    /// Everything `status` needs.
    pub fn view(&self, now: Instant) -> View {
        let since = |at: Instant| now.saturating_duration_since(at);
        let readiness = self.readiness(now);
        let expected = self.table.counts().expected;
        let entries = self.connections();
        let peers: Vec<PeerView> = self
            .peers
            .all()
            .map(|peer| PeerView {
                name: peer.name.clone(),
                alive: peer.lives(),
                silent_ms: u64::try_from(since(peer.heard).as_millis()).unwrap_or(u64::MAX),
                owner: peer.owner,
                role: peer.role,
                primary: peer.role == Role::Primary,
                seat: peer.seat,
                ready: peer.ready,
                hears: peer.longest > 0,
                equal: peer.equal_since.is_some(),
                entries: peer.count,
                behind: peer.place.behind,
                lag_seconds: peer.place.lag.as_secs_f64(),
                kernel: peer.kernel,
            })
            .collect();
        let failures =
            Failure::ALL.iter().zip(self.counters.failures).map(|(reason, count)| (reason.word(), count));
        View {
            node: self.settings.name.clone(),
            role: self.group.role,
            seat: self.presence.seat,
            kernel: self.own_kernel(),
            bound_to: self.bound.address(),
            owner: self.ownership.is_owner(),
            epoch: self.group.claim.epoch,
            ready: readiness.in_step(),
            readiness: readiness.word(),
            in_step: self.in_step(now),
            fencing: self.fencing(),
            backlog: self.backlog(now),
            gate_open: self.gate_open(),
            internal: if self.ownership.is_owner() { entries } else { 0 },
            external: if self.ownership.is_owner() { 0 } else { entries },
            internal_expected: if self.ownership.is_owner() { expected } else { 0 },
            external_expected: if self.ownership.is_owner() { 0 } else { expected },
            orphans: self.orphans(),
            pending: self.pending(),
            unsent: self.unsent(),
            unsent_for: self.out.unsent.oldest(now).map(|age| age.as_secs_f64()),
            failed: self.table.counts().failed,
            failures: failures.collect(),
            offers: self.offers(),
            behind: self.following.behind(),
            hears_new_entries: !self.dumps.may_lack(),
            equal_for: self.equal_since().map(|at| since(at).as_secs_f64()),
            sweep_age: self.sweep.completed.map_or(since(self.peers.listening()), since).as_secs_f64(),
            swept: self.sweep.completed.is_some(),
            datagram: self.out.size.now(),
            narrow: self.out.size.narrow(),
            root: format!("{:016x}", self.group.sums.root()),
            peers,
        }
    }

    fn equal_since(&self) -> Option<Instant> {
        if !self.ownership.is_owner() {
            // With nobody there is nothing to be equal to.
            return self.following.equal_since().filter(|_| self.peers.own());
        }
        // Since the last of those that live is.
        let all: Option<Vec<Instant>> = self.peers.living().map(|peer| peer.equal_since).collect();
        all?.into_iter().max()
    }

    /// A peer that came (true) or went, to be told once.
    pub fn poll_peer_change(&mut self) -> Option<(String, bool)> {
        self.peers.poll_change()
    }

    /// Counters since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether this node owns its group.
    pub fn owner(&self) -> bool {
        self.ownership.is_owner()
    }

    /// Entries in the table that are no expectations.
    pub(super) fn connections(&self) -> usize {
        let counts = self.table.counts();
        counts.present - counts.expected
    }

    /// The role last told.
    pub fn role(&self) -> Role {
        self.group.role
    }

    /// Keys of which anything is remembered.
    pub fn slots(&self) -> usize {
        self.table.len()
    }

    /// The group's number on the wire.
    pub fn number(&self) -> u32 {
        self.settings.node_group
    }

    /// Whether the table has this entry.
    pub fn holds(&mut self, entry: &Entry) -> bool {
        self.look_up(entry).1.and_then(|id| self.table.get(id)).is_some_and(|slot| slot.has(Flags::PRESENT))
    }

    /// Whether the table has the entry that this one is related to.
    pub fn holds_master_of(&mut self, entry: &Entry) -> bool {
        let Some(key) = entry.master_key() else { return false };
        let hash = self.hashing.key(&key);
        let found = self.table.find(hash, &key).and_then(|id| self.table.get(id));
        found.is_some_and(|slot| slot.has(Flags::PRESENT))
    }

    /// This run.
    pub fn incarnation(&self) -> Incarnation {
        self.settings.incarnation
    }

    /// Whether this node follows the stream of that run.
    pub fn follows_run(&self, run: Incarnation) -> bool {
        !self.ownership.is_owner() && self.group.claim_incarnation == Some(run)
    }

    /// Keys that wait for the kernel.
    pub fn pending(&self) -> usize {
        self.work.keys()
    }

    /// Changes that wait for the channel.
    pub fn unsent(&self) -> usize {
        self.out.unsent.len()
    }

    /// The last number of the stream: sent by an owner, applied by everybody else; 0 for none.
    pub fn position(&self) -> u64 {
        if self.ownership.is_owner() {
            self.out.sender.last()
        } else {
            self.following.expected().map_or(0, |next| next - 1)
        }
    }

    /// Every entry in the table, with whether it is believed to be in the kernel.
    pub fn entries(&self) -> impl Iterator<Item = (Cow<'_, Entry>, bool)> + '_ {
        self.table
            .iter()
            .filter(|(_, slot)| slot.has(Flags::PRESENT))
            .map(|(_, slot)| (slot.entry(), slot.has(Flags::INSTALLED)))
    }
}
