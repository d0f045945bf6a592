//! One compressing worker: read a batch, classify its pages, fill a chunk, pack it.

use std::sync::Mutex;

use lifeboat_format::chunk::{MAX_CHUNK_PAGES, MAX_RUNS, RUN_LEN};
use lifeboat_format::commit::PageCounts;
use lifeboat_format::{ChunkKind, Layer, PAGE, PageClass, PageRange, Pfn, Run};

use crate::frames::{Piece, TEXT_PART};
use crate::{
    Cursor, EngineError, FrameSink, Frames, Monitor, PageRead, Place, PlaceRead, ReadFault,
    Scratch, Seal,
};

/// Pages read at a time.
const BATCH: usize = 32;
/// Room for the run table in front of the data.
const HEAD: usize = 4 + MAX_RUNS * RUN_LEN;

/// What the workers of one source share.
pub struct Job<'a> {
    /// [`ChunkKind::Memory`] or [`ChunkKind::Swap`].
    pub kind: ChunkKind,
    /// Number of the swap device; 0 for memory.
    pub device: u16,
    /// The layer to capture; [`Layer::Address`] takes every page that is not left out.
    pub layer: Layer,
    /// Whether chunks of this job tell which pages are left out. One job of a source
    /// does: the first.
    pub tells_out: bool,
    /// Name of the source for messages.
    pub name: &'static str,
    /// Where the workers are.
    pub cursor: &'a Cursor<'a>,
    /// Time.
    pub monitor: &'a dyn Monitor,
}

/// What a job does with a page.
#[derive(PartialEq, Eq)]
enum Fate {
    /// Its contents go into the dump.
    Taken,
    /// It is left out, and the dump says so.
    Told,
    /// Another job's.
    Passed,
}

impl Job<'_> {
    fn fate(&self, place: Place) -> Fate {
        match place {
            Place::In(layer) if layer == self.layer || self.layer == Layer::Address => Fate::Taken,
            Place::Out if self.tells_out => Fate::Told,
            _ => Fate::Passed,
        }
    }
}

/// A worker's memory: one chunk, its runs, its compressor.
pub struct Worker {
    scratch: Scratch,
    /// `[slack | HEAD | data pages | slack]`; the run table is written to end where
    /// the data starts, and the data starts at a page boundary of our own memory, so
    /// that a reader may use O_DIRECT.
    buf: Vec<u8>,
    /// Where the data starts in `buf`.
    origin: usize,
    runs: Vec<Run>,
    data: usize,
    capacity: usize,
    first: u64,
    counts: PageCounts,
    /// Pages of other layers within the chunk.
    elsewhere: u64,
}

/// Where a worker's pages come from.
pub struct Input<'r> {
    /// Their contents.
    pub pages: &'r mut dyn PageRead,
    /// Where they go; needed for a job with a layer, and where pages are left out.
    pub places: Option<&'r mut dyn PlaceRead>,
}

impl Worker {
    /// A worker for chunks of up to `chunk_pages` data pages, at a zstd level or none.
    ///
    /// # Errors
    /// [`EngineError::Compress`].
    pub fn new(level: Option<i32>, chunk_pages: u32) -> Result<Self, EngineError> {
        let capacity = (chunk_pages.clamp(1, MAX_CHUNK_PAGES) as usize).max(BATCH);
        let raw = HEAD + capacity * PAGE;
        let buf = vec![0; raw + PAGE];
        // The vector never grows, so its address stays.
        let origin = HEAD + buf.as_ptr().wrapping_add(HEAD).align_offset(PAGE);
        Ok(Self {
            scratch: Scratch::new(level, raw.max(TEXT_PART))?,
            buf,
            origin,
            runs: Vec::with_capacity(MAX_RUNS),
            data: 0,
            capacity,
            first: 0,
            counts: PageCounts::default(),
            elsewhere: 0,
        })
    }

    /// The compressor, for text chunks before and after the pages.
    pub fn scratch(&mut self) -> &mut Scratch {
        &mut self.scratch
    }

    fn pages(&self) -> u64 {
        self.counts.seen() + self.elsewhere
    }

    /// Whether another batch could overflow the chunk.
    fn is_full(&self) -> bool {
        self.data + BATCH > self.capacity || self.runs.len() + BATCH > MAX_RUNS
    }

    fn push(&mut self, class: PageClass) {
        match class {
            PageClass::Data => self.counts.data += 1,
            PageClass::Zero => self.counts.zero += 1,
            PageClass::Unreadable => self.counts.unreadable += 1,
            PageClass::Excluded => self.counts.excluded += 1,
            PageClass::Elsewhere => self.elsewhere += 1,
        }
        match self.runs.last_mut() {
            Some(run) if run.class == class => run.count += 1,
            _ => self.runs.push(Run { class, count: 1 }),
        }
    }

    /// Passes over pages of other layers. A chunk never begins with them.
    fn pass(&mut self, pages: u64) {
        if self.runs.is_empty() {
            self.first += pages;
            return;
        }
        self.elsewhere += pages;
        match self.runs.last_mut() {
            Some(run) if run.class == PageClass::Elsewhere => run.count += pages,
            _ => self.runs.push(Run { class: PageClass::Elsewhere, count: pages }),
        }
    }

    /// Nor does it end with them.
    fn trim(&mut self) {
        if let Some(run) = self.runs.pop_if(|r| r.class == PageClass::Elsewhere) {
            self.elsewhere -= run.count;
        }
    }

    /// Reads those of `pages` (at most BATCH) from `first` that belong to the job's layer.
    fn batch(
        &mut self,
        job: &Job<'_>,
        input: &mut Input<'_>,
        first: Pfn,
        pages: usize,
    ) -> Result<(), ReadFault> {
        let Some(reader) = input.places.as_mut() else {
            return self.take(input.pages, first, pages);
        };
        let mut places = [Place::Out; BATCH];
        let places = places.get_mut(..pages).unwrap_or_default();
        reader.places(first, places);
        let mut at = first.0;
        for run in places.chunk_by(|a, b| job.fate(*a) == job.fate(*b)) {
            match run.first().map(|place| job.fate(*place)) {
                Some(Fate::Taken) => self.take(input.pages, Pfn(at), run.len())?,
                Some(Fate::Told) => run.iter().for_each(|_| self.push(PageClass::Excluded)),
                _ => self.pass(run.len() as u64),
            }
            at += run.len() as u64;
        }
        Ok(())
    }

    /// Reads and classifies `pages` (at most BATCH) from `first`.
    fn take(
        &mut self,
        reader: &mut dyn PageRead,
        first: Pfn,
        pages: usize,
    ) -> Result<(), ReadFault> {
        let start = self.origin + self.data * PAGE;
        let mut bad = [false; BATCH];
        let space = self.buf.get_mut(start..start + pages * PAGE).unwrap_or_default();
        reader.read(first, space, &mut |index| {
            if let Some(flag) = bad.get_mut(index) {
                *flag = true;
            }
        })?;
        for (index, bad) in bad.iter().enumerate().take(pages) {
            let from = start + index * PAGE;
            let page = self.buf.get(from..from + PAGE).unwrap_or_default();
            let class = if *bad {
                PageClass::Unreadable
            } else if is_zero(page) {
                PageClass::Zero
            } else {
                PageClass::Data
            };
            if class == PageClass::Data {
                let to = self.origin + self.data * PAGE;
                if to != from {
                    self.buf.copy_within(from..from + PAGE, to);
                }
                self.data += 1;
            }
            self.push(class);
        }
        Ok(())
    }

    /// Packs what was gathered and hands it to `frames`.
    fn emit<S: FrameSink, C: Seal>(
        &mut self,
        job: &Job<'_>,
        frames: &Mutex<Frames<S, C>>,
    ) -> Result<(), EngineError> {
        self.trim();
        if self.runs.is_empty() {
            return Ok(());
        }
        let table = 4 + self.runs.len() * RUN_LEN;
        let start = self.origin - table;
        let end = self.origin + self.data * PAGE;
        let count = u32::try_from(self.runs.len()).map_err(|_| EngineError::Seal)?;
        let head = self.buf.get_mut(start..self.origin).unwrap_or_default();
        let bytes =
            count.to_le_bytes().into_iter().chain(self.runs.iter().flat_map(|r| r.encode()));
        for (to, from) in head.iter_mut().zip(bytes) {
            *to = from;
        }
        let raw = self.buf.get(start..end).unwrap_or_default();
        let pages = self.pages();
        let (codec, payload) = self.scratch.pack(raw)?;
        let piece = Piece {
            kind: job.kind,
            codec,
            device: job.device,
            layer: job.layer,
            first: Pfn(self.first),
            raw_len: end - start,
            counts: self.counts,
            pages,
        };
        frames.lock().map_err(|_| EngineError::Poisoned)?.put(&piece, payload)?;
        self.clear();
        Ok(())
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.data = 0;
        self.counts = PageCounts::default();
        self.elsewhere = 0;
    }

    fn span<S: FrameSink, C: Seal>(
        &mut self,
        job: &Job<'_>,
        span: PageRange,
        input: &mut Input<'_>,
        frames: &Mutex<Frames<S, C>>,
    ) -> Result<(), EngineError> {
        self.clear();
        if input.places.is_none() {
            input.pages.ahead(span);
        }
        self.first = span.start.0;
        let mut at = span.start.0;
        while at < span.end.0 {
            if self.is_full() {
                self.emit(job, frames)?;
                self.first = at;
            }
            let pages = usize::try_from(span.end.0 - at).map_or(BATCH, |left| left.min(BATCH));
            if let Err(fault) = self.batch(job, input, Pfn(at), pages) {
                // What was read before is good: keep it.
                self.emit(job, frames)?;
                return Err(EngineError::Source { what: job.name, source: fault.0 });
            }
            at += pages as u64;
            if !job.monitor.tick(pages as u64) {
                self.emit(job, frames)?;
                return Err(EngineError::Stopped);
            }
        }
        self.emit(job, frames)
    }
}

/// Runs one worker until the cursor is at its end or something stops it.
///
/// # Errors
/// [`EngineError`]; see [`EngineError::can_commit`] for whether the dump can be finished.
pub fn capture<S: FrameSink, C: Seal>(
    worker: &mut Worker,
    job: &Job<'_>,
    input: &mut Input<'_>,
    frames: &Mutex<Frames<S, C>>,
) -> Result<(), EngineError> {
    while let Some(span) = job.cursor.next() {
        worker.span(job, span, input, frames)?;
    }
    Ok(())
}

/// Whether a page is all zero; most are not and differ in the first word or two.
fn is_zero(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<64>();
    rest.iter().all(|b| *b == 0)
        && blocks.iter().all(|block| {
            let (words, _) = block.as_chunks::<8>();
            words.iter().fold(0, |acc, w| acc | u64::from_ne_bytes(*w)) == 0
        })
}
