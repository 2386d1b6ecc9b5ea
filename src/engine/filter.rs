//! Which entries are worth synchronising. Not by default: what begins or ends on the router itself, loopback,
//! the channel's own flow, VRRP and link-local multicast; none of them can fail over.
//!
//! Called by the replica for keys it does not know yet, and by `diff`. The addresses come from the daemon's
//! address watch.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use ctsync_ctnetlink::entry::{Entry, L4, proto};

/// The filter of one node.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct Filter {
    /// Addresses of this router, virtual ones included.
    pub local: HashSet<IpAddr>,
    /// UDP port of the channel.
    pub channel_port: u16,
    /// Protocols to synchronise (`accept-protocol`); empty means every protocol.
    pub accept: Vec<u8>,
    /// Addresses and prefixes that take no part (`ignore-address`), whichever end of a connection they are.
    pub ignore: Vec<IpNet>,
    /// The users' words for helpers whose expectations take part (`expect-sync`).
    pub expect: Vec<String>,
    /// Also what cannot fail over; never the channel.
    pub include_local: bool,
}

/// Whether a helper, by the kernel's name, is meant by a user's word. The kernel adds the port where it is
/// not the usual one, ftp-2121 (`nf_ct_helper_init`).
fn means(word: &str, helper: &str) -> bool {
    let named = |name: &str| {
        let port = helper.strip_prefix(name).map(|rest| rest.strip_prefix('-').unwrap_or(rest));
        port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match word {
        "all" => true,
        "h323" => ["RAS", "Q.931", "H.245"].into_iter().any(named),
        "nfs" => named("rpc"),
        "sqlnet" => named("tns"),
        // Its NAT part has a helper of its own.
        "snmp" => named("snmp") || named("snmp_trap"),
        word => named(word),
    }
}

impl Filter {
    /// Whether the entry takes part in synchronisation.
    pub fn accepts(&self, entry: &Entry) -> bool {
        if entry.expectation().is_some() {
            let helper = entry.helper().unwrap_or_default();
            return self.expect.iter().any(|word| means(word, helper)) && self.accepts_master(entry);
        }
        let orig = &entry.orig;
        if !self.accept.is_empty() && !self.accept.contains(&orig.proto) {
            return false;
        }
        let channel = matches!(orig.l4, L4::Ports { dst, .. } if dst == self.channel_port);
        let ours = || self.local.contains(&orig.src) || self.local.contains(&orig.dst);
        if channel && orig.proto == proto::UDP && (orig.dst.is_multicast() || ours()) {
            return false;
        }
        let ends = [orig.src, orig.dst, entry.reply.src, entry.reply.dst];
        if self.ignore.iter().any(|net| ends.iter().any(|end| net.contains(end))) {
            return false;
        }
        self.include_local || self.can_fail_over(entry)
    }

    fn can_fail_over(&self, entry: &Entry) -> bool {
        let orig = &entry.orig;
        let noise = orig.proto == proto::VRRP
            || orig.src.is_loopback()
            || orig.dst.is_loopback()
            || link_local_multicast(orig.dst)
            || link_local_unicast(orig.src);
        // The reply comes from the far end: after source NAT its destination is ours, its source never is.
        !noise && !self.local.contains(&orig.src) && !self.local.contains(&entry.reply.src)
    }

    /// An expectation takes part with its master, of which it tells one direction.
    fn accepts_master(&self, expectation: &Entry) -> bool {
        expectation.master.as_deref().is_some_and(|master| {
            let ends = [master.src, master.dst];
            let ignored = self.ignore.iter().any(|net| ends.iter().any(|end| net.contains(end)));
            let accepted = self.accept.is_empty() || self.accept.contains(&master.proto);
            accepted && !ignored && (self.include_local || !self.local.contains(&master.src))
        })
    }
}

/// 224.0.0.0/24 (RFC 5771, 4) and ff02::/16 (RFC 4291, 2.7).
fn link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets(), [224, 0, 0, _]),
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }
}

/// fe80::/10 never crosses a router.
fn link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctsync_ctnetlink::entry::{Status, Tuple};

    fn entry(src: &str, dst: &str, protocol: u8) -> Entry {
        let orig = Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            proto: protocol,
            l4: L4::Ports { src: 1000, dst: 3780 },
        };
        Entry {
            orig,
            reply: orig.inverse(),
            zone: 0,
            status: Status::empty(),
            timeout: None,
            mark: None,
            tcp: None,
            master: None,
            rare: None,
        }
    }

    #[test]
    fn users_words_mean_the_kernels_helpers() {
        for (word, helpers) in [
            ("ftp", &["ftp", "ftp-2121"][..]),
            ("h323", &["RAS", "Q.931", "H.245"]),
            ("nfs", &["rpc"]),
            ("sqlnet", &["tns"]),
            ("tftp", &["tftp", "tftp-6969"]),
            ("snmp", &["snmp", "snmp_trap"]),
            ("netbios-ns", &["netbios-ns"]),
            ("all", &["ftp", "anything"]),
        ] {
            for helper in helpers {
                assert!(means(word, helper), "{word} means {helper}");
            }
        }
        for (word, helper) in
            [("ftp", "tftp"), ("tftp", "ftp"), ("sip", "ftp"), ("snmp", "snmpx"), ("nfs", "nfs")]
        {
            assert!(!means(word, helper), "{word} does not mean {helper}");
        }
    }

    #[test]
    fn everything_but_the_channel_is_included_on_demand() {
        let local: HashSet<IpAddr> = [[10, 0, 0, 10].into()].into();
        let filter = Filter { local, channel_port: 3780, include_local: true, ..Filter::default() };
        assert!(filter.accepts(&entry("10.0.1.100", "10.0.0.10", proto::TCP)));
        assert!(filter.accepts(&entry("10.0.0.11", "224.0.0.18", proto::VRRP)));
        assert!(!filter.accepts(&entry("10.0.0.11", "225.0.0.50", proto::UDP)), "the channel's own flow");
    }

    #[test]
    fn only_forwarded_connections_pass() {
        let local = ["10.0.0.10", "10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap());
        let filter = Filter { local: local.into(), channel_port: 3780, ..Filter::default() };
        let mut translated = entry("10.0.1.100", "10.0.0.100", proto::TCP);
        translated.reply.dst = "10.0.0.1".parse().unwrap();
        assert!(filter.accepts(&translated), "source NAT to our own address is forwarded");
        for (src, dst, protocol) in [
            ("10.0.1.100", "10.0.0.10", proto::TCP),
            ("10.0.0.10", "10.0.0.100", proto::UDP),
            ("10.0.0.11", "225.0.0.50", proto::UDP),
            ("10.0.0.11", "224.0.0.18", proto::VRRP),
            ("127.0.0.1", "127.0.0.1", proto::TCP),
            ("fe80::1", "ff02::12", proto::VRRP),
            ("fd00::100", "fd00::1", proto::TCP),
        ] {
            assert!(!filter.accepts(&entry(src, dst, protocol)), "{src} to {dst}");
        }
        let only_udp = Filter { accept: vec![proto::UDP], ..filter.clone() };
        assert!(!only_udp.accepts(&translated));
        for (net, accepted) in [
            ("10.0.1.100/32", false),
            ("10.0.0.96/28", false),
            ("10.0.0.1/32", false),
            ("10.0.2.0/24", true),
            ("fd00::/16", true),
        ] {
            let filter = Filter { ignore: vec![net.parse().unwrap()], ..filter.clone() };
            assert_eq!(filter.accepts(&translated), accepted, "{net}: either end of either direction");
        }
    }
}
