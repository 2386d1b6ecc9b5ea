//! The router's own addresses and the channel's interface, by rtnetlink.
//!
//! Called by the daemon: at start for the interface, then whenever an address or a link changes. Decides nothing. The
//! connection of rtnetlink is the one task that is spawned.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, State};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
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
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// MTU in bytes.
    pub mtu: usize,
    /// First IPv4 address.
    pub address: Option<Ipv4Addr>,
}

/// An address of this router.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// The interface that it is on.
    pub interface: String,
    /// That interface is operationally up.
    pub works: bool,
}

/// Watches the addresses, and the links that they are on.
pub struct Addresses {
    handle: Handle,
    changes: Box<dyn Stream<Item = ()> + Unpin>,
}

impl Addresses {
    /// Start watching.
    pub fn watch() -> Result<Addresses, AddressError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) = new_multicast_connection(&groups).map_err(AddressError::Open)?;
        tokio::spawn(connection);
        Ok(Addresses { handle, changes: Box::new(messages.map(|_| ())) })
    }

    /// Wait for a change.
    pub async fn changed(&mut self) -> Option<()> {
        self.changes.next().await
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
                    // Drivers without a word of their own say "unknown" (`Documentation/networking/operstates.rst`).
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
            // On a link between two, the other attribute is the far end's.
            let own = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            };
            let only = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            };
            let local = message.attributes.iter().find_map(own);
            if let Some(address) = local.or_else(|| message.attributes.iter().find_map(only)) {
                all.push(Held { address, interface, works });
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
        Ok(Interface { index, mtu: mtu.unwrap_or(1500), address })
    }
}
