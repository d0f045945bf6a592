//! What is in a vmcore, page by page: zeros, repeats of one word, duplicates, and
//! bytes that nothing compresses.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::path::Path;

use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::vmcore::Core;

const PAGE: usize = 4096;
/// One page of so many is compressed to see whether it can be.
const SAMPLE: u64 = 8;
/// A page that zstd 1 leaves at more than this is random for our purpose, in bytes.
const RANDOM: usize = 3900;

/// Counts of pages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Survey {
    /// All.
    pub pages: u64,
    /// Those that are zero.
    pub zero: u64,
    /// Those of one word of 8 bytes, again and again, zero left out.
    pub word: u64,
    /// Those equal to an earlier page, zero and one-word pages left out.
    pub duplicate: u64,
    /// Of those compressed alone: how many there were, how many did not shrink,
    /// and the bytes that came out, zero pages left out.
    pub sampled: u64,
    /// See `sampled`.
    pub random: u64,
    /// See `sampled`.
    pub out: u64,
}

/// Looks at every page of a vmcore.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn pages(vmcore: &Path) -> Res<Survey> {
    let core = Core::open(vmcore)?;
    let mut survey = Survey::default();
    let mut seen: HashMap<u64, ()> = HashMap::new();
    let hasher = RandomState::new();
    let mut packer = zstd::bulk::Compressor::new(1).ctx("zstd")?;
    for range in core.memory() {
        walk(&core, range, |memory| {
            for page in memory.chunks_exact(PAGE) {
                survey.pages += 1;
                if page.iter().all(|b| *b == 0) {
                    survey.zero += 1;
                } else if one_word(page) {
                    survey.word += 1;
                } else if seen.insert(hasher.hash_one(page), ()).is_some() {
                    survey.duplicate += 1;
                }
                if survey.pages % SAMPLE == 0 && page.iter().any(|b| *b != 0) {
                    let out = packer.compress(page).ctx("zstd")?.len();
                    survey.sampled += 1;
                    survey.out += out.min(PAGE) as u64;
                    survey.random += u64::from(out > RANDOM);
                }
            }
            Ok(())
        })?;
    }
    Ok(survey)
}

/// Gives a range of a vmcore's memory to `take`, up to 1 MiB at a time.
///
/// # Errors
/// Those of `take`; when the range cannot be read or has a hole.
pub(crate) fn walk(
    core: &Core,
    range: Range<u64>,
    mut take: impl FnMut(&[u8]) -> Res<()>,
) -> Res<()> {
    let mut buf = vec![0u8; 256 * PAGE];
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buf.len());
        let got = core.read(at, buf.get_mut(..want).unwrap_or_default())?;
        ensure(got > 0, "a hole in the vmcore")?;
        take(buf.get(..got).unwrap_or_default())?;
        at += got as u64;
    }
    Ok(())
}

/// Whether a page is one word of 8 bytes again and again, such as zero.
#[must_use]
pub(crate) fn one_word(page: &[u8]) -> bool {
    page.chunks(8).all(|w| Some(w) == page.get(..8))
}

/// A part of a whole in percent.
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.pages;
        writeln!(f, "  {} pages dumped ({} MiB):", all, all * 4 / 1024)?;
        writeln!(f, "    {:5.1} % zero", percent(self.zero, all))?;
        writeln!(f, "    {:5.1} % one word repeated", percent(self.word, all))?;
        writeln!(f, "    {:5.1} % equal to an earlier page", percent(self.duplicate, all))?;
        let random = (all - self.zero) * self.random / self.sampled.max(1);
        writeln!(
            f,
            "    {:5.1} % that zstd 1 does not shrink (of every {SAMPLE}th page)",
            percent(random, all)
        )?;
        writeln!(
            f,
            "    single pages without zero pages shrink to {:.1} % (zstd 1)",
            percent(self.out, self.sampled * PAGE as u64)
        )
    }
}
