//! Packets and helpers: connections that open, move on and end in the kernels, and what was promised of them.

use ctsync_ctnetlink::entry::{Entry, Expectation, Key, L4, Rare, Status, TcpInfo, Tuple, proto};
use ctsync_engine::replica::Replica;

use crate::kernel::ghost;
use crate::world::{KEYS, World};

impl World {
    /// A connection of key number `number`: half of them translated, onto few ports.
    fn connection(&mut self, number: u16) -> Entry {
        self.connections += 1;
        let orig = Tuple {
            src: [10, 0, 1, 100].into(),
            dst: [10, 0, 0, 100].into(),
            proto: proto::TCP,
            l4: L4::Ports { src: 1000 + number, dst: 80 },
        };
        let mut reply = orig.inverse();
        if number.is_multiple_of(2) {
            reply.dst = [10, 0, 0, 1].into();
            reply.l4 = L4::Ports { src: 80, dst: 5000 + self.rng.u16(0..4 * KEYS) };
        }
        let tcp = TcpInfo { state: 1, wscale_orig: 7, wscale_reply: 0, flags_orig: 3, flags_reply: 0 };
        Entry {
            orig,
            reply,
            zone: 0,
            status: Status::Confirmed,
            timeout: Some(10_000 + self.connections),
            mark: None,
            tcp: Some(tcp),
            master: None,
            rare: Rare { helper: number.is_multiple_of(3).then(|| "ftp".into()), ..Rare::default() }.boxed(),
        }
    }

    /// A connection that the helper of connection `number` foresees.
    fn expectation(&mut self, number: u16, master: &Entry) -> Entry {
        self.connections += 1;
        let port = 7000 + 2 * number + self.rng.u16(0..2);
        let (src, dst) = ([10, 0, 0, 100].into(), [10, 0, 1, 100].into());
        let orig = Tuple { src, dst, proto: proto::TCP, l4: L4::Ports { src: 0, dst: port } };
        let flags = self.rng.u32(0..2);
        let own = Expectation { mask: orig, flags, class: 0, function: None, nat: None };
        let rare = Rare { helper: Some("ftp".into()), expectation: Some(own), ..Rare::default() };
        Entry {
            orig,
            reply: orig.inverse(),
            zone: 0,
            status: Status::Confirmed,
            timeout: Some(10_000 + self.connections),
            mark: None,
            tcp: None,
            master: Some(Box::new(master.orig)),
            rare: rare.boxed(),
        }
    }

    /// A helper foresees a connection, or what it foresaw comes true or is given up.
    fn foresee(&mut self, x: usize, number: u16, master: &Entry) {
        let entry = self.expectation(number, master);
        let (key, id) = (entry.key(), ghost(&entry));
        if let Some(known) = self.nodes[x].kernel.table.get(&key).map(ghost) {
            self.bury(known, key);
            self.nodes[x].kernel.end(&key);
            self.note(|| format!("the expectation {known} of {number} ends on {x}"));
            return;
        }
        let owns = self.nodes[x].replica.as_ref().is_some_and(Replica::owner);
        let elsewhere: Vec<u32> =
            self.nodes.iter().filter_map(|node| node.kernel.table.get(&key)).map(ghost).collect();
        if !owns || !elsewhere.is_empty() {
            self.unprotected.insert(id);
        }
        self.unprotected.extend(elsewhere);
        self.masters.insert(id, (master.key(), ghost(master)));
        if self.nodes[x].kernel.open(entry) {
            self.totals.foreseen += 1;
            self.unprotected.extend(self.shared.get(&key).copied());
            self.note(|| format!("{number} ({}) foresees {id} on {x}", ghost(master)));
        }
    }

    fn bury(&mut self, connection: u32, key: Key) {
        self.dead.insert(connection);
        self.ended.insert(key, self.now);
    }

    fn some_key(&mut self) -> u16 {
        self.rng.u16(0..KEYS)
    }

    pub(super) fn traffic(&mut self, x: usize) {
        let number = self.some_key();
        let entry = self.connection(number);
        let key = entry.key();
        let id = ghost(&entry);
        let owns = self.nodes[x].replica.as_ref().is_some_and(Replica::owner);
        if let Some(known) = self.nodes[x].kernel.table.get(&key).cloned() {
            if number.is_multiple_of(3) && self.rng.bool() {
                self.foresee(x, number, &known);
            } else if self.rng.u32(0..3) == 0 {
                self.totals.ended += 1;
                self.bury(ghost(&known), key);
                for entry in self.nodes[x].kernel.end(&key) {
                    self.bury(ghost(&entry), entry.key());
                }
                self.note(|| format!("end {number} ({}) on {x}", ghost(&known)));
            } else {
                self.nodes[x].kernel.advance(&key, |entry| {
                    let state = entry.tcp.map_or(1, |tcp| (tcp.state % 4) + 1);
                    entry.tcp = entry.tcp.map(|tcp| TcpInfo { state, ..tcp });
                    entry.status |= Status::SeenReply | Status::Assured;
                });
                self.note(|| format!("advance {number} ({}) on {x}", ghost(&known)));
            }
            return;
        }
        // The same key elsewhere: two connections contend, the winner's stands.
        for other in &self.nodes {
            let held = other.kernel.table.get(&key).map(ghost);
            let reply = other.kernel.table.values().filter(|held| held.reply == entry.reply).map(ghost);
            for contended in held.into_iter().chain(reply) {
                self.unprotected.insert(contended);
                self.unprotected.insert(id);
            }
        }
        if !owns {
            self.unprotected.insert(id);
        }
        if self.nodes[x].kernel.open(entry) {
            self.totals.opened += 1;
            // A stray of this tuple elsewhere is this node's affair from now on, however soon this one ends.
            for (_, strays) in self.strays.iter_mut().enumerate().filter(|(y, _)| *y != x) {
                strays.retain(|_, stray| *stray != key);
            }
            if let Some(contended) = self.shared.get(&key) {
                self.unprotected.insert(*contended);
                self.unprotected.insert(id);
            }
            self.note(|| format!("open {number} ({id}) on {x}"));
        }
    }

    /// Something that came to a backup's kernel without anybody's daemon.
    pub(super) fn stray(&mut self, x: usize) {
        let number = self.some_key();
        let entry = self.connection(number);
        let (id, key) = (ghost(&entry), entry.key());
        self.unprotected.insert(id);
        if let Some(contended) = self.shared.get(&entry.key()) {
            self.unprotected.insert(*contended);
        }
        for node in &self.nodes {
            for held in node.kernel.table.values() {
                if held.key() == entry.key() || held.reply == entry.reply {
                    self.unprotected.insert(ghost(held));
                }
            }
        }
        if self.nodes[x].kernel.open(entry) {
            self.totals.strays += 1;
            self.strays[x].insert(id, key);
            self.note(|| format!("stray {number} on {x}"));
        }
    }
}
