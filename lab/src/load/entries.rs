//! Many entries at once: created in a router's kernel by ctnetlink, as if connections had gone through it.
//!
//! Called by stories that want a large table, or changes in flight. Uses the product's own netlink codec:
//! what is judged afterwards is judged by `judge`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use ctsync::ctnetlink::codec::{Answer, Install, emit_create, emit_destroy, emit_update};
use ctsync::ctnetlink::entry::{Entry, L4, Status, TcpInfo, Tuple, proto};
use ctsync::ctnetlink::nla::Writer;
use ctsync::kernel::socket::{BATCH, RequestSocket};

use crate::machine::net::Namespace;
use crate::machine::wait::now;

/// An established TCP connection number `number` of a LAN host through source NAT; all distinct.
pub(crate) fn connection(number: u32) -> Entry {
    let orig = Tuple {
        src: IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 1, 120)) + number % 100)),
        dst: IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 51, 100, 1)) + number % 250)),
        proto: proto::TCP,
        l4: L4::Ports { src: u16::try_from(10_000 + number / 100 % 50_000).unwrap_or(0), dst: 443 },
    };
    let mut reply = orig.inverse();
    reply.dst = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    reply.l4 = L4::Ports {
        src: 443,
        // Distinct per destination: the reply tuple must be unique too.
        dst: u16::try_from(1024 + (number / 250) % 60_000).unwrap_or(0),
    };
    Entry {
        orig,
        reply,
        zone: 0,
        status: Status::SeenReply | Status::Assured | Status::Confirmed,
        timeout: Some(432_000),
        mark: None,
        tcp: Some(TcpInfo { state: 3, wscale_orig: 7, wscale_reply: 7, flags_orig: 3, flags_reply: 3 }),
        master: None,
        rare: None,
    }
}

/// Create connections `from..from + count` in a namespace; how many the kernel took.
pub(crate) fn create(namespace: &Namespace, from: u32, count: u32) -> Result<u32> {
    create_paced(namespace, from, count, None)
}

/// The same, so many a second.
pub(crate) fn create_paced(namespace: &Namespace, from: u32, count: u32, rate: Option<u32>) -> Result<u32> {
    let portion = rate.map_or(BATCH, |rate| (rate / 1000).clamp(1, BATCH));
    request(namespace, (from, 1), count, (portion, rate), emit_whole)
}

/// The same, each by a request of its own.
pub(crate) fn create_one_by_one(namespace: &Namespace, from: u32, count: u32) -> Result<u32> {
    request(namespace, (from, 1), count, (1, None), emit_whole)
}

fn emit_whole(writer: &mut Writer, sequence: u32, entry: &Entry) {
    emit_create(writer, sequence, entry, Install { be_liberal: false, ..Install::whole(432_000) });
}

/// Change the connections `from..from + count`, each once: their mark; how many were there.
pub(crate) fn change(namespace: &Namespace, from: u32, count: u32, mark: u32) -> Result<u32> {
    change_spread(namespace, (from, 1), count, mark)
}

/// Change so many connections, from a first one on in steps.
pub(crate) fn change_spread(
    namespace: &Namespace,
    numbers: (u32, u32),
    count: u32,
    mark: u32,
) -> Result<u32> {
    request(namespace, numbers, count, (BATCH, None), |writer, sequence, entry| {
        let how = Install { be_liberal: false, ..Install::whole(432_000) };
        emit_update(writer, sequence, &Entry { mark: Some(mark), ..entry.clone() }, how);
    })
}

/// End those of the connections `from..from + count` that are there; how many were.
pub(crate) fn end(namespace: &Namespace, from: u32, count: u32) -> Result<u32> {
    request(namespace, (from, 1), count, (BATCH, None), |writer, sequence, entry| {
        emit_destroy(writer, sequence, &entry.key());
    })
}

/// Requests for `count` connections, from a first one on in steps; in portions, so many a second if there is
/// a rate.
fn request(
    namespace: &Namespace,
    (from, step): (u32, u32),
    count: u32,
    (portion, rate): (u32, Option<u32>),
    emit: impl Fn(&mut Writer, u32, &Entry) + Sync,
) -> Result<u32> {
    namespace.run(|| {
        let mut socket = RequestSocket::open()?;
        let mut refused = 0;
        let mut done = 0;
        let began = now();
        while done < count {
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(f64::from(done) / f64::from(rate));
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            let batch = (count - done).min(portion);
            socket.execute(
                |writer, first| {
                    for at in 0..batch {
                        emit(writer, first.wrapping_add(at), &connection(from + (done + at) * step));
                    }
                    batch
                },
                |_, answer| {
                    refused += u32::from(matches!(answer, Answer::Refused(_)));
                },
            )?;
            done += batch;
        }
        Ok(count - refused)
    })
}
