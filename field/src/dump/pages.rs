//! Pages by number, through a small cache of decoded chunks.

use std::collections::{HashMap, VecDeque};
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex};

use lifeboat_format::{ChunkKind, IndexEntry, PAGE, PageClass, Pfn};

use super::decode::Runs;
use super::index::{self, ChunkList};
use super::{DecodedChunk, Decoder, DumpError, OpenDump};

/// Most bytes of decoded chunks that are kept, and as many of run tables.
const CACHE_BYTES: usize = 32 << 20;

/// What the dump knows of a page.
#[derive(Debug, Clone)]
pub enum Page {
    /// Its contents.
    Data(PageBytes),
    /// It was all zero.
    Zero,
    /// It was this word, over and over.
    Fill(u64),
    /// It was there but could not be read.
    Unreadable,
    /// It was left out: of a kind that was to be, or faulty.
    Excluded,
    /// No chunk holds it: not memory, or the capture did not get there.
    NotCaptured,
}

/// The 4096 bytes of a page; keeps its chunk alive.
#[derive(Debug, Clone)]
pub struct PageBytes {
    chunk: Arc<DecodedChunk>,
    at: usize,
}

impl Deref for PageBytes {
    type Target = [u8; PAGE];

    fn deref(&self) -> &[u8; PAGE] {
        static ZERO: [u8; PAGE] = [0; PAGE];
        // DecodedChunk::find gives only places that PagePayload::parse has checked.
        self.chunk.plain().get(self.at..).and_then(|b| b.first_chunk()).unwrap_or(&ZERO)
    }
}

/// Something with pages: the memory of a machine, or a swap device. Analyses are
/// written against this.
pub trait PageSource: Sync {
    /// What is known of a page.
    ///
    /// # Errors
    /// [`DumpError`] when the chunk that should hold it is damaged.
    fn page(&self, page: Pfn) -> Result<Page, DumpError>;

    /// Fills `buf` from byte address `addr`; the count of bytes filled is less
    /// than asked for when a page without contents comes first.
    ///
    /// # Errors
    /// [`DumpError`] when a chunk is damaged.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<usize, DumpError> {
        let mut done = 0;
        while done < buf.len() {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let page = self.page(Pfn(at / PAGE as u64))?;
            let skip = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let space = buf.get_mut(done..).unwrap_or_default();
            let take = space.len().min(PAGE - skip);
            let space = space.get_mut(..take).unwrap_or_default();
            match &page {
                Page::Data(bytes) => {
                    space.copy_from_slice(bytes.get(skip..skip + take).unwrap_or_default());
                }
                Page::Zero => space.fill(0),
                Page::Fill(word) => {
                    let page = page_of(*word);
                    space.copy_from_slice(page.get(skip..skip + take).unwrap_or_default());
                }
                Page::Unreadable | Page::Excluded | Page::NotCaptured => break,
            }
            done += take;
        }
        Ok(done)
    }
}

/// Memory or one swap device of an open dump.
#[derive(Debug, Clone, Copy)]
pub struct PageSpace<'d> {
    pub(crate) dump: &'d OpenDump,
    pub(crate) kind: ChunkKind,
    pub(crate) device: u16,
    pub(crate) list: &'d ChunkList,
    pub(crate) cache: &'d Cache,
}

impl<'d> PageSpace<'d> {
    /// The chunks: layer by layer, by page and disjoint within each. Chunks of several
    /// layers may cover the same pages; their runs say which of them are theirs.
    #[must_use]
    pub fn entries(&self) -> &'d [IndexEntry] {
        self.list.entries()
    }

    /// The layers as ranges of [`PageSpace::entries`], in the order in which a page is
    /// looked for.
    pub(crate) fn layers(&self) -> impl Iterator<Item = Range<usize>> {
        self.list.layer_ranges()
    }

    /// [`ChunkKind::Memory`] or [`ChunkKind::Swap`].
    #[must_use]
    pub fn kind(&self) -> ChunkKind {
        self.kind
    }

    /// Number of the swap device; 0 for memory.
    #[must_use]
    pub fn device(&self) -> u16 {
        self.device
    }

    /// The same pages through another cache: of a thread that works by itself.
    pub(crate) fn with_cache(self, cache: &'d Cache) -> Self {
        Self { cache, ..self }
    }

    /// The dump.
    #[must_use]
    pub fn dump(&self) -> &'d OpenDump {
        self.dump
    }
}

/// A page of one word.
pub(crate) fn page_of(word: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for to in page.as_chunks_mut().0 {
        *to = word.to_le_bytes();
    }
    page
}

impl PageSource for PageSpace<'_> {
    fn page(&self, page: Pfn) -> Result<Page, DumpError> {
        match self.own(page)? {
            // A source has contents of its own: what names another one is damaged, and
            // following it could go on for ever.
            Own::Same(source) => {
                let stored = self.dump.memory().with_cache(self.cache).stored(source)?;
                Ok(stored.map_or(Page::NotCaptured, Page::Data))
            }
            Own::Page(page) => Ok(page),
        }
    }
}

/// What the chunks of a space say of a page.
enum Own {
    Page(Page),
    /// It equals this page of memory.
    Same(Pfn),
}

impl PageSpace<'_> {
    /// The contents of a page, if they are stored under its own number.
    pub(crate) fn stored(&self, page: Pfn) -> Result<Option<PageBytes>, DumpError> {
        match self.own(page)? {
            Own::Page(Page::Data(bytes)) => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }

    fn own(&self, page: Pfn) -> Result<Own, DumpError> {
        // A damaged chunk hides only what no other layer has.
        let mut damage = None;
        for layer in self.list.layers() {
            let Some(entry) = index::find(layer, page) else { continue };
            match self.dump.look_up(entry, page, self.cache) {
                Ok(Hit::Data(bytes)) => return Ok(Own::Page(Page::Data(bytes))),
                Ok(Hit::Class(PageClass::Zero)) => return Ok(Own::Page(Page::Zero)),
                Ok(Hit::Class(PageClass::Fill(word))) => return Ok(Own::Page(Page::Fill(word))),
                Ok(Hit::Class(PageClass::Same(source))) => return Ok(Own::Same(source)),
                Ok(Hit::Class(PageClass::Unreadable)) => return Ok(Own::Page(Page::Unreadable)),
                Ok(Hit::Class(PageClass::Excluded)) => return Ok(Own::Page(Page::Excluded)),
                Ok(Hit::Class(PageClass::Elsewhere | PageClass::Data) | Hit::None) => {}
                Err(e) => damage = damage.or(Some(e)),
            }
        }
        damage.map_or(Ok(Own::Page(Page::NotCaptured)), Err)
    }
}

/// What one chunk says of a page.
pub(crate) enum Hit {
    /// Its contents.
    Data(PageBytes),
    /// What it is, without contents.
    Class(PageClass),
    /// Nothing: the page is not covered.
    None,
}

/// The chunks used last, newest first, the run tables of more of them, and what
/// decodes them.
pub(crate) struct Cache {
    inner: Mutex<Inner>,
    /// Most bytes of each.
    most: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self::of(CACHE_BYTES)
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("most", &self.most).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    decoder: Decoder,
    chunks: VecDeque<(u64, Arc<DecodedChunk>)>,
    bytes: usize,
    runs: HashMap<u64, Runs>,
    /// Offsets of `runs`, oldest first.
    order: VecDeque<u64>,
    run_bytes: usize,
}

impl Cache {
    /// A cache of at most so many bytes of chunks, and as many of run tables.
    pub(crate) fn of(most: usize) -> Self {
        Self { inner: Mutex::default(), most }
    }

    /// What the chunk at `offset` says of a page. It is decoded by `load` only if its
    /// run table is not here, or if its contents are asked for and not here.
    pub(crate) fn find(
        &self,
        offset: u64,
        page: Pfn,
        load: impl FnOnce(&mut Decoder) -> Result<DecodedChunk, DumpError>,
    ) -> Result<Hit, DumpError> {
        // A panic elsewhere leaves nothing half done here that matters.
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match inner.runs.get(&offset).map(|runs| runs.find(page)) {
            Some(None) => return Ok(Hit::None),
            Some(Some((class, _))) if class != PageClass::Data => return Ok(Hit::Class(class)),
            _ => {}
        }
        let chunk = inner.chunk(offset, self.most, load)?;
        inner.keep_runs(offset, chunk.runs(), self.most);
        Ok(match chunk.runs().find(page) {
            None => Hit::None,
            Some((PageClass::Data, at)) => Hit::Data(PageBytes { chunk, at }),
            Some((class, _)) => Hit::Class(class),
        })
    }
}

impl Inner {
    fn chunk(
        &mut self,
        offset: u64,
        most: usize,
        load: impl FnOnce(&mut Decoder) -> Result<DecodedChunk, DumpError>,
    ) -> Result<Arc<DecodedChunk>, DumpError> {
        if let Some(index) = self.chunks.iter().position(|(at, _)| *at == offset)
            && let Some(hit) = self.chunks.remove(index)
        {
            let chunk = Arc::clone(&hit.1);
            self.chunks.push_front(hit);
            return Ok(chunk);
        }
        let chunk = Arc::new(load(&mut self.decoder)?);
        self.bytes += chunk.size();
        self.chunks.push_front((offset, Arc::clone(&chunk)));
        while self.bytes > most && self.chunks.len() > 1 {
            let Some((_, old)) = self.chunks.pop_back() else { break };
            self.bytes = self.bytes.saturating_sub(old.size());
            if let Some(old) = Arc::into_inner(old) {
                self.decoder.recycle(old);
            }
        }
        Ok(chunk)
    }

    fn keep_runs(&mut self, offset: u64, runs: &Runs, most: usize) {
        if self.runs.contains_key(&offset) {
            return;
        }
        self.runs.insert(offset, runs.clone());
        self.run_bytes += runs.size();
        self.order.push_back(offset);
        while self.run_bytes > most && self.order.len() > 1 {
            let old = self.order.pop_front().and_then(|at| self.runs.remove(&at));
            self.run_bytes = self.run_bytes.saturating_sub(old.map_or(0, |r| r.size()));
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_crypt::Opener;
    use lifeboat_format::{ByteOff, ChunkHeader, Cipher, Codec, Layer};

    use super::*;

    /// Buffers are used again: a small chunk may lie in a large one.
    #[test]
    fn a_cache_counts_what_its_buffers_take() {
        let opener = Opener::new(Cipher::None, None).unwrap();
        let text = b"a short text";
        let header = ChunkHeader {
            dump_id: [1; 16],
            seq: 0,
            kind: ChunkKind::Log,
            codec: Codec::Store,
            cipher: Cipher::None,
            device: 0,
            layer: Layer::Address,
            first: Pfn(0),
            pages: 12,
            raw_len: 12,
            stored_len: 12,
            offset: ByteOff(0),
            data_pages: 0,
            missing_pages: 0,
            payload_crc: lifeboat_format::crc32(text),
        };
        let cache = Cache::of(3 << 20);
        for offset in 0..20 {
            let load = |decoder: &mut Decoder| {
                let mut stored = Vec::with_capacity(1 << 20);
                stored.extend(text);
                decoder.decode(&opener, header, &mut stored)
            };
            cache.find(offset, Pfn(0), load).unwrap();
        }
        assert_eq!(cache.inner.lock().unwrap().chunks.len(), 3);
    }
}
