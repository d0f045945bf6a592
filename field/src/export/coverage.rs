//! Which pages there are, which are missing, and why: noted while chunks are decoded and
//! written, so that one pass over a dump is enough, and told when all of them were.
//!
//! Memory: that of [`Marks`], 16 or 24 bytes for each stretch of present or missing pages,
//! at most 2^24 stretches.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use lifeboat_format::{IndexEntry, PAGE, PageClass, PageRange};

use super::marks::{Mark, Marks, Span};
use super::{ExportError, Missing, Options, Why};
use crate::dump::{DecodedChunk, MAX_STRETCHES, OpenDump, Piece, merge, subtract};

/// What a space of pages holds, as far as it was looked into.
pub(super) struct Coverage {
    /// All pages that chunks cover or that were to be captured.
    span: Span,
    marks: Marks,
    wanted: Vec<PageRange>,
    /// Ranges of the chunks that are damaged, where they are to be skipped.
    damaged: Mutex<Vec<PageRange>>,
    skip_damaged: bool,
    /// The commit record says that no page that was captured lacks its contents.
    none_lost: bool,
    /// It says that every page that was asked for was captured.
    all_captured: bool,
}

/// What a space of pages turned out to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Pages with contents or zero, ascending, disjoint.
    pub(super) present: Vec<PageRange>,
    /// Those that are not, though they were to be captured, or were captured.
    pub(super) missing: Vec<Missing>,
}

impl Held {
    /// All pages that are known of, ascending.
    pub(super) fn ram(&self) -> Vec<PageRange> {
        merge(self.present.iter().copied().chain(self.missing.iter().map(|m| m.pages)).collect())
    }

    /// The present pages within `[start, end)`.
    pub(super) fn within(&self, start: u64, end: u64) -> impl Iterator<Item = PageRange> {
        let from = self.present.partition_point(|r| r.end.0 <= start);
        let rest = self.present.get(from..).unwrap_or_default();
        rest.iter()
            .take_while(move |r| r.start.0 < end)
            .map(move |r| PageRange::new(r.start.0.max(start), r.end.0.min(end)))
    }
}

impl Coverage {
    /// Of memory. Nothing is decoded yet.
    ///
    /// # Errors
    /// [`ExportError::Nothing`], [`ExportError::TooLarge`].
    pub(super) fn of_memory(dump: &OpenDump, options: &Options<'_>) -> Result<Self, ExportError> {
        let entries = dump.memory().entries();
        if entries.is_empty() {
            return Err(ExportError::Nothing);
        }
        let wanted = dump.meta().ranges.clone();
        let covered = entries.iter().map(|e| pages_of(e.first.0, e.pages));
        let mut all: Vec<PageRange> = merge(covered.collect());
        all.extend(&wanted);
        let span = Span::new(&merge(all));
        let commit = dump.commit().filter(|_| !options.skip_damaged && !dump.is_parted());
        let told = commit.map(|c| c.memory);
        let asked: u64 = wanted.iter().map(|r| r.pages()).sum();
        Ok(Self {
            marks: Marks::new(span.pages(), dump.file().len())?,
            span,
            wanted,
            damaged: Mutex::new(Vec::new()),
            skip_damaged: options.skip_damaged,
            none_lost: told.is_some_and(|m| m.unreadable == 0 && m.excluded == 0),
            all_captured: told.is_some_and(|m| m.asked == asked && m.seen() == asked),
        })
    }

    /// All pages that the output may have a place for.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Most stretches of present pages that there can be, as far as that is known before
    /// anything is decoded.
    pub(super) fn most_stretches(&self, dump: &OpenDump) -> u64 {
        let missing = match dump.commit() {
            Some(c) if self.all_captured => c.memory.unreadable.saturating_add(c.memory.excluded),
            _ => self.span.pages(),
        };
        missing.saturating_add(self.span.stretches() as u64)
    }

    /// Takes note of a chunk's pages, and gives the runs that are to be written, with the
    /// numbers of their pages.
    ///
    /// # Errors
    /// [`ExportError::Contradiction`] for a page that another chunk has as well, or that
    /// should not lack contents; those of `write`.
    pub(super) fn take<'c>(
        &self,
        chunk: &'c DecodedChunk,
        mut write: impl FnMut(Piece<'c>, Range<u64>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        for piece in chunk.pieces() {
            let Some(mark) = mark_of(piece.class) else { continue };
            let pages = pages_of(piece.first.0, piece.pages);
            let wrong = |page| ExportError::Contradiction { page };
            // Chunks lie within the span: it was made of them.
            let ranks = self.span.ranks(pages).ok_or_else(|| wrong(pages.start.0))?;
            let (base, mut twice) = (ranks.start, Vec::new());
            self.marks.set(ranks.clone(), mark, &mut |r| {
                let page = |rank| pages.start.0 + (rank - base);
                twice.push(PageRange::new(page(r.start), page(r.end)));
            })?;
            if let Some(again) = twice.first().filter(|_| !self.skip_damaged) {
                return Err(wrong(again.start.0));
            }
            if matches!(mark, Mark::Unreadable | Mark::Excluded) {
                if self.none_lost {
                    return Err(wrong(pages.start.0));
                }
            } else if twice.is_empty() {
                write(piece, ranks)?;
            } else {
                for own in subtract(&[pages], &merge(twice)) {
                    let start = base + (own.start.0 - pages.start.0);
                    write(part(&piece, own), start..start + own.pages())?;
                }
            }
        }
        Ok(())
    }

    /// What was noted of each page of the span.
    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Which stored pages those with these numbers equal, when all chunks were taken: gives
    /// `each` some of them at a time, with the number of the first one's source. Those that
    /// have none are marked as lost, and counted.
    ///
    /// # Errors
    /// Those of `each`.
    pub(super) fn sources(
        &self,
        ranks: Range<u64>,
        source: u64,
        mut each: impl FnMut(Range<u64>, Option<u64>) -> Result<(), ExportError>,
    ) -> Result<u64, ExportError> {
        let (mut at, mut lost) = (ranks.start, 0);
        while at < ranks.end {
            let page = source.saturating_add(at - ranks.start);
            let (from, stored, gone) = match self.span.stretch(page, ranks.end - at) {
                Err(gap) => (0, 0, gap),
                Ok(from) => match self.marks.count(from.clone(), |m| m == Mark::Data) {
                    0 => (0, 0, self.marks.count(from, |m| m != Mark::Data)),
                    stored => (from.start, stored, 0),
                },
            };
            if stored > 0 {
                each(at..at + stored, Some(from))?;
            } else {
                self.marks.lose(at..at + gone);
                each(at..at + gone, None)?;
                lost += gone;
            }
            at += stored.max(gone);
        }
        Ok(lost)
    }

    /// What there is, if that is known already: all of memory, by the commit record.
    pub(super) fn told(&self) -> Option<Held> {
        let told = self.none_lost && self.all_captured;
        told.then(|| Held { present: self.wanted.clone(), missing: Vec::new() })
    }

    /// Takes note of a chunk that cannot be decoded.
    pub(super) fn take_damaged(&self, entry: &IndexEntry) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.push(pages_of(entry.first.0, entry.pages));
    }

    /// After all chunks were taken: what there is.
    ///
    /// # Errors
    /// [`ExportError::Contradiction`] naming a page that no chunk holds, against the commit
    /// record; [`ExportError::TooLarge`], [`ExportError::Nothing`].
    pub(super) fn finish(&self) -> Result<Held, ExportError> {
        let mut held = Held::default();
        let (mut nothing, mut lost) = (Vec::new(), Vec::new());
        let mut full = false;
        self.marks.for_each(|ranks, mark| {
            for pages in self.span.pages_of(ranks) {
                let stretches =
                    held.present.len() + held.missing.len() + nothing.len() + lost.len();
                full |= stretches >= MAX_STRETCHES;
                match mark {
                    _ if full => {}
                    Mark::Nothing => nothing.push(pages),
                    Mark::Data | Mark::Plain | Mark::Same => match held.present.last_mut() {
                        Some(last) if last.end == pages.start => last.end = pages.end,
                        _ => held.present.push(pages),
                    },
                    Mark::Lost => lost.push(pages),
                    Mark::Unreadable => held.missing.push(Missing { pages, why: Why::Unreadable }),
                    Mark::Excluded => held.missing.push(Missing { pages, why: Why::Excluded }),
                }
            }
        });
        if full {
            return Err(ExportError::TooLarge { what: "over 2^24 stretches of memory".into() });
        }
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Which pages of its range a damaged chunk held is not known: those of no other.
        let gone = intersect(&nothing, &merge(damaged));
        let never = subtract(&intersect(&nothing, &self.wanted), &gone);
        if let Some(first) = never.first().or(lost.first()).filter(|_| self.all_captured) {
            return Err(ExportError::Contradiction { page: first.start.0 });
        }
        // Where damage is skipped, a page that is not stored was in a damaged chunk.
        let why = if self.skip_damaged { Why::Damaged } else { Why::NotCaptured };
        held.missing.extend(lost.into_iter().map(|pages| Missing { pages, why }));
        held.missing.extend(gone.into_iter().map(|pages| Missing { pages, why: Why::Damaged }));
        held.missing
            .extend(never.into_iter().map(|pages| Missing { pages, why: Why::NotCaptured }));
        held.missing = join(held.missing);
        if held.present.is_empty() {
            return Err(ExportError::Nothing);
        }
        Ok(held)
    }
}

/// What is in both; each ascending and disjoint.
fn intersect(a: &[PageRange], b: &[PageRange]) -> Vec<PageRange> {
    subtract(a, &subtract(a, b))
}

/// `pages` pages from `first` on.
pub(super) fn pages_of(first: u64, pages: u64) -> PageRange {
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

/// What a run tells of its pages; nothing if they are another layer's to tell of.
fn mark_of(class: PageClass) -> Option<Mark> {
    match class {
        PageClass::Data => Some(Mark::Data),
        PageClass::Zero | PageClass::Fill(_) => Some(Mark::Plain),
        PageClass::Same(_) => Some(Mark::Same),
        PageClass::Unreadable => Some(Mark::Unreadable),
        PageClass::Excluded => Some(Mark::Excluded),
        PageClass::Elsewhere => None,
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
