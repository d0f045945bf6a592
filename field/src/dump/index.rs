//! Which chunk holds what: from the sealed index, or by a scan where there is none.

use std::collections::BTreeMap;
use std::ops::Range;

use lifeboat_crypt::Opener;
use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{ByteOff, ChunkHeader, ChunkKind, IndexEntry, IndexHead, Layer, Pfn};

use super::file::DATA_START;
use super::{Decoder, DumpError, DumpFile, Step};

/// All chunks but those of the index, by what they hold.
#[derive(Debug, Default)]
pub(crate) struct ChunkMap {
    /// Memory chunks.
    pub(crate) memory: ChunkList,
    /// Swap chunks by device.
    pub(crate) swap: BTreeMap<u16, ChunkList>,
    /// The rest, in the order of writing.
    pub(crate) texts: Vec<IndexEntry>,
    /// Chunks of a part that is not here are left out.
    pub(crate) parted: bool,
}

/// The chunks of one space of pages: layer by layer, the layer that is asked first in
/// front; within a layer by page, disjoint.
#[derive(Debug, Default)]
pub(crate) struct ChunkList {
    entries: Vec<IndexEntry>,
    layers: Vec<Range<usize>>,
}

/// None at all.
pub(crate) static NO_CHUNKS: ChunkList = ChunkList { entries: Vec::new(), layers: Vec::new() };

impl ChunkList {
    /// All chunks.
    pub(crate) fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// The chunks of each layer, in the order in which a page is looked for.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &[IndexEntry]> {
        self.layers.iter().map(|r| self.entries.get(r.clone()).unwrap_or_default())
    }

    /// Where the layers lie in [`ChunkList::entries`].
    pub(crate) fn layer_ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.layers.iter().cloned()
    }

    /// Sorts; of two chunks of a layer that cover the same page, the latter is given
    /// to `clash`, which refuses or drops it.
    fn order(
        &mut self,
        mut clash: impl FnMut(&IndexEntry) -> Result<(), DumpError>,
    ) -> Result<(), DumpError> {
        self.entries.sort_by_key(|e| (rank(e.layer), e.first));
        let (mut end, mut at, mut fault) = (0u64, None, None);
        self.entries.retain(|e| {
            if at != Some(e.layer) {
                (end, at) = (0, Some(e.layer));
            }
            let fits = e.first.0 >= end;
            if fits {
                end = e.first.0.saturating_add(e.pages);
            } else if let Err(e) = clash(e) {
                fault = Some(e);
            }
            fits
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.layers.clear();
        for (n, e) in self.entries.iter().enumerate() {
            match self.layers.last_mut() {
                Some(r) if self.entries.get(r.start).is_some_and(|f| f.layer == e.layer) => {
                    r.end = n + 1;
                }
                _ => self.layers.push(n..n + 1),
            }
        }
        Ok(())
    }
}

/// Place of a layer in a look-up: by worth, what was captured in order of address last.
fn rank(layer: Layer) -> usize {
    Layer::BY_WORTH.iter().position(|l| *l == layer).unwrap_or(Layer::BY_WORTH.len())
}

impl ChunkMap {
    /// Sorts entries; `clash` as in [`ChunkList::order`].
    fn build(
        entries: Vec<IndexEntry>,
        mut clash: impl FnMut(&IndexEntry) -> Result<(), DumpError>,
    ) -> Result<Self, DumpError> {
        let mut map = Self::default();
        for entry in entries {
            match entry.kind {
                ChunkKind::Memory => map.memory.entries.push(entry),
                ChunkKind::Swap => map.swap.entry(entry.device).or_default().entries.push(entry),
                ChunkKind::Index => {}
                _ => map.texts.push(entry),
            }
        }
        map.memory.order(&mut clash)?;
        for list in map.swap.values_mut() {
            list.order(&mut clash)?;
        }
        Ok(map)
    }
}

/// A sealed index that lists a page twice is not to be followed.
fn refuse(e: &IndexEntry) -> Result<(), DumpError> {
    let why = format!("page {} is in two chunks", e.first.0);
    Err(DumpError::Index { offset: e.offset.0, why })
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
        match chain(file, opener, commit.index, commit.chunks)
            .map(|all| reachable(file, all, warnings))
            .and_then(|(all, parted)| Ok(ChunkMap { parted, ..ChunkMap::build(all, refuse)? }))
        {
            Ok(map) => return Ok(map),
            Err(e) => warnings.push(format!("chunks were found by a scan, because {e}")),
        }
    }
    let mut clashes = 0u64;
    let map = ChunkMap::build(scan(file), |_| {
        clashes += 1;
        Ok(())
    });
    if clashes > 0 {
        warnings.push(format!("{clashes} chunks hold pages that another one of their layer holds as well; the first is used"));
    }
    map
}

/// Leaves out what lies in a part that is not here.
fn reachable(
    file: &DumpFile,
    mut all: Vec<IndexEntry>,
    warnings: &mut Vec<String>,
) -> (Vec<IndexEntry>, bool) {
    let listed = all.len();
    let here = |at: u64| file.source().hole(at).is_none();
    all.retain(|e| {
        let last = e.offset.0 + lifeboat_format::chunk::frame_len(e.stored_len) - 1;
        here(e.offset.0) && here(last)
    });
    let lost = listed - all.len();
    if lost > 0 {
        warnings
            .push(format!("{lost} of {listed} chunks lie in a part of the dump that is not here"));
    }
    (all, lost > 0)
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
    let (mut at, mut listed) = (last.0, 0u64);
    while at != 0 {
        let (head, entries) = part(file, opener, &mut decoder, at)?;
        // Strictly backwards: no cycle, and never more parts than the dump has room for.
        if head.prev.0 >= at {
            let why = "it points forward".to_owned();
            return Err(DumpError::Index { offset: at, why });
        }
        at = head.prev.0;
        listed = listed.saturating_add(entries.len() as u64);
        parts.push((head, entries));
        // Before they are put together: a few bytes could list any number.
        if listed > chunks.min(file.len() / HEADER_LEN as u64) {
            let why =
                format!("it lists more than the {chunks} chunks that the commit record counts");
            return Err(DumpError::Index { offset: last.0, why });
        }
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
