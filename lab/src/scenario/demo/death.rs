//! Router1 dies under live traffic: how, who lives, and what the gap is made of.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{ALIVE, BACKOFF, Fault, PATIENCE, Story, UNHEARD};
use crate::load::{entries, judge};
use crate::machine::wait::{now, until};

/// When it died.
struct Cut {
    at: Instant,
    wall: SystemTime,
}

impl Story<'_> {
    /// Router1 dies under live traffic; who lives?
    pub(super) async fn die(&mut self, before: usize) -> Result<bool> {
        let plot = self.plot;
        self.narrator.chapter(&format!("Router1 dies: {}", plot.fault.word()));
        let sync = plot.options.sync;
        if plot.fault == Fault::Channel {
            self.cut_channel().await?;
        }
        let carried = self.topology.router(2)?.carried()?;
        if plot.changes > 0 {
            entries::create(&self.topology.router(1)?.node.net, plot.entries + 1_000_000, plot.changes)?;
        }
        self.mark();
        let cut = Cut { at: now(), wall: SystemTime::now() };
        self.strike().await?;
        self.narrator.say(&format!("{} new entries in the moment before", plot.changes));
        self.topology.wait_elected(2).await?;
        let vip = cut.at.elapsed();
        let fence = if sync { Some(self.wait_for_owner(2).await?["last-fence"].clone()) } else { None };
        // Echoes count from the takeover on.
        self.mark_echoes();
        let alive = self.wait_for_life(if sync { BACKOFF } else { Duration::from_secs(10) }).await?;
        let took_over = self.topology.router(2)?.carried()? - carried;
        self.tell_gap(&cut, vip, fence.as_ref())?;
        let survived = alive == before;
        let text = format!("before {before}, alive after {alive}, dead {}", before - alive);
        self.narrator.verdict(survived, &text);
        self.narrator.say(&format!("router2 carried {took_over} packets; alive means {ALIVE} echoes since"));
        self.narrator.fact("alive", alive);
        self.narrator.fact("router2-carried", took_over);
        if took_over == 0 && plot.fault != Fault::Keepalived {
            bail!("router2 carried no packet");
        }
        if !survived {
            self.narrator.say(&format!("for example {}", self.some_dead()));
        }
        if sync {
            self.topology.router(2)?.tell(self.narrator, &["show", "conntrack-sync", "status"])?;
            if plot.fault == Fault::Channel {
                self.judge_unheard()?;
            }
        }
        Ok(survived)
    }

    /// New connections while nothing reaches the standby: they cannot be saved; the older ones must be.
    async fn cut_channel(&mut self) -> Result<()> {
        self.topology.channel_passes(false)?;
        let began = now();
        let made = entries::create(&self.topology.router(1)?.node.net, 2_000_000, UNHEARD)?;
        until("ten seconds of cut channel", PATIENCE, async || {
            Ok((began.elapsed() >= Duration::from_secs(10)).then_some(()))
        })
        .await?;
        self.narrator.say(&format!("the channel was cut for 10 s; {made} new connections went unheard"));
        Ok(())
    }

    fn judge_unheard(&mut self) -> Result<()> {
        let own = self.topology.own_addresses()?;
        let kept = judge::entries(&self.topology.router(2)?.node, &own)?.len();
        self.narrator
            .say(&format!("router2's kernel holds {kept} entries; the unheard are lost with router1"));
        Ok(())
    }

    async fn strike(&mut self) -> Result<()> {
        let topology = &mut self.topology;
        match self.plot.fault {
            Fault::Links => {
                self.narrator.typed("lab", "cut both cables of router1");
                topology.cables(1, false).await
            }
            Fault::Power | Fault::Channel => {
                self.narrator.typed("lab", "destroy router1's namespace");
                topology.power_off(1).await
            }
            Fault::Keepalived => {
                self.narrator.typed("lab", "kill -9 keepalived and its child on router1");
                topology.router_mut(1)?.node.kill("keepalived")
            }
            Fault::Daemon => {
                self.narrator.typed("lab", "kill -9 ctsync on router1, destroy router1's namespace");
                if self.plot.options.sync {
                    topology.router_mut(1)?.node.kill("ctsync")?;
                }
                topology.power_off(1).await
            }
            Fault::Daemons => {
                self.narrator.typed(
                    "lab",
                    "kill -9 and restart ctsync on router2, kill -9 ctsync on router1, destroy its namespace",
                );
                if self.plot.options.sync {
                    topology.router_mut(2)?.node.kill("ctsync")?;
                    topology.router_mut(2)?.start_ctsync()?;
                    topology.router_mut(1)?.node.kill("ctsync")?;
                }
                topology.power_off(1).await
            }
        }
    }

    /// The longest silence, split into what made it.
    fn tell_gap(&mut self, cut: &Cut, vip: Duration, fence: Option<&Value>) -> Result<()> {
        let gap =
            self.lives().iter().filter(|life| life.alive()).map(|life| life.gap).max().unwrap_or_default();
        self.narrator.fact("gap-seconds", gap.as_secs_f64());
        self.narrator.fact("vip-seconds", vip.as_secs_f64());
        let Some(fence) = fence else {
            self.narrator.say(&format!("longest gap of the living {:.2} s", gap.as_secs_f64()));
            return Ok(());
        };
        let microseconds = fence["microseconds"].as_u64().context("no fence")?;
        let closed: jiff::Timestamp = fence["closed-at"].as_str().context("no time of the fence")?.parse()?;
        let closed = closed.as_duration().as_secs_f64();
        let cut_at = cut.wall.duration_since(UNIX_EPOCH)?.as_secs_f64();
        let fence_seconds = microseconds as f64 / 1e6;
        let detection = (closed - fence_seconds - cut_at).max(0.0);
        let backoff = (gap.as_secs_f64() - detection - fence_seconds).max(0.0);
        self.narrator.say(&format!(
            "longest gap {:.2} s = VRRP detection {detection:.2} s + fence {:.1} ms ({} held, {} pending, {} failed) \
             + TCP's own back-off {backoff:.2} s",
            gap.as_secs_f64(),
            fence_seconds * 1e3,
            fence["held"],
            fence["pending"],
            fence["failed"],
        ));
        self.narrator.fact("detection-seconds", detection);
        self.narrator.fact("fence-milliseconds", fence_seconds * 1e3);
        self.narrator.fact("fence", fence.clone());
        self.narrator.fact("backoff-seconds", backoff);
        Ok(())
    }
}
