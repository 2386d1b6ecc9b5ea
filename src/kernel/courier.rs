//! Batches of requests, carried to the kernel by a thread of their own.
//!
//! The kernel works a batch off inside the call that sends it. With a whole table to install, whoever waits
//! for each call does nothing else for seconds; who gives batches away puts the next ones together meanwhile,
//! and hears the peer. Called by the daemon when many requests wait; for a few the two threads would cost
//! each other more than they save. Decides nothing.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};

use super::socket::{Batch, Carrier, SocketError};

/// A batch that has been carried out, and whether all of its answers came.
pub type Carried = (Batch, Result<(), SocketError>);

/// Batches come back in the order in which they were given.
pub struct Courier {
    orders: Sender<(Carrier, Batch)>,
    carried: Receiver<Carried>,
    under_way: usize,
}

impl Courier {
    /// Begin to wait for batches.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn spawn() -> io::Result<Courier> {
        let (orders, ordered) = mpsc::channel::<(Carrier, Batch)>();
        let (sender, carried) = mpsc::channel();
        std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
            for (carrier, mut batch) in ordered {
                let result = carrier.carry_out(&mut batch);
                if sender.send((batch, result)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Courier { orders, carried, under_way: 0 })
    }

    /// Batches that have not come back.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Give a batch away.
    ///
    /// # Errors
    /// The thread has ended, which only a panic makes it do.
    pub fn give(&mut self, carrier: &Carrier, batch: Batch) -> Result<(), SocketError> {
        self.orders.send((carrier.clone(), batch)).map_err(|_| ended())?;
        self.under_way += 1;
        Ok(())
    }

    /// The oldest one, if it is back.
    ///
    /// # Errors
    /// As of [`Courier::give`].
    pub fn take(&mut self) -> Result<Option<Carried>, SocketError> {
        match self.carried.try_recv() {
            Ok(carried) => {
                self.under_way -= 1;
                Ok(Some(carried))
            }
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// The oldest one, as soon as it is back.
    ///
    /// # Errors
    /// As of [`Courier::give`].
    pub fn wait(&mut self) -> Result<Carried, SocketError> {
        let carried = self.carried.recv().map_err(|_| ended())?;
        self.under_way -= 1;
        Ok(carried)
    }
}

fn ended() -> SocketError {
    let source = io::Error::other("the thread that carries requests has ended");
    SocketError::Socket { what: "send to", source }
}
