//! zstd and LZ4 in memory that is given to them: contexts that allocate nothing, ever.
//!
//! The safe crates make contexts that grow and shrink as they like
//! (`ZSTD_cwksp_bump_oversized_duration()`, zstd 1.5.7, frees a workspace that was too
//! large 128 times in a row). A crash kernel has no memory for that: here zstd works in
//! a static workspace (`ZSTD_initStaticCCtx()`, which never calls malloc) as large as
//! the strongest of the levels needs, and LZ4 in a state of its own. It refuses levels
//! that it was not made for.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;

// Linked for the two functions below, which it has and does not declare.
use lz4_sys as _;
use zstd_sys::{ZSTD_CCtx, ZSTD_compressionParameters, ZSTD_frameParameters, ZSTD_parameters};

use crate::AlignedBuf;

// lib/lz4.h of LZ4 1.10.0.
unsafe extern "C" {
    safe fn LZ4_sizeofState() -> c_int;
    fn LZ4_compress_fast_extState(
        state: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        acceleration: c_int,
    ) -> c_int;
}

/// Compressors for payloads of up to a length.
pub struct Codecs {
    /// Lies in `work`, which never moves.
    zstd: Option<NonNull<ZSTD_CCtx>>,
    work: AlignedBuf,
    lz4: Option<AlignedBuf>,
    levels: Vec<i32>,
    max_raw: usize,
}

// SAFETY: the context is a plain structure in memory that `work` owns alone; nothing of
// it is tied to a thread.
unsafe impl Send for Codecs {}

/// Sizes at which zstd's table of parameters changes (`ZSTD_defaultCParameters`,
/// lib/compress/clevels.h): a smaller input may need a larger table.
const STEPS: [usize; 3] = [16 << 10, 128 << 10, 256 << 10];

impl Codecs {
    /// Compressors for payloads of up to `max_raw` bytes, by zstd at any of `levels` and
    /// by LZ4 if asked for. `None` when zstd does not take the memory that it said it
    /// needs.
    #[must_use]
    pub fn new(max_raw: usize, levels: &[i32], lz4: bool) -> Option<Self> {
        let sizes = STEPS.iter().copied().filter(|s| *s < max_raw).chain([max_raw]);
        let need = |size: usize| {
            levels.iter().map(move |level| {
                // SAFETY: a pure function of a struct of numbers.
                unsafe { zstd_sys::ZSTD_estimateCCtxSize_usingCParams(params(*level, size)) }
            })
        };
        let need = sizes.flat_map(need).max().unwrap_or(0);
        let mut work = AlignedBuf::new(need);
        let mut zstd = None;
        if !levels.is_empty() {
            let space = work.as_mut_ptr().cast::<c_void>();
            // SAFETY: `space` is `work`'s memory, 8-byte aligned, of that length; it lives
            // and stays in place as long as `self`, which nobody else writes to.
            let made = unsafe { zstd_sys::ZSTD_initStaticCCtx(space, work.len()) };
            zstd = Some(NonNull::new(made)?);
        }
        let lz4 = lz4.then(|| AlignedBuf::new(usize::try_from(LZ4_sizeofState()).unwrap_or(0)));
        Some(Self { zstd, work, lz4, levels: levels.to_vec(), max_raw })
    }

    /// Bytes of working memory.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.work.len() + self.lz4.as_ref().map_or(0, |b| b.len())
    }

    /// Packs `raw` into one zstd frame at the start of `out`. `None` when it does not
    /// fit, or for a level or length that this was not made for.
    pub fn zstd(&mut self, level: i32, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        if raw.len() > self.max_raw || !self.levels.contains(&level) {
            return None;
        }
        let context = self.zstd?;
        let frame = ZSTD_frameParameters { contentSizeFlag: 1, checksumFlag: 0, noDictIDFlag: 1 };
        let params = ZSTD_parameters { cParams: params(level, raw.len()), fParams: frame };
        // SAFETY: the context was made in new() and is used by one thread at a time
        // (&mut self); both slices are valid for their lengths and do not overlap; there is
        // no dictionary.
        let len = unsafe {
            zstd_sys::ZSTD_compress_advanced(
                context.as_ptr(),
                out.as_mut_ptr().cast(),
                out.len(),
                raw.as_ptr().cast(),
                raw.len(),
                std::ptr::null(),
                0,
                params,
            )
        };
        // SAFETY: a pure function of a number.
        let failed = unsafe { zstd_sys::ZSTD_isError(len) } != 0;
        (!failed && len <= out.len()).then_some(len)
    }

    /// Packs `raw` into one LZ4 block at the start of `out`. `None` when it does not fit.
    pub fn lz4(&mut self, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        let state = self.lz4.as_mut()?.as_mut_ptr().cast::<c_void>();
        let (from, to) = (c_int::try_from(raw.len()).ok()?, c_int::try_from(out.len()).ok()?);
        // SAFETY: `state` is LZ4_sizeofState() bytes, 8-byte aligned, used by one thread
        // at a time; both slices are valid for their lengths and do not overlap.
        let len = unsafe {
            LZ4_compress_fast_extState(
                state,
                raw.as_ptr().cast(),
                out.as_mut_ptr().cast(),
                from,
                to,
                1,
            )
        };
        usize::try_from(len).ok().filter(|n| *n > 0 && *n <= out.len())
    }
}

/// Level 1 on pages of memory. zstd's own table of 64 KiB (`hashLog` 14) is more than the
/// first cache holds beside a page; one of 16 KiB stays there. Measured on 150 MiB of a
/// guest's memory, chunk by chunk in turn, against zstd's own 14 and 7 for 64 pages and
/// their runs: 7 % less time, 0.6 % more bytes. 13 and 6: 4 % and 0.5 % fewer bytes; 12 and
/// 7: 11 % and 2 % more bytes; 15 costs 10 % more time for 0.6 % of the bytes.
const HASH_LOG: u32 = 12;
const MIN_MATCH: u32 = 6;

/// What zstd takes for a level and a size (`ZSTD_getCParams()`), except at level 1.
fn params(level: i32, size: usize) -> ZSTD_compressionParameters {
    // SAFETY: a pure function of numbers.
    let own = unsafe { zstd_sys::ZSTD_getCParams(level, size as u64, 0) };
    match level {
        1 => ZSTD_compressionParameters {
            hashLog: own.hashLog.min(HASH_LOG),
            minMatch: MIN_MATCH,
            ..own
        },
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize) -> Vec<u8> {
        let mut x = 1u64;
        let word = |x: &mut u64| {
            *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("page {} of {:x}; ", (*x >> 60), *x >> 50)
        };
        let mut out = Vec::new();
        while out.len() < len {
            out.extend(word(&mut x).bytes());
        }
        out.truncate(len);
        out
    }

    #[test]
    fn every_level_and_size_fits_its_workspace() {
        let levels = [-5, 1, 3, 6, 9];
        let mut codecs = Codecs::new(300_000, &levels, true).unwrap();
        let mut out = vec![0; 310_000];
        for len in [1, 100, 5000, 16_384, 16_385, 131_072, 200_000, 262_144, 300_000] {
            let raw = text(len);
            // Many times small, then large again: nothing may shrink in between.
            for level in levels {
                for _ in 0..3 {
                    let n = codecs.zstd(level, &raw, &mut out).unwrap();
                    let back = zstd::bulk::decompress(&out[..n], len).unwrap();
                    assert!(back == raw, "level {level}, {len} bytes");
                }
            }
            let n = codecs.lz4(&raw, &mut out).unwrap();
            let back = lz4_flex::block::decompress(&out[..n], len).unwrap();
            assert!(back == raw, "lz4, {len} bytes");
        }
        for _ in 0..300 {
            assert!(codecs.zstd(1, &text(50), &mut out).is_some());
        }
        assert!(codecs.zstd(9, &text(300_000), &mut out).is_some());
    }

    #[test]
    fn what_does_not_fit_is_no_answer() {
        let mut codecs = Codecs::new(10_000, &[1], true).unwrap();
        let mut out = vec![0; 20_000];
        let noise: Vec<u8> = (0..10_000u32)
            .map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()[0] ^ n.to_le_bytes()[0])
            .collect();
        assert!(codecs.zstd(1, &noise, &mut out[..100]).is_none());
        assert!(codecs.lz4(&noise, &mut out[..100]).is_none());
        assert!(codecs.zstd(2, &noise, &mut out).is_none(), "not made for that level");
        assert!(codecs.zstd(1, &text(10_001), &mut out).is_none(), "longer than promised");
        let mut none = Codecs::new(10_000, &[], false).unwrap();
        assert!(none.zstd(1, &noise, &mut out).is_none() && none.lz4(&noise, &mut out).is_none());
    }
}
