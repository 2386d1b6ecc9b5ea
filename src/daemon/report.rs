//! What the daemon tells by itself: log lines, `/run`, the track file, clients that wait for something to happen.

use std::time::Instant;

use super::operator::tell_compared;
use super::start::{kernel_settings, netfilter_sysctl};
use super::{Daemon, DaemonError, REMARKS};
use crate::precheck;
use crate::replica::Refused;

impl Daemon {
    /// Tell whoever should know what changed: log, `/run`, track file, waiting clients.
    pub(super) fn report(&mut self, now: Instant) -> Result<(), DaemonError> {
        let mut ready = true;
        for group in &mut self.groups {
            for took in group.report_fences() {
                self.timings.fence.observe(took.as_secs_f64());
            }
            let readiness = group.replica.readiness(now);
            ready &= readiness.in_step();
            let shown = (group.replica.role(), group.replica.owner(), readiness.word());
            if group.shown.as_ref() != Some(&shown) {
                let name = &group.name;
                if group.shown.as_ref().map(|(role, owner, _)| (*role, *owner)) != Some((shown.0, shown.1)) {
                    tracing::info!(group = name, role = shown.0.word(), owner = shown.1, "{}", shown.2);
                } else {
                    tracing::debug!(group = name, "{}", shown.2);
                }
                group.shown = Some(shown);
            }
            if let Some(Err(error)) = group.track.as_mut().map(|track| track.set(group.replica.gate_open())) {
                tracing::error!(%error, "the election does not hear of this node's readiness; tried again");
            }
            if let Err(error) = group.state.keep(group.replica.persist()) {
                tracing::error!(%error, directory = %self.config.state_directory.display(), "cannot keep state");
            }
            while let Some((peer, here)) = group.replica.poll_peer_change() {
                tracing::info!(group = group.name, peer, "{}", if here { "peer heard" } else { "peer lost" });
            }
        }
        self.complain();
        self.look_at_kernel(now);
        self.answer_waiting(ready);
        self.tell_watchers();
        Ok(())
    }

    /// What would make a takeover fail is told when it is noticed.
    fn look_at_kernel(&mut self, now: Instant) {
        if now < self.remarks_due {
            return;
        }
        self.remarks_due = now + REMARKS;
        let remarks = self.remarks(now);
        // Another number in the same sentence is no news.
        let kind = |remark: &String| remark.replace(|letter: char| letter.is_ascii_digit(), "");
        let told: Vec<String> = self.remarks.iter().map(kind).collect();
        for remark in remarks.iter().filter(|remark| !told.contains(&kind(remark))) {
            tracing::warn!("{remark}");
        }
        self.remarks = remarks;
    }

    /// What would make a takeover fail, now.
    pub(super) fn remarks(&mut self, now: Instant) -> Vec<String> {
        let kernel = kernel_settings();
        let in_use = netfilter_sysctl("nf_conntrack_count");
        let mut remarks: Vec<String> = Vec::new();
        for group in &mut self.groups {
            group.replica.set_kernel(kernel);
            for remark in precheck::remarks(&kernel, in_use, &group.replica.view(now)) {
                // Two groups with one peer say the same of its kernel.
                if !remarks.contains(&remark) {
                    remarks.push(remark);
                }
            }
        }
        if self.hold_failed {
            remarks.push("`hold` holds nothing: its table cannot be changed; see the log".into());
        }
        if self.unreadable() > 0 {
            remarks.push(
                "messages of the kernel could not be read and were left out: is this kernel newer than this ctsync?"
                    .into(),
            );
        }
        remarks
    }

    /// Messages of the kernel that could not be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.events.get_ref().unreadable() + self.dump.unreadable()
    }

    fn answer_waiting(&mut self, ready: bool) {
        for group in &mut self.groups {
            if let Some(compared) = group.replica.poll_comparison() {
                group.compared = Some(compared);
            }
        }
        let all: Option<Vec<_>> = self.groups.iter().map(|group| group.compared.as_ref()).collect();
        let compared = all.map(|all| tell_compared(&all));
        let mut index = 0;
        while let Some((client, request)) = self.waiting.get(index) {
            if !client.waits() {
                self.waiting.swap_remove(index);
                continue;
            }
            match self.due(request, ready, compared.as_ref()) {
                Some(reply) => {
                    let (client, _) = self.waiting.swap_remove(index);
                    self.control.answer(client, reply);
                    self.more = true;
                }
                None => index += 1,
            }
        }
    }

    /// Datagrams that point to a mistake are refused loudly, once.
    fn complain(&mut self) {
        let refused = |why| self.groups.iter().any(|group| group.replica.counters().refused(why) > 0);
        let now = [
            &[Refused::OtherVersion][..],
            &[Refused::SameName],
            &[Refused::Unsealed],
            &[Refused::Unreadable, Refused::Forged],
            &[Refused::Far],
        ]
        .map(|reasons| reasons.iter().any(|why| refused(*why)));
        let node = &self.config.node;
        let complaints = [
            "a peer speaks another version of the protocol; its datagrams are refused".to_owned(),
            format!("another node is named {node} too; set `node` to different names on both"),
            "a peer has no key, or somebody forges datagrams: they are refused".to_owned(),
            "datagrams are sealed under a key that is not here: they are refused; compare the key files"
                .to_owned(),
            "datagrams come through a router: they are refused; the channel needs a link of its own"
                .to_owned(),
        ];
        for ((complaint, now), before) in complaints.iter().zip(now).zip(self.complained) {
            if now && !before {
                tracing::error!("{complaint}");
            }
        }
        self.complained = now;
    }
}
