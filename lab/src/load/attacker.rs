//! Somebody on the channel's link: hears what the routers say, and sends whatever he likes as fast as he can.
//!
//! Called by the scenario `attack`. A thread in a namespace of its own; knows the layout of a header and no
//! key.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ctsync::engine::wire;
use fastrand::Rng;

use crate::machine::net::Namespace;

/// The channel's multicast group and port.
const GROUP: Ipv4Addr = Ipv4Addr::new(225, 0, 0, 50);
const PORT: u16 = 3780;
/// Where the kind stands, and its bits; the highest one says that the body is sealed.
const KIND_AT: usize = 3;
const KIND: u8 = 0x7f;
const SEALED: u8 = 0x80;
/// Stream and alive: what everybody may be made to believe.
const BELIEVED: [u8; 2] = [1, 2];
/// Of each sort, a burst before the next one.
const BURST: u32 = 64;

const SORTS: usize = 9;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sort {
    /// Heard before, of the run that lives.
    Replayed,
    /// Heard before, of a run that has ended.
    Former,
    /// A true header, and anything behind it.
    Forged,
    /// Heard before, and one bit changed.
    Flipped,
    /// Heard before, and cut.
    Truncated,
    /// A true header, and an entry of ours in plain.
    Plain,
    /// Another version of the protocol.
    Version,
    /// Another group of nodes.
    Group,
    /// Heard before, and sent as if through a router.
    Far,
}

impl Sort {
    /// All of them.
    pub(crate) const ALL: [Sort; SORTS] = [
        Sort::Replayed,
        Sort::Former,
        Sort::Forged,
        Sort::Flipped,
        Sort::Truncated,
        Sort::Plain,
        Sort::Version,
        Sort::Group,
        Sort::Far,
    ];
}

fn socket() -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
    socket.set_ttl_v4(255)?;
    socket.set_multicast_ttl_v4(255)?;
    Ok(socket.into())
}

/// Everything that is said on the channel until it is enough.
pub(crate) fn listen(namespace: &Namespace, address: Ipv4Addr, enough: &AtomicBool) -> Result<Vec<Vec<u8>>> {
    namespace.run(|| {
        let socket = socket()?;
        socket.join_multicast_v4(&GROUP, &address).context("cannot listen to the channel")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let (mut all, mut buffer) = (Vec::new(), [0; 65536]);
        while !enough.load(Ordering::Relaxed) {
            if let Ok(length) = socket.recv(&mut buffer) {
                all.push(buffer.get(..length).unwrap_or_default().to_vec());
            }
        }
        Ok(all)
    })
}

/// One datagram to everybody on the channel.
pub(crate) fn send(namespace: &Namespace, from: Ipv4Addr, datagram: &[u8]) -> Result<()> {
    namespace.run(|| {
        let socket = socket()?;
        socket2::SockRef::from(&socket).set_multicast_if_v4(&from)?;
        socket.send_to(datagram, (GROUP, PORT)).context("cannot send to the channel")?;
        Ok(())
    })
}

/// A stream datagram that follows on `last` of what was heard, with this entry in it.
pub(crate) fn forge(heard: &[Vec<u8>], entry: &ctsync::ctnetlink::entry::Entry) -> Result<Vec<u8>> {
    let streams = heard.iter().filter_map(|datagram| match wire::parse(datagram) {
        Ok((header, wire::Body::Stream(head, _))) => Some((header, head)),
        _ => None,
    });
    let (header, head) = streams.max_by_key(|(_, head)| head.sequence).context("no stream was heard")?;
    let head = wire::StreamHead { sequence: head.sequence + 1, ..head };
    let (mut messages, mut datagram) = (Vec::new(), Vec::new());
    wire::emit_put(&mut messages, entry, 1, false);
    wire::emit_stream(&mut datagram, &header, &head, &messages);
    Ok(datagram)
}

/// Alives by which a lie is ahead of the truth, so that it is heard.
const HEARD: u32 = 20;

/// What is changed in a node's last alive.
pub(crate) type Lie = fn(&mut wire::Alive);

/// Lies that one datagram can tell of a node, where the channel is open, and what they do.
pub(crate) const LIES: [(&str, Lie); 3] = [
    ("a turn far ahead: its own alives seem overtaken", |alive| alive.turn += 1_000_000),
    ("a claim far above: nobody seems to own the group", |alive| {
        alive.turn += HEARD;
        (alive.claim.epoch, alive.claim.node, alive.owner) =
            (alive.claim.epoch + 1000, wire::NodeId(0x6666), true);
    }),
    ("numbers far ahead: its stream seems to begin there", |alive| {
        alive.turn += HEARD;
        (alive.last, alive.oldest) = (alive.last + 1_000_000, alive.last + 999_000);
    }),
];

/// For every node that was heard, its last alive with a lie in it.
pub(crate) fn lie(heard: &[Vec<u8>], lie: Lie) -> Vec<Vec<u8>> {
    let mut last: HashMap<wire::NodeId, (wire::Header, wire::Alive)> = HashMap::new();
    for datagram in heard {
        if let Ok((header, wire::Body::Alive(alive))) = wire::parse(datagram) {
            last.insert(header.sender, (header, *alive));
        }
    }
    let lies = last.into_values().map(|(header, mut alive)| {
        lie(&mut alive);
        let mut datagram = Vec::new();
        wire::emit_body(&mut datagram, &header, &wire::Body::Alive(Box::new(alive)));
        datagram
    });
    lies.collect()
}

/// What the attacker has to work with.
pub(crate) struct Heard {
    /// Of runs that live.
    pub living: Vec<Vec<u8>>,
    /// Of one that has ended.
    pub former: Vec<Vec<u8>>,
    /// An entry that must land nowhere.
    pub entry: ctsync::ctnetlink::entry::Entry,
}

impl Heard {
    /// What it could make a router believe: answers and questions are left out, so that everything sent is
    /// refused.
    pub(crate) fn keep_believable(&mut self) {
        let believable =
            |datagram: &Vec<u8>| datagram.get(KIND_AT).is_some_and(|kind| BELIEVED.contains(&(kind & KIND)));
        self.living.retain(believable);
        self.former.retain(believable);
    }

    fn make(&self, sort: Sort, random: &mut Rng) -> Vec<u8> {
        let pick = |all: &[Vec<u8>], random: &mut Rng| random.choice(all).cloned().unwrap_or_default();
        let mut datagram = match sort {
            Sort::Former => pick(&self.former, random),
            _ => pick(&self.living, random),
        };
        let behind_header = wire::HEADER.min(datagram.len())..datagram.len();
        match sort {
            Sort::Replayed | Sort::Former | Sort::Far => {}
            Sort::Forged => {
                for byte in datagram.get_mut(behind_header).unwrap_or_default() {
                    *byte = random.u8(..);
                }
            }
            Sort::Flipped => {
                let at = random.usize(behind_header);
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= 1 << random.u32(0..8);
                }
            }
            Sort::Truncated => datagram.truncate(random.usize(0..datagram.len())),
            Sort::Plain => {
                datagram.truncate(wire::HEADER);
                if let Some(kind) = datagram.get_mut(KIND_AT) {
                    *kind &= !SEALED;
                }
                datagram.extend_from_slice(&[0; wire::STREAM_HEAD]);
                wire::emit_put(&mut datagram, &self.entry, 1, false);
            }
            Sort::Version => {
                if let Some(version) = datagram.get_mut(KIND_AT - 1) {
                    *version += 1;
                }
            }
            Sort::Group => {
                if let Some(group) = datagram.get_mut(KIND_AT + 1) {
                    *group ^= 0xff;
                }
            }
        }
        datagram
    }
}

/// A flood under way.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<[AtomicU64; SORTS]>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Send all sorts in turn to one router, without a pause.
    pub(crate) fn start(namespace: &Namespace, to: Ipv4Addr, heard: Heard) -> Flood {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU64::new(0) }; SORTS]));
        let (namespace, stopped, count) = (namespace.clone(), stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            let (near, far) = (socket()?, socket()?);
            far.set_ttl(64)?;
            let mut random = Rng::with_seed(1);
            while !stopped.load(Ordering::Relaxed) {
                for (sort, count) in Sort::ALL.into_iter().zip(count.iter()) {
                    let socket = if sort == Sort::Far { &far } else { &near };
                    for _ in 0..BURST {
                        // A full queue of his own is no datagram sent.
                        if socket.send_to(&heard.make(sort, &mut random), (to, PORT)).is_ok() {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
            Ok(())
        });
        Flood { stop, sent, thread: Some(thread) }
    }

    /// End it; how many of each sort were sent.
    pub(crate) fn stop(mut self) -> Result<Vec<(Sort, u64)>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the attacker panicked"))??;
        }
        Ok(Sort::ALL.into_iter().zip(self.sent.iter().map(|sent| sent.load(Ordering::Relaxed))).collect())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
