//! Changes at a rate: entries created, moved on and ended in a router's kernel by ctnetlink, as traffic would
//! do it.
//!
//! Called by stories that want a daemon under load. A thread in the router's namespace; ends when told to, or
//! dropped.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use ctsync::ctnetlink::codec::{Install, emit_create, emit_destroy, emit_update};
use ctsync::ctnetlink::nla::Writer;
use ctsync::kernel::socket::{BATCH, RequestSocket};

use crate::load::entries::connection;
use crate::machine::net::Namespace;
use crate::machine::wait::now;

/// Changes are made in portions of this much time.
const TICK: Duration = Duration::from_millis(10);
/// Seconds: nothing ends by its timer while two kernels are compared.
const TIMEOUT: u32 = 432_000;

/// Changes being made.
pub(crate) struct Churn {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Churn {
    /// Change the connections of these numbers, so many times a second; `None`: as fast as the kernel takes
    /// it.
    pub(crate) fn start(namespace: &Namespace, numbers: Range<u32>, rate: Option<u32>) -> Churn {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (namespace, stopped, count) = (namespace.clone(), stop.clone(), made.clone());
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            make_changes(numbers, rate, &stopped, &count)
        });
        Churn { stop, made, thread: Some(thread) }
    }

    /// Changes made so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// End it; how many changes were made.
    pub(crate) fn stop(mut self) -> Result<u64> {
        self.end()?;
        Ok(self.made())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the thread that makes changes panicked"))?
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("changes could not be made: {error:#}");
        }
    }
}

fn make_changes(numbers: Range<u32>, rate: Option<u32>, stop: &AtomicBool, made: &AtomicU64) -> Result<()> {
    let mut socket = RequestSocket::open()?;
    let mut random = fastrand::Rng::with_seed(u64::from(numbers.start));
    let mut there = vec![false; numbers.len()];
    let portion = rate.map_or(BATCH, |rate| rate / 100).max(1);
    while !stop.load(Ordering::Relaxed) {
        let began = now();
        let mut left = portion;
        while left > 0 {
            let batch = left.min(BATCH);
            socket.execute(
                |writer, first| {
                    for at in 0..batch {
                        let number = random.u32(0..u32::try_from(there.len()).unwrap_or(u32::MAX));
                        if let Some(there) = there.get_mut(number as usize) {
                            let mark = random.u32(1..);
                            change(writer, first.wrapping_add(at), numbers.start + number, there, mark);
                        }
                    }
                    batch
                },
                // What the kernel refuses is no change; none is expected.
                |_, _| {},
            )?;
            left -= batch;
            made.fetch_add(u64::from(batch), Ordering::Relaxed);
        }
        if rate.is_some() {
            std::thread::sleep(TICK.saturating_sub(began.elapsed()));
        }
    }
    Ok(())
}

/// Create it if it is not there; else move it on, or end it.
fn change(writer: &mut Writer, sequence: u32, number: u32, there: &mut bool, mark: u32) {
    let mut entry = connection(number);
    let how = Install { be_liberal: false, ..Install::whole(TIMEOUT) };
    if !*there {
        *there = true;
        emit_create(writer, sequence, &entry, how);
    } else if mark.is_multiple_of(3) {
        *there = false;
        emit_destroy(writer, sequence, &entry.key());
    } else {
        entry.mark = Some(mark);
        emit_update(writer, sequence, &entry, how);
    }
}
