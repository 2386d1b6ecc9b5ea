//! The other nodes: who has proved to be there, who speaks, who is lost, and what each said last.
//!
//! Owned by the replica: `door` lets runs in, `incoming` tells what they say; everybody reads. A peer is
//! changed here only. No table, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Role;
use super::size::Longest;
use crate::facts::Seat;
use crate::seal::{Replays, SealError};
use crate::wire::{Alive, Claim, Incarnation, KernelTold, NodeId};

/// Peers whose state is kept: a group has sixteen nodes. More than that are ignored and counted.
const PEERS: usize = 15;

/// How a peer is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// Its run has proved itself, and has not said yet who owns the group.
    Proved,
    /// It has said who owns the group: claims and readiness count with it from now on.
    Speaking,
    /// It has been silent for too long.
    Lost,
}

/// Where a node that follows this node's stream stood when it spoke last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    /// The number that it waits for, if it follows the stream.
    pub(super) next: Option<u64>,
    /// Datagrams of the stream that it had not applied.
    pub(super) behind: u64,
    /// For how long the oldest of them had been sent.
    pub(super) lag: Duration,
}

/// What is known of another node. Read everywhere, changed by [`Peers`].
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) incarnation: Incarnation,
    life: Life,
    /// Its last datagram.
    pub(super) heard: Instant,
    pub(super) owner: bool,
    /// The claim that it made, if it owns the group; else the one that it follows.
    pub(super) claim: Claim,
    /// The number of that claim's stream that it applies next; 0 for an owner, and for who follows nobody.
    pub(super) next: u64,
    /// It may have entries for the owner that it follows.
    pub(super) owes: bool,
    pub(super) role: Role,
    pub(super) seat: Seat,
    pub(super) ready: bool,
    pub(super) count: u32,
    /// What it hashes by.
    pub(super) seed: u128,
    /// Its kernel, once it has told of it.
    pub(super) kernel: Option<KernelTold>,
    /// Its last alive: its number, and when it was heard.
    turn: u32,
    spoke: Instant,
    /// The longest datagram of ours that it says it has heard lately, in bytes; 0: it does not hear us.
    pub(super) longest: u16,
    /// Whom it hears.
    hears: Vec<NodeId>,
    /// The longest of its datagrams that was heard here lately.
    heard_longest: Longest,
    /// Where it is in this node's stream, and when that last moved.
    pub(super) place: Place,
    pub(super) moved: Instant,
    /// A backup of ours: since when its digest has been seen to equal what was sent.
    pub(super) equal_since: Option<Instant>,
    replays: Replays,
}

impl Peer {
    pub(super) fn lives(&self) -> bool {
        self.life != Life::Lost
    }

    /// The longest of its datagrams that was heard here lately, in bytes.
    pub(super) fn heard_bytes(&self) -> u16 {
        self.heard_longest.bytes()
    }

    fn lose(&mut self) {
        self.life = Life::Lost;
        self.owner = false;
        self.role = Role::Unknown;
        self.equal_since = None;
    }

    fn say(&mut self, alive: &Alive, here: NodeId, now: Instant) {
        self.life = Life::Speaking;
        self.name.clone_from(&alive.name);
        self.owner = alive.owner;
        self.claim = alive.claim;
        self.next = if alive.owner { 0 } else { alive.next };
        self.owes = alive.owes;
        self.role = alive.role;
        self.seat = alive.seat;
        self.ready = alive.ready;
        self.count = alive.count;
        self.kernel = alive.kernel.or(self.kernel);
        self.turn = alive.turn;
        self.spoke = now;
        self.longest = alive.peers.iter().find(|peer| peer.node == here).map_or(0, |peer| peer.longest);
        self.hears = alive.peers.iter().map(|peer| peer.node).filter(|node| *node != here).collect();
        self.seed = alive.seed;
    }
}

/// What an alive that a later one has overtaken tells: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Overtaken;

/// All that is known of other nodes.
#[derive(Debug)]
pub(super) struct Peers {
    /// This node.
    here: NodeId,
    /// So many peers are known to exist, by the configuration or from the last run; 0: nobody knows.
    expected: usize,
    known: BTreeMap<NodeId, Peer>,
    /// Since when somebody could be heard: the end of the first dump, or when the last one was sent away.
    listening: Instant,
    /// Those that came (true) or went, for the log.
    changes: VecDeque<(String, bool)>,
}

impl Peers {
    pub(super) fn new(here: NodeId, expected: usize, now: Instant) -> Peers {
        Peers { here, expected, known: BTreeMap::new(), listening: now, changes: VecDeque::new() }
    }

    /// Peers are listened to from now on.
    pub(super) fn listen(&mut self, now: Instant) {
        self.listening = now;
    }

    pub(super) fn listening(&self) -> Instant {
        self.listening
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Peer> {
        self.known.values()
    }

    pub(super) fn living(&self) -> impl Iterator<Item = &Peer> {
        self.all().filter(|peer| peer.lives())
    }

    /// The living ones, by their numbers.
    pub(super) fn living_nodes(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.known.iter().filter(|(_, peer)| peer.lives()).map(|(node, peer)| (*node, peer))
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.known.get(&node)
    }

    /// None has ever been heard, or all were sent away.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// No peer is heard any more, or none ever was for as long.
    pub(super) fn lost(&self, lost_after: Duration, now: Instant) -> bool {
        if self.is_empty() { now >= self.listening + lost_after } else { self.living().next().is_none() }
    }

    /// A living peer owns the group.
    pub(super) fn own(&self) -> bool {
        self.living().any(|peer| peer.owner)
    }

    /// A living peer owns the group and is primary: one and the same (N6).
    pub(super) fn own_as_primary(&self) -> bool {
        self.living().any(|peer| peer.owner && peer.role == Role::Primary)
    }

    /// Whether this run owns the group under this claim, and lives (N4).
    pub(super) fn owns_by(&self, claim: Claim, run: Option<Incarnation>) -> bool {
        let peer = self.known.get(&claim.node).filter(|peer| peer.lives() && peer.owner);
        peer.is_some_and(|peer| peer.claim == claim && run == Some(peer.incarnation))
    }

    /// The living owner with the highest claim (N7).
    pub(super) fn highest_owner(&self) -> Option<&Peer> {
        self.living().filter(|peer| peer.owner).max_by_key(|peer| peer.claim)
    }

    /// Living peers that have got further in the stream of this claim than `expected`, or as far if `equal`
    /// says that this node has not all of that.
    pub(super) fn ahead(
        &self,
        claim: Claim,
        expected: Option<u64>,
        equal: bool,
    ) -> impl Iterator<Item = &Peer> {
        let least = expected.map_or(1, |expected| expected + u64::from(equal));
        self.living().filter(move |peer| !peer.owner && peer.claim == claim && peer.next >= least)
    }

    /// A living peer has said who owns the group. One that has just proved to be a new run has not yet.
    pub(super) fn speak(&self) -> bool {
        self.all().any(|peer| peer.life == Life::Speaking)
    }

    /// All that are known to exist have said who owns the group, or have been silent for so long: those that
    /// were expected, and those that peers hear (N5).
    pub(super) fn all_speak(&self, lost_after: Duration, now: Instant) -> bool {
        let speaking = || self.all().filter(|peer| peer.life == Life::Speaking);
        let speaks = |node: &NodeId| self.known.get(node).is_some_and(|peer| peer.life == Life::Speaking);
        let proved = self.living().any(|peer| peer.life == Life::Proved);
        now >= self.listening + lost_after
            || !proved
                && speaking().count() >= self.expected.max(1)
                && speaking().flat_map(|peer| &peer.hears).all(speaks)
    }

    /// Living peers, for the next run.
    pub(super) fn count_living(&self) -> usize {
        self.living().count()
    }

    /// When the next one would be lost.
    pub(super) fn next_loss(&self, lost_after: Duration) -> Option<Instant> {
        self.living().map(|peer| peer.heard + lost_after).min()
    }

    /// The next one that came (true) or went, once.
    pub(super) fn poll_change(&mut self) -> Option<(String, bool)> {
        self.changes.pop_front()
    }

    /// Whether this node's run is known.
    pub(super) fn knows(&self, node: NodeId, run: Incarnation) -> bool {
        self.known.get(&node).is_some_and(|peer| peer.incarnation == run)
    }

    fn run(&mut self, node: NodeId, run: Incarnation) -> Option<&mut Peer> {
        self.known.get_mut(&node).filter(|peer| peer.incarnation == run)
    }

    /// A known run's sealed datagram has this number: an error if it has come before.
    pub(super) fn note_number(
        &mut self,
        node: NodeId,
        run: Incarnation,
        number: u64,
    ) -> Result<(), SealError> {
        self.run(node, run).map_or(Ok(()), |peer| peer.replays.note(number))
    }

    /// A known run is heard: it lives. False: it is not known.
    pub(super) fn hear(&mut self, node: NodeId, run: Incarnation, now: Instant) -> bool {
        let Some(peer) = self.run(node, run) else { return false };
        peer.heard = now;
        if peer.life == Life::Lost {
            peer.life = Life::Proved;
        }
        true
    }

    /// ... by a datagram of so many bytes.
    pub(super) fn note_length(&mut self, node: NodeId, bytes: usize, now: Instant) {
        if let Some(peer) = self.known.get_mut(&node) {
            peer.heard_longest.note(bytes, now);
        }
    }

    /// Whether a run of this node could be kept. Who came and went, or pretended to, keeps nobody out.
    pub(super) fn make_room(&mut self, node: NodeId) -> bool {
        if self.known.len() >= PEERS {
            self.known.retain(|_, peer| peer.lives());
        }
        self.known.len() < PEERS || self.known.contains_key(&node)
    }

    /// A node's daemon has proved to be this run, by the datagram sealed as this number.
    pub(super) fn begin_run(&mut self, node: NodeId, run: Incarnation, number: u64, now: Instant) {
        let peer = Peer {
            name: String::new(),
            incarnation: run,
            life: Life::Proved,
            heard: now,
            owner: false,
            claim: Claim::default(),
            next: 0,
            owes: false,
            role: Role::Unknown,
            seat: Seat::default(),
            ready: false,
            count: 0,
            seed: 0,
            kernel: None,
            turn: 0,
            spoke: now,
            longest: 0,
            hears: Vec::new(),
            heard_longest: Longest::new(now),
            place: Place::default(),
            moved: now,
            equal_since: None,
            replays: Replays::after(number),
        };
        self.known.insert(node, peer);
    }

    /// Those that have been silent for so long are lost.
    pub(super) fn judge_silence(&mut self, lost_after: Duration, now: Instant) {
        for peer in self.known.values_mut() {
            if peer.lives() && now >= peer.heard + lost_after {
                peer.lose();
                self.changes.push_back((peer.name.clone(), false));
            }
        }
    }

    /// What a peer says of itself. One that came late, or was kept and sent again by somebody, says nothing.
    pub(super) fn hear_alive(
        &mut self,
        node: NodeId,
        alive: &Alive,
        lost_after: Duration,
        now: Instant,
    ) -> Result<(), Overtaken> {
        let Some(peer) = self.known.get_mut(&node) else { return Ok(()) };
        if alive.turn > peer.turn {
            if peer.life != Life::Speaking {
                self.changes.push_back((alive.name.clone(), true));
            }
            peer.say(alive, self.here, now);
            return Ok(());
        }
        if now >= peer.spoke + lost_after {
            // None that would have overtaken these has come for as long as a silent peer counts as alive:
            // somebody else said it. The run has to prove itself again, and is heard from its next one on.
            self.known.remove(&node);
            if self.known.is_empty() {
                // It is not gone: it gets as long as after a start to prove itself.
                self.listening = now;
            }
            self.changes.push_back((alive.name.clone(), false));
        }
        Err(Overtaken)
    }

    /// Where a peer is in this node's stream. `equal`: so is its digest, where digests are comparable: at the
    /// same place.
    pub(super) fn note_place(
        &mut self,
        node: NodeId,
        place: Place,
        equal: bool,
        lost_after: Duration,
        now: Instant,
    ) {
        let Some(peer) = self.known.get_mut(&node) else { return };
        if peer.place.next < place.next {
            peer.moved = now;
        }
        peer.place = place;
        let (follows, in_step) = (place.next.is_some(), place.next.is_some() && place.behind == 0);
        if in_step && equal {
            peer.equal_since.get_or_insert(now);
        } else if in_step || !follows || place.lag > lost_after {
            peer.equal_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Duration = Duration::from_secs(1);
    const NODE: NodeId = NodeId(2);
    const RUN: Incarnation = Incarnation(7);

    fn alive(turn: u32) -> Alive {
        Alive { name: "router2".into(), turn, owner: true, role: Role::Primary, ..Alive::default() }
    }

    fn proved(now: Instant) -> Peers {
        let mut peers = Peers::new(NodeId(1), 0, now);
        peers.begin_run(NODE, RUN, 0, now);
        peers
    }

    /// Every input to a peer in every state: what it is afterwards.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn every_input_in_every_state() {
        let now = Instant::now();
        let later = now + LOST;
        let table = [
            (Life::Proved, [Life::Proved, Life::Speaking, Life::Proved, Life::Lost, Life::Proved]),
            (Life::Speaking, [Life::Speaking, Life::Speaking, Life::Speaking, Life::Lost, Life::Proved]),
            (Life::Lost, [Life::Proved, Life::Speaking, Life::Lost, Life::Lost, Life::Proved]),
        ];
        for (before, after) in table {
            for (input, wanted) in after.into_iter().enumerate() {
                let mut peers = proved(now);
                peers.known.get_mut(&NODE).unwrap().life = before;
                match input {
                    0 => assert!(peers.hear(NODE, RUN, now)),
                    1 => assert_eq!(peers.hear_alive(NODE, &alive(1), LOST, now), Ok(())),
                    2 => assert_eq!(peers.hear_alive(NODE, &alive(0), LOST, now), Err(Overtaken)),
                    3 => peers.judge_silence(LOST, later),
                    _ => peers.begin_run(NODE, Incarnation(8), 0, now),
                }
                assert_eq!(peers.get(NODE).unwrap().life, wanted, "input {input} in {before:?}");
                assert_eq!(peers.lost(LOST, later), wanted == Life::Lost);
            }
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn who_is_lost_says_nothing_any_more() {
        let now = Instant::now();
        let mut peers = proved(now);
        assert!(!peers.own() && !peers.speak());
        peers.hear_alive(NODE, &alive(1), LOST, now).unwrap();
        assert!(peers.own() && peers.own_as_primary() && peers.speak());
        assert_eq!(peers.next_loss(LOST), Some(now + LOST));
        peers.judge_silence(LOST, now + LOST);
        assert!(!peers.own() && !peers.own_as_primary() && !peers.speak() && peers.next_loss(LOST).is_none());
        assert!(peers.hear(NODE, RUN, now + LOST) && !peers.own(), "until its next alive");
        let told: Vec<bool> = std::iter::from_fn(|| peers.poll_change()).map(|(_, came)| came).collect();
        assert_eq!(told, [true, false]);
        assert!(!peers.hear(NODE, Incarnation(8), now), "another run has to prove itself");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn numbers_that_never_come_again_make_a_run_prove_itself_anew() {
        let now = Instant::now();
        let mut peers = proved(now);
        peers.hear_alive(NODE, &alive(1000), LOST, now).unwrap();
        assert_eq!(peers.hear_alive(NODE, &alive(3), LOST, now + LOST / 2), Err(Overtaken));
        assert!(peers.knows(NODE, RUN));
        assert_eq!(peers.hear_alive(NODE, &alive(4), LOST, now + LOST), Err(Overtaken));
        assert!(peers.is_empty() && !peers.lost(LOST, now + LOST), "not gone: it may prove itself");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_follower_is_equal_until_it_is_seen_to_differ_or_falls_far_behind() {
        let now = Instant::now();
        let mut peers = proved(now);
        let equal = |peers: &Peers| peers.get(NODE).unwrap().equal_since;
        let place = |next, behind, lag| Place { next: Some(next), behind, lag };
        peers.note_place(NODE, place(5, 0, Duration::ZERO), true, LOST, now);
        assert_eq!(equal(&peers), Some(now));
        peers.note_place(NODE, place(6, 3, LOST / 2), false, LOST, now + LOST);
        assert_eq!(equal(&peers), Some(now), "elsewhere in the stream digests say nothing");
        peers.note_place(NODE, place(9, 0, Duration::ZERO), false, LOST, now + LOST);
        assert_eq!(equal(&peers), None);
        peers.note_place(NODE, place(9, 0, Duration::ZERO), true, LOST, now + LOST);
        peers.note_place(NODE, place(9, 9, 2 * LOST), true, LOST, now + 3 * LOST);
        assert_eq!(equal(&peers), None, "too far behind");
        peers.note_place(NODE, place(9, 0, Duration::ZERO), true, LOST, now + 3 * LOST);
        peers.note_place(NODE, Place::default(), true, LOST, now + 3 * LOST);
        assert_eq!(equal(&peers), None, "it follows another");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn those_that_are_lost_make_room_and_those_that_live_do_not() {
        let now = Instant::now();
        let mut peers = Peers::new(NodeId(1), 0, now);
        for node in 0..PEERS as u64 {
            assert!(peers.make_room(NodeId(node)));
            peers.begin_run(NodeId(node), RUN, 0, now);
        }
        assert!(!peers.make_room(NodeId(99)) && peers.make_room(NodeId(0)), "its next run");
        peers.judge_silence(LOST, now + LOST);
        assert!(peers.make_room(NodeId(99)));
    }
}
