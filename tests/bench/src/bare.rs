//! The codecs alone: the same chunks as the engine's, from memory, with as many
//! threads and no other work. That is what this machine can do with this codec.
//!
//! Chunks are loaded a window at a time; loading is not timed. What comes out is
//! thrown away.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use lifeboat_qemu::error::{Context as _, Failure, Res, ensure};
use lifeboat_qemu::vmcore::Core;

use crate::measure::Run;

const PAGE: usize = 4096;
/// Data pages of a chunk, as the engine's default.
pub(crate) const CHUNK: usize = 64 * PAGE;
/// Bytes of data that are loaded at once.
const WINDOW: usize = 512 << 20;

/// Which codec, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// zstd at a level.
    Zstd(i32),
    /// LZ4's fast compressor.
    Lz4,
    /// Decompression of what zstd gave at a level; only that is timed.
    Unzstd(i32),
}

/// Runs a codec over all data pages of a vmcore, zero pages left out.
///
/// # Errors
/// When the vmcore cannot be read or the codec fails.
pub(crate) fn run(codec: Codec, threads: usize, vmcore: &Path) -> Res<Run> {
    let core = Core::open(vmcore)?;
    let mut data = Vec::with_capacity(WINDOW);
    let (mut wall, mut out) = (0.0, 0);
    let mut buf = vec![0u8; 256 * PAGE];
    let mut flush = |data: &mut Vec<u8>| -> Res<()> {
        let (took, bytes) = window(codec, threads, data)?;
        wall += took;
        out += bytes;
        data.clear();
        Ok(())
    };
    for range in core.memory() {
        let mut at = range.start;
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buf.len());
            let got = core.read(at, buf.get_mut(..want).unwrap_or_default())?;
            ensure(got > 0, "a hole in the vmcore")?;
            for page in buf.get(..got).unwrap_or_default().chunks_exact(PAGE) {
                if page.iter().any(|b| *b != 0) {
                    data.extend_from_slice(page);
                }
            }
            if data.len() + buf.len() > WINDOW {
                flush(&mut data)?;
            }
            at += got as u64;
        }
    }
    flush(&mut data)?;
    Ok(Run { wall, out, ..Run::default() })
}

/// Seconds and bytes out for one window.
fn window(codec: Codec, threads: usize, data: &[u8]) -> Res<(f64, u64)> {
    let chunks: Vec<&[u8]> = data.chunks(CHUNK).collect();
    match codec {
        Codec::Zstd(level) => over(
            threads,
            &chunks,
            || zstd::bulk::Compressor::new(level).ctx("zstd"),
            |z, c, out| z.compress_to_buffer(c, out).ctx("zstd"),
        ),
        Codec::Lz4 => over(
            threads,
            &chunks,
            || Ok(()),
            |(), chunk, out| lz4::block::compress_to_buffer(chunk, None, false, out).ctx("lz4"),
        ),
        Codec::Unzstd(level) => {
            let mut packer = zstd::bulk::Compressor::new(level).ctx("zstd")?;
            let packed: Vec<Vec<u8>> =
                chunks.iter().map(|c| packer.compress(c).ctx("zstd")).collect::<Res<_>>()?;
            let packed: Vec<&[u8]> = packed.iter().map(Vec::as_slice).collect();
            over(
                threads,
                &packed,
                || zstd::bulk::Decompressor::new().ctx("zstd"),
                |z, c, out| z.decompress_to_buffer(c, out).ctx("zstd"),
            )
        }
    }
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
        let text: Vec<u8> =
            (0..3 * CHUNK + 5000).map(|n| u8::try_from(n / 64 % 251).unwrap()).collect();
        for threads in [1, 3] {
            let (_, packed) = window(Codec::Zstd(1), threads, &text).unwrap();
            assert!(packed > 0 && packed < text.len() as u64 / 4);
            let (_, same) = window(Codec::Zstd(1), 1, &text).unwrap();
            assert_eq!(packed, same);
            let (_, back) = window(Codec::Unzstd(1), threads, &text).unwrap();
            assert_eq!(back, text.len() as u64);
            assert!(window(Codec::Lz4, threads, &text).unwrap().1 < text.len() as u64 / 4);
        }
    }
}
