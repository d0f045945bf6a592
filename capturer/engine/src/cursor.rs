//! Deals out spans of pages to workers.

use std::sync::Mutex;

use lifeboat_format::{PageRange, Pfn};

/// Most pages in a span: zero pages cost one small chunk a span at worst.
const SPAN_PAGES: u64 = 8192;

/// Where the workers are in a list of ranges.
#[derive(Debug)]
pub struct Cursor<'r> {
    ranges: &'r [PageRange],
    /// Index of the current range, and the next page in it.
    at: Mutex<(usize, u64)>,
}

impl<'r> Cursor<'r> {
    /// At the start of `ranges`, which are disjoint and ascending.
    #[must_use]
    pub fn new(ranges: &'r [PageRange]) -> Self {
        Self { ranges, at: Mutex::new((0, 0)) }
    }

    /// Pages in all ranges.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|r| r.pages()).fold(0, u64::saturating_add)
    }

    /// The next span of at most 8192 pages (32 MiB), within one range.
    pub fn next(&self) -> Option<PageRange> {
        let mut at = self.at.lock().ok()?;
        loop {
            let range = self.ranges.get(at.0)?;
            let start = range.start.0.max(at.1);
            if start >= range.end.0 {
                *at = (at.0 + 1, 0);
                continue;
            }
            let end = start.saturating_add(SPAN_PAGES).min(range.end.0);
            at.1 = end;
            return Some(PageRange { start: Pfn(start), end: Pfn(end) });
        }
    }
}
