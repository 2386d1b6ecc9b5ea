//! A kernel that does what it is asked: enough of one for a replica to hear plausible answers. Called by the
//! stage. It never tells events, and keeps entries only as they were requested.

use std::collections::HashMap;

use ctsync::ctnetlink::codec;
use ctsync::ctnetlink::entry::{Entry, Key};
use ctsync::ctnetlink::nla::Writer;
use ctsync::engine::reconcile::Op;
use ctsync::engine::replica::{Replica, Request};

/// Requests in one batch.
const BATCH: usize = 64;
/// Batches served at once: whoever is refused for ever must not hold up the input.
const BATCHES: usize = 64;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;

/// The entries that it holds.
#[derive(Default)]
pub struct Kernel {
    table: HashMap<Key, Entry>,
}

impl Kernel {
    /// Serve what a replica asks for. Every request is also written as the daemon would.
    pub fn serve(&mut self, replica: &mut Replica, now: std::time::Instant) {
        for _ in 0..BATCHES {
            if replica.waiting() == 0 {
                return;
            }
            let (mut answers, mut writer) = (Vec::new(), Writer::default());
            replica.poll_requests(BATCH, |request| {
                emit(&mut writer, &request);
                answers.push(self.answer(&request));
            });
            let mut answered = vec![false; answers.len()];
            for ((at, answer), answered) in answers.into_iter().enumerate().zip(&mut answered) {
                match answer {
                    Ok(Some(entry)) => replica.handle_read_back(at, entry),
                    Ok(None) => continue,
                    Err(errno) => replica.handle_answer(at, errno),
                }
                *answered = true;
            }
            replica.handle_answers_end(&answered, now);
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<Option<Entry>, i32> {
        let key = request.entry.key();
        let held = self.table.contains_key(&key);
        match request.op {
            Op::Create if held => return Err(EEXIST),
            Op::Create => drop(self.table.insert(key, request.entry.clone())),
            Op::Get => return self.table.get(&key).cloned().map(Some).ok_or(ENOENT),
            _ if !held => return Err(ENOENT),
            Op::Destroy => drop(self.table.remove(&key)),
            Op::Update => drop(self.table.insert(key, request.entry.clone())),
            Op::Renew | Op::Track => {}
        }
        Ok(None)
    }
}

fn emit(writer: &mut Writer, request: &Request<'_>) {
    let Request { op, entry, install } = *request;
    match op {
        Op::Create => codec::emit_create(writer, 1, entry, install),
        Op::Update => codec::emit_update(writer, 1, entry, install),
        Op::Destroy => codec::emit_destroy(writer, 1, &entry.key()),
        Op::Get => codec::emit_get(writer, 1, &entry.key()),
        Op::Renew => codec::emit_renew(writer, 1, entry, install),
        Op::Track => codec::emit_track(writer, 1, entry),
    }
}
