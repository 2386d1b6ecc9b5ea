//! What of the configuration does not fit this machine: interfaces, addresses, keys, keepalived's and
//! heartbeat's files.
//!
//! Made by `machine`, `keys` and `keepalived`.

use std::path::PathBuf;

use thiserror::Error;

use super::Nearest;

/// What of the configuration does not fit this machine: interfaces, addresses, keys, keepalived's and
/// heartbeat's files.
#[derive(Debug, Error)]
pub enum MachineMistake {
    /// No such interface.
    #[error("interface {found} does not exist on this system{nearest}")]
    InterfaceMissing {
        /// What stands there.
        found: String,
        /// One that exists.
        nearest: Nearest,
    },
    /// Multicast needs an IPv4 address.
    #[error("interface {interface} requires an IPv4 address for multicast and has none")]
    InterfaceWithoutAddress {
        /// The interface.
        interface: String,
    },
    /// The listen-address is not ours.
    #[error("specified listen-address {found} not assigned to any interface")]
    ListenNotLocal {
        /// What stands there.
        found: String,
    },
    /// The peer's address is our own.
    #[error("peer {found} is an address of this router itself")]
    PeerIsSelf {
        /// What stands there.
        found: String,
    },
    /// The keys cannot be read.
    #[error("the keys in {file} cannot be read")]
    KeyUnreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may read the keys.
    #[error(
        "{file} has mode {mode:03o}, expected one that lets nobody but its owner read it: chmod 600 {file}"
    )]
    KeyPermissions {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line that is no key.
    #[error("{file}, line {line}: expected a key of 64 hexadecimal digits, as `ctsync keygen` makes them")]
    NotAKey {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A file without keys.
    #[error("{file} has no key in it; `ctsync keygen` makes one")]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// heartbeat's resources do not name the group's script.
    #[error("cluster group {group} is not configured: {file} does not call ctsync with it")]
    ClusterGroupMissing {
        /// The group.
        group: String,
        /// haresources.
        file: PathBuf,
    },
    /// keepalived's configuration cannot be read.
    #[error("keepalived's configuration {file} cannot be read")]
    KeepalivedUnreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No such sync group.
    #[error("VRRP {group} is not configured in {file}{nearest}")]
    SyncGroupMissing {
        /// The group.
        group: String,
        /// keepalived's configuration.
        file: PathBuf,
        /// One that is.
        nearest: Nearest,
    },
    /// keepalived tells its changes to nobody, or to another file.
    #[error("{file} has {found}, expected `vrrp_notify_fifo {expected}` in global_defs")]
    NotifyFifo {
        /// keepalived's configuration.
        file: PathBuf,
        /// What it has.
        found: String,
        /// Our FIFO.
        expected: PathBuf,
    },
    /// The group looks at no track file of ours.
    #[error("{file}: {group} does not track {expected}: an unready node could be elected")]
    TrackFile {
        /// keepalived's configuration.
        file: PathBuf,
        /// The group.
        group: String,
        /// Our track file.
        expected: PathBuf,
    },
    /// Without it keepalived ignores the weight in a sync group and goes to FAULT.
    #[error(
        "{file}: sync-group {group} lacks sync_group_tracking_weight: the readiness gate would put it into FAULT"
    )]
    TrackingWeight {
        /// keepalived's configuration.
        file: PathBuf,
        /// The group.
        group: String,
    },
    /// keepalived would not tell its roles again after a reload.
    #[error(
        "{file}: global_defs lacks fifo_write_vrrp_states_on_reload: after a reload keepalived tells nobody which role it has"
    )]
    StatesOnReload {
        /// keepalived's configuration.
        file: PathBuf,
    },
    /// keepalived ignores tracked weights of an address owner (RFC 9568, 8.3.2).
    #[error(
        "{file}: vrrp_instance {instance} has priority 255: keepalived ignores the track file then; 254 is the highest that works"
    )]
    HighestPriority {
        /// keepalived's configuration.
        file: PathBuf,
        /// The instance.
        instance: String,
    },
}
