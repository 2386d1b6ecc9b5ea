//! Layouts of what the commands print: here those that VyOS 1.2 users know, to the byte; `wide` has what
//! these leave out, `verdict` our own status.
//!
//! Values in, text out; called by the command line. A lab test holds the statistics against conntrackd's own
//! output.

mod verdict;
mod wide;

use std::fmt::Write;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::faces::rows::{End2End, Row};

pub use verdict::{differing, status, switched};
pub use wide::{change, wide};

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
    /// Of this shape.
    pub version: u32,
    /// Entries owned here.
    pub internal: CacheStatistics,
    /// Entries owned by the peer.
    pub external: CacheStatistics,
    /// Expectations of entries owned here.
    pub internal_expected: CacheStatistics,
    /// Expectations of entries owned by the peer.
    pub external_expected: CacheStatistics,
    /// The channel is multicast.
    pub multicast: bool,
    /// Its interface.
    pub interface: String,
    /// `expect-sync` is set.
    pub expect_sync: bool,
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

/// `show conntrack-sync statistics`: the frame that VyOS puts around conntrackd's `-s`. `expect`: also the
/// section on expectations.
pub fn statistics(shown: &Statistics, expect: bool) -> String {
    let mut out = format!("\nMain Table Statistics:\n\n{}\n", plain_statistics(shown));
    if expect {
        let _ = write!(out, "\nExpect Table Statistics:\n\n{}\n", expect_statistics(shown));
    }
    out
}

/// `show conntrack-sync statistics expect`: the caches of expectations.
pub fn expect_statistics(shown: &Statistics) -> String {
    plain_statistics(&Statistics {
        internal: shown.internal_expected,
        external: shown.external_expected,
        ..shown.clone()
    })
}

/// `show conntrack-sync statistics main`: what conntrackd's `-s` prints.
pub fn plain_statistics(statistics: &Statistics) -> String {
    let mut out = String::new();
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

/// `show conntrack-sync status`. `expect_sync` are the users' words, none for off.
pub fn sync_status(
    interface: &str,
    mechanism: &str,
    transition: Option<&str>,
    expect_sync: &[&str],
) -> String {
    let expect_sync = match expect_sync {
        [] => "disabled".to_owned(),
        ["all"] => "enabled for all: ftp, sip, h323, nfs, sqlnet".to_owned(),
        words => format!("enabled for {}", words.join(", ")),
    };
    format!(
        "\nsync-interface        : {interface}\nfailover-mechanism    : {mechanism}\n\
         last state transition : {}\nExpectationSync       : {expect_sync}\n",
        transition.unwrap_or("no transition yet!")
    )
}

/// `show conntrack table ipv4|ipv6`: legend and heading; rows follow.
pub fn table_heading(v6: bool) -> String {
    let mut out = String::from(
        "TCP state codes: SS - SYN SENT, SR - SYN RECEIVED, ES - ESTABLISHED,\n                 \
         FW - FIN WAIT, CW - CLOSE WAIT, LA - LAST ACK,\n                 \
         TW - TIME WAIT, CL - CLOSE, LI - LISTEN\n\n",
    );
    table_line(&mut out, v6, ["CONN ID", "Source", "Destination", "Protocol", "TIMEOUT"]);
    out
}

/// One row of `show conntrack table`: the original direction.
pub fn table_row(row: &Row, v6: bool) -> String {
    let [source, destination] = ends(&row.original);
    let timeout = row.timeout.map_or_else(|| "-".into(), |seconds| seconds.to_string());
    let id = row.id.unwrap_or_default().to_string();
    let mut protocol = protocol(row);
    if let Some(code) = row.state.as_deref().and_then(state_code) {
        let _ = write!(protocol, " {code}");
    }
    let mut out = String::new();
    table_line(&mut out, v6, [&id, &source, &destination, &protocol, &timeout]);
    out
}

fn table_line(out: &mut String, v6: bool, [id, source, destination, protocol, timeout]: [&str; 5]) {
    let width = if v6 { 40 } else { 22 };
    // The original pads the last column, too, which folds lines; its documentation shows none of that.
    let _ = writeln!(out, "{id:<10} {source:<width$} {destination:<width$} {protocol:<16} {timeout}");
}

/// The heading of `show conntrack-sync cache`.
pub fn cache_heading() -> String {
    cache_line("Source", "Destination", "Protocol")
}

/// The titles of its two sections, when both are shown.
pub const MAIN_TITLE: &str = "\nMain Table Entries:\n\n";
/// The second one.
pub const EXPECT_TITLE: &str = "\nExpect Table Entries:\n\n";

/// One row of `show conntrack-sync cache`.
pub fn cache_row(row: &Row) -> String {
    let (at, port) =
        (&row.original, |port: Option<u16>| port.map_or(String::new(), |port| format!(":{port}")));
    cache_line(
        &format!("|{}|{}", at.src, port(at.sport)),
        &format!("|{}|{}", at.dst, port(at.dport)),
        &protocol(row),
    )
}

/// One row of its section on expectations.
pub fn expect_row(row: &Row) -> String {
    let at = &row.original;
    let counts = row.expectation.as_ref().is_some_and(|expected| expected.mask.sport != Some(0));
    let source = match at.sport.unwrap_or_default() {
        0 if !counts => "any".to_owned(),
        port => port.to_string(),
    };
    cache_line(
        &format!("|{}|:{source}", at.src),
        &format!("|{}|:{}", at.dst, at.dport.unwrap_or_default()),
        &protocol(row),
    )
}

fn cache_line(source: &str, destination: &str, protocol: &str) -> String {
    format!("{source:<30} {destination:<30} {protocol}\n")
}

/// The warning of a router whose rules ask for no tracking.
pub const NOT_ENABLED: &str = "\nWarning: Connection tracking is not enabled\n\n";

fn protocol(row: &Row) -> String {
    format!("{} [{}]", row.protocol_name, row.protocol)
}

/// Two letters of a TCP state; SYN_SENT2 and NONE have none, as in VyOS.
fn state_code(state: &str) -> Option<&'static str> {
    Some(match state {
        "SYN_SENT" => "SS",
        "SYN_RECV" => "SR",
        "ESTABLISHED" => "ES",
        "FIN_WAIT" => "FW",
        "CLOSE_WAIT" => "CW",
        "LAST_ACK" => "LA",
        "TIME_WAIT" => "TW",
        "CLOSE" => "CL",
        _ => return None,
    })
}

/// Source and destination: `10.0.0.1:22`, `[fd00::1]:22`, bare where there are no ports.
fn ends(at: &End2End) -> [String; 2] {
    let end = |address: IpAddr, port: Option<u16>| match (address, port) {
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (address, None) => address.to_string(),
    };
    [end(at.src, at.sport), end(at.dst, at.dport)]
}

#[cfg(test)]
mod tests;
