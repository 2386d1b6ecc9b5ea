//! When the kernel made each of its entries (`nf_conntrack_timestamp`), and how much later its peer's kernel
//! made the same one.
//!
//! Called by `packets`. Nobody listens while it happens: a listener more would change what is measured.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ctsync::ctnetlink::codec::{KernelTable, emit_dump};
use ctsync::ctnetlink::nla::{Attributes, Writer, read_u64};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::machine::net::Namespace;

// enum ctattr_type, enum ctattr_tstamp
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TIMESTAMP: u16 = 20;
const CTA_TIMESTAMP_START: u16 = 1;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;

/// Nanoseconds of the machine's clock by original tuple, as the kernel writes it.
pub(super) type Stamps = HashMap<Vec<u8>, u64>;

/// All entries of a namespace.
pub(super) fn read(namespace: &Namespace) -> Result<Stamps> {
    namespace.run(|| {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        let mut request = Writer::default();
        emit_dump(&mut request, 1, KernelTable::Connections, None);
        socket.send_to(request.as_bytes(), &SocketAddr::new(0, 0), 0)?;
        let mut stamps = Stamps::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = socket.recv(&mut &mut buffer[..], 0)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some([a, b, c, d, e, f, ..]) = rest.get(..HEADERS.min(rest.len())) {
                let size = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
                match u16::from_ne_bytes([*e, *f]) {
                    NLMSG_DONE => return Ok(stamps),
                    NLMSG_ERROR => bail!("the kernel refuses to list its table"),
                    _ => note(rest.get(HEADERS..size).context("a message without attributes")?, &mut stamps)?,
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    })
}

fn note(attributes: &[u8], stamps: &mut Stamps) -> Result<()> {
    let (mut key, mut start) = (None, None);
    for attribute in Attributes::new(attributes) {
        match attribute? {
            (CTA_TUPLE_ORIG, value) => key = Some(value.to_vec()),
            (CTA_TIMESTAMP, value) => {
                for inner in Attributes::new(value) {
                    if let (CTA_TIMESTAMP_START, value) = inner? {
                        start = Some(read_u64(value)?);
                    }
                }
            }
            _ => {}
        }
    }
    stamps.extend(key.zip(start));
    Ok(())
}

/// Each entry of the first that the second has, too: how much later, in order. And how many it has not.
pub(super) fn delays(first: &Stamps, second: &Stamps) -> (Vec<Duration>, usize) {
    let found = first.iter().map(|(key, at)| second.get(key).map(|later| later.saturating_sub(*at)));
    let mut delays: Vec<Duration> = found.flatten().map(Duration::from_nanos).collect();
    delays.sort_unstable();
    let missing = first.len() - delays.len();
    (delays, missing)
}
