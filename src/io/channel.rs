//! The UDP socket to the peers: multicast on one interface, or unicast to a list of addresses.
//!
//! Called by the daemon, which follows the interface: deleted and made again, it is another one, and the
//! channel is opened on it anew. Datagrams go in and out whole; what they mean is the replica's. Bound to the
//! interface, so that nothing from elsewhere is heard.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::config::Config;

/// Routers forward nothing that arrives with 255; RFC 5082.
const HOP_LIMIT: u32 = 255;
/// Bytes that the smallest datagram takes of a receive buffer, `struct sk_buff` and its data
/// (`skb->truesize`).
const LEAST_DATAGRAM: usize = 512;

/// The channel cannot be opened.
#[derive(Debug, Error)]
#[error("cannot {what} the channel on interface {interface}")]
pub struct ChannelError {
    what: &'static str,
    interface: String,
    #[source]
    source: io::Error,
}

/// What went over the channel.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Sends that failed.
    pub send_errors: u64,
    /// Receives that failed.
    pub receive_errors: u64,
}

/// What waited on the channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A datagram of so many bytes.
    Datagram(usize),
    /// One that came through a router, or from somebody who does not know the protocol.
    Far,
    /// Nothing, for now.
    Nothing,
}

/// The channel, its socket while it has one, and its counters.
pub struct Channel {
    interface: String,
    /// The multicast group, or each peer.
    targets: Vec<SocketAddr>,
    /// How many of them the datagram under way has gone to: the socket was full then.
    gone: usize,
    multicast: Option<Ipv4Addr>,
    listen: SocketAddr,
    /// Bytes of its socket buffers.
    room: usize,
    open: Option<Open>,
    /// Counters since start.
    pub traffic: Traffic,
}

/// The socket, and what it was opened on: deleted and made again, an interface is another one.
struct Open {
    socket: UdpSocket,
    index: u32,
    address: Option<Ipv4Addr>,
    /// Bytes of its receive buffer, by the kernel's counting.
    buffer: usize,
}

impl Channel {
    /// The channel that the configuration names, not open yet.
    pub fn new(config: &Config) -> Channel {
        let multicast = config.peers.is_empty().then_some(config.mcast_group);
        let group = multicast.map(IpAddr::from);
        let targets = config.peers.iter().copied().chain(group);
        let targets: Vec<SocketAddr> =
            targets.map(|address| SocketAddr::from((address, config.port))).collect();
        let six = targets.iter().any(SocketAddr::is_ipv6);
        let any: IpAddr = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let listen = config.listen_address.filter(|_| multicast.is_none()).unwrap_or(any);
        Channel {
            interface: config.interface.clone(),
            targets,
            gone: 0,
            multicast,
            listen: SocketAddr::from((listen, config.port)),
            room: config.sync_queue,
            open: None,
            traffic: Traffic::default(),
        }
    }

    /// Take the channel up on the interface as it is now. `index` and `address` are the interface's.
    ///
    /// # Errors
    /// What cannot be done; the channel is closed then.
    pub fn open_on(&mut self, index: u32, address: Option<Ipv4Addr>) -> Result<(), ChannelError> {
        // Two sockets on one port would share what comes.
        self.open = None;
        let failed = |what: &'static str| {
            let interface = self.interface.clone();
            move |source: io::Error| ChannelError { what, interface, source }
        };
        let domain = if self.listen.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(failed("open"))?;
        socket.set_nonblocking(true).map_err(failed("set up"))?;
        // A successor starts while its predecessor's socket closes.
        socket.set_reuse_address(true).map_err(failed("set up"))?;
        socket.bind_device(Some(self.interface.as_bytes())).map_err(failed("bind to"))?;
        // Beyond the system's limit where we may, else up to it.
        if setsockopt(&socket, sockopt::RcvBufForce, &self.room).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &self.room);
        }
        if setsockopt(&socket, sockopt::SndBufForce, &self.room).is_err() {
            let _ = setsockopt(&socket, sockopt::SndBuf, &self.room);
        }
        if self.listen.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)
                .map_err(|error| failed("set up")(error.into()))?;
            socket.set_ttl_v4(HOP_LIMIT).map_err(failed("set up"))?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)
                .map_err(|error| failed("set up")(error.into()))?;
            socket.set_unicast_hops_v6(HOP_LIMIT).map_err(failed("set up"))?;
        }
        if let Some(group) = &self.multicast {
            socket
                .join_multicast_v4_n(group, &InterfaceIndexOrAddress::Index(index))
                .map_err(failed("join the multicast group of"))?;
            socket
                .set_multicast_if_v4(&address.unwrap_or(Ipv4Addr::UNSPECIFIED))
                .map_err(failed("choose the interface of"))?;
            socket.set_multicast_ttl_v4(HOP_LIMIT).map_err(failed("set up"))?;
            socket.set_multicast_loop_v4(false).map_err(failed("set up"))?;
        }
        socket.bind(&self.listen.into()).map_err(failed("bind"))?;
        let buffer = socket.recv_buffer_size().map_err(failed("set up"))?;
        let socket = UdpSocket::from_std(socket.into()).map_err(failed("register"))?;
        self.open = Some(Open { socket, index, address, buffer });
        Ok(())
    }

    /// The interface is gone: nothing comes and nothing goes.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// The index of the interface that it is open on.
    pub fn index(&self) -> Option<u32> {
        self.open.as_ref().map(|open| open.index)
    }

    /// Whether it is open on this interface as it is now. Multicast leaves by the address that the interface
    /// had.
    pub fn is_on(&self, index: u32, address: Option<Ipv4Addr>) -> bool {
        let same = |open: &Open| open.index == index && (self.multicast.is_none() || open.address == address);
        self.open.as_ref().is_some_and(same)
    }

    /// Where peers are expected.
    pub fn place(&self) -> String {
        let kind = if self.multicast.is_some() { "multicast" } else { "unicast" };
        let targets: Vec<String> = self.targets.iter().map(|target| target.ip().to_string()).collect();
        format!("{}, {kind} {}, UDP port {}", self.interface, targets.join(", "), self.listen.port())
    }

    /// Wait until something can be read.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.open {
            Some(open) => open.socket.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Wait until something can be sent.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.open {
            Some(open) => open.socket.writable().await,
            None => std::future::pending().await,
        }
    }

    /// The next datagram that waits.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let Some(open) = &self.open else { return Received::Nothing };
        // The kernel is asked, not the runtime: that knows only what was there when the loop last slept.
        match receive_with_hop_limit(open.socket.as_raw_fd(), buffer) {
            Ok((length, hop_limit)) => {
                self.traffic.received += 1;
                self.traffic.bytes_received += length as u64;
                if hop_limit == Some(HOP_LIMIT) { Received::Datagram(length) } else { Received::Far }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The runtime is told, so that it waits for the next one.
                let _ = open.socket.try_io(Interest::READABLE, || io::Result::<()>::Err(error));
                Received::Nothing
            }
            Err(_) => {
                // ICMP errors from a peer that is not there yet land here.
                self.traffic.receive_errors += 1;
                Received::Nothing
            }
        }
    }

    /// Datagrams that can wait here at once, at most.
    pub fn capacity(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.buffer / LEAST_DATAGRAM)
    }

    /// Send a datagram, to each peer. False: the socket is full, try again with the same one when it is
    /// writable. Other errors are counted and count as loss, which the stream repairs.
    pub fn send(&mut self, datagram: &[u8]) -> bool {
        while let Some(target) = self.targets.get(self.gone) {
            let sent = match &self.open {
                Some(open) => open.socket.try_send_to(datagram, *target),
                None => Err(io::ErrorKind::NotConnected.into()),
            };
            match sent {
                Ok(length) => {
                    self.traffic.sent += 1;
                    self.traffic.bytes_sent += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => self.traffic.send_errors += 1,
            }
            self.gone += 1;
        }
        self.gone = 0;
        true
    }

    /// Whether datagrams go to a multicast group.
    pub fn is_multicast(&self) -> bool {
        self.multicast.is_some()
    }
}

/// One datagram's length, and the hop limit that it arrived with.
fn receive_with_hop_limit(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
    let mut room = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut room), MsgFlags::MSG_DONTWAIT)?;
    let hop_limit = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(limit) | ControlMessageOwned::Ipv6HopLimit(limit) => {
            u32::try_from(limit).ok()
        }
        _ => None,
    });
    Ok((message.bytes, hop_limit))
}
