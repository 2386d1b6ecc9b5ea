//! Whether this machine has what a configuration names: interfaces, addresses, keepalived's own
//! configuration.
//!
//! [`Machine::look`] is the only part that touches the system. Called by `run` and by
//! `config check --system`.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::mistake::{ConfigError, MachineMistake, Mistake, Refused, nearest};
use super::{Config, Loaded, Mechanism, keepalived};

/// What there is on a machine.
#[derive(Default, Debug)]
pub struct Machine {
    /// Interfaces and their addresses; `None` when they do not matter.
    pub interfaces: Option<BTreeMap<String, Vec<IpAddr>>>,
    /// Programs that run, by name; `None` when it does not matter.
    pub running: Option<Vec<String>>,
    /// keepalived's configuration; `None` when it does not matter.
    pub keepalived: Option<(PathBuf, std::io::Result<String>)>,
    /// heartbeat's resources; `None` when it does not matter or is not there.
    pub haresources: Option<(PathBuf, String)>,
}

impl Machine {
    /// The interfaces of this machine.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn look() -> std::io::Result<Machine> {
        let mut interfaces: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for found in nix::ifaddrs::getifaddrs()? {
            let addresses = interfaces.entry(found.interface_name).or_default();
            let Some(address) = found.address else { continue };
            addresses.extend(address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())));
            addresses.extend(address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())));
        }
        Ok(Machine { interfaces: Some(interfaces), ..Machine::default() })
    }

    /// Also which programs run, and the configuration of keepalived and heartbeat.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn look_closely(keepalived: &Path) -> std::io::Result<Machine> {
        const HARESOURCES: &str = "/etc/ha.d/haresources";
        let names = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            Some(name.trim().to_owned())
        });
        Ok(Machine {
            running: Some(names.collect()),
            keepalived: Some((keepalived.to_owned(), std::fs::read_to_string(keepalived))),
            haresources: std::fs::read_to_string(HARESOURCES).ok().map(|text| (HARESOURCES.into(), text)),
            ..Machine::look()?
        })
    }

    /// Nothing but a configuration of keepalived.
    pub fn with_keepalived(file: &Path) -> Machine {
        let keepalived = Some((file.to_owned(), std::fs::read_to_string(file)));
        Machine { keepalived, ..Machine::default() }
    }

    /// The addresses that a failover moves, as far as the configuration and keepalived's name them.
    pub fn virtual_addresses(&self, config: &Config) -> HashSet<IpAddr> {
        let keepalived = self.keepalived.as_ref().and_then(|(_, text)| text.as_ref().ok());
        let mut all = HashSet::new();
        for (_, mechanism) in config.mechanisms() {
            all.extend(mechanism.addresses());
            if let (Some(subject), Some(text)) = (mechanism.subject(), keepalived) {
                all.extend(keepalived::virtual_addresses(subject, text));
            }
        }
        all
    }

    /// Whether it is an address of this machine.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses().any(|known| known == address)
    }

    /// All addresses of this machine.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.interfaces.iter().flat_map(BTreeMap::values).flatten().copied()
    }
}

/// Check a configuration against a machine; what only does not run yet is a remark.
///
/// # Errors
/// Everything that it names and the machine lacks.
pub fn check_machine(loaded: &Loaded, machine: &Machine) -> Result<Vec<String>, Refused> {
    let mut wrong = check_interfaces(&loaded.config, machine);
    let mut remarks = Vec::new();
    for (at, mechanism) in loaded.config.mechanisms() {
        let found = check_mechanism(mechanism, machine).into_iter();
        wrong.extend(found.map(|(below, mistake)| (format!("{at}{below}"), mistake)));
        let idle = not_running(mechanism, machine).filter(|remark| !remarks.contains(remark));
        remarks.extend(idle);
    }
    if wrong.is_empty() {
        return Ok(remarks);
    }
    let errors = wrong.into_iter().map(|(at, mistake)| loaded.source.wrong(&at, mistake)).collect();
    Err(Refused { errors, remarks })
}

/// Before a boot's services have started, and on a spare machine, that is as it should be.
fn not_running(mechanism: &Mechanism, machine: &Machine) -> Option<String> {
    let (what, programs): (&str, &[&str]) = match mechanism {
        Mechanism::Vrrp { .. } => ("VRRP", &["keepalived"]),
        Mechanism::Cluster { .. } => ("clustering", &["heartbeat", "pacemakerd"]),
        Mechanism::Vip { .. } | Mechanism::Manual { .. } => return None,
    };
    let running = machine.running.as_ref()?;
    let lacks = !running.iter().any(|name| programs.contains(&name.as_str()));
    let programs = programs.join(" or ");
    lacks.then(|| {
        format!("{what} isn't running: no process called {programs}; until it runs nobody tells the role")
    })
}

/// Of what a machine lacks, that which the daemon waits for: the channel's interface and addresses.
///
/// # Errors
/// What it lacks beside that.
pub fn may_come_late(checked: Result<Vec<String>, Refused>) -> Result<Vec<String>, Refused> {
    let Err(Refused { errors, remarks }) = checked else { return Ok(Vec::new()) };
    let late = |error: &ConfigError| {
        let channel = error.option.starts_with("/interface") || error.option.starts_with("interface");
        match &error.mistake {
            Mistake::Machine(MachineMistake::InterfaceMissing { .. }) => channel,
            Mistake::Machine(
                MachineMistake::InterfaceWithoutAddress { .. } | MachineMistake::ListenNotLocal { .. },
            ) => true,
            _ => false,
        }
    };
    let (late, wrong): (Vec<ConfigError>, Vec<ConfigError>) = errors.into_iter().partition(late);
    if wrong.is_empty() {
        Ok(late.iter().map(ConfigError::to_string).collect())
    } else {
        Err(Refused { errors: wrong, remarks })
    }
}

fn check_interfaces(config: &Config, machine: &Machine) -> Vec<(String, MachineMistake)> {
    let Some(interfaces) = &machine.interfaces else { return Vec::new() };
    let mut wrong = Vec::new();
    let at = format!("/interface/{}", config.interface);
    match interfaces.get(&config.interface) {
        None => {
            let nearest = nearest(&config.interface, interfaces.keys().map(String::as_str));
            wrong.push((
                at.clone(),
                MachineMistake::InterfaceMissing { found: config.interface.clone(), nearest },
            ));
        }
        Some(addresses) if config.peers.is_empty() && !addresses.iter().any(IpAddr::is_ipv4) => {
            let interface = config.interface.clone();
            wrong.push((at.clone(), MachineMistake::InterfaceWithoutAddress { interface }));
        }
        Some(_) => {}
    }
    if let Some(listen) = config.listen_address.filter(|listen| !machine.has(*listen)) {
        wrong.push(("/listen-address".into(), MachineMistake::ListenNotLocal { found: listen.to_string() }));
    }
    for peer in config.peers.iter().filter(|peer| machine.has(**peer)) {
        wrong.push((format!("{at}/peer"), MachineMistake::PeerIsSelf { found: peer.to_string() }));
    }
    wrong
}

/// Where below the mechanism's place, and what is missing.
fn check_mechanism(mechanism: &Mechanism, machine: &Machine) -> Vec<(&'static str, MachineMistake)> {
    let mut wrong = Vec::new();
    match mechanism {
        Mechanism::Vrrp { .. } => match &machine.keepalived {
            Some((file, Ok(text))) => wrong.extend(keepalived::check(mechanism, file, text)),
            Some((file, Err(error))) => {
                let source = std::io::Error::new(error.kind(), error.to_string());
                let file = file.clone();
                wrong.push(("/vrrp", MachineMistake::KeepalivedUnreadable { file, source }));
            }
            None => {}
        },
        Mechanism::Cluster { group, .. } => {
            if let Some((file, text)) = &machine.haresources
                && !text
                    .split(|letter: char| letter.is_whitespace() || letter == ':')
                    .any(|word| word == group)
            {
                let mistake =
                    MachineMistake::ClusterGroupMissing { group: group.clone(), file: file.clone() };
                wrong.push(("/cluster/group", mistake));
            }
        }
        Mechanism::Vip { interface: Some(interface), .. } => {
            if let Some(interfaces) = &machine.interfaces
                && !interfaces.contains_key(interface)
            {
                let nearest = nearest(interface, interfaces.keys().map(String::as_str));
                let mistake = MachineMistake::InterfaceMissing { found: interface.clone(), nearest };
                wrong.push(("/vip/interface", mistake));
            }
        }
        Mechanism::Vip { interface: None, .. } | Mechanism::Manual { .. } => {}
    }
    wrong
}
