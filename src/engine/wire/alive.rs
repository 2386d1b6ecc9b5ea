//! "I am here": what a node says of itself every alive interval, and when something changed that its peers
//! should know.
//!
//! Written and read by [`super::emit_body`] and [`super::parse`]. First what each has, then attributes, of
//! which a build leaves out those that it does not know, and padding, which shows whether a path carries as
//! much. Never decides what any of it means.

use super::{Claim, GroupId, Incarnation, NodeId, Reader, WireError, parse_count};
use crate::facts::{Asked, Build, Evidence, KernelSettings, Mover, Role, Rules, Seat, TIMEOUTS};

/// Bytes of the longest name.
const NAME: usize = 64;

/// Attributes; the padding has no length.
const PADDING: u8 = 0;
const NODE_NAME: u8 = 1;
const MECHANISM_GROUP: u8 = 2;
const KERNEL: u8 = 3;
const FLUSHED: u8 = 4;
const STOOD: u8 = 5;
const TRUTH: u8 = 6;
const PEERS: u8 = 7;
const LINEAGE: u8 = 8;

/// "I am here", every alive interval and at every change of a claim.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Alive {
    /// The node's configured name, for people.
    pub name: String,
    /// The failover group by its mechanism and name, `vrrp SYNC`: nodes that differ in it do not belong
    /// together.
    pub mechanism_group: String,
    /// Last sequence number used in the stream, 0 for none.
    pub last: u64,
    /// Oldest sequence number still in the ring; `last + 1` when the ring is empty.
    pub oldest: u64,
    /// Counts the alives of a run: one that was overtaken says nothing any more.
    pub turn: u32,
    /// The token of the flush that this answers, 0 for none.
    pub token: u32,
    /// The group.
    pub group: GroupId,
    /// The highest claim known.
    pub claim: Claim,
    /// The sender owns the group.
    pub owner: bool,
    /// "My kernel table is the truth": it survived a restart of the daemon that owned the group under this
    /// claim.
    pub truth: Option<Claim>,
    /// Of an owner: the run with which its table began from nothing, its own or one that it goes back to,
    /// folded ([`Incarnation::folded`]); 0: not known.
    pub lineage: u64,
    /// Where the sender stood in the last owner's stream when it claimed.
    pub stood: Option<Stood>,
    /// "My kernel table is new": it has not been in step with a peer's since boot.
    pub fresh: bool,
    /// The sender would be fit to take over.
    pub ready: bool,
    /// The sender has entries that it may have to offer to the owner it follows.
    pub owes: bool,
    /// The sender's role, by VRRP or another mechanism.
    pub role: Role,
    /// How the sender knows it, and its virtual addresses.
    pub seat: Seat,
    /// The sender's living peers.
    pub peers: Vec<Heard>,
    /// What the sender's keys and contents are hashed by.
    pub seed: u128,
    /// Digest root after `last`.
    pub root: u64,
    /// Entries in the sender's table.
    pub count: u32,
    /// On a backup: the number of the owner's stream that it applies next, 0 when it follows none.
    pub next: u64,
    /// The sender's kernel; left out of most alives while it stays as it was told.
    pub kernel: Option<KernelTold>,
}

/// A place in an owner's stream, where the digests were equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stood {
    /// Under which claim.
    pub claim: Claim,
    /// Of which run.
    pub run: Incarnation,
    /// The number that would have come next.
    pub next: u64,
}

/// A living peer of an alive's sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// Which.
    pub node: NodeId,
    /// Bytes of the longest datagram that was heard of it lately.
    pub longest: u16,
}

/// A node's kernel and build, as they are told now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KernelTold {
    /// What it is set to.
    pub settings: KernelSettings,
    /// Entries that it refuses now.
    pub refused: u32,
    /// Entries that it translates to an address of this node alone: they cannot live elsewhere.
    pub bound: u32,
    /// The daemon's version.
    pub build: Build,
}

impl Alive {
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.turn.to_be_bytes());
        out.push(self.group.0);
        self.claim.emit(out);
        for count in [self.last, self.oldest, self.next] {
            out.extend_from_slice(&count.to_be_bytes());
        }
        out.extend_from_slice(&self.seed.to_be_bytes());
        out.extend_from_slice(&self.root.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.push(bits(&[self.owner, self.fresh, self.ready, self.owes]));
        let Seat { evidence, mover, addresses, here } = self.seat;
        out.extend_from_slice(&[self.role as u8, evidence as u8, mover as u8, addresses, here]);
        self.emit_attributes(out);
    }

    fn emit_attributes(&self, out: &mut Vec<u8>) {
        attribute(out, NODE_NAME, |out| out.extend_from_slice(name(&self.name)));
        attribute(out, MECHANISM_GROUP, |out| out.extend_from_slice(name(&self.mechanism_group)));
        if let Some(kernel) = &self.kernel {
            attribute(out, KERNEL, |out| kernel.emit(out));
        }
        if self.token != 0 {
            attribute(out, FLUSHED, |out| out.extend_from_slice(&self.token.to_be_bytes()));
        }
        if let Some(stood) = &self.stood {
            attribute(out, STOOD, |out| {
                stood.claim.emit(out);
                out.extend_from_slice(&stood.run.0.to_be_bytes());
                out.extend_from_slice(&stood.next.to_be_bytes());
            });
        }
        if let Some(claim) = &self.truth {
            attribute(out, TRUTH, |out| claim.emit(out));
        }
        if self.lineage != 0 {
            attribute(out, LINEAGE, |out| out.extend_from_slice(&self.lineage.to_be_bytes()));
        }
        if !self.peers.is_empty() {
            attribute(out, PEERS, |out| {
                for peer in &self.peers {
                    out.extend_from_slice(&peer.node.0.to_be_bytes());
                    out.extend_from_slice(&peer.longest.to_be_bytes());
                }
            });
        }
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Alive, WireError> {
        let mut alive = Alive {
            turn: reader.u32()?,
            group: GroupId(reader.u8()?),
            claim: Claim::parse(reader)?,
            last: parse_count(reader)?,
            oldest: parse_count(reader)?,
            next: parse_count(reader)?,
            seed: reader.u128()?,
            root: reader.u64()?,
            count: reader.u32()?,
            ..Alive::default()
        };
        let flags = reader.u8()?;
        let bit = |at: u8| flags & (1 << at) != 0;
        (alive.owner, alive.fresh, alive.ready, alive.owes) = (bit(0), bit(1), bit(2), bit(3));
        alive.role = one_of(&Role::ALL, reader.u8()?, "role")?;
        alive.seat = Seat {
            evidence: one_of(&Evidence::ALL, reader.u8()?, "evidence")?,
            mover: one_of(&Mover::ALL, reader.u8()?, "mover")?,
            addresses: reader.u8()?,
            here: reader.u8()?,
        };
        while !reader.is_empty() {
            let kind = reader.u8()?;
            if kind == PADDING {
                break;
            }
            let length = usize::from(reader.u8()?);
            alive.take_attribute(kind, &mut Reader::new(reader.bytes(length)?))?;
        }
        Ok(alive)
    }

    /// One that this build does not know changes nothing, nor does what a later build adds to one at its end.
    fn take_attribute(&mut self, kind: u8, reader: &mut Reader<'_>) -> Result<(), WireError> {
        match kind {
            NODE_NAME => self.name = parse_name(reader)?,
            MECHANISM_GROUP => self.mechanism_group = parse_name(reader)?,
            KERNEL => self.kernel = Some(KernelTold::parse(reader)?),
            FLUSHED => self.token = reader.u32()?,
            STOOD => {
                let (claim, run) = (Claim::parse(reader)?, Incarnation(reader.u128()?));
                // Only compared: one that follows a count that nobody reaches does no harm.
                self.stood = Some(Stood { claim, run, next: reader.u64()? });
            }
            TRUTH => self.truth = Some(Claim::parse(reader)?),
            LINEAGE => self.lineage = reader.u64()?,
            PEERS => {
                self.peers.clear();
                while !reader.is_empty() {
                    self.peers.push(Heard { node: NodeId(reader.u64()?), longest: reader.u16()? });
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Claim {
    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.node.0.to_be_bytes());
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Claim, WireError> {
        Ok(Claim { epoch: parse_count(reader)?, node: NodeId(reader.u64()?) })
    }
}

impl KernelTold {
    fn emit(&self, out: &mut Vec<u8>) {
        let KernelTold { settings, refused, bound, build } = self;
        let KernelSettings { max, loose, events, timestamps, rules, timeouts } = settings;
        let Rules { asked, helpers, timeout_policies } = rules;
        out.extend_from_slice(&max.to_be_bytes());
        out.extend_from_slice(&[bits(&[*loose, *events, *timestamps]), asked.bits()]);
        out.extend_from_slice(&helpers.to_be_bytes());
        out.push(*timeout_policies);
        for timeout in timeouts {
            out.extend_from_slice(&timeout.to_be_bytes());
        }
        out.extend_from_slice(&refused.to_be_bytes());
        out.extend_from_slice(&bound.to_be_bytes());
        out.extend_from_slice(&build.0);
    }

    fn parse(reader: &mut Reader<'_>) -> Result<KernelTold, WireError> {
        let max = reader.u32()?;
        let flags = reader.u8()?;
        let bit = |at: u8| flags & (1 << at) != 0;
        let rules = Rules {
            asked: Asked::from_bits_truncate(reader.u8()?),
            helpers: reader.u16()?,
            timeout_policies: reader.u8()?,
        };
        let mut timeouts = [0; TIMEOUTS.len()];
        for timeout in &mut timeouts {
            *timeout = reader.u32()?;
        }
        let settings =
            KernelSettings { max, loose: bit(0), events: bit(1), timestamps: bit(2), rules, timeouts };
        let (refused, bound) = (reader.u32()?, reader.u32()?);
        let build = Build([reader.u8()?, reader.u8()?, reader.u8()?]);
        Ok(KernelTold { settings, refused, bound, build })
    }
}

/// Flags as a byte, the first one lowest.
fn bits(flags: &[bool]) -> u8 {
    flags.iter().enumerate().fold(0, |bits, (at, set)| bits | u8::from(*set) << at)
}

fn one_of<T: Copy>(all: &[T], at: u8, what: &'static str) -> Result<T, WireError> {
    all.get(usize::from(at)).copied().ok_or(WireError::Undefined(what))
}

/// An attribute: its kind, its length, and what `fill` writes.
fn attribute(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[kind, 0]);
    let start = out.len();
    fill(out);
    let length = u8::try_from(out.len() - start).unwrap_or(u8::MAX);
    if let Some(place) = out.get_mut(start - 1) {
        *place = length;
    }
}

/// As much of a name as is told.
fn name(name: &str) -> &[u8] {
    name.as_bytes().get(..name.len().min(NAME)).unwrap_or_default()
}

/// No node has a name that is longer, or that is no text.
fn parse_name(reader: &mut Reader<'_>) -> Result<String, WireError> {
    let bytes = reader.rest();
    let name = std::str::from_utf8(bytes).map_err(|_| WireError::Undefined("name"))?;
    if bytes.len() > NAME {
        return Err(WireError::Undefined("name"));
    }
    Ok(name.to_owned())
}
