//! The replica: this node's engine. It decides everything and touches nothing: events, answers, datagrams, roles
//! and `now` come in by `handle_*`; requests, datagrams, deadlines and reports go out by `poll_*`.
//!
//! - `events`: kernel events and dumps into the table.
//! - `hearing`: whether new entries are heard of.
//! - `requests`: the table into kernel requests, answers, the sweep.
//! - `outgoing`: the owner's stream, repairs, alives.
//! - `door`: who is listened to.
//! - `incoming`: what the peer says.
//! - `repair`: a backup whose digest differs finds what, and asks for it.
//! - `takeover`: roles, claims, yields, the fence.
//! - `gate`: readiness, and who may be elected.
//! - `fullness`: a kernel table that is nearly full.
//! - `trim`: leases that go back to their protocols' timeouts.
//! - `windows`: TCP window tracking after a takeover.
//! - `invariants`: what holds between any two inputs.
//! - `operator`: what an operator asks for: resets, reloads, listings, live changes.
//! - `related`: masters, children, helpers.
//! - `comparison`: where this table and a peer's differ.
//! - `presence`: what it says of itself in its alives.
//! - `size`: how long a datagram may be.
//! - `departed`: addresses that left this node, and what the kernel ends because of that.
//! - `bound`: entries that can live on this node alone.
//! - `settings`, `counters`: what it is told at the start; what it counts.
//!
//! Called by the daemon and, with a virtual clock and wire, by the simulation. No socket, no runtime, no clock.
//! Numbers in brackets, (14), are the replication rules that a line implements; `docs/protocol.md` lists them.

mod bound;
mod comparison;
mod counters;
mod departed;
mod door;
mod events;
mod fullness;
mod gate;
mod hearing;
mod incoming;
mod invariants;
mod operator;
mod outgoing;
mod presence;
mod related;
mod repair;
mod requests;
mod settings;
mod size;
mod takeover;
mod trim;
pub mod view;
mod windows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::digest::{Digester, Sums, bucket_of};
use crate::facts::Seat;
use crate::filter::Filter;
use crate::reconcile::{Op, Standing};
use crate::seal::{Replays, Seal};
use crate::stream::{Receiver, Sender};
use crate::table::{Flags, Lists, Queue, SlotId, Table};
use crate::wire::{Claim, GroupId, Header, Incarnation, KernelTold, NodeId, packed};
use ctsync_ctnetlink::entry::{Entry, Key};

pub use crate::facts::Role;
pub use bound::bound_to;
pub use comparison::{Compared, Differing};
pub use counters::{Changes, Counters};
pub use door::Refused;
pub use fullness::nearly_full;
pub use gate::Readiness;
pub use operator::{Cache, Change, Listing, Refill, Tunables, Verb};
pub use requests::Request;
pub use settings::{Persist, Restored, Settings};
pub use takeover::FenceReport;

/// Peers whose state is kept; more than that on one channel are ignored and counted.
const PEERS: usize = 8;

/// What is known of another node.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    name: String,
    /// The log has been told that it is here.
    heard_of: bool,
    incarnation: Incarnation,
    heard: Instant,
    lost: bool,
    owner: bool,
    role: Role,
    seat: Seat,
    ready: bool,
    count: u32,
    /// What it hashes by.
    seed: u128,
    /// Its kernel, once it has told of it.
    kernel: Option<KernelTold>,
    /// Its last alive: its number, and when it was heard.
    turn: u32,
    spoke: Instant,
    /// The longest datagram of ours that it says it has heard lately, in bytes.
    longest: u16,
    /// The longest of its datagrams that was heard here lately.
    heard_longest: size::Longest,
    /// What it waits for of our stream, if it follows it, and when that last moved.
    next: Option<u64>,
    moved: Instant,
    /// Datagrams of our stream that it had not applied when last heard, and for how long the oldest had waited.
    behind: u64,
    lag: Duration,
    /// A backup of ours: since when its digest has been seen to equal what was sent.
    equal_since: Option<Instant>,
    replays: Replays,
}

/// A failover group as this node sees it.
pub(crate) struct Group {
    id: GroupId,
    claim: Claim,
    /// The incarnation behind `claim`, when a peer made it (16).
    claim_incarnation: Option<Incarnation>,
    owner: bool,
    role: Role,
    /// Told primary since the last claim or yield.
    want: bool,
    /// The role is what the addresses show: nobody told it, and it claims nothing from a living primary.
    supposed: bool,
    sums: Sums,
    /// The digest equals the owner's at the followed position (3).
    root_ok: bool,
    /// Since when.
    root_ok_since: Option<Instant>,
    receiver: Receiver,
}

/// Whole seconds of the replica's life.
fn seconds(now: Instant, began: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(began).as_secs()).unwrap_or(u32::MAX)
}

/// A repair job on the owner.
enum Job {
    Sums(crate::wire::Node),
    List(u16),
    Buckets(std::ops::Range<usize>),
    /// Every entry, in the order of the slots, which the processor sees coming; from this one on.
    Everything(SlotId),
    Key(u64),
}

/// This node's engine.
pub struct Replica {
    settings: Settings,
    header: Header,
    /// What keys and contents are hashed by: the group's owner's, once one is known.
    seed: u128,
    digester: Digester,
    seal: Seal,
    filter: Filter,
    table: Table,
    group: Group,
    peers: BTreeMap<NodeId, Peer>,
    presence: presence::Presence,
    bound: bound::Bound,
    departed: departed::Departed,
    challenges: door::Challenges,
    refusals: door::Refusals,
    size: size::Size,
    /// Answers to strangers that may still be given in this turn.
    answers_left: u32,
    sender: Sender,
    counters: Counters,
    /// Since when the peer is listened to: the end of the first dump.
    listening: Instant,

    // towards the peer
    dirty: Queue,
    waits: operator::Waits,
    control: VecDeque<Vec<u8>>,
    /// Offers that cannot be taken: key hash and birth stamp.
    refused: VecDeque<(u64, u16)>,
    /// Peers that came or went, for the log.
    peer_changes: VecDeque<(String, bool)>,
    resend: BTreeSet<u64>,
    jobs: VecDeque<Job>,
    job_credit: u32,
    job_refill: Instant,
    alive_due: Instant,
    alive_turn: u32,
    flush_token: u32,
    /// Datagrams of the stream applied since this node last said how far it is.
    unacknowledged: u32,
    /// Live datagrams since the last repair, while one waits.
    unrepaired: u32,
    repair: repair::Repair,
    nacked: incoming::Nacked,

    // towards the kernel
    pending: Queue,
    /// Entries whose lease and window tracking are to be renewed, when nothing is pending.
    renewals: Queue,
    /// A yield's renewals are not through yet.
    refreshing: bool,
    /// The requests of the batch that is being put together.
    batch: Vec<(SlotId, Op)>,
    /// Batches whose answers are not all in yet, oldest first.
    under_way: VecDeque<Vec<(SlotId, Op)>>,
    strays: Queue,
    strays_limit: usize,
    events_empty: bool,
    event_turn: u32,
    dump_due: bool,
    /// New entries of this kernel have not been heard of since its last dump.
    deaf: bool,
    /// They are heard of again: a dump is due for those before, and nothing else.
    look_due: bool,
    /// The dump under way is one of those.
    looking: bool,
    dumping: bool,
    dump_number: u32,
    dumped: bool,
    late: bool,
    sweep: requests::Sweep,
    related: related::Related,
    windows: windows::Windows,
    trim: trim::Trim,
    /// No owner has been heard for so long that none is expected any more.
    abandoned: bool,
    fullness: fullness::Fullness,

    // the operator
    journal: operator::Journal,
    comparison: Option<comparison::Comparison>,
    look_credit: usize,
    refill: Refill,

    // life
    /// The time of the input under way, as the caller told it.
    now: Instant,
    began: Instant,
    starting: bool,
    survived: bool,
    fresh: bool,
    was_owner: bool,
    fence: Option<takeover::Fence>,
    reports: VecDeque<FenceReport>,
    gate: gate::Gate,
    flush_counter: u32,
    truth: bool,
    scratch: Vec<u8>,
    /// Of the keys of a batch.
    hashes: Vec<u64>,
}

impl Replica {
    /// A replica that has just started, knows nothing, and wants a dump.
    pub fn new(settings: Settings, filter: Filter, now: Instant) -> Replica {
        let restored = settings.restored;
        let role = restored.role.unwrap_or(Role::Unknown);
        let header = Header {
            node_group: settings.node_group,
            sender: settings.node,
            incarnation: settings.incarnation,
        };
        let seed = Digester::seed(settings.secret);
        Replica {
            header,
            seed,
            digester: Digester::new(seed),
            seal: Seal::new(&settings.keys, settings.node_group, settings.incarnation),
            filter,
            // Any start does.
            table: Table::new((settings.incarnation.0 & 0xffff) as u16),
            group: Group {
                id: GroupId::default(),
                claim: Claim::default(),
                claim_incarnation: None,
                owner: false,
                role,
                // What a former run was told is a level, no news: nothing is claimed from a living primary by it.
                want: false,
                supposed: false,
                sums: Sums::default(),
                root_ok: false,
                root_ok_since: None,
                receiver: Receiver::default(),
            },
            peers: BTreeMap::new(),
            presence: presence::Presence::new(settings.told_group.clone(), settings.kernel),
            bound: bound::Bound::new(now),
            departed: departed::Departed::default(),
            challenges: door::Challenges::new(settings.secret),
            refusals: door::Refusals::default(),
            size: size::Size::new(settings.datagram),
            answers_left: door::ANSWERS,
            sender: Sender::new(settings.ring),
            counters: Counters::default(),
            listening: now,
            dirty: Queue::new(Lists::OUT),
            waits: operator::Waits::default(),
            control: VecDeque::new(),
            refused: VecDeque::new(),
            peer_changes: VecDeque::new(),
            resend: BTreeSet::new(),
            jobs: VecDeque::new(),
            job_credit: 0,
            job_refill: now,
            alive_due: now,
            alive_turn: 0,
            flush_token: 0,
            unacknowledged: 0,
            unrepaired: 0,
            repair: repair::Repair::default(),
            nacked: incoming::Nacked::default(),
            pending: Queue::new(Lists::IN),
            renewals: Queue::new(Lists::RENEWALS),
            refreshing: false,
            batch: Vec::new(),
            under_way: VecDeque::new(),
            strays: Queue::new(Lists::STRAYS),
            strays_limit: events::STRAYS,
            events_empty: false,
            event_turn: 1,
            dump_due: true,
            deaf: false,
            look_due: false,
            looking: false,
            dumping: false,
            dump_number: 0,
            dumped: false,
            late: false,
            sweep: requests::Sweep::new(now),
            related: related::Related::new(now),
            windows: windows::Windows::new(),
            trim: trim::Trim::default(),
            abandoned: false,
            fullness: fullness::Fullness::new(),
            journal: operator::Journal::default(),
            comparison: None,
            look_credit: comparison::ANSWERS,
            refill: Refill::default(),
            now,
            began: now,
            starting: true,
            survived: restored.settled && restored.truth,
            fresh: !restored.settled,
            was_owner: restored.was_owner,
            fence: None,
            reports: VecDeque::new(),
            gate: gate::Gate::new(now),
            flush_counter: 0,
            truth: restored.settled && restored.truth,
            settings,
            scratch: Vec::with_capacity(2048),
            hashes: Vec::new(),
        }
    }

    /// The addresses of this router changed.
    pub fn handle_addresses(&mut self, local: std::collections::HashSet<std::net::IpAddr>) {
        self.filter.local = local;
    }

    /// When [`Replica::handle_timeout`] wants to be called next. Too early or twice does no harm.
    pub fn poll_timeout(&self, now: Instant) -> Instant {
        // Before the first dump is complete nothing is said, however late it is (10).
        let mut next = if self.dumped { self.alive_due } else { now + self.settings.alive };
        let mut consider = |at: Instant| next = next.min(at);
        for peer in self.peers.values().filter(|peer| !peer.lost) {
            consider(peer.heard + self.settings.lost_after);
        }
        if self.peers.is_empty() && self.starting && self.dumped {
            consider(self.listening + self.settings.lost_after);
        }
        if self.group.receiver.has_gap() {
            consider(self.nacked.again.unwrap_or(now));
        }
        if let Some(at) = self.repair.next(now) {
            consider(at);
        }
        let window = self.window(now);
        let paced = !self.jobs.is_empty() && window == outgoing::Window::Unknown;
        if paced || !self.resend.is_empty() {
            consider(self.job_refill + outgoing::JOB_TICK);
        }
        if let outgoing::Window::Full(until) = window {
            consider(until);
        }
        if let Some(fence) = &self.fence {
            consider(fence.next_step(now));
        }
        if let Some(comparison) = &self.comparison {
            consider(comparison.next_step());
        }
        consider(self.sweep.next(now));
        self.next_reread().into_iter().chain(self.next_window_step()).for_each(&mut consider);
        self.next_trim().into_iter().chain(self.next_departed()).for_each(&mut consider);
        consider(self.gate.next());
        next.max(now)
    }

    /// Time has passed. All sockets must have been read empty before: silence is judged here.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.look_credit = comparison::ANSWERS;
        self.answers_left = door::ANSWERS;
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

    fn standing(&self) -> Standing {
        Standing {
            primary: self.group.role == Role::Primary,
            owner: self.group.owner,
            hot: self.settings.hot,
        }
    }

    /// No peer is heard any more, or none ever was for as long.
    fn peer_lost(&self, now: Instant) -> bool {
        if self.peers.is_empty() {
            return now >= self.listening + self.settings.lost_after;
        }
        self.peers.values().all(|peer| peer.lost)
    }

    fn peer_owns(&self) -> bool {
        self.peers.values().any(|peer| !peer.lost && peer.owner)
    }

    fn peer_primary(&self) -> bool {
        self.peers.values().any(|peer| !peer.lost && peer.role == Role::Primary)
    }

    /// A living peer has said who owns the group. One that has just proved to be a new run has not yet.
    fn peer_heard(&self) -> bool {
        self.peers.values().any(|peer| !peer.lost && peer.heard_of)
    }

    fn key_hash(&mut self, key: &Key) -> u64 {
        self.digester.hash_key(&mut self.scratch, key)
    }

    fn content_hash(&mut self, id: SlotId) -> u64 {
        self.scratch.clear();
        if let Some(slot) = self.table.get(id) {
            packed::emit_canonical(&mut self.scratch, &slot.entry());
        }
        self.digester.hash(&self.scratch)
    }

    fn content_of(&mut self, entry: &Entry) -> u64 {
        self.scratch.clear();
        packed::emit_canonical(&mut self.scratch, entry);
        self.digester.hash(&self.scratch)
    }

    /// The hash of an entry's key, and its slot if there is one.
    fn look_up(&mut self, entry: &Entry) -> (u64, Option<SlotId>) {
        let key = entry.key();
        let hash = self.key_hash(&key);
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
        let present = self.table.get(id).is_some_and(|slot| slot.has(Flags::PRESENT));
        let content = if present { self.content_hash(id) } else { 0 };
        self.count_as(id, content);
    }

    fn set_present(&mut self, id: SlotId, present: bool) {
        let Some(mut slot) = self.table.get_mut(id) else { return };
        if slot.has(Flags::PRESENT) != present {
            slot.put(Flags::PRESENT, present);
            if present {
                slot.since = seconds(self.now, self.began);
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
        self.clear_failure(id);
        let Some(mut slot) = self.table.get_mut(id) else { return };
        slot.set(Flags::PENDING);
        if slot.has(Flags::ASKED) {
            slot.set(Flags::OVERTAKEN);
        }
        if read_back {
            slot.set(Flags::READ_BACK);
        }
        self.pending.push(&mut self.table, id);
    }

    /// Queue an installed entry for a new lease and be-liberal, behind everything that is pending.
    fn want_renewal(&mut self, id: SlotId) {
        self.renewals.push(&mut self.table, id);
    }

    /// Forget a slot of which nothing is known any more.
    fn release(&mut self, id: SlotId) {
        let dump = self.dumping.then_some(self.dump_number);
        self.table.release(id, dump);
    }
}
