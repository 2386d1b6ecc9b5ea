//! The netlink sockets to conntrack: events, requests, dumps.
//!
//! Called by the daemon and by `show conntrack table`. Decides nothing: bytes go to
//! [`crate::ctnetlink::codec`], what they mean to the engine. Only a dump is waited for.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recv, recvmmsg, setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use thiserror::Error;

use crate::ctnetlink::codec::{self, Answer, CodecError, DumpState, Event, KernelTable};
use crate::ctnetlink::entry::Entry;
use crate::ctnetlink::nla::Writer;

// enum nfnetlink_groups
const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_UPDATE: u32 = 2;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
const NFNLGRP_CONNTRACK_EXP_NEW: u32 = 4;
const NFNLGRP_CONNTRACK_EXP_DESTROY: u32 = 6;

/// Events read by one call.
const AT_ONCE: usize = 64;
/// The kernel fills at most this much per dump read. An event is one entry, and never longer
/// (`ctnetlink_nlmsg_size`).
const READ_BUFFER: usize = 32 * 1024;
/// Answers wait here while a batch is sent: at most [`BATCH`] of them, 1280 bytes of accounting each.
const ANSWER_BUFFER: usize = 1024 * 1024;
/// Requests per send. Eight already give most of the gain (one mutex guards all inserts); this many keeps the
/// answers of a wholly failing batch within an unprivileged socket's buffer.
pub const BATCH: u32 = 128;

/// A netlink socket does not do what it is for.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A socket call failed.
    #[error("cannot {what} the conntrack netlink socket")]
    Socket {
        /// What was tried: open, bind, join, read, send.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel sent what we cannot read.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError::Socket { what, source }
}

fn open(receive_buffer: usize) -> Result<(Socket, u32), SocketError> {
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
    let address = socket.bind_auto().map_err(failed("bind"))?;
    socket.set_non_blocking(true).map_err(failed("set up"))?;
    set_receive_buffer(&socket, receive_buffer);
    Ok((socket, address.port_number()))
}

/// SO_RCVBUFFORCE where we may (not in a user namespace), else what SO_RCVBUF gives.
fn set_receive_buffer(socket: &Socket, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
}

/// What one read of the event socket gave.
pub enum Read {
    /// So many events, in order.
    Events(usize),
    /// Nothing waits.
    Empty,
    /// The kernel dropped events: the buffer was full (ENOBUFS).
    Overrun,
}

/// Hears new, update and destroy events, of entries and of expectations; not the ones that our own requests
/// cause.
pub struct EventSocket {
    socket: Socket,
    /// Room for [`AT_ONCE`] events, one page of each in use.
    buffer: Vec<u8>,
    headers: MultiHeaders<()>,
    lengths: Vec<usize>,
    unreadable: u64,
    subscribed_new: bool,
}

impl EventSocket {
    /// `requests` is the port id of the request socket, whose echo the kernel drops before queueing it.
    /// `room` is what may wait, in bytes (`event-listen-queue-size`): nothing is reserved, so that there is
    /// no reason to begin with less.
    pub fn open(requests: u32, room: usize) -> Result<EventSocket, SocketError> {
        let (socket, _) = open(room)?;
        let filter = drop_port_id(requests);
        SockRef::from(&socket).attach_filter(&filter).map_err(failed("filter"))?;
        for group in [
            NFNLGRP_CONNTRACK_NEW,
            NFNLGRP_CONNTRACK_UPDATE,
            NFNLGRP_CONNTRACK_DESTROY,
            NFNLGRP_CONNTRACK_EXP_NEW,
            NFNLGRP_CONNTRACK_EXP_DESTROY,
        ] {
            socket.add_membership(group).map_err(failed("join the event groups of"))?;
        }
        Ok(EventSocket {
            socket,
            buffer: vec![0; AT_ONCE * READ_BUFFER],
            headers: MultiHeaders::preallocate(AT_ONCE, None),
            lengths: Vec::with_capacity(AT_ONCE),
            unreadable: 0,
            subscribed_new: true,
        })
    }

    /// Whether events of new entries come; of changes and ends they always do.
    pub fn subscribed_new(&self) -> bool {
        self.subscribed_new
    }

    /// From now on they come, or they do not and cost the kernel nothing. What is queued stays.
    pub fn subscribe_new(&mut self, wanted: bool) -> Result<(), SocketError> {
        let change = if wanted { Socket::add_membership } else { Socket::drop_membership };
        change(&self.socket, NFNLGRP_CONNTRACK_NEW).map_err(failed("choose the event groups of"))?;
        self.subscribed_new = wanted;
        Ok(())
    }

    /// Bytes the kernel may queue for us.
    pub fn buffer_size(&self) -> usize {
        // The kernel doubles what was asked to make room for its bookkeeping, and reports the doubled number.
        self.socket.get_rx_buf_sz().unwrap_or(0) / 2
    }

    /// So many from now on.
    pub fn set_buffer_size(&mut self, bytes: usize) {
        set_receive_buffer(&self.socket, bytes);
    }

    /// Events so far that could not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// What waits, up to 64 datagrams of the kernel: one event each.
    pub fn read(&mut self, mut each: impl FnMut(Event)) -> Result<Read, SocketError> {
        let mut rooms = self.buffer.chunks_exact_mut(READ_BUFFER);
        let mut parts: [_; AT_ONCE] =
            std::array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())]);
        let received =
            recvmmsg(self.socket.as_raw_fd(), &mut self.headers, &mut parts, MsgFlags::MSG_DONTWAIT, None);
        self.lengths.clear();
        match received {
            Ok(all) => self.lengths.extend(all.map(|message| message.bytes)),
            Err(Errno::EAGAIN) => return Ok(Read::Empty),
            // An error behind events that could be read is told by the next call.
            Err(Errno::ENOBUFS) => return Ok(Read::Overrun),
            Err(errno) => return Err(failed("read")(errno.into())),
        }
        for (buffer, length) in self.buffer.chunks_exact(READ_BUFFER).zip(&self.lengths) {
            let bytes = buffer.get(..*length).unwrap_or_default();
            self.unreadable += codec::parse_events(bytes, &mut each)?;
        }
        Ok(Read::Events(self.lengths.len()))
    }
}

impl AsRawFd for EventSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for EventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket filter that drops messages whose `nlmsg_pid` is `port_id`: the event of a request carries the
/// port id of the socket that sent it (`ctnetlink_conntrack_event`).
fn drop_port_id(port_id: u32) -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NLMSG_PID_OFFSET: u32 = 12;
    [
        SockFilter::new(LOAD_WORD, 0, 0, NLMSG_PID_OFFSET),
        // BPF loads big endian, the header is in host order.
        SockFilter::new(JUMP_EQUAL, 0, 1, port_id.to_be()),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// Requests on their way to the kernel, and its answers.
#[derive(Default)]
pub struct Batch {
    requests: Writer,
    /// Number of the first one.
    first: u32,
    count: u32,
    answers: Vec<(u32, Answer)>,
    buffer: Vec<u8>,
}

impl Batch {
    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What the kernel said, and to which of them. A request without an answer was done.
    pub fn take_answers(&mut self) -> impl Iterator<Item = (u32, Answer)> + '_ {
        self.answers.drain(..)
    }
}

/// Carries batches out, in any thread. The kernel works each off inside the send call and queues only the
/// failures and the last request's acknowledgement, so that the answers are there when the call returns.
#[derive(Clone)]
pub struct Carrier(Arc<Socket>);

impl Carrier {
    /// Returns when the kernel has done, or refused, each of the requests.
    ///
    /// # Errors
    /// What the kernel did is not known, or not all of it: the batch could not be sent, or answers were lost.
    pub fn carry_out(&self, batch: &mut Batch) -> Result<(), SocketError> {
        let Batch { requests, first, count, answers, buffer } = batch;
        self.0.send_to(requests.as_bytes(), &SocketAddr::new(0, 0), 0).map_err(failed("send to"))?;
        buffer.resize(READ_BUFFER, 0);
        let mut ended = false;
        while !ended {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    codec::parse_answers(buffer.get(..length).unwrap_or_default(), |sequence, message| {
                        let at = sequence.wrapping_sub(*first);
                        ended |= at == *count;
                        if at < *count {
                            answers.push((at, message));
                        }
                    })?;
                }
                Err(Errno::EINTR) => {}
                // ENOBUFS: answers were lost.
                Err(errno) => return Err(failed("read the answers of")(errno.into())),
            }
        }
        Ok(())
    }
}

/// Sends batches of requests.
pub struct RequestSocket {
    carrier: Carrier,
    port_id: u32,
    sequence: u32,
    batch: Batch,
}

impl RequestSocket {
    /// A socket with a port id of its own.
    pub fn open() -> Result<RequestSocket, SocketError> {
        let (socket, port_id) = open(ANSWER_BUFFER)?;
        socket.set_cap_ack(true).map_err(failed("set up"))?;
        Ok(RequestSocket {
            carrier: Carrier(Arc::new(socket)),
            port_id,
            sequence: 0,
            batch: Batch::default(),
        })
    }

    /// The port id that events caused by this socket carry.
    pub fn port_id(&self) -> u32 {
        self.port_id
    }

    /// What carries this socket's batches out.
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Put a batch together: requests that `fill` writes, numbered from the number it is given; it returns
    /// how many.
    pub fn write(&mut self, batch: &mut Batch, fill: impl FnOnce(&mut Writer, u32) -> u32) {
        // Batches are numbered apart, so that a late answer is not taken for one of the next batch.
        self.sequence = self.sequence.wrapping_add(2 * BATCH).max(1);
        batch.first = self.sequence;
        batch.answers.clear();
        batch.requests.clear();
        batch.count = fill(&mut batch.requests, batch.first);
        codec::emit_barrier(&mut batch.requests, batch.first.wrapping_add(batch.count));
    }

    /// Write a batch and carry it out. Every answer goes to `each` with the position of its request.
    pub fn execute(
        &mut self,
        fill: impl FnOnce(&mut Writer, u32) -> u32,
        mut each: impl FnMut(u32, Answer),
    ) -> Result<u32, SocketError> {
        let mut batch = std::mem::take(&mut self.batch);
        self.write(&mut batch, fill);
        let count = batch.count();
        let carried = if count == 0 { Ok(()) } else { self.carrier.carry_out(&mut batch) };
        batch.take_answers().for_each(|(at, answer)| each(at, answer));
        self.batch = batch;
        carried.map(|()| count)
    }
}

/// Lists one of the kernel's tables, one buffer a read, so that a large table is paced by its reader.
pub struct DumpSocket {
    socket: Socket,
    buffer: Vec<u8>,
    unreadable: u64,
}

impl DumpSocket {
    /// A socket for one dump at a time.
    pub fn open() -> Result<DumpSocket, SocketError> {
        let (socket, _) = open(4 * READ_BUFFER)?;
        socket.set_non_blocking(false).map_err(failed("set up"))?;
        Ok(DumpSocket { socket, buffer: vec![0; READ_BUFFER], unreadable: 0 })
    }

    /// Ask for all of a table, of one family or of both.
    pub fn start(
        &mut self,
        table: KernelTable,
        family: Option<NetfilterProtoFamily>,
    ) -> Result<(), SocketError> {
        let mut writer = Writer::default();
        codec::emit_dump(&mut writer, 1, table, family);
        self.socket.send_to(writer.as_bytes(), &SocketAddr::new(0, 0), 0).map_err(failed("send to"))?;
        Ok(())
    }

    /// Entries so far that could not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// One buffer of entries, each with the kernel's id; waits for it. Whether it was the last one.
    pub fn read(&mut self, each: impl FnMut(u32, Entry)) -> Result<bool, SocketError> {
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed("read")(errno.into())),
            }
        };
        let (state, unreadable) = codec::parse_dump(self.buffer.get(..length).unwrap_or_default(), each)?;
        self.unreadable += unreadable;
        match state {
            DumpState::More => Ok(false),
            DumpState::Done => Ok(true),
            DumpState::Refused(errno) => Err(failed("dump through")(io::Error::from_raw_os_error(errno))),
        }
    }
}
