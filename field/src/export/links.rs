//! Pages that have the contents of another one.
//!
//! An output has a record for each page: the page itself, or a descriptor. The source of a
//! page may be in a chunk that comes later, and no memory is bounded that remembers all
//! that wait. So the place of the record itself holds what it is to be, 16 bytes for a run
//! of pages, and when all chunks were decoded, records are copied within the output.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::coverage::Coverage;
use super::marks::{BLOCK, Mark};
use super::{ExportError, pipeline};
use crate::stream::Stream;

/// Bytes copied at a time.
const COPY: usize = 256 << 10;

/// An output's records: `size` bytes for each page of the coverage's span, from byte `at`.
pub(super) struct Links<'a> {
    pub(super) out: &'a Stream<'a>,
    pub(super) coverage: &'a Coverage,
    pub(super) at: u64,
    pub(super) size: usize,
}

impl Links<'_> {
    /// Where a page's record begins.
    pub(super) fn place(&self, rank: u64) -> u64 {
        self.at + rank * self.size as u64
    }

    /// Remembers that pages are the same as those from `source` on.
    pub(super) fn note(&self, ranks: Range<u64>, source: u64) -> Result<(), ExportError> {
        let mut at = ranks.start;
        while at < ranks.end {
            // Blocks are looked through one by one.
            let end = (at - at % BLOCK + BLOCK).min(ranks.end);
            let mut note = [0u8; 16];
            let (from, count) = note.split_at_mut(8);
            from.copy_from_slice(&source.saturating_add(at - ranks.start).to_le_bytes());
            count.copy_from_slice(&(end - at).to_le_bytes());
            pipeline::write_at(self.out, &note, self.place(at))?;
            at = end;
        }
        Ok(())
    }

    /// Gives every noted page its record; those whose source is not stored are marked as
    /// lost, and counted.
    pub(super) fn resolve(&self, threads: usize) -> Result<u64, ExportError> {
        let marks = self.coverage.marks();
        let (next, stop, lost) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU64::new(0));
        let work = || {
            let mut buf = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= marks.blocks() {
                    break;
                }
                for ranks in marks.stretches(n, Mark::Same) {
                    lost.fetch_add(self.stretch(ranks, &mut buf)?, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        pipeline::on_threads(threads, &stop, || (), work)?;
        Ok(lost.into_inner())
    }

    /// Several runs one behind the other. Gives the number of pages that are lost.
    fn stretch(&self, ranks: Range<u64>, buf: &mut Vec<u8>) -> Result<u64, ExportError> {
        let (mut at, mut lost) = (ranks.start, 0);
        while at < ranks.end {
            let mut note = [0u8; 16];
            self.read(&mut note, at)?;
            let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, c4, c5, c6, c7] = note;
            let source = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let count = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
            let end = at.saturating_add(count.max(1)).min(ranks.end);
            lost += self.run(at..end, source, buf)?;
            at = end;
        }
        Ok(lost)
    }

    fn run(&self, ranks: Range<u64>, source: u64, buf: &mut Vec<u8>) -> Result<u64, ExportError> {
        let start = ranks.start;
        self.coverage.sources(ranks, source, |to, from| {
            let Some(mut from) = from else {
                // What a note leaves is no contents.
                return match to.start == start {
                    true => pipeline::write_at(self.out, &[0; 16], self.place(start)),
                    false => Ok(()),
                };
            };
            let mut at = to.start;
            while at < to.end {
                let take = (to.end - at).min((COPY / self.size) as u64);
                buf.resize(usize::try_from(take).unwrap_or(0) * self.size, 0);
                self.read(buf, from)?;
                pipeline::write_at(self.out, buf, self.place(at))?;
                (at, from) = (at + take, from + take);
            }
            Ok(())
        })
    }

    fn read(&self, buf: &mut [u8], rank: u64) -> Result<(), ExportError> {
        self.out.file().read_exact_at(buf, self.place(rank)).map_err(ExportError::Write)
    }
}
