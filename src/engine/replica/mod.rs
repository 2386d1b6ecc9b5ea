//! The replica: this node's engine. It decides everything and touches nothing: events, answers, datagrams,
//! roles and `now` come in by `handle_*`; requests, datagrams, deadlines and reports go out by `poll_*`.
//!
//! The state is in structs, each of which its own file alone changes: they are the fields of [`Replica`]. The
//! other rooms say what is to be done with them: `events` and `subscription` (this kernel speaks), `requests`
//! (it is asked), `door` and `incoming` (a peer speaks), `outgoing` (it is answered), `takeover` and `gate`
//! (the role), `operator` and `view` (people); `invariants` says what holds between any two inputs.
//! `docs/architecture.md` has them all.
//!
//! Called by the daemon and, with a virtual clock and wire, by the simulation. No socket, no runtime, no
//! clock. Numbers in brackets, (14), are the replication rules that a line implements; `docs/protocol.md`
//! lists them.

mod alives;
mod answers;
mod bound;
mod claims;
mod comparison;
mod counters;
mod departed;
mod door;
mod dumps;
mod ends;
mod events;
mod fence;
mod following;
mod fullness;
mod gate;
mod hashing;
mod incoming;
mod invariants;
mod kept;
mod life;
mod operator;
mod outgoing;
mod ownership;
mod peers;
mod presence;
mod related;
mod repair;
mod requests;
mod settings;
mod size;
mod strays;
mod subscription;
mod takeover;
mod trim;
mod unsent;
pub mod view;
mod windows;
mod work;

use std::time::Instant;

use crate::digest::{Sums, bucket_of};
use crate::filter::Filter;
use crate::reconcile::Standing;
use crate::table::{Flags, SlotId, Table, is_present};
use crate::wire::{Claim, GroupId, Incarnation, Stood};
use ctsync_ctnetlink::entry::Entry;

use ownership::Ownership;

pub use crate::facts::Role;
pub use bound::bound_to;
pub use comparison::{Compared, Differing};
pub use counters::{Changes, Counters};
pub use door::Refused;
pub use fence::FenceReport;
pub use fullness::nearly_full;
pub use gate::Readiness;
pub use kept::Kept;
pub use operator::{Cache, Change, Listing, Refill, Verb};
pub use requests::Request;
pub use settings::{Settings, Tunables};

/// A failover group as this node sees it.
pub(crate) struct Group {
    id: GroupId,
    /// The claim that this node made, or whose stream it follows.
    claim: Claim,
    /// The run behind `claim` (16); none before there was one.
    claim_incarnation: Option<Incarnation>,
    /// The highest claim that this node, or the run before it, made or followed (N9).
    highest: Claim,
    /// The claim under which the run before this one owned the group: that of the truth, if it is (19).
    truth: Claim,
    /// The run with which the table began from nothing that this kernel was in step with last, folded (18).
    lineage: u64,
    /// The highest epoch that anybody ever told of (N4).
    epoch: u64,
    /// Where this node stood when it claimed (N1).
    stood: Option<Stood>,
    role: Role,
    /// The role is what the addresses show: nobody told it, and it claims nothing from a living primary.
    supposed: bool,
    sums: Sums,
}

impl Group {
    /// This claim binds from now on.
    fn claim_as(&mut self, claim: Claim, run: Incarnation) {
        self.claim = claim;
        self.claim_incarnation = Some(run);
        self.highest = self.highest.max(claim);
        self.epoch = self.epoch.max(claim.epoch);
    }
}

/// This node's engine.
pub struct Replica {
    /// How it behaves. A reload changes some of it (`operator`).
    settings: Settings,
    /// The time, told by each input.
    life: life::Life,
    /// Which entries are worth synchronising, and this router's own addresses. A reload and the daemon change
    /// it.
    filter: Filter,
    /// What keys and contents are hashed by. Another owner's claim changes it (`incoming`).
    hashing: hashing::Hashing,
    /// What is known of each key. All rooms that hear of an entry change it, by the slots' own methods.
    table: Table,
    /// The group: who claims it, this node's role, the sums of what is counted. `takeover` and `incoming`
    /// change it.
    group: Group,
    /// How this node stands to the group. `takeover` and `trim` change it.
    ownership: Ownership,
    /// What takeovers leave: reports. `takeover`'s.
    takeovers: takeover::Takeovers,
    /// Whether this kernel may speak for the group. `takeover` and `incoming` change it.
    worth: kept::Worth,
    /// Whether this node may be elected. `gate`'s.
    gate: gate::Gate,

    /// The other nodes. `door` lets them in, `incoming` tells what they say.
    peers: peers::Peers,
    /// Who is asked to prove itself, and what was refused. `door`'s.
    door: door::Door,
    /// This node's place in its owner's stream. `incoming` and `takeover` change it.
    following: following::Following,
    /// What goes out. `outgoing`, and whoever has something to say.
    out: outgoing::Outgoing,
    /// Which connections have ended lately. `outgoing`, `incoming` and `takeover` change it.
    ends: ends::Ends,
    /// What this node says of itself. The daemon changes it.
    presence: presence::Presence,

    /// What waits for the kernel, and what it is being asked. Any room may want something; `requests` takes
    /// it out.
    work: work::Work,
    /// What the kernel has and the table lacks. `events` notes it, `takeover` takes it.
    strays: strays::Strays,
    /// Readings of the kernel's table. Any room may want one; `events` reads it.
    dumps: dumps::Dumps,
    /// The walk that keeps table and kernel alike. `requests`'s.
    sweep: requests::Sweep,
    /// Entries with masters, children and helpers. `related`'s.
    related: related::Related,
    /// Entries whose window tracking can come back. `windows`'s.
    windows: windows::Windows,
    /// The walk that gives leases back. `trim`'s.
    trim: trim::Trim,
    /// What waits for room in the kernel's table. `fullness`'s.
    fullness: fullness::Fullness,
    /// Addresses that have left this node. `departed`'s.
    departed: departed::Departed,
    /// The count of entries that can live here alone. `bound`'s.
    bound: bound::Bound,

    /// What is counted for people; nothing is decided by it. Each room counts its own.
    counters: Counters,
    /// Changes for who watches. `operator`'s.
    journal: operator::Journal,
    /// This node's comparison with a peer, and its answers to theirs. `comparison`'s.
    looks: comparison::Looks,
    /// How far a reset of the external cache is. `operator`'s.
    refill: Refill,
}

impl Replica {
    /// A replica that has just started, knows nothing, and wants a dump.
    pub fn new(settings: Settings, filter: Filter, now: Instant) -> Replica {
        let kept = settings.kept;
        let role = kept.role.unwrap_or(Role::Unknown);
        Replica {
            life: life::Life::new(now),
            filter,
            hashing: hashing::Hashing::new(settings.secret),
            // A birth stamp only has to differ from the last one of its key: any start does.
            table: Table::new((settings.incarnation.0 & 0xffff) as u16),
            group: Group {
                id: GroupId::default(),
                claim: Claim::default(),
                claim_incarnation: None,
                highest: kept.claim,
                truth: kept.claim,
                lineage: kept.lineage,
                epoch: kept.claim.epoch,
                stood: None,
                // What a former run was told is a level, no news: nothing is claimed from a living primary by
                // it.
                role,
                supposed: false,
                sums: Sums::default(),
            },
            ownership: Ownership::new(),
            takeovers: takeover::Takeovers::default(),
            worth: kept::Worth::new(kept),
            gate: gate::Gate::new(now),
            peers: peers::Peers::new(settings.node, settings.peers.max(usize::from(kept.peers)), now),
            door: door::Door::new(settings.secret),
            following: following::Following::default(),
            out: outgoing::Outgoing::new(&settings, now),
            ends: ends::Ends::default(),
            presence: presence::Presence::new(settings.mechanism_group.clone(), settings.kernel),
            work: work::Work::new(),
            strays: strays::Strays::new(),
            dumps: dumps::Dumps::new(),
            sweep: requests::Sweep::new(now),
            related: related::Related::new(now),
            windows: windows::Windows::new(),
            trim: trim::Trim::default(),
            fullness: fullness::Fullness::new(),
            departed: departed::Departed::default(),
            bound: bound::Bound::new(now),
            counters: Counters::default(),
            journal: operator::Journal::default(),
            looks: comparison::Looks::default(),
            refill: Refill::default(),
            settings,
        }
    }

    /// The addresses of this router changed.
    pub fn handle_addresses(&mut self, local: std::collections::HashSet<std::net::IpAddr>) {
        self.filter.local = local;
    }

    /// When [`Replica::handle_timeout`] wants to be called next. Too early or twice does no harm.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        // Before the first dump is complete nothing is said, however late it is (10).
        let mut next =
            if self.dumps.known() { self.out.alives.due() } else { now + self.settings.tunables.alive };
        let mut consider = |at: Instant| next = next.min(at);
        self.peers.next_loss(self.settings.tunables.lost_after).into_iter().for_each(&mut consider);
        let silent = self.peers.listening() + self.settings.tunables.lost_after;
        if now < silent && self.ownership.is_starting() && self.dumps.known() {
            consider(silent);
        }
        self.following.next_nack(now).into_iter().for_each(&mut consider);
        if let Some(at) = self.following.repair.next(now) {
            consider(at);
        }
        let window = self.window(now);
        self.out.answers.next_tick(window == outgoing::Window::Unknown).into_iter().for_each(&mut consider);
        if let outgoing::Window::Full(until) = window {
            consider(until);
        }
        if let Some(opening) = self.ownership.opening() {
            consider(opening.next_step(now));
        }
        let waits = self.ownership.closing().and_then(fence::Closing::deadline).filter(|at| now < *at);
        waits.into_iter().for_each(&mut consider);
        self.looks.next_step().into_iter().for_each(&mut consider);
        consider(self.sweep.next(now));
        self.next_reread().into_iter().chain(self.next_window_step()).for_each(&mut consider);
        self.next_trim().into_iter().chain(self.next_departed()).for_each(&mut consider);
        consider(self.gate.next());
        next.max(now)
    }

    /// Time has passed. All sockets must have been read empty before: silence is judged here.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.life.at(now);
        self.looks.begin_turn();
        self.door.begin_turn();
        self.judge_silence(now);
        self.chase_gap(now);
        self.run_sweep(now);
        self.reread(now);
        self.step_windows(now);
        self.judge_owner(now);
        self.run_trim(now);
        self.judge_departed(now);
        self.count_bound(now);
        self.step_takeover(now);
        self.judge_gate(now);
        self.chase_comparison(now);
        self.finish_refill();
    }

    /// A turn ends in which more waits to be heard than was read. Silence is not judged, but a takeover goes
    /// on.
    pub fn handle_busy_turn(&mut self, now: Instant) {
        self.life.at(now);
        self.step_takeover(now);
    }

    fn standing(&self) -> Standing {
        Standing {
            primary: self.group.role == Role::Primary,
            owner: self.ownership.is_owner(),
            hot: self.settings.tunables.hot,
        }
    }

    /// No peer is heard any more, or none ever was for as long.
    fn peer_lost(&self, now: Instant) -> bool {
        self.peers.lost(self.settings.tunables.lost_after, now)
    }

    fn content_hash(&mut self, id: SlotId) -> u64 {
        self.table.get(id).map_or(0, |slot| self.hashing.content(&slot.entry()))
    }

    /// The hash of an entry's key, and its slot if there is one.
    fn look_up(&mut self, entry: &Entry) -> (u64, Option<SlotId>) {
        let key = entry.key();
        let hash = self.hashing.key(&key);
        (hash, self.table.find(hash, &key))
    }

    fn slot_for(&mut self, entry: &Entry) -> SlotId {
        let (hash, found) = self.look_up(entry);
        found.unwrap_or_else(|| self.table.insert(hash, entry.clone()))
    }

    /// Make the group's sums count `content` (0: nothing) for this slot.
    fn count_as(&mut self, id: SlotId, content: u64) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        let bucket = bucket_of(slot.key_hash);
        let before = std::mem::replace(&mut slot.sent, content);
        if before != content {
            if before != 0 {
                self.group.sums.remove(bucket, before);
            }
            if content != 0 {
                self.group.sums.add(bucket, content);
            }
        }
    }

    /// Count what the table holds now: for nodes that do not own the group.
    fn count_as_held(&mut self, id: SlotId) {
        let present = is_present(&self.table, id);
        let content = if present { self.content_hash(id) } else { 0 };
        self.count_as(id, content);
    }

    fn set_present(&mut self, id: SlotId, present: bool) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has(Flags::PRESENT) != present {
            slot.put(Flags::PRESENT, present);
            if present {
                slot.since = self.life.seconds();
            }
        }
        // What is in the table is not kept aside, and what is not is owed to nobody.
        slot.clear(if present { Flags::FORGOTTEN } else { Flags::OFFER });
    }

    fn drop_offer(&mut self, id: SlotId) {
        if let Some(mut slot) = self.table.get_mut(id) {
            slot.clear(Flags::OFFER);
        }
    }

    fn clear_failure(&mut self, id: SlotId) {
        if let Some(mut slot) = self.table.get_mut(id) {
            slot.set_failure(None);
        }
    }

    /// Queue a key for the kernel.
    fn want_kernel(&mut self, id: SlotId, read_back: bool) {
        self.work.want(&mut self.table, id, read_back);
    }

    /// Queue an installed entry for a new lease and be-liberal, behind everything that is pending.
    fn want_renewal(&mut self, id: SlotId) {
        self.work.renew(&mut self.table, id);
    }

    /// Forget a slot of which nothing is known any more.
    fn release(&mut self, id: SlotId) {
        self.table.release(id, self.dumps.under_way());
    }
}
