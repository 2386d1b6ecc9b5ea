//! keepalived: its configuration as `docs/operation.md` describes it, and its start.

use anyhow::Result;

use super::Router;
use crate::routers::documented::Instance;
use crate::routers::incumbent;

impl Router {
    /// keepalived's configuration, as `docs/operation.md` describes it.
    pub(crate) fn keepalived(&self) -> String {
        let vrrp = self.options.vrrp;
        let instances = self.instances();
        let mut text = format!("global_defs {{\n  vrrp_version {}\n", vrrp.version);
        if self.tells_role() {
            text += "  vrrp_notify_fifo /run/ctsync/vrrp.fifo\n";
            if vrrp.tells_on_reload {
                text += "  fifo_write_vrrp_states_on_reload\n";
            }
        }
        text += "}\n";
        let trackers = if vrrp.grouped { self.told.sync_groups.len().max(1) } else { 1 };
        let tracker = |number: usize| match self.told.sync_groups.get(number) {
            Some(group) if number > 0 => format!("ctsync_{}", group.name),
            _ => "ctsync".to_owned(),
        };
        for number in 0..if self.gated() { trackers } else { 0 } {
            let file = tracker(number).replace("ctsync", "vrrp").replace('_', "-");
            text += &format!(
                "track_file {} {{\n  file /run/ctsync/{file}.track\n  weight 1\n}}\n",
                tracker(number)
            );
        }
        let notify = if self.options.incumbent {
            let script = incumbent::script(&self.node);
            [("master", "primary"), ("backup", "backup"), ("fault", "fault")]
                .map(|(event, role)| format!("  notify_{event} \"{script} {role}\"\n"))
                .concat()
        } else {
            String::new()
        };
        for (number, group) in self.told.sync_groups.iter().enumerate().filter(|_| vrrp.grouped) {
            let mut members = group.members.clone();
            if vrrp.native6 {
                members.extend(group.members.iter().map(|member| format!("{member}6")));
            }
            text += &format!("vrrp_sync_group {} {{\n  group {{ {} }}\n", group.name, members.join(" "));
            if self.gated() {
                // Without this keepalived ignores the weight and goes to FAULT when the value drops.
                text += &format!(
                    "  sync_group_tracking_weight\n  track_file {{ {} weight 1 }}\n",
                    tracker(number)
                );
            }
            text += &format!("{notify}}}\n");
        }
        let alone = match (vrrp.grouped, self.gated()) {
            (true, _) => String::new(),
            (false, true) => format!("  track_file {{ ctsync weight 1 }}\n{notify}"),
            (false, false) => notify,
        };
        for instance in &instances {
            text += &self.instance(instance, &alone);
        }
        text
    }

    /// As the documented file has them, or rearranged.
    fn instances(&self) -> Vec<Instance> {
        let vrrp = self.options.vrrp;
        let mut all = self.told.instances.clone();
        if vrrp.native6 {
            let six: Vec<Instance> = all
                .iter_mut()
                .map(|instance| Instance {
                    name: format!("{}6", instance.name),
                    // RFC 9568, 5.2.9: the first address is link-local.
                    addresses: std::iter::once(format!("fe80::{}/64", instance.vrid))
                        .chain(std::mem::take(&mut instance.excluded))
                        .collect(),
                    vrid: instance.vrid + 100,
                    ..instance.clone()
                })
                .collect();
            all.extend(six);
        }
        if !vrrp.grouped {
            let mut rest = all.split_off(1);
            if let Some(first) = all.first_mut() {
                for instance in &mut rest {
                    let addresses = instance.addresses.drain(..).chain(instance.excluded.drain(..));
                    first
                        .excluded
                        .extend(addresses.map(|address| format!("{address} dev {}", instance.interface)));
                }
            }
        }
        all
    }

    fn instance(&self, instance: &Instance, alone: &str) -> String {
        let vrrp = self.options.vrrp;
        let list = |addresses: &[String]| -> String {
            addresses
                .iter()
                .map(|address| {
                    let at = if address.contains(" dev ") {
                        String::new()
                    } else {
                        format!(" dev {}", instance.interface)
                    };
                    format!("    {address}{at}\n")
                })
                .collect()
        };
        let mut text = format!(
            "vrrp_instance {} {{\n  state BACKUP\n  interface {}\n  virtual_router_id {}\n  priority {}\n  \
             advert_int {}\n",
            instance.name, instance.interface, instance.vrid, instance.priority, self.options.advert,
        );
        if !vrrp.preempt {
            text += "  nopreempt\n";
        }
        if vrrp.unicast {
            let v6 = instance.addresses.iter().any(|address| address.contains(':'));
            let own =
                self.told.addresses.iter().find(|(interface, address)| {
                    *interface == instance.interface && address.contains(':') == v6
                });
            let own = own.and_then(|(_, address)| address.split('/').next()).unwrap_or_default();
            // The routers are .10 and .11 of every network.
            let peer = match own.strip_suffix('0') {
                Some(start) => format!("{start}1"),
                None => own.strip_suffix('1').map(|start| format!("{start}0")).unwrap_or_default(),
            };
            text += &format!("  unicast_src_ip {own}\n  unicast_peer {{\n    {peer}\n  }}\n");
        }
        text += alone;
        text += &format!("  virtual_ipaddress {{\n{}  }}\n", list(&instance.addresses));
        if !instance.excluded.is_empty() {
            text += &format!("  virtual_ipaddress_excluded {{\n{}  }}\n", list(&instance.excluded));
        }
        text + "}\n"
    }

    /// keepalived tells the daemon; else the daemon looks at the addresses, or is told by hand.
    fn tells_role(&self) -> bool {
        let mut lines = self.options.lines.iter().filter(|line| line.starts_with("failover-mechanism"));
        self.options.sync && lines.all(|line| line.starts_with("failover-mechanism vrrp"))
    }

    fn gated(&self) -> bool {
        self.tells_role() && self.options.gate
    }

    /// Start keepalived; ctsync must have made its files.
    pub(crate) fn start_keepalived(&mut self) -> Result<()> {
        self.write_keepalived()?;
        let arguments = [
            "--dont-fork",
            "--log-console",
            "--log-detail",
            "--pid",
            "/run/keepalived.pid",
            "--vrrp_pid",
            "/run/keepalived_vrrp.pid",
        ];
        self.node.start("keepalived", "keepalived", &arguments)
    }

    /// keepalived's configuration file, where it looks by itself.
    pub(crate) fn write_keepalived(&self) -> Result<()> {
        let Some(own) = &self.keepalived_directory else { return Ok(()) };
        Ok(std::fs::write(own.join("keepalived.conf"), self.keepalived())?)
    }
}
