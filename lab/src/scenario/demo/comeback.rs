//! Router1 returns, is repaired, and is elected again when it is ready.

use std::time::Instant;

use anyhow::{Result, bail};

use super::{BACKOFF, Fault, PATIENCE, Story};
use crate::load::judge;
use crate::machine::wait::{now, until};

impl Story<'_> {
    /// Router1 returns, is repaired, and is elected again by preemption only when it is ready.
    pub(super) async fn come_back(&mut self, before: usize) -> Result<bool> {
        if !self.plot.options.sync {
            return Ok(false);
        }
        self.narrator.chapter("Router1 returns");
        if self.plot.fault == Fault::Channel {
            self.topology.channel_passes(true)?;
        }
        self.mark();
        self.revive().await?;
        let (elected_when_ready, ready_first) = self.watch_election().await?;
        self.wait_for_owner(1).await?;
        self.mark_echoes();
        let alive = self.wait_for_life(BACKOFF).await?;
        let survived = alive == before;
        let text =
            format!("router1 carries again: before {before}, alive after {alive}, dead {}", before - alive);
        self.narrator.verdict(survived, &text);
        self.narrator.fact("alive-after-return", alive);
        let gap = self.lives().iter().map(|life| life.gap).max().unwrap_or_default();
        self.narrator.say(&format!("longest gap of the return {:.2} s", gap.as_secs_f64()));
        self.narrator.fact("return-gap-seconds", gap.as_secs_f64());
        if self.plot.options.gate {
            let text = format!("router1 was ready {ready_first:.2} s before it was elected");
            self.narrator.verdict(elected_when_ready, &text);
        }
        // A cold standby's kernel is not meant to be equal.
        let equal = !self.plot.options.install || self.tables_equal().await?;
        Ok(survived && equal && (elected_when_ready || !self.plot.options.gate))
    }

    async fn revive(&mut self) -> Result<()> {
        match self.plot.fault {
            Fault::Links => {
                self.narrator.typed("lab", "plug both cables of router1 in again");
                self.topology.cables(1, true).await
            }
            Fault::Keepalived => {
                self.narrator.typed("lab", "start keepalived on router1 again");
                self.topology.router_mut(1)?.start_keepalived()
            }
            Fault::Power | Fault::Daemon | Fault::Daemons | Fault::Channel => {
                self.narrator.typed("lab", "boot router1 with an empty kernel");
                self.topology.boot_router(1).await?;
                let router = self.topology.router_mut(1)?;
                router.load_firewall()?;
                router.start_ctsync()?;
                self.wait_for_control(1).await?;
                self.topology.router_mut(1)?.start_keepalived()
            }
        }
    }

    /// Was router1's gate open when it was elected, and how long before?
    async fn watch_election(&self) -> Result<(bool, f64)> {
        let router = self.topology.router(1)?;
        let mut opened: Option<Instant> = None;
        until("router1 is elected again", PATIENCE, async || {
            let status = router.status().await?;
            let backup = status["state"]["role"] != "primary";
            if backup && status["state"]["gate-open"] == true && status["state"]["readiness"] == "ready" {
                opened.get_or_insert_with(now);
            }
            let elected = status["state"]["role"] == "primary";
            Ok(elected.then_some((opened.is_some(), opened.map_or(0.0, |at| at.elapsed().as_secs_f64()))))
        })
        .await
    }

    async fn tables_equal(&mut self) -> Result<bool> {
        let own = self.topology.own_addresses()?;
        let (one, two) = (self.topology.router(1)?, self.topology.router(2)?);
        let result = until("both kernels list the same", PATIENCE, async || {
            let (first, second) = (judge::entries(&one.node, &own)?, judge::entries(&two.node, &own)?);
            if first == second {
                return Ok(Some(first.len()));
            }
            let example = first.symmetric_difference(&second).next().cloned().unwrap_or_default();
            bail!("router1 {} entries, router2 {}; for example {example}", first.len(), second.len())
        })
        .await;
        match result {
            Ok(count) => {
                self.narrator
                    .verdict(true, &format!("conntrack -L of both routers is equal: {count} entries"));
                self.narrator.fact("equal-entries", count);
                Ok(true)
            }
            Err(error) => {
                self.narrator.verdict(false, &format!("{error:#}"));
                Ok(false)
            }
        }
    }
}
