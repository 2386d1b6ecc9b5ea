//! Dumps for the daemon's loop, read by a thread of their own.
//!
//! The kernel walks its whole hash inside the calls that ask for a dump and read it: with few entries among
//! many buckets such a call lasts for a fifth of a second (4 million of them). A loop that waited for it
//! would answer nobody; one that asks the kernel for something itself still waits for the first part, which
//! is read under the same mutex (`nfnetlink_rcv_msg`). Called by the daemon. Decides nothing.

use std::io;

use tokio::sync::mpsc::{self, error::TryRecvError};

use super::socket::{DumpSocket, SocketError};
use crate::ctnetlink::codec::KernelTable;
use crate::ctnetlink::entry::Entry;

/// Parts that may wait for the loop: a large table is paced by its reader.
const PARTS: usize = 4;

/// A piece of a dump.
pub enum Part {
    /// What one read of the kernel gave.
    Entries(Vec<Entry>),
    /// That was all.
    End,
    /// The kernel did not tell all.
    Failed(SocketError),
}

/// One dump at a time: first the connections, then what is expected, so that masters come first.
pub struct Dumper {
    orders: std::sync::mpsc::Sender<()>,
    parts: mpsc::Receiver<(Part, u64)>,
    next: Option<(Part, u64)>,
    unreadable: u64,
}

impl Dumper {
    /// Begin to wait for orders, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn() -> io::Result<Dumper> {
        let (orders, ordered) = std::sync::mpsc::channel::<()>();
        let (sender, parts) = mpsc::channel(PARTS);
        std::thread::Builder::new().name("dump".to_owned()).spawn(move || {
            for () in ordered {
                let last = dump(&sender).map_or_else(Part::Failed, |()| Part::End);
                if sender.blocking_send((last, 0)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Dumper { orders, parts, next: None, unreadable: 0 })
    }

    /// Read the kernel's tables. The last one has ended.
    ///
    /// # Errors
    /// The thread has ended, which only a panic makes it do.
    pub fn start(&self) -> Result<(), SocketError> {
        self.orders.send(()).map_err(|_| ended())
    }

    /// Until there is a part, or an error. May be dropped and asked again.
    pub async fn ready(&mut self) {
        if self.next.is_none() {
            self.next = self.parts.recv().await;
        }
    }

    /// The next part, if it is there.
    ///
    /// # Errors
    /// The thread has ended, which only a panic makes it do.
    pub fn take(&mut self) -> Result<Option<Part>, SocketError> {
        let next = match self.next.take() {
            Some(next) => Ok(next),
            None => self.parts.try_recv(),
        };
        match next {
            Ok((part, unreadable)) => {
                self.unreadable += unreadable;
                Ok(Some(part))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// Entries so far that could not be read.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }
}

fn ended() -> SocketError {
    SocketError::Socket {
        what: "dump through",
        source: io::Error::other("the thread that reads it has ended"),
    }
}

fn dump(parts: &mpsc::Sender<(Part, u64)>) -> Result<(), SocketError> {
    for table in [KernelTable::Connections, KernelTable::Expectations] {
        let mut socket = DumpSocket::open()?;
        socket.start(table, None)?;
        let mut last = false;
        while !last {
            let (mut entries, before) = (Vec::new(), socket.unreadable());
            last = socket.read(|_, entry| entries.push(entry))?;
            // Nobody listens any more: the daemon ends.
            let _ = parts.blocking_send((Part::Entries(entries), socket.unreadable() - before));
        }
    }
    Ok(())
}
