//! What a dump's chunks hold, as far as a verification must know.
//!
//! Memory: 48 bytes for each chunk that an index lists (index chunks are stored as
//! they are, so that is less than twice their bytes in the dump), some 40 bytes for
//! each stretch of pages, at most 2^24 stretches a space, and 16 MiB of tables.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use lifeboat_crypt::Opener;
use lifeboat_format::{
    ChunkHeader, ChunkKind, Codec, CommitRecord, IndexEntry, IndexHead, PAGE, PageClass, PageRange,
};

use super::error::covers;
use super::open::Meta;
use super::verdict::{Finding, FindingKind, KEPT, PageTotals, Verdict};
use super::{Decoder, DumpError, RangeSet, index, subtract};

/// Most bytes of meta chunks that are put together.
const MAX_META: usize = 16 << 20;

/// What a thread found in a chunk.
pub(crate) struct Look {
    header: ChunkHeader,
    found: Found,
}

enum Found {
    /// Pages by class, and those that the chunk answers for.
    Pages(PageTotals, Vec<PageRange>),
    Index(IndexHead, Vec<IndexEntry>),
    Meta(Vec<u8>),
    Text,
    Bad(String),
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
            let mut totals = PageTotals::default();
            for piece in chunk.pieces() {
                let class = match piece.class {
                    PageClass::Data => &mut totals.data,
                    PageClass::Zero => &mut totals.zero,
                    PageClass::Unreadable => &mut totals.unreadable,
                    PageClass::Excluded => &mut totals.excluded,
                    PageClass::Fill(_) => &mut totals.fill,
                    PageClass::Same(_) => &mut totals.same,
                    PageClass::Elsewhere => continue,
                };
                *class = class.saturating_add(piece.pages);
            }
            let told = u64::from(header.missing_pages);
            if totals.unreadable.min(u64::from(u32::MAX)) != told {
                return Err("its header miscounts its unreadable pages".to_owned());
            }
            Found::Pages(totals, chunk.claims())
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
            Found::Pages(totals, claims) => self.take_pages(&header, &totals, claims),
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

    fn take_pages(&mut self, header: &ChunkHeader, n: &PageTotals, claims: Vec<PageRange>) {
        let (total, space) = match header.kind {
            ChunkKind::Memory => (&mut self.memory, None),
            _ => (&mut self.swap, Some(header.device)),
        };
        total.data = total.data.saturating_add(n.data);
        total.zero = total.zero.saturating_add(n.zero);
        total.unreadable = total.unreadable.saturating_add(n.unreadable);
        total.excluded = total.excluded.saturating_add(n.excluded);
        let set = self.spaces.entry(space).or_default();
        let mut twice: Option<PageRange> = None;
        for claim in claims {
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
        verdict.missing_known = !self.spaces.values().any(RangeSet::overflown);
        if !verdict.missing_known {
            return;
        }
        let held = |space| self.spaces.get(&space).map(RangeSet::ranges).unwrap_or_default();
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
}
