//! The channel's datagrams, each to the group that it is about, and those of all groups in turn.

use std::time::Instant;

use super::Daemon;
use crate::engine::replica::Refused;
use crate::engine::wire;
use crate::io::channel::Received;

/// Datagrams read in a turn; with more waiting the next turn begins at once.
const DATAGRAMS_IN: usize = 64;
/// Datagrams sent in a turn.
const DATAGRAMS_OUT: usize = 64;

impl Daemon {
    pub(super) fn read_channel(&mut self, now: Instant) -> bool {
        for _ in 0..DATAGRAMS_IN {
            if !self.hear_one(now) {
                self.unjudged = 0;
                return true;
            }
        }
        self.more = true;
        // Under a flood the socket is never empty. After as many datagrams as it can hold, everything that
        // waited when it was last empty has been read.
        self.unjudged += DATAGRAMS_IN;
        let all_read = self.unjudged >= self.channel.capacity();
        if all_read {
            self.unjudged = 0;
        }
        all_read
    }

    /// The next datagram that waits, if one does.
    pub(super) fn hear_one(&mut self, now: Instant) -> bool {
        match self.channel.receive(&mut self.buffer) {
            Received::Datagram(length) => {
                let datagram = self.buffer.get(..length).unwrap_or_default();
                // What belongs to no group here is refused, and counted, by the first one.
                let number = wire::peek_group(datagram);
                let at = self.groups.iter().position(|group| number == Some(group.replica.number()));
                if let Some(group) = self.groups.get_mut(at.unwrap_or(0)) {
                    group.replica.handle_datagram(datagram, now);
                }
            }
            Received::Far => {
                if let Some(group) = self.groups.first_mut() {
                    group.replica.refuse_datagram(Refused::Far);
                }
            }
            Received::Nothing => return false,
        }
        true
    }

    pub(super) fn send_datagrams(&mut self, now: Instant) {
        let mut quiet = 0;
        for turn in 0..DATAGRAMS_OUT {
            let at = turn % self.groups.len();
            let Some(group) = self.groups.get_mut(at) else { return };
            let Some(datagram) = self.unsent.take().or_else(|| group.replica.poll_datagram(now)) else {
                quiet += 1;
                if quiet >= self.groups.len() {
                    return;
                }
                continue;
            };
            quiet = 0;
            if let Some(lag) = group.replica.take_lag() {
                self.timings.lag.observe(lag.as_secs_f64());
            }
            if !self.channel.send(&datagram) {
                self.unsent = Some(datagram);
                return;
            }
        }
        self.more = true;
    }
}
