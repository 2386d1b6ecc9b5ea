//! An owner's engine in the lab's own process, without a kernel: it is told of entries instead of hearing of
//! them.
//!
//! Called by the benchmarks.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ctsync::daemon::node_id;
use ctsync::engine::facts::KernelSettings;
use ctsync::engine::filter::Filter;
use ctsync::engine::replica::{Kept, Replica, Role, Settings, Tunables};
use ctsync::engine::wire::Incarnation;

/// Started, told that it is primary, its (empty) kernel read. It owns the group once it has heard of no other
/// owner.
pub(crate) fn primary(name: &str, run: u128, began: Instant) -> Result<Replica> {
    let settings = Settings {
        name: name.to_owned(),
        node: node_id(name),
        node_group: 0,
        mechanism_group: "vrrp SYNC".into(),
        peers: 0,
        keys: Vec::new(),
        incarnation: Incarnation(run),
        secret: run,
        datagram: 1_452,
        ring: 8 << 20,
        pending_destroys: 65_536,
        lease: 3_600,
        sweep: Duration::from_secs(600),
        flush_wait: Duration::ZERO,
        kernel: KernelSettings::default(),
        kept: Kept::default(),
        tunables: Tunables {
            alive: Duration::from_millis(250),
            lost_after: Duration::from_secs(1),
            hot: true,
            track_windows: false,
            gate_limit: Duration::from_secs(30),
            owner_lost: Duration::from_secs(3_600),
        },
    };
    let mut replica = Replica::new(settings, Filter::default(), began);
    replica.handle_events_empty();
    ensure!(replica.poll_dump(), "no dump is due");
    replica.handle_dump_end(true, began);
    replica.handle_role(Role::Primary, began);
    Ok(replica)
}
