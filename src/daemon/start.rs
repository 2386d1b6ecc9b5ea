//! What a run begins with: the replica's settings, the role that a former run left, what the kernel must
//! have.

use std::net::IpAddr;

use super::{Daemon, DaemonError, failed};
use crate::config::{Config, FurtherGroup};
use crate::engine::digest::Digester;
use crate::engine::facts::{KernelSettings, Rules, TIMEOUTS};
use crate::engine::filter::Filter;
use crate::engine::replica::Settings;
use crate::engine::seal::Key;
use crate::engine::wire::{Incarnation, NodeId};
use crate::io::runstate::RunState;

pub(super) fn settings(config: &Config, mtu: usize, state: &RunState) -> Result<Settings, DaemonError> {
    Ok(Settings {
        name: config.node.clone(),
        node: node_id(&config.node),
        node_group: config.node_group,
        mechanism_group: String::new(),
        peers: config.peers.len(),
        keys: Vec::new(),
        incarnation: Incarnation(random()?),
        secret: random()?,
        datagram: datagram(mtu),
        ring: config.sync_queue,
        pending_destroys: PENDING_DESTROYS,
        lease: LEASE,
        sweep: SWEEP,
        flush_wait: FLUSH_WAIT,
        tunables: config.tunables,
        kernel: kernel_settings(Rules::default()),
        kept: state.left(),
    })
}

/// Seconds: the shortest timeout of an installed entry. The sweep renews it six times within.
const LEASE: u32 = 3600;
/// Every entry is compared with the kernel this often.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(600);
/// Destroys that may wait for the channel.
const PENDING_DESTROYS: usize = 65_536;
/// How long a takeover waits for a peer that still talks.
const FLUSH_WAIT: std::time::Duration = std::time::Duration::from_millis(100);

/// Whether the channel is sealed, and under which keys; what is told is no secret.
pub(super) fn tell_keys(keys: &[Key], interface: &str) {
    let fingerprints: Vec<String> = keys.iter().map(Key::fingerprint).collect();
    match fingerprints.split_first() {
        None => tracing::warn!("no key is configured: anyone on {interface} can write to this table"),
        Some((seals, [])) => tracing::info!(seals, "the channel is sealed"),
        Some((seals, opens)) => tracing::info!(seals, opens = opens.join(","), "the channel is sealed"),
    }
}

/// A node's number: a fixed hash of its name.
pub fn node_id(name: &str) -> NodeId {
    NodeId(Digester::new(0x6374_7379_6e63).hash(name.as_bytes()))
}

/// A further group's number on the wire, where the first group has the `node-group`: a fixed hash of both.
pub(super) fn group_number(config: &Config, group: &FurtherGroup) -> u32 {
    let hashed =
        Digester::new(0x6374_7379_6e63).hash(format!("{}/{}", config.node_group, group.name).as_bytes());
    (hashed >> 32) as u32
}

/// 128 random bits.
fn random() -> Result<u128, DaemonError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| failed("get random bytes")(error.into()))?;
    Ok(u128::from_be_bytes(bytes))
}

/// Without `nf_conntrack_events` 1 entries older than every listener never report an update or their end.
pub(super) fn check_events_enabled() {
    const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_events";
    let now = std::fs::read_to_string(PATH).unwrap_or_default();
    if now.trim() != "1" && std::fs::write(PATH, "1").is_err() {
        tracing::warn!(
            "net.netfilter.nf_conntrack_events is {} and cannot be set: entries older than this daemon tell \
             neither updates nor their end; set it to 1 at boot",
            if now.trim().is_empty() { "absent" } else { now.trim() }
        );
    }
}

/// A number under `net.netfilter`; 0 when it is not there.
pub(super) fn netfilter_sysctl(name: &str) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// What this kernel is set to now, and its rules.
pub(super) fn kernel_settings(rules: Rules) -> KernelSettings {
    KernelSettings {
        max: netfilter_sysctl("nf_conntrack_max"),
        loose: netfilter_sysctl("nf_conntrack_tcp_loose") == 1,
        events: netfilter_sysctl("nf_conntrack_events") == 1,
        timestamps: netfilter_sysctl("nf_conntrack_timestamp") == 1,
        rules,
        timeouts: TIMEOUTS.map(|name| netfilter_sysctl(&format!("nf_conntrack_{name}"))),
    }
}

/// IPv6 and UDP headers.
const HEADERS: usize = 48;

/// Bytes of the largest datagram that passes an interface whole.
pub(super) fn datagram(mtu: usize) -> usize {
    mtu.clamp(576, 65_535) - HEADERS
}

/// Which entries take part, by configuration and the router's addresses.
pub(crate) fn filter(config: &Config, local: std::collections::HashSet<IpAddr>) -> Filter {
    Filter {
        local,
        channel_port: config.port,
        accept: config.accept_protocol.clone(),
        ignore: config.ignore_address.clone(),
        expect: config.expect_sync.clone(),
        include_local: config.include_local,
    }
}

impl Daemon {
    /// Take over what a reload may change.
    pub(super) fn apply(&mut self, new: &Config) {
        let config = &mut self.config;
        config.accept_protocol.clone_from(&new.accept_protocol);
        config.ignore_address.clone_from(&new.ignore_address);
        config.expect_sync.clone_from(&new.expect_sync);
        config.include_local = new.include_local;
        config.key_file.clone_from(&new.key_file);
        config.event_buffer = new.event_buffer;
        config.tunables = new.tunables;
        self.events.get_mut().set_buffer_size(config.event_buffer);
        for replica in self.groups.iter_mut().map(|group| &mut group.replica) {
            replica.tune(config.tunables);
            let filter = filter(config, replica.filter().local.clone());
            if filter != *replica.filter() {
                replica.set_filter(filter);
            }
        }
    }
}
