//! The pages: memory in the order of its worth, and the swap devices.

use std::sync::Mutex;

use lifeboat_engine::{
    Cursor, EngineError, Input, Job, Monitor, PageRead, PlaceRead, ReadFault, Worker, capture,
};
use lifeboat_format::bootcfg::{BootConfig, SwapPlan};
use lifeboat_format::commit::{Outcome, PageCounts};
use lifeboat_format::{ChunkKind, Layer, Pfn};
use lifeboat_sources::{AnyMemory, MemoryReader, OldMemory};

use crate::capture::Writer;
use crate::console::say;
use crate::phase::{Journal, Phase};
use crate::places::Records;
use crate::supervisor::Supervisor;
use crate::swap::{SwapSource, Swaps};
use crate::{Failure, fault};

/// Everything that is captured, and who does it.
pub(crate) struct Pages<'a> {
    pub(crate) config: &'a BootConfig,
    pub(crate) journal: &'a Journal,
    pub(crate) supervisor: &'a Supervisor,
    pub(crate) memory: &'a AnyMemory,
    pub(crate) swaps: &'a Swaps,
    pub(crate) records: Option<&'a Records>,
    pub(crate) frames: &'a Mutex<Writer>,
}

impl Pages<'_> {
    /// Captures all of it, the most valuable first: what comes last is what a full
    /// partition or the deadline costs. `Err` only where nothing can be committed.
    pub(crate) fn capture(&self, workers: &mut [Worker]) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::Complete;
        let (before, behind) = Records::layers(self.records);
        self.enter(Phase::Memory);
        self.layers(before, workers, &mut outcome)?;
        self.enter(Phase::Swap);
        self.swap(workers, &mut outcome)?;
        if !behind.is_empty() {
            self.supervisor.enter(self.journal, Phase::Memory, self.config);
            self.layers(behind, workers, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn enter(&self, phase: Phase) {
        self.supervisor.enter(self.journal, phase, self.config);
        fault::inject(self.config, phase);
    }

    fn layers(
        &self,
        layers: &[Layer],
        workers: &mut [Worker],
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        for layer in layers.iter().filter(|_| self.config.memory) {
            if is_over(*outcome) {
                say!("memory, {} pages: not captured: {}", layer.name(), outcome.name());
                continue;
            }
            let cursor = Cursor::new(self.memory.ranges());
            let clock = self.clock();
            let job = Job {
                kind: ChunkKind::Memory,
                device: 0,
                layer: *layer,
                tells_out: matches!(layer, Layer::Address | Layer::Kernel),
                name: "old memory",
                cursor: &cursor,
                monitor: &clock,
            };
            let before = self.counts(|f| f.counts().0);
            let this = self.run(&job, workers, &|| self.memory_input())?;
            self.secure()?;
            self.report("memory", layer.name(), this, &before, |f| f.counts().0);
            join(outcome, this);
        }
        Ok(())
    }

    fn memory_input(&self) -> Result<OwnedInput<'_>, Failure> {
        let places = match self.records {
            Some(records) => Some(records.places(self.memory.reader()?)),
            None => None,
        };
        Ok(OwnedInput { pages: Box::new(Memory(self.memory.reader()?)), places })
    }

    fn swap(&self, workers: &mut [Worker], outcome: &mut Outcome) -> Result<(), Failure> {
        for source in &self.swaps.list {
            if is_over(*outcome) {
                say!("swap: {} not captured: {}", source.name(), outcome.name());
                continue;
            }
            let this = self.swap_device(source, workers)?;
            join(outcome, this);
        }
        if self.swaps.missing {
            join(outcome, Outcome::SourceFailed);
        }
        Ok(())
    }

    fn swap_device(&self, source: &SwapSource, workers: &mut [Worker]) -> Result<Outcome, Failure> {
        let ranges = [source.range()];
        let cursor = Cursor::new(&ranges);
        let clock = self.clock();
        let job = Job {
            kind: ChunkKind::Swap,
            device: source.index(),
            layer: Layer::Address,
            tells_out: false,
            name: "a swap device",
            cursor: &cursor,
            monitor: &clock,
        };
        let open = || Ok(OwnedInput { pages: source.reader()?, places: None });
        let before = self.counts(|f| f.counts().1);
        let this = self.run(&job, workers, &open)?;
        self.secure()?;
        if self.config.swap != SwapPlan::None {
            self.report("swap", "all", this, &before, |f| f.counts().1);
        }
        Ok(this)
    }

    /// Makes a layer durable before a less valuable one is begun: a disk's write cache
    /// holds what it likes until then.
    fn secure(&self) -> Result<(), Failure> {
        Ok(self.frames.lock().map_err(|_| "a worker failed")?.checkpoint()?)
    }

    fn clock(&self) -> Clock<'_> {
        Clock { journal: self.journal, supervisor: self.supervisor }
    }

    fn counts(&self, of: impl Fn(&Writer) -> PageCounts) -> PageCounts {
        self.frames.lock().map(|f| of(&f)).unwrap_or_default()
    }

    fn report(
        &self,
        what: &str,
        which: &str,
        outcome: Outcome,
        before: &PageCounts,
        of: impl Fn(&Writer) -> PageCounts,
    ) {
        let now = self.counts(of);
        say!(
            "{what}, {which} pages: {}: {} with data, {} zero, {} excluded, {} unreadable, {} MiB written, {} ms",
            outcome.name(),
            now.data.saturating_sub(before.data),
            now.zero.saturating_sub(before.zero),
            now.excluded.saturating_sub(before.excluded),
            now.unreadable.saturating_sub(before.unreadable),
            now.stored_bytes.saturating_sub(before.stored_bytes) >> 20,
            self.journal.phase_ms()
        );
    }

    /// Runs all workers over one source.
    fn run<'w>(
        &self,
        job: &Job<'_>,
        workers: &mut [Worker],
        open: &dyn Fn() -> Result<OwnedInput<'w>, Failure>,
    ) -> Result<Outcome, Failure> {
        let mut inputs = Vec::with_capacity(workers.len());
        for _ in workers.iter() {
            inputs.push(open()?);
        }
        let frames = self.frames;
        let results: Vec<Result<(), EngineError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = workers
                .iter_mut()
                .zip(inputs)
                .map(|(worker, mut input)| {
                    scope.spawn(move || {
                        let places = input.places.as_deref_mut();
                        let places = places.map(|l| l as &mut dyn PlaceRead);
                        let mut input = Input { pages: &mut *input.pages, places };
                        capture(worker, job, &mut input, frames)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or(Err(EngineError::Poisoned))).collect()
        });
        let mut outcome = Outcome::Complete;
        for error in results.into_iter().filter_map(Result::err) {
            if !error.can_commit() {
                return Err(error.into());
            }
            say!("{}: {error}", job.name);
            outcome = match error {
                EngineError::Full => Outcome::Full,
                EngineError::Stopped => Outcome::Deadline,
                _ => Outcome::SourceFailed,
            };
        }
        Ok(outcome)
    }
}

/// Whether going on with another source makes no sense.
fn is_over(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Full | Outcome::Deadline)
}

/// The first thing that went wrong counts, unless something ended it all.
fn join(outcome: &mut Outcome, this: Outcome) {
    if *outcome == Outcome::Complete || is_over(this) {
        *outcome = this;
    }
}

/// One worker's readers.
struct OwnedInput<'w> {
    pages: Box<dyn PageRead + Send>,
    places: Option<Box<dyn PlaceRead + Send + 'w>>,
}

/// Stops the capture in time to commit what is there, and shows that it moves.
struct Clock<'a> {
    journal: &'a Journal,
    supervisor: &'a Supervisor,
}

impl Monitor for Clock<'_> {
    fn tick(&self, pages: u64) -> bool {
        self.supervisor.moved(self.journal, pages);
        self.supervisor.capture_ms_left() > 0
    }
}

struct Memory(MemoryReader);

impl PageRead for Memory {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        self.0
            .read_pages(first, buf, &mut |pfn| {
                bad(usize::try_from(pfn.0.saturating_sub(first.0)).unwrap_or(usize::MAX));
            })
            .map(|_| ())
            .map_err(|e| ReadFault(std::io::Error::other(e)))
    }
}
