//! The configuration file into a [`Config`] that the rest trusts. The only reader of the file.
//!
//! JSON with the option names of VyOS `service conntrack-sync`, ours beside them. Unknown keys, wrong types and
//! impossible values are errors with file, place, what was found and what was expected; nothing is defaulted in
//! silence. Called by the command line.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;
use thiserror::Error;

use crate::entry::proto;

/// VyOS says MB and means this.
const MEGABYTE: usize = 1_048_576;

/// Where the daemon looks when nothing is said.
pub const DEFAULT_PATH: &str = "/etc/ctsync/config.json";

/// Everything a daemon needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node.
    pub node: String,
    /// Nodes that belong together.
    pub node_group: u32,
    /// Interface of the channel.
    pub interface: String,
    /// Unicast to this peer instead of multicast.
    pub peer: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Multicast group.
    pub mcast_group: Ipv4Addr,
    /// Address to bind to.
    pub listen_address: Option<IpAddr>,
    /// Protocol numbers to synchronise; empty: all.
    pub accept_protocol: Vec<u8>,
    /// Bytes the event buffer may grow to.
    pub event_buffer: usize,
    /// Bytes of the resend ring and of the channel's socket buffers.
    pub sync_queue: usize,
    /// How the role is learned.
    pub mechanism: Mechanism,
    /// Install at once.
    pub hot: bool,
    /// Between two alives.
    pub alive: Duration,
    /// Silence after which the peer is lost.
    pub peer_timeout: Duration,
    /// Readiness without progress for this long opens the gate.
    pub gate_timeout: Duration,
    /// Control socket.
    pub control_socket: PathBuf,
    /// Where `/run` state is kept.
    pub state_directory: PathBuf,
    /// What the operator should know although nothing is wrong.
    pub remarks: Vec<String>,
}

/// How a node learns its role.
#[derive(Clone, Debug)]
pub enum Mechanism {
    /// keepalived's notify FIFO.
    Vrrp {
        /// Name of the `vrrp_sync_group`.
        sync_group: String,
        /// FIFO that keepalived writes to; made if missing.
        notify_fifo: PathBuf,
        /// File that keepalived tracks; 0 when this node may be elected.
        track_file: PathBuf,
        /// The group's virtual addresses, to check a remembered role after a restart.
        virtual_address: Vec<IpAddr>,
    },
    /// `ctsync notify`.
    Manual {
        /// Name by which `notify` names the group.
        group: String,
    },
}

impl Mechanism {
    /// The group's name.
    pub fn group(&self) -> &str {
        match self {
            Mechanism::Vrrp { sync_group, .. } => sync_group,
            Mechanism::Manual { group } => group,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not JSON, an unknown key, a wrong type.
    #[error("{path}: at {place}: {source}")]
    Shape {
        /// File.
        path: PathBuf,
        /// Path of keys.
        place: String,
        /// What was found and expected, with line and column.
        source: serde_json::Error,
    },
    /// A value that cannot be.
    #[error("{path}: {place}: found {found}, expected {expected}")]
    Value {
        /// File.
        path: PathBuf,
        /// Path of keys.
        place: &'static str,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    node: Option<String>,
    #[serde(default)]
    node_group: u32,
    interface: IndexMap<String, InterfaceFile>,
    #[serde(default = "default_mcast_group")]
    mcast_group: Ipv4Addr,
    #[serde(default)]
    listen_address: Vec<IpAddr>,
    #[serde(default)]
    accept_protocol: Vec<String>,
    #[serde(default = "default_event_listen_queue_size")]
    event_listen_queue_size: u32,
    #[serde(default = "default_sync_queue_size")]
    sync_queue_size: u32,
    failover_mechanism: MechanismFile,
    #[serde(default)]
    disable_external_cache: bool,
    #[serde(default)]
    startup_resync: bool,
    #[serde(default)]
    standby: Standby,
    /// Milliseconds.
    #[serde(default = "default_alive_interval")]
    alive_interval: u64,
    /// Milliseconds.
    #[serde(default = "default_peer_timeout")]
    peer_timeout: u64,
    /// Seconds.
    #[serde(default = "default_gate_timeout")]
    gate_timeout: u64,
    #[serde(default = "default_control_socket")]
    control_socket: PathBuf,
    #[serde(default = "default_state_directory")]
    state_directory: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct InterfaceFile {
    peer: Option<IpAddr>,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum MechanismFile {
    #[serde(rename_all = "kebab-case")]
    Vrrp(VrrpFile),
    #[serde(rename_all = "kebab-case")]
    Manual(ManualFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct VrrpFile {
    sync_group: String,
    notify_fifo: Option<PathBuf>,
    track_file: Option<PathBuf>,
    #[serde(default)]
    virtual_address: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ManualFile {
    group: String,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Standby {
    #[default]
    Hot,
    Cold,
}

fn default_mcast_group() -> Ipv4Addr {
    Ipv4Addr::new(225, 0, 0, 50)
}
fn default_event_listen_queue_size() -> u32 {
    8
}
fn default_sync_queue_size() -> u32 {
    1
}
fn default_alive_interval() -> u64 {
    250
}
fn default_peer_timeout() -> u64 {
    1000
}
fn default_gate_timeout() -> u64 {
    30
}
fn default_control_socket() -> PathBuf {
    PathBuf::from("/run/ctsync/control.sock")
}
fn default_state_directory() -> PathBuf {
    PathBuf::from("/run/ctsync")
}

/// Read and check a configuration file.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Check a configuration's text; `path` is for the error messages.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let file: File = serde_path_to_error::deserialize(&mut json).map_err(|error| ConfigError::Shape {
        path: path.to_owned(),
        place: error.path().to_string(),
        source: error.into_inner(),
    })?;
    json.end().map_err(|source| ConfigError::Shape {
        path: path.to_owned(),
        place: "end of file".into(),
        source,
    })?;
    check(path, file)
}

fn check(path: &Path, file: File) -> Result<Config, ConfigError> {
    let wrong =
        |place, found: String, expected| ConfigError::Value { path: path.to_owned(), place, found, expected };
    let mut remarks = Vec::new();
    let mut interfaces = file.interface.into_iter();
    let Some((interface, options)) = interfaces.next() else {
        return Err(wrong("interface", "none".into(), "one interface"));
    };
    let unused: Vec<String> = interfaces.map(|(name, _)| name).collect();
    if !unused.is_empty() {
        remarks.push(format!("only the first interface, {interface}, is used; not {}", unused.join(", ")));
    }
    if options.port == Some(0) {
        return Err(wrong("interface.port", "0".into(), "a port from 1 to 65535"));
    }
    if !file.mcast_group.is_multicast() {
        let found = file.mcast_group.to_string();
        return Err(wrong("mcast-group", found, "an IPv4 multicast address, 224.0.0.0 to 239.255.255.255"));
    }
    if let [first, _, ..] = file.listen_address.as_slice() {
        remarks.push(format!("only the first listen-address, {first}, is used"));
    }
    if file.disable_external_cache {
        remarks.push("disable-external-cache is what `standby` \"hot\" does by itself".into());
    }
    if file.startup_resync {
        remarks.push("startup-resync is always on".into());
    }
    let accept_protocol = file
        .accept_protocol
        .iter()
        .map(|name| {
            protocol_number(name).ok_or_else(|| {
                wrong("accept-protocol", format!("\"{name}\""), "tcp, udp, icmp, icmp6, sctp or dccp")
            })
        })
        .collect::<Result<Vec<u8>, _>>()?;
    for (place, value) in [("alive-interval", file.alive_interval), ("gate-timeout", file.gate_timeout)] {
        if value == 0 {
            return Err(wrong(place, "0".into(), "a positive number"));
        }
    }
    if file.peer_timeout < 2 * file.alive_interval {
        let found = file.peer_timeout.to_string();
        return Err(wrong("peer-timeout", found, "at least twice the alive-interval"));
    }
    let node = match file.node {
        Some(node) => node,
        None => nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default(),
    };
    if node.is_empty() || node.len() > 64 {
        return Err(wrong("node", format!("\"{node}\""), "a name of 1 to 64 bytes"));
    }
    let state = file.state_directory;
    let mechanism = match file.failover_mechanism {
        MechanismFile::Vrrp(vrrp) if vrrp.sync_group.is_empty() => {
            return Err(wrong("failover-mechanism.vrrp.sync-group", "\"\"".into(), "the group's name"));
        }
        MechanismFile::Vrrp(vrrp) => Mechanism::Vrrp {
            sync_group: vrrp.sync_group,
            notify_fifo: vrrp.notify_fifo.unwrap_or_else(|| state.join("vrrp.fifo")),
            track_file: vrrp.track_file.unwrap_or_else(|| state.join("vrrp.track")),
            virtual_address: vrrp.virtual_address,
        },
        MechanismFile::Manual(manual) => Mechanism::Manual { group: manual.group },
    };
    Ok(Config {
        node,
        node_group: file.node_group,
        interface,
        peer: options.peer,
        port: options.port.unwrap_or(3780),
        mcast_group: file.mcast_group,
        listen_address: file.listen_address.first().copied(),
        accept_protocol,
        event_buffer: file.event_listen_queue_size as usize * MEGABYTE,
        sync_queue: file.sync_queue_size as usize * MEGABYTE,
        mechanism,
        hot: file.standby == Standby::Hot,
        alive: Duration::from_millis(file.alive_interval),
        peer_timeout: Duration::from_millis(file.peer_timeout),
        gate_timeout: Duration::from_secs(file.gate_timeout),
        control_socket: file.control_socket,
        state_directory: state,
        remarks,
    })
}

fn protocol_number(name: &str) -> Option<u8> {
    Some(match name {
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "icmp" => proto::ICMP,
        "icmp6" => proto::ICMPV6,
        "sctp" => proto::SCTP,
        "dccp" => proto::DCCP,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = r#"{
        "node": "router1",
        "accept-protocol": ["tcp", "udp", "icmp"],
        "event-listen-queue-size": 8,
        "failover-mechanism": { "vrrp": { "sync-group": "SYNC" } },
        "interface": { "eth0": {} },
        "mcast-group": "225.0.0.50",
        "sync-queue-size": 8
    }"#;

    fn error(text: &str) -> String {
        match parse(Path::new("config.json"), text) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_documented_example_is_accepted() {
        let config = parse(Path::new("config.json"), DOCUMENTED).unwrap();
        assert_eq!(config.interface, "eth0");
        assert_eq!(config.port, 3780);
        assert_eq!(config.accept_protocol, [6, 17, 1]);
        assert_eq!((config.event_buffer, config.sync_queue), (8 * MEGABYTE, 8 * MEGABYTE));
        assert_eq!(config.mechanism.group(), "SYNC");
        assert!(config.hot && config.remarks.is_empty());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let broken = |from: &str, to: &str| error(&DOCUMENTED.replace(from, to));
        for (from, to, says) in [
            ("\"sync-queue-size\": 8", "\"sync-queue-size\": \"8\"", "sync-queue-size"),
            ("\"sync-queue-size\": 8", "\"sync-queue-sise\": 8", "unknown field `sync-queue-sise`"),
            ("\"mcast-group\": \"225.0.0.50\"", "\"mcast-group\": \"10.0.0.1\"", "multicast address"),
            ("\"icmp\"]", "\"icmpp\"]", "found \"icmpp\""),
            ("\"eth0\": {}", "", "expected one interface"),
            ("\"eth0\": {}", "\"eth0\": { \"port\": 70000 }", "interface.eth0.port"),
            ("\"SYNC\"", "\"\"", "failover-mechanism.vrrp.sync-group"),
        ] {
            let message = broken(from, to);
            assert!(message.contains(says), "{message}");
        }
        assert!(error("{").contains("line 1"));
    }
}
