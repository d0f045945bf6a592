//! A file as far as the dead machine's memory and swap hold it.

use std::io::{Seek, SeekFrom, Write};

use lifeboat_format::is_zero;

use crate::PAGE;
use crate::machine::Hole;
use crate::swapped::{SwapEntry, Swapped};

use super::{Cache, Cached, Mapping};

const PAGE64: u64 = PAGE as u64;
/// Largest file that is given back: file offsets are signed, and ext4 ends at 16 TiB.
const MAX_SIZE: u64 = 16 << 40;
/// Most pages that are looked at, however large the file says it is: 1 TiB.
const MAX_PAGES: u64 = 1 << 28;
/// As many of them does a stretch count for that is not there: a damaged file has nothing
/// but those.
const MISS: u64 = 256;

/// Why a file is not given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// It cannot be written.
    #[error("the file cannot be written\nhint: free space at the destination, or write elsewhere")]
    Write(#[from] std::io::Error),
    /// It is too large to be.
    #[error(
        "the dead kernel says that the file has {0} bytes, which cannot be\nhint: its inode is damaged"
    )]
    Size(u64),
}

/// Pages of a file that are missing, all for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Number of the first one.
    pub page: u64,
    /// How many.
    pub pages: u64,
    /// Why.
    pub why: Hole,
}

/// What was given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Bytes of the file.
    pub len: u64,
    /// Pages that were in memory or on swap, and those that are zeros by right.
    pub pages: u64,
    /// What is missing, in order. There is a hole of the file in its place.
    pub gaps: Vec<Gap>,
}

impl Extracted {
    /// Pages that are missing.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.gaps.iter().fold(0, |sum, g| sum.saturating_add(g.pages))
    }

    fn miss(&mut self, page: u64, pages: u64, why: Hole) {
        match self.gaps.last_mut() {
            Some(last) if last.why == why && last.page.saturating_add(last.pages) == page => {
                last.pages += pages;
            }
            _ => self.gaps.push(Gap { page, pages, why }),
        }
    }
}

/// Writes the file `of` into `out`, from its start. What is missing is left out: a hole of
/// the file, told in the report.
///
/// # Errors
/// [`ExtractError`].
pub fn extract<W: Write + Seek>(
    cache: &Cache<'_, '_>,
    swapped: Option<&Swapped<'_, '_>>,
    of: &Mapping,
    mut out: W,
) -> Result<Extracted, ExtractError> {
    if of.size > MAX_SIZE {
        return Err(ExtractError::Size(of.size));
    }
    let pages = of.size.div_ceil(PAGE64);
    let mut report = Extracted { len: of.size, ..Extracted::default() };
    let (mut at, mut looked, mut written) = (0, 0, 0);
    let mut page = [0; PAGE];
    while at < pages {
        if looked >= MAX_PAGES {
            report.miss(at, pages - at, Hole::Malformed);
            break;
        }
        looked += 1;
        if let Some((gap, what)) = cache.gap(of, at) {
            let gap = gap.clamp(1, pages - at);
            match what {
                Ok(()) => report.pages += gap,
                Err(why) => report.miss(at, gap, why),
            }
            looked += MISS;
            at += gap;
            continue;
        }
        let found = cache.read(of, at, &mut page).and_then(|found| match found {
            Cached::Swap(entry) => {
                let swapped = swapped.ok_or(Hole::Unsupported)?;
                swapped.page(SwapEntry::from_val(entry), &mut page).map(|_| ())
            }
            Cached::Page(_) | Cached::Untouched => Ok(()),
        });
        match found {
            Ok(()) => {
                report.pages += 1;
                if !is_zero(&page) {
                    let place = at * PAGE64;
                    let len = usize::try_from(of.size - place).unwrap_or(PAGE).min(PAGE);
                    if place != written {
                        out.seek(SeekFrom::Start(place))?;
                    }
                    let bytes = page.get(..len).unwrap_or(&page);
                    out.write_all(bytes)?;
                    written = place + bytes.len() as u64;
                }
            }
            Err(why) => {
                report.miss(at, 1, why);
                looked += MISS;
            }
        }
        at += 1;
    }
    finish(&mut out, of.size, written)?;
    Ok(report)
}

/// Makes the file as long as it was: its last byte, if nothing was written there.
fn finish<W: Write + Seek>(out: &mut W, size: u64, written: u64) -> Result<(), ExtractError> {
    if let Some(last) = size.checked_sub(1).filter(|_| written < size) {
        out.seek(SeekFrom::Start(last))?;
        out.write_all(&[0])?;
    }
    out.flush()?;
    Ok(())
}
