//! Looks at every byte of a dump, with or without its key.
//!
//! One thread walks the chunks and computes checksums and the SHA-256; with a key,
//! the other threads open, decompress and parse what it found.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use lifeboat_crypt::{Opener, header_digest};
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::{BLOCK, ByteOff, ChunkHeader, ChunkKind, IndexEntry, IndexHead, Outcome};

use super::error::covers;
use super::file::HeaderCopy;
use super::inside::{self, Inside};
use super::open::Meta;
use super::verdict::{ChunkResult, Finding, FindingKind, SealState, Verdict, hex};
use super::{DumpFile, Faults, Gap, GapKind, Step};

const BLOCK64: u64 = BLOCK as u64;

/// What the walk remembers.
#[derive(Default)]
struct Walk {
    last_index: Option<u64>,
    kept: Vec<ChunkResult>,
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
        let inside = match opener {
            None => {
                self.walk(&mut walk, &mut verdict, progress, |_, _| {});
                None
            }
            Some(opener) => Some(self.walk_and_open(opener, &mut walk, &mut verdict, progress)),
        };
        self.check_commit(&walk, &mut verdict);
        check_overlaps(&walk.kept, &mut verdict);
        if let Some(inside) = inside {
            self.check_inside(inside, &mut walk, &mut verdict);
        } else if let Ok(commit) = self.committed() {
            verdict.memory = (&commit.memory).into();
            verdict.swap = (&commit.swap).into();
        }
        verdict.findings.sort_by_key(|f| f.start);
        verdict.chunks = walk.kept;
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
        let Ok(commit) = self.committed() else {
            if let Some(why) = self.damaged_commit() {
                let block = self.len() - BLOCK64..self.len();
                let text =
                    format!("the dump was committed, but its commit record is damaged: {why}");
                verdict.add(Finding::at(FindingKind::Commit, block, text));
            }
            return;
        };
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
                // A part that is not here is a loss wherever it lies.
                Some(Step::Gap(gap)) if gap.kind == GapKind::MissingPart => {
                    verdict.add(lost(&gap));
                }
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
    ) -> Inside {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (jobs, queue) = sync_channel::<(ChunkHeader, Vec<u8>)>(2 * threads);
        let queue = Mutex::new(queue);
        let (results, inbox) = sync_channel(2 * threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (queue, results) = (&queue, results.clone());
                scope.spawn(move || inside::open_all(opener, queue, &results));
            }
            drop(results);
            let gather = scope.spawn(move || Inside::gather(&inbox));
            self.walk(walk, verdict, progress, |header, stored| {
                // Fails only if every thread is gone, and then nothing is looked into;
                // check_inside() would find the index missing.
                let _ = jobs.send((header, stored.to_vec()));
            });
            drop(jobs);
            // A thread that panicked has looked into nothing: likewise.
            gather.join().unwrap_or_default()
        })
    }

    fn check_commit(&self, walk: &Walk, verdict: &mut Verdict) {
        let Ok(commit) = self.committed() else { return };
        let block = self.len() - BLOCK64..self.len();
        let mut bad = |text: String| {
            verdict.add(Finding::at(FindingKind::Commit, block.clone(), text));
        };
        let chunks = walk.kept.len() as u64;
        if commit.chunks != chunks {
            bad(format!("it counts {} chunks, {chunks} are here", commit.chunks));
        }
        if walk.last_index != Some(commit.index.0) {
            let found = walk.last_index.map_or("none".to_owned(), |at| format!("byte {at}"));
            bad(format!("it names an index at byte {}, the last one is: {found}", commit.index.0));
        }
    }

    fn check_inside(&self, inside: Inside, walk: &mut Walk, verdict: &mut Verdict) {
        let sealed = if self.in_the_clear() { SealState::NotSealed } else { SealState::Ok };
        for chunk in walk.kept.iter_mut().filter(|c| c.checksum) {
            let bad = inside.bad.binary_search(&chunk.entry.offset.0).is_ok();
            chunk.seal = if bad { SealState::Bad } else { sealed };
        }
        (verdict.memory, verdict.swap) = (inside.memory, inside.swap);
        let bad_chunks = inside.bad.len() as u64;
        verdict.bad_chunks += bad_chunks;
        verdict.good_chunks = verdict.good_chunks.saturating_sub(bad_chunks);
        verdict.more_findings += inside.more_findings;
        for finding in &inside.findings {
            verdict.add(finding.clone());
        }
        check_index(&inside.index, &walk.kept, verdict);
        let meta = self.check_meta(&inside, verdict);
        let commit = self.committed().ok();
        // Damage already explains a difference.
        if let Some(commit) = commit.filter(|_| verdict.is_sound()) {
            for (what, told, found) in
                [("memory", commit.memory, verdict.memory), ("swap", commit.swap, verdict.swap)]
            {
                if !found.agrees(&told) {
                    let text = format!("its count of {what} pages is not that of the chunks");
                    verdict.add(Finding::at(FindingKind::Commit, self.last_block(), text));
                }
            }
        }
        if let Some(meta) = meta {
            inside.find_missing(&meta, commit, verdict);
        }
        let complete = commit.is_some_and(|c| c.outcome == Outcome::Complete);
        if complete && verdict.is_sound() && verdict.missing_pages > 0 {
            let text = format!(
                "it says that all is there, but {} pages are in no chunk",
                verdict.missing_pages
            );
            verdict.add(Finding::at(FindingKind::Commit, self.last_block(), text));
        }
    }

    fn last_block(&self) -> Range<u64> {
        self.len() - BLOCK64..self.len()
    }

    /// The tables, if they are sound and belong to this header.
    fn check_meta(&self, inside: &Inside, verdict: &mut Verdict) -> Option<Meta> {
        let plain: Vec<u8> = inside.meta.values().flatten().copied().collect();
        let (text, meta) = match (Meta::parse(&plain), self.block0()) {
            (Err(e), _) => (e.to_string(), None),
            (Ok(meta), Some(block0)) => match meta.header_digest {
                Some(digest) if digest == header_digest(block0) => return Some(meta),
                Some(_) => ("the header was changed after the capture".to_owned(), Some(meta)),
                // Nothing was captured yet when the power went.
                None if !verdict.committed => return None,
                None => ("the digest of the header is missing".to_owned(), None),
            },
            (Ok(meta), None) => return Some(meta),
        };
        verdict.add(Finding::at(FindingKind::Meta, 0..BLOCK64, text));
        meta
    }
}

/// Takes note of a chunk.
fn take(walk: &mut Walk, verdict: &mut Verdict, header: &ChunkHeader, f: &Faults) {
    if header.kind == ChunkKind::Index {
        walk.last_index = Some(header.offset.0);
    }
    walk.kept.push(ChunkResult {
        seq: header.seq,
        entry: IndexEntry::of(header),
        checksum: f.is_intact(),
        seal: SealState::NotChecked,
    });
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
        GapKind::MissingPart => (
            FindingKind::MissingPart,
            "this part of the dump is on a volume that was not given".to_owned(),
        ),
    };
    Finding::at(kind, gap.bytes.clone(), text)
}

/// The index chunks together must list all other chunks, and be linked in order.
fn check_index(
    parts: &BTreeMap<u64, (IndexHead, Vec<IndexEntry>)>,
    kept: &[ChunkResult],
    verdict: &mut Verdict,
) {
    let mut seen = kept.iter().map(|c| &c.entry).filter(|e| e.kind != ChunkKind::Index);
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

/// No page may be in two chunks of one layer, by what their headers say.
fn check_overlaps(kept: &[ChunkResult], verdict: &mut Verdict) {
    let mut pages: Vec<&ChunkResult> =
        kept.iter().filter(|c| c.checksum && c.entry.kind.is_pages()).collect();
    let space = |e: &IndexEntry| (e.kind, e.device, e.layer);
    pages.sort_by_key(|c| (space(&c.entry), c.entry.first));
    let mut end = 0u64;
    let mut last = None;
    for c in pages {
        let (first, behind) = (c.entry.first.0, c.entry.first.0.saturating_add(c.entry.pages));
        if last != Some(space(&c.entry)) {
            (last, end) = (Some(space(&c.entry)), 0);
        }
        if first < end {
            let twice = IndexEntry { pages: end.min(behind) - first, ..c.entry };
            let text = format!("{} is in another chunk as well", covers(&twice));
            verdict.add(Finding::of_entry(FindingKind::Overlap, c.seq, &c.entry, text));
        }
        end = end.max(behind);
    }
}
