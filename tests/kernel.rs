//! The kernel's sockets against this kernel: each test in a network namespace of its own.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

use ctsync::ctnetlink::codec::{self, Answer, Event, Install, KernelTable};
use ctsync::ctnetlink::entry::{Entry, L4, Status, TcpInfo, Tuple, proto};
use ctsync::ctnetlink::nla::Writer;
use ctsync::kernel::socket::{DumpSocket, EventSocket, Read, RequestSocket};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

const HOUR: Install = Install::whole(3600);

/// Run on a thread in a new network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (needs root)");
        // Without this the kernel tells events only of entries made while somebody listens.
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_events", "1").unwrap();
        test();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn tuple(protocol: u8, l4: L4) -> Tuple {
    Tuple { src: [10, 0, 1, 100].into(), dst: [10, 0, 0, 100].into(), proto: protocol, l4 }
}

fn plain(orig: Tuple) -> Entry {
    Entry {
        orig,
        reply: orig.inverse(),
        zone: 0,
        status: Status::Confirmed | Status::SeenReply | Status::Assured,
        timeout: Some(3600),
        mark: None,
        tcp: None,
        master: None,
        rare: None,
    }
}

fn tcp(port: u16) -> Entry {
    let tcp = TcpInfo { state: 3, wscale_orig: 7, wscale_reply: 9, flags_orig: 3, flags_reply: 3 };
    Entry { tcp: Some(tcp), ..plain(tuple(proto::TCP, L4::Ports { src: port, dst: 443 })) }
}

fn translated(mut entry: Entry) -> Entry {
    entry.reply.dst =
        if entry.orig.src.is_ipv4() { [10, 0, 0, 1].into() } else { "fd00::1".parse().unwrap() };
    match &mut entry.reply.l4 {
        L4::Ports { dst, .. } => *dst = dst.wrapping_add(10_000),
        L4::Icmp { id, .. } => *id = id.wrapping_add(10_000),
        L4::Nothing => {}
    }
    entry
}

/// Entries of every kind that this version carries.
fn examples() -> Vec<Entry> {
    let v6 = |protocol, l4| Tuple {
        src: "fd00:0:0:b::100".parse().unwrap(),
        dst: "fd00:0:0:a::100".parse().unwrap(),
        proto: protocol,
        l4,
    };
    let ports = L4::Ports { src: 5000, dst: 53 };
    let ping = |kind| L4::Icmp { id: 77, kind, code: 0 };
    let mut all = vec![
        tcp(4000),
        plain(tuple(proto::UDP, ports)),
        plain(tuple(proto::ICMP, ping(8))),
        plain(v6(proto::UDP, ports)),
        plain(v6(proto::ICMPV6, ping(128))),
        Entry { tcp: tcp(1).tcp, ..plain(v6(proto::TCP, ports)) },
        plain(tuple(50, L4::Nothing)),
        Entry { mark: Some(0xbeef), ..tcp(4100) },
        Entry { zone: 7, ..tcp(4200) },
    ];
    let nat: Vec<Entry> = all[..6]
        .iter()
        .cloned()
        .map(|mut entry| {
            entry.orig.l4 = match entry.orig.l4 {
                L4::Ports { src, dst } => L4::Ports { src: src + 1, dst },
                L4::Icmp { id, kind, code } => L4::Icmp { id: id + 1, kind, code },
                L4::Nothing => L4::Nothing,
            };
            entry.reply = entry.orig.inverse();
            translated(entry)
        })
        .collect();
    all.extend(nat);
    let mut forwarded = tcp(4300);
    forwarded.reply.src = [10, 0, 1, 9].into();
    forwarded.reply.l4 = L4::Ports { src: 8443, dst: 4300 };
    all.push(forwarded);
    all
}

/// Errnos by position; 0 where nothing was answered.
fn request(socket: &mut RequestSocket, fill: impl Fn(&mut Writer, u32, u32), count: u32) -> Vec<i32> {
    let mut errnos = vec![0; count as usize];
    socket
        .execute(
            |writer, first| {
                (0..count).for_each(|at| fill(writer, first.wrapping_add(at), at));
                count
            },
            |at, answer| {
                if let Answer::Refused(errno) = answer {
                    errnos[at as usize] = errno;
                }
            },
        )
        .unwrap();
    errnos
}

fn create(socket: &mut RequestSocket, entries: &[Entry]) -> Vec<i32> {
    let fill = |writer: &mut Writer, sequence, at: u32| {
        codec::emit_create(writer, sequence, &entries[at as usize], HOUR);
    };
    request(socket, fill, entries.len() as u32)
}

fn dump() -> Vec<Entry> {
    let mut socket = DumpSocket::open().unwrap();
    socket.start(KernelTable::Connections, None).unwrap();
    let mut entries = Vec::new();
    while !socket.read(|_, entry| entries.push(entry)).unwrap() {}
    entries
}

fn events(socket: &mut EventSocket) -> (Vec<Event>, bool) {
    let (mut all, mut overrun) = (Vec::new(), false);
    loop {
        match socket.read(|event| all.push(event)).unwrap() {
            Read::Events(_) => {}
            Read::Overrun => overrun = true,
            Read::Empty => return (all, overrun),
        }
    }
}

fn canonical(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    ctsync::engine::wire::packed::emit_canonical(&mut bytes, entry);
    bytes
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn what_is_created_is_dumped_alike() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        let entries = examples();
        assert_eq!(create(&mut socket, &entries), vec![0; entries.len()]);
        let dumped = dump();
        assert_eq!(dumped.len(), entries.len());
        for entry in &entries {
            let found = dumped.iter().find(|found| found.key() == entry.key()).unwrap();
            assert_eq!(canonical(found), canonical(entry), "{entry:?} became {found:?}");
            assert!((3590..=3600).contains(&found.timeout.unwrap()), "the lease");
        }
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn source_nat_is_really_set_up() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        create(&mut socket, &[translated(tcp(4000)), tcp(5000)]);
        for found in dump() {
            // Without NAT attributes, or with a translated reply tuple, the bit is missing and nothing is
            // rewritten.
            assert_eq!(found.status.contains(Status::SrcNat), found.source_nat(), "{found:?}");
        }
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn installed_tcp_is_liberal_on_both_sides() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        create(&mut socket, &[tcp(4000)]);
        let info = dump()[0].tcp.unwrap();
        assert_eq!(info.flags_orig & TcpInfo::BE_LIBERAL, TcpInfo::BE_LIBERAL);
        assert_eq!(info.flags_reply & TcpInfo::BE_LIBERAL, TcpInfo::BE_LIBERAL);
        assert_eq!((info.wscale_orig, info.wscale_reply), (7, 9));
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn failures_answer_by_their_position() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        create(&mut socket, &[tcp(2)]);
        let mut clash = translated(tcp(9));
        clash.orig.l4 = L4::Ports { src: 10, dst: 443 };
        let errnos = create(&mut socket, &[tcp(1), tcp(2), tcp(3), translated(tcp(9)), clash]);
        let exists = Errno::EEXIST as i32;
        // The last one has an original tuple of its own and another connection's translation.
        assert_eq!(errnos, [0, exists, 0, 0, exists]);
        let absent = [tcp(20), tcp(21)];
        let fill = |writer: &mut Writer, sequence, at: u32| {
            codec::emit_destroy(writer, sequence, &absent[at as usize].key());
        };
        assert_eq!(request(&mut socket, fill, 2), [Errno::ENOENT as i32; 2]);
        let renew = |writer: &mut Writer, sequence, at: u32| {
            codec::emit_renew(writer, sequence, &[tcp(1), tcp(20)][at as usize], HOUR);
        };
        assert_eq!(request(&mut socket, renew, 2), [0, Errno::ENOENT as i32]);
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn an_assured_entry_does_not_become_fresh_again() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        create(&mut socket, &[tcp(1)]);
        let fresh = Entry { status: Status::Confirmed, ..tcp(1) };
        let fill = |writer: &mut Writer, sequence, _| codec::emit_update(writer, sequence, &fresh, HOUR);
        assert_eq!(request(&mut socket, fill, 1), [Errno::EBUSY as i32]);
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn updates_change_state_mark_and_timeout() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        create(&mut socket, &[translated(tcp(1))]);
        let mut changed = Entry { mark: Some(5), ..translated(tcp(1)) };
        changed.tcp.as_mut().unwrap().state = 4;
        let how = Install::whole(77);
        let fill = |writer: &mut Writer, sequence, _| codec::emit_update(writer, sequence, &changed, how);
        assert_eq!(request(&mut socket, fill, 1), [0]);
        let found = &dump()[0];
        assert_eq!(canonical(found), canonical(&changed));
        assert!(found.timeout.unwrap() <= 77);
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn a_renewal_changes_lease_and_window_tracking_alone() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        let strict = Install { be_liberal: false, ..Install::whole(50) };
        let fill = |writer: &mut Writer, sequence, _| codec::emit_create(writer, sequence, &tcp(1), strict);
        assert_eq!(request(&mut socket, fill, 1), [0]);
        assert_eq!(dump()[0].tcp.unwrap().flags_orig & TcpInfo::BE_LIBERAL, 0);
        // What the table remembers of the state is old: it must not be written back.
        let mut old = tcp(1);
        old.tcp.as_mut().unwrap().state = 1;
        let fill = |writer: &mut Writer, sequence, _| codec::emit_renew(writer, sequence, &old, HOUR);
        assert_eq!(request(&mut socket, fill, 1), [0]);
        let found = &dump()[0];
        let info = found.tcp.unwrap();
        assert_eq!((info.state, info.wscale_orig), (3, 7));
        assert_eq!(info.flags_orig & info.flags_reply & TcpInfo::BE_LIBERAL, TcpInfo::BE_LIBERAL);
        assert!(found.timeout.unwrap() > 3500);
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn window_tracking_is_switched_on_alone() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        create(&mut socket, &[tcp(1)]);
        let before = dump().remove(0);
        let mut old = tcp(1);
        old.tcp.as_mut().unwrap().state = 1;
        let fill = |writer: &mut Writer, sequence, _| codec::emit_track(writer, sequence, &old);
        assert_eq!(request(&mut socket, fill, 1), [0]);
        let found = dump().remove(0);
        let info = found.tcp.unwrap();
        assert_eq!((info.flags_orig | info.flags_reply) & TcpInfo::BE_LIBERAL, 0);
        assert_eq!(canonical(&found), canonical(&before));
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn our_own_echo_is_not_heard_others_are() {
    in_namespace(|| {
        let (mut ours, mut other) = (RequestSocket::open().unwrap(), RequestSocket::open().unwrap());
        let mut socket = EventSocket::open(ours.port_id(), 1 << 20).unwrap();
        create(&mut ours, &[tcp(1)]);
        create(&mut other, &[tcp(2)]);
        let fill = |writer: &mut Writer, sequence, at: u32| {
            codec::emit_destroy(writer, sequence, &tcp(1 + at as u16).key());
        };
        assert_eq!(request(&mut other, fill, 2), [0, 0]);
        let (all, overrun) = events(&mut socket);
        assert!(!overrun);
        let told: Vec<(&str, L4)> = all
            .iter()
            .map(|event| match event {
                Event::New(entry) => ("new", entry.orig.l4),
                Event::Update(entry) => ("update", entry.orig.l4),
                Event::Destroy(entry) => ("destroy", entry.orig.l4),
            })
            .collect();
        let ports = |src| L4::Ports { src, dst: 443 };
        assert_eq!(told, [("new", ports(2)), ("destroy", ports(1)), ("destroy", ports(2))]);
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn who_does_not_listen_for_new_entries_hears_of_changes_and_ends() {
    in_namespace(|| {
        let mut other = RequestSocket::open().unwrap();
        let mut socket = EventSocket::open(0, 1 << 20).unwrap();
        let mut heard = |number: u16| {
            create(&mut other, &[tcp(number)]);
            let marked = Entry { mark: Some(9), ..tcp(number) };
            let change =
                |writer: &mut Writer, sequence, _| codec::emit_update(writer, sequence, &marked, HOUR);
            assert_eq!(request(&mut other, change, 1), [0]);
            let end = |writer: &mut Writer, sequence, _| codec::emit_destroy(writer, sequence, &marked.key());
            assert_eq!(request(&mut other, end, 1), [0]);
            let words = events(&mut socket).0.into_iter().map(|event| match event {
                Event::New(_) => "new",
                Event::Update(_) => "update",
                Event::Destroy(_) => "destroy",
            });
            let words: Vec<&str> = words.collect();
            socket.subscribe_new(!socket.subscribed_new()).unwrap();
            words
        };
        assert_eq!(heard(1), ["new", "update", "destroy"]);
        assert_eq!(heard(2), ["update", "destroy"]);
        assert_eq!(heard(3), ["new", "update", "destroy"]);
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn a_full_event_buffer_is_noticed() {
    in_namespace(|| {
        let mut other = RequestSocket::open().unwrap();
        let mut socket = EventSocket::open(0, 64 * 1024).unwrap();
        for batch in 0..40u16 {
            let entries: Vec<Entry> = (0..100).map(|number| tcp(1000 + batch * 100 + number)).collect();
            create(&mut other, &entries);
        }
        let (all, overrun) = events(&mut socket);
        assert!(overrun, "4000 events fit into 64 KiB? {} were read", all.len());
        // What the events lost, the dump has.
        assert_eq!(dump().len(), 4000);
        assert!(all.len() < 4000);
    });
}

#[test]
#[ignore = "needs root for a network namespace; `cargo lab test` runs it"]
fn one_entry_is_read_back() {
    in_namespace(|| {
        let mut socket = RequestSocket::open().unwrap();
        create(&mut socket, &[translated(tcp(1))]);
        let mut got = Vec::new();
        socket
            .execute(
                |writer, first| {
                    codec::emit_get(writer, first, &tcp(1).key());
                    codec::emit_get(writer, first.wrapping_add(1), &tcp(2).key());
                    2
                },
                |at, answer| got.push((at, answer)),
            )
            .unwrap();
        assert!(matches!(&got[0], (0, Answer::Found(entry)) if entry.source_nat()), "{got:?}");
        let absent = Errno::ENOENT as i32;
        assert!(matches!(&got[1], (1, Answer::Refused(errno)) if *errno == absent), "{got:?}");
        assert_eq!(got.len(), 2);
    });
}

/// `cargo test --test kernel record -- --ignored --nocapture` prints the fixtures of `tests/codec.rs` anew.
#[test]
#[ignore = "records fixtures, see its comment"]
fn record() {
    in_namespace(|| {
        use std::os::fd::AsRawFd;
        let mut other = RequestSocket::open().unwrap();
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        for group in 1..=3 {
            socket.add_membership(group).unwrap();
        }
        let entries = examples();
        create(&mut other, &entries);
        let fill = |writer: &mut Writer, sequence, at: u32| {
            codec::emit_destroy(writer, sequence, &entries[at as usize].key());
        };
        request(&mut other, fill, entries.len() as u32);
        for _ in 0..2 * entries.len() {
            let mut bytes = vec![0; 4096];
            let length =
                nix::sys::socket::recv(socket.as_raw_fd(), &mut bytes, nix::sys::socket::MsgFlags::empty());
            let hex: String = bytes[..length.unwrap()].iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{hex}");
        }
    });
}
