//! A subject at work on two routers that booted for it: what it spends, what it loses, when it is done.
//!
//! Called by the loads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::reader::Reader;
use super::subject::{Buffer, Subject};
use crate::machine::node::Node;
use crate::machine::wait::until;
use crate::routers::incumbent;
use crate::routers::topology::Topology;

/// Longest wait for a peer to hold everything.
const PATIENCE: Duration = Duration::from_secs(120);
/// The pair's own connections are a handful.
pub(super) const OWN: u64 = 1000;
/// Entries of real packets must not end by their timers while they are counted. Seconds.
const UDP_TIMEOUT: &str = "600";
/// `NETLINK_NETFILTER`, as /proc/net/netlink shows it.
const NETFILTER: &str = "12";

/// What a program has used.
#[derive(Clone, Copy, Default)]
pub(super) struct Spent {
    pub all: Duration,
    pub user: u64,
    pub system: u64,
}

/// What everybody should hold.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub entries: u64,
    /// All of them have this mark.
    pub mark: Option<u32>,
    /// Events that a reader will have heard by then.
    pub heard: u64,
}

pub(super) struct Work<'a> {
    pub subject: Subject,
    pub topology: &'a mut Topology,
    reader: Option<Reader>,
}

impl Work<'_> {
    /// Both routers boot anew; the subject is ready, or a reader hears.
    pub(super) async fn begin<'a>(
        topology: &'a mut Topology,
        ctsync: &Path,
        subject: Subject,
        buffer: Buffer,
    ) -> Result<Work<'a>> {
        clear(topology)?;
        topology.options = subject.options(ctsync, buffer);
        topology.reboot().await?;
        topology.forget_neighbours()?;
        for number in [1, 2] {
            let net = &topology.router(number)?.node.net;
            net.sysctl("net/netfilter/nf_conntrack_udp_timeout", UDP_TIMEOUT)?;
            // The kernel notes when an entry was made: latency is read from both tables afterwards, and
            // nobody has to listen.
            net.sysctl("net/netfilter/nf_conntrack_timestamp", "1")?;
        }
        let napping = subject == Subject::NullNapping;
        let reader = (napping || subject == Subject::NullWoken)
            .then(|| Reader::start(&topology.router(1)?.node.net, napping))
            .transpose()?;
        let work = Work { subject, topology, reader };
        work.wait_ready().await?;
        Ok(work)
    }

    pub(super) async fn wait_ready(&self) -> Result<()> {
        if !self.subject.is_ctsync() {
            return Ok(());
        }
        let second = self.topology.router(2)?;
        until("router2 is ready", PATIENCE, async || {
            Ok((second.status().await?["state"]["readiness"] == "ready").then_some(()))
        })
        .await
    }

    pub(super) fn node(&self, number: u8) -> Result<&Node> {
        Ok(&self.topology.router(number)?.node)
    }

    /// End what is only ours; what the routers have stays until the next one begins.
    pub(super) fn end(self) -> Result<()> {
        self.reader.map_or(Ok(()), Reader::stop)
    }

    /// Events that a reader has heard.
    pub(super) fn heard(&self) -> u64 {
        self.reader.as_ref().map_or(0, Reader::heard)
    }

    /// Entries in a router's kernel.
    pub(super) fn held(&self, number: u8) -> Result<u64> {
        let text = self.node(number)?.net.read_sysctl("net/netfilter/nf_conntrack_count")?;
        text.trim().parse().context("nf_conntrack_count")
    }

    /// Whether there is anybody on this router whose time counts.
    pub(super) fn works_on(&self, number: u8) -> bool {
        self.subject.is_pair() || number == 1 && self.reader.is_some()
    }

    pub(super) fn spent(&self, number: u8) -> Result<Spent> {
        if !self.subject.is_pair() {
            let all = self.reader.as_ref().filter(|_| number == 1).map_or(Duration::ZERO, Reader::spent);
            return Ok(Spent { all, ..Spent::default() });
        }
        let pid = self.node(number)?.pid(self.subject.program())?;
        let mut all = 0;
        for thread in threads(pid)? {
            let schedule = std::fs::read_to_string(thread.join("schedstat"))?;
            let spent: Option<u64> = schedule.split_whitespace().next().and_then(|word| word.parse().ok());
            all += spent.context("schedstat")?;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // proc(5): utime and stime are the fields 14 and 15; the second one ends with the last bracket.
        let rest = stat.rsplit(") ").next().context("stat")?;
        let ticks: Vec<u64> =
            rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
        let [user, system] = ticks.as_slice() else { bail!("stat") };
        Ok(Spent { all: Duration::from_nanos(all), user: *user, system: *system })
    }

    /// Times that it was woken, or put aside, with all its threads.
    pub(super) fn switches(&self, number: u8) -> Result<u64> {
        let mut all = 0;
        for thread in threads(self.node(number)?.pid(self.subject.program())?)? {
            for name in ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"] {
                all += status_number(&thread, name)?;
            }
        }
        Ok(all)
    }

    /// Resident bytes.
    pub(super) fn memory(&self, number: u8) -> Result<u64> {
        let pid = self.node(number)?.pid(self.subject.program())?;
        Ok(1024 * status_number(&PathBuf::from(format!("/proc/{pid}")), "VmRSS")?)
    }

    /// Events that router1's kernel had no room for, of all who listen there.
    pub(super) fn lost(&self) -> Result<u64> {
        let shown =
            self.node(1)?.net.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netlink")?))?;
        // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
        let sockets = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(sockets
            .filter(|fields| fields.get(1) == Some(&NETFILTER))
            .filter_map(|fields| fields.get(8)?.parse::<u64>().ok())
            .sum())
    }

    /// Until everybody holds what should be held. What conntrackd then lacks (or has too much) is its result;
    /// tables of ours that are not equal are none.
    pub(super) async fn settle(&self, wanted: Wanted) -> Result<u64> {
        let there = |count: u64| count >= wanted.entries && count < wanted.entries + OWN;
        if !self.subject.is_pair() {
            if self.reader.is_none() {
                return Ok(0);
            }
            until(
                "every event is heard",
                PATIENCE,
                async || Ok((self.heard() >= wanted.heard).then_some(())),
            )
            .await?;
            return Ok(0);
        }
        if self.subject.is_ctsync() {
            let (one, two) = (self.topology.router(1)?, self.topology.router(2)?);
            until("router2 holds what router1 holds", PATIENCE, async || {
                let (owner, backup) = (one.status().await?, two.status().await?);
                let (one, two) = (&owner["state"], &backup["state"]);
                let same = one["root"] == two["root"] && two["readiness"] == "ready" && one["unsent"] == 0;
                let done = same && there(two["external"].as_u64().unwrap_or(0));
                if done && (!self.subject.is_hot() || there(self.held(2)?)) {
                    return Ok(Some(0));
                }
                bail!("owner {one}, backup {two}")
            })
            .await
        } else {
            self.settle_incumbent(wanted, there).await
        }
    }

    /// conntrackd tells no digest: it is done when nothing is worked on any more.
    async fn settle_incumbent(&self, wanted: Wanted, there: impl Fn(u64) -> bool) -> Result<u64> {
        let mut last = self.spent(2)?.all;
        let done = until("router2 holds what router1 holds", PATIENCE / 6, async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.spent(2)?.all;
            let quiet = now.saturating_sub(last) < Duration::from_millis(10);
            last = now;
            Ok((quiet && there(self.held_by_peer()?)).then_some(()))
        })
        .await;
        let held = match wanted.mark {
            Some(mark) => self.marked(mark)?,
            None => self.held_by_peer()?,
        };
        Ok(if done.is_ok() && held >= wanted.entries { 0 } else { held.abs_diff(wanted.entries) })
    }

    fn held_by_peer(&self) -> Result<u64> {
        if self.subject.is_hot() {
            return self.held(2);
        }
        Ok(incumbent::numbers(self.node(2)?)?[1])
    }

    /// Entries with this mark where the peer keeps them.
    fn marked(&self, mark: u32) -> Result<u64> {
        let node = self.node(2)?;
        let listing = if self.subject.is_hot() {
            node.output("conntrack", &["-L", "-m", &mark.to_string()])?
        } else {
            incumbent::external(node)?
        };
        let word = format!("mark={mark} ");
        Ok(listing.lines().filter(|line| line.contains(&word)).count() as u64)
    }
}

/// Of a process, in /proc.
fn threads(pid: u32) -> Result<Vec<PathBuf>> {
    std::fs::read_dir(format!("/proc/{pid}/task"))?.map(|thread| Ok(thread?.path())).collect()
}

/// A number of proc_pid_status(5): kilobytes, or switches.
fn status_number(directory: &Path, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(directory.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().next()).with_context(|| name.to_owned())?;
    word.parse().with_context(|| name.to_owned())
}

/// The kernel takes a namespace's entries away when it has time, and would do so while the next one is
/// measured: they go now.
fn clear(topology: &mut Topology) -> Result<()> {
    for number in [1, 2] {
        let Ok(router) = topology.router_mut(number) else { continue };
        for program in ["ctsync", "conntrackd"] {
            if router.node.runs(program) {
                router.node.kill(program)?;
            }
        }
        router.node.output("conntrack", &["-F"])?;
    }
    Ok(())
}
