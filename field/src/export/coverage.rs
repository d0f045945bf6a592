//! Which pages there are, which are missing, and why: known before a vmcore is
//! written, because its tables come first.
//!
//! Memory: some 24 bytes for each stretch of present or missing pages, at most 2^24
//! stretches; and for a whole dump in layers one bit for each page.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use lifeboat_format::{PAGE, PageClass, PageRange};

use super::{ExportError, Missing, Options, Why, pipeline};
use crate::dump::{
    DecodedChunk, MAX_STRETCHES, OpenDump, PageSpace, Piece, RangeSet, merge, subtract,
};

/// Most pages for which a bit each is kept: 8 TiB of memory, 256 MiB of bits.
const MAX_BITS: u64 = 1 << 31;

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
    /// By index of the chunk: pages that an earlier chunk holds as well, and whose
    /// contents are taken from there.
    surplus: BTreeMap<usize, Vec<PageRange>>,
    /// A bit for each present page, set when it is written. Kept where layers may
    /// overlap and nothing was looked into: it proves that none was left out.
    written: Option<Vec<AtomicU64>>,
}

impl Coverage {
    /// Of memory. Looks into chunks only if the dump is not known to be whole.
    pub(super) fn of_memory(dump: &OpenDump, options: &Options<'_>) -> Result<Self, ExportError> {
        let space = dump.memory();
        let wanted = &dump.meta().ranges;
        let commit = dump.commit().filter(|_| !options.skip_damaged && !dump.is_parted());
        let whole = commit.map(|c| c.memory).filter(|m| m.unreadable == 0 && m.excluded == 0);
        match whole {
            Some(_) if !space.is_layered() => {
                let all = space.entries().iter().map(|e| pages_of(e.first.0, e.pages));
                let mut coverage = Self::build(merge(all.collect()), wanted, Vec::new());
                coverage.by_commit = true;
                return Ok(coverage);
            }
            // Every page that was asked for is there: its layer does not matter yet.
            Some(m) if m.data.checked_add(m.zero) == Some(m.asked) && m.asked <= MAX_BITS => {
                let mut coverage = Self::build(wanted.clone(), wanted, Vec::new());
                if coverage.pages == m.asked {
                    coverage.by_commit = true;
                    let words = usize::try_from(m.asked.div_ceil(64)).unwrap_or(0);
                    coverage.written = Some((0..words).map(|_| AtomicU64::new(0)).collect());
                    return Ok(coverage);
                }
            }
            _ => {}
        }
        let (captured, missing, surplus) = look(&space, options)?;
        if !options.skip_damaged
            && let Some(twice) = surplus.values().flatten().next()
        {
            return Err(ExportError::Contradiction { page: twice.start.0 });
        }
        Ok(Self { surplus, ..Self::build(captured, wanted, missing) })
    }

    /// From what was captured, what was wanted, and the holes in what was captured.
    pub(super) fn build(
        captured: Vec<PageRange>,
        wanted: &[PageRange],
        mut missing: Vec<Missing>,
    ) -> Self {
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
        Self { present, ram, missing, pages, ..Self::default() }
    }

    /// The runs of chunk number `index` that are to be written.
    ///
    /// # Errors
    /// [`ExportError::Contradiction`] for a page that should not be here.
    pub(super) fn pieces<'c>(
        &self,
        index: usize,
        chunk: &'c DecodedChunk,
    ) -> Result<Vec<Piece<'c>>, ExportError> {
        let mut out = Vec::new();
        for piece in chunk.pieces() {
            if piece.class == PageClass::Elsewhere {
                continue;
            }
            if reason(piece.class).is_some() {
                if self.by_commit {
                    return Err(ExportError::Contradiction { page: piece.first.0 });
                }
                continue;
            }
            match self.surplus.get(&index) {
                None => {
                    self.mark(pages_of(piece.first.0, piece.pages))?;
                    out.push(piece);
                }
                Some(surplus) => {
                    let whole = [pages_of(piece.first.0, piece.pages)];
                    out.extend(subtract(&whole, surplus).iter().map(|r| part(&piece, *r)));
                }
            }
        }
        Ok(out)
    }

    /// Takes note that pages are written; none may be written twice.
    fn mark(&self, pages: PageRange) -> Result<(), ExportError> {
        let Some(bits) = &self.written else { return Ok(()) };
        let wrong = || ExportError::Contradiction { page: pages.start.0 };
        let inside = self.within(pages.start.0, pages.end.0).map(|r| r.pages()).sum::<u64>();
        if inside != pages.pages() {
            return Err(wrong());
        }
        let mut at = self.rank(pages.start.0);
        let end = at + inside;
        while at < end {
            let take = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - take)) << (at % 64);
            let word = usize::try_from(at / 64).ok().and_then(|i| bits.get(i)).ok_or_else(wrong)?;
            if word.fetch_or(mask, Ordering::Relaxed) & mask != 0 {
                return Err(wrong());
            }
            at += take;
        }
        Ok(())
    }

    /// After all was written: whether that is all that the tables speak of.
    ///
    /// # Errors
    /// [`ExportError::Contradiction`], naming the first page that no chunk holds.
    pub(super) fn check_written(&self) -> Result<(), ExportError> {
        let Some(bits) = &self.written else { return Ok(()) };
        let mut at = 0u64;
        for (word, bits) in bits.iter().enumerate() {
            let left = self.pages.saturating_sub(word as u64 * 64).min(64);
            let ones = u64::from(bits.load(Ordering::Relaxed).trailing_ones());
            at = word as u64 * 64 + ones;
            if ones < left {
                let index = self.present.partition_point(|(_, before)| *before <= at);
                let held = index.checked_sub(1).and_then(|i| self.present.get(i));
                let page = held.map_or(0, |(r, before)| r.start.0 + (at - before));
                return Err(ExportError::Contradiction { page });
            }
        }
        debug_assert!(at >= self.pages, "every present page has a bit");
        Ok(())
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

/// What a chunk turned out to hold.
enum Looked {
    /// Contents for all of its pages.
    Whole,
    /// The pages that it answers for, and those of them without contents.
    Part(Vec<PageRange>, Vec<Missing>),
    Damaged,
}

type Found = (Vec<PageRange>, Vec<Missing>, BTreeMap<usize, Vec<PageRange>>);

/// Decodes the chunks that may hold pages without contents, or of another layer. Gives
/// what was captured, what of it is missing, and what a chunk holds for the second time.
fn look(space: &PageSpace<'_>, options: &Options<'_>) -> Result<Found, ExportError> {
    let (dump, entries) = (space.dump(), space.entries());
    let (mut looked, mut suspects, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (n, entry) in entries.iter().enumerate() {
        match dump.read_header(entry) {
            Ok(header) if u64::from(header.data_pages) == header.pages && !options.skip_damaged => {
                looked.push(Looked::Whole);
                continue;
            }
            Err(e) if !options.skip_damaged => return Err(e.into()),
            _ => {}
        }
        looked.push(Looked::Damaged);
        suspects.push(*entry);
        places.push(n);
    }
    let stretches = AtomicUsize::new(0);
    let results = Mutex::new(looked);
    let quiet = Options { progress: None, ..*options };
    pipeline::for_each(
        dump,
        &suspects,
        &quiet,
        || Ok(()),
        None,
        |(), index, chunk| {
            let Ok(chunk) = chunk else { return Ok(()) };
            let claims = chunk.claims();
            let holes: Vec<Missing> = chunk
                .pieces()
                .filter_map(|p| {
                    let pages = pages_of(p.first.0, p.pages);
                    reason(p.class).map(|why| Missing { pages, why })
                })
                .collect();
            let count = claims.len() + holes.len();
            if stretches.fetch_add(count, Ordering::Relaxed) + count > MAX_STRETCHES {
                return Err(ExportError::TooLarge { what: "over 2^24 stretches of memory".into() });
            }
            let mut all = results.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = places.get(index).and_then(|n| all.get_mut(*n)) {
                *slot = Looked::Part(claims, holes);
            }
            Ok(())
        },
    )?;
    let looked = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(settle(space, looked))
}

/// Chunk by chunk, in the order in which a page is looked for: the first that answers
/// for it holds it.
fn settle(space: &PageSpace<'_>, looked: Vec<Looked>) -> Found {
    let (mut held, mut missing, mut surplus) = (RangeSet::default(), Vec::new(), BTreeMap::new());
    let mut damaged = Vec::new();
    for (n, (entry, looked)) in space.entries().iter().zip(looked).enumerate() {
        let whole = pages_of(entry.first.0, entry.pages);
        let (claims, holes) = match looked {
            Looked::Whole => (vec![whole], Vec::new()),
            Looked::Part(claims, holes) => (claims, holes),
            Looked::Damaged => {
                damaged.push(whole);
                continue;
            }
        };
        let mut twice = Vec::new();
        for claim in claims {
            held.insert(claim, &mut |again| twice.push(again));
        }
        let twice = merge(twice);
        for hole in holes {
            let left = subtract(&[hole.pages], &twice);
            missing.extend(left.into_iter().map(|pages| Missing { pages, why: hole.why }));
        }
        if !twice.is_empty() {
            surplus.insert(n, twice);
        }
    }
    // Which pages of its range a damaged chunk held is not known: those of no other.
    let lost = subtract(&merge(damaged), &held.ranges());
    for pages in lost {
        held.insert(pages, &mut |_| {});
        missing.push(Missing { pages, why: Why::Damaged });
    }
    (held.ranges(), missing, surplus)
}

fn pages_of(first: u64, pages: u64) -> PageRange {
    PageRange::new(first, first.saturating_add(pages))
}

/// The pages of `piece` within `pages`, which lies in it.
fn part<'c>(piece: &Piece<'c>, pages: PageRange) -> Piece<'c> {
    let skip = usize::try_from(pages.start.0 - piece.first.0).unwrap_or(0) * PAGE;
    let len = usize::try_from(pages.pages()).unwrap_or(0).saturating_mul(PAGE);
    let data = match piece.class {
        PageClass::Data => piece.data.get(skip..).and_then(|d| d.get(..len)).unwrap_or_default(),
        _ => &[],
    };
    let class = piece.class.ahead(pages.start.0 - piece.first.0);
    Piece { first: pages.start, pages: pages.pages(), class, data }
}

/// Why pages of a class are missing, if they are.
pub(super) fn reason(class: PageClass) -> Option<Why> {
    match class {
        // A page of another layer is that layer's to tell of.
        PageClass::Data
        | PageClass::Zero
        | PageClass::Fill(_)
        | PageClass::Same(_)
        | PageClass::Elsewhere => None,
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
        fn ranks_count_present_pages(wanted in ranges(), holes in ranges()) {
            let missing = holes.iter().map(|p| Missing { pages: *p, why: Why::Unreadable }).collect();
            let c = Coverage::build(wanted.clone(), &[], missing);
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
