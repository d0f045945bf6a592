//! The codecs alone: the same pages in chunks cut as the engine's, from memory, with as
//! many threads and no other work. That is what this machine can do with this codec.
//!
//! Chunks are loaded once and stay, so they are packed without a pause, as the engine
//! works, and beside the same free memory. Loading between bursts let a machine that slows
//! down under load run up to a sixth faster; giving gigabytes back before each run
//! of the engine made that a seventh slower, on a machine whose host takes them. What comes
//! out is thrown away. The engine's chunks also end with each span that a worker was
//! dealt, and begin with their table of runs: both are of no weight in 64 pages.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use lifeboat_qemu::error::{Context as _, Failure, Res};
use lifeboat_qemu::vmcore::Core;

use crate::input::survey::{one_word, walk};
use crate::measure::Run;
use crate::shm::require;

const PAGE: usize = 4096;
/// Data pages of a chunk at most, as the engine's default.
const CHUNK: usize = 64 * PAGE;
/// Pages that the engine takes at a time, at most; a chunk with room for fewer than
/// [`LEAST`] more is full.
const BATCH: usize = 32 * PAGE;
const LEAST: usize = 8 * PAGE;
/// Room for a dump beside the chunks, in bytes.
const SPARE: u64 = 3 << 30;

/// Which codec, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// zstd at a level.
    Zstd(i32),
    /// LZ4's fast compressor.
    Lz4,
    /// Decompression of [`Chunks::packed`].
    Unzstd,
}

/// Data pages cut into chunks, or what they were packed to.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    data: Vec<u8>,
    /// Where chunks end, ascending.
    ends: Vec<usize>,
}

impl Chunks {
    /// All data pages of a vmcore, pages of one word left out.
    ///
    /// # Errors
    /// When it cannot be read, or there is no memory for its pages.
    pub(crate) fn load(vmcore: &Path) -> Res<Self> {
        let core = Core::open(vmcore)?;
        let most: u64 = core.memory().iter().map(|r| r.end - r.start).sum();
        require(most.saturating_add(SPARE))?;
        let most = usize::try_from(most).ok().ctx("the size of memory")?;
        let mut chunks = Self { data: Vec::with_capacity(most), ends: Vec::new() };
        for range in core.memory() {
            walk(&core, range, |memory| {
                chunks.take(memory);
                Ok(())
            })?;
            chunks.cut();
        }
        Ok(chunks)
    }

    /// What zstd makes of each at `level`.
    ///
    /// # Errors
    /// When zstd fails.
    pub(crate) fn packed(&self, level: i32) -> Res<Self> {
        let mut packer = zstd::bulk::Compressor::new(level).ctx("zstd")?;
        let mut packed = Self::default();
        for chunk in self.all() {
            packed.data.extend(packer.compress(chunk).ctx("zstd")?);
            packed.cut();
        }
        Ok(packed)
    }

    /// Takes memory, a batch after the other, each no larger than the open chunk's room;
    /// pages of one word are no data to the engine.
    fn take(&mut self, memory: &[u8]) {
        let mut rest = memory;
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(self.space().min(rest.len()));
            for page in batch.chunks(PAGE).filter(|page| !one_word(page)) {
                self.data.extend_from_slice(page);
            }
            if self.space() < LEAST {
                self.cut();
            }
            rest = behind;
        }
    }

    /// Bytes that are taken at once into the chunk that is open.
    fn space(&self) -> usize {
        let open = self.data.len() - self.ends.last().copied().unwrap_or(0);
        CHUNK.saturating_sub(open).min(BATCH)
    }

    /// Ends the last chunk.
    fn cut(&mut self) {
        if self.ends.last().copied().unwrap_or(0) < self.data.len() {
            self.ends.push(self.data.len());
        }
    }

    /// The chunks that ended.
    fn all(&self) -> Vec<&[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(from, to)| self.data.get(from..*to)).collect()
    }
}

/// Runs a codec over all chunks.
///
/// # Errors
/// When the codec fails.
pub(crate) fn run(codec: Codec, threads: usize, chunks: &Chunks) -> Res<Run> {
    let chunks = &chunks.all();
    let (wall, out) = match codec {
        Codec::Zstd(level) => over(
            threads,
            chunks,
            || zstd::bulk::Compressor::new(level).ctx("zstd"),
            |z, chunk, out| z.compress_to_buffer(chunk, out).ctx("zstd"),
        ),
        Codec::Lz4 => over(
            threads,
            chunks,
            || Ok(()),
            |(), chunk, out| lz4::block::compress_to_buffer(chunk, None, false, out).ctx("lz4"),
        ),
        Codec::Unzstd => over(
            threads,
            chunks,
            || zstd::bulk::Decompressor::new().ctx("zstd"),
            |z, chunk, out| z.decompress_to_buffer(chunk, out).ctx("zstd"),
        ),
    }?;
    Ok(Run { wall, out, ..Run::default() })
}

/// Gives every chunk to one of the threads; each has a state of its own and a buffer.
fn over<S>(
    threads: usize,
    chunks: &[&[u8]],
    state: impl Fn() -> Res<S> + Sync,
    work: impl Fn(&mut S, &[u8], &mut [u8]) -> Res<usize> + Sync,
) -> Res<(f64, u64)> {
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        let run = || -> Res<()> {
            let mut own = state()?;
            let mut out = vec![0u8; 2 * CHUNK];
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let len = work(&mut own, chunk, &mut out)?;
                bytes.fetch_add(len as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        all.into_iter().try_for_each(|t| {
            t.join().map_err(|_| Failure::check("a thread of the bare codec panicked"))?
        })
    })?;
    Ok((start.elapsed().as_secs_f64(), bytes.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_taken_once_and_comes_back() {
        let len = 3 * CHUNK + 5000;
        let text: Vec<u8> = (0..len).map(|n| u8::try_from(n / 64 % 251).unwrap()).collect();
        let mut chunks = Chunks::default();
        for chunk in text.chunks(CHUNK) {
            chunks.data.extend(chunk);
            chunks.cut();
        }
        let packed = chunks.packed(1).unwrap();
        assert!(packed.all().len() == 4 && packed.data.len() < len / 4);
        for threads in [1, 3] {
            let out = |codec, chunks| run(codec, threads, chunks).unwrap().out;
            assert_eq!(out(Codec::Zstd(1), &chunks), packed.data.len() as u64);
            assert_eq!(out(Codec::Unzstd, &packed), len as u64);
            assert!(out(Codec::Lz4, &chunks) < len as u64 / 4);
        }
    }

    #[test]
    fn chunks_are_cut_as_the_engine_cuts_them() {
        let mut memory: Vec<u8> = (0..130 * PAGE).map(|n| u8::try_from(n % 251).unwrap()).collect();
        memory[..PAGE].fill(0);
        memory[PAGE..2 * PAGE].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8].repeat(PAGE / 8));
        let mut chunks = Chunks::default();
        chunks.take(&memory);
        chunks.cut();
        let pages: Vec<usize> = chunks.all().iter().map(|c| c.len() / PAGE).collect();
        assert_eq!(pages, [62, 64, 2]);
        assert_eq!(chunks.data, memory[2 * PAGE..]);
        let mut chunks = Chunks::default();
        chunks.take(&memory[..2 * PAGE]);
        chunks.cut();
        assert!(chunks.all().is_empty());
    }
}
