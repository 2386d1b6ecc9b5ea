//! This kernel's own table, without the daemon: listed, filtered, cleared.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use netlink_packet_netfilter::NetfilterProtoFamily;
use serde_json::json;

use super::ends::Ends;
use super::words::{Family, Form};
use super::{pretty, print};
use crate::ctnetlink::codec::{self, Answer, KernelTable};
use crate::ctnetlink::entry::{Entry, L4};
use crate::faces::rows::{Row, VERSION};
use crate::faces::show;
use crate::kernel::socket::{DumpSocket, RequestSocket};

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
            if let Answer::Refused(errno) = answer {
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
