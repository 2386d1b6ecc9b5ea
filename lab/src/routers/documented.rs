//! What each router is told, as VyOS `set` lines: the few kinds of lines that the lab needs to build a
//! router.
//!
//! Called by `topology`. The files stand in `lab/examples/documented/`; the lab adds nothing to what they say
//! but what VyOS itself adds (paths, and a firewall around the state policy). ctsync reads them by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};

/// A VRRP instance.
#[derive(Clone, Default, Debug)]
pub(crate) struct Instance {
    pub name: String,
    pub interface: String,
    pub vrid: u8,
    pub priority: u8,
    pub addresses: Vec<String>,
    pub excluded: Vec<String>,
}

/// Instances that change their state together.
#[derive(Clone, Default, Debug)]
pub(crate) struct SyncGroup {
    pub name: String,
    pub members: Vec<String>,
}

/// A rule of source NAT.
#[derive(Clone, Default, Debug)]
pub(crate) struct SourceNat {
    pub outbound: String,
    pub source: String,
    pub translation: String,
}

/// A cluster as VyOS 1.2 has it: heartbeat moves the services from the primary node to the secondary one.
#[derive(Clone, Default, Debug)]
pub(crate) struct Cluster {
    pub interfaces: Vec<String>,
    pub mcast_group: String,
    pub secret: String,
    pub group: String,
    pub primary: String,
    pub secondary: String,
    /// Address, prefix length, interface: `10.0.0.1/24/eth0`.
    pub services: Vec<String>,
}

/// Which pair of routers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Figure {
    /// The documentation's.
    Documented,
    /// The documentation's with heartbeat, in VyOS 1.2 only.
    Cluster,
    /// Two groups that share the load: router1 is preferred for BLUE, router2 for GREEN.
    TwoGroups,
}

/// A router as its `set` lines describe it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Description {
    pub name: String,
    /// Interface, address with prefix.
    pub addresses: Vec<(String, String)>,
    pub instances: Vec<Instance>,
    pub sync_groups: Vec<SyncGroup>,
    pub cluster: Cluster,
    /// In the order of their numbers.
    pub source_nat: BTreeMap<u32, SourceNat>,
    pub tcp_loose: bool,
    /// State and action, in the order of the file.
    pub state_policy: Vec<(String, String)>,
    /// The whole file: ctsync finds its own lines in it.
    pub text: String,
}

/// One of a figure's two routers; the documented one may have a third, a spare.
pub(crate) fn router(figure: Figure, number: u8) -> Result<Description> {
    let (directory, text) = match (figure, number) {
        (Figure::Documented, 1) => ("documented", include_str!("../../examples/documented/router1.set")),
        (Figure::Documented, 2) => ("documented", include_str!("../../examples/documented/router2.set")),
        (Figure::Documented, _) => ("three", include_str!("../../examples/three/router3.set")),
        (Figure::Cluster, 1) => {
            ("documented/cluster", include_str!("../../examples/documented/cluster/router1.set"))
        }
        (Figure::Cluster, _) => {
            ("documented/cluster", include_str!("../../examples/documented/cluster/router2.set"))
        }
        (Figure::TwoGroups, 1) => ("two-groups", include_str!("../../examples/two-groups/router1.set")),
        (Figure::TwoGroups, _) => ("two-groups", include_str!("../../examples/two-groups/router2.set")),
    };
    parse(text).with_context(|| format!("lab/examples/{directory}/router{number}.set"))
}

/// Read `set` lines.
pub(crate) fn parse(text: &str) -> Result<Description> {
    let mut router = Description { tcp_loose: true, text: text.to_owned(), ..Description::default() };
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('\'')).collect();
        take(&mut router, &words).with_context(|| format!("line {}: {line}", number + 1))?;
    }
    Ok(router)
}

fn take(router: &mut Description, words: &[&str]) -> Result<()> {
    match words {
        ["set", "system", "host-name", name] => router.name = (*name).to_owned(),
        ["set", "interfaces", "ethernet", interface, "address", address] => {
            router.addresses.push(((*interface).to_owned(), (*address).to_owned()));
        }
        ["set", "high-availability", "vrrp", "group", group, key, value] => {
            let known = router.instances.iter().position(|instance| instance.name == *group);
            let at = known.unwrap_or_else(|| {
                router.instances.push(Instance { name: (*group).to_owned(), ..Instance::default() });
                router.instances.len() - 1
            });
            let instance = router.instances.get_mut(at).context("instance")?;
            match *key {
                "interface" => instance.interface = (*value).to_owned(),
                "vrid" => instance.vrid = value.parse()?,
                "priority" => instance.priority = value.parse()?,
                "virtual-address" => instance.addresses.push((*value).to_owned()),
                "excluded-address" => instance.excluded.push((*value).to_owned()),
                other => bail!("the lab does not know VRRP option {other}"),
            }
        }
        ["set", "high-availability", "vrrp", "sync-group", name, "member", member] => {
            let known = router.sync_groups.iter().position(|group| group.name == *name);
            let at = known.unwrap_or_else(|| {
                router.sync_groups.push(SyncGroup { name: (*name).to_owned(), ..SyncGroup::default() });
                router.sync_groups.len() - 1
            });
            let group = router.sync_groups.get_mut(at).context("sync-group")?;
            group.members.push((*member).to_owned());
        }
        ["set", "cluster", words @ ..] => {
            take_cluster(&mut router.cluster, words)?;
        }
        ["set", "nat", "source", "rule", number, words @ .., value] => {
            let rule = router.source_nat.entry(number.parse()?).or_default();
            let place = match words {
                ["outbound-interface"] => &mut rule.outbound,
                ["source", "address"] => &mut rule.source,
                ["translation", "address"] => &mut rule.translation,
                _ => bail!("the lab does not know this kind of source NAT"),
            };
            *place = (*value).to_owned();
        }
        ["set", "system", "conntrack", "tcp", "loose", value] => router.tcp_loose = *value == "enable",
        ["set", "firewall", "state-policy", state, "action", action] => {
            router.state_policy.push(((*state).to_owned(), (*action).to_owned()));
        }
        ["set", "service", "conntrack-sync", ..] => {}
        _ => bail!("the lab does not know this kind of line"),
    }
    Ok(())
}

fn take_cluster(cluster: &mut Cluster, words: &[&str]) -> Result<()> {
    let value = words.last().copied().unwrap_or_default().to_owned();
    match words {
        ["interface", _] => cluster.interfaces.push(value),
        ["mcast-group", _] => cluster.mcast_group = value,
        ["pre-shared-secret", _] => cluster.secret = value,
        ["group", group, "primary", _] => {
            cluster.group = (*group).to_owned();
            cluster.primary = value;
        }
        ["group", _, "secondary", _] => cluster.secondary = value,
        ["group", _, "service", _] => cluster.services.push(value),
        _ => bail!("the lab does not know this cluster option"),
    }
    Ok(())
}

/// `10.0.0.10/24` taken apart.
pub(crate) fn split_address(text: &str) -> Result<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/').with_context(|| format!("{text} has no prefix length"))?;
    Ok((address.parse()?, prefix.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_routers_are_the_documented_figure() {
        let (one, two) = (router(Figure::Documented, 1).unwrap(), router(Figure::Documented, 2).unwrap());
        assert_eq!((one.name.as_str(), two.name.as_str()), ("router1", "router2"));
        assert_eq!(one.addresses.first().unwrap().1, "10.0.0.10/24");
        assert_eq!(two.addresses.first().unwrap().1, "10.0.0.11/24");
        assert_eq!(one.instances.len(), 2);
        assert!(one.instances.iter().all(|instance| instance.priority == 200));
        assert!(two.instances.iter().all(|instance| instance.priority == 100));
        let ours = |router: &Description| -> Vec<String> {
            router.text.lines().filter(|line| line.contains("conntrack-sync")).map(str::to_owned).collect()
        };
        assert_eq!(ours(&one), ours(&two));
        assert!(!one.tcp_loose);
    }

    #[test]
    fn the_cluster_is_one_and_the_same_on_both() {
        let (one, two) = (router(Figure::Cluster, 1).unwrap(), router(Figure::Cluster, 2).unwrap());
        assert_eq!((one.name.as_str(), two.name.as_str()), ("router1", "router2"));
        assert_eq!(format!("{:?}", one.cluster), format!("{:?}", two.cluster));
        assert_eq!(one.cluster.services, ["10.0.0.1/24/eth0", "10.0.1.1/24/eth1"]);
        assert_eq!((one.cluster.group.as_str(), one.cluster.primary.as_str()), ("GROUP", "router1"));
    }

    #[test]
    fn an_unknown_line_is_refused_with_its_number() {
        let error = format!("{:#}", parse("\nset system reboot now").unwrap_err());
        assert!(error.contains("line 2"), "{error}");
    }
}
