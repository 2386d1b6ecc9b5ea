//! A hot backup whose owner is another machine's.
//!
//! On one machine an owner makes its backup's kernel slower: it listens for new entries, and the kernel then
//! builds an event for each one in every network namespace (`netlink_has_listeners`), also for those that the
//! backup installs and does not listen for. Here the owner's engine runs in the bench's own process and is
//! told of entries, so that nobody on this machine listens for new ones. conntrackd's backup listens itself,
//! wherever its owner is, and needs no such row; that it shares the kernel's one mutex and the processor's
//! cache with its owner and with the load is not taken out of its figures.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ctsync::config;
use ctsync::ctnetlink::codec::Event;
use ctsync::ctnetlink::entry::Entry;
use ctsync::engine::replica::Replica;
use ctsync::io::addresses::Addresses;
use ctsync::io::channel::{Channel, Received};

use super::bulk::WHOLE;
use super::events::{MARK, PACED, RATE};
use super::figures::Figures;
use super::work::{OWN, Work};
use crate::bench::engine;
use crate::load::entries;
use crate::machine::net::Namespace;
use crate::machine::wait::{now, until};

/// As a daemon's at this rate (`daemon/pace.rs`); and when there is nothing to tell, where a daemon would
/// sleep.
const NAP: Duration = Duration::from_micros(250);
const REST: Duration = Duration::from_millis(1);
/// Entries at full rate: so many that the backup has to be waited for.
const COUNT: u32 = 200_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the budgets are about.
pub(super) const PACED_ROW: &str = "owner elsewhere, 20k/s: backup, us/event";
pub(super) const WHOLE_ROW: &str = "owner elsewhere, whole table into the kernel, k/s";

#[derive(Clone, Copy)]
enum What {
    Create,
    Update,
    Destroy,
}

/// So many entries, from a first one on, so many a second.
struct Told {
    what: What,
    from: u32,
    count: u32,
    rate: Option<u32>,
}

enum Order {
    Tell(Told),
    /// The root of the digest, once everything is sent.
    Root(Sender<Option<String>>),
}

/// The thread in which it runs.
struct Owner {
    orders: Sender<Order>,
    thread: JoinHandle<Result<()>>,
}

impl Owner {
    fn start(net: &Namespace, file: String, run: u128) -> Owner {
        let (orders, ordered) = channel();
        let net = net.clone();
        let thread = std::thread::spawn(move || {
            net.enter()?;
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(own(
                &PathBuf::from(file),
                run,
                &ordered,
            ))
        });
        Owner { orders, thread }
    }

    fn tell(&self, what: What, from: u32, count: u32, rate: Option<u32>) -> Result<()> {
        self.orders.send(Order::Tell(Told { what, from, count, rate })).context("the owner has ended")
    }

    fn root(&self) -> Result<Option<String>> {
        let (answer, answered) = channel();
        self.orders.send(Order::Root(answer)).context("the owner has ended")?;
        answered.recv().context("the owner has ended")
    }

    fn stop(self) -> Result<()> {
        drop(self.orders);
        self.thread.join().map_err(|_| anyhow!("the owner panicked"))?
    }
}

/// A daemon's loop, without a kernel.
async fn own(file: &std::path::Path, run: u128, ordered: &Receiver<Order>) -> Result<()> {
    let config = config::read(file)?.config;
    let interface = Addresses::open()?.interface(&config.interface).await?;
    let mut channel = Channel::new(&config);
    channel.open_on(interface.index, interface.address)?;
    let mut replica = engine::primary(&config.node, run, now())?;
    let mut buffer = vec![0; 65_536];
    let mut telling: Option<(Told, u32, Instant)> = None;
    loop {
        let at = now();
        while let Received::Datagram(length) = channel.receive(&mut buffer) {
            replica.handle_datagram(buffer.get(..length).unwrap_or_default(), at);
        }
        if let Some((told, done, began)) = &mut telling {
            let due = told.rate.map_or(u128::from(told.count), |rate| {
                began.elapsed().as_micros() * u128::from(rate) / 1_000_000
            });
            let until = u32::try_from(due).unwrap_or(u32::MAX).min(told.count);
            hear(&mut replica, told, *done..until, at);
            *done = until;
            if until == told.count {
                telling = None;
            }
        }
        replica.handle_events_empty();
        replica.handle_timeout(at);
        let mut nap = if telling.is_some() { NAP } else { REST };
        while let Some(datagram) = replica.poll_datagram(at) {
            nap = NAP;
            while !channel.send(&datagram) {
                channel.writable().await?;
            }
        }
        if telling.is_none() {
            match ordered.try_recv() {
                Ok(Order::Tell(told)) => telling = Some((told, 0, at)),
                Ok(Order::Root(answer)) => {
                    let done = replica.owner() && replica.unsent() == 0;
                    let _ = answer.send(done.then(|| replica.view(at).root));
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
        }
        // The runtime has to see that the channel can be read, and a timer of its own would be late.
        tokio::task::yield_now().await;
        std::thread::sleep(nap);
    }
}

fn hear(replica: &mut Replica, told: &Told, numbers: std::ops::Range<u32>, at: Instant) {
    for number in numbers {
        let entry = entries::connection(told.from + number);
        let event = match told.what {
            What::Create => Event::New(entry),
            What::Update => Event::Update(Entry { mark: Some(MARK), ..entry }),
            What::Destroy => Event::Destroy(entry),
        };
        replica.handle_event(event, at);
    }
}

/// All of it: changes at a rate and at full rate, then a whole table.
pub(super) async fn measure(work: &mut Work<'_>, figures: &mut Figures) -> Result<()> {
    let file = work.topology.router(1)?.config_path();
    work.topology.router_mut(1)?.node.kill("ctsync")?;
    let owner = Owner::start(&work.node(1)?.net, file, u128::from(std::process::id()) << 64);
    let result = all(work, &owner, figures).await;
    owner.stop()?;
    result
}

async fn all(work: &mut Work<'_>, owner: &Owner, figures: &mut Figures) -> Result<()> {
    settle(work, owner, 0).await?;
    let everything = PACED + COUNT;
    for (name, what, from, count, rate, entries) in [
        ("20k/s", What::Create, 0, PACED, Some(RATE), PACED),
        ("create", What::Create, PACED, COUNT, None, everything),
        ("update", What::Update, 0, everything, None, everything),
        ("destroy", What::Destroy, 0, everything, None, 0),
    ] {
        let before = work.spent(2)?.all;
        let began = now();
        owner.tell(what, from, count, rate)?;
        settle(work, owner, entries).await?;
        let took = began.elapsed().as_secs_f64();
        let used = work.spent(2)?.all.saturating_sub(before);
        let mut note = |row: &str, value: f64| {
            figures.note(work.subject, format!("owner elsewhere, {name}: {row}"), value);
        };
        note("backup, us/event", used.as_secs_f64() * 1e6 / f64::from(count));
        note("settled after, s", took);
    }
    owner.tell(What::Create, 0, WHOLE, None)?;
    let second = work.topology.router_mut(2)?;
    second.node.kill("ctsync")?;
    second.node.output("conntrack", &["-F"])?;
    until("the owner has been told of everything", PATIENCE, async || owner.root()).await?;
    let began = now();
    work.topology.router_mut(2)?.start_ctsync()?;
    settle(work, owner, WHOLE).await?;
    let rate = f64::from(WHOLE) / began.elapsed().as_secs_f64() / 1e3;
    figures.note(work.subject, WHOLE_ROW, rate);
    Ok(())
}

/// Until table and kernel of the backup hold what the owner was told of.
async fn settle(work: &Work<'_>, owner: &Owner, entries: u32) -> Result<()> {
    let second = work.topology.router(2)?;
    let wanted = u64::from(entries)..u64::from(entries) + OWN;
    until("the backup holds what the owner was told of", PATIENCE, async || {
        let (Some(root), held) = (owner.root()?, work.held(2)?) else { return Ok(None) };
        let status = second.status().await?;
        let state = &status["state"];
        ensure!(state["root"] == root && state["readiness"] == "ready", "{state}, {root}");
        ensure!(wanted.contains(&held), "{held} entries in its kernel");
        ensure!(state["hears-new-entries"] == false, "it listens for new entries");
        Ok(Some(()))
    })
    .await
}
