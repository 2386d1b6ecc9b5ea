//! What the daemon tells by itself: log lines, `/run`, the track file, clients that wait for something to
//! happen.

use std::time::Instant;

use super::compared::tell_compared;
use super::start::netfilter_sysctl;
use super::{Daemon, DaemonError, REMARKS};
use crate::control::{Reply, Request};
use crate::engine::precheck;
use crate::engine::replica::{Compared, Refused};

impl Daemon {
    /// Tell whoever should know what changed: log, `/run`, track file, waiting clients.
    pub(super) fn report(&mut self, now: Instant) -> Result<(), DaemonError> {
        let mut ready = true;
        for at in 0..self.groups.len() {
            let Some(group) = self.groups.get_mut(at) else { break };
            for took in group.report_fences() {
                self.timings.fence.observe(took.as_secs_f64());
            }
            ready &= group.report(now);
            if group.is_judgement_due(now) {
                let around = self.around(at);
                if let Some(group) = self.groups.get_mut(at) {
                    group.judge(&around, now);
                }
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
    pub(super) fn remarks(&self, now: Instant) -> Vec<String> {
        let in_use = netfilter_sysctl("nf_conntrack_count");
        let mut remarks: Vec<String> = Vec::new();
        for group in &self.groups {
            for remark in precheck::remarks(&self.kernel, in_use, &group.replica.view(now)) {
                // Two groups with one peer say the same of its kernel.
                if !remarks.contains(&remark) {
                    remarks.push(remark);
                }
            }
        }
        remarks.extend(self.keepalived_remarks());
        remarks.extend(self.renamed.clone());
        remarks.extend(self.refused_lately(0).into_iter().map(|(_, sentence)| sentence));
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
            group.compared.extend(std::iter::from_fn(|| group.replica.poll_comparison()));
        }
        let compared = self.compared();
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

    /// What all groups' comparisons found, once, for whoever waits for it; what nobody waits for is let go.
    fn compared(&mut self) -> Option<Reply> {
        if self.groups.iter().any(|group| group.compared.is_empty() || group.replica.comparing()) {
            return None;
        }
        let all: Vec<Compared> =
            self.groups.iter_mut().flat_map(|group| std::mem::take(&mut group.compared)).collect();
        let awaited = self.waiting.iter().any(|(_, request)| *request == Request::Diff);
        awaited.then(|| tell_compared(&all))
    }

    /// Datagrams that point to a mistake are refused loudly, once each time that it begins.
    fn complain(&mut self) {
        let mut now: Vec<Refused> = Vec::new();
        for at in 0..self.groups.len() {
            for (why, sentence) in self.refused_lately(at) {
                // Of other pairs on the link there may be any number.
                if !now.contains(&why) && why != Refused::Foreign {
                    now.push(why);
                    if !self.complained.contains(&why) {
                        tracing::error!("{sentence}");
                    }
                }
            }
        }
        self.complained = now;
    }
}
