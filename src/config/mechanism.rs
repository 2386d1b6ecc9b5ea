//! The failover mechanisms: how a node learns its role in a group, and which entries are the group's.
//!
//! Called by `config` for the group that every configuration has and for each further one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;

use super::mistake::CombinationMistake;
use super::text::{below, network, parse_mark};
use crate::engine::groups::Rule;

/// Whose state keepalived tells in a line of its notify FIFO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A `vrrp_sync_group`: `GROUP "name" ...`.
    SyncGroup(String),
    /// A `vrrp_instance` without one: `INSTANCE "name" ...`.
    Instance(String),
}

impl Subject {
    /// Its name in keepalived.conf.
    pub fn name(&self) -> &str {
        let (Subject::SyncGroup(name) | Subject::Instance(name)) = self;
        name
    }
}

/// How a node learns its role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// keepalived's notify FIFO.
    Vrrp {
        /// Whose lines.
        subject: Subject,
        /// FIFO that keepalived writes to; made if missing.
        notify_fifo: PathBuf,
        /// File that keepalived tracks; 0 when this node may be elected.
        track_file: PathBuf,
        /// The group's virtual addresses, to check a remembered role after a restart.
        virtual_address: Vec<IpAddr>,
    },
    /// A cluster's resource script calls `ctsync notify start|stop`.
    Cluster {
        /// Name of the cluster group.
        group: String,
        /// The group's virtual addresses.
        virtual_address: Vec<IpAddr>,
    },
    /// Where the virtual addresses are.
    Vip {
        /// Name for people.
        group: String,
        /// The virtual addresses.
        address: Vec<IpAddr>,
        /// Only on this interface.
        interface: Option<String>,
        /// One of them is enough.
        any: bool,
    },
    /// `ctsync notify`.
    Manual {
        /// Name by which `notify` names the group.
        group: String,
        /// The group's virtual addresses.
        virtual_address: Vec<IpAddr>,
    },
}

impl Mechanism {
    /// The group's name, as the mechanism has it.
    pub fn group(&self) -> &str {
        match self {
            Mechanism::Vrrp { subject, .. } => subject.name(),
            Mechanism::Cluster { group, .. }
            | Mechanism::Vip { group, .. }
            | Mechanism::Manual { group, .. } => group,
        }
    }

    /// As peers are told it: nodes of one group have the same.
    pub fn identity(&self) -> String {
        let kind = match self {
            Mechanism::Vrrp { .. } => "vrrp",
            Mechanism::Cluster { .. } => "cluster",
            Mechanism::Vip { .. } => "vip",
            Mechanism::Manual { .. } => "manual",
        };
        // A name of 64 bytes, which is the most, would not fit whole; what is cut off tells nobody apart any
        // more.
        let name = self.group();
        let ends = name.char_indices().map(|(at, letter)| at + letter.len_utf8());
        let cut = ends.take_while(|end| *end <= 48).last().unwrap_or(0);
        format!("{kind} {}", name.get(..cut).unwrap_or_default())
    }

    /// As `show conntrack-sync status` prints it.
    pub fn told(&self) -> String {
        match self {
            Mechanism::Vrrp { subject: Subject::SyncGroup(name), .. } => format!("vrrp [sync-group {name}]"),
            Mechanism::Vrrp { subject: Subject::Instance(name), .. } => format!("vrrp [instance {name}]"),
            Mechanism::Cluster { group, .. } => format!("cluster [group {group}]"),
            Mechanism::Vip { address, .. } => {
                let all: Vec<String> = address.iter().map(IpAddr::to_string).collect();
                format!("vip [address {}]", all.join(", "))
            }
            Mechanism::Manual { group, .. } => format!("manual [group {group}]"),
        }
    }

    /// Whose lines in keepalived's FIFO are about the group.
    pub fn subject(&self) -> Option<&Subject> {
        match self {
            Mechanism::Vrrp { subject, .. } => Some(subject),
            Mechanism::Cluster { .. } | Mechanism::Vip { .. } | Mechanism::Manual { .. } => None,
        }
    }

    /// keepalived's FIFO.
    pub fn notify_fifo(&self) -> Option<&Path> {
        match self {
            Mechanism::Vrrp { notify_fifo, .. } => Some(notify_fifo),
            Mechanism::Cluster { .. } | Mechanism::Vip { .. } | Mechanism::Manual { .. } => None,
        }
    }

    /// The virtual addresses that are known.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Mechanism::Vrrp { virtual_address, .. }
            | Mechanism::Cluster { virtual_address, .. }
            | Mechanism::Manual { virtual_address, .. } => virtual_address,
            Mechanism::Vip { address, .. } => address,
        }
    }
}

/// A failover group beside the one that every configuration has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FurtherGroup {
    /// Its name, the same on all nodes.
    pub name: String,
    /// How this node learns its role in it.
    pub mechanism: Mechanism,
    /// Which entries are the group's, beside those of its virtual addresses.
    pub rules: Vec<Rule>,
}

impl FurtherGroup {
    /// Its name as a part of a file's name.
    pub fn file_name(&self) -> String {
        file_name(&self.name)
    }
}

fn file_name(name: &str) -> String {
    name.replace('/', "_")
}

#[derive(Deserialize, Default)]
pub(super) struct GivenMechanism {
    vrrp: Option<GivenVrrp>,
    cluster: Option<GivenGroup>,
    vip: Option<GivenVip>,
    manual: Option<GivenGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct GivenVrrp {
    sync_group: Option<String>,
    instance: Option<String>,
    notify_fifo: Option<PathBuf>,
    track_file: Option<PathBuf>,
    #[serde(default)]
    virtual_address: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct GivenGroup {
    group: Option<String>,
    #[serde(default)]
    virtual_address: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct GivenVip {
    #[serde(default)]
    address: Vec<IpAddr>,
    interface: Option<String>,
    require: Option<String>,
    group: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(super) struct GivenFurther {
    #[serde(default)]
    failover_mechanism: GivenMechanism,
    #[serde(default)]
    prefix: Vec<String>,
    #[serde(default)]
    zone: Vec<String>,
    mark: Option<String>,
}

/// The one mechanism that is given. `name` is a further group's; files of the first one have none in their
/// names.
///
/// # Errors
/// Where below `failover-mechanism`, and what is wrong.
pub(super) fn mechanism(
    given: GivenMechanism,
    state: &Path,
    name: Option<&str>,
) -> Result<Mechanism, (&'static str, CombinationMistake)> {
    let set: Vec<&str> = [
        given.vrrp.as_ref().map(|_| "vrrp"),
        given.cluster.as_ref().map(|_| "cluster"),
        given.vip.as_ref().map(|_| "vip"),
        given.manual.as_ref().map(|_| "manual"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if set.len() > 1 {
        let found = match set.as_slice() {
            [one, other] => format!("both {one} and {other}"),
            all => all.join(", "),
        };
        return Err(("", CombinationMistake::SeveralMechanisms { found }));
    }
    let GivenMechanism { vrrp, cluster, vip, manual } = given;
    if let Some(vrrp) = vrrp {
        let subject = match (vrrp.sync_group, vrrp.instance) {
            (Some(name), None) => Subject::SyncGroup(name),
            (None, Some(name)) => Subject::Instance(name),
            (Some(_), Some(_)) => {
                return Err(("/vrrp", CombinationMistake::GroupAndInstance));
            }
            (None, None) => return Err(("/vrrp", CombinationMistake::NoSyncGroup)),
        };
        let track = name.map_or("vrrp.track".to_owned(), |name| format!("vrrp-{}.track", file_name(name)));
        return Ok(Mechanism::Vrrp {
            subject,
            // keepalived has one for all its groups.
            notify_fifo: vrrp.notify_fifo.unwrap_or_else(|| state.join("vrrp.fifo")),
            track_file: vrrp.track_file.unwrap_or_else(|| state.join(track)),
            virtual_address: vrrp.virtual_address,
        });
    }
    if let Some(GivenGroup { group, virtual_address }) = cluster {
        let group = group.ok_or(("/cluster", CombinationMistake::NoClusterGroup))?;
        return Ok(Mechanism::Cluster { group, virtual_address });
    }
    if let Some(GivenGroup { group, virtual_address }) = manual {
        let group = group.ok_or(("/manual", CombinationMistake::NoManualGroup))?;
        return Ok(Mechanism::Manual { group, virtual_address });
    }
    let Some(vip) = vip else { return Err(("", CombinationMistake::NoMechanism)) };
    if vip.address.is_empty() {
        return Err(("/vip", CombinationMistake::NoVirtualAddress));
    }
    Ok(Mechanism::Vip {
        group: vip.group.unwrap_or_else(|| name.unwrap_or("vip").to_owned()),
        address: vip.address,
        interface: vip.interface,
        any: vip.require.as_deref() == Some("any"),
    })
}

/// All further groups.
///
/// # Errors
/// JSON pointers and mistakes, all of them.
pub(super) fn further(
    given: IndexMap<String, GivenFurther>,
    state: &Path,
    first: Option<&Mechanism>,
) -> Result<Vec<FurtherGroup>, Vec<(String, CombinationMistake)>> {
    let mut groups: Vec<FurtherGroup> = Vec::new();
    let mut wrong = Vec::new();
    for (name, given) in given {
        let pointer = below("/group", &name);
        let at = below(&pointer, "failover-mechanism");
        let mechanism = match mechanism(given.failover_mechanism, state, Some(&name)) {
            Ok(mechanism) => mechanism,
            Err((below, mistake)) => {
                wrong.push((format!("{at}{below}"), mistake));
                continue;
            }
        };
        // Both of a group's names are understood by `notify`, and its files must be its own.
        let others = first.map(|first| (first.group(), first)).into_iter();
        let others: Vec<(&str, &Mechanism)> =
            others.chain(groups.iter().map(|group| (group.name.as_str(), &group.mechanism))).collect();
        let clashes = |new: &str| others.iter().any(|(name, other)| [*name, other.group()].contains(&new));
        if let Some(found) = [name.as_str(), mechanism.group()].into_iter().find(|new| clashes(new)) {
            wrong.push((at, CombinationMistake::GroupTwice { found: found.to_owned() }));
            continue;
        }
        let track = |mechanism: &Mechanism| match mechanism {
            Mechanism::Vrrp { track_file, .. } => Some(track_file.clone()),
            _ => None,
        };
        let file = |other: &str| file_name(other) == file_name(&name);
        let same_track = |other: &Mechanism| track(other).is_some_and(|file| Some(file) == track(&mechanism));
        if let Some((found, _)) = others.iter().find(|(other, known)| file(other) || same_track(known)) {
            wrong.push((at, CombinationMistake::GroupFiles { found: (*found).to_owned() }));
            continue;
        }
        let fifo = others.iter().find_map(|(_, other)| other.notify_fifo());
        if let (Some(expected), Some(found)) = (fifo, mechanism.notify_fifo())
            && expected != found
        {
            let (found, expected) = (found.to_owned(), expected.to_owned());
            wrong.push((at, CombinationMistake::AnotherFifo { found, expected }));
            continue;
        }
        let mut rules: Vec<Rule> =
            given.prefix.iter().filter_map(|text| network(text)).map(Rule::Prefix).collect();
        rules.extend(mechanism.addresses().iter().map(|address| Rule::Prefix((*address).into())));
        rules.extend(given.zone.iter().filter_map(|zone| zone.parse().ok()).map(Rule::Zone));
        rules.extend(given.mark.as_deref().and_then(parse_mark).map(|(value, mask)| Rule::Mark(value, mask)));
        if rules.is_empty() {
            wrong.push((pointer, CombinationMistake::GroupWithoutEntries { found: name }));
            continue;
        }
        groups.push(FurtherGroup { name, mechanism, rules });
    }
    if wrong.is_empty() { Ok(groups) } else { Err(wrong) }
}
