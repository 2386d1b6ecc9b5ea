//! A replica that has met its peer: a backup that follows an owner, or an owner with a backup, with a key or
//! without.
//!
//! The peer was a real replica once; what it said is played again for every input. Called by the targets that
//! fuzz datagrams, and by the generator of their corpus.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ctsync::ctnetlink::codec::Event;
use ctsync::ctnetlink::entry::{Entry, L4, Status, TcpInfo, Tuple, proto};
use ctsync::engine::facts::KernelSettings;
use ctsync::engine::filter::Filter;
use ctsync::engine::replica::{Counters, Kept, Replica, Role, Settings, Tunables};
use ctsync::engine::seal::{Key, Seal};
use ctsync::engine::wire::{self, HEADER, Header, Incarnation, NodeId};

use crate::kernel::Kernel;

/// Between two turns.
pub const TURN: Duration = Duration::from_millis(50);
/// Turns until both have settled; the entries come in the middle.
const TURNS: u32 = 60;
/// Entries that both hold.
pub const ENTRIES: u16 = 10;
/// Bytes of the largest datagram.
pub const DATAGRAM: usize = 1400;
/// Most datagrams that one turn may bring: what waits to be controlled and to be sent again, and a tick of
/// repairs.
const SAID: usize = 8192;
/// Fewest bytes of a put: an input cannot make more entries than it has room for.
const SMALLEST_PUT: usize = 15;

/// Who is fuzzed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It owns the group, a backup follows it.
    Owner,
    /// It follows an owner.
    Backup,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Owner => Side::Backup,
            Side::Backup => Side::Owner,
        }
    }

    fn number(self) -> u64 {
        match self {
            Side::Owner => 1,
            Side::Backup => 2,
        }
    }

    /// As it opens its datagrams.
    pub fn header(self) -> Header {
        let number = self.number();
        Header { node_group: 0, sender: NodeId(number), incarnation: Incarnation(number.into()) }
    }
}

/// What a side heard, by turn.
type Heard = Vec<Vec<Vec<u8>>>;

/// What both said to each other, recorded once: `[keyed][side]` is what that side heard.
static PLAYED: LazyLock<[[Heard; 2]; 2]> = LazyLock::new(|| [false, true].map(record));

fn record(keyed: bool) -> [Heard; 2] {
    let [mut owner, mut backup] = [Side::Owner, Side::Backup].map(|side| Stage::new(side, keyed));
    let mut heard = [Heard::new(), Heard::new()];
    for turn in 0..TURNS {
        let to_backup = owner.turn(turn);
        to_backup.iter().for_each(|datagram| backup.hear(datagram));
        let to_owner = backup.turn(turn);
        to_owner.iter().for_each(|datagram| owner.hear(datagram));
        heard[0].push(to_owner);
        heard[1].push(to_backup);
    }
    for stage in [&owner, &backup] {
        assert!(stage.replica.readiness(stage.now).is_ready(), "{:?}", stage.replica.readiness(stage.now));
        assert_eq!(stage.replica.entries().count(), usize::from(ENTRIES));
    }
    heard
}

/// A replica, its kernel, and the time.
pub struct Stage {
    /// Who.
    pub side: Side,
    /// The engine.
    pub replica: Replica,
    /// The virtual time.
    pub now: Instant,
    kernel: Kernel,
    /// As its peer seals and opens; without a key it does nothing.
    peer: Seal,
}

impl Stage {
    /// Just started.
    fn new(side: Side, keyed: bool) -> Stage {
        #[expect(clippy::disallowed_methods, reason = "the virtual clock has to begin somewhere")]
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let now = *BEGAN;
        let keys = if keyed { vec![Key([1; 32])] } else { Vec::new() };
        let settings = Settings {
            name: format!("router{}", side.number()),
            node: side.header().sender,
            node_group: 0,
            mechanism_group: String::new(),
            peers: 0,
            keys: keys.clone(),
            incarnation: side.header().incarnation,
            secret: side.number().into(),
            datagram: DATAGRAM,
            ring: 100_000,
            pending_destroys: 1000,
            lease: 3600,
            sweep: Duration::from_secs(600),
            flush_wait: Duration::from_millis(100),
            kernel: KernelSettings::default(),
            kept: Kept::default(),
            tunables: Tunables {
                alive: Duration::from_millis(250),
                lost_after: Duration::from_secs(1),
                hot: true,
                track_windows: true,
                gate_limit: Duration::from_secs(30),
                owner_lost: Duration::from_secs(3600),
            },
        };
        let mut replica = Replica::new(settings, Filter::default(), now);
        replica.handle_events_empty();
        assert!(replica.poll_dump());
        replica.handle_dump_end(true, now);
        replica.handle_role(if side == Side::Owner { Role::Primary } else { Role::Backup }, now);
        let peer = Seal::new(&keys, 0, side.other().header().incarnation);
        Stage { side, replica, now, kernel: Kernel::default(), peer }
    }

    /// It has met its peer; both hold the same entries.
    pub fn fed(side: Side, keyed: bool) -> Stage {
        let mut stage = Stage::new(side, keyed);
        let played = &PLAYED[usize::from(keyed)][side as usize];
        for (turn, heard) in (0..).zip(played) {
            // The owner speaks first in a turn.
            if side == Side::Backup {
                heard.iter().for_each(|datagram| stage.hear(datagram));
            }
            stage.turn(turn);
            if side == Side::Owner {
                heard.iter().for_each(|datagram| stage.hear(datagram));
            }
        }
        // The peer's next datagram has the next number.
        for _ in played.iter().flatten() {
            stage.peer.seal(vec![0; HEADER]);
        }
        stage
    }

    /// Everything that a side heard before.
    pub fn heard(side: Side, keyed: bool) -> impl Iterator<Item = &'static [u8]> {
        PLAYED[usize::from(keyed)][side as usize].iter().flatten().map(Vec::as_slice)
    }

    /// A turn of the play: what it says.
    fn turn(&mut self, turn: u32) -> Vec<Vec<u8>> {
        if self.side == Side::Owner && turn == TURNS / 2 {
            for number in 0..ENTRIES {
                self.replica.handle_event(Event::New(entry(number)), self.now);
            }
        }
        self.pass(TURN);
        std::iter::from_fn(|| self.replica.poll_datagram(self.now)).collect()
    }

    /// Time passes, and the kernel does what it is asked.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.replica.handle_events_empty();
        self.replica.handle_timeout(self.now);
        self.kernel.serve(&mut self.replica, self.now);
    }

    /// The operator looks on, and whoever wants to may begin a takeover: more of the replica is under way.
    pub fn disturb(&mut self, how: u8) {
        if how & 1 != 0 {
            self.replica.begin_comparison(self.now);
        }
        if how & 2 != 0 {
            self.replica.watch_changes(true);
        }
        if how & 4 != 0 {
            let role = if self.side == Side::Owner { Role::Backup } else { Role::Primary };
            self.replica.handle_role(role, self.now);
        }
        if how & 8 != 0 {
            self.replica.reset_external();
        }
    }

    /// A datagram as it comes from the channel.
    pub fn hear(&mut self, datagram: &[u8]) {
        self.replica.handle_datagram(datagram, self.now);
    }

    /// Kind and body as the peer would send them, sealed where there is a key.
    pub fn hear_body(&mut self, kind_and_body: &[u8]) {
        let Some((kind, body)) = kind_and_body.split_first() else { return };
        let mut datagram = Vec::new();
        let flush = wire::Body::Flush { to: Incarnation(0), token: 0 };
        wire::emit_body(&mut datagram, &self.side.other().header(), &flush);
        datagram.truncate(HEADER);
        datagram[3] = *kind & 0x7f;
        datagram.extend_from_slice(body);
        if self.replica.sealed() {
            wire::mark_sealed(&mut datagram);
        }
        let datagram = self.peer.seal(datagram);
        self.hear(&datagram);
    }

    /// Everything that it wants to say now: it ends, it fits, and the peer could read it.
    pub fn listen(&mut self) {
        let mut said = 0;
        while let Some(mut datagram) = self.replica.poll_datagram(self.now) {
            said += 1;
            assert!(said <= SAID, "it does not stop talking");
            assert!(datagram.len() <= DATAGRAM, "a datagram of {} bytes", datagram.len());
            if self.replica.sealed() {
                datagram =
                    self.peer.open(&datagram, self.side.header().incarnation, true).expect("it opens").0;
                wire::unmark_sealed(&mut datagram);
            }
            assert!(crate::wire::is_whole(&datagram), "nobody can read {datagram:02x?}");
        }
    }

    /// It holds no more than an input of so many bytes can have brought.
    pub fn check_size(&self, bytes: usize) {
        let most = usize::from(ENTRIES) + bytes / SMALLEST_PUT;
        assert!(self.replica.entries().count() <= most, "more entries than were sent");
    }
}

/// Datagrams that were refused, for whatever reason.
pub fn refusals(counters: &Counters) -> u64 {
    counters.refused.iter().sum()
}

/// Connections of several kinds: TCP, UDP, some with source NAT, some with IPv6.
pub fn entry(number: u16) -> Entry {
    let v6 = number % 4 == 3;
    let address = |host: u8| -> std::net::IpAddr {
        if v6 { [0xfd00, 0, 0, 0, 0, 0, 0, host.into()].into() } else { [10, 0, 1, host].into() }
    };
    let tcp = number % 2 == 1;
    let orig = Tuple {
        src: address(100),
        dst: address(200),
        proto: if tcp { proto::TCP } else { proto::UDP },
        l4: L4::Ports { src: 40_000 + number, dst: 443 },
    };
    let mut reply = orig.inverse();
    if number.is_multiple_of(3) {
        reply.dst = address(1);
    }
    let info = TcpInfo { state: 3, wscale_orig: 7, wscale_reply: 9, flags_orig: 3, flags_reply: 3 };
    Entry {
        orig,
        reply,
        zone: 0,
        status: Status::Confirmed | Status::SeenReply | Status::Assured,
        timeout: Some(300),
        mark: (number.is_multiple_of(5)).then_some(7),
        tcp: tcp.then_some(info),
        master: None,
        rare: None,
    }
}
