//! Which pages there are, which are missing, and why: known before a vmcore is
//! written, because its tables come first.

use std::sync::{Mutex, PoisonError};

use lifeboat_format::{IndexEntry, PageClass, PageRange};

use super::{ExportError, Missing, Options, Why, pipeline};
use crate::dump::{OpenDump, PageSpace, merge};

/// What a space of pages holds.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Pages with contents or zero, ascending, disjoint; each with the number of
    /// present pages before it.
    present: Vec<(PageRange, u64)>,
    /// All pages that were to be captured, and those that were.
    pub(super) ram: Vec<PageRange>,
    /// Those of them that are not present.
    pub(super) missing: Vec<Missing>,
    /// Present pages in all.
    pub(super) pages: u64,
    /// Nothing was looked into, because the commit record says that no captured
    /// page lacks its contents.
    pub(super) by_commit: bool,
}

impl Coverage {
    /// Of memory. Looks into chunks only if the dump is not known to be whole.
    pub(super) fn of_memory(dump: &OpenDump, options: &Options<'_>) -> Result<Self, ExportError> {
        let space = dump.memory();
        let whole =
            dump.commit().is_some_and(|c| c.memory.unreadable == 0 && c.memory.excluded == 0);
        let by_commit = whole && !options.skip_damaged;
        let holes = if by_commit { Vec::new() } else { find_holes(&space, options)? };
        let mut coverage = Self::build(space.entries(), &dump.meta().ranges, holes);
        coverage.by_commit = by_commit;
        Ok(coverage)
    }

    /// From chunks, what was wanted, and the holes within the chunks.
    pub(super) fn build(
        entries: &[IndexEntry],
        wanted: &[PageRange],
        mut missing: Vec<Missing>,
    ) -> Self {
        let captured = entries.iter().map(|e| PageRange::new(e.first.0, e.first.0 + e.pages));
        let captured = merge(captured.collect());
        let ram = merge(captured.iter().chain(wanted).copied().collect());
        let never = subtract(&ram, &captured);
        missing.extend(never.into_iter().map(|pages| Missing { pages, why: Why::NotCaptured }));
        let missing = join(missing);
        let holes: Vec<PageRange> = missing.iter().map(|m| m.pages).collect();
        let mut pages = 0u64;
        let present = subtract(&ram, &holes)
            .into_iter()
            .map(|range| {
                let before = pages;
                pages += range.pages();
                (range, before)
            })
            .collect();
        Self { present, ram, missing, pages, by_commit: false }
    }

    /// Number of present pages before `page`.
    pub(super) fn rank(&self, page: u64) -> u64 {
        let index = self.present.partition_point(|(r, _)| r.end.0 <= page);
        match self.present.get(index) {
            Some((r, before)) => before + page.saturating_sub(r.start.0),
            None => self.pages,
        }
    }

    /// The present pages.
    pub(super) fn present(&self) -> impl Iterator<Item = PageRange> {
        self.present.iter().map(|(r, _)| *r)
    }

    /// The present pages within `[start, end)`.
    pub(super) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = PageRange> {
        let from = self.present.partition_point(|(r, _)| r.end.0 <= start);
        self.present
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(move |(r, _)| r.start.0 < end)
            .map(move |(r, _)| PageRange::new(r.start.0.max(start), r.end.0.min(end)))
    }

    /// First page behind all that were to be captured.
    pub(super) fn end(&self) -> u64 {
        self.ram.last().map_or(0, |r| r.end.0)
    }
}

/// Decodes the chunks that may hold pages without contents.
fn find_holes(space: &PageSpace<'_>, options: &Options<'_>) -> Result<Vec<Missing>, ExportError> {
    let dump = space.dump();
    let mut suspects = Vec::new();
    for entry in space.entries() {
        match dump.read_header(entry) {
            Ok(header) if u64::from(header.data_pages) == header.pages && !options.skip_damaged => {
            }
            Ok(_) => suspects.push(*entry),
            Err(_) if options.skip_damaged => suspects.push(*entry),
            Err(e) => return Err(e.into()),
        }
    }
    let holes = Mutex::new(Vec::new());
    let quiet = Options { progress: None, ..*options };
    pipeline::for_each(
        dump,
        &suspects,
        &quiet,
        || Ok(()),
        None,
        |(), index, chunk| {
            let mut found = Vec::new();
            match (chunk, suspects.get(index)) {
                (Ok(chunk), _) => found.extend(chunk.pieces().filter_map(|p| {
                    let pages = PageRange::new(p.first.0, p.first.0 + p.pages);
                    reason(p.class).map(|why| Missing { pages, why })
                })),
                (Err(_), Some(e)) => {
                    let pages = PageRange::new(e.first.0, e.first.0 + e.pages);
                    found.push(Missing { pages, why: Why::Damaged });
                }
                (Err(_), None) => {}
            }
            holes.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            Ok(())
        },
    )?;
    Ok(holes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Why pages of a class are missing, if they are.
pub(super) fn reason(class: PageClass) -> Option<Why> {
    match class {
        PageClass::Data | PageClass::Zero => None,
        PageClass::Unreadable => Some(Why::Unreadable),
        PageClass::Excluded => Some(Why::Excluded),
    }
}

/// Sorts; joins neighbours that are missing for the same reason.
pub(super) fn join(mut missing: Vec<Missing>) -> Vec<Missing> {
    missing.retain(|m| m.pages.pages() > 0);
    missing.sort_unstable_by_key(|m| m.pages.start);
    let mut out: Vec<Missing> = Vec::new();
    for next in missing {
        match out.last_mut() {
            Some(last) if next.pages.start == last.pages.end && next.why == last.why => {
                last.pages.end = next.pages.end;
            }
            _ => out.push(next),
        }
    }
    out
}

/// `from` without `what`; both ascending and disjoint.
pub(super) fn subtract(from: &[PageRange], what: &[PageRange]) -> Vec<PageRange> {
    let mut out = Vec::new();
    let mut holes = what.iter().peekable();
    for range in from {
        let mut at = range.start.0;
        while holes.next_if(|h| h.end.0 <= at).is_some() {}
        // A hole may reach into the next range: look at it without taking it.
        while let Some(hole) = holes.peek().copied().filter(|h| h.start.0 < range.end.0) {
            if hole.start.0 > at {
                out.push(PageRange::new(at, hole.start.0));
            }
            at = at.max(hole.end.0);
            if hole.end.0 >= range.end.0 {
                break;
            }
            holes.next();
        }
        if at < range.end.0 {
            out.push(PageRange::new(at, range.end.0));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ranges() -> impl Strategy<Value = Vec<PageRange>> {
        proptest::collection::vec((0u64..200, 0u64..30), 0..12)
            .prop_map(|v| merge(v.into_iter().map(|(s, n)| PageRange::new(s, s + n)).collect()))
    }

    fn set(ranges: &[PageRange]) -> BTreeSet<u64> {
        ranges.iter().flat_map(|r| r.start.0..r.end.0).collect()
    }

    proptest! {
        #[test]
        fn subtraction_is_that_of_sets(a in ranges(), b in ranges()) {
            let out = subtract(&a, &b);
            prop_assert_eq!(set(&out), &set(&a) - &set(&b));
            prop_assert!(out.windows(2).all(|w| w[0].end <= w[1].start));
        }

        #[test]
        fn ranks_count_present_pages(wanted in ranges(), holes in ranges()) {
            let missing = holes.iter().map(|p| Missing { pages: *p, why: Why::Unreadable }).collect();
            let entries: Vec<IndexEntry> = wanted.iter().map(|r| IndexEntry {
                offset: lifeboat_format::ByteOff(0), first: r.start, pages: r.pages(),
                stored_len: 0, kind: lifeboat_format::ChunkKind::Memory, device: 0,
            }).collect();
            let c = Coverage::build(&entries, &[], missing);
            let present: BTreeSet<u64> = c.present().flat_map(|r| r.start.0..r.end.0).collect();
            prop_assert_eq!(&present, &(&set(&wanted) - &set(&holes)));
            for page in 0..240 {
                prop_assert_eq!(c.rank(page), present.range(..page).count() as u64);
                let within: BTreeSet<u64> =
                    c.within(page, page + 17).flat_map(|r| r.start.0..r.end.0).collect();
                prop_assert_eq!(within, present.range(page..page + 17).copied().collect());
            }
        }
    }
}
