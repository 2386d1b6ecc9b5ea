//! The configuration file into a [`Config`] that the rest trusts. The only reader of the file.
//!
//! JSON with the option names of VyOS `service conntrack-sync`, ours beside them, or VyOS's own `set` lines. Both
//! readers make one tree of values; `shape` checks each value, this file their combinations, `machine` whether this
//! machine has what they name. Whatever is wrong is told, all of it, with file, place, what was found and what was
//! expected; nothing is defaulted in silence. Called by the command line.

mod json;
mod keepalived;
mod keys;
mod machine;
mod mechanism;
mod mistake;
pub mod options;
mod schema;
mod set_lines;
mod shape;
mod tree;
mod write;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::entry::proto;

pub use keepalived::{
    KEEPALIVED_CONF, fragments as keepalived_fragments, keepalived_remarks, virtual_addresses,
};
pub use keys::read_keys;
pub use machine::{Machine, check_machine, may_come_late};
pub use mechanism::{FurtherGroup, Mechanism, Subject};
pub use mistake::{ConfigError, Mistake, Place, Refused};
pub use schema::schema;
pub use write::{EXAMPLE, reference_roff, reference_table, to_json, to_set_lines};

use mechanism::{GivenFurther, GivenMechanism};
use options::{OPTIONS, Shape};
use shape::below;

/// VyOS says MB and means this.
const MEGABYTE: usize = 1_048_576;
/// Bytes of the largest file that is read at all.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Where the daemon looks when nothing is said.
pub const DEFAULT_PATH: &str = "/etc/ctsync/config.json";

/// Everything a daemon needs to know.
#[derive(Clone, PartialEq, Debug)]
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
    /// Addresses and prefixes that are not synchronised.
    pub ignore_address: Vec<IpNet>,
    /// The users' words of `expect-sync`; empty: off.
    pub expect_sync: Vec<String>,
    /// Give TCP entries their window tracking back after a takeover.
    pub window_tracking: bool,
    /// Synchronise also what cannot fail over.
    pub include_local: bool,
    /// Bytes of events that may wait.
    pub event_buffer: usize,
    /// Bytes of the resend ring and of the channel's socket buffers.
    pub sync_queue: usize,
    /// Keys of the channel.
    pub key_file: Option<PathBuf>,
    /// How the role in the first group is learned.
    pub mechanism: Mechanism,
    /// Further groups, in the file's order.
    pub further: Vec<FurtherGroup>,
    /// Keep packets away until a takeover is complete.
    pub hold: bool,
    /// After this long without an owner entries end by their protocols' timeouts.
    pub owner_lost: Duration,
    /// Install at once.
    pub hot: bool,
    /// Between two alives.
    pub alive: Duration,
    /// Silence after which the peer is lost.
    pub peer_timeout: Duration,
    /// Readiness without progress for this long opens the gate.
    pub gate_timeout: Duration,
    /// Where metrics can be scraped.
    pub metrics: Option<MetricsAddress>,
    /// Control socket.
    pub control_socket: PathBuf,
    /// Where `/run` state is kept.
    pub state_directory: PathBuf,
}

impl Config {
    /// The mechanisms of all groups, the first group's first, each with where it stands in the file.
    pub fn mechanisms(&self) -> impl Iterator<Item = (String, &Mechanism)> {
        let further = self
            .further
            .iter()
            .map(|group| (below(&below("/group", &group.name), "failover-mechanism"), &group.mechanism));
        std::iter::once(("/failover-mechanism".to_owned(), &self.mechanism)).chain(further)
    }

    /// The FIFO of the groups whose mechanism is `vrrp`.
    pub fn notify_fifo(&self) -> Option<&Path> {
        self.mechanisms().find_map(|(_, mechanism)| mechanism.notify_fifo())
    }
}

/// Where metrics can be scraped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetricsAddress {
    /// TCP.
    Tcp(std::net::SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MetricsAddress::Tcp(address) => address.fmt(f),
            MetricsAddress::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A configuration that was read: what it says, what that means, and where each value stands.
#[derive(Debug)]
pub struct Loaded {
    /// What the daemon trusts.
    pub config: Config,
    /// The options as given, canonical, without defaults.
    pub values: Map<String, Json>,
    /// What the operator should know although nothing is wrong.
    pub remarks: Vec<String>,
    source: Source,
}

/// A file, its form, and the places in it.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    set_lines: bool,
    places: HashMap<String, Place>,
}

impl Source {
    /// A mistake at a JSON pointer, at the nearest place above it that the file has.
    fn wrong(&self, pointer: &str, mistake: Mistake) -> ConfigError {
        let mut at = pointer;
        while !at.is_empty() && !self.places.contains_key(at) {
            at = at.rsplit_once('/').map_or("", |(above, _)| above);
        }
        ConfigError {
            path: self.path.clone(),
            place: self.places.get(at).copied(),
            option: self.option(pointer),
            mistake,
        }
    }

    /// A JSON pointer as it is, or as the words of a `set` line.
    fn option(&self, pointer: &str) -> String {
        if !self.set_lines {
            return pointer.to_owned();
        }
        let words = pointer.split('/').filter(|word| !word.is_empty() && word.parse::<usize>().is_err());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The options in the types that the checks below need; `shape` has seen each value.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Given {
    node: Option<String>,
    node_group: u32,
    #[serde(default)]
    interface: IndexMap<String, GivenInterface>,
    mcast_group: Ipv4Addr,
    #[serde(default)]
    listen_address: Vec<IpAddr>,
    #[serde(default)]
    accept_protocol: Vec<String>,
    #[serde(default)]
    ignore_address: Vec<String>,
    #[serde(default)]
    expect_sync: Vec<String>,
    event_listen_queue_size: usize,
    sync_queue_size: usize,
    #[serde(default)]
    failover_mechanism: GivenMechanism,
    disable_external_cache: bool,
    startup_resync: bool,
    disable_syslog: bool,
    key_file: Option<PathBuf>,
    standby: String,
    window_tracking: bool,
    include_local: bool,
    alive_interval: u64,
    peer_timeout: u64,
    gate_timeout: u64,
    owner_lost_timeout: u64,
    hold: bool,
    #[serde(default)]
    group: IndexMap<String, GivenFurther>,
    metrics_listen: Option<String>,
    control_socket: PathBuf,
    state_directory: PathBuf,
}

#[derive(Deserialize)]
struct GivenInterface {
    peer: Option<IpAddr>,
    port: Option<u16>,
}

/// Read and check a configuration file of either form.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(path: &Path) -> Result<Loaded, Refused> {
    let refused = |mistake| refuse(path, None, mistake);
    let unreadable = |error| refused(Mistake::Unreadable(error));
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > LARGEST {
        return Err(refused(Mistake::TooLarge { found: length, most: LARGEST }));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(path, text),
        Err(error) => Err(refused(Mistake::NotText { at: error.valid_up_to() })),
    }
}

fn refuse(path: &Path, place: Option<Place>, mistake: Mistake) -> Refused {
    Refused { errors: vec![ConfigError { path: path.to_owned(), place, option: String::new(), mistake }] }
}

/// Check a configuration's text; `path` is for the errors.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<Loaded, Refused> {
    let mut source = Source { path: path.to_owned(), set_lines: false, places: HashMap::new() };
    let mut remarks = Vec::new();
    let fields = match form(text) {
        Form::Empty => return Err(refuse(path, None, Mistake::Empty)),
        Form::Neither(found) => return Err(refuse(path, None, Mistake::NeitherForm { found })),
        Form::Json => json::read(text).map_err(|(place, mistake)| refuse(path, place, mistake))?,
        Form::SetLines => {
            source.set_lines = true;
            let lines = set_lines::read(text);
            let mut errors: Vec<ConfigError> = lines
                .errors
                .into_iter()
                .map(|(place, option, mistake)| ConfigError {
                    path: path.to_owned(),
                    place: Some(place),
                    option,
                    mistake,
                })
                .collect();
            if lines.fields.is_empty() && errors.is_empty() {
                let nearest = set_lines::misspelt_service(&lines.elsewhere);
                let elsewhere = set_lines::tell_elsewhere(&lines.elsewhere);
                let elsewhere =
                    format!("{}{nearest}", elsewhere.map_or(String::new(), |text| format!("; {text}")));
                errors.push(source.wrong("", Mistake::NothingOfOurs { elsewhere }));
            }
            if !errors.is_empty() {
                return Err(Refused { errors });
            }
            remarks.extend(lines.remarks);
            remarks.extend(set_lines::tell_elsewhere(&lines.elsewhere));
            lines.fields
        }
    };
    let checked = shape::check(&fields);
    source.places = checked.places;
    if !checked.errors.is_empty() {
        let errors = checked.errors.into_iter().map(|(place, pointer, mistake)| ConfigError {
            path: path.to_owned(),
            place: Some(place),
            option: source.option(&pointer),
            mistake,
        });
        return Err(Refused { errors: errors.collect() });
    }
    let values = checked.values;
    let config = combine(with_defaults(&values), &source, &mut remarks)?;
    Ok(Loaded { config, values, remarks, source })
}

enum Form {
    Empty,
    Json,
    SetLines,
    /// The first line.
    Neither(String),
}

fn form(text: &str) -> Form {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let Some(first) = lines.find(|line| !line.starts_with('#')) else {
        return if text.contains('#') { Form::SetLines } else { Form::Empty };
    };
    let word = first.split_whitespace().next().unwrap_or_default();
    // Whatever begins as JSON can is judged as JSON, so that its mistakes are named as such.
    if first.starts_with(['{', '[', '"', '/'])
        || word.parse::<f64>().is_ok()
        || matches!(word, "null" | "true" | "false")
    {
        return Form::Json;
    }
    let set_line = |line: &str| matches!(line.split_whitespace().next(), Some("set" | "delete"));
    if text.lines().any(set_line) {
        return Form::SetLines;
    }
    Form::Neither(first.chars().take(60).collect())
}

/// Everything not given has its stated default.
fn with_defaults(values: &Map<String, Json>) -> Map<String, Json> {
    let mut all = values.clone();
    for option in OPTIONS.iter().filter(|option| !option.default.is_empty()) {
        if let Ok(default) = serde_json::from_str(option.default) {
            all.entry(option.name).or_insert(default);
        }
    }
    all
}

fn combine(values: Map<String, Json>, source: &Source, remarks: &mut Vec<String>) -> Result<Config, Refused> {
    let given: Given = match serde_json::from_value(Json::Object(values)) {
        Ok(given) => given,
        Err(error) => {
            // `shape` lets nothing through that does not fit; if it did, the file is refused all the same.
            let mistake = Mistake::Syntax { complaint: error.to_string() };
            return Err(Refused { errors: vec![source.wrong("", mistake)] });
        }
    };
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, mistake| errors.push(source.wrong(pointer, mistake));
    accepted(&given, remarks);
    let (interface, options) = match given.interface.first() {
        Some((name, options)) => (name.clone(), (options.peer, options.port)),
        None => {
            wrong("/interface", Mistake::NoInterface);
            (String::new(), (None, None))
        }
    };
    let with = given.interface.iter().find(|(_, options)| options.peer.is_some());
    let without = given.interface.iter().find(|(_, options)| options.peer.is_none());
    if let (Some((with, _)), Some((without, _))) = (with, without) {
        wrong("/interface", Mistake::MixedModes { with: with.clone(), without: without.clone() });
    }
    let listen = given.listen_address.first().copied();
    match (listen, options.0) {
        (Some(_), None) if !interface.is_empty() => {
            wrong("/listen-address", Mistake::ListenWithoutPeer { interface: interface.clone() });
        }
        (Some(listen), Some(peer)) if listen.is_ipv4() != peer.is_ipv4() => {
            let mistake = Mistake::FamiliesDiffer { listen: listen.to_string(), peer: peer.to_string() };
            wrong("/listen-address", mistake);
        }
        _ => {}
    }
    if given.expect_sync.len() > 1 && given.expect_sync.iter().any(|word| word == "all") {
        let others: Vec<&str> =
            given.expect_sync.iter().map(String::as_str).filter(|word| *word != "all").collect();
        wrong("/expect-sync", Mistake::AllWithOthers { others: others.join(", ") });
    }
    if given.peer_timeout < 2 * given.alive_interval {
        let mistake = Mistake::PeerTimeout { found: given.peer_timeout, least: 2 * given.alive_interval };
        wrong("/peer-timeout", mistake);
    }
    let host_name = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let node = given.node.or_else(host_name).unwrap_or_default();
    if node.is_empty() {
        wrong("/node", Mistake::NoNodeName);
    }
    let mechanism = match mechanism::mechanism(given.failover_mechanism, &given.state_directory, None) {
        Ok(mechanism) => Some(mechanism),
        Err((below, mistake)) => {
            wrong(&format!("/failover-mechanism{below}"), mistake);
            None
        }
    };
    let further = mechanism::further(given.group, &given.state_directory, mechanism.as_ref());
    let further = further.unwrap_or_else(|mistakes| {
        mistakes.into_iter().for_each(|(pointer, mistake)| wrong(&pointer, mistake));
        Vec::new()
    });
    if given.hold && !further.is_empty() {
        wrong("/hold", Mistake::HoldWithGroups);
    } else if given.hold && mechanism.as_ref().is_some_and(|mechanism| mechanism.addresses().is_empty()) {
        wrong("/hold", Mistake::HoldWithoutAddress);
    }
    let (Some(mechanism), true) = (mechanism, errors.is_empty()) else { return Err(Refused { errors }) };
    Ok(Config {
        node,
        node_group: given.node_group,
        interface,
        peer: options.0,
        port: options.1.unwrap_or(3780),
        mcast_group: given.mcast_group,
        listen_address: listen,
        accept_protocol: given.accept_protocol.iter().filter_map(|name| protocol_number(name)).collect(),
        ignore_address: given.ignore_address.iter().filter_map(|text| network(text)).collect(),
        expect_sync: given.expect_sync,
        event_buffer: given.event_listen_queue_size * MEGABYTE,
        sync_queue: given.sync_queue_size * MEGABYTE,
        key_file: given.key_file,
        mechanism,
        further,
        hold: given.hold,
        owner_lost: Duration::from_secs(given.owner_lost_timeout),
        hot: given.standby == "hot",
        include_local: given.include_local,
        window_tracking: given.window_tracking,
        alive: Duration::from_millis(given.alive_interval),
        peer_timeout: Duration::from_millis(given.peer_timeout),
        gate_timeout: Duration::from_secs(given.gate_timeout),
        metrics: given.metrics_listen.map(|text| match text.parse() {
            Ok(address) => MetricsAddress::Tcp(address),
            Err(_) => MetricsAddress::Unix(text.into()),
        }),
        control_socket: given.control_socket,
        state_directory: given.state_directory,
    })
}

/// What is understood and does not do what it did elsewhere.
fn accepted(given: &Given, remarks: &mut Vec<String>) {
    let unused = |names: Vec<String>| names.into_iter().skip(1).collect::<Vec<_>>().join(", ");
    if let Some((first, _)) = given.interface.first()
        && given.interface.len() > 1
    {
        let others = unused(given.interface.keys().cloned().collect());
        remarks.push(format!("only the first interface, {first}, is used; not {others}"));
    }
    if let [first, _, ..] = given.listen_address.as_slice() {
        let others = unused(given.listen_address.iter().map(IpAddr::to_string).collect());
        remarks.push(format!("only the first listen-address, {first}, is used; not {others}"));
    }
    if given.disable_external_cache {
        remarks.push("disable-external-cache is what `standby` \"hot\" does by itself".into());
    }
    if given.startup_resync {
        remarks.push("startup-resync is always on".into());
    }
    if given.disable_syslog {
        remarks.push("disable-syslog: ctsync never writes to syslog".into());
    }
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

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What of a new configuration a running daemon takes over, and what needs a restart: option names.
///
/// Only options that differ are named.
pub fn difference(
    old: &Map<String, Json>,
    new: &Map<String, Json>,
) -> (Vec<&'static str>, Vec<&'static str>) {
    let (old, new) = (with_defaults(old), with_defaults(new));
    let differing = OPTIONS.iter().filter(|option| old.get(option.name) != new.get(option.name));
    let (now, later): (Vec<_>, Vec<_>) = differing.partition(|option| option.reloads);
    let names = |options: Vec<&options::Opt>| options.iter().map(|option| option.name).collect();
    (names(now), names(later))
}

/// Whether an option takes a value of its own, not only options below it.
fn is_leaf(shape: Shape) -> bool {
    !matches!(shape, Shape::Table(_) | Shape::Tagged(..))
}

#[cfg(test)]
mod tests;
