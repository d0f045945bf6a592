//! Which chunk holds what: from the sealed index, or by a scan where there is none.

use std::collections::BTreeMap;

use lifeboat_crypt::Opener;
use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{ByteOff, ChunkHeader, ChunkKind, IndexEntry, IndexHead, Pfn};

use super::file::DATA_START;
use super::{Decoder, DumpError, DumpFile, Step};

/// All chunks but those of the index, by what they hold.
#[derive(Debug, Default)]
pub(crate) struct ChunkMap {
    /// Memory chunks by pfn, disjoint.
    pub(crate) memory: Vec<IndexEntry>,
    /// Swap chunks by device and page, disjoint.
    pub(crate) swap: BTreeMap<u16, Vec<IndexEntry>>,
    /// The rest, in the order of writing.
    pub(crate) texts: Vec<IndexEntry>,
}

impl ChunkMap {
    /// Sorts entries; refuses two chunks that cover the same page.
    fn build(entries: Vec<IndexEntry>) -> Result<Self, DumpError> {
        let mut map = Self::default();
        for entry in entries {
            match entry.kind {
                ChunkKind::Memory => map.memory.push(entry),
                ChunkKind::Swap => map.swap.entry(entry.device).or_default().push(entry),
                ChunkKind::Index => {}
                _ => map.texts.push(entry),
            }
        }
        order(&mut map.memory)?;
        for list in map.swap.values_mut() {
            order(list)?;
        }
        Ok(map)
    }
}

fn order(list: &mut [IndexEntry]) -> Result<(), DumpError> {
    list.sort_by_key(|e| e.first);
    let mut end = 0u64;
    for e in list {
        if e.first.0 < end {
            let why = format!("page {} is in two chunks", e.first.0);
            return Err(DumpError::Index { offset: e.offset.0, why });
        }
        end = e.first.0.saturating_add(e.pages);
    }
    Ok(())
}

/// The chunk that covers a page.
pub(crate) fn find(list: &[IndexEntry], page: Pfn) -> Option<&IndexEntry> {
    let index = list.partition_point(|e| e.first <= page).checked_sub(1)?;
    list.get(index).filter(|e| page.0 - e.first.0 < e.pages)
}

/// The map by the index; what is wrong with the index becomes a warning, and a
/// scan takes its place.
pub(crate) fn load(
    file: &DumpFile,
    opener: &Opener,
    warnings: &mut Vec<String>,
) -> Result<ChunkMap, DumpError> {
    if let Ok(commit) = file.committed() {
        match chain(file, opener, commit.index, commit.chunks).and_then(ChunkMap::build) {
            Ok(map) => return Ok(map),
            Err(e) => warnings.push(format!("chunks were found by a scan, because {e}")),
        }
    }
    ChunkMap::build(scan(file))
}

/// Follows the index from its last chunk to its first.
fn chain(
    file: &DumpFile,
    opener: &Opener,
    last: ByteOff,
    chunks: u64,
) -> Result<Vec<IndexEntry>, DumpError> {
    let mut decoder = Decoder::new();
    let mut parts: Vec<(IndexHead, Vec<IndexEntry>)> = Vec::new();
    let mut at = last.0;
    while at != 0 {
        let (head, entries) = part(file, opener, &mut decoder, at)?;
        // Strictly backwards: no cycle, and never more parts than the dump has room for.
        if head.prev.0 >= at {
            let why = "it points forward".to_owned();
            return Err(DumpError::Index { offset: at, why });
        }
        at = head.prev.0;
        parts.push((head, entries));
    }
    let index_chunks = parts.len() as u64;
    let all: Vec<IndexEntry> = parts.into_iter().rev().flat_map(|(_, e)| e).collect();
    let listed = all.len() as u64 + index_chunks;
    if listed != chunks {
        let why = format!("it lists {listed} chunks, the commit record counts {chunks}");
        return Err(DumpError::Index { offset: last.0, why });
    }
    let mut end = DATA_START;
    for e in &all {
        let bad = |why: &str| Err(DumpError::Index { offset: e.offset.0, why: why.to_owned() });
        if !file.holds(e) {
            return bad("a chunk lies outside the dump");
        }
        if e.offset.0 < end {
            return bad("two chunks overlap");
        }
        if e.first.0.checked_add(e.pages).is_none_or(|end| end > 1 << 52) {
            return bad("a chunk covers impossible pages");
        }
        end = e.offset.0 + lifeboat_format::chunk::frame_len(e.stored_len);
    }
    Ok(all)
}

/// One index chunk.
fn part(
    file: &DumpFile,
    opener: &Opener,
    decoder: &mut Decoder,
    at: u64,
) -> Result<(IndexHead, Vec<IndexEntry>), DumpError> {
    let bad = |why: String| DumpError::Index { offset: at, why };
    if at < DATA_START || at.saturating_add(HEADER_LEN as u64) > file.data_end() {
        return Err(bad("it lies outside the dump".to_owned()));
    }
    let mut bytes = [0u8; HEADER_LEN];
    super::file::read(file.source(), at, &mut bytes)?;
    let header = ChunkHeader::decode(&bytes).map_err(|e| bad(e.to_string()))?;
    if header.kind != ChunkKind::Index || header.offset.0 != at {
        return Err(bad("there is no index chunk".to_owned()));
    }
    let chunk = decoder.read(file, opener, &IndexEntry::of(&header))?;
    parse_part(chunk.plain()).map_err(bad)
}

/// The head and entries of an index chunk's plaintext.
pub(crate) fn parse_part(plain: &[u8]) -> Result<(IndexHead, Vec<IndexEntry>), String> {
    let (head, raw) = IndexHead::decode(plain).map_err(|e| e.to_string())?;
    let entries: Result<Vec<_>, _> = raw.iter().map(IndexEntry::decode).collect();
    Ok((head, entries.map_err(|e| e.to_string())?))
}

/// All chunks that a walk finds with a sound checksum.
fn scan(file: &DumpFile) -> Vec<IndexEntry> {
    let mut out = Vec::new();
    let mut scanner = file.scanner();
    while let Some(step) = scanner.next() {
        if let Step::Chunk(chunk) = step
            && !chunk.faults.payload
            && !chunk.faults.backward
        {
            out.push(IndexEntry::of(&chunk.header));
        }
    }
    out
}
