//! Chunks through all cores.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use lifeboat_format::IndexEntry;

use super::{ExportError, Options};
use crate::dump::{DecodedChunk, Decoder, DumpError, OpenDump};

/// Writes with our own error.
pub(super) fn write_at(out: &File, bytes: &[u8], at: u64) -> Result<(), ExportError> {
    out.write_all_at(bytes, at).map_err(ExportError::Write)
}

/// Decodes `entries`, in ascending order but on several threads, and hands each to
/// `work` with its index and the thread's own state. The first error ends it all,
/// and those who wait in `turns`.
pub(super) fn for_each<W>(
    dump: &OpenDump,
    entries: &[IndexEntry],
    options: &Options<'_>,
    make: impl Fn() -> Result<W, ExportError> + Sync,
    turns: Option<&Turns>,
    work: impl Fn(&mut W, usize, Result<DecodedChunk, DumpError>) -> Result<(), ExportError> + Sync,
) -> Result<(), ExportError> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let total: u64 = entries.iter().map(|e| u64::from(e.stored_len)).sum();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let failed = Mutex::new(None);
    let run = || -> Result<(), ExportError> {
        let mut state = make()?;
        let mut decoder = Decoder::new();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = entries.get(index) else { break };
            let chunk = match dump.read_chunk(entry, &mut decoder) {
                Err(e) if !options.skip_damaged => return Err(e.into()),
                other => other,
            };
            work(&mut state, index, chunk)?;
            let bytes = u64::from(entry.stored_len);
            let now = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if let Some(progress) = options.progress {
                progress(now, total);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, entries.len().max(1)) {
            scope.spawn(|| {
                if let Err(e) = run() {
                    stop.store(true, Ordering::Relaxed);
                    if let Some(turns) = turns {
                        turns.fail();
                    }
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Gives out file space in the order of chunks, whichever thread is done first, so
/// that two exports of a dump are the same bytes.
pub(super) struct Turns {
    /// Whose turn it is, the next free byte, and whether someone failed.
    state: Mutex<(usize, u64, bool)>,
    changed: Condvar,
}

impl Turns {
    /// Space from byte `start`.
    pub(super) fn new(start: u64) -> Self {
        Self { state: Mutex::new((0, start, false)), changed: Condvar::new() }
    }

    /// Waits for turn `index`, then takes `len` bytes; `None` when someone failed.
    pub(super) fn take(&self, index: usize, len: u64) -> Option<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .changed
            .wait_while(state, |s| s.0 != index && !s.2)
            .unwrap_or_else(PoisonError::into_inner);
        if state.2 {
            return None;
        }
        let at = state.1;
        state.0 += 1;
        state.1 = at.saturating_add(len);
        self.changed.notify_all();
        Some(at)
    }

    /// Lets nobody wait for a turn that will not come.
    pub(super) fn fail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).2 = true;
        self.changed.notify_all();
    }

    /// First byte that nobody took.
    pub(super) fn end(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}
