//! Layouts of what the commands print: the ones VyOS 1.2 users know, to the byte, and ours.
//!
//! Text in, text out; called by the command line. Column widths and tabs are those of the reference captured in
//! `tests/`.

use std::fmt::Write;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, L4, Tuple, protocol_name};

/// One cache's numbers, as `statistics` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CacheStatistics {
    /// Entries now.
    pub active: u64,
    /// Created, and failures.
    pub created: [u64; 2],
    /// Updated, and failures.
    pub updated: [u64; 2],
    /// Destroyed, and failures.
    pub destroyed: [u64; 2],
}

/// Everything `show conntrack-sync statistics` shows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Statistics {
    /// Entries owned here.
    pub internal: CacheStatistics,
    /// Entries owned by the peer.
    pub external: CacheStatistics,
    /// The channel is multicast.
    pub multicast: bool,
    /// Its interface.
    pub interface: String,
    /// Bytes sent and received.
    pub bytes: [u64; 2],
    /// Datagrams sent and received.
    pub datagrams: [u64; 2],
    /// Errors sending and receiving.
    pub errors: [u64; 2],
    /// Datagrams that did not parse.
    pub malformed: u64,
    /// Datagrams missed.
    pub lost: u64,
    /// Failures by reason.
    pub failures: Vec<(String, u64)>,
    /// Counters of ours.
    pub counters: Vec<(String, u64)>,
}

/// `show conntrack-sync statistics`: the 1.2 frame around conntrackd's `-s`.
pub fn statistics(statistics: &Statistics) -> String {
    let mut out = String::from("\nMain Table Statistics:\n\n");
    for (name, cache) in [("internal", &statistics.internal), ("external", &statistics.external)] {
        let _ = writeln!(out, "cache {name}:");
        let _ = writeln!(out, "current active connections:\t{:12}", cache.active);
        for (verb, [count, failed]) in
            [("created", cache.created), ("updated", cache.updated), ("destroyed", cache.destroyed)]
        {
            let _ = writeln!(out, "connections {verb}:\t\t{count:12}\tfailed:\t{failed:12}");
        }
        out.push('\n');
    }
    let _ = writeln!(out, "traffic processed:\n{:20} Bytes      {:20} Pckts\n", 0, 0);
    let kind = if statistics.multicast { "multicast" } else { "UDP" };
    let _ = writeln!(out, "{kind} traffic (active device={}):", statistics.interface);
    for ([left, right], unit) in [(statistics.bytes, "Bytes"), (statistics.datagrams, "Pckts")] {
        let _ = writeln!(out, "{left:20} {unit} sent {right:20} {unit} recv");
    }
    let [send, receive] = statistics.errors;
    let _ = writeln!(out, "{send:20} Error send {receive:20} Error recv\n");
    let _ = writeln!(
        out,
        "message tracking:\n{:20} Malformed msgs {:20} Lost msgs\n",
        statistics.malformed, statistics.lost
    );
    out
}

/// `show conntrack-sync status`.
pub fn sync_status(interface: &str, mechanism: &str, transition: Option<&str>) -> String {
    format!(
        "\nsync-interface        : {interface}\nfailover-mechanism    : {mechanism}\n\
         last state transition : {}\nExpectationSync       : disabled\n",
        transition.unwrap_or("no transition yet!")
    )
}

/// `show conntrack table ipv4|ipv6`, VyOS 1.2: legend, heading, original direction. `ids` are the kernel's.
pub fn conntrack_table<'a>(entries: impl Iterator<Item = (u32, &'a Entry)>, v6: bool) -> String {
    let width = if v6 { 40 } else { 22 };
    let mut out = String::from(
        "TCP state codes: SS - SYN SENT, SR - SYN RECEIVED, ES - ESTABLISHED,\n                 \
         FW - FIN WAIT, CW - CLOSE WAIT, LA - LAST ACK,\n                 \
         TW - TIME WAIT, CL - CLOSE, LI - LISTEN\n\n",
    );
    let mut row = |id: &str, source: &str, destination: &str, protocol: &str, timeout: &str| {
        let _ = writeln!(out, "{id:<10} {source:<width$} {destination:<width$} {protocol:<16} {timeout:<20}");
    };
    row("CONN ID", "Source", "Destination", "Protocol", "TIMEOUT");
    for (id, entry) in entries {
        let (source, destination) = ends(&entry.orig);
        let timeout = entry.timeout.map_or_else(|| "-".into(), |seconds| seconds.to_string());
        row(&id.to_string(), &source, &destination, &protocol(entry), &timeout);
    }
    out
}

/// `status`: verdict first, then what it rests on.
pub fn status(value: &serde_json::Value) -> String {
    let text = |pointer: &str| match value.pointer(pointer) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) | None => "-".into(),
        Some(serde_json::Value::Number(number)) if number.is_f64() => {
            format!("{:.1}", number.as_f64().unwrap_or_default())
        }
        Some(other) => other.to_string(),
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<22}: {value}");
    };
    line("verdict", text("/verdict"));
    line("node", text("/state/node"));
    line("role", format!("{}, {}", text("/state/role"), text("/state/readiness")));
    line("claim", format!("owner {}, epoch {}", text("/state/owner"), text("/state/epoch")));
    line("entries", format!("internal {}, external {}", text("/state/internal"), text("/state/external")));
    line("digests equal for", format!("{} s", text("/state/equal-for")));
    line("last sweep", format!("{} s ago", text("/state/sweep-age")));
    line(
        "waiting",
        format!("{} for the kernel, {} for the channel", text("/state/pending"), text("/state/unsent")),
    );
    line("cannot be installed", text("/state/failed"));
    for peer in value.pointer("/state/peers").and_then(|peers| peers.as_array()).into_iter().flatten() {
        let alive = peer["alive"] == true;
        let heard = format!("heard {} ms ago", peer["silent-ms"]);
        let state = if alive { "alive" } else { "lost" };
        let ready = if peer["ready"] == true { "ready" } else { "not ready" };
        line("peer", format!("{}, {state}, {heard}, {ready}, {} entries", peer["name"], peer["entries"]));
    }
    line(
        "channel",
        if value["authenticated"] == true { "authenticated" } else { "NOT authenticated: no key" }.into(),
    );
    out
}

/// `show conntrack table --json`.
pub fn conntrack_json(entries: &[(u32, Entry)]) -> serde_json::Value {
    let tuple = |tuple: &Tuple| match tuple.l4 {
        L4::Ports { src, dst } => {
            serde_json::json!({ "src": tuple.src, "dst": tuple.dst, "sport": src, "dport": dst })
        }
        L4::Icmp { id, kind, code } => {
            serde_json::json!({ "src": tuple.src, "dst": tuple.dst, "id": id, "type": kind, "code": code })
        }
        L4::Nothing => serde_json::json!({ "src": tuple.src, "dst": tuple.dst }),
    };
    let entry = |(id, entry): &(u32, Entry)| {
        serde_json::json!({
            "id": id,
            "protocol": entry.orig.proto,
            "original": tuple(&entry.orig),
            "reply": tuple(&entry.reply),
            "state": entry.tcp.map(|tcp| crate::entry::tcp_state_name(tcp.state)),
            "status": entry.status.bits(),
            "timeout": entry.timeout,
            "mark": entry.mark,
            "zone": entry.zone,
        })
    };
    serde_json::json!({ "version": 1, "entries": entries.iter().map(entry).collect::<Vec<_>>() })
}

/// The warning of a router whose rules ask for no tracking.
pub const NOT_ENABLED: &str = "\nWarning: Connection tracking is not enabled\n";

fn protocol(entry: &Entry) -> String {
    let number = entry.orig.proto;
    let mut text = format!("{} [{number}]", protocol_name(number));
    if let Some(code) = entry.tcp.and_then(|tcp| state_code(tcp.state)) {
        let _ = write!(text, " {code}");
    }
    text
}

/// Two letters of a TCP state; SYN_SENT2 and NONE have none, as in VyOS.
fn state_code(state: u8) -> Option<&'static str> {
    Some(match state {
        1 => "SS",
        2 => "SR",
        3 => "ES",
        4 => "FW",
        5 => "CW",
        6 => "LA",
        7 => "TW",
        8 => "CL",
        _ => return None,
    })
}

fn ends(tuple: &Tuple) -> (String, String) {
    let end = |address: IpAddr, port: Option<u16>| match (address, port) {
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (address, None) => address.to_string(),
    };
    match tuple.l4 {
        L4::Ports { src, dst } => (end(tuple.src, Some(src)), end(tuple.dst, Some(dst))),
        L4::Icmp { .. } | L4::Nothing => (end(tuple.src, None), end(tuple.dst, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample of the VyOS documentation, tabs as conntrackd writes them.
    const SEED: &str = "
Main Table Statistics:

cache internal:
current active connections:\t          10
connections created:\t\t        8517\tfailed:\t           0
connections updated:\t\t         127\tfailed:\t           0
connections destroyed:\t\t        8507\tfailed:\t           0

cache external:
current active connections:\t           0
connections created:\t\t           0\tfailed:\t           0
connections updated:\t\t           0\tfailed:\t           0
connections destroyed:\t\t           0\tfailed:\t           0

traffic processed:
                   0 Bytes                         0 Pckts

multicast traffic (active device=eth0):
              868780 Bytes sent               224136 Bytes recv
               20595 Pckts sent                14034 Pckts recv
                   0 Error send                    0 Error recv

message tracking:
                   0 Malformed msgs                    0 Lost msgs

";

    #[test]
    fn statistics_are_laid_out_as_documented() {
        let shown = Statistics {
            internal: CacheStatistics {
                active: 10,
                created: [8517, 0],
                updated: [127, 0],
                destroyed: [8507, 0],
            },
            multicast: true,
            interface: "eth0".into(),
            bytes: [868_780, 224_136],
            datagrams: [20_595, 14_034],
            ..Statistics::default()
        };
        assert_eq!(statistics(&shown), SEED);
    }

    #[test]
    fn a_table_row_is_laid_out_as_documented() {
        use crate::entry::{L4, Status, TcpInfo};
        let orig = Tuple {
            src: [10, 35, 100, 87].into(),
            dst: [172, 31, 20, 12].into(),
            proto: 6,
            l4: L4::Ports { src: 58172, dst: 22 },
        };
        let tcp = Some(TcpInfo { state: 3, wscale_orig: 0, wscale_reply: 0, flags_orig: 0, flags_reply: 0 });
        let entry = Entry {
            orig,
            reply: orig.inverse(),
            zone: 0,
            status: Status::empty(),
            timeout: Some(430_279),
            mark: None,
            tcp,
            master: None,
        };
        let text = conntrack_table([(1_015_736_576, &entry)].into_iter(), false);
        let rows: Vec<&str> = text.lines().skip(4).map(str::trim_end).collect();
        assert_eq!(
            rows,
            [
                "CONN ID    Source                 Destination            Protocol         TIMEOUT",
                "1015736576 10.35.100.87:58172     172.31.20.12:22        tcp [6] ES       430279",
            ]
        );
    }
}
