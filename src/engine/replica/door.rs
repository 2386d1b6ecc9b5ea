//! The door: who is listened to. A datagram is opened, its run is known or challenged, or it is refused and
//! counted: every datagram received is one of [`Refused`] or counts as heard.
//!
//! Called by the daemon with every datagram. What a peer says is `incoming`'s affair. Never changes the
//! table.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher24;

use super::Replica;
use crate::wire::{self, Body, Header, Incarnation, WireError};

/// A challenge without answer is sent again, and a run is answered again, after this long.
const CHALLENGE_AGAIN: Duration = Duration::from_millis(50);
/// New runs that are remembered for that; with so many at once the rest waits.
const CHALLENGED: usize = 64;
/// Answers to strangers in one turn, proofs and challenges: nobody makes this node talk more than it hears.
const ANSWERS: u32 = 32;

/// Why a datagram was refused. It changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It does not parse.
    Malformed,
    /// Another protocol version.
    OtherVersion,
    /// Under the name of our own run: looped back, or sent back by somebody.
    OwnRun,
    /// Another group of nodes.
    Foreign,
    /// Sealed, and there is no key here.
    Unreadable,
    /// Plain, and there is a key here.
    Unsealed,
    /// Sealed under none of our keys, or changed on its way.
    Forged,
    /// It has come before.
    Replayed,
    /// Another node with our own name.
    SameName,
    /// Our own kernel has not been read yet (10).
    Early,
    /// Its run has not proved itself (yet).
    Unproved,
    /// A sign of life that a later one has overtaken.
    Overtaken,
    /// For another run, another group, or a role that this node does not have.
    Misdirected,
    /// For another node that is there, or of another owner than the one that this node follows.
    Elsewhere,
    /// It came through a router: its hop limit is not 255 any more (RFC 5082).
    Far,
    /// Its failover group is another one under our number: two pairs share a link and their `node-group`.
    OtherGroup,
}

impl Refused {
    /// All of them, in the order of the counters.
    pub const ALL: [Refused; 16] = [
        Refused::Malformed,
        Refused::OtherVersion,
        Refused::OwnRun,
        Refused::Foreign,
        Refused::Unreadable,
        Refused::Unsealed,
        Refused::Forged,
        Refused::Replayed,
        Refused::SameName,
        Refused::Early,
        Refused::Unproved,
        Refused::Overtaken,
        Refused::Misdirected,
        Refused::Elsewhere,
        Refused::Far,
        Refused::OtherGroup,
    ];
}

/// Who is let in, and who was not.
pub(super) struct Door {
    challenges: Challenges,
    refusals: Refusals,
    /// Answers given to strangers in this turn.
    answered: u32,
}

impl Door {
    pub(super) fn new(secret: u128) -> Door {
        Door { challenges: Challenges::new(secret), refusals: Refusals::default(), answered: 0 }
    }

    pub(super) fn begin_turn(&mut self) {
        self.answered = 0;
    }
}

/// What was refused lately: what an operator looks for when nothing is heard.
#[derive(Default)]
struct Refusals {
    last: [Option<Instant>; Refused::ALL.len()],
    /// Who said that its group is another one, and which.
    stranger: Option<(String, String)>,
}

/// What was refused longer ago is over.
const LATELY: Duration = Duration::from_secs(10);

/// New runs of peers, and what they are asked.
///
/// The question is a keyed hash of the run and of how many runs have been let in: nothing has to be
/// remembered to check the answer, so that a flood of old datagrams cannot push a true one out, and a
/// recorded answer is worth nothing once any run has been let in.
struct Challenges {
    secret: u128,
    admitted: u64,
    asked: Pace,
    answered: Pace,
}

/// What is done for each new run now and then, not as often as somebody would like.
#[derive(Default)]
struct Pace(BTreeMap<u128, Instant>);

impl Pace {
    /// Whether it is this run's turn.
    fn due(&mut self, run: Incarnation, now: Instant) -> bool {
        if self.0.get(&run.0).is_some_and(|at| now < *at + CHALLENGE_AGAIN) {
            return false;
        }
        if self.0.len() >= CHALLENGED {
            self.0.retain(|_, at| now < *at + CHALLENGE_AGAIN);
        }
        let room = self.0.len() < CHALLENGED;
        if room {
            self.0.insert(run.0, now);
        }
        room
    }
}

impl Challenges {
    fn new(secret: u128) -> Challenges {
        Challenges { secret, admitted: 0, asked: Pace::default(), answered: Pace::default() }
    }

    fn nonce(&self, run: Incarnation) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.secret.to_be_bytes());
        hasher.write(&run.0.to_be_bytes());
        hasher.write_u64(self.admitted);
        hasher.finish()
    }

    fn admit(&mut self) {
        self.admitted += 1;
    }
}

impl Replica {
    /// A datagram from the channel. What does not parse or is not for us changes nothing and is counted.
    pub fn handle_datagram(&mut self, bytes: &[u8], now: Instant) {
        self.life.at(now);
        match self.receive(bytes, now) {
            Ok(()) => self.counters.heard += 1,
            Err(refused) => self.refuse_datagram(refused),
        }
    }

    /// Count a datagram as refused; the channel refuses some before they get here.
    pub fn refuse_datagram(&mut self, why: Refused) {
        if let Some(counter) = self.counters.refused.get_mut(why as usize) {
            *counter += 1;
        }
        if let Some(last) = self.door.refusals.last.get_mut(why as usize) {
            *last = Some(self.life.now());
        }
    }

    /// Why datagrams have been refused in the last seconds.
    pub fn refused_lately(&self, now: Instant) -> impl Iterator<Item = Refused> + '_ {
        let lately = move |at: Instant| now.saturating_duration_since(at) < LATELY;
        Refused::ALL
            .into_iter()
            .zip(self.door.refusals.last)
            .filter(move |(_, at)| at.is_some_and(lately))
            .map(|(why, _)| why)
    }

    /// The last node that said that its group is another one: its name, and its group.
    pub fn stranger(&self) -> Option<(&str, &str)> {
        self.door.refusals.stranger.as_ref().map(|(name, group)| (name.as_str(), group.as_str()))
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) -> Result<(), Refused> {
        let (header, sealed) = wire::peek(bytes).map_err(|error| match error {
            WireError::Version(_) => Refused::OtherVersion,
            WireError::Truncated | WireError::Magic | WireError::Undefined(_) => Refused::Malformed,
        })?;
        if header.incarnation == self.settings.incarnation {
            return Err(Refused::OwnRun);
        }
        if header.node_group != self.settings.node_group {
            return Err(Refused::Foreign);
        }
        match (self.out.seal.is_on(), sealed) {
            (false, false) => self.hear_plain(&header, bytes, 0, now),
            (false, true) => Err(Refused::Unreadable),
            (true, false) => Err(Refused::Unsealed),
            (true, true) => {
                let (plain, number) = self.open(&header, bytes)?;
                self.hear_plain(&header, &plain, number, now)
            }
        }
    }

    /// A sealed datagram's plain form and number, if it is authentic and has not come before.
    fn open(&mut self, header: &Header, sealed: &[u8]) -> Result<(Vec<u8>, u64), Refused> {
        // Of a run that has not proved itself nothing counts, and its proof is fresh by itself.
        let (node, run) = (header.sender, header.incarnation);
        let opened = self.out.seal.open(sealed, run, self.peers.knows(node, run));
        let (mut plain, number) = opened.map_err(|_| Refused::Forged)?;
        self.peers.note_number(node, run, number).map_err(|_| Refused::Replayed)?;
        wire::unmark_sealed(&mut plain);
        Ok((plain, number))
    }

    /// `number` is the one that it was sealed as.
    fn hear_plain(
        &mut self,
        header: &Header,
        bytes: &[u8],
        number: u64,
        now: Instant,
    ) -> Result<(), Refused> {
        let body = wire::parse_body(bytes).map_err(|_| Refused::Malformed)?;
        if header.sender == self.settings.node {
            return Err(Refused::SameName);
        }
        if !self.dumps.known() {
            // Nothing from the peer counts before our own kernel is known (10).
            return Err(Refused::Early);
        }
        self.admit(header, &body, number, now)?;
        // Sealed it was as long, but for the seal.
        let length = bytes.len() + self.out.seal.overhead();
        self.peers.note_length(header.sender, length, now);
        let heard = self.hear(header, body, now);
        self.following.settle(now);
        heard
    }

    /// Whether a datagram comes from a run of a peer's daemon that has proved itself. A new run is
    /// challenged: a replayed datagram of an old one, which would wedge the stream, cannot answer.
    fn admit(&mut self, header: &Header, body: &Body<'_>, number: u64, now: Instant) -> Result<(), Refused> {
        if let Body::Alive(alive) = body
            && alive.mechanism_group != self.presence.mechanism_group
        {
            self.door.refusals.stranger = Some((alive.name.clone(), alive.mechanism_group.clone()));
            return Err(Refused::OtherGroup);
        }
        if self.peers.hear(header.sender, header.incarnation, now) {
            return Ok(());
        }
        match body {
            Body::Proof { to, nonce } if *to == self.settings.incarnation => {
                let room = self.peers.make_room(header.sender);
                if !room || *nonce != self.door.challenges.nonce(header.incarnation) {
                    return Err(Refused::Unproved);
                }
                self.begin_run(header, number, now);
                Ok(())
            }
            // A challenge may come from a node that we have not challenged yet: it is answered, and counts
            // for nothing else. Whoever asks wants to know us, and is asked in turn: its next sign of life
            // may be far.
            Body::Challenge { to, .. }
                if *to == self.settings.incarnation
                    && self.door.challenges.answered.due(header.incarnation, now)
                    && self.may_answer() =>
            {
                self.challenge(header.incarnation, now);
                Ok(())
            }
            Body::Alive(_) => {
                self.challenge(header.incarnation, now);
                Err(Refused::Unproved)
            }
            _ => Err(Refused::Unproved),
        }
    }

    fn may_answer(&mut self) -> bool {
        self.door.answered += 1;
        self.door.answered <= ANSWERS
    }

    fn challenge(&mut self, run: Incarnation, now: Instant) {
        if self.door.challenges.asked.due(run, now) && self.may_answer() {
            let nonce = self.door.challenges.nonce(run);
            self.queue_body(&Body::Challenge { to: run, nonce });
        }
    }

    /// A peer's daemon has proved to be a new run.
    fn begin_run(&mut self, header: &Header, number: u64, now: Instant) {
        self.door.challenges.admit();
        self.peers.begin_run(header.sender, header.incarnation, number, now);
        if self.group.claim.node == header.sender && !self.ownership.is_owner() {
            self.begin_following();
        }
    }
}
