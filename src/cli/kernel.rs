//! This kernel's own table, without the daemon: listed, filtered, cleared.

use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use netlink_packet_netfilter::NetfilterProtoFamily;
use serde_json::json;

use super::{Family, Form, pretty, print};
use crate::ctnetlink::codec::{self, Incoming, KernelTable};
use crate::ctnetlink::socket::{DumpSocket, RequestSocket};
use crate::entry::{Entry, L4};
use crate::rows::{End2End, Row, VERSION};
use crate::show;

/// `show conntrack table`.
pub(super) async fn table(family: Family, ends: &[String], wide: bool, form: Form) -> Result<ExitCode> {
    let v6 = family == Family::Ipv6;
    let filter = Ends::parse(ends, v6)?;
    let family = if v6 { NetfilterProtoFamily::IPv6 } else { NetfilterProtoFamily::IPv4 };
    let entries = dump(KernelTable::Connections, family)?;
    if entries.is_empty() && !tracking_enabled().await? {
        eprint!("{}", show::NOT_ENABLED);
        return Ok(ExitCode::FAILURE);
    }
    let rows: Vec<Row> = entries
        .iter()
        .map(|(id, entry)| Row::of_kernel(*id, entry))
        .filter(|row| filter.admits(&row.original))
        .collect();
    print(&if form.json {
        pretty(&json!({ "version": VERSION, "entries": rows }))?
    } else if wide {
        show::wide(&rows, false)
    } else {
        let body: String = rows.iter().map(|row| show::table_row(row, v6)).collect();
        show::table_heading(v6) + &body
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What `source` and `destination` ask for.
#[derive(Default, PartialEq, Debug)]
struct Ends {
    source: End,
    destination: End,
}

#[derive(Default, PartialEq, Debug)]
struct End {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Ends {
    fn parse(words: &[String], v6: bool) -> Result<Ends> {
        let mut ends = Ends::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let end = match word {
                "source" => &mut ends.source,
                "destination" => &mut ends.destination,
                other => bail!("expected source or destination, found {other}"),
            };
            if *end != End::default() {
                bail!("{word} stands here for the second time");
            }
            let Some(value) = words.next() else { bail!("expected an address behind {word}") };
            *end = End::parse(word, value, v6)?;
        }
        Ok(ends)
    }

    fn admits(&self, at: &End2End) -> bool {
        self.source.admits(at.src, at.sport) && self.destination.admits(at.dst, at.dport)
    }
}

impl End {
    fn parse(which: &str, text: &str, v6: bool) -> Result<End> {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let (address, port) = if let Some(rest) = text.strip_prefix('[') {
            let Some((address, port)) = rest.split_once(']') else {
                bail!("Please use prescribed format for {which} IP: [IPv6-address]:port");
            };
            (address, port.strip_prefix(':'))
        } else if v6 && text.matches(':').count() > 1 {
            (text, None)
        } else {
            match text.rsplit_once(':') {
                Some((address, port)) => (address, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            None => None,
            Some(port) => {
                let number = port.parse::<u16>().ok().filter(|port| *port > 0);
                Some(number.with_context(|| format!("Please enter a valid {which} port"))?)
            }
        };
        let address = match address {
            "any" => None,
            text => {
                let address = text.parse::<IpAddr>().ok().filter(|address| address.is_ipv6() == v6);
                let what = if port.is_some() { " and port" } else { "" };
                Some(
                    address
                        .with_context(|| format!("Please enter a valid {which} {family} address{what}"))?,
                )
            }
        };
        Ok(End { address, port })
    }

    fn admits(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.address.is_none_or(|wanted| wanted == address)
            && self.port.is_none_or(|wanted| Some(wanted) == port)
    }
}

/// All of a table for a family, with the kernel's ids.
pub(super) fn dump(table: KernelTable, family: NetfilterProtoFamily) -> Result<Vec<(u32, Entry)>> {
    let mut entries = Vec::new();
    let mut socket = DumpSocket::open()?;
    socket.start(table, Some(family))?;
    while !socket.read(|id, entry| entries.push((id, entry)))? {}
    Ok(entries)
}

/// The kernel lists no hooks. One datagram to ourselves over loopback, then look for its entry.
async fn tracking_enabled() -> Result<bool> {
    let probe = tokio::net::UdpSocket::bind("127.0.0.1:0").await.context("cannot probe for tracking")?;
    let address = probe.local_addr()?;
    if probe.send_to(&[0], address).await.is_err() {
        bail!("cannot probe for tracking: loopback is down");
    }
    let ports = L4::Ports { src: address.port(), dst: address.port() };
    let found = dump(KernelTable::Connections, NetfilterProtoFamily::IPv4)?;
    let Some((_, entry)) = found.iter().find(|(_, entry)| entry.orig.l4 == ports) else { return Ok(false) };
    // The probe leaves no trace.
    RequestSocket::open()?.execute(
        |writer, first| {
            codec::emit_destroy(writer, first, &entry.key());
            1
        },
        |_, _| {},
    )?;
    Ok(true)
}

/// `reset conntrack`.
pub(super) fn reset(yes: bool) -> Result<ExitCode> {
    if !yes && !confirmed("This will clear all currently tracked and expected connections. Continue? [y/N] ")?
    {
        return Ok(ExitCode::FAILURE);
    }
    let mut refused = None;
    RequestSocket::open()?.execute(
        |writer, first| {
            codec::emit_flush(writer, first, KernelTable::Connections);
            codec::emit_flush(writer, first.wrapping_add(1), KernelTable::Expectations);
            2
        },
        |_, answer| {
            if let Incoming::Answer { errno, .. } = answer
                && errno != 0
            {
                refused = Some(std::io::Error::from_raw_os_error(errno));
            }
        },
    )?;
    match refused {
        Some(error) => Err(error).context("cannot clear the connection-tracking table; are you root?"),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn confirmed(question: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(words: &[&str], v6: bool) -> Result<Ends> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Ends::parse(&words, v6)
    }

    #[test]
    fn ends_are_read_as_documented() {
        let all = ends(&["source", "10.0.0.1:22", "destination", "any:80"], false).unwrap();
        assert_eq!(all.source, End { address: Some([10, 0, 0, 1].into()), port: Some(22) });
        assert_eq!(all.destination, End { address: None, port: Some(80) });
        let six = ends(&["destination", "[fd00::1]:443"], true).unwrap();
        assert_eq!(six.destination, End { address: Some("fd00::1".parse().unwrap()), port: Some(443) });
        assert_eq!(ends(&["source", "fd00::1"], true).unwrap().source.port, None);
        assert_eq!(ends(&[], true).unwrap(), Ends::default());
    }

    #[test]
    fn wrong_ends_are_named() {
        for (words, v6, says) in [
            (&["source", "10.0.0"][..], false, "Please enter a valid source IPv4 address"),
            (&["source", "10.0.0:22"], false, "Please enter a valid source IPv4 address and port"),
            (&["destination", "10.0.0.1:0"], false, "Please enter a valid destination port"),
            (&["destination", "fd00::1"], false, "Please enter a valid destination IPv4 address and port"),
            (
                &["source", "[fd00::1"],
                true,
                "Please use prescribed format for source IP: [IPv6-address]:port",
            ),
            (&["source", "10.0.0.1"], true, "Please enter a valid source IPv6 address"),
            (&["sauce", "10.0.0.1"], false, "expected source or destination, found sauce"),
            (&["source"], false, "expected an address behind source"),
            (&["source", "10.0.0.1", "source", "10.0.0.2"], false, "source stands here for the second time"),
        ] {
            assert_eq!(ends(words, v6).unwrap_err().to_string(), says);
        }
    }
}
