//! Deals out spans of pages to workers.

use std::sync::Mutex;

use lifeboat_format::{PageRange, Pfn};

/// Pages in a span, at least and at most. Large ones while there is much left, since
/// zero pages and those that are left out cost one small chunk a span at worst; small
/// ones at the end, so that no worker is left alone with a large one.
const MIN_SPAN: u64 = 2048;
const MAX_SPAN: u64 = 1 << 16;
/// A span is this part of what is left.
const PART: u64 = 16;

/// Where the workers are in a list of ranges.
#[derive(Debug)]
pub struct Cursor<'r> {
    ranges: &'r [PageRange],
    at: Mutex<At>,
}

#[derive(Debug)]
struct At {
    /// Index of the current range, and the next page in it.
    range: usize,
    page: u64,
    /// Pages that are not yet dealt out.
    left: u64,
}

impl<'r> Cursor<'r> {
    /// At the start of `ranges`, which are disjoint and ascending.
    #[must_use]
    pub fn new(ranges: &'r [PageRange]) -> Self {
        let left = sum(ranges);
        Self { ranges, at: Mutex::new(At { range: 0, page: 0, left }) }
    }

    /// Pages in all ranges.
    #[must_use]
    pub fn total(&self) -> u64 {
        sum(self.ranges)
    }

    /// The next span of at most 65536 pages (256 MiB), within one range.
    pub fn next(&self) -> Option<PageRange> {
        let mut at = self.at.lock().ok()?;
        loop {
            let range = self.ranges.get(at.range)?;
            let start = range.start.0.max(at.page);
            if start >= range.end.0 {
                (at.range, at.page) = (at.range + 1, 0);
                continue;
            }
            let span = (at.left / PART).clamp(MIN_SPAN, MAX_SPAN);
            let end = start.saturating_add(span).min(range.end.0);
            at.left = at.left.saturating_sub(end - start);
            at.page = end;
            return Some(PageRange { start: Pfn(start), end: Pfn(end) });
        }
    }
}

/// Pages in all of `ranges`.
pub(crate) fn sum(ranges: &[PageRange]) -> u64 {
    ranges.iter().map(|r| r.pages()).fold(0, u64::saturating_add)
}
