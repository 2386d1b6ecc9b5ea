use super::*;
use crate::ctnetlink::entry::{Entry, L4, Status, TcpInfo, Tuple};
use crate::faces::rows::Expected;

/// The outputs of the documentation's example, tabs as conntrackd writes them, the table's last column padded
/// as the original pads it.
const TABLE: &str = include_str!("seed/table.txt");
const ACTIVE: &str = include_str!("seed/statistics-active.txt");
const STANDBY: &str = include_str!("seed/statistics-standby.txt");

fn row(id: u32, source: &str, destination: &str, proto: u8, state: Option<u8>, timeout: u32) -> Row {
    let end = |text: &str| match text.rsplit_once(':') {
        Some((address, port)) => (address.parse().unwrap(), port.parse().unwrap()),
        None => (text.parse().unwrap(), 0),
    };
    let ((src, sport), (dst, dport)) = (end(source), end(destination));
    let l4 = match proto {
        1 => L4::Icmp { id: 7, kind: 8, code: 0 },
        _ => L4::Ports { src: sport, dst: dport },
    };
    let orig = Tuple { src, dst, proto, l4 };
    let tcp =
        state.map(|state| TcpInfo { state, wscale_orig: 0, wscale_reply: 0, flags_orig: 0, flags_reply: 0 });
    let entry = Entry {
        orig,
        reply: orig.inverse(),
        zone: 0,
        status: Status::empty(),
        timeout: Some(timeout),
        mark: None,
        tcp,
        master: None,
        rare: None,
    };
    Row::of_kernel(id, &entry)
}

#[test]
fn the_table_is_the_documented_one() {
    let rows = [
        row(1_015_736_576, "10.35.100.87:58172", "172.31.20.12:22", 6, Some(3), 430_279),
        row(1_006_235_648, "10.35.101.221:57483", "172.31.120.21:22", 6, Some(3), 413_310),
        row(1_006_237_088, "10.100.68.100", "172.31.120.21", 1, None, 29),
        row(1_015_734_848, "10.35.100.87:56282", "172.31.20.12:22", 6, Some(3), 300),
        row(1_015_734_272, "172.31.20.12:60286", "239.10.10.14:694", 17, None, 29),
        row(1_006_239_392, "10.35.101.221", "172.31.120.21", 1, None, 29),
    ];
    let text: String = rows.iter().map(|row| table_row(row, false)).collect();
    let text = table_heading(false) + &text;
    assert_eq!(text, TABLE);
}

#[test]
fn codes_and_ipv6() {
    let closed = row(1, "10.0.0.1:1", "10.0.0.2:2", 6, Some(8), 9);
    assert!(table_row(&closed, false).contains("tcp [6] CL "));
    let orig = Tuple {
        src: "fd00::1".parse().unwrap(),
        dst: "fd00::2".parse().unwrap(),
        proto: 17,
        l4: L4::Ports { src: 5, dst: 53 },
    };
    let six = Row {
        original: Row::of(&Entry { orig, ..entry_of(orig) }).original,
        ..row(2, "10.0.0.1:5", "10.0.0.2:53", 17, None, 3)
    };
    assert_eq!(
        table_row(&six, true).trim_end(),
        format!("{:<10} {:<40} {:<40} {:<16} 3", 2, "[fd00::1]:5", "[fd00::2]:53", "udp [17]")
    );
}

fn entry_of(orig: Tuple) -> Entry {
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
fn statistics_are_the_documented_ones() {
    let cache = |active, created, updated, destroyed| CacheStatistics {
        active,
        created: [created, 0],
        updated: [updated, 0],
        destroyed: [destroyed, 0],
    };
    let shown = |internal, external, bytes, datagrams| Statistics {
        internal,
        external,
        multicast: true,
        interface: "eth0".into(),
        bytes,
        datagrams,
        ..Statistics::default()
    };
    let none = CacheStatistics::default();
    let active = shown(cache(10, 8517, 127, 8507), none, [868_780, 224_136], [20_595, 14_034]);
    assert_eq!(statistics(&active, false), ACTIVE);
    let standby = shown(none, cache(10, 888, 134, 878), [234_184, 907_504], [14_663, 21_495]);
    assert_eq!(statistics(&standby, false), STANDBY);
    assert!(statistics(&standby, true).ends_with(&format!("\nExpect Table Statistics:\n\n{}\n", {
        plain_statistics(&Statistics { external: none, ..standby.clone() })
    })));
}

#[test]
fn caches_are_between_bars() {
    assert_eq!(cache_heading(), format!("{:<30} {:<30} {}\n", "Source", "Destination", "Protocol"));
    assert_eq!(
        cache_row(&row(0, "10.35.100.87:58172", "172.31.20.12:22", 6, Some(3), 1)),
        format!("{:<30} {:<30} {}\n", "|10.35.100.87|:58172", "|172.31.20.12|:22", "tcp [6]")
    );
    assert_eq!(
        cache_row(&row(0, "10.100.68.100", "172.31.120.21", 1, None, 1)),
        format!("{:<30} {:<30} {}\n", "|10.100.68.100|", "|172.31.120.21|", "icmp [1]")
    );
    let expected = row(0, "10.0.1.100:0", "10.0.0.100:41739", 6, None, 1);
    let mask = End2End { sport: Some(0), ..expected.original.clone() };
    let own = Expected { mask, flags: 0, class: 0, function: None, nat: None };
    let expected = Row { expectation: Some(own), ..expected };
    assert_eq!(
        expect_row(&expected),
        format!("{:<30} {:<30} {}\n", "|10.0.1.100|:any", "|10.0.0.100|:41739", "tcp [6]")
    );
}

#[test]
fn status_is_the_documented_one() {
    let when = "MASTER at Fri 24 Dec 2021 10:34:36 AM EET";
    assert_eq!(
        sync_status("eth0.5", "vrrp [sync-group GEFOEKOM]", None, &[]),
        "\nsync-interface        : eth0.5\nfailover-mechanism    : vrrp [sync-group GEFOEKOM]\n\
         last state transition : no transition yet!\nExpectationSync       : disabled\n"
    );
    let text = sync_status("eth0", "cluster [group GROUP]", Some(when), &["ftp", "sip"]);
    assert!(text.contains(&format!("last state transition : {when}\n")));
    assert!(text.ends_with("ExpectationSync       : enabled for ftp, sip\n"));
    let text = sync_status("eth0", "cluster [group GROUP]", None, &["all"]);
    assert!(text.ends_with("ExpectationSync       : enabled for all: ftp, sip, h323, nfs, sqlnet\n"));
}

/// Wherever the terminal ends, an address is whole; the longest ones fit into 160 columns, IPv4 ones into
/// 120.
#[test]
fn wide_rows_fit_and_are_whole() {
    use crate::faces::rows::Held;
    let longest = "fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap();
    let mut six = row(u32::MAX, "10.0.0.1:65535", "10.0.0.2:65535", 6, Some(3), 432_000);
    (six.source_nat, six.mark) = (true, Some(17));
    for end in [&mut six.original, &mut six.reply] {
        (end.src, end.dst) = (longest, longest);
    }
    let mut four = row(u32::MAX, "255.255.255.255:65535", "255.255.255.254:65535", 6, Some(3), 432_000);
    (four.destination_nat, four.mark) = (true, Some(u32::MAX));
    let held = Held { age: 86_400, installed: true, failure: None, owner: Some("router1".into()) };
    for (row, most) in [(six, 160), (four, 120)] {
        for text in [
            wide(std::slice::from_ref(&row), false),
            wide(&[Row { held: Some(held.clone()), ..row.clone() }], true),
        ] {
            for line in text.lines() {
                assert!(line.chars().count() <= most, "{} columns: {line}", line.chars().count());
                assert_eq!(line, line.trim_end());
            }
            for end in ends(&row.original).into_iter().chain(ends(&row.reply)) {
                assert!(text.contains(&end), "{end} is not whole in\n{text}");
            }
        }
    }
}

/// No word is broken at a terminal's edge; of a lost peer only that is told, of another build its version.
#[test]
fn our_status_fits_and_tells_what_counts() {
    let status = |alive: bool, build: &str| {
        let peer = serde_json::json!({
            "name": "router2", "alive": alive, "silent-ms": 16_163, "ready": true, "role": "backup", "entries": 7,
            "seat": { "evidence": "told", "addresses": 2, "here": 0 }, "kernel": { "build": build },
        });
        let what = "idle connections end sooner on router2: nf_conntrack_udp_timeout_stream 20 s there";
        let state = serde_json::json!({ "node": "router1", "kernel": { "build": "0.1.0" }, "peers": [peer] });
        let value = serde_json::json!({
            "verdict": format!("NOT protected: {what}"), "state": state,
            "reasons": [{ "what": what, "cure": "set them alike", "seconds": 3 }],
        });
        status(&value, Some(80))
    };
    let lost = status(false, "0.2.0");
    assert!(lost.contains("peer                  : router2, lost: silent for 16.2 s\n"), "{lost}");
    let living = status(true, "0.1.0");
    assert!(living.contains("router2, alive, backup") && !living.contains("version"), "{living}");
    let other = status(true, "0.2.0").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(other.contains("version 0.2.0 (here 0.1.0)"), "{other}");
    for line in living.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let words: Vec<&str> = living.split_whitespace().collect();
    assert!(words.contains(&"nf_conntrack_udp_timeout_stream"), "{living}");
}
