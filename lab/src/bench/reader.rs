//! The least that hearing every event costs: a reader that throws them away.
//!
//! Called by the benchmark in a daemon's place. One is woken for each event, as a daemon that waits for its
//! socket is; the other one takes what has come and naps, as nothing that must answer at once may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd};

use crate::machine::net::Namespace;

/// Bytes of the socket's buffer: nothing is lost.
const BUFFER: usize = 256 << 20;
/// Datagrams taken at once.
const AT_ONCE: usize = 512;
const NAP: Duration = Duration::from_millis(1);
/// How long it may sleep before it looks whether it should end.
const LOOK: u16 = 50;
/// enum nfnetlink_groups: new, update, destroy.
const GROUPS: [u32; 3] = [1, 2, 3];

/// A thread in a router's namespace.
pub(super) struct Reader {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
    spent: Arc<AtomicU64>,
}

impl Reader {
    /// Begin to hear.
    pub(super) fn start(namespace: &Namespace, napping: bool) -> Result<Reader> {
        let (stop, heard, spent): (Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let (namespace, ended, count, time) = (namespace.clone(), stop.clone(), heard.clone(), spent.clone());
        let thread = std::thread::spawn(move || {
            namespace.enter()?;
            hear(napping, &ended, &count, &time)
        });
        Ok(Reader { stop, heard, thread: Some(thread), spent })
    }

    /// Events heard so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    /// Processor time so far, as of the last read.
    pub(super) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Acquire))
    }

    /// End it.
    pub(super) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("it was ended before")?;
        thread.join().map_err(|_| anyhow!("the null reader panicked"))?
    }
}

fn hear(napping: bool, stop: &AtomicBool, heard: &AtomicU64, spent: &AtomicU64) -> Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("a null reader needs SO_RCVBUFFORCE")?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    let mut buffers = vec![[0u8; 2048]; AT_ONCE];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(AT_ONCE, None);
    while !stop.load(Ordering::Acquire) {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let read = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None);
        let count = match read {
            Ok(all) => all.count(),
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => return Err(errno).context("the null reader"),
        };
        heard.fetch_add(count as u64, Ordering::AcqRel);
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        spent.store(u64::try_from(Duration::from(time).as_nanos())?, Ordering::Release);
        if count == 0 {
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK))?;
        } else if napping && count < AT_ONCE {
            std::thread::sleep(NAP);
        }
    }
    Ok(())
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}
