//! What must hold: at every report and every `ready`, and at every quiet point. Changes nothing but the
//! totals.

use indexmap::IndexMap;

use ctsync_ctnetlink::entry::{Entry, Key};
use ctsync_engine::replica::{Compared, Readiness, Refill, Replica};

use crate::kernel::ghost;
use crate::node::Node;
use crate::world::{Violation, World};

impl World {
    /// A closed fence: everything in the table is in the kernel, or was refused.
    pub(super) fn check_reports(&mut self, x: usize) -> Result<(), Violation> {
        let node = &mut self.nodes[x];
        let Some(replica) = &mut node.replica else { return Ok(()) };
        while let Some(report) = replica.poll_fence_report() {
            self.totals.checks += 1;
            self.totals.caught_up += u64::from(report.taken > 0);
            let missing: Vec<u32> = replica
                .entries()
                .filter(|(entry, installed)| *installed && !node.kernel.table.contains_key(&entry.key()))
                .filter(|_| node.kernel.events.is_empty() && !node.kernel.overrun && !node.blind)
                .map(|(entry, _)| ghost(&entry))
                .collect();
            let refused = report.failed;
            if missing.len() > refused {
                return Err(format!("I6: fence of {x} closed, {missing:?} not in the kernel"));
            }
        }
        Ok(())
    }

    /// A backup that is ready and has applied all that its owner has sent holds what the owner holds (1).
    fn check_equality(&mut self, x: usize) -> Result<(), Violation> {
        // Much work, and what is wrong stays wrong until the next sign of life.
        if !self.steps.is_multiple_of(8) {
            return Ok(());
        }
        let owner = self.others(x).find(|y| self.follows(x, *y)).map(|y| &self.nodes[y]);
        let owner = owner.and_then(|owner| owner.replica.as_ref());
        let (Some(held), Some(sent)) = (&self.nodes[x].replica, owner) else { return Ok(()) };
        if sent.unsent() > 0 || sent.position() != held.position() {
            return Ok(());
        }
        self.totals.checks += 1;
        let (sent, held) = (contents(sent), contents(held));
        if sent != held {
            return Err(format!("I9: {x} is ready and in step, and differs: {}", differ(&sent, &held)));
        }
        Ok(())
    }

    /// Every datagram was heard, or refused for one reason.
    pub(super) fn check_counts(&mut self) -> Result<(), Violation> {
        for (x, node) in self.nodes.iter().enumerate() {
            let Some(replica) = &node.replica else { continue };
            self.totals.checks += 1;
            let counters = replica.counters();
            let counted = counters.heard + counters.refused.iter().sum::<u64>();
            if counted != node.delivered {
                return Err(format!("{x} got {} datagrams and counted {counted}", node.delivered));
            }
        }
        Ok(())
    }

    /// `ready` is never early.
    pub(super) fn check_ready(&mut self, x: usize) -> Result<(), Violation> {
        let now = self.now;
        let node = &self.nodes[x];
        let Some(replica) = &node.replica else { return Ok(()) };
        let word = replica.readiness(now).word();
        if word != "ready" || !self.hot || !node.kernel.events.is_empty() || node.kernel.overrun {
            return Ok(());
        }
        self.totals.checks += 1;
        if replica.pending() > 0 {
            return Err(format!("20: {x} is ready, and {} keys wait for its kernel", replica.pending()));
        }
        for (entry, installed) in replica.entries() {
            if installed && !node.kernel.table.contains_key(&entry.key()) {
                return Err(format!("I9: {x} is ready, entry {} is not in its kernel", ghost(&entry)));
            }
        }
        self.check_equality(x)
    }

    pub(super) fn check_agreement(&mut self, primary: usize) -> Result<(), Violation> {
        self.others(primary).try_for_each(|backup| self.check_pair(primary, backup))
    }

    fn check_pair(&mut self, primary: usize, standby: usize) -> Result<(), Violation> {
        self.totals.checks += 1;
        let now = self.now;
        let (owner, backup) = (&self.nodes[primary], &self.nodes[standby]);
        let (Some(first), Some(second)) = (&owner.replica, &backup.replica) else {
            return Err("a daemon is missing".into());
        };
        if !first.owner() || second.owner() {
            return Err(format!(
                "I1: owners are {} and {}: {:#?} {:#?} {:#?} {:#?}",
                first.owner(),
                second.owner(),
                first.view(now),
                second.view(now),
                first.counters(),
                second.counters()
            ));
        }
        let kernel = |node: &Node| -> IndexMap<Key, Vec<u8>> {
            node.kernel.table.values().map(|entry| (entry.key(), canonical(entry))).collect()
        };
        let (owned, held) = (contents(first), contents(second));
        if owned != kernel(owner) {
            return Err(format!(
                "I1a: the owner's table is not its kernel: {}",
                differ(&owned, &kernel(owner))
            ));
        }
        if owned != held {
            let words = (first.view(now), second.view(now), first.counters(), second.counters());
            return Err(format!("I1: the tables differ: {} {words:#?}", differ(&owned, &held)));
        }
        if [first, second].iter().any(|replica| replica.refill() == Refill::Underway) {
            return Err("a reset of the external cache does not end".into());
        }
        if first.view(now).equal_for.is_none() || second.view(now).equal_for.is_none() {
            return Err(format!(
                "I9: equal tables are not shown as equal: {:#?} {:#?}",
                first.view(now),
                second.view(now)
            ));
        }
        let backup_kernel = kernel(backup);
        for (key, content) in &held {
            if self.hot && backup_kernel.get(key) != Some(content) && !self.refused(standby, key) {
                return Err(format!("I1b: the backup's kernel lacks or contradicts {key:?}"));
            }
        }
        let words = [first.readiness(now), second.readiness(now)];
        // A sweep asks once more for what was refused for good: for a turn or two that waits for the kernel.
        let refused = held.keys().filter(|key| self.refused(standby, key)).count();
        let asks_again = words[1] == Readiness::Installing && second.pending() <= refused;
        if !words[0].is_ready() || !(words[1].is_ready() || asks_again) {
            return Err(format!("I1: not ready after the bound: {words:?}"));
        }
        Ok(())
    }

    /// Refused for good: its reply tuple belongs to a stray of the backup's kernel, or its master was
    /// refused.
    fn refused(&self, x: usize, key: &Key) -> bool {
        let node = &self.nodes[x];
        let Some(replica) = &node.replica else { return false };
        replica.entries().any(|(entry, installed)| {
            entry.key() == *key
                && !installed
                && match entry.master_key() {
                    Some(master) => !node.kernel.table.contains_key(&master),
                    None => {
                        let mut others = node.kernel.table.values();
                        others.any(|other| other.reply == entry.reply && other.key() != *key)
                    }
                }
        })
    }

    /// An expectation goes with its connection, which is judged by itself.
    fn gone_with_master(&self, expectation: &u32, primary: usize) -> bool {
        let Some((key, master)) = self.masters.get(expectation) else { return false };
        if self.unprotected.contains(master) {
            // Nobody promised to keep it: another connection may have had its translation for a while.
            return true;
        }
        let kept = |held: Option<u32>| held == Some(*master);
        !kept(self.nodes[primary].kernel.table.get(key).map(ghost)) || !kept(self.shared.get(key).copied())
    }

    /// Whatever all kernels held at the last quiet point and no packet ended is still there.
    pub(super) fn check_survival(&mut self, primary: usize) -> Result<(), Violation> {
        for (key, connection) in &self.shared {
            let lost = self.nodes[primary].kernel.table.get(key).map(ghost) != Some(*connection);
            let nowhere = self.powered_off.iter().all(|off| *off);
            self.totals.checks += 1;
            let excused = |id: &u32| self.dead.contains(id) || self.unprotected.contains(id);
            if lost && !excused(connection) && !self.gone_with_master(connection, primary) && !nowhere {
                return Err(format!("I7: connection {connection} was lost, {key:?}"));
            }
        }
        let (first, others) = self.nodes.split_first().ok_or("no node")?;
        let everywhere = |key: &Key, entry: &Entry| {
            others.iter().all(|other| other.kernel.table.get(key).map(ghost) == Some(ghost(entry)))
        };
        let first = &first.kernel.table;
        self.shared = first
            .iter()
            .filter(|(key, entry)| everywhere(key, entry))
            .map(|(key, entry)| (*key, ghost(entry)))
            .collect();
        self.dead.clear();
        self.unprotected.clear();
        Ok(())
    }

    /// At a quiet point an operator who compares the tables finds no difference.
    pub(super) fn compare(&mut self) -> Result<(), Violation> {
        let x = self.rng.usize(0..self.nodes.len());
        let now = self.now;
        if let Some(replica) = &mut self.nodes[x].replica {
            replica.begin_comparison(now);
        }
        for _ in 0..400 {
            self.step(false)?;
            let Some(replica) = &mut self.nodes[x].replica else { break };
            match replica.poll_comparison() {
                None if replica.comparing() => {}
                None => return Ok(()),
                Some(Compared::Done { count: 0, moving: 0, .. }) => self.totals.comparisons += 1,
                Some(other) => return Err(format!("I9: equal tables compare as {other:?}")),
            }
        }
        Err("I9: a comparison does not end".into())
    }
}

fn contents(replica: &Replica) -> IndexMap<Key, Vec<u8>> {
    replica.entries().map(|(entry, _)| (entry.key(), canonical(&entry))).collect()
}

fn canonical(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    ctsync_engine::wire::packed::emit_canonical(&mut bytes, entry);
    bytes
}

fn differ(first: &IndexMap<Key, Vec<u8>>, second: &IndexMap<Key, Vec<u8>>) -> String {
    let only = |a: &IndexMap<Key, Vec<u8>>, b: &IndexMap<Key, Vec<u8>>| -> Vec<Key> {
        a.iter().filter(|(key, bytes)| b.get(*key) != Some(bytes)).map(|(key, _)| *key).collect()
    };
    format!("first {:?} second {:?}", only(first, second), only(second, first))
}
