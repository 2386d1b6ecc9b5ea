//! Real packets: UDP flows from the client through the router, each a new one. How many a second it forwards
//! beside a daemon, and how long after it the peer's kernel has an entry.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use super::figures::Figures;
use super::stamps;
use super::work::{Wanted, Work};
use crate::machine::net::Namespace;
use crate::machine::wait::{now, until};
use crate::routers::topology::{CLIENT, SERVER};

/// Flows at full rate.
const FLOWS: u32 = 100_000;
/// Packets of one call, at most.
const BATCH: u32 = 64;
/// Flows from one source port, each to another port of the server's. Few: a kernel that is told a translation
/// looks through all entries of that source (`find_appropriate_src`), and no client has thousands.
const PORTS: u32 = 50;
const FIRST_PORT: u16 = 1_024;
const FIRST_SOURCE: u16 = 20_000;
/// What latency is measured at: its name, flows a second, how many.
const RATES: [(&str, u32, u32); 3] =
    [("idle", 100, 300), ("20k/s", 20_000, 60_000), ("60k/s", 60_000, 120_000)];
/// The server says nothing, not even that nobody listens.
const SILENT: &str = "table ip silent { chain input { type filter hook prerouting priority -300; \
                      udp dport 1024-65535 drop; }; }\n";

/// One subject.
pub(super) async fn measure(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    work.topology.server.feed("nft", &["-f", "-"], SILENT)?;
    let result = all(work, figures).await;
    work.topology.server.output("nft", &["delete", "table", "ip", "silent"])?;
    result
}

async fn all(work: &Work<'_>, figures: &mut Figures) -> Result<()> {
    let subject = work.subject;
    let mut next = 0;
    if subject.is_hot() {
        for (name, rate, count) in RATES {
            let before = stamps::read(&work.node(1)?.net)?;
            let took = flows(work, next, count, Some(rate)).await?;
            next += count;
            let lacking = settle(work, next, 0).await?;
            let (mut first, second) = (stamps::read(&work.node(1)?.net)?, stamps::read(&work.node(2)?.net)?);
            first.retain(|key, _| !before.contains_key(key));
            let (delays, missing) = stamps::delays(&first, &second);
            // The pair's own connections, keepalived's among them, stay at home.
            ensure!(lacking > 0 || missing < 100, "{missing} of {} entries never came", first.len());
            let mut note =
                |row: &str, value: f64| figures.note(subject, format!("latency {name}: {row}"), value);
            let at = |of_thousand: usize| {
                let place = (delays.len() * of_thousand / 1000).min(delays.len().saturating_sub(1));
                delays.get(place).map_or(f64::NAN, |delay| delay.as_secs_f64() * 1e3)
            };
            note("flows a second", f64::from(count) / took.as_secs_f64());
            note("p50, ms", at(500));
            note("p99, ms", at(990));
            note("worst, ms", at(1000));
            note("not equal at the end", lacking as f64);
        }
    }
    let (before, lost, heard) = (work.spent(1)?, work.lost()?, work.heard());
    let took = flows(work, next, FLOWS, None).await?;
    let lacking = settle(work, next + FLOWS, heard + u64::from(FLOWS)).await?;
    figures.note(subject, "new flows: k/s", f64::from(FLOWS) / took.as_secs_f64() / 1e3);
    if work.works_on(1) {
        let used = work.spent(1)?.all.saturating_sub(before.all);
        figures.note(subject, "new flows: owner, us/flow", used.as_secs_f64() * 1e6 / f64::from(FLOWS));
        figures.note(subject, "new flows: events lost", (work.lost()? - lost) as f64);
    }
    if subject.is_pair() {
        figures.note(subject, "new flows: not equal at the end", lacking as f64);
    }
    Ok(())
}

/// `heard` before the last flows began, which a reader hears all of.
async fn settle(work: &Work<'_>, flows: u32, heard: u64) -> Result<u64> {
    work.settle(Wanted { entries: flows.into(), mark: None, heard }).await
}

/// New flows through router1; how long until its kernel had them all.
async fn flows(work: &Work<'_>, from: u32, count: u32, rate: Option<u32>) -> Result<Duration> {
    let before = work.held(1)?;
    let began = now();
    send(&work.topology.client.net, from, count, rate)?;
    let sent = began.elapsed();
    until("router1 has an entry for each flow", Duration::from_secs(10), async || {
        let there = work.held(1)? - before;
        ensure!(there >= u64::from(count), "{there} of {count}");
        Ok(Some(()))
    })
    .await?;
    Ok(if rate.is_some() { sent } else { began.elapsed() })
}

fn send(client: &Namespace, from: u32, count: u32, rate: Option<u32>) -> Result<()> {
    let (client_address, server): (Ipv4Addr, Ipv4Addr) = (CLIENT.parse()?, SERVER.parse()?);
    client.run(|| {
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH as usize, None);
        let payload = [[IoSlice::new(b"ctsync")]; BATCH as usize];
        let began = now();
        let (mut socket, mut of) = (None, u32::MAX);
        let mut next = from;
        while next < from + count {
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(f64::from(next - from) / f64::from(rate));
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            let source = next / PORTS;
            if of != source {
                let port = FIRST_SOURCE + u16::try_from(source)?;
                socket = Some(UdpSocket::bind(SocketAddrV4::new(client_address, port))?);
                of = source;
            }
            let portion = rate.map_or(BATCH, |rate| (rate / 1000).clamp(1, BATCH));
            let batch = portion.min(from + count - next).min(PORTS - next % PORTS);
            let targets: Vec<Option<SockaddrIn>> = (0..batch)
                .map(|at| {
                    let port = FIRST_PORT + u16::try_from((next + at) % PORTS).unwrap_or(0);
                    Some(SockaddrIn::from(SocketAddrV4::new(server, port)))
                })
                .collect();
            let socket = socket.as_ref().context("no socket")?;
            let slices = payload.iter().take(batch as usize);
            let sent =
                sendmmsg(socket.as_raw_fd(), &mut headers, slices, &targets, [], MsgFlags::empty())?.count();
            next += u32::try_from(sent)?;
        }
        Ok(())
    })
}
