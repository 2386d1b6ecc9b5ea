//! The router's own addresses and the channel's interface, by rtnetlink.
//!
//! [`News`] is read by the loop itself, before the events of the same moment: what the kernel ends because an
//! address left comes after the word that it left. [`Addresses`] lists what there is. Called by the daemon.
//! Decides nothing. The connection of rtnetlink is the one task that is spawned.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use futures_util::stream::TryStreamExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, State};
use rtnetlink::{Handle, new_connection};
use thiserror::Error;

/// rtnetlink failed, or the interface is not there.
#[derive(Debug, Error)]
pub enum AddressError {
    /// The socket.
    #[error("cannot open a route netlink socket")]
    Open(#[source] std::io::Error),
    /// A request.
    #[error("cannot ask the kernel for {what}")]
    Ask {
        /// For what.
        what: String,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
    /// No such interface.
    #[error("interface {0} does not exist")]
    NoInterface(String),
}

/// What the channel needs of its interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// MTU in bytes.
    pub mtu: usize,
    /// First IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// It is set up, and has a carrier.
    pub works: bool,
}

/// An address of this router.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// The interface that it is on.
    pub interface: String,
    /// That interface's index.
    pub index: u32,
    /// That interface is operationally up.
    pub works: bool,
}

/// What the kernel says of addresses and links when it changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// An address was removed.
    Removed(IpAddr),
    /// An interface was set down, or is gone: its index.
    Down(u32),
    /// Anything else: to be looked at.
    Other,
}

// enum rtnetlink_groups
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// The kernel's word of each change, as it comes.
pub struct News {
    socket: Socket,
    buffer: Vec<u8>,
}

impl News {
    /// Begin to hear.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open() -> Result<News, AddressError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
                socket.add_membership(group)?;
            }
            Ok(News { socket, buffer: vec![0; 32 * 1024] })
        };
        open().map_err(AddressError::Open)
    }

    /// Everything that waits, in its order.
    pub fn read(&mut self) -> Vec<Change> {
        let mut all = Vec::new();
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => parse_news(self.buffer.get(..length).unwrap_or_default(), &mut all),
                Err(Errno::EINTR) => {}
                // What was lost is found by looking at everything.
                Err(Errno::ENOBUFS) => all.push(Change::Other),
                Err(_) => return all,
            }
        }
    }
}

impl AsRawFd for News {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse_news(mut bytes: &[u8], all: &mut Vec<Change>) {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        let length = (message.header.length as usize).next_multiple_of(4);
        if length == 0 {
            return;
        }
        all.push(match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(gone)) => {
                own_address(&gone).map_or(Change::Other, Change::Removed)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                Change::Down(link.header.index)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                if !link.header.flags.contains(LinkFlags::Up) =>
            {
                Change::Down(link.header.index)
            }
            _ => Change::Other,
        });
        bytes = bytes.get(length..).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
    }
    // What cannot be read may be anything.
    all.push(Change::Other);
}

/// On a link between two, the other attribute is the far end's.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let only = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let local = message.attributes.iter().find_map(own);
    local.or_else(|| message.attributes.iter().find_map(only))
}

/// Lists addresses, and the links that they are on.
pub struct Addresses {
    handle: Handle,
}

impl Addresses {
    /// A connection to ask by.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open() -> Result<Addresses, AddressError> {
        let (connection, handle, _) = new_connection().map_err(AddressError::Open)?;
        tokio::spawn(connection);
        Ok(Addresses { handle })
    }

    /// All addresses of this router, virtual ones included.
    pub async fn list(&self) -> Result<Vec<Held>, AddressError> {
        let failed = |source| AddressError::Ask { what: "its interfaces".into(), source };
        let mut links: HashMap<u32, (String, bool)> = HashMap::new();
        let mut answers = self.handle.link().get().execute();
        while let Some(message) = answers.try_next().await.map_err(failed)? {
            let mut name = String::new();
            let mut works = message.header.flags.contains(LinkFlags::Running);
            for attribute in &message.attributes {
                match attribute {
                    LinkAttribute::IfName(found) => name.clone_from(found),
                    // Drivers without a word of their own say "unknown"
                    // (`Documentation/networking/operstates.rst`).
                    LinkAttribute::OperState(state) => works &= matches!(state, State::Up | State::Unknown),
                    _ => {}
                }
            }
            links.insert(message.header.index, (name, works));
        }
        let failed = |source| AddressError::Ask { what: "its addresses".into(), source };
        let mut all = Vec::new();
        let mut answers = self.handle.address().get().execute();
        while let Some(message) = answers.try_next().await.map_err(failed)? {
            let (interface, works) = links.get(&message.header.index).cloned().unwrap_or_default();
            if let Some(address) = own_address(&message) {
                all.push(Held { address, interface, index: message.header.index, works });
            }
        }
        Ok(all)
    }

    /// An interface by name.
    pub async fn interface(&self, name: &str) -> Result<Interface, AddressError> {
        let failed = |source| AddressError::Ask { what: format!("interface {name}"), source };
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = match links.try_next().await {
            Ok(Some(link)) => link,
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => {
                return Err(AddressError::NoInterface(name.to_owned()));
            }
            Err(source) => return Err(failed(source)),
        };
        let index = link.header.index;
        let works = link.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu as usize),
            _ => None,
        });
        let mut address = None;
        let mut answers = self.handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) = answers.try_next().await.map_err(failed)? {
            for attribute in &message.attributes {
                if let AddressAttribute::Address(IpAddr::V4(found)) = attribute {
                    address = address.or(Some(*found));
                }
            }
        }
        Ok(Interface { index, mtu: mtu.unwrap_or(1500), address, works })
    }

    /// The name of an interface by its index, if it is there.
    pub async fn name_of(&self, index: u32) -> Option<String> {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.ok().flatten()?;
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    }
}
