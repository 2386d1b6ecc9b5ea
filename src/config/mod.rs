//! The configuration file into a [`Config`] that the rest trusts. The only reader of the file.
//!
//! JSON with the option names of VyOS `service conntrack-sync`, ours beside them, or VyOS's own `set` lines.
//! Both readers make one tree of values; `shape` checks each value, `combine` whether they fit together,
//! `machine` whether this machine has what they name. Whatever is wrong is told, all of it, with file, place,
//! what was found and what was expected; nothing is defaulted in silence. Called by the command line.

mod combine;
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
mod text;
mod tree;
mod write;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Map, Value as Json};

pub use keepalived::{
    KEEPALIVED_CONF, fragments as keepalived_fragments, keepalived_remarks, virtual_addresses,
};
pub use keys::read_keys;
pub use machine::{Machine, check_machine, may_come_late};
pub use mechanism::{FurtherGroup, Mechanism, Subject};
pub use mistake::{
    CombinationMistake, ConfigError, FileMistake, JsonMistake, LineMistake, MachineMistake, Mistake, Nearest,
    Place, Refused, ValueMistake,
};
pub use schema::schema;
pub use write::{EXAMPLE, reference_roff, reference_table, to_json, to_set_lines};

use crate::engine::replica::Tunables;

use options::{OPTIONS, Shape};
use text::below;

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
    /// Unicast to these peers instead of multicast.
    pub peers: Vec<IpAddr>,
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
    /// How the engine behaves, as far as a reload may change it.
    pub tunables: Tunables,
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
    fn wrong(&self, pointer: &str, mistake: impl Into<Mistake>) -> ConfigError {
        let mut at = pointer;
        while !at.is_empty() && !self.places.contains_key(at) {
            at = at.rsplit_once('/').map_or("", |(above, _)| above);
        }
        self.at(self.places.get(at).copied(), self.option(pointer), mistake)
    }

    fn at(&self, place: Option<Place>, option: String, mistake: impl Into<Mistake>) -> ConfigError {
        ConfigError { path: self.path.clone(), place, option, mistake: mistake.into() }
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

/// Read and check a configuration file of either form.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(path: &Path) -> Result<Loaded, Refused> {
    let refused = |mistake| Refused::whole(path, mistake);
    let unreadable = |error| refused(FileMistake::Unreadable(error));
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > LARGEST {
        return Err(refused(FileMistake::TooLarge { found: length, most: LARGEST }));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(path, text),
        Err(error) => Err(refused(FileMistake::NotText { at: error.valid_up_to() })),
    }
}

/// Check a configuration's text; `path` is for the errors.
///
/// A mistake does not hide the next one: what is wrong is left out, and the rest judged on. What would follow
/// from a mistake alone is not told beside it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<Loaded, Refused> {
    let mut errors = Vec::new();
    let text = text.strip_prefix('\u{feff}').map_or(text, |rest| {
        errors.push(ConfigError::whole(path, FileMistake::ByteOrderMark));
        rest
    });
    let form = form(text);
    let set_lines = matches!(form, Form::SetLines);
    let mut source = Source { path: path.to_owned(), set_lines, places: HashMap::new() };
    let mut doubtful = Vec::new();
    let mut remarks = Vec::new();
    let fields = match form {
        Form::Empty => Err(Mistake::from(FileMistake::Empty)),
        Form::Braces(found) => Err(FileMistake::Braces { found }.into()),
        Form::Neither(found) => Err(FileMistake::NeitherForm { found }.into()),
        Form::Json => {
            let found = json::read(text);
            let told =
                found.errors.into_iter().map(|(place, mistake)| source.at(place, String::new(), mistake));
            errors.extend(told);
            Ok(found.fields)
        }
        Form::SetLines => {
            let lines = set_lines::read(text);
            for (place, words, mistake) in lines.errors {
                let pointer = words
                    .split(' ')
                    .filter(|word| !word.is_empty())
                    .fold(String::new(), |at, word| below(&at, word));
                doubtful.extend(mistake.leaves_in_doubt(&pointer));
                errors.push(source.at(Some(place), words, mistake));
            }
            remarks.extend(lines.remarks);
            let elsewhere = set_lines::tell_elsewhere(&lines.elsewhere);
            if lines.fields.is_empty() && errors.is_empty() {
                let elsewhere = elsewhere.map_or(String::new(), |text| format!("; {text}"));
                Err(LineMistake::NothingOfOurs { elsewhere }.into())
            } else {
                remarks.extend(elsewhere);
                Ok(Some(lines.fields))
            }
        }
    };
    let fields = match fields {
        Ok(Some(fields)) => fields,
        // There is nothing that could be judged on.
        Ok(None) => return Err(Refused { errors, remarks }),
        Err(mistake) => {
            errors.push(ConfigError::whole(path, mistake));
            return Err(Refused { errors, remarks });
        }
    };
    let checked = shape::check(&fields);
    source.places = checked.places;
    for (place, pointer, mistake) in checked.errors {
        doubtful.extend(mistake.leaves_in_doubt(&pointer));
        errors.push(source.at(Some(place), source.option(&pointer), mistake));
    }
    let values = checked.values;
    let combined = combine::combine(with_defaults(&values), &source, &doubtful);
    remarks.extend(combined.remarks);
    errors.extend(combined.errors);
    match combined.config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, values, remarks, source }),
        _ => {
            // What is in no one place comes last.
            errors
                .sort_by_key(|error| error.place.map_or((usize::MAX, 0), |place| (place.line, place.column)));
            Err(Refused { errors, remarks })
        }
    }
}

enum Form {
    Empty,
    Json,
    SetLines,
    /// VyOS' own; the first line.
    Braces(String),
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
    let found = first.chars().take(60).collect();
    // `service {`, `conntrack-sync {`, and what else a configuration of VyOS begins with; one with a `set {`
    // in it, too.
    if first.ends_with('{') {
        return Form::Braces(found);
    }
    let set_line = |line: &str| matches!(line.split_whitespace().next(), Some("set" | "delete"));
    if text.lines().any(set_line) {
        return Form::SetLines;
    }
    Form::Neither(found)
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
