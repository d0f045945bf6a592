//! What a dump's chunks hold, as far as a verification must know.
//!
//! Memory: 48 bytes for each chunk that an index lists (index chunks are stored as
//! they are, so that is less than twice their bytes in the dump), some 40 bytes for
//! each stretch of pages and each run of copies, at most 2^24 of them a space, and 16 MiB
//! of tables.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use lifeboat_crypt::Opener;
use lifeboat_format::{
    ChunkHeader, ChunkKind, Codec, CommitRecord, IndexEntry, IndexHead, PAGE, PageClass, PageRange,
    Pfn,
};

use super::error::covers;
use super::open::Meta;
use super::verdict::{Finding, FindingKind, KEPT, PageTotals, Verdict};
use super::{Decoder, DumpError, MAX_STRETCHES, RangeSet, index, merge, subtract};

/// Most bytes of meta chunks that are put together.
const MAX_META: usize = 16 << 20;

/// What a thread found in a chunk.
pub(crate) struct Look {
    header: ChunkHeader,
    found: Found,
}

enum Found {
    Pages(Pages),
    Index(IndexHead, Vec<IndexEntry>),
    Meta(Vec<u8>),
    Text,
    Bad(String),
}

/// The pages of a chunk.
#[derive(Default)]
struct Pages {
    totals: PageTotals,
    /// Those that the chunk answers for.
    claims: Vec<PageRange>,
    /// Those of memory whose contents are here.
    stored: Vec<PageRange>,
    /// Those that have the contents of memory from a page on.
    copies: Vec<(PageRange, Pfn)>,
}

/// One thread's work: until the queue is empty and closed.
pub(crate) fn open_all(
    opener: &Opener,
    queue: &Mutex<Receiver<(ChunkHeader, Vec<u8>)>>,
    results: &SyncSender<Look>,
) {
    let mut decoder = Decoder::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((header, mut stored)) = job else { return };
        let found = look_into(&mut decoder, opener, header, &mut stored).unwrap_or_else(Found::Bad);
        if results.send(Look { header, found }).is_err() {
            return;
        }
    }
}

fn look_into(
    decoder: &mut Decoder,
    opener: &Opener,
    header: ChunkHeader,
    stored: &mut Vec<u8>,
) -> Result<Found, String> {
    // A few bytes of it could hold an index of any length.
    if header.kind == ChunkKind::Index && header.codec != Codec::Store {
        return Err("an index is never compressed".to_owned());
    }
    let chunk = decoder.decode(opener, header, stored).map_err(|e| match e {
        DumpError::Chunk { why, .. } => why,
        other => other.to_string(),
    })?;
    Ok(match header.kind {
        ChunkKind::Memory | ChunkKind::Swap => {
            let mut found = Pages { claims: chunk.claims(), ..Pages::default() };
            for piece in chunk.pieces() {
                let pages = PageRange::new(piece.first.0, piece.first.0 + piece.pages);
                match piece.class {
                    PageClass::Data if header.kind == ChunkKind::Memory => {
                        found.stored.push(pages);
                    }
                    PageClass::Same(source) => found.copies.push((pages, source)),
                    _ => {}
                }
                found.totals.count(piece.class, piece.pages);
            }
            let told = u64::from(header.missing_pages);
            if found.totals.unreadable.min(u64::from(u32::MAX)) != told {
                return Err("its header miscounts its unreadable pages".to_owned());
            }
            Found::Pages(found)
        }
        ChunkKind::Index => {
            let (head, entries) = index::parse_part(chunk.plain())?;
            Found::Index(head, entries)
        }
        ChunkKind::Meta => Found::Meta(chunk.into_plain()),
        ChunkKind::Log | ChunkKind::Notes | ChunkKind::Trailer => Found::Text,
    })
}

/// All of it together.
#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) memory: PageTotals,
    pub(crate) swap: PageTotals,
    /// Index chunks by offset.
    pub(crate) index: BTreeMap<u64, (IndexHead, Vec<IndexEntry>)>,
    /// Plaintext of the meta chunks, by their first byte.
    pub(crate) meta: BTreeMap<u64, Vec<u8>>,
    meta_len: usize,
    /// Offsets of the chunks that are bad inside, ascending.
    pub(crate) bad: Vec<u64>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) more_findings: u64,
    /// Pages that chunks answer for: of memory (`None`) and of each swap device.
    spaces: BTreeMap<Option<u16>, RangeSet>,
    /// Pages of memory whose contents are stored.
    stored: RangeSet,
    /// Pages of a space that have the contents of memory from a page on; at most
    /// [`MAX_STRETCHES`].
    copies: Vec<(Option<u16>, PageRange, Pfn)>,
    more_copies: bool,
}

impl Inside {
    /// Takes results until all threads are done.
    pub(crate) fn gather(inbox: &Receiver<Look>) -> Self {
        let mut all = Self::default();
        for look in inbox {
            all.take(look);
        }
        all.bad.sort_unstable();
        all
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }

    fn take(&mut self, Look { header, found }: Look) {
        match found {
            Found::Text => {}
            Found::Bad(text) => {
                self.bad.push(header.offset.0);
                self.add(Finding::of(FindingKind::Contents, &header, text));
            }
            Found::Index(head, entries) => {
                self.index.insert(header.offset.0, (head, entries));
            }
            Found::Meta(plain) => self.take_meta(&header, plain),
            Found::Pages(pages) => self.take_pages(&header, pages),
        }
    }

    /// A dump that went on to another volume holds its tables twice.
    fn take_meta(&mut self, header: &ChunkHeader, plain: Vec<u8>) {
        let text = match self.meta.get(&header.first.0) {
            Some(first) if *first == plain => return,
            Some(_) => "its copy holds something else",
            None if self.meta_len + plain.len() > MAX_META => "there are too many tables",
            None => {
                self.meta_len += plain.len();
                self.meta.insert(header.first.0, plain);
                return;
            }
        };
        self.add(Finding::of(FindingKind::Meta, header, text));
    }

    fn take_pages(&mut self, header: &ChunkHeader, found: Pages) {
        let (total, space) = match header.kind {
            ChunkKind::Memory => (&mut self.memory, None),
            _ => (&mut self.swap, Some(header.device)),
        };
        total.add(&found.totals);
        found.stored.into_iter().for_each(|pages| self.stored.insert(pages, &mut |_| ()));
        self.more_copies |= self.copies.len() + found.copies.len() > MAX_STRETCHES;
        if !self.more_copies {
            self.copies.extend(found.copies.into_iter().map(|(pages, from)| (space, pages, from)));
        }
        let set = self.spaces.entry(space).or_default();
        let mut twice: Option<PageRange> = None;
        for claim in found.claims {
            set.insert(claim, &mut |again| {
                twice.get_or_insert(again);
            });
        }
        // Chunks of one layer that overlap are found by their headers.
        if let Some(pages) = twice.filter(|_| header.layer != lifeboat_format::Layer::Address) {
            let entry =
                IndexEntry { first: pages.start, pages: pages.pages(), ..IndexEntry::of(header) };
            let text = format!("{} is in a chunk of another layer as well", covers(&entry));
            self.add(Finding::of(FindingKind::Overlap, header, text));
        }
    }

    /// Names what was to be captured and is in no sound chunk.
    pub(crate) fn find_missing(
        &self,
        meta: &Meta,
        commit: Option<&CommitRecord>,
        verdict: &mut Verdict,
    ) {
        let mut sets = self.spaces.values().chain([&self.stored]);
        verdict.missing_known = !self.more_copies && !sets.any(RangeSet::overflown);
        if !verdict.missing_known {
            return;
        }
        let Some(mut lost) = self.lost_copies() else {
            verdict.missing_known = false;
            return;
        };
        let mut held = |space| {
            let held = self.spaces.get(&space).map(RangeSet::ranges).unwrap_or_default();
            subtract(&held, &merge(lost.remove(&space).unwrap_or_default()))
        };
        // What nobody asked for is not missing.
        if commit.is_none_or(|c| c.memory.asked > 0) {
            for pages in subtract(&meta.ranges, &held(None)) {
                verdict.miss("memory", 0, pages);
            }
        }
        if commit.is_none_or(|c| c.swap.asked > 0) {
            for dev in &meta.swap {
                let all = [PageRange::new(0, dev.bytes.div_ceil(PAGE as u64))];
                for pages in subtract(&all, &held(Some(dev.index))) {
                    verdict.miss("swap", dev.index, pages);
                }
            }
        }
    }

    /// Pages of each space that are to have the contents of others which are in no sound
    /// chunk. Nothing if they are too scattered.
    fn lost_copies(&self) -> Option<BTreeMap<Option<u16>, Vec<PageRange>>> {
        let stored = self.stored.ranges();
        let mut lost: BTreeMap<_, Vec<PageRange>> = BTreeMap::new();
        let mut count = 0usize;
        for (space, pages, source) in &self.copies {
            let from = PageRange::new(source.0, source.0.saturating_add(pages.pages()));
            let near = stored.partition_point(|r| r.end <= from.start);
            let near = stored.get(near..).unwrap_or_default();
            let near = near.get(..near.partition_point(|r| r.start < from.end)).unwrap_or(near);
            let page = |source: Pfn| pages.start.0 + (source.0 - from.start.0);
            let gone = subtract(&[from], near);
            count += gone.len();
            if count > MAX_STRETCHES {
                return None;
            }
            if !gone.is_empty() {
                let gone = gone.iter().map(|g| PageRange::new(page(g.start), page(g.end)));
                lost.entry(*space).or_default().extend(gone);
            }
        }
        Some(lost)
    }
}
