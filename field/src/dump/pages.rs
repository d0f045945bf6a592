//! Pages by number, through a small cache of decoded chunks.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use lifeboat_format::{ChunkKind, IndexEntry, PAGE, PageClass, Pfn};

use super::{DecodedChunk, Decoder, DumpError, OpenDump, index};

/// Most bytes of decoded chunks that are kept.
const CACHE_BYTES: usize = 32 << 20;

/// What the dump knows of a page.
#[derive(Debug, Clone)]
pub enum Page {
    /// Its contents.
    Data(PageBytes),
    /// It was all zero.
    Zero,
    /// It was there but could not be read.
    Unreadable,
    /// The profile left it out.
    Excluded,
    /// No chunk covers it: not memory, or the capture did not get there.
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
    pub(crate) entries: &'d [IndexEntry],
}

impl<'d> PageSpace<'d> {
    /// The chunks, by page, disjoint.
    #[must_use]
    pub fn entries(&self) -> &'d [IndexEntry] {
        self.entries
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

    /// The dump.
    #[must_use]
    pub fn dump(&self) -> &'d OpenDump {
        self.dump
    }
}

impl PageSource for PageSpace<'_> {
    fn page(&self, page: Pfn) -> Result<Page, DumpError> {
        let Some(entry) = index::find(self.entries, page) else { return Ok(Page::NotCaptured) };
        let chunk = self.dump.cached(entry)?;
        Ok(match chunk.find(page) {
            Some((PageClass::Data, at)) => Page::Data(PageBytes { chunk, at }),
            Some((PageClass::Zero, _)) => Page::Zero,
            Some((PageClass::Unreadable, _)) => Page::Unreadable,
            Some((PageClass::Excluded, _)) => Page::Excluded,
            None => Page::NotCaptured,
        })
    }
}

/// The chunks used last, newest first, and what decodes them.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    decoder: Decoder,
    chunks: VecDeque<(u64, Arc<DecodedChunk>)>,
    bytes: usize,
}

impl Cache {
    /// The chunk at `offset`, decoded by `load` if it is not here.
    pub(crate) fn get(
        &self,
        offset: u64,
        load: impl FnOnce(&mut Decoder) -> Result<DecodedChunk, DumpError>,
    ) -> Result<Arc<DecodedChunk>, DumpError> {
        // A panic elsewhere leaves nothing half done here that matters.
        let mut inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = inner.chunks.iter().position(|(at, _)| *at == offset)
            && let Some(hit) = inner.chunks.remove(index)
        {
            let chunk = Arc::clone(&hit.1);
            inner.chunks.push_front(hit);
            return Ok(chunk);
        }
        let chunk = Arc::new(load(&mut inner.decoder)?);
        inner.bytes += chunk.plain().len();
        inner.chunks.push_front((offset, Arc::clone(&chunk)));
        while inner.bytes > CACHE_BYTES && inner.chunks.len() > 1 {
            if let Some((_, old)) = inner.chunks.pop_back() {
                inner.bytes = inner.bytes.saturating_sub(old.plain().len());
            }
        }
        Ok(chunk)
    }
}
