//! Two to five replicas, their kernels, a wire and VRRP, on one virtual clock. Faults come from a seeded
//! source.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use ctsync_ctnetlink::entry::Key;
use ctsync_engine::facts::KernelSettings;
use ctsync_engine::filter::Filter;
use ctsync_engine::replica::{Kept, Replica, Role, Settings, Tunables};
use ctsync_engine::seal::Key as SealKey;
use ctsync_engine::wire::{Incarnation, NodeId};
use fastrand::Rng;
use indexmap::IndexMap;

use crate::cuts::Cuts;
use crate::kernel::{Kernel, ghost};
use crate::node::Node;
use crate::totals::Totals;

/// Keys in play: few, so that they meet.
pub(super) const KEYS: u16 = 20;
/// One step of virtual time.
const STEP: Duration = Duration::from_millis(10);
/// I1's bound: repair, installs and elections must be done after this much quiet.
const SETTLE: Duration = Duration::from_secs(12);
/// Silence of before the quiet is noticed until then.
const SILENCE: Duration = Duration::from_millis(1300);
/// Between two looks whether they agree.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) struct World {
    pub(super) rng: Rng,
    pub now: Instant,
    pub(super) began: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) cuts: Cuts,
    pub(super) loss: u32,
    pub(super) hot: bool,
    /// Every other world has a key, and a wire that changes bits.
    pub(super) keys: Vec<SealKey>,
    /// Datagrams that an attacker has seen, and to whom they went.
    pub(super) recorded: Vec<(usize, Vec<u8>)>,
    pub(super) connections: u32,
    pub(super) steps: u64,
    /// The connection that an expectation belongs to.
    pub(super) masters: BTreeMap<u32, (Key, u32)>,
    /// Connections that packets have ended.
    pub(super) dead: HashSet<u32>,
    /// When something last ended under a key. Of several nodes one may still own what another has ended.
    pub(super) ended: IndexMap<Key, Instant>,
    /// Connections that an owner's daemon has put into its kernel: offered by others.
    pub(super) brought: HashSet<u32>,
    /// Connections that nobody promised to keep.
    pub(super) unprotected: HashSet<u32>,
    /// What came to a node's kernel without anybody's daemon since its own daemon started, while it owned
    /// nothing.
    pub(super) strays: Vec<BTreeMap<u32, Key>>,
    /// Connections in all kernels at the last quiet point.
    pub(super) shared: IndexMap<Key, u32>,
    pub(super) powered_off: Vec<bool>,
    pub totals: Totals,
    pub trace: Option<Vec<String>>,
}

pub(crate) type Violation = String;

/// Nodes in the world of a seed: two in half of them, and each number with and without a key.
fn nodes_of(seed: u64) -> usize {
    match seed / 2 % 8 {
        0..=3 => 2,
        4 | 5 => 3,
        6 => 4,
        _ => 5,
    }
}

impl World {
    pub(crate) fn new(seed: u64, start: Instant, traced: bool) -> World {
        let mut rng = Rng::with_seed(seed);
        let hot = rng.u32(0..8) != 0;
        let names = ["a", "b", "c", "d", "e"];
        let count = nodes_of(seed);
        let node = |name: &&'static str| Node {
            name,
            kernel: Kernel::default(),
            replica: None,
            role: Role::Backup,
            kept: Kept::default(),
            dump: None,
            inbox: Vec::new(),
            counted: [0; 6],
            delivered: 0,
            blind: false,
            blind_again: false,
        };
        let mut world = World {
            rng,
            now: start,
            began: start,
            nodes: names.iter().take(count).map(node).collect(),
            cuts: Cuts::none(),
            loss: 0,
            hot,
            keys: if seed.is_multiple_of(2) { vec![SealKey([7; 32])] } else { Vec::new() },
            recorded: Vec::new(),
            connections: 0,
            steps: 0,
            dead: HashSet::new(),
            ended: IndexMap::new(),
            unprotected: HashSet::new(),
            brought: HashSet::new(),
            masters: BTreeMap::new(),
            strays: vec![BTreeMap::new(); count],
            shared: IndexMap::new(),
            powered_off: vec![false; count],
            totals: Totals::default(),
            trace: traced.then(Vec::new),
        };
        for x in 0..count {
            world.start(x);
        }
        world.set_role(0, Role::Primary);
        world
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let at = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:.3} {}", (at - self.began).as_secs_f64(), text()));
        }
    }

    fn start(&mut self, x: usize) {
        let (incarnation, secret) = (Incarnation(self.rng.u128(..)), self.rng.u128(..));
        let (hot, now) = (self.hot, self.now);
        let node = &mut self.nodes[x];
        let settings = Settings {
            name: node.name.into(),
            node: NodeId(x as u64 + 1),
            node_group: 0,
            mechanism_group: String::new(),
            peers: 0,
            keys: self.keys.clone(),
            incarnation,
            secret,
            datagram: 600,
            ring: 3000,
            pending_destroys: 1,
            lease: 1,
            sweep: Duration::from_secs(5),
            flush_wait: Duration::from_millis(100),
            kernel: KernelSettings::default(),
            kept: node.kept,
            tunables: Tunables {
                alive: Duration::from_millis(250),
                lost_after: Duration::from_secs(1),
                hot,
                track_windows: false,
                gate_limit: Duration::from_secs(30),
                owner_lost: Duration::from_secs(3600),
            },
        };
        let filter = Filter { channel_port: 3780, expect: vec!["all".into()], ..Filter::default() };
        self.strays[x].clear();
        let mut replica = Replica::new(settings, filter, now);
        replica.handle_role(node.role, now);
        node.kernel.heard = true;
        node.kernel.subscribed_new = true;
        node.kernel.overrun = false;
        node.blind = true;
        node.kernel.events.clear();
        node.dump = None;
        node.inbox.clear();
        node.counted = [0; 6];
        node.delivered = 0;
        node.replica = Some(replica);
        self.note(|| format!("start {x}"));
    }

    fn crash(&mut self, x: usize) {
        if self.nodes[x].replica.take().is_some() {
            self.totals.restarts += 1;
            self.nodes[x].kernel.heard = false;
            self.nodes[x].kernel.events.clear();
            self.note(|| format!("crash {x}"));
        }
    }

    fn power(&mut self, x: usize) {
        self.crash(x);
        self.totals.powers += 1;
        // Two losses before the pair could recover are one too many: nothing is promised then.
        self.powered_off[x] = true;
        let node = &mut self.nodes[x];
        for entry in node.kernel.table.values() {
            if !self.shared.values().any(|shared| *shared == ghost(entry)) {
                self.unprotected.insert(ghost(entry));
            }
        }
        node.kernel = Kernel::default();
        node.kept = Kept::default();
        node.role = Role::Backup;
        self.note(|| format!("power {x}"));
    }

    fn set_role(&mut self, x: usize, role: Role) {
        if self.nodes[x].role == role {
            return;
        }
        self.note(|| format!("role {x} {role:?}"));
        let now = self.now;
        // The daemon reads its sockets before it takes the role.
        self.read_all_events(x);
        let node = &mut self.nodes[x];
        node.role = role;
        if role == Role::Primary {
            self.totals.takeovers += 1;
        }
        if let Some(replica) = &mut node.replica {
            replica.handle_role(role, now);
        }
    }

    /// One step with whatever faults the seed has in store.
    pub(crate) fn step(&mut self, faults: bool) -> Result<(), Violation> {
        self.now += STEP;
        self.steps += 1;
        for x in 0..self.nodes.len() {
            if self.nodes[x].role == Role::Primary && faults {
                for _ in 0..self.rng.u32(0..3) {
                    self.traffic(x);
                }
            }
        }
        if faults {
            self.faults();
        }
        for x in 0..self.nodes.len() {
            self.turn(x, faults)?;
        }
        Ok(())
    }

    fn faults(&mut self) {
        let x = self.rng.usize(0..self.nodes.len());
        match self.rng.u32(0..2000) {
            0..=15 => self.crash(x),
            16..=60 if self.nodes[x].replica.is_none() => self.start(x),
            61..=64 if self.powered_off.iter().filter(|off| **off).count() + 1 < self.nodes.len() => {
                self.power(x);
            }
            65..=74 => self.cut_or_mend(x),
            75..=104 => {
                let role = if self.nodes[x].role == Role::Primary { Role::Backup } else { Role::Primary };
                self.set_role(x, role);
            }
            105..=114 => {
                self.nodes[x].kernel.lose_events();
                self.note(|| format!("overrun {x}"));
            }
            115..=119 => self.loss = [0, 5, 20, 50][self.rng.usize(0..4)],
            120..=123 if self.nodes[x].role != Role::Primary => self.stray(x),
            124..=126 => {
                // The process stands still, then finds full sockets.
                self.now += Duration::from_millis(self.rng.u64(200..3000));
                self.totals.clock_jumps += 1;
                self.note(|| "clock jump".into());
            }
            183..=190 => self.tamper(x),
            179..=182 => {
                // Fewer than are in play, and no fewer than are there: nobody lowers the limit of a working
                // router.
                self.totals.full += 1;
                let limit = self.rng.usize(5..25).max(self.nodes[x].kernel.table.len());
                self.nodes[x].kernel.limit = Some(limit);
                self.note(|| format!("the kernel of {x} holds {limit} entries"));
            }
            127..=178 => self.operator(x),
            _ => {}
        }
    }

    /// Somebody marks a connection in a kernel, and no daemon hears of it.
    fn tamper(&mut self, x: usize) {
        let node = &mut self.nodes[x];
        let at = self.rng.usize(0..node.kernel.table.len().max(1));
        let Some((_, entry)) = node.kernel.table.get_index_mut(at) else { return };
        if entry.expectation().is_none() {
            entry.mark = Some(self.rng.u32(1..));
            let id = ghost(entry);
            self.totals.tampered += 1;
            self.note(|| format!("{id} is marked on {x}, unheard"));
        }
    }

    /// An operator resets a cache, or has the kernel read again.
    fn operator(&mut self, x: usize) {
        let which = self.rng.u32(0..3);
        let Some(replica) = &mut self.nodes[x].replica else { return };
        match which {
            0 => replica.resync(),
            1 => replica.reset_internal(),
            _ => self.totals.resets += u64::from(replica.reset_external()),
        }
        self.note(|| format!("operator {x}: {which}"));
    }

    /// Faults stop, VRRP settles on `primary`; after the bound everything must agree.
    pub(crate) fn settle(&mut self, primary: usize) -> Result<(), Violation> {
        self.note(|| format!("quiet, primary {primary}"));
        self.cuts = Cuts::none();
        self.loss = 0;
        for x in 0..self.nodes.len() {
            self.nodes[x].kernel.limit = None;
            if self.nodes[x].replica.is_none() {
                self.start(x);
            }
        }
        for x in self.others(primary) {
            self.set_role(x, Role::Backup);
        }
        self.set_role(primary, Role::Primary);
        let began = self.now;
        let mut look = began;
        while self.now < began + SETTLE {
            self.step(false)?;
            if self.now < look {
                continue;
            }
            look = self.now + LOOK;
            if self.check_agreement(primary).is_ok() {
                break;
            }
        }
        self.totals.settled.push((self.now - began).as_millis() as u32);
        // Some worlds stay quiet for longer, through whole sweeps.
        let end = self.now.max(began + SILENCE) + if self.rng.u32(0..4) == 0 { SETTLE } else { LOOK };
        while self.now < end {
            self.step(false)?;
        }
        self.totals.quiet += 1;
        self.check_agreement(primary)?;
        self.check_counts()?;
        self.check_survival(primary)?;
        self.compare()?;
        self.powered_off.fill(false);
        self.brought.clear();
        Ok(())
    }

    pub(crate) fn random_primary(&mut self) -> usize {
        self.rng.usize(0..self.nodes.len())
    }

    /// All nodes but this one.
    pub(super) fn others(&self, x: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.nodes.len()).filter(move |y| *y != x)
    }

    /// The wire is cut somewhere, or whole again.
    fn cut_or_mend(&mut self, x: usize) {
        let count = self.nodes.len();
        if self.cuts.any() {
            self.cuts = Cuts::none();
        } else {
            self.totals.partitions += 1;
            self.cuts = match if count == 2 { 0 } else { self.rng.u32(0..3) } {
                0 => Cuts::everywhere(count),
                1 => Cuts::around(count, x),
                _ => Cuts::between(count, x, (x + self.rng.usize(1..count)) % count),
            };
        }
        let cuts = self.cuts.clone();
        self.note(|| format!("{cuts:?}"));
    }
}
