//! Several nodes with kernels of their own, and a wire that can be cut between any two.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::time::{Duration, Instant};

use ctsync_engine::replica::{FenceReport, Kept, Replica, Role};
use ctsync_engine::wire::{self, Body};

use super::kernel::Kernel;
use super::{entry, start, starting};

pub(crate) struct Node {
    pub replica: Option<Replica>,
    pub kernel: Kernel,
    pub reports: Vec<FenceReport>,
    runs: u64,
}

/// Nodes `0`, `1`, ... which are called router1, router2, ...
pub(crate) struct Many {
    pub nodes: Vec<Node>,
    pub now: Instant,
    /// From whom to whom nothing gets through.
    cuts: Vec<(usize, usize)>,
    /// What repairs ask for does not arrive.
    pub questions_lost: bool,
    /// What was sent, by whom.
    pub sent: Vec<(usize, Vec<u8>)>,
}

impl Many {
    /// The first one owns so many entries, the others are in step with it.
    pub(crate) fn start(nodes: usize, entries: u16) -> Many {
        let node = || Node { replica: None, kernel: Kernel::default(), reports: Vec::new(), runs: 0 };
        let nodes = std::iter::repeat_with(node).take(nodes).collect();
        let mut many =
            Many { nodes, now: start(), cuts: Vec::new(), questions_lost: false, sent: Vec::new() };
        for x in 0..many.nodes.len() {
            many.begin(x, Kept::default());
            many.role(x, if x == 0 { Role::Primary } else { Role::Backup });
        }
        many.run(2000);
        for number in 0..entries {
            many.open(0, number);
        }
        many.run(1000);
        assert!(many.replica(0).owner());
        for x in 1..many.nodes.len() {
            assert!(many.in_step(x), "{:#?}", many.nodes[x].replica.as_ref().map(|r| r.view(many.now)));
        }
        many
    }

    pub(crate) fn replica(&mut self, x: usize) -> &mut Replica {
        self.nodes[x].replica.as_mut().unwrap()
    }

    /// A daemon begins.
    pub(crate) fn begin(&mut self, x: usize, kept: Kept) {
        let node = &mut self.nodes[x];
        node.runs += 1;
        let replica = starting(x as u64 + 1, node.runs, true, Vec::new(), kept, self.now);
        node.kernel.heard = true;
        node.kernel.subscribed_new = true;
        node.kernel.events.clear();
        node.replica = Some(replica);
    }

    /// A daemon ends; what it leaves to the next run.
    pub(crate) fn crash(&mut self, x: usize) -> Kept {
        self.nodes[x].kernel.heard = false;
        self.nodes[x].replica.take().unwrap().persist()
    }

    /// A router loses power.
    pub(crate) fn power_off(&mut self, x: usize) {
        self.crash(x);
        self.nodes[x].kernel = Kernel::default();
    }

    /// A router loses power, and the next one is elected once that is noticed.
    pub(crate) fn fail_over(&mut self, from: usize, to: usize) {
        self.power_off(from);
        self.run(1500);
        self.role(to, Role::Primary);
    }

    pub(crate) fn role(&mut self, x: usize, role: Role) {
        let now = self.now;
        self.read_events(x);
        self.replica(x).handle_role(role, now);
    }

    /// A packet opens a connection through a router.
    pub(crate) fn open(&mut self, x: usize, number: u16) {
        assert!(self.nodes[x].kernel.open(entry(number, 1)));
        self.read_events(x);
    }

    /// A connection ends there.
    pub(crate) fn end(&mut self, x: usize, number: u16) {
        self.nodes[x].kernel.end(&entry(number, 1).key());
        self.read_events(x);
    }

    /// Whether a kernel has a connection.
    pub(crate) fn has(&self, x: usize, number: u16) -> bool {
        self.nodes[x].kernel.table.contains_key(&entry(number, 1).key())
    }

    pub(crate) fn in_step(&self, x: usize) -> bool {
        self.nodes[x].replica.as_ref().is_some_and(|replica| replica.readiness(self.now).in_step())
    }

    /// Whether a node is in step with just this owner.
    pub(crate) fn follows(&mut self, x: usize, owner: usize) -> bool {
        let run = self.replica(owner).incarnation();
        self.in_step(x) && self.replica(x).follows_run(run)
    }

    /// The epoch of the claim that it made or follows.
    pub(crate) fn epoch(&mut self, x: usize) -> u64 {
        let now = self.now;
        self.replica(x).view(now).epoch
    }

    /// Nothing gets from one to the other any more.
    pub(crate) fn cut_off(&mut self, from: usize, to: usize) {
        self.cuts.push((from, to));
    }

    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        self.cuts.extend([(a, b), (b, a)]);
    }

    pub(crate) fn mend(&mut self, a: usize, b: usize) {
        self.cuts.retain(|pair| *pair != (a, b) && *pair != (b, a));
    }

    fn read_events(&mut self, x: usize) {
        let node = &mut self.nodes[x];
        let Some(replica) = &mut node.replica else { return };
        let mut events = node.kernel.events.drain(..).collect();
        replica.handle_events(&mut events, self.now);
        replica.handle_events_empty();
    }

    pub(crate) fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now += Duration::from_millis(1);
            for _ in 0..2 {
                (0..self.nodes.len()).for_each(|x| self.turn(x));
            }
        }
    }

    /// Until something is the case, or a minute has passed.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&mut Many) -> bool) {
        for _ in 0..6000 {
            if holds(self) {
                return;
            }
            self.run(10);
        }
        panic!("not within a minute: {what}");
    }

    fn turn(&mut self, x: usize) {
        let now = self.now;
        self.read_events(x);
        let node = &mut self.nodes[x];
        let Some(replica) = &mut node.replica else { return };
        if replica.poll_dump() {
            for entry in node.kernel.table.values() {
                replica.handle_dump_entry(entry.clone());
            }
            replica.handle_dump_end(true, now);
        }
        replica.handle_timeout(now);
        for _ in 0..64 {
            if replica.waiting() == 0 {
                break;
            }
            let mut answers = Vec::new();
            replica.poll_requests(64, |request| answers.push(node.kernel.request(request)));
            let mut answered = vec![false; answers.len()];
            for (at, answer) in answers.into_iter().enumerate() {
                answered[at] = !matches!(answer, Ok(None));
                match answer {
                    Ok(Some(entry)) => replica.handle_read_back(at, entry),
                    Ok(None) => {}
                    Err(errno) => replica.handle_answer(at, errno as i32),
                }
            }
            replica.handle_answers_end(&answered, now);
        }
        replica.handle_timeout(now);
        node.reports.extend(std::iter::from_fn(|| replica.poll_fence_report()));
        node.kernel.subscribed_new = replica.wants_new_entries();
        replica.handle_subscription(node.kernel.subscribed_new);
        let mut sent = Vec::new();
        while let Some(datagram) = replica.poll_datagram(now) {
            sent.push(datagram);
        }
        assert_eq!(replica.invariants(), Ok(()), "router{}", x + 1);
        for datagram in sent {
            let asks = matches!(wire::parse(&datagram), Ok((_, Body::Ask { .. })));
            for y in (0..self.nodes.len()).filter(|y| *y != x) {
                if self.cuts.contains(&(x, y)) || asks && self.questions_lost {
                    continue;
                }
                if let Some(replica) = &mut self.nodes[y].replica {
                    replica.handle_datagram(&datagram, now);
                }
            }
            self.sent.push((x, datagram));
        }
    }

    /// Bodies of what a node has sent since this was last asked.
    pub(crate) fn take_sent<T>(&mut self, of: usize, mut pick: impl FnMut(&Body<'_>) -> Option<T>) -> Vec<T> {
        let sent = std::mem::take(&mut self.sent);
        let of = sent.iter().filter(|(x, _)| *x == of);
        of.filter_map(|(_, datagram)| pick(&wire::parse(datagram).unwrap().1)).collect()
    }
}
