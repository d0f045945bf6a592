//! Looks at every byte of a dump, with or without its key.
//!
//! One thread walks the chunks and computes checksums and the SHA-256; with a key,
//! the other threads open, decompress and parse what it found.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use lifeboat_crypt::{Opener, header_digest};
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::{BLOCK, ByteOff, ChunkHeader, ChunkKind, IndexEntry, IndexHead, PageClass};

use super::file::HeaderCopy;
use super::open::Meta;
use super::verdict::{Finding, FindingKind, PageTotals, Verdict, hex};
use super::{Decoder, DumpFile, Faults, Gap, GapKind, Step, index};

const BLOCK64: u64 = BLOCK as u64;
/// Most bytes of meta chunks that are put together.
const MAX_META: usize = 16 << 20;

/// What a thread found in a chunk.
enum Inside {
    Pages(ChunkKind, PageTotals),
    Index { at: u64, head: IndexHead, entries: Vec<IndexEntry> },
    Meta(u64, Vec<u8>),
    Text,
    Bad(Box<Finding>),
}

/// What the walk remembers.
#[derive(Default)]
struct Walk {
    /// All sound chunks that an index must list, in order.
    seen: Vec<IndexEntry>,
    last_index: Option<u64>,
    chunks: u64,
}

impl DumpFile {
    /// Checks the whole dump: checksums, padding, sequence, places, both headers and
    /// the commit record; with `opener` also every seal, every page table, the index
    /// and the sealed digest of the header. `progress` is given the bytes done.
    ///
    /// A dump that was never committed ends where its last chunk does: what follows
    /// is not part of it.
    pub fn verify(&self, opener: Option<&Opener>, progress: &(dyn Fn(u64) + Sync)) -> Verdict {
        let mut verdict = Verdict {
            dump_id: hex(&self.header().dump_id),
            bytes: self.len(),
            opened: opener.is_some(),
            ..Verdict::default()
        };
        self.check_ends(opener, &mut verdict);
        let mut walk = Walk::default();
        let mut inside = Vec::new();
        match opener {
            None => self.walk(&mut walk, &mut verdict, progress, |_, _| {}),
            Some(opener) => {
                inside = self.walk_and_open(opener, &mut walk, &mut verdict, progress);
            }
        }
        self.check_commit(&walk, &mut verdict);
        if opener.is_some() {
            self.check_inside(inside, &walk, &mut verdict);
        } else if let Ok(commit) = self.committed() {
            verdict.memory = (&commit.memory).into();
            verdict.swap = (&commit.swap).into();
        }
        verdict.findings.sort_by_key(|f| f.start);
        verdict
    }

    fn check_ends(&self, opener: Option<&Opener>, verdict: &mut Verdict) {
        let (first, second) = self.copies();
        if let Some(fault) = self.first_fault() {
            verdict.add(Finding::at(FindingKind::Header, 0..BLOCK64, fault.to_string()));
        }
        let keys_at = |at: u64| at + BLOCK64..at + HEADER_LEN as u64;
        let mut check_keys = |copy: &HeaderCopy, at: u64| {
            if let Err(e) = copy.keys() {
                verdict.add(Finding::at(FindingKind::KeyArea, keys_at(at), e.to_string()));
            }
        };
        if let Some(copy) = first {
            check_keys(copy, 0);
        }
        let Ok(commit) = self.committed() else { return };
        verdict.committed = true;
        verdict.outcome = Some(commit.outcome.name());
        let at = commit.header_copy.0;
        let block = at..at + BLOCK64;
        match second {
            None => {
                verdict.add(Finding::at(FindingKind::SecondHeader, block, "it cannot be read"));
            }
            Some(copy) => {
                if let Err(e) = copy.keys() {
                    verdict.add(Finding::at(FindingKind::KeyArea, keys_at(at), e.to_string()));
                }
                let text = match (&copy.header, first) {
                    (Err(e), _) => Some(e.to_string()),
                    (Ok(_), Some(f)) if f.header.is_ok() && f.block0 != copy.block0 => {
                        Some("it differs from the first".to_owned())
                    }
                    _ => None,
                };
                if let Some(text) = text {
                    verdict.add(Finding::at(FindingKind::SecondHeader, block, text));
                }
                if let Some(f) = first
                    && let (Ok(a), Ok(b)) = (f.keys(), copy.keys())
                    && a.generation == b.generation
                    && a != b
                {
                    let text = "it differs from the first one of the same generation";
                    verdict.add(Finding::at(FindingKind::KeyArea, keys_at(at), text));
                }
            }
        }
        if let Some(Err(e)) = opener.map(|o| o.check_commit(commit)) {
            let block = self.len() - BLOCK64..self.len();
            verdict.add(Finding::at(FindingKind::Commit, block, e.to_string()));
        }
    }

    /// Walks all chunks; `each` gets those that are sound.
    fn walk(
        &self,
        walk: &mut Walk,
        verdict: &mut Verdict,
        progress: &(dyn Fn(u64) + Sync),
        mut each: impl FnMut(ChunkHeader, &[u8]),
    ) {
        let mut scanner = self.scanner().hashing();
        // Without a commit record, a gap or a torn chunk counts only once a sound chunk
        // follows: the last writes before the power went are not damage.
        let open_end = self.committed().is_err();
        let mut held: Option<Gap> = None;
        let mut torn: Vec<(ChunkHeader, Faults)> = Vec::new();
        loop {
            match scanner.next() {
                None => break,
                Some(Step::Gap(gap)) => held = Some(gap),
                Some(Step::Chunk(chunk)) if open_end && chunk.faults.payload => {
                    torn.push((chunk.header, chunk.faults));
                }
                Some(Step::Chunk(chunk)) => {
                    if let Some(gap) = held.take() {
                        verdict.add(lost(&gap));
                    }
                    for (header, faults) in torn.drain(..) {
                        take(walk, verdict, &header, &faults);
                    }
                    take(walk, verdict, &chunk.header, &chunk.faults);
                    if !chunk.faults.payload {
                        each(chunk.header, chunk.stored);
                    }
                }
            }
            progress(scanner.position());
        }
        if let (Some(gap), Ok(_)) = (held, self.committed()) {
            // The second header starts at a multiple of 4096: up to that, zeros.
            let padding = gap.zero && gap.bytes.end - gap.bytes.start < BLOCK64;
            if !padding {
                verdict.add(lost(&gap));
            }
        }
        verdict.sha256 = scanner.finish_hash().map(|h| hex(&h));
        progress(self.len());
    }

    fn walk_and_open(
        &self,
        opener: &Opener,
        walk: &mut Walk,
        verdict: &mut Verdict,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Vec<Inside> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (jobs, queue) = sync_channel::<(ChunkHeader, Vec<u8>)>(2 * threads);
        let queue = Mutex::new(queue);
        let (results, inbox) = channel::<Inside>();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (queue, results) = (&queue, results.clone());
                scope.spawn(move || open_all(opener, queue, &results));
            }
            drop(results);
            self.walk(walk, verdict, progress, |header, stored| {
                // Fails only if every thread is gone, and then nothing is looked into;
                // check_inside() would find the index missing.
                let _ = jobs.send((header, stored.to_vec()));
            });
            drop(jobs);
            inbox.iter().collect()
        })
    }

    fn check_commit(&self, walk: &Walk, verdict: &mut Verdict) {
        let Ok(commit) = self.committed() else { return };
        let block = self.len() - BLOCK64..self.len();
        let mut bad = |text: String| {
            verdict.add(Finding::at(FindingKind::Commit, block.clone(), text));
        };
        if commit.chunks != walk.chunks {
            bad(format!("it counts {} chunks, {} are here", commit.chunks, walk.chunks));
        }
        if walk.last_index != Some(commit.index.0) {
            let found = walk.last_index.map_or("none".to_owned(), |at| format!("byte {at}"));
            bad(format!("it names an index at byte {}, the last one is: {found}", commit.index.0));
        }
    }

    fn check_inside(&self, inside: Vec<Inside>, walk: &Walk, verdict: &mut Verdict) {
        let mut parts: BTreeMap<u64, (IndexHead, Vec<IndexEntry>)> = BTreeMap::new();
        let mut meta: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut bad_chunks = 0;
        for item in inside {
            match item {
                Inside::Pages(ChunkKind::Memory, n) => sum(&mut verdict.memory, &n),
                Inside::Pages(_, n) => sum(&mut verdict.swap, &n),
                Inside::Index { at, head, entries } => {
                    parts.insert(at, (head, entries));
                }
                Inside::Meta(first, plain) => {
                    meta.insert(first, plain);
                }
                Inside::Text => {}
                Inside::Bad(finding) => {
                    bad_chunks += 1;
                    verdict.add(*finding);
                }
            }
        }
        verdict.bad_chunks += bad_chunks;
        verdict.good_chunks = verdict.good_chunks.saturating_sub(bad_chunks);
        check_index(&parts, walk, verdict);
        self.check_meta(&meta, verdict);
        let Ok(commit) = self.committed() else { return };
        // Damage already explains a difference.
        if verdict.is_sound() {
            let block = self.len() - BLOCK64..self.len();
            for (what, told, found) in
                [("memory", commit.memory, verdict.memory), ("swap", commit.swap, verdict.swap)]
            {
                if !found.agrees(&told) {
                    let text = format!("its count of {what} pages is not that of the chunks");
                    verdict.add(Finding::at(FindingKind::Commit, block.clone(), text));
                }
            }
        }
    }

    fn check_meta(&self, parts: &BTreeMap<u64, Vec<u8>>, verdict: &mut Verdict) {
        let plain: Vec<u8> = parts.values().flatten().copied().take(MAX_META).collect();
        let text = match (Meta::parse(&plain), self.block0()) {
            (Err(e), _) => e.to_string(),
            (Ok(meta), Some(block0)) => match meta.header_digest {
                Some(digest) if digest == header_digest(block0) => return,
                Some(_) => "the header was changed after the capture".to_owned(),
                // Nothing was captured yet when the power went.
                None if !verdict.committed => return,
                None => "the digest of the header is missing".to_owned(),
            },
            (Ok(_), None) => return,
        };
        verdict.add(Finding::at(FindingKind::Meta, 0..BLOCK64, text));
    }
}

fn sum(total: &mut PageTotals, n: &PageTotals) {
    total.data = total.data.saturating_add(n.data);
    total.zero = total.zero.saturating_add(n.zero);
    total.unreadable = total.unreadable.saturating_add(n.unreadable);
    total.excluded = total.excluded.saturating_add(n.excluded);
}

/// Takes note of a chunk.
fn take(walk: &mut Walk, verdict: &mut Verdict, header: &ChunkHeader, f: &Faults) {
    walk.chunks += 1;
    if header.kind == ChunkKind::Index {
        walk.last_index = Some(header.offset.0);
    } else {
        walk.seen.push(IndexEntry::of(header));
    }
    if let Some(Range { start, end }) = &f.skipped {
        let text = format!("chunks {start} to {} before it are missing", end - 1);
        verdict.add(Finding::of(FindingKind::Sequence, header, text));
    }
    let faults = [
        (f.payload, FindingKind::Checksum, "its payload's checksum does not match"),
        (f.padding, FindingKind::Padding, "its padding is not zero"),
        (f.backward, FindingKind::Sequence, "its number is not higher than the one before"),
    ];
    for (_, kind, text) in faults.iter().filter(|(is, ..)| *is) {
        verdict.add(Finding::of(*kind, header, text));
    }
    if f.is_intact() {
        verdict.good_chunks += 1;
        *verdict.kinds.entry(header.kind.name()).or_default() += 1;
    } else {
        verdict.bad_chunks += 1;
    }
}

fn lost(gap: &Gap) -> Finding {
    let (kind, text) = match gap.kind {
        GapKind::NoHeader => (FindingKind::Lost, "no chunk is here".to_owned()),
        GapKind::BadHeader(e) => (FindingKind::Lost, e.to_string()),
        GapKind::OtherDump => (FindingKind::OtherDump, "a chunk of another dump".to_owned()),
        GapKind::WrongPlace(home) => {
            (FindingKind::WrongPlace, format!("a chunk that belongs at byte {home}"))
        }
        GapKind::CutShort => {
            (FindingKind::CutShort, "a chunk that reaches behind the end of the dump".to_owned())
        }
        GapKind::Unreadable => (FindingKind::Unreadable, "the medium cannot be read".to_owned()),
    };
    Finding::at(kind, gap.bytes.clone(), text)
}

/// One thread's work: until the queue is empty and closed.
fn open_all(
    opener: &Opener,
    queue: &Mutex<Receiver<(ChunkHeader, Vec<u8>)>>,
    results: &Sender<Inside>,
) {
    let mut decoder = Decoder::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((header, mut stored)) = job else { return };
        let inside = look_into(&mut decoder, opener, header, &mut stored);
        if results.send(inside).is_err() {
            return;
        }
    }
}

fn look_into(
    decoder: &mut Decoder,
    opener: &Opener,
    header: ChunkHeader,
    stored: &mut Vec<u8>,
) -> Inside {
    let bad = |text: &str| Inside::Bad(Box::new(Finding::of(FindingKind::Contents, &header, text)));
    let chunk = match decoder.decode(opener, header, stored) {
        Ok(chunk) => chunk,
        Err(super::DumpError::Chunk { why, .. }) => return bad(&why),
        Err(other) => return bad(&other.to_string()),
    };
    match header.kind {
        kind @ (ChunkKind::Memory | ChunkKind::Swap) => {
            let mut totals = PageTotals::default();
            for piece in chunk.pieces() {
                let class = match piece.class {
                    PageClass::Data => &mut totals.data,
                    PageClass::Zero => &mut totals.zero,
                    PageClass::Unreadable => &mut totals.unreadable,
                    PageClass::Excluded => &mut totals.excluded,
                };
                *class = class.saturating_add(piece.pages);
            }
            let told = u64::from(header.missing_pages);
            if totals.unreadable.min(u64::from(u32::MAX)) != told {
                return bad("its header miscounts its unreadable pages");
            }
            Inside::Pages(kind, totals)
        }
        ChunkKind::Index => match index::parse_part(chunk.plain()) {
            Ok((head, entries)) => Inside::Index { at: header.offset.0, head, entries },
            Err(why) => bad(&why),
        },
        ChunkKind::Meta => Inside::Meta(header.first.0, chunk.plain().to_vec()),
        ChunkKind::Log | ChunkKind::Notes | ChunkKind::Trailer => Inside::Text,
    }
}

/// The index chunks together must list all other chunks, and be linked in order.
fn check_index(
    parts: &BTreeMap<u64, (IndexHead, Vec<IndexEntry>)>,
    walk: &Walk,
    verdict: &mut Verdict,
) {
    let mut seen = walk.seen.iter();
    let mut prev = ByteOff(0);
    for (at, (head, entries)) in parts {
        let mut bad = |text: String| {
            verdict.add(Finding::at(FindingKind::Index, *at..at + 512, text));
        };
        if head.prev != prev {
            bad(format!("the index part before it is said to be at byte {}", head.prev.0));
        }
        prev = ByteOff(*at);
        for entry in entries {
            match seen.next() {
                Some(real) if real == entry => {}
                Some(real) => {
                    let (told, found) = (entry.offset.0, real.offset.0);
                    bad(format!(
                        "it lists a chunk at byte {told} where the next one is at {found}"
                    ));
                    return;
                }
                None => {
                    bad(format!("it lists a chunk at byte {} that is not there", entry.offset.0));
                    return;
                }
            }
        }
    }
    if verdict.committed
        && let Some(first) = seen.next()
    {
        let at = first.offset.0;
        let text = "this chunk and those behind it are in no index";
        verdict.add(Finding::at(FindingKind::Index, at..at + 512, text));
    }
}
