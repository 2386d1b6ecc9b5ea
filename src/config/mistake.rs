//! What can be wrong with a configuration: one variant a mistake, each with what was found and what was
//! expected.
//!
//! Made by the readers and the checks of this room, printed by the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::text::below;

/// A configuration is refused.
#[derive(Debug)]
pub struct Refused {
    /// Everything that is wrong with it, in the order of the file; never empty.
    pub errors: Vec<ConfigError>,
    /// What the operator should know beside that.
    pub remarks: Vec<String>,
}

impl Refused {
    /// One mistake of the file as a whole.
    pub fn whole(path: &Path, mistake: Mistake) -> Refused {
        Refused { errors: vec![ConfigError::whole(path, mistake)], remarks: Vec::new() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.errors.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// One mistake and where it is.
#[derive(Debug)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line and column, from 1; absent when the mistake is in no one place.
    pub place: Option<Place>,
    /// The option: a JSON pointer (RFC 6901), or the words of a `set` line. Empty for the file as a whole.
    pub option: String,
    /// What is wrong.
    pub mistake: Mistake,
}

/// Line and column in characters, both from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl ConfigError {
    /// A mistake that is in no one place.
    pub(super) fn whole(path: &Path, mistake: Mistake) -> ConfigError {
        ConfigError { path: path.to_owned(), place: None, option: String::new(), mistake }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.option.is_empty() {
            write!(f, ": {}", self.option)?;
        }
        write!(f, ": {}", self.mistake)?;
        let mut cause = std::error::Error::source(&self.mistake);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Mistake {
    /// The variant's name, for `--json`.
    pub fn word(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
    }

    /// The option about which nothing is known any more after a mistake at a JSON pointer; an empty one, when
    /// it may be any.
    pub(super) fn leaves_in_doubt(&self, pointer: &str) -> Option<String> {
        match self {
            Mistake::UnknownOption { nearest, .. } => nearest.0.as_ref().map(|name| below(pointer, name)),
            Mistake::DeleteLine => None,
            _ => Some(pointer.to_owned()),
        }
    }
}

/// The name that was probably meant, as the end of a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nearest(pub Option<String>);

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(f, "; did you mean \"{name}\"?"),
            None => Ok(()),
        }
    }
}

/// What is wrong.
#[derive(Debug, Error)]
pub enum Mistake {
    // The file.
    /// It cannot be read.
    #[error("cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// It is larger than any configuration.
    #[error("found {found} bytes, expected at most {most}")]
    TooLarge {
        /// Bytes.
        found: u64,
        /// Bytes.
        most: u64,
    },
    /// It is not text.
    #[error("byte {at} is not UTF-8, expected JSON or `set` lines")]
    NotText {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// There is nothing in it.
    #[error("found nothing, expected JSON or `set service conntrack-sync ...` lines")]
    Empty,
    /// An editor's mark before the first character (RFC 8259, 8.1 forbids it).
    #[error("begins with a byte-order mark, expected none: save the file as UTF-8 without BOM")]
    ByteOrderMark,
    /// VyOS' own form, as `show configuration` and config.boot have it.
    #[error(
        "found \"{found}\", VyOS' configuration in braces; expected JSON or `set` lines: on VyOS \
         `show configuration commands | match conntrack-sync` prints them"
    )]
    Braces {
        /// Its first line.
        found: String,
    },
    /// Neither JSON nor `set` lines.
    #[error("found \"{found}\", expected JSON (which begins with `{{`) or `set` lines")]
    NeitherForm {
        /// Its first line.
        found: String,
    },

    // JSON as such.
    /// It does not parse.
    #[error("not JSON: {complaint}")]
    Syntax {
        /// The parser's words.
        complaint: String,
    },
    /// A comment.
    #[error("found a comment, expected none: JSON has no comments")]
    Comment,
    /// A comma before a closing bracket.
    #[error("found a comma with nothing behind it")]
    TrailingComma,
    /// No comma between two options or values.
    #[error("expected a comma here, before what follows")]
    MissingComma,
    /// A string as other languages write it.
    #[error("found a single quotation mark, expected double ones around a string")]
    SingleQuotes,
    /// Something behind the end.
    #[error("found more behind the closing brace, expected the end of the file")]
    BehindTheEnd,
    /// Brackets within brackets without end.
    #[error("found brackets more than 512 deep")]
    TooDeep,
    /// It ends too early.
    #[error("the file ends before the {bracket} that begins here is closed")]
    Unclosed {
        /// What is open.
        bracket: &'static str,
    },
    /// The outermost value is no object.
    #[error("found {found}, expected an object with the options in it")]
    NotAnObject {
        /// What stands there.
        found: String,
    },
    /// A key twice in one object.
    #[error("\"{key}\" stands here for the second time, first at line {first}")]
    DuplicateKey {
        /// The key.
        key: String,
        /// Line of the first one.
        first: usize,
    },

    // Names and types.
    /// No such option.
    #[error("no option is called \"{found}\" here{nearest}")]
    UnknownOption {
        /// What stands there.
        found: String,
        /// The option that was probably meant.
        nearest: Nearest,
    },
    /// `null`.
    #[error("found null, expected {expected}; leave the option out to have its default")]
    Null {
        /// What should be there.
        expected: String,
    },
    /// No text where one belongs.
    #[error("found {found}, expected a string: {expected}")]
    NotAString {
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// No number where one belongs.
    #[error("found {found}, expected a number{hint}")]
    NotANumber {
        /// What stands there.
        found: String,
        /// How to write it.
        hint: &'static str,
    },
    /// A number with a fraction or an exponent.
    #[error("found {found}, expected a whole number")]
    NotWhole {
        /// What stands there.
        found: String,
    },
    /// A number below or above what is possible.
    #[error("found {found}, expected a number from {from} to {to}{unit}")]
    OutOfRange {
        /// What stands there.
        found: String,
        /// Least.
        from: u64,
        /// Most.
        to: u64,
        /// Of what, with a blank before it.
        unit: String,
    },
    /// Neither true nor false.
    #[error("found {found}, expected true or false")]
    NotABoolean {
        /// What stands there.
        found: String,
    },
    /// No list where one belongs.
    #[error("found {found}, expected a list of strings in brackets")]
    NotAList {
        /// What stands there.
        found: String,
    },
    /// No object where one belongs.
    #[error("found {found}, expected an object in braces")]
    NotATable {
        /// What stands there.
        found: String,
    },

    // Values.
    /// Not an address.
    #[error("found \"{found}\", expected the IPv4 or IPv6 address of one host")]
    NotAnAddress {
        /// What stands there.
        found: String,
    },
    /// A group, the unspecified or the broadcast address where a host's belongs.
    #[error("found {found}, which is not the address of one host")]
    NotAHost {
        /// What stands there.
        found: String,
    },
    /// Not an address or prefix.
    #[error("found \"{found}\", expected an address or a prefix, 192.0.2.1 or 192.0.2.0/24")]
    NotAPrefix {
        /// What stands there.
        found: String,
    },
    /// More bits than the address has.
    #[error("found prefix length {found}, expected 0 to {most}")]
    PrefixLength {
        /// What stands there.
        found: String,
        /// 32 or 128.
        most: u8,
    },
    /// A prefix with bits set behind its length.
    #[error("{found} has bits set behind its length, expected {expected}")]
    HostBits {
        /// What stands there.
        found: String,
        /// The prefix itself.
        expected: String,
    },
    /// Not a multicast group.
    #[error("{found} is not a valid IPv4 multicast address, expected 224.0.0.0 to 239.255.255.255")]
    NotMulticast {
        /// What stands there.
        found: String,
    },
    /// A multicast group where an IPv6 one stands.
    #[error(
        "found the IPv6 group {found}, expected an IPv4 one; over IPv6 the channel is unicast, to a `peer`"
    )]
    Ipv6Group {
        /// What stands there.
        found: String,
    },
    /// Not a protocol.
    #[error("found \"{found}\"; allowed protocols: tcp, udp, icmp, icmp6, sctp, dccp{nearest}")]
    Protocol {
        /// What stands there.
        found: String,
        /// The one that was probably meant.
        nearest: Nearest,
    },
    /// Not a helper.
    #[error(
        "invalid protocol \"{found}\", expected all, ftp, sip, h323, nfs, sqlnet, tftp, pptp, irc, amanda, snmp, \
         netbios-ns or sane{nearest}"
    )]
    Helper {
        /// What stands there.
        found: String,
        /// The one that was probably meant.
        nearest: Nearest,
    },
    /// `all` beside others.
    #[error("cannot configure expect-sync \"all\" with other protocols; found also {others}")]
    AllWithOthers {
        /// The others.
        others: String,
    },
    /// Neither hot nor cold.
    #[error("found \"{found}\", expected hot or cold{nearest}")]
    Standby {
        /// What stands there.
        found: String,
        /// The one that was probably meant.
        nearest: Nearest,
    },
    /// Neither all nor any.
    #[error("found \"{found}\", expected all or any{nearest}")]
    Require {
        /// What stands there.
        found: String,
        /// The one that was probably meant.
        nearest: Nearest,
    },
    /// Not a conntrack zone.
    #[error("found \"{found}\", expected a zone from 1 to 65535")]
    Zone {
        /// What stands there.
        found: String,
    },
    /// Not a mark.
    #[error("found \"{found}\", expected VALUE or VALUE/MASK, 0x1/0xff")]
    Mark {
        /// What stands there.
        found: String,
    },
    /// A name that cannot be one.
    #[error("found \"{found}\", expected a name of 1 to 64 bytes without blanks")]
    Name {
        /// What stands there.
        found: String,
    },
    /// Not an interface's name.
    #[error("found \"{found}\", expected an interface's name: 1 to 15 bytes, no blank, no slash")]
    InterfaceName {
        /// What stands there.
        found: String,
    },
    /// A path that depends on where the daemon was started.
    #[error("found {found:?}, expected an absolute path")]
    RelativePath {
        /// What stands there.
        found: String,
    },
    /// Not somewhere to listen.
    #[error("found \"{found}\", expected ADDRESS:PORT, [IPv6]:PORT or an absolute path")]
    Listen {
        /// What stands there.
        found: String,
    },

    // Combinations.
    /// No interface.
    #[error("interface not defined; say which one the routers share: \"interface\": {{ \"eth0\": {{}} }}")]
    NoInterface,
    /// Some interfaces have a peer, some have none.
    #[error("cannot mix unicast and multicast mode: {with} has a peer, {without} has none")]
    MixedModes {
        /// An interface with a peer.
        with: String,
        /// One without.
        without: String,
    },
    /// No mechanism.
    #[error("failover mechanism not defined; expected vrrp, cluster, vip or manual")]
    NoMechanism,
    /// Several mechanisms.
    #[error("can't set {found} as failover mechanism; expected one")]
    SeveralMechanisms {
        /// Those set.
        found: String,
    },
    /// `vrrp` without its group.
    #[error("VRRP sync-group must be defined")]
    NoSyncGroup,
    /// keepalived tells the state of an instance in a sync group by the group.
    #[error(
        "found both sync-group and instance, expected one: an instance in a sync group has the group's state"
    )]
    GroupAndInstance,
    /// `vip` without addresses.
    #[error("a virtual address must be defined: the role is where it is")]
    NoVirtualAddress,
    /// Two groups of one name.
    #[error("another failover group is named \"{found}\" too; expected names that differ")]
    GroupTwice {
        /// The name.
        found: String,
    },
    /// State and track files of two groups are the same.
    #[error(
        "the files of this group are those of {found}, too; expected another name, or another track-file"
    )]
    GroupFiles {
        /// The other group.
        found: String,
    },
    /// keepalived has one for all its groups.
    #[error("found notify-fifo {found}, expected {expected}: keepalived has one for all its groups")]
    AnotherFifo {
        /// This group's.
        found: PathBuf,
        /// Another group's.
        expected: PathBuf,
    },
    /// No entry could ever belong to it.
    #[error("no entry belongs to group {found}; expected a prefix, zone, mark or virtual-address of it")]
    GroupWithoutEntries {
        /// Its name.
        found: String,
    },
    /// What is to be forwarded cannot be told apart by group.
    #[error("hold is for one failover group: it would drop what another group forwards here")]
    HoldWithGroups,
    /// What is addressed to them is held, and they are not the router's own.
    #[error(
        "hold needs the group's virtual addresses; expected `virtual-address` below the failover mechanism"
    )]
    HoldWithoutAddress,
    /// `cluster` without its group.
    #[error("cluster group must be defined")]
    NoClusterGroup,
    /// `manual` without its group.
    #[error("a group must be defined: the name by which `ctsync notify` names it")]
    NoManualGroup,
    /// The peer would be lost between two signs of life.
    #[error("found {found}, expected at least twice the alive-interval, {least}")]
    PeerTimeout {
        /// Milliseconds.
        found: u64,
        /// Milliseconds.
        least: u64,
    },
    /// IPv4 here, IPv6 there.
    #[error("listen-address {listen} and peer {peer} are of different families")]
    FamiliesDiffer {
        /// Here.
        listen: String,
        /// There.
        peer: String,
    },
    /// Nothing to receive on: without a peer the channel is multicast.
    #[error("listen-address is for unicast; expected a `peer` on interface {interface} beside it")]
    ListenWithoutPeer {
        /// The channel's interface.
        interface: String,
    },
    /// No name, and the host has none either.
    #[error("this host has no name; set `node`")]
    NoNodeName,

    // `set` lines.
    /// Not a `set` line.
    #[error("found \"{found}\", expected lines that begin with `set`{nearest}")]
    NotASetLine {
        /// The first word.
        found: String,
        /// What was probably meant.
        nearest: Nearest,
    },
    /// Almost `service conntrack-sync`.
    #[error("found \"{found}\"; did you mean \"service conntrack-sync\"?")]
    MisspeltService {
        /// The words after `set`.
        found: String,
    },
    /// A `delete` line.
    #[error(
        "`delete` lines change a configuration that is there; this file is the whole of it: leave out what is not wanted"
    )]
    DeleteLine,
    /// A quotation mark without a second one.
    #[error("the quotation mark {mark} is not closed on this line")]
    Quote {
        /// Which.
        mark: char,
    },
    /// An option without its value.
    #[error("ends before its value, expected {expected}")]
    MissingValue {
        /// What should follow.
        expected: String,
    },
    /// A value after an option that takes none.
    #[error("takes no value, found \"{found}\"")]
    FlagWithValue {
        /// What follows.
        found: String,
    },
    /// Words after the value.
    #[error("found \"{found}\" after the value, expected the end of the line")]
    ExtraWords {
        /// What follows.
        found: String,
    },
    /// Two values for an option that takes one.
    #[error("set to \"{found}\" here and to \"{first}\" in line {line}; it takes one value")]
    SetTwice {
        /// Here.
        found: String,
        /// There.
        first: String,
        /// Line of the first one.
        line: usize,
    },
    /// A file of `set` lines with none for us.
    #[error("no line of the file sets anything of `service conntrack-sync`{elsewhere}")]
    NothingOfOurs {
        /// What there was.
        elsewhere: String,
    },

    // This machine.
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

/// The candidate that was probably meant.
pub(super) fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Nearest {
    let found = found.to_lowercase();
    let best = candidates
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&found, &name.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance);
    Nearest(best.filter(|(distance, name)| *distance <= name.len() / 3 + 1).map(|(_, name)| name.to_owned()))
}
