//! Chunks through all cores.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use lifeboat_format::IndexEntry;
use lifeboat_format::chunk::HEADER_LEN;

use super::{ExportError, Options};
use crate::dump::{DecodedChunk, Decoder, DumpError, OpenDump};
use crate::stream::Stream;

/// Stored bytes that a medium is told of before they are decoded: what a fast disk reads
/// in some milliseconds.
const AHEAD: u64 = 16 << 20;

/// Writes with our own error.
pub(super) fn write_at(out: &Stream<'_>, bytes: &[u8], at: u64) -> Result<(), ExportError> {
    out.write_at(bytes, at).map_err(ExportError::Write)
}

/// Has `threads` threads do `work`. When one fails, `stop` is set and `fail` is called, for
/// whoever waits for something that will not come; so too when one panics, which goes on
/// in the caller when all have ended.
///
/// # Errors
/// The first one of `work`.
pub(super) fn on_threads(
    threads: usize,
    stop: &AtomicBool,
    fail: impl Fn() + Sync,
    work: impl Fn() -> Result<(), ExportError> + Sync,
) -> Result<(), ExportError> {
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let fuse = Fuse(stop, &fail);
                match work() {
                    Ok(()) => std::mem::forget(fuse),
                    Err(e) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Ends all other threads, unless it is forgotten.
struct Fuse<'a, F: Fn()>(&'a AtomicBool, &'a F);

impl<F: Fn()> Drop for Fuse<'_, F> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        (self.1)();
    }
}

/// A chunk, or why it is skipped.
pub(super) type Decoded<'c> = Result<&'c DecodedChunk, DumpError>;

/// Chunks to be decoded.
pub(super) struct Work<'a> {
    dump: &'a OpenDump,
    entries: &'a [IndexEntry],
    /// Ranges of `entries` one behind the other: the next one begins when all chunks of
    /// the one before are done.
    groups: Vec<Range<usize>>,
    options: &'a Options<'a>,
}

impl<'a> Work<'a> {
    /// All chunks of memory. Where damage is skipped, a page may be in several layers, and
    /// the first one of them shall have it: one layer after the other.
    pub(super) fn memory(dump: &'a OpenDump, options: &'a Options<'a>) -> Self {
        let space = dump.memory();
        let mut work = Self::of(dump, space.entries(), options);
        if options.skip_damaged {
            work.groups = space.layers().collect();
        }
        work
    }

    /// Some chunks of a dump, in whatever order they are done.
    pub(super) fn of(
        dump: &'a OpenDump,
        entries: &'a [IndexEntry],
        options: &'a Options<'a>,
    ) -> Self {
        Self { dump, entries, groups: std::iter::once(0..entries.len()).collect(), options }
    }

    /// Threads that will work.
    pub(super) fn threads(&self) -> usize {
        let threads = match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        threads.clamp(1, self.entries.len().max(1))
    }

    /// Decodes in ascending order but on several threads, and hands each chunk to `work`
    /// with its entry, its index and the thread's own state. The first error ends it all, and
    /// `fail` is called, as by [`on_threads`].
    pub(super) fn run<W>(
        &self,
        make: impl Fn() -> Result<W, ExportError> + Sync,
        fail: impl Fn() + Sync,
        work: impl Fn(&mut W, &IndexEntry, usize, Decoded<'_>) -> Result<(), ExportError> + Sync,
    ) -> Result<(), ExportError> {
        let pass = Pass::new(self);
        for group in &self.groups {
            pass.next.store(group.start, Ordering::Relaxed);
            on_threads(self.threads(), &pass.stop, &fail, || pass.work(group, &make, &work))?;
        }
        Ok(())
    }
}

/// One pass over all chunks.
struct Pass<'a> {
    all: &'a Work<'a>,
    next: AtomicUsize,
    /// The first chunk that the medium was not told of, and the stored bytes before it.
    told: Mutex<(usize, u64)>,
    done: AtomicU64,
    total: u64,
    stop: AtomicBool,
}

impl<'a> Pass<'a> {
    fn new(all: &'a Work<'a>) -> Self {
        Self {
            all,
            next: AtomicUsize::new(0),
            told: Mutex::new((0, 0)),
            done: AtomicU64::new(0),
            total: all.entries.iter().map(|e| u64::from(e.stored_len)).sum(),
            stop: AtomicBool::new(false),
        }
    }

    /// One thread's part.
    fn work<W>(
        &self,
        group: &Range<usize>,
        make: &impl Fn() -> Result<W, ExportError>,
        work: &impl Fn(&mut W, &IndexEntry, usize, Decoded<'_>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut state = make()?;
        let mut decoder = Decoder::new();
        while !self.stop.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= group.end {
                break;
            }
            let Some(entry) = self.all.entries.get(index) else { break };
            self.tell_medium();
            match self.all.dump.read_chunk(entry, &mut decoder) {
                Ok(chunk) => {
                    work(&mut state, entry, index, Ok(&chunk))?;
                    decoder.recycle(chunk);
                }
                Err(e) if self.all.options.skip_damaged => work(&mut state, entry, index, Err(e))?,
                Err(e) => return Err(e.into()),
            }
            let bytes = u64::from(entry.stored_len);
            let now = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if let Some(progress) = self.all.options.progress {
                progress(now, self.total);
            }
        }
        Ok(())
    }

    /// Tells the medium of the chunks that come next.
    fn tell_medium(&self) {
        let until = self.done.load(Ordering::Relaxed).saturating_add(AHEAD);
        // Whoever is at it does it for all.
        let Ok(mut told) = self.told.try_lock() else { return };
        let (index, bytes) = &mut *told;
        while *bytes < until {
            let Some(entry) = self.all.entries.get(*index) else { return };
            let len = HEADER_LEN as u64 + u64::from(entry.stored_len);
            self.all.dump.file().source().will_read(entry.offset.0, len);
            *index += 1;
            *bytes = bytes.saturating_add(u64::from(entry.stored_len));
        }
    }
}

/// Gives out file space in the order of chunks, whichever thread is done first, so that
/// two exports of a dump are the same bytes. What is done too early waits here, and the
/// thread that made it goes on.
pub(super) struct Order<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Chunks that may wait.
    ahead: usize,
}

struct State<T> {
    /// Whose turn it is.
    next: usize,
    /// The next free byte.
    at: u64,
    failed: bool,
    waiting: BTreeMap<usize, (T, u64)>,
}

impl<T> Order<T> {
    /// Space from byte `start` for what `threads` threads make.
    pub(super) fn new(start: u64, threads: usize) -> Self {
        let state = State { next: 0, at: start, failed: false, waiting: BTreeMap::new() };
        Self { state: Mutex::new(state), changed: Condvar::new(), ahead: 4 * threads }
    }

    /// Hands in what was made of chunk `index`, to take `len` bytes. Gives what has a place
    /// now, for the caller to write: nothing, if a chunk before is not done.
    pub(super) fn hand_in(&self, index: usize, made: T, len: u64) -> Vec<(T, u64)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .changed
            .wait_while(state, |s| index >= s.next + self.ahead && !s.failed)
            .unwrap_or_else(PoisonError::into_inner);
        let mut ready = Vec::new();
        if state.failed {
            return ready;
        }
        state.waiting.insert(index, (made, len));
        let mut next = state.next;
        while let Some((made, len)) = state.waiting.remove(&next) {
            ready.push((made, state.at));
            state.at = state.at.saturating_add(len);
            next += 1;
        }
        if !ready.is_empty() {
            state.next = next;
            self.changed.notify_all();
        }
        ready
    }

    /// Lets nobody wait for a turn that will not come.
    pub(super) fn fail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
        self.changed.notify_all();
    }

    /// First byte that nobody took.
    pub(super) fn end(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).at
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// How two threads end of which one does `first`, and whether the other was told.
    fn two(
        first: impl Fn() -> Result<(), ExportError> + Sync,
    ) -> (std::thread::Result<Result<(), ExportError>>, bool) {
        let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (failed, told) = channel();
        let (told, was_told) = (Mutex::new(told), AtomicBool::new(false));
        let work = || match begun.fetch_add(1, Ordering::Relaxed) {
            0 => first(),
            _ => {
                // Longer than a thread takes to fail.
                let heard = told.lock().unwrap().recv_timeout(Duration::from_secs(20)).is_ok();
                was_told.store(heard && stop.load(Ordering::Relaxed), Ordering::Relaxed);
                Ok(())
            }
        };
        let fail = || {
            let _ = failed.send(());
        };
        let run = || on_threads(2, &stop, fail, work);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        (ended, was_told.into_inner())
    }

    /// [`Order`]'s waiters would wait for ever.
    #[test]
    fn a_thread_that_fails_or_panics_lets_nobody_wait() {
        let (ended, told) = two(|| Err(ExportError::Nothing));
        assert!(told && matches!(ended, Ok(Err(ExportError::Nothing))), "{ended:?}");
        let (ended, told) = two(|| panic!("as a writer may"));
        assert!(told && ended.is_err());
    }
}
