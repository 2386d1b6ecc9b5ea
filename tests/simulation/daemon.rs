//! One node's turn, as the daemon's loop has it: datagrams, events, dump, requests and their answers; what
//! goes out, and who listens in.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use ctsync_ctnetlink::entry::Entry;
use ctsync_engine::reconcile::Op;
use ctsync_engine::replica::{Replica, Role};
use nix::errno::Errno;

use crate::kernel::ghost;
use crate::world::{Violation, World};

/// An owner's last changes reach another one, or its followers, within so long.
const LATE: Duration = Duration::from_secs(1);

/// What the kernel says to the requests of a batch.
type Answers = Vec<Result<Option<Entry>, Errno>>;

impl World {
    /// An overrun is told before the events that still wait (`netlink_recvmsg`).
    fn read_one_event(&mut self, x: usize) {
        let now = self.now;
        let node = &mut self.nodes[x];
        if node.tell_overrun() {
            self.totals.overruns += 1;
            return;
        }
        let Some(replica) = &mut node.replica else { return };
        if let Some(event) = node.kernel.events.pop_front() {
            replica.handle_event(event, now);
        }
    }

    pub(super) fn read_all_events(&mut self, x: usize) {
        let now = self.now;
        let node = &mut self.nodes[x];
        let Some(replica) = &mut node.replica else { return };
        let mut events = node.kernel.events.drain(..).collect();
        replica.handle_events(&mut events, now);
        self.totals.overruns += u64::from(node.tell_overrun());
        if let Some(replica) = &mut node.replica {
            replica.handle_events_empty();
        }
    }

    /// One node's turn, as the daemon's.
    pub(super) fn turn(&mut self, x: usize, faults: bool) -> Result<(), Violation> {
        let now = self.now;
        let mut inbox = std::mem::take(&mut self.nodes[x].inbox);
        if self.nodes[x].replica.is_none() {
            return Ok(());
        }
        inbox.sort_by_key(|(at, _)| *at);
        let (due, later): (Vec<_>, Vec<_>) = inbox.into_iter().partition(|(at, _)| *at <= now);
        self.nodes[x].inbox = later;
        for (_, datagram) in due {
            self.nodes[x].delivered += 1;
            if let Some(replica) = &mut self.nodes[x].replica {
                replica.handle_datagram(&datagram, now);
            }
        }
        // Sometimes more events wait than one turn reads.
        if faults && self.rng.u32(0..4) == 0 {
            self.read_one_event(x);
        } else {
            self.read_all_events(x);
        }
        self.dump(x);
        if let Some(replica) = &mut self.nodes[x].replica {
            replica.handle_timeout(now);
        }
        self.requests(x)?;
        self.check_reports(x)?;
        self.check_ready(x)?;
        // Where the owner has a connection with this tuple, it is the owner's affair.
        for y in self.others(x) {
            let other = &self.nodes[y].kernel.table;
            self.strays[x].retain(|_, key| !other.contains_key(key));
        }
        // Packets do not wait for the daemon: between a claim and this some may come.
        if !faults || self.rng.u32(0..4) != 0 {
            self.choose_events(x);
        }
        self.send_until_asleep(x)?;
        let node = &mut self.nodes[x];
        if let Some(replica) = &node.replica {
            if replica.owner() {
                self.strays[x].clear();
            }
            replica.invariants()?;
            node.kept = replica.persist();
            let counters = replica.counters();
            let seen = [
                counters.repairs,
                counters.yields,
                counters.offered,
                counters.ended_offers,
                counters.covered,
                counters.fallbacks,
            ];
            let totals = &mut self.totals;
            let sums = [
                &mut totals.repairs,
                &mut totals.yields,
                &mut totals.offers,
                &mut totals.ended_offers,
                &mut totals.covered,
                &mut totals.fallbacks,
            ];
            for ((sum, seen), before) in sums.into_iter().zip(seen).zip(node.counted) {
                *sum += seen - before;
            }
            node.counted = seen;
        }
        Ok(())
    }

    fn choose_events(&mut self, x: usize) {
        let node = &mut self.nodes[x];
        let Some(replica) = &mut node.replica else { return };
        node.kernel.subscribed_new = replica.wants_new_entries();
        replica.handle_subscription(node.kernel.subscribed_new);
        self.totals.unheard += std::mem::take(&mut node.kernel.unheard);
    }

    fn dump(&mut self, x: usize) {
        let now = self.now;
        let slice = self.rng.usize(1..12);
        let node = &mut self.nodes[x];
        let Some(replica) = &mut node.replica else { return };
        if replica.poll_dump() {
            node.dump = Some(node.kernel.table.values().cloned().collect());
            node.blind_again = false;
        }
        let Some(dump) = &mut node.dump else { return };
        for entry in dump.drain(..slice.min(dump.len())) {
            replica.handle_dump_entry(entry);
        }
        if dump.is_empty() {
            node.dump = None;
            node.blind = node.blind_again || node.kernel.overrun;
            replica.handle_dump_end(true, now);
        }
    }

    /// The kernel's answers to a batch, in its order.
    fn ask(&mut self, x: usize) -> Result<Option<Answers>, Violation> {
        // As the daemon: nobody is asked when nothing waits.
        if self.nodes[x].replica.as_ref().is_none_or(|replica| replica.waiting() == 0) {
            return Ok(None);
        }
        let (owned, several) = (self.owned_elsewhere(x), self.nodes.len() > 2);
        let node = &mut self.nodes[x];
        let Some(replica) = &mut node.replica else { return Ok(None) };
        let kernel = &mut node.kernel;
        let mut answers = Vec::new();
        let mut lines = Vec::new();
        let mut violation = None;
        let (primary, owner) = (node.role == Role::Primary, replica.owner());
        let (dead, strays, brought) = (&self.dead, &self.strays[x], &mut self.brought);
        let (ended, now) = (&self.ended, self.now);
        let limit = self.rng.usize(1..6);
        replica.poll_requests(limit, |request| {
            if request.op == Op::Destroy
                && let Some(held) = kernel.table.get(&request.entry.key())
            {
                if primary {
                    violation = Some(format!("12: a primary's daemon destroys {}", ghost(held)));
                }
                let living = owned.contains(&ghost(held)) && !dead.contains(&ghost(held));
                // It had ended, and one that knew nothing of that has offered it since.
                let late = several && ended.get(&held.key()).is_some_and(|at| now < *at + LATE);
                let living = living && !late && !brought.contains(&ghost(held));
                if strays.contains_key(&ghost(held)) && !crate::replaced(held, request.entry) {
                    violation = Some(format!("11: a backup destroys the stray {}", ghost(held)));
                }
                if living && !crate::replaced(held, request.entry) {
                    violation = Some(format!("I7: removes {} that its owner still has", ghost(held)));
                }
            }
            let answer = kernel.request(request);
            if several && owner && request.op == Op::Create && answer.is_ok() {
                brought.insert(ghost(request.entry));
            }
            if self.trace.is_some() {
                let line = format!(
                    "      request {x} {:?} {:?} ({}) {:?}",
                    request.op,
                    request.entry.orig.l4,
                    ghost(request.entry),
                    answer.as_ref().map(|entry| entry.as_ref().map(ghost))
                );
                lines.push(line);
            }
            answers.push(answer);
        });
        if let Some(trace) = &mut self.trace {
            trace.append(&mut lines);
        }
        if let Some(violation) = violation {
            return Err(violation);
        }
        self.totals.checks += answers.len() as u64;
        Ok((!answers.is_empty()).then_some(answers))
    }

    /// As the daemon's `send_requests`: while one batch is answered the next may be on its way, and a node
    /// that does not own the group goes on hearing its peer.
    fn requests(&mut self, x: usize) -> Result<(), Violation> {
        let mut under_way: VecDeque<Answers> = VecDeque::new();
        for _ in 0..8 {
            let most = self.rng.usize(1..4);
            while under_way.len() < most
                && let Some(answers) = self.ask(x)?
            {
                under_way.push_back(answers);
                self.hear_meanwhile(x);
            }
            let Some(answers) = under_way.pop_front() else { return Ok(()) };
            self.answer(x, answers);
        }
        while let Some(answers) = under_way.pop_front() {
            self.answer(x, answers);
        }
        Ok(())
    }

    /// Some of what is due, or will be.
    fn hear_meanwhile(&mut self, x: usize) {
        let now = self.now;
        let node = &mut self.nodes[x];
        let Some(replica) = node.replica.as_mut().filter(|replica| !replica.owner()) else { return };
        for _ in 0..self.rng.usize(0..3).min(node.inbox.len()) {
            let (_, datagram) = node.inbox.remove(self.rng.usize(0..node.inbox.len()));
            node.delivered += 1;
            self.totals.meanwhile += 1;
            replica.handle_datagram(&datagram, now);
        }
        if self.rng.u32(0..4) == 0 {
            self.send(x);
        }
    }

    fn answer(&mut self, x: usize, answers: Answers) {
        let now = self.now;
        let Some(replica) = &mut self.nodes[x].replica else { return };
        let mut answered = vec![false; answers.len()];
        for (at, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(Some(entry)) => {
                    answered[at] = true;
                    replica.handle_read_back(at, entry);
                }
                Ok(None) => {}
                Err(errno) => {
                    answered[at] = true;
                    replica.handle_answer(at, errno as i32);
                }
            }
        }
        replica.handle_answers_end(&answered, now);
    }

    /// A daemon goes to sleep when nothing is left to do, at the latest after some turns.
    fn send_until_asleep(&mut self, x: usize) -> Result<(), Violation> {
        let now = self.now;
        for _ in 0..4 {
            let all_sent = self.send(x);
            let Some(replica) = &mut self.nodes[x].replica else { return Ok(()) };
            if !all_sent || replica.waiting() > 0 || replica.poll_timeout(now) > now {
                return Ok(());
            }
            replica.handle_timeout(now);
        }
        Err("it has nothing to do, and does not sleep".to_owned())
    }

    /// Whether nothing is left to send.
    fn send(&mut self, x: usize) -> bool {
        let now = self.now;
        for _ in 0..32 {
            let Some(replica) = &mut self.nodes[x].replica else { return true };
            let Some(datagram) = replica.poll_datagram(now) else { return true };
            for y in self.others(x) {
                self.carry(x, y, &datagram);
            }
        }
        false
    }

    /// The wire takes a datagram from one node to another, or does not.
    fn carry(&mut self, from: usize, to: usize, datagram: &[u8]) {
        let lost = self.cuts.cuts(from, to) || self.rng.u32(0..100) < self.loss;
        if lost || self.nodes[to].replica.is_none() {
            self.totals.lost += 1;
            return;
        }
        if !self.keys.is_empty() {
            self.attack(to, datagram);
        }
        let mut datagram = datagram.to_vec();
        if self.loss > 0 && self.rng.u32(0..200) == 0 {
            // A bit flips; without a key only what no longer parses is noticed, so spoil the magic
            // number.
            let at = if self.keys.is_empty() { 0 } else { self.rng.usize(0..datagram.len()) };
            datagram[at] ^= 1 << self.rng.u32(0..8);
            self.totals.corrupted += 1;
        }
        let copies = if self.rng.u32(0..50) == 0 { 2 } else { 1 };
        self.totals.duplicated += copies - 1;
        for _ in 0..copies {
            let jitter = if self.loss > 0 { self.rng.u64(0..60) } else { self.rng.u64(0..3) };
            self.nodes[to].inbox.push((self.now + Duration::from_millis(jitter), datagram.clone()));
        }
    }

    /// What the kernel of the owner has whose stream this node takes: of a pair, of the other one if it owns
    /// the group.
    fn owned_elsewhere(&self, x: usize) -> HashSet<u32> {
        let owns = |y: &usize| self.nodes[*y].replica.as_ref().is_some_and(Replica::owner);
        let pair = self.nodes.len() == 2;
        let owner = self.others(x).find(|y| self.follows(x, *y) || pair && owns(y));
        owner.map_or_else(HashSet::new, |y| self.nodes[y].kernel.table.values().map(ghost).collect())
    }

    /// Whether a node takes another's stream: this run's, not the one's before it.
    pub(super) fn follows(&self, x: usize, owner: usize) -> bool {
        let (Some(held), Some(sent)) = (&self.nodes[x].replica, &self.nodes[owner].replica) else {
            return false;
        };
        sent.owner() && held.follows_run(sent.incarnation())
    }

    /// Somebody on the wire keeps datagrams and sends them again, now or much later.
    fn attack(&mut self, to: usize, datagram: &[u8]) {
        const KEPT: usize = 64;
        match self.rng.u32(0..60) {
            0 if self.recorded.len() < KEPT => self.recorded.push((to, datagram.to_vec())),
            0 => {
                let at = self.rng.usize(0..KEPT);
                self.recorded[at] = (to, datagram.to_vec());
            }
            1 if !self.recorded.is_empty() => {
                let (to, datagram) = self.recorded[self.rng.usize(0..self.recorded.len())].clone();
                self.nodes[to].inbox.push((self.now, datagram));
                self.totals.replayed += 1;
            }
            _ => {}
        }
    }
}
