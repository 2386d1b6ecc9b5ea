//! What is around the engines and changes under them: addresses and links, the channel's interface, the files
//! that keepalived shares, the control socket, the kernel's settings and rules. It is followed, made again
//! where it can be, and told.
//!
//! Called by the daemon's loop: the word of addresses in each turn, everything else once a second or when
//! that word came. Decides nothing about entries or roles.

use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, interval};

use super::start::{self, kernel_settings};
use super::{Daemon, DaemonError, LOOK_AROUND, failed};
use crate::config::{self, Mechanism};
use crate::engine::replica::Refused;
use crate::engine::verdict::Around;
use crate::io::addresses::{AddressError, Addresses, Change, Held, News};
use crate::io::role::NotifyFifo;
use crate::kernel::watched::watch_news;

/// Between two looks at the addresses that nobody asked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Addresses and links of this machine: as last listed, and when they are to be listed again.
pub(super) struct Followed {
    pub addresses: Addresses,
    pub news: AsyncFd<News>,
    /// They are to be looked at.
    pub due: bool,
    /// As last listed.
    pub held: Vec<Held>,
    /// A change that was not heard of, with a full socket, must not be missed for ever.
    pub look_again: Interval,
}

impl Followed {
    pub(super) async fn open() -> Result<Followed, DaemonError> {
        // The word of changes first: what changes while it is listed is heard.
        let news = watch_news(News::open()?).map_err(failed("register the route socket"))?;
        let addresses = Addresses::open()?;
        let held = addresses.list().await?;
        Ok(Followed { addresses, news, due: false, held, look_again: interval(LOOK_AGAIN) })
    }
}

impl Daemon {
    /// Hear what the kernel says of addresses and links. Before the events that came with it: an address that
    /// leaves ends entries, and the word of its leaving is there first.
    pub(super) fn read_news(&mut self, now: Instant) {
        let news = self.followed.news.get_mut().read();
        let departed: Vec<_> = news
            .iter()
            .flat_map(|change| match change {
                Change::Removed(address) => vec![*address],
                Change::Down(index) => {
                    let on_it = self.followed.held.iter().filter(|held| held.index == *index);
                    on_it.map(|held| held.address).collect()
                }
                Change::Other => Vec::new(),
            })
            .collect();
        if !departed.is_empty() {
            // What is known until the next list must not say that they are here.
            self.followed.held.retain(|held| !news.contains(&Change::Removed(held.address)));
            for group in &mut self.groups {
                group.replica.handle_departed(departed.iter().copied(), now);
            }
        }
        self.followed.due |= !news.is_empty();
    }

    /// Addresses or links changed, or may have. What was known stands while the kernel does not tell.
    pub(super) async fn follow(&mut self) {
        self.followed.due = false;
        match self.followed.addresses.list().await {
            Ok(held) => {
                // On an interface that is set down an address stays, and serves nobody.
                let serving: Vec<_> =
                    held.iter().filter(|held| held.works).map(|held| held.address).collect();
                for group in &mut self.groups {
                    group.replica.handle_returned(&serving);
                    group.look_at_addresses(&held);
                }
                self.followed.held = held;
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!("the addresses are looked at again later: {error:#}");
            }
        }
        self.follow_interface().await;
    }

    /// The channel's interface was deleted and made again, renamed, comes late, has another address or size,
    /// is down.
    async fn follow_interface(&mut self) {
        let name = &self.config.interface;
        let interface = match self.followed.addresses.interface(name).await {
            Ok(interface) => interface,
            Err(error) => {
                let now_called = match self.channel.index() {
                    Some(index) if matches!(error, AddressError::NoInterface(_)) => {
                        self.followed.addresses.name_of(index).await
                    }
                    _ => None,
                };
                let wrong = match now_called {
                    // It carries on under its new name, until the next start.
                    Some(new) => {
                        self.renamed = Some(format!(
                            "interface {name} is called {new} now: the channel goes on until the next restart; \
                             name {new} in the configuration"
                        ));
                        None
                    }
                    None => {
                        self.channel.close();
                        Some(format!("{:#}", anyhow::Error::new(error)))
                    }
                };
                return self.tell_channel(wrong);
            }
        };
        self.renamed = None;
        if !self.channel.is_on(interface.index, interface.address) {
            let again = self.channel.index().is_some() || self.channel_wrong.is_some();
            if let Err(error) = self.channel.open_on(interface.index, interface.address) {
                return self.tell_channel(Some(format!("{:#}", anyhow::Error::new(error))));
            }
            self.unsent = None;
            if again {
                tracing::info!(interface = name, index = interface.index, "the channel is taken up anew");
            }
        }
        let datagram = start::datagram(interface.mtu);
        self.groups.iter_mut().for_each(|group| group.replica.set_datagram(datagram));
        let wrong =
            (!interface.works).then(|| format!("the channel's interface {name} is down, or has no carrier"));
        self.tell_channel(wrong);
    }

    fn tell_channel(&mut self, wrong: Option<String>) {
        if self.channel_wrong == wrong {
            return;
        }
        match &wrong {
            Some(wrong) => tracing::warn!("{wrong}; tried again by itself"),
            None => tracing::info!(interface = self.config.interface, "the channel works again"),
        }
        self.channel_wrong = wrong;
    }

    /// Once a second: what nobody tells of.
    pub(super) fn look_around(&mut self, now: Instant) {
        if now < self.look_due {
            return;
        }
        self.look_due = now + LOOK_AROUND;
        // An interface that is not there yet, or could not be opened, is tried again.
        self.followed.due |= self.channel_wrong.is_some() || self.channel.index().is_none();
        if let Err(error) = std::fs::create_dir_all(&self.config.state_directory) {
            tracing::debug!(%error, "the state directory cannot be made");
        }
        self.look_at_files();
        let (fill, max) =
            (start::netfilter_sysctl("nf_conntrack_count"), start::netfilter_sysctl("nf_conntrack_max"));
        self.kernel = kernel_settings(self.ruleset.look());
        for group in &mut self.groups {
            group.look_at_mechanism();
            group.look_at_addresses(&self.followed.held);
            group.replica.handle_fill(fill, max);
            group.replica.set_kernel(self.kernel);
        }
    }

    /// Files that somebody else may remove or replace.
    fn look_at_files(&mut self) {
        if let Some(fifo) = &mut self.fifo {
            let looked = fifo.look();
            if let Ok(true) = looked {
                if fifo.is_replaced() {
                    tracing::error!(
                        fifo = %fifo.path().display(),
                        "the notify FIFO was removed or replaced while keepalived held it, and is made again: restart \
                         keepalived, it writes into a file that is gone"
                    );
                    let told = self.groups.iter_mut().filter(|group| group.mechanism.subject().is_some());
                    told.for_each(super::group::Group::note_fifo_replaced);
                } else {
                    tracing::warn!(fifo = %fifo.path().display(), "the notify FIFO was removed and is made again");
                }
            }
            self.fifo_trouble.note(looked.map(|_| ()), "the notify FIFO is there");
        }
        for group in &mut self.groups {
            if group.track.as_mut().is_some_and(|track| !track.look()) {
                tracing::warn!(
                    group = group.name,
                    "the track file was removed or changed and is written again"
                );
            }
        }
        if !self.config.control_socket.exists() {
            let again = self.control.listen_again(&self.config.control_socket);
            if again.is_ok() {
                tracing::warn!(path = %self.config.control_socket.display(), "the control socket is made again");
            }
            self.control_trouble.note(again, "the control socket is there");
        }
    }

    /// What the verdict needs to know of a group beside its engine.
    pub(super) fn around(&self, at: usize) -> Around {
        let Some(group) = self.groups.get(at) else { return Around::default() };
        let fifo = self.fifo.as_ref().filter(|_| matches!(group.mechanism, Mechanism::Vrrp { .. }));
        Around {
            group: group.name.clone(),
            fifo: fifo.map(|fifo| fifo.path().display().to_string()),
            fifo_replaced: fifo.is_some_and(NotifyFifo::is_replaced),
            track_file: group.track_trouble.why().map(str::to_owned),
            channel: self.channel_wrong.clone(),
            hold_failed: self.hold_failed && at == 0,
            channel_at: self.channel.place(),
            refused: self.refused_lately(at),
        }
    }

    /// Why datagrams are refused, where that points to a mistake.
    pub(super) fn refused_lately(&self, at: usize) -> Vec<(Refused, String)> {
        // What belongs to no group is refused by the first one.
        let mut all: Vec<(Refused, String)> = Vec::new();
        for group in [self.groups.get(at), self.groups.first()].into_iter().flatten() {
            for why in group.replica.refused_lately(self.now) {
                if let Some(sentence) = self.complaint(why, group)
                    && !all.iter().any(|(known, _)| *known == why)
                {
                    all.push((why, sentence));
                }
            }
        }
        all
    }

    /// A reason to refuse datagrams that an operator can do something about.
    fn complaint(&self, why: Refused, group: &super::group::Group) -> Option<String> {
        let fingerprints: Vec<String> = self.keys.iter().map(crate::engine::seal::Key::fingerprint).collect();
        let ours = fingerprints.join(", ");
        Some(match why {
            Refused::OtherVersion => {
                "a peer speaks another version of the protocol; its datagrams are refused".to_owned()
            }
            Refused::SameName => format!(
                "another node is named {} too; set `node` to different names on both",
                self.config.node
            ),
            Refused::Unsealed => {
                format!(
                    "a peer has no key, or somebody forges datagrams: they are refused; our key is {ours}"
                )
            }
            Refused::Unreadable => {
                "datagrams are sealed under a key and there is none here: they are refused; set key-file"
                    .to_owned()
            }
            Refused::Forged => format!(
                "datagrams are sealed under a key that is not here: they are refused; compare the key files \
                 (`ctsync status` shows fingerprints; ours: {ours})"
            ),
            Refused::Far => {
                "datagrams come through a router: they are refused; the channel needs a link of its own"
                    .to_owned()
            }
            Refused::Foreign => {
                "datagrams of another node-group, or of a failover group that is not configured \
                                 here, are on the channel: they are refused"
                    .to_owned()
            }
            Refused::OtherGroup => {
                let (name, told) = group.replica.stranger()?;
                format!(
                    "{name} says that its failover group is \"{told}\", here it is \"{}\": its datagrams are refused; \
                     give pairs that share a link different node-groups, or both routers the same group",
                    group.mechanism.identity()
                )
            }
            _ => return None,
        })
    }

    /// What keepalived's own configuration lacks, where it can be read.
    pub(super) fn keepalived_remarks(&self) -> Vec<String> {
        let path = std::path::Path::new(config::KEEPALIVED_CONF);
        let Ok(text) = std::fs::read_to_string(path) else { return Vec::new() };
        let mut all: Vec<String> = Vec::new();
        for group in &self.groups {
            for remark in config::keepalived_remarks(&group.mechanism, path, &text) {
                if !all.contains(&remark) {
                    all.push(remark);
                }
            }
        }
        all
    }
}
