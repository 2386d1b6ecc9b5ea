//! A replica and entries for named cases, without kernel, wire or clock.

#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "kernel.rs"]
pub(crate) mod kernel;
pub(crate) mod many;
pub(crate) mod pair;

use std::time::{Duration, Instant};

use ctsync_ctnetlink::entry::{Entry, L4, Status, Tuple, proto};
use ctsync_engine::facts::{Evidence, KernelSettings, Seat};
use ctsync_engine::filter::Filter;
use ctsync_engine::replica::{Kept, Replica, Role, Settings, Tunables};
use ctsync_engine::seal::Key;
use ctsync_engine::verdict::{self, Around};
use ctsync_engine::wire::{Incarnation, NodeId};

/// Any moment.
#[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

/// Started, its (empty) kernel read, its role told.
pub(crate) fn replica(number: u64, role: Role, hot: bool, now: Instant) -> Replica {
    keyed(number, role, hot, Vec::new(), now)
}

/// The same with keys.
pub(crate) fn keyed(number: u64, role: Role, hot: bool, keys: Vec<Key>, now: Instant) -> Replica {
    another_run(number, 0, role, hot, keys, now)
}

/// The same node, started once more.
pub(crate) fn another_run(
    number: u64,
    run: u64,
    role: Role,
    hot: bool,
    keys: Vec<Key>,
    now: Instant,
) -> Replica {
    let mut replica = started(number, run, hot, keys, Kept::default(), now);
    replica.handle_role(role, now);
    replica
}

/// Started once more with what the run before it left, and told nothing.
pub(crate) fn remembering(number: u64, run: u64, kept: Kept, now: Instant) -> Replica {
    started(number, run, true, Vec::new(), kept, now)
}

fn started(number: u64, run: u64, hot: bool, keys: Vec<Key>, kept: Kept, now: Instant) -> Replica {
    let mut replica = starting(number, run, hot, keys, kept, now);
    replica.handle_events_empty();
    assert!(replica.poll_dump());
    replica.handle_dump_end(true, now);
    replica
}

/// Its kernel has not been read yet.
pub(crate) fn starting(
    number: u64,
    run: u64,
    hot: bool,
    keys: Vec<Key>,
    kept: Kept,
    now: Instant,
) -> Replica {
    let random = u128::from(run) << 64 | u128::from(number);
    let settings = Settings {
        name: format!("router{number}"),
        node: NodeId(number),
        node_group: 0,
        mechanism_group: "manual G".into(),
        peers: 0,
        keys,
        incarnation: Incarnation(random),
        secret: random,
        datagram: 1400,
        // The least that `sync-queue-size` can say.
        ring: 1 << 20,
        pending_destroys: 1000,
        lease: 3600,
        sweep: Duration::from_secs(600),
        flush_wait: Duration::from_millis(100),
        kernel: KernelSettings::default(),
        kept,
        tunables: Tunables {
            alive: Duration::from_millis(250),
            lost_after: Duration::from_secs(1),
            hot,
            track_windows: false,
            gate_limit: Duration::from_secs(30),
            owner_lost: Duration::from_secs(3600),
        },
    };
    let mut replica = Replica::new(settings, Filter::default(), now);
    replica.set_seat(Seat { evidence: Evidence::Told, ..Seat::default() }, now);
    replica
}

/// A failover now would lose nothing, as far as this node knows.
pub(crate) fn protected(replica: &Replica, now: Instant) -> bool {
    verdict::findings(&replica.view(now), &Around::default()).is_empty()
}

/// A UDP connection from port `number`.
pub(crate) fn entry(number: u16, mark: u32) -> Entry {
    let orig = Tuple {
        src: [10, 0, 1, 100].into(),
        dst: [10, 0, 0, 100].into(),
        proto: proto::UDP,
        l4: L4::Ports { src: number, dst: 53 },
    };
    Entry {
        orig,
        reply: orig.inverse(),
        zone: 0,
        status: Status::Confirmed,
        timeout: Some(100),
        mark: Some(mark),
        tcp: None,
        master: None,
        rare: None,
    }
}

pub(crate) fn contents(replica: &Replica) -> Vec<String> {
    let mut all: Vec<String> = replica.entries().map(|(entry, _)| format!("{entry:?}")).collect();
    all.sort();
    all
}
