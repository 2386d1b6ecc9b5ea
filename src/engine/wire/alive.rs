//! "I am here": what a node says of itself every alive interval, and when something changed that its peers
//! should know.
//!
//! Written and read by [`super::emit_body`] and [`super::parse`]. What follows it in a datagram is padding,
//! which shows whether a path carries as much. Never decides what any of it means.

use super::{Claim, GroupId, NodeId, Reader, WireError, parse_count};
use crate::facts::{Asked, Build, Evidence, KernelSettings, Mover, Role, Rules, Seat, TIMEOUTS};

/// Bytes of the longest name.
const NAME: usize = 64;

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
    /// "My kernel table is the truth": it survived a restart of the daemon that owned the group.
    pub survived: bool,
    /// "My kernel table is new": it has not been in step with a peer's since boot.
    pub fresh: bool,
    /// The sender would be fit to take over.
    pub ready: bool,
    /// The sender's role, by VRRP or another mechanism.
    pub role: Role,
    /// How the sender knows it, and its virtual addresses.
    pub seat: Seat,
    /// Bytes of the longest datagram that the sender has heard lately of each of its living peers; 0: there
    /// is none.
    pub longest: u16,
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
        emit_name(out, &self.name);
        emit_name(out, &self.mechanism_group);
        out.extend_from_slice(&self.last.to_be_bytes());
        out.extend_from_slice(&self.oldest.to_be_bytes());
        out.extend_from_slice(&self.turn.to_be_bytes());
        out.extend_from_slice(&self.token.to_be_bytes());
        out.push(self.group.0);
        out.extend_from_slice(&self.claim.epoch.to_be_bytes());
        out.extend_from_slice(&self.claim.node.0.to_be_bytes());
        out.push(bits(&[self.owner, self.survived, self.fresh, self.ready, self.kernel.is_some()]));
        let Seat { evidence, mover, addresses, here } = self.seat;
        out.extend_from_slice(&[self.role as u8, evidence as u8, mover as u8, addresses, here]);
        out.extend_from_slice(&self.longest.to_be_bytes());
        out.extend_from_slice(&self.seed.to_be_bytes());
        out.extend_from_slice(&self.root.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&self.next.to_be_bytes());
        if let Some(kernel) = &self.kernel {
            kernel.emit(out);
        }
    }

    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Alive, WireError> {
        let (name, mechanism_group) = (parse_name(reader)?, parse_name(reader)?);
        let (last, oldest) = (parse_count(reader)?, parse_count(reader)?);
        let (turn, token) = (reader.u32()?, reader.u32()?);
        let group = GroupId(reader.u8()?);
        let claim = Claim { epoch: parse_count(reader)?, node: NodeId(reader.u64()?) };
        let flags = reader.u8()?;
        let bit = |at: u8| flags & (1 << at) != 0;
        let role = one_of(&Role::ALL, reader.u8()?, "role")?;
        let seat = Seat {
            evidence: one_of(&Evidence::ALL, reader.u8()?, "evidence")?,
            mover: one_of(&Mover::ALL, reader.u8()?, "mover")?,
            addresses: reader.u8()?,
            here: reader.u8()?,
        };
        Ok(Alive {
            name,
            mechanism_group,
            last,
            oldest,
            turn,
            token,
            group,
            claim,
            owner: bit(0),
            survived: bit(1),
            fresh: bit(2),
            ready: bit(3),
            role,
            seat,
            longest: reader.u16()?,
            seed: reader.u128()?,
            root: reader.u64()?,
            count: reader.u32()?,
            next: parse_count(reader)?,
            kernel: bit(4).then(|| KernelTold::parse(reader)).transpose()?,
        })
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

fn emit_name(out: &mut Vec<u8>, name: &str) {
    let name = name.as_bytes();
    let length = name.len().min(NAME);
    out.push(u8::try_from(length).unwrap_or(u8::MAX));
    out.extend_from_slice(name.get(..length).unwrap_or_default());
}

/// No node has a name that is longer, or that is no text.
fn parse_name(reader: &mut Reader<'_>) -> Result<String, WireError> {
    let length = usize::from(reader.u8()?);
    let name = std::str::from_utf8(reader.bytes(length)?).map_err(|_| WireError::Undefined("name"))?;
    if length > NAME {
        return Err(WireError::Undefined("name"));
    }
    Ok(name.to_owned())
}
