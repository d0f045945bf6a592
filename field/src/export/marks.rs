//! What became of each page of memory while chunks are decoded on several threads: four
//! bits a page, and nothing for long stretches of one kind.
//!
//! Memory: 2 KiB for each 4096 pages that are not all alike, 128 MiB for a machine of 1 TiB
//! in layers. A dump of a few bytes can claim any number of pages: so at most 64 TiB are
//! taken, and what is not all alike may take [`FREE`] and 64 times the dump's length.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use lifeboat_format::PageRange;

use super::ExportError;

/// Most pages: 64 TiB of memory, and 100 MB for the table of blocks.
const MAX_PAGES: u64 = 1 << 34;
/// Bytes of marks that any dump may take.
const FREE: u64 = 16 << 20;
/// Pages of a block.
pub(super) const BLOCK: u64 = 4096;
/// Bits of a page.
const BITS: u64 = 4;
/// Pages of a word.
const LANES: u64 = 64 / BITS;
/// Words of a block.
const WORDS: usize = 256;
/// The low bit of each page.
const LOW: u64 = 0x1111_1111_1111_1111;

/// Pages as stretches in ascending order, with a number for each page from 0 on.
#[derive(Debug, Default)]
pub(super) struct Span {
    /// Disjoint stretches, each with the number of its first page.
    ranges: Vec<(PageRange, u64)>,
    pages: u64,
}

impl Span {
    /// Of stretches that are sorted and disjoint.
    pub(super) fn new(ranges: &[PageRange]) -> Self {
        let mut pages = 0u64;
        let with_rank = |r: &PageRange| {
            let before = pages;
            pages = pages.saturating_add(r.pages());
            (*r, before)
        };
        let ranges = ranges.iter().map(with_rank).collect();
        Self { ranges, pages }
    }

    /// How many pages.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// First page behind them all.
    pub(super) fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |(r, _)| r.end.0)
    }

    /// How many stretches.
    pub(super) fn stretches(&self) -> usize {
        self.ranges.len()
    }

    /// A page's number.
    pub(super) fn rank(&self, page: u64) -> Option<u64> {
        let index = self.ranges.partition_point(|(r, _)| r.end.0 <= page);
        let (range, before) = self.ranges.get(index)?;
        Some(before + page.checked_sub(range.start.0)?)
    }

    /// The numbers of `page` and those behind it, at most `most`, as far as they lie in one
    /// stretch; or how many of those `most` pages lie in none before one begins.
    pub(super) fn stretch(&self, page: u64, most: u64) -> Result<Range<u64>, u64> {
        let index = self.ranges.partition_point(|(r, _)| r.end.0 <= page);
        match self.ranges.get(index) {
            Some((range, _)) if page < range.start.0 => Err(most.min(range.start.0 - page)),
            Some((range, before)) => {
                let start = before + (page - range.start.0);
                Ok(start..start + most.min(range.end.0 - page))
            }
            None => Err(most),
        }
    }

    /// The numbers of pages that lie in one stretch.
    pub(super) fn ranks(&self, pages: PageRange) -> Option<Range<u64>> {
        let index = self.ranges.partition_point(|(r, _)| r.end <= pages.start);
        let (range, before) = self.ranges.get(index)?;
        let fits = range.start <= pages.start && pages.end <= range.end;
        let start = fits.then(|| before + (pages.start.0 - range.start.0))?;
        Some(start..start + pages.pages())
    }

    /// The pages with these numbers.
    pub(super) fn pages_of(&self, ranks: Range<u64>) -> impl Iterator<Item = PageRange> {
        let from = self.ranges.partition_point(|(r, before)| before + r.pages() <= ranks.start);
        let rest = self.ranges.get(from..).unwrap_or_default();
        let end = ranks.end;
        rest.iter().take_while(move |(_, before)| *before < end).map(move |(r, before)| {
            let skip = ranks.start.saturating_sub(*before);
            let len = (ranks.end - before).min(r.pages());
            PageRange::new(r.start.0 + skip, r.start.0 + len)
        })
    }
}

/// What is known of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// No chunk has answered for it.
    Nothing = 0,
    /// Its contents are stored.
    Data = 1,
    /// It is zero, or of one word.
    Plain = 2,
    /// It is to have the contents of another page.
    Same = 3,
    /// It was to have those of a page that is not stored.
    Lost = 4,
    /// The capturer could not read it.
    Unreadable = 5,
    /// It was left out.
    Excluded = 6,
}

impl Mark {
    fn of(bits: u64) -> Self {
        match bits & 7 {
            0 => Self::Nothing,
            1 => Self::Data,
            2 => Self::Plain,
            3 => Self::Same,
            4 => Self::Lost,
            5 => Self::Unreadable,
            _ => Self::Excluded,
        }
    }
}

enum Block {
    /// All pages alike.
    All(Mark),
    Mixed(Box<[u64; WORDS]>),
}

/// A mark for each page of a [`Span`].
pub(super) struct Marks {
    blocks: Vec<Mutex<Block>>,
    pages: u64,
    /// Bytes that blocks with unlike pages may take still.
    left: AtomicU64,
}

impl Marks {
    /// Marks for `pages` pages of a dump of `len` bytes, all of them [`Mark::Nothing`].
    ///
    /// # Errors
    /// [`ExportError::TooLarge`].
    pub(super) fn new(pages: u64, len: u64) -> Result<Self, ExportError> {
        if pages > MAX_PAGES {
            return Err(ExportError::TooLarge { what: "over 64 TiB of memory".into() });
        }
        let blocks = (0..pages.div_ceil(BLOCK)).map(|_| Mutex::new(Block::All(Mark::Nothing)));
        let left = AtomicU64::new(FREE.saturating_add(len.saturating_mul(64)));
        Ok(Self { blocks: blocks.collect(), pages, left })
    }

    /// Marks pages. Those that have a mark already keep it, and are given to `twice`.
    ///
    /// # Errors
    /// [`ExportError::TooLarge`] when that takes more memory than a sound dump's would.
    pub(super) fn set(
        &self,
        ranks: Range<u64>,
        mark: Mark,
        twice: &mut impl FnMut(Range<u64>),
    ) -> Result<(), ExportError> {
        let mut at = ranks.start;
        while at < ranks.end {
            let base = at - at % BLOCK;
            let part = at - base..(ranks.end - base).min(BLOCK);
            at = base + part.end;
            let index = usize::try_from(base / BLOCK).unwrap_or(usize::MAX);
            let Some(block) = self.blocks.get(index) else { break };
            let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
            let whole = part.start == 0 && part.end == BLOCK.min(self.pages - base);
            if whole && matches!(*block, Block::All(Mark::Nothing)) {
                *block = Block::All(mark);
                continue;
            }
            self.set_part(&mut block, part, mark, &mut |r| twice(base + r.start..base + r.end))?;
        }
        Ok(())
    }

    /// The same within one block, whose pages are counted from its first.
    fn set_part(
        &self,
        block: &mut Block,
        part: Range<u64>,
        mark: Mark,
        twice: &mut impl FnMut(Range<u64>),
    ) -> Result<(), ExportError> {
        let words = match block {
            Block::Mixed(words) => words,
            Block::All(Mark::Nothing) => {
                let size = size_of::<[u64; WORDS]>() as u64;
                let take = |left: u64| left.checked_sub(size);
                self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(
                    |_| ExportError::TooLarge { what: "pages scattered over all addresses".into() },
                )?;
                *block = Block::Mixed(Box::new([0; WORDS]));
                let Block::Mixed(words) = block else { return Ok(()) };
                words
            }
            Block::All(_) => {
                twice(part);
                return Ok(());
            }
        };
        let (first, last) = (part.start / LANES, part.end.div_ceil(LANES));
        for (n, word) in (0u64..).zip(words.iter_mut()).take(usize::try_from(last).unwrap_or(0)) {
            if n < first {
                continue;
            }
            let base = n * LANES;
            let lanes = lanes(part.start.saturating_sub(base), (part.end - base).min(LANES));
            let had = (*word | *word >> 1 | *word >> 2) & LOW & lanes;
            let new = lanes & !(had * 15);
            *word |= new & (LOW * mark as u64);
            if had != 0 {
                each_lane(had, &mut |lane| twice(base + lane..base + lane + 1));
            }
        }
        Ok(())
    }

    /// All pages, as long stretches of one mark, ascending.
    pub(super) fn for_each(&self, give: impl FnMut(Range<u64>, Mark)) {
        let mut runs = Runs { start: 0, open: Mark::Nothing, give };
        for n in 0..self.blocks.len() {
            self.go_over(n, &mut runs);
        }
        runs.end(self.pages);
    }

    /// How many blocks there are, of [`BLOCK`] pages each.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The stretches of one mark within block `n`.
    pub(super) fn stretches(&self, n: usize, mark: Mark) -> Vec<Range<u64>> {
        let (mut out, start) = (Vec::new(), n as u64 * BLOCK);
        let give = |ranks, found| {
            if found == mark {
                out.push(ranks);
            }
        };
        let mut runs = Runs { start, open: Mark::Nothing, give };
        self.go_over(n, &mut runs);
        runs.end((start + BLOCK).min(self.pages));
        out
    }

    fn go_over<F: FnMut(Range<u64>, Mark)>(&self, n: usize, runs: &mut Runs<F>) {
        let base = n as u64 * BLOCK;
        let Some(block) = self.blocks.get(n) else { return };
        match &*block.lock().unwrap_or_else(PoisonError::into_inner) {
            Block::All(mark) => runs.go_on(base, *mark),
            Block::Mixed(words) => {
                for (at, word) in (base..self.pages).step_by(16).zip(words.iter()) {
                    // Most words are of one kind.
                    let first = Mark::of(*word);
                    if *word == LOW * first as u64 {
                        runs.go_on(at, first);
                        continue;
                    }
                    for lane in 0..LANES.min(self.pages - at) {
                        runs.go_on(at + lane, Mark::of(word >> (BITS * lane)));
                    }
                }
            }
        }
    }

    /// How many pages from `ranks.start` on are as `is` wants, one behind the other.
    pub(super) fn count(&self, ranks: Range<u64>, is: impl Fn(Mark) -> bool) -> u64 {
        let mut at = ranks.start;
        while at < ranks.end {
            let Some(block) = self.block(at) else { break };
            let end = (at - at % BLOCK + BLOCK).min(ranks.end);
            match &*block.lock().unwrap_or_else(PoisonError::into_inner) {
                Block::All(all) if is(*all) => at = end,
                Block::All(_) => break,
                Block::Mixed(words) => {
                    while at < end && is(mark_at(words, at)) {
                        at += 1;
                    }
                    if at < end {
                        break;
                    }
                }
            }
        }
        at - ranks.start
    }

    /// Puts [`Mark::Lost`] in place of [`Mark::Same`], which all of these pages have.
    pub(super) fn lose(&self, ranks: Range<u64>) {
        let mut at = ranks.start;
        while at < ranks.end {
            let Some(block) = self.block(at) else { break };
            let end = (at - at % BLOCK + BLOCK).min(ranks.end);
            let mut block = block.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*block, Block::All(Mark::Same)) {
                let whole = end - at == BLOCK || end == self.pages && at.is_multiple_of(BLOCK);
                *block = match whole {
                    true => Block::All(Mark::Lost),
                    false => Block::Mixed(Box::new([LOW * Mark::Same as u64; WORDS])),
                };
            }
            if let Block::Mixed(words) = &mut *block {
                for rank in at..end {
                    if let Some(word) = word_of(rank).and_then(|w| words.get_mut(w)) {
                        *word ^= (Mark::Same as u64 ^ Mark::Lost as u64) << lane_of(rank);
                    }
                }
            }
            at = end;
        }
    }

    fn block(&self, rank: u64) -> Option<&Mutex<Block>> {
        usize::try_from(rank / BLOCK).ok().and_then(|n| self.blocks.get(n))
    }
}

/// Which word of its block holds a page's mark.
fn word_of(rank: u64) -> Option<usize> {
    usize::try_from(rank % BLOCK / LANES).ok()
}

/// Where in that word.
fn lane_of(rank: u64) -> u64 {
    BITS * (rank % LANES)
}

fn mark_at(words: &[u64; WORDS], rank: u64) -> Mark {
    let word = word_of(rank).and_then(|w| words.get(w)).copied().unwrap_or(0);
    Mark::of(word >> lane_of(rank))
}

/// Joins neighbours of one mark.
struct Runs<F> {
    start: u64,
    open: Mark,
    give: F,
}

impl<F: FnMut(Range<u64>, Mark)> Runs<F> {
    /// From page `at` on, pages are `mark`.
    fn go_on(&mut self, at: u64, mark: Mark) {
        if mark != self.open {
            self.end(at);
            (self.start, self.open) = (at, mark);
        }
    }

    fn end(&mut self, at: u64) {
        if self.start < at {
            (self.give)(self.start..at, self.open);
        }
    }
}

/// All bits of pages `from` to `to` of a word.
fn lanes(from: u64, to: u64) -> u64 {
    if from >= to {
        return 0;
    }
    (u64::MAX >> (64 - BITS * (to - from))) << (BITS * from)
}

fn each_lane(mut low: u64, give: &mut impl FnMut(u64)) {
    while low != 0 {
        give(u64::from(low.trailing_zeros()) / BITS);
        low &= low - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: u64 = 3 * BLOCK + 77;

    fn any_sets() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        let len = prop_oneof![1u64..80, 1u64..9000, Just(BLOCK)];
        let at = prop_oneof![0u64..PAGES, (0u64..4).prop_map(|b| b * BLOCK)];
        proptest::collection::vec((at, len, 1u64..7), 0..20)
    }

    proptest! {
        #[test]
        fn marks_are_those_of_a_plain_list(sets in any_sets(), lost in 0u64..PAGES) {
            let marks = Marks::new(PAGES, 0).unwrap();
            let mut model = vec![Mark::Nothing; usize::try_from(PAGES).unwrap()];
            for (at, len, mark) in sets {
                let mark = Mark::of(mark);
                let ranks = at..(at + len).min(PAGES);
                let mut twice = Vec::new();
                marks.set(ranks.clone(), mark, &mut |r| twice.extend(r)).unwrap();
                let mut again = Vec::new();
                for page in ranks {
                    let slot = &mut model[usize::try_from(page).unwrap()];
                    if *slot == Mark::Nothing { *slot = mark } else { again.push(page) }
                }
                prop_assert_eq!(twice, again);
            }
            for n in 0..marks.blocks() {
                let mut same = Vec::new();
                let first = n as u64 * BLOCK;
                for rank in first..(first + BLOCK).min(PAGES) {
                    if model[usize::try_from(rank).unwrap()] == Mark::Same { same.push(rank) }
                }
                let found: Vec<u64> = marks.stretches(n, Mark::Same).into_iter().flatten().collect();
                prop_assert_eq!(found, same);
            }
            let end = (lost + 6000).min(PAGES);
            let ahead = model[usize::try_from(lost).unwrap()..usize::try_from(end).unwrap()].iter();
            let data = ahead.take_while(|m| **m == Mark::Data).count() as u64;
            prop_assert_eq!(marks.count(lost..end, |m| m == Mark::Data), data);
            for n in 0..marks.blocks() {
                for same in marks.stretches(n, Mark::Same) {
                    let part = same.start.clamp(lost, end)..same.end.clamp(lost, end);
                    marks.lose(part);
                }
            }
            for m in &mut model[usize::try_from(lost).unwrap()..usize::try_from(end).unwrap()] {
                if *m == Mark::Same { *m = Mark::Lost }
            }
            let (mut got, mut last) = (Vec::new(), None);
            marks.for_each(|ranks, mark| {
                assert_ne!(last, Some(mark), "neighbours are joined");
                last = Some(mark);
                assert_eq!(ranks.start, got.len() as u64);
                got.resize(usize::try_from(ranks.end).unwrap(), mark);
            });
            prop_assert!(got == model);
        }

        #[test]
        fn ranks_lead_back_to_pages(lens in proptest::collection::vec((1u64..50, 1u64..50), 1..8)) {
            let mut at = 0;
            let ranges: Vec<PageRange> = lens.iter().map(|(gap, len)| {
                let start = at + gap;
                at = start + len;
                PageRange::new(start, at)
            }).collect();
            let span = Span::new(&ranges);
            let all: Vec<u64> = ranges.iter().flat_map(|r| r.start.0..r.end.0).collect();
            prop_assert_eq!(span.pages(), all.len() as u64);
            prop_assert_eq!(span.end(), at);
            for page in 0..at + 3 {
                let want = all.binary_search(&page).ok().map(|n| n as u64);
                prop_assert_eq!(span.rank(page), want);
                if want.is_none() {
                    let next = all.iter().find(|p| **p > page).map_or(9, |p| (p - page).min(9));
                    prop_assert_eq!(span.stretch(page, 9), Err(next));
                }
            }
            for (n, page) in (0u64..).zip(&all) {
                for len in 1..40 {
                    let end = (n + len).min(span.pages());
                    let back: Vec<u64> = span.pages_of(n..end).flat_map(|r| r.start.0..r.end.0).collect();
                    prop_assert_eq!(&back[..], &all[usize::try_from(n).unwrap()..usize::try_from(end).unwrap()]);
                    let inside = (0..len).all(|i| span.rank(page + i) == Some(n + i));
                    let want = inside.then_some(n..n + len);
                    prop_assert_eq!(span.ranks(PageRange::new(*page, page + len)), want);
                    let here = (0..len).take_while(|i| span.rank(page + i) == Some(n + i)).count() as u64;
                    prop_assert_eq!(span.stretch(*page, len), Ok(n..n + here));
                }
            }
        }
    }

    #[test]
    fn what_a_few_bytes_claim_takes_little() {
        assert!(Marks::new(MAX_PAGES + 1, 1 << 40).is_err());
        let marks = Marks::new(1 << 30, 0).unwrap();
        // Whole blocks take nothing, however many.
        marks.set(0..1 << 29, Mark::Data, &mut |_| ()).unwrap();
        let mut blocks = (1 << 29..1 << 30).step_by(4096);
        let full = blocks
            .by_ref()
            .take_while(|at| marks.set(*at..at + 1, Mark::Data, &mut |_| ()).is_ok());
        assert_eq!(full.count() as u64, FREE / 2048);
    }
}
