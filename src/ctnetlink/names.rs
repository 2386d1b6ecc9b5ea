//! Names of protocols and of their states, as `conntrack -L` prints them.
//!
//! Called by whoever shows an entry.

use crate::entry::proto;

/// Name of a TCP state as the kernel prints it (`tcp_conntrack_names`).
pub fn tcp_state_name(state: u8) -> &'static str {
    match state {
        0 => "NONE",
        1 => "SYN_SENT",
        2 => "SYN_RECV",
        3 => "ESTABLISHED",
        4 => "FIN_WAIT",
        5 => "CLOSE_WAIT",
        6 => "LAST_ACK",
        7 => "TIME_WAIT",
        8 => "CLOSE",
        9 => "SYN_SENT2",
        _ => "UNKNOWN",
    }
}

/// Name of an SCTP state as the kernel prints it (`sctp_conntrack_names`).
pub fn sctp_state_name(state: u8) -> &'static str {
    match state {
        0 => "NONE",
        1 => "CLOSED",
        2 => "COOKIE_WAIT",
        3 => "COOKIE_ECHOED",
        4 => "ESTABLISHED",
        5 => "SHUTDOWN_SENT",
        6 => "SHUTDOWN_RECD",
        7 => "SHUTDOWN_ACK_SENT",
        8 => "HEARTBEAT_SENT",
        9 => "HEARTBEAT_ACKED",
        _ => "UNKNOWN",
    }
}

/// Name of an IP protocol as `/etc/protocols` has it; empty when we know none.
pub fn protocol_name(number: u8) -> &'static str {
    match number {
        proto::ICMP => "icmp",
        2 => "igmp",
        proto::TCP => "tcp",
        proto::UDP => "udp",
        proto::DCCP => "dccp",
        proto::GRE => "gre",
        50 => "esp",
        51 => "ah",
        proto::ICMPV6 => "ipv6-icmp",
        89 => "ospf",
        proto::VRRP => "vrrp",
        proto::SCTP => "sctp",
        proto::UDPLITE => "udplite",
        _ => "",
    }
}
