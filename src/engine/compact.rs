//! An entry as the table keeps it: the common ones in a third of the room.
//!
//! Nearly every entry of a router is IPv4, has ports, and none of what helpers, labels and expectations bring
//! along: it is kept without gaps between its fields. Any other one is kept as it is, in a box. Called by the
//! table alone; everybody else sees [`Entry`].

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use bitflags::bitflags;

use ctsync_ctnetlink::entry::{Entry, Key, L4, Status, TcpInfo, Tuple};

bitflags! {
    /// What a [`Narrow`] has, and what its layer 4 is.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Has: u8 {
        const TIMEOUT = 1 << 0;
        const MARK = 1 << 1;
        const TCP = 1 << 2;
        const ORIG_PORTS = 1 << 3;
        const ORIG_ICMP = 1 << 4;
        const REPLY_PORTS = 1 << 5;
        const REPLY_ICMP = 1 << 6;
    }
}

/// One direction: addresses, and ports or id, type and code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Half {
    src: [u8; 4],
    dst: [u8; 4],
    l4: [u16; 2],
}

impl Half {
    /// `None`: not IPv4.
    fn pack(tuple: &Tuple, ports: Has, icmp: Has) -> Option<(Half, Has)> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (tuple.src, tuple.dst) else { return None };
        let (l4, has) = match tuple.l4 {
            L4::Ports { src, dst } => ([src, dst], ports),
            L4::Icmp { id, kind, code } => ([id, u16::from_be_bytes([kind, code])], icmp),
            L4::Nothing => ([0; 2], Has::empty()),
        };
        Some((Half { src: src.octets(), dst: dst.octets(), l4 }, has))
    }

    fn unpack(self, proto: u8, ports: bool, icmp: bool) -> Tuple {
        let [first, second] = self.l4;
        let [kind, code] = second.to_be_bytes();
        let l4 = match (ports, icmp) {
            (true, _) => L4::Ports { src: first, dst: second },
            (false, true) => L4::Icmp { id: first, kind, code },
            (false, false) => L4::Nothing,
        };
        let [src, dst] = [self.src, self.dst].map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
        Tuple { src, dst, proto, l4 }
    }
}

/// The common entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Narrow {
    orig: Half,
    reply: Half,
    timeout: u32,
    mark: u32,
    status: u16,
    zone: u16,
    proto: u8,
    has: Has,
    tcp: [u8; 5],
}

impl Narrow {
    fn pack(entry: &Entry) -> Option<Narrow> {
        if entry.rare.is_some() || entry.master.is_some() || entry.orig.proto != entry.reply.proto {
            return None;
        }
        let (orig, orig_has) = Half::pack(&entry.orig, Has::ORIG_PORTS, Has::ORIG_ICMP)?;
        let (reply, reply_has) = Half::pack(&entry.reply, Has::REPLY_PORTS, Has::REPLY_ICMP)?;
        let status = u16::try_from(entry.status.bits()).ok()?;
        let mut has = orig_has | reply_has;
        has.set(Has::TIMEOUT, entry.timeout.is_some());
        has.set(Has::MARK, entry.mark.is_some());
        has.set(Has::TCP, entry.tcp.is_some());
        let tcp = entry.tcp.map_or([0; 5], |tcp| {
            [tcp.state, tcp.wscale_orig, tcp.wscale_reply, tcp.flags_orig, tcp.flags_reply]
        });
        Some(Narrow {
            orig,
            reply,
            timeout: entry.timeout.unwrap_or(0),
            mark: entry.mark.unwrap_or(0),
            status,
            zone: entry.zone,
            proto: entry.orig.proto,
            has,
            tcp,
        })
    }

    fn orig(&self) -> Tuple {
        let (ports, icmp) = (self.has.contains(Has::ORIG_PORTS), self.has.contains(Has::ORIG_ICMP));
        self.orig.unpack(self.proto, ports, icmp)
    }

    fn timeout(&self) -> Option<u32> {
        self.has.contains(Has::TIMEOUT).then_some(self.timeout)
    }

    fn unpack(&self) -> Entry {
        let (ports, icmp) = (self.has.contains(Has::REPLY_PORTS), self.has.contains(Has::REPLY_ICMP));
        let [state, wscale_orig, wscale_reply, flags_orig, flags_reply] = self.tcp;
        let tcp = TcpInfo { state, wscale_orig, wscale_reply, flags_orig, flags_reply };
        Entry {
            orig: self.orig(),
            reply: self.reply.unpack(self.proto, ports, icmp),
            zone: self.zone,
            status: Status::from_bits_retain(u32::from(self.status)),
            timeout: self.timeout(),
            mark: self.has.contains(Has::MARK).then_some(self.mark),
            tcp: self.has.contains(Has::TCP).then_some(tcp),
            master: None,
            rare: None,
        }
    }
}

/// An entry, kept.
#[derive(Debug)]
pub(crate) struct Compact(Kept);

#[derive(Debug)]
enum Kept {
    Narrow(Narrow),
    Wide(Box<Entry>),
}

impl From<Entry> for Compact {
    fn from(entry: Entry) -> Compact {
        Compact(Narrow::pack(&entry).map_or_else(|| Kept::Wide(Box::new(entry)), Kept::Narrow))
    }
}

impl Compact {
    /// The entry.
    pub(crate) fn get(&self) -> Cow<'_, Entry> {
        match &self.0 {
            Kept::Narrow(narrow) => Cow::Owned(narrow.unpack()),
            Kept::Wide(entry) => Cow::Borrowed(entry),
        }
    }

    /// [`Entry::key`], without the rest.
    pub(crate) fn key(&self) -> Key {
        match &self.0 {
            Kept::Narrow(narrow) => Key { orig: narrow.orig(), zone: narrow.zone, expected: false },
            Kept::Wide(entry) => entry.key(),
        }
    }

    /// Another one in its place. A box that is there is used again: nothing is allocated for events of one
    /// entry.
    pub(crate) fn set(&mut self, entry: Entry) {
        match (Narrow::pack(&entry), &mut self.0) {
            (Some(narrow), kept) => *kept = Kept::Narrow(narrow),
            (None, Kept::Wide(mine)) => **mine = entry,
            (None, kept) => *kept = Kept::Wide(Box::new(entry)),
        }
    }

    /// Change it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Entry)) {
        match &mut self.0 {
            Kept::Narrow(narrow) => {
                let mut entry = narrow.unpack();
                change(&mut entry);
                self.set(entry);
            }
            // Stays what it is, whatever it loses.
            Kept::Wide(entry) => change(entry),
        }
    }

    /// The entry, if it may have more than the common ones: a helper, a master, an expectation's fields.
    pub(crate) fn wide(&self) -> Option<&Entry> {
        match &self.0 {
            Kept::Narrow(_) => None,
            Kept::Wide(entry) => Some(entry),
        }
    }

    /// [`Entry::timeout`].
    pub(crate) fn timeout(&self) -> Option<u32> {
        match &self.0 {
            Kept::Narrow(narrow) => narrow.timeout(),
            Kept::Wide(entry) => entry.timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctsync_ctnetlink::entry::{Rare, proto};

    fn tcp() -> Entry {
        let orig = Tuple {
            src: "10.0.1.100".parse().unwrap(),
            dst: "10.0.0.100".parse().unwrap(),
            proto: proto::TCP,
            l4: L4::Ports { src: 40000, dst: 22 },
        };
        Entry {
            reply: Tuple { dst: "10.0.0.1".parse().unwrap(), ..orig.inverse() },
            orig,
            zone: 7,
            status: Status::SeenReply | Status::Assured | Status::Confirmed | Status::SrcNat,
            timeout: Some(431_999),
            mark: Some(0xdead_beef),
            tcp: Some(TcpInfo {
                state: 3,
                wscale_orig: 7,
                wscale_reply: 8,
                flags_orig: 0x23,
                flags_reply: 3,
            }),
            master: None,
            rare: None,
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let ping = L4::Icmp { id: 0xabcd, kind: 8, code: 0 };
        let pong = L4::Icmp { id: 0xabcd, kind: 0, code: 0 };
        let plain = tcp();
        let of = |orig: L4, reply: L4, proto: u8| Entry {
            orig: Tuple { l4: orig, proto, ..plain.orig },
            reply: Tuple { l4: reply, proto, ..plain.reply },
            tcp: None,
            ..plain.clone()
        };
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        let related = Entry { master: Some(Box::new(plain.orig)), ..plain.clone() };
        let narrow = [
            plain.clone(),
            Entry { timeout: None, mark: None, ..plain.clone() },
            Entry { timeout: Some(0), mark: Some(0), tcp: None, ..plain.clone() },
            Entry { status: Status::empty(), zone: 0, ..plain.clone() },
            of(ping, pong, proto::ICMP),
            of(L4::Nothing, L4::Nothing, 50),
        ];
        let wide = [
            related.clone(),
            Entry { rare: Rare { helper: Some("ftp".into()), ..Rare::default() }.boxed(), ..plain.clone() },
            Entry { orig: Tuple { src: six, dst: six, ..plain.orig }, ..plain.clone() },
            // NAT64 would be one; nothing in the kernel makes it today.
            Entry { reply: Tuple { src: six, dst: six, ..plain.reply }, ..plain.clone() },
            Entry { status: Status::from_bits_retain(1 << 16), ..plain.clone() },
        ];
        for (entry, is_wide) in
            narrow.into_iter().map(|entry| (entry, false)).chain(wide.into_iter().map(|entry| (entry, true)))
        {
            let mut kept = Compact::from(entry.clone());
            assert_eq!(*kept.get(), entry);
            assert_eq!((kept.key(), kept.timeout()), (entry.key(), entry.timeout));
            assert_eq!(kept.wide().is_some(), is_wide, "{entry:?}");
            kept.change(|entry| entry.mark = Some(5));
            assert_eq!(*kept.get(), Entry { mark: Some(5), ..entry.clone() });
            for other in [&plain, &related] {
                kept.set(other.clone());
                assert_eq!(*kept.get(), *other);
                kept.set(entry.clone());
                assert_eq!(*kept.get(), entry);
            }
            kept.change(|kept| *kept = related.clone());
            assert_eq!(*kept.get(), related);
        }
    }

    #[test]
    fn a_common_entry_needs_no_more_than_48_bytes() {
        assert_eq!(size_of::<Compact>(), 48);
    }
}
