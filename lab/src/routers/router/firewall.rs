//! The state policy and NAT, and what they let through.

use anyhow::Result;
use serde_json::Value;

use super::Router;

impl Router {
    /// The state policy and NAT as nftables rules: from here on connections are tracked.
    pub(crate) fn load_firewall(&self) -> Result<()> {
        let rules = format!("{}{}", self.ruleset(), self.options.rules);
        self.node.feed("nft", &["-f", "-"], &rules).map(|_| ())
    }

    /// Ports and ICMP ids are translated at random: a connection whose entry is missed cannot get its old
    /// port back by luck, so that UDP and ping need their entries as much as TCP does.
    fn ruleset(&self) -> String {
        let translations: String = self
            .told
            .source_nat
            .values()
            .map(|rule| {
                let to = if self.options.masquerade {
                    "masquerade".to_owned()
                } else {
                    format!("snat ip to {}", rule.translation)
                };
                format!("    oifname {} ip saddr {} {to} fully-random\n", rule.outbound, rule.source)
            })
            .collect();
        let outbound = self.told.source_nat.values().next().map_or("eth0", |rule| rule.outbound.as_str());
        let policy = |chain: &str| -> String {
            let rules = self.told.state_policy.iter().filter(|(state, _)| {
                chain != "input" || state != "invalid" || self.options.invalid_drop_on_input
            });
            rules.map(|(state, action)| format!("    ct state {state} counter {action}\n")).collect()
        };
        format!(
            "table inet vyos {{\n  counter carried {{ }}\n  \
             chain forward {{\n    type filter hook forward priority 0; policy drop;\n    counter name carried\n\
             {forward}    iifname eth1 oifname {outbound} ct state new counter accept\n  }}\n  \
             chain input {{\n    type filter hook input priority 0; policy accept;\n{input}  }}\n  \
             chain output {{\n    type filter hook output priority 0; policy accept;\n{output}  }}\n  \
             chain postrouting {{\n    type nat hook postrouting priority 100;\n{translations}  }}\n}}\n",
            forward = policy("forward"),
            input = policy("input"),
            output = policy("output").replace("invalid counter drop", "invalid counter accept"),
        )
    }

    /// A hash of the rules as the kernel lists them, counters left out.
    pub(crate) fn ruleset_hash(&self) -> Result<String> {
        use std::hash::{Hash, Hasher};
        let listing = self.node.output("nft", &["--stateless", "list", "ruleset"])?;
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        listing.hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// Packets that went through the forward chain.
    pub(crate) fn carried(&self) -> Result<u64> {
        let listing = self.node.output("nft", &["--json", "list", "counters"])?;
        let value: Value = serde_json::from_str(&listing)?;
        let counters = value["nftables"].as_array().into_iter().flatten();
        let packets = counters.filter_map(|item| item["counter"]["packets"].as_u64()).sum();
        Ok(packets)
    }
}
