//! One compressing worker: read a batch, classify its pages, fill a chunk, pack it.

use lifeboat_format::chunk::{MAX_CHUNK_PAGES, MAX_RUNS, RUN_LEN};
use lifeboat_format::commit::PageCounts;
use lifeboat_format::{ChunkKind, Layer, PAGE, PageClass, PageRange, Pfn, Run};

use crate::frames::{Piece, TEXT_PART};
use crate::{
    Compress, Cursor, EngineError, Fingerprint, FrameSink, Method, Monitor, PageRead, Place,
    PlaceRead, ReadFault, Scratch, Seal, Shared, Tuner, Twins,
};

/// Pages read at a time, at most.
const BATCH: usize = 32;
/// Pages that a chunk must have room for to be read into: the fuller a chunk, the better it
/// packs, but reading page by page costs time.
const LEAST: usize = 8;
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
    /// Chooses how chunks are packed.
    pub tuner: &'a Tuner,
    /// Pages that were stored already, if identical ones are to be stored once.
    pub twins: Option<&'a Twins>,
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
    /// Entries of the run table that `runs` take.
    entries: usize,
    data: usize,
    capacity: usize,
    /// Prints pages to find twins; without it there are none.
    prints: Option<Box<dyn Fingerprint + Send>>,
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
    /// A worker for chunks of up to `chunk_pages` data pages. `pack` must take payloads of
    /// [`Worker::max_raw`] bytes; texts are packed by the method `text`.
    #[must_use]
    pub fn new(pack: Box<dyn Compress + Send>, text: Method, chunk_pages: u32) -> Self {
        let capacity = Self::capacity(chunk_pages);
        let raw = HEAD + capacity * PAGE;
        let buf = vec![0; raw + PAGE];
        // The vector never grows, so its address stays.
        let origin = HEAD + buf.as_ptr().wrapping_add(HEAD).align_offset(PAGE);
        Self {
            scratch: Scratch::new(pack, text, Self::max_raw(chunk_pages)),
            buf,
            origin,
            runs: Vec::with_capacity(MAX_RUNS),
            entries: 0,
            data: 0,
            capacity,
            prints: None,
            first: 0,
            counts: PageCounts::default(),
            elsewhere: 0,
        }
    }

    fn capacity(chunk_pages: u32) -> usize {
        (chunk_pages.clamp(1, MAX_CHUNK_PAGES) as usize).max(BATCH)
    }

    /// The longest payload that a worker with such chunks packs, in bytes.
    #[must_use]
    pub fn max_raw(chunk_pages: u32) -> usize {
        (HEAD + Self::capacity(chunk_pages) * PAGE).max(TEXT_PART)
    }

    /// Bytes of working memory, without the compressor's own.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.buf.capacity() + self.runs.capacity() * size_of::<Run>() + self.scratch.memory()
    }

    /// Looks for pages that are the same as one before, in jobs with [`Job::twins`].
    pub fn look_for_twins(&mut self, prints: Box<dyn Fingerprint + Send>) {
        self.prints = Some(prints);
    }

    /// The compressor, for text chunks before and after the pages.
    pub fn scratch(&mut self) -> &mut Scratch {
        &mut self.scratch
    }

    /// Pages that are still read into the chunk at once; none when it is full enough.
    fn space(&self) -> usize {
        if self.entries + 2 * BATCH > MAX_RUNS {
            return 0;
        }
        let left = self.capacity.saturating_sub(self.data);
        if left < LEAST { 0 } else { left.min(BATCH) }
    }

    fn push(&mut self, class: PageClass) {
        match class {
            PageClass::Data => self.counts.data += 1,
            PageClass::Zero => self.counts.zero += 1,
            PageClass::Unreadable => self.counts.unreadable += 1,
            PageClass::Excluded => self.counts.excluded += 1,
            PageClass::Fill(_) => self.counts.fill += 1,
            PageClass::Same(_) => self.counts.same += 1,
            PageClass::Elsewhere => self.elsewhere += 1,
        }
        self.extend(class, 1);
    }

    /// Makes the last run longer, or begins one.
    fn extend(&mut self, class: PageClass, pages: u64) {
        match self.runs.last_mut() {
            Some(run) if run.class.ahead(run.count) == class => run.count += pages,
            _ => {
                self.runs.push(Run { class, count: pages });
                self.entries += class.entries();
            }
        }
    }

    /// Passes over pages of other layers. A chunk never begins with them.
    fn pass(&mut self, pages: u64) {
        if self.runs.is_empty() {
            self.first += pages;
            return;
        }
        self.elsewhere += pages;
        self.extend(PageClass::Elsewhere, pages);
    }

    /// Nor does it end with them.
    fn trim(&mut self) {
        if let Some(run) = self.runs.pop_if(|r| r.class == PageClass::Elsewhere) {
            self.elsewhere -= run.count;
            self.entries -= run.class.entries();
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
            return self.take(job, input.pages, first, pages);
        };
        let mut places = [Place::Out; BATCH];
        let places = places.get_mut(..pages).unwrap_or_default();
        reader.places(first, places);
        let mut at = first.0;
        for run in places.chunk_by(|a, b| job.fate(*a) == job.fate(*b)) {
            match run.first().map(|place| job.fate(*place)) {
                Some(Fate::Taken) => self.take(job, input.pages, Pfn(at), run.len())?,
                Some(Fate::Told) => {
                    job.tuner.passed(run.len() as u64, 0);
                    run.iter().for_each(|_| self.push(PageClass::Excluded));
                }
                _ => self.pass(run.len() as u64),
            }
            at += run.len() as u64;
        }
        Ok(())
    }

    /// Reads and classifies `pages` (at most BATCH) from `first`.
    fn take(
        &mut self,
        job: &Job<'_>,
        reader: &mut dyn PageRead,
        first: Pfn,
        pages: usize,
    ) -> Result<(), ReadFault> {
        let (start, before) = (self.origin + self.data * PAGE, self.data);
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
            } else if let Some(word) = only_word(page) {
                if word == 0 { PageClass::Zero } else { PageClass::Fill(word) }
            } else {
                twin(job, self.prints.as_deref_mut(), page, Pfn(first.0 + index as u64))
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
        job.tuner.passed(pages as u64, (self.data - before) as u64);
        Ok(())
    }

    /// Packs what was gathered and hands it to `frames`.
    fn emit<S: FrameSink, C: Seal>(
        &mut self,
        job: &Job<'_>,
        frames: &Shared<S, C>,
    ) -> Result<(), EngineError> {
        self.trim();
        if self.runs.is_empty() {
            return Ok(());
        }
        let table = 4 + self.entries * RUN_LEN;
        let start = self.origin - table;
        let end = self.origin + self.data * PAGE;
        let count = u32::try_from(self.entries).map_err(|_| EngineError::Seal)?;
        let head = self.buf.get_mut(start..self.origin).unwrap_or_default();
        let runs = self.runs.iter().flat_map(|r| {
            r.encode().into_iter().chain(r.class.word().into_iter().flat_map(u64::to_le_bytes))
        });
        for (to, from) in head.iter_mut().zip(count.to_le_bytes().into_iter().chain(runs)) {
            *to = from;
        }
        let raw = self.buf.get_mut(start..end).unwrap_or_default();
        let pages = self.counts.seen() + self.elsewhere;
        let (codec, payload) = self.scratch.pack(raw, job.tuner, &|| job.monitor.nanos());
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
        frames.put(&piece, payload, (job.tuner, &|| job.monitor.nanos()))?;
        self.clear();
        Ok(())
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.entries = 0;
        self.data = 0;
        self.counts = PageCounts::default();
        self.elsewhere = 0;
    }

    fn span<S: FrameSink, C: Seal>(
        &mut self,
        job: &Job<'_>,
        span: PageRange,
        input: &mut Input<'_>,
        frames: &Shared<S, C>,
    ) -> Result<(), EngineError> {
        if input.places.is_none() {
            input.pages.ahead(span);
        }
        let mut at = span.start.0;
        while at < span.end.0 {
            if self.space() == 0 {
                self.emit(job, frames)?;
                self.first = at;
            }
            let space = self.space();
            let pages = usize::try_from(span.end.0 - at).map_or(space, |left| left.min(space));
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
        Ok(())
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
    frames: &Shared<S, C>,
) -> Result<(), EngineError> {
    worker.clear();
    let mut end = None;
    while let Some(span) = job.cursor.next() {
        // Where one span begins at the end of the last, the chunk goes on.
        if end != Some(span.start) {
            worker.emit(job, frames)?;
            worker.first = span.start.0;
        }
        worker.span(job, span, input, frames)?;
        end = Some(span.end);
    }
    worker.emit(job, frames)
}

/// What a page with contents is: stored, or the same as one that was.
fn twin(
    job: &Job<'_>,
    prints: Option<&mut (dyn Fingerprint + Send + 'static)>,
    page: &[u8],
    pfn: Pfn,
) -> PageClass {
    let (Some(twins), Some(prints)) = (job.twins, prints) else { return PageClass::Data };
    let print = prints.print(page);
    let known = match job.kind {
        ChunkKind::Memory => twins.meet(print, pfn),
        // Only memory pages can be named as a source.
        _ => twins.find(print),
    };
    known.map_or(PageClass::Data, PageClass::Same)
}

/// The word that a page repeats all over; most pages differ in the first few.
pub(crate) fn only_word(page: &[u8]) -> Option<u64> {
    let (words, rest) = page.as_chunks::<8>();
    let first = words.first()?;
    let (blocks, tail) = words.as_chunks::<8>();
    let word = u64::from_ne_bytes(*first);
    let differ = |words: &[[u8; 8]]| {
        words.iter().fold(0, |acc, w| acc | (u64::from_ne_bytes(*w) ^ word)) != 0
    };
    if !rest.is_empty() || blocks.iter().any(|b| differ(b)) || differ(tail) {
        return None;
    }
    Some(u64::from_le_bytes(*first))
}
