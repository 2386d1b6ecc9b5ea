//! Values that are each good into a [`Config`], and whether they fit together. Pure; called by the reader of
//! this room.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::engine::replica::Tunables;

use super::mechanism::{self, GivenFurther, GivenMechanism};
use super::mistake::{CombinationMistake, ConfigError, JsonMistake, Mistake, ValueMistake};
use super::text::{below, network};
use super::{Config, FurtherGroup, Mechanism, MetricsAddress, Source};
use crate::ctnetlink::entry::proto;

/// VyOS says MB and means this.
pub(super) const MEGABYTE: usize = 1_048_576;

/// What came of it.
pub(super) struct Combined {
    /// Only when nothing was wrong here.
    pub config: Option<Config>,
    pub errors: Vec<ConfigError>,
    pub remarks: Vec<String>,
}

/// A group has sixteen nodes.
const MOST_PEERS: usize = 15;

/// Mistakes of values together.
struct Judge<'a> {
    source: &'a Source,
    /// JSON pointers where something was wrong already; an empty one when it may have been anywhere.
    doubtful: &'a [String],
    errors: Vec<ConfigError>,
}

impl Judge<'_> {
    /// `on`: what the mistake rests on beside values that are there and good. Where that is in doubt, it is
    /// not told.
    fn wrong(&mut self, pointer: &str, mistake: impl Into<Mistake>, on: &[&str]) {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let in_doubt = |on: &&str| self.doubtful.iter().any(|doubt| within(doubt, on) || within(on, doubt));
        if !on.iter().any(in_doubt) {
            self.errors.push(self.source.wrong(pointer, mistake));
        }
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
    peer: Option<Several>,
    port: Option<u16>,
}

/// One, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Several {
    One(IpAddr),
    Many(Vec<IpAddr>),
}

impl GivenInterface {
    fn peers(&self) -> Vec<IpAddr> {
        match &self.peer {
            None => Vec::new(),
            Some(Several::One(peer)) => vec![*peer],
            Some(Several::Many(peers)) => peers.clone(),
        }
    }
}

/// Judge them; `doubtful` are the JSON pointers where something was wrong already.
pub(super) fn combine(values: Map<String, Json>, source: &Source, doubtful: &[String]) -> Combined {
    let mut judge = Judge { source, doubtful, errors: Vec::new() };
    let given: Given = match serde_json::from_value(Json::Object(values)) {
        Ok(given) => given,
        Err(error) => {
            // `shape` lets nothing through that does not fit; if it did, the file is refused all the same.
            judge.wrong("", JsonMistake::Syntax { complaint: error.to_string() }, &[]);
            return Combined { config: None, errors: judge.errors, remarks: Vec::new() };
        }
    };
    let remarks = accepted(&given);
    let config = judge.config(given);
    Combined { config: config.filter(|_| judge.errors.is_empty()), errors: judge.errors, remarks }
}

impl Judge<'_> {
    /// The channel's interface, and the peers' addresses and the port where they are given.
    fn channel(&mut self, given: &Given) -> (String, Vec<IpAddr>, Option<u16>) {
        let (interface, peers, port) = match given.interface.first() {
            Some((name, options)) => (name.clone(), options.peers(), options.port),
            None => {
                self.wrong("/interface", CombinationMistake::NoInterface, &["/interface"]);
                (String::new(), Vec::new(), None)
            }
        };
        let with = given.interface.iter().find(|(_, options)| !options.peers().is_empty());
        let without = given.interface.iter().find(|(_, options)| options.peers().is_empty());
        if let (Some((with, _)), Some((without, _))) = (with, without) {
            let mistake = CombinationMistake::MixedModes { with: with.clone(), without: without.clone() };
            self.wrong("/interface", mistake, &["/interface"]);
        }
        let pointer = below(&below("/interface", &interface), "peer");
        if peers.len() > MOST_PEERS {
            let mistake = CombinationMistake::TooManyPeers { found: peers.len(), most: MOST_PEERS };
            self.wrong(&pointer, mistake, &["/interface"]);
        }
        if let Some(first) = peers.first()
            && let Some(other) = peers.iter().find(|peer| peer.is_ipv4() != first.is_ipv4())
        {
            let mistake =
                CombinationMistake::PeersOfTwoFamilies { first: first.to_string(), other: other.to_string() };
            self.wrong(&pointer, mistake, &["/interface"]);
        }
        let listen = given.listen_address.first().copied();
        match (listen, peers.first()) {
            (Some(_), None) if !interface.is_empty() => {
                let mistake = CombinationMistake::ListenWithoutPeer { interface: interface.clone() };
                self.wrong("/listen-address", mistake, &["/interface"]);
            }
            (Some(listen), Some(peer)) if listen.is_ipv4() != peer.is_ipv4() => {
                let mistake =
                    CombinationMistake::FamiliesDiffer { listen: listen.to_string(), peer: peer.to_string() };
                self.wrong("/listen-address", mistake, &["/listen-address"]);
            }
            _ => {}
        }
        (interface, peers, port)
    }

    fn config(&mut self, given: Given) -> Option<Config> {
        let (interface, peers, port) = self.channel(&given);
        if given.expect_sync.len() > 1 && given.expect_sync.iter().any(|word| word == "all") {
            let others: Vec<&str> =
                given.expect_sync.iter().map(String::as_str).filter(|word| *word != "all").collect();
            self.wrong("/expect-sync", ValueMistake::AllWithOthers { others: others.join(", ") }, &[]);
        }
        if given.peer_timeout < 2 * given.alive_interval {
            let mistake = CombinationMistake::PeerTimeout {
                found: given.peer_timeout,
                least: 2 * given.alive_interval,
            };
            self.wrong("/peer-timeout", mistake, &["/peer-timeout", "/alive-interval"]);
        }
        let host_name = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let node = given.node.or_else(host_name).unwrap_or_default();
        if node.is_empty() {
            self.wrong("/node", CombinationMistake::NoNodeName, &["/node"]);
        }
        let (mechanism, further) =
            self.groups(given.failover_mechanism, given.group, &given.state_directory, given.hold);
        Some(Config {
            node,
            node_group: given.node_group,
            interface,
            peers,
            port: port.unwrap_or(3780),
            mcast_group: given.mcast_group,
            listen_address: given.listen_address.first().copied(),
            accept_protocol: given.accept_protocol.iter().filter_map(|name| protocol_number(name)).collect(),
            ignore_address: given.ignore_address.iter().filter_map(|text| network(text)).collect(),
            expect_sync: given.expect_sync,
            event_buffer: given.event_listen_queue_size * MEGABYTE,
            sync_queue: given.sync_queue_size * MEGABYTE,
            key_file: given.key_file,
            mechanism: mechanism?,
            further,
            hold: given.hold,
            tunables: Tunables {
                alive: Duration::from_millis(given.alive_interval),
                lost_after: Duration::from_millis(given.peer_timeout),
                gate_limit: Duration::from_secs(given.gate_timeout),
                owner_lost: Duration::from_secs(given.owner_lost_timeout),
                hot: given.standby == "hot",
                track_windows: given.window_tracking,
            },
            include_local: given.include_local,
            metrics: given.metrics_listen.map(|text| match text.parse() {
                Ok(address) => MetricsAddress::Tcp(address),
                Err(_) => MetricsAddress::Unix(text.into()),
            }),
            control_socket: given.control_socket,
            state_directory: given.state_directory,
        })
    }

    /// The mechanisms of all groups.
    fn groups(
        &mut self,
        first: GivenMechanism,
        further: IndexMap<String, GivenFurther>,
        state: &Path,
        hold: bool,
    ) -> (Option<Mechanism>, Vec<FurtherGroup>) {
        let first = match mechanism::mechanism(first, state, None) {
            Ok(mechanism) => Some(mechanism),
            Err((below, mistake)) => {
                self.wrong_mechanism(&format!("/failover-mechanism{below}"), mistake);
                None
            }
        };
        let several = !further.is_empty();
        let further = mechanism::further(further, state, first.as_ref()).unwrap_or_else(|mistakes| {
            mistakes.into_iter().for_each(|(pointer, mistake)| self.wrong_mechanism(&pointer, mistake));
            Vec::new()
        });
        if hold && several {
            self.wrong("/hold", CombinationMistake::HoldWithGroups, &[]);
        } else if hold && first.as_ref().is_some_and(|mechanism| mechanism.addresses().is_empty()) {
            self.wrong("/hold", CombinationMistake::HoldWithoutAddress, &["/failover-mechanism"]);
        }
        (first, further)
    }

    fn wrong_mechanism(&mut self, pointer: &str, mistake: CombinationMistake) {
        let on: &[&str] = match mistake {
            CombinationMistake::SeveralMechanisms { .. } | CombinationMistake::GroupAndInstance => &[],
            // Names and files that are not given have defaults.
            CombinationMistake::GroupTwice { .. }
            | CombinationMistake::GroupFiles { .. }
            | CombinationMistake::AnotherFifo { .. } => &["/failover-mechanism", "/group"],
            _ => &[pointer],
        };
        self.wrong(pointer, mistake, on);
    }
}

/// What is understood and does not do what it did elsewhere.
fn accepted(given: &Given) -> Vec<String> {
    let mut remarks = Vec::new();
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
    remarks
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
