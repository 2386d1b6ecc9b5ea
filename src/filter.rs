//! Which entries are worth synchronising. Not by default: what begins or ends on the router itself, loopback, the
//! channel's own flow, VRRP and link-local multicast; none of them can fail over.
//!
//! Called by the replica for keys it does not know yet. The addresses come from the daemon's address watch.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::entry::{Entry, L4, proto};

/// The filter of one node.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Filter {
    /// Addresses of this router, virtual ones included.
    pub local: HashSet<IpAddr>,
    /// UDP port of the channel.
    pub channel_port: u16,
    /// Protocols to synchronise (`accept-protocol`); empty means every protocol.
    pub accept: Vec<u8>,
    /// Addresses and prefixes that take no part (`ignore-address`), whichever end of a connection they are.
    pub ignore: Vec<IpNet>,
}

impl Filter {
    /// Whether the entry takes part in synchronisation.
    pub fn accepts(&self, entry: &Entry) -> bool {
        let orig = &entry.orig;
        if !self.accept.is_empty() && !self.accept.contains(&orig.proto) {
            return false;
        }
        if orig.proto == proto::VRRP || orig.src.is_loopback() || orig.dst.is_loopback() {
            return false;
        }
        if link_local_multicast(orig.dst) || link_local_unicast(orig.src) {
            return false;
        }
        let channel = matches!(orig.l4, L4::Ports { dst, .. } if dst == self.channel_port);
        if channel && orig.proto == proto::UDP && orig.dst.is_multicast() {
            return false;
        }
        let ends = [orig.src, orig.dst, entry.reply.src, entry.reply.dst];
        if self.ignore.iter().any(|net| ends.iter().any(|end| net.contains(end))) {
            return false;
        }
        // The reply comes from the far end: after source NAT its destination is ours, its source never is.
        !self.local.contains(&orig.src) && !self.local.contains(&entry.reply.src)
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
    use crate::entry::{Status, Tuple};

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
        }
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
