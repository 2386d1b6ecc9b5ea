//! What can be wrong with one option: its name, its type, its value.
//!
//! Made by `shape` and `options`.

use thiserror::Error;

use super::Nearest;

/// What can be wrong with one option: its name, its type, its value.
#[derive(Debug, Error)]
pub enum ValueMistake {
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
}
