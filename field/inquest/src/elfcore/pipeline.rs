//! Fetching pages by several threads, and handing them on in order of address.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::elfcore::{Ahead, CoreError, Mapping, Options, Origin, Pages};
use crate::{Hole, PAGE};

const PAGE64: u64 = PAGE as u64;
/// Pages that are fetched at a time: 1 MiB.
const BLOCK: u64 = 256;
/// Blocks in flight for each thread: one that it fetches, one that waits.
const AHEAD: usize = 2;
/// Most threads that are started unasked.
const MAX_THREADS: usize = 8;
/// Most that are started.
const MOST_THREADS: usize = 64;
/// Blocks and stretches that wait for their turn.
const MOST_BEGUN: usize = 256;

/// Pages, in order.
pub(super) enum Block {
    /// Pages that were looked at.
    Pages {
        start: u64,
        flags: u32,
        found: Vec<Result<Origin, Hole>>,
        /// Their contents; of a hole's there is no meaning.
        bytes: Vec<u8>,
    },
    /// Zeros.
    Untouched { start: u64, end: u64, flags: u32 },
    /// Nothing.
    Hole { start: u64, end: u64, why: Hole },
    /// What comes next has another protection.
    EndOfMapping,
}

/// Pages to fetch.
struct Job {
    start: u64,
    pages: u64,
    flags: u32,
    /// A buffer that was used before, or an empty one.
    bytes: Vec<u8>,
}

/// What was begun, in order.
enum Begun {
    /// A thread of this number has it.
    Sent(usize),
    /// Here it is.
    Ready(Block),
}

struct Worker {
    jobs: SyncSender<Job>,
    done: Receiver<Block>,
}

struct Crew<'a> {
    workers: Vec<Worker>,
    next: usize,
    begun: VecDeque<Begun>,
    spare: Vec<Vec<u8>>,
    take: &'a mut dyn FnMut(&Block) -> Result<(), CoreError>,
    /// Pages that were given to threads or passed over.
    looked: u64,
    /// Pages that were handed on.
    done: u64,
    pages: &'a dyn Pages,
    options: &'a Options<'a>,
}

/// Gives all pages of the mappings to `take`, in order.
pub(super) fn run(
    mappings: &[Mapping],
    pages: &dyn Pages,
    options: &Options<'_>,
    take: &mut dyn FnMut(&Block) -> Result<(), CoreError>,
) -> Result<(), CoreError> {
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..threads(options) {
            let (jobs, todo) = sync_channel::<Job>(AHEAD);
            let (out, done) = sync_channel::<Block>(AHEAD);
            let one = move || work(pages, &todo, &out);
            match std::thread::Builder::new().spawn_scoped(scope, one) {
                Ok(_) => workers.push(Worker { jobs, done }),
                // Fewer threads do it too.
                Err(_) if !workers.is_empty() => break,
                Err(e) => return Err(CoreError::Write(e)),
            }
        }
        let (begun, spare) = (VecDeque::new(), Vec::new());
        let mut crew =
            Crew { workers, next: 0, begun, spare, take, looked: 0, done: 0, pages, options };
        mappings.iter().try_for_each(|m| crew.mapping(m))?;
        crew.drain(0)
    })
}

fn threads(options: &Options<'_>) -> usize {
    match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS)),
        n => n.min(MOST_THREADS),
    }
}

/// Fetches pages until there are no more jobs, or nobody wants them.
fn work(pages: &dyn Pages, todo: &Receiver<Job>, out: &SyncSender<Block>) {
    for Job { start, pages: count, flags, mut bytes } in todo {
        // At most BLOCK pages.
        bytes.resize(usize::try_from(count).unwrap_or(0) * PAGE, 0);
        let mut found = Vec::with_capacity(bytes.len() / PAGE);
        let mut addr = start;
        for page in bytes.as_chunks_mut::<PAGE>().0 {
            found.push(pages.page(addr, page));
            addr += PAGE64;
        }
        if out.send(Block::Pages { start, flags, found, bytes }).is_err() {
            return;
        }
    }
}

impl Crew<'_> {
    fn mapping(&mut self, m: &Mapping) -> Result<(), CoreError> {
        let mut at = m.start;
        while at < m.end {
            if self.left() == 0 {
                self.ready(Block::Hole { start: at, end: m.end, why: Hole::Malformed })?;
                break;
            }
            let (end, ahead) = self.pages.ahead(at, m.end);
            // At least a page, and whole ones: so this ends.
            let end = (end & !(PAGE64 - 1)).clamp(at + PAGE64, m.end);
            match ahead {
                Ahead::Look => self.look(at, end, m.flags)?,
                Ahead::Untouched => {
                    self.step(Block::Untouched { start: at, end, flags: m.flags })?;
                }
                Ahead::Hole(why) => self.step(Block::Hole { start: at, end, why })?,
            }
            at = end;
        }
        self.ready(Block::EndOfMapping)
    }

    /// Pages that may still be looked at.
    fn left(&self) -> u64 {
        self.options.most_pages.saturating_sub(self.looked)
    }

    /// Takes what is known of a stretch; this counts as one look, so that there is an end
    /// to tables that tell little at a time.
    fn step(&mut self, block: Block) -> Result<(), CoreError> {
        self.looked += 1;
        self.ready(block)
    }

    fn look(&mut self, mut at: u64, end: u64, flags: u32) -> Result<(), CoreError> {
        while at < end {
            let pages = ((end - at) / PAGE64).min(BLOCK).min(self.left());
            if pages == 0 {
                return self.ready(Block::Hole { start: at, end, why: Hole::Malformed });
            }
            self.looked += pages;
            let bytes = self.spare.pop().unwrap_or_default();
            self.send(Job { start: at, pages, flags, bytes })?;
            at += pages * PAGE64;
        }
        Ok(())
    }

    fn send(&mut self, job: Job) -> Result<(), CoreError> {
        let room = self.workers.len() * AHEAD;
        self.drain(room.saturating_sub(1))?;
        // In turn: so no thread has more than AHEAD blocks, and none waits for us.
        let turn = self.next % self.workers.len().max(1);
        self.next = turn + 1;
        let worker = self.workers.get(turn).ok_or(CoreError::Worker)?;
        worker.jobs.send(job).map_err(|_| CoreError::Worker)?;
        self.begun.push_back(Begun::Sent(turn));
        Ok(())
    }

    /// Hands on what has no contents, in its turn. Much of it does not wait for little.
    fn ready(&mut self, block: Block) -> Result<(), CoreError> {
        if self.begun.is_empty() {
            return (self.take)(&block);
        }
        if self.begun.len() > MOST_BEGUN {
            self.drain(0)?;
            return (self.take)(&block);
        }
        self.begun.push_back(Begun::Ready(block));
        Ok(())
    }

    /// Hands on blocks until at most `most` are with the threads.
    fn drain(&mut self, most: usize) -> Result<(), CoreError> {
        while self.sent() > most || most == 0 && !self.begun.is_empty() {
            let block = match self.begun.pop_front() {
                Some(Begun::Ready(block)) => block,
                Some(Begun::Sent(turn)) => {
                    let worker = self.workers.get(turn).ok_or(CoreError::Worker)?;
                    worker.done.recv().map_err(|_| CoreError::Worker)?
                }
                None => break,
            };
            (self.take)(&block)?;
            if let Block::Pages { found, bytes, .. } = block {
                self.done += found.len() as u64;
                self.spare.push(bytes);
                if let Some(tell) = self.options.progress {
                    tell(self.done);
                }
            }
        }
        Ok(())
    }

    fn sent(&self) -> usize {
        self.begun.iter().filter(|b| matches!(b, Begun::Sent(_))).count()
    }
}
