//! Namespaces, cables and addresses, built by rtnetlink. Everything is gone when the last descriptor closes.
//!
//! Called by `topology`. A namespace is a descriptor and nothing else: no file in `/run`, no process.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// A network namespace, alive while a clone of this is.
#[derive(Clone)]
pub(crate) struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// A new, empty one with loopback up.
    pub(crate) async fn create() -> Result<Namespace> {
        let file = in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("cannot hold a network namespace")
        })?;
        let namespace = Namespace { file: Arc::new(file) };
        let links = Links::open(&namespace)?;
        links.up("lo").await?;
        Ok(namespace)
    }

    /// A path by which any process of the lab can open it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// The descriptor's number in this process.
    pub(crate) fn descriptor(&self) -> u32 {
        self.file.as_raw_fd().unsigned_abs()
    }

    /// What `/proc/PID/ns/net` of a process inside shows.
    pub(crate) fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Run a closure on a thread inside.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            inside()
        })
    }

    /// A descriptor for a thread that will live inside.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")
    }

    /// Write a sysctl of this namespace: `net/ipv4/ip_forward`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| {
            let path = format!("/proc/sys/{name}");
            std::fs::write(&path, value).with_context(|| format!("cannot set {path} to {value}"))
        })
    }

    /// Read a sysctl of this namespace.
    pub(crate) fn read_sysctl(&self, name: &str) -> Result<String> {
        self.run(|| {
            let path = format!("/proc/sys/{name}");
            let value = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            Ok(value.trim().to_owned())
        })
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| anyhow!("a namespace thread panicked"))?
}

/// rtnetlink inside one namespace.
pub(crate) struct Links {
    handle: Handle,
}

impl Links {
    /// A connection whose socket lives in the namespace; its task runs on the caller's runtime.
    pub(crate) fn open(namespace: &Namespace) -> Result<Links> {
        let runtime = tokio::runtime::Handle::current();
        let (connection, handle) = namespace.run(|| {
            let _guard = runtime.enter();
            let (connection, handle, _) =
                rtnetlink::new_connection().context("cannot open a route netlink socket")?;
            Ok((connection, handle))
        })?;
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    async fn index(&self, name: &str) -> Result<u32> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.with_context(|| format!("no interface {name}"))?;
        Ok(link.with_context(|| format!("no interface {name}"))?.header.index)
    }

    /// Bring an interface up.
    pub(crate) async fn up(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.with_context(|| format!("cannot bring {name} up"))
    }

    /// Cut an interface: its other end loses the carrier.
    pub(crate) async fn down(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        let message = LinkUnspec::new_with_index(index).down().build();
        self.handle.link().set(message).execute().await.with_context(|| format!("cannot bring {name} down"))
    }

    /// Give an interface another MTU.
    pub(crate) async fn set_mtu(&self, name: &str, bytes: u32) -> Result<()> {
        let index = self.index(name).await?;
        let message = LinkUnspec::new_with_index(index).mtu(bytes).build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .with_context(|| format!("cannot set the MTU of {name}"))
    }

    /// Remove an interface, and with it the other end of its cable.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        self.handle.link().del(index).execute().await.with_context(|| format!("cannot remove {name}"))
    }

    /// A bridge, up.
    pub(crate) async fn add_bridge(&self, name: &str) -> Result<()> {
        let message = LinkBridge::new(name).up().build();
        self.handle.link().add(message).execute().await.with_context(|| format!("cannot add bridge {name}"))
    }

    /// A cable from a port of a bridge here to an interface of another namespace.
    pub(crate) async fn plug(
        &self,
        port: &str,
        bridge: &str,
        into: &Namespace,
        interface: &str,
    ) -> Result<()> {
        let far = format!("{port}~");
        let what = || format!("cannot plug {interface} into {bridge}");
        self.handle.link().add(LinkVeth::new(port, &far).build()).execute().await.with_context(what)?;
        let bridge = self.index(bridge).await?;
        let message = LinkUnspec::new_with_name(port).controller(bridge).up().build();
        self.handle.link().set(message).execute().await.with_context(what)?;
        let message = LinkUnspec::new_with_name(&far).setns_by_fd(into.file.as_raw_fd()).build();
        self.handle.link().set(message).execute().await.with_context(what)?;
        let there = Links::open(into)?;
        let index = there.index(&far).await?;
        let message = LinkUnspec::new_with_index(index).name(interface).up().build();
        there.handle.link().set(message).execute().await.with_context(what)
    }

    /// An address on an interface.
    pub(crate) async fn add_address(&self, name: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let index = self.index(name).await?;
        self.handle
            .address()
            .add(index, address, prefix)
            .execute()
            .await
            .with_context(|| format!("cannot add {address}/{prefix} to {name}"))
    }

    /// A default route.
    pub(crate) async fn add_default_route(&self, gateway: IpAddr) -> Result<()> {
        let what = || format!("cannot route by {gateway}");
        let request = match gateway {
            IpAddr::V4(gateway) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
                self.handle.route().add(route).execute().await
            }
            IpAddr::V6(gateway) => {
                let route = RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(gateway).build();
                self.handle.route().add(route).execute().await
            }
        };
        request.with_context(what)
    }

    /// Route an address by a gateway for packets with this mark, and for no others.
    pub(crate) async fn route_marked(&self, mark: u32, to: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
        let what = || format!("cannot route {to} by its mark");
        let route = || RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32);
        let nowhere = route().kind(RouteType::BlackHole).build();
        self.handle.route().add(nowhere).execute().await.with_context(what)?;
        let marked = route().gateway(gateway).table_id(mark).build();
        self.handle.route().add(marked).execute().await.with_context(what)?;
        let rule = self.handle.rule().add().v4().fw_mark(mark).table_id(mark).action(RuleAction::ToTable);
        rule.execute().await.with_context(what)
    }

    /// Whether the namespace has an address.
    pub(crate) async fn has_address(&self, address: IpAddr) -> Result<bool> {
        let mut answers = self.handle.address().get().execute();
        let mut found = false;
        while let Some(message) = answers.try_next().await? {
            found |= message.attributes.contains(&AddressAttribute::Address(address));
        }
        Ok(found)
    }
}
