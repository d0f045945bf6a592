//! The pages: memory in the order of its worth, and the swap devices.
//!
//! [`Pages::capture`] takes what memory is still wanted and seals the heap; from there on
//! nothing here, or below it, allocates.

use lifeboat_engine::{Cursor, EngineError, Frames, Input, Job, Monitor, PlaceRead, Tuner, Twins};
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::commit::{Outcome, PageCounts};
use lifeboat_format::{ChunkKind, Layer, PageRange};
use lifeboat_join::{Memory, Places};
use lifeboat_sources::{AnyMemory, OldMemory};
use lifeboat_sys::seal;

use crate::capture::{SharedWriter, Writer};
use crate::console::say;
use crate::cost::Interrupts;
use crate::phase::{Journal, Phase};
use crate::places::Records;
use crate::pool::{self, Hand, Pool, STACK, Sources, Task};
use crate::supervisor::Supervisor;
use crate::swap::{self, Swaps};
use crate::{End, Failure, fault};

/// Everything that is captured, and who does it.
pub(crate) struct Pages<'a> {
    pub(crate) config: &'a BootConfig,
    pub(crate) journal: &'a Journal,
    pub(crate) supervisor: &'a Supervisor,
    pub(crate) memory: &'a AnyMemory,
    pub(crate) swaps: &'a Swaps,
    pub(crate) records: Option<&'a Records>,
    pub(crate) frames: &'a SharedWriter,
    pub(crate) tuner: &'a Tuner,
    pub(crate) twins: Option<&'a Twins>,
    pub(crate) interrupts: &'a Interrupts,
}

/// Where a task's pages come from: memory, or a swap device by its place in the list.
const MEMORY: usize = 0;

impl Pages<'_> {
    /// Captures all of it, the most valuable first: what comes last is what a full
    /// partition or the deadline costs. `Err` only where nothing can be committed.
    pub(crate) fn capture(&self, hands: &mut [Hand<'_>]) -> Result<Outcome, End> {
        let (before, behind): (&[Layer], &[Layer]) =
            if self.config.memory { Records::layers(self.records) } else { (&[], &[]) };
        let swap_ranges: Vec<[PageRange; 1]> =
            self.swaps.list.iter().map(|s| [s.range()]).collect();
        let memory = |layer: &Layer| (MEMORY, *layer, Cursor::new(self.memory.ranges()));
        let swap = |(n, range)| (MEMORY + 1 + n, Layer::Address, Cursor::new(range));
        let swaps = swap_ranges.iter().map(|r| &r[..]).enumerate().map(swap);
        let order: Vec<_> =
            before.iter().map(memory).chain(swaps).chain(behind.iter().map(memory)).collect();
        let clock = self.clock();
        let tasks: Vec<Task<'_>> = order
            .iter()
            .map(|(source, layer, cursor)| {
                task(*source, *layer, cursor, &clock, (self.tuner, self.twins))
            })
            .collect();
        let (first_swap, last_swap) = (before.len(), before.len() + swap_ranges.len());
        let lead = |pool: &Pool| {
            self.seal(pool);
            let mut outcome = Outcome::Complete;
            self.enter(Phase::Memory);
            let mut all = tasks.iter().enumerate();
            self.tasks(pool, all.by_ref().take(first_swap), &mut outcome)?;
            self.enter(Phase::Swap);
            self.tasks(pool, all.by_ref().take(last_swap - first_swap), &mut outcome)?;
            if self.swaps.missing {
                join(&mut outcome, Outcome::SourceFailed);
            }
            if !behind.is_empty() {
                self.supervisor.enter(self.journal, Phase::Memory, self.config);
                self.tasks(pool, all, &mut outcome)?;
            }
            Ok(outcome)
        };
        let started = pool::with(hands, &tasks, self.frames, lead);
        started.map_err(|e| Failure::from(format!("starting the workers: {e}")))?
    }

    /// Takes no more memory, from here to the end of the run.
    fn seal(&self, pool: &Pool) {
        seal::trim();
        let threads = pool.threads();
        let fixed = seal::c_heap() + threads * STACK;
        say!("memory: {} KiB fixed for {threads} workers", fixed >> 10);
        seal::seal();
    }

    fn enter(&self, phase: Phase) {
        self.supervisor.enter(self.journal, phase, self.config);
        fault::inject(self.config, phase);
    }

    fn tasks<'t>(
        &self,
        pool: &Pool,
        tasks: impl Iterator<Item = (usize, &'t Task<'t>)>,
        outcome: &mut Outcome,
    ) -> Result<(), End> {
        for (number, task) in tasks {
            let swap = task.source.checked_sub(MEMORY + 1).and_then(|n| self.swaps.list.get(n));
            if is_over(*outcome) {
                match swap {
                    Some(swap) => say!("swap: {} not captured: {}", swap.name(), outcome.name()),
                    None => {
                        let layer = task.job.layer.name();
                        say!("memory, {layer} pages: not captured: {}", outcome.name());
                    }
                }
                continue;
            }
            let of = |f: &Writer| if swap.is_some() { f.counts().1 } else { f.counts().0 };
            let before = self.counts(of);
            let this = self.run(pool, number, task)?;
            self.secure()?;
            let which = if swap.is_some() { "all" } else { task.job.layer.name() };
            self.report(if swap.is_some() { "swap" } else { "memory" }, which, this, &before, of);
            if let Some(swap) = swap {
                swap.report();
            }
            join(outcome, this);
        }
        Ok(())
    }

    /// Makes a layer durable before a less valuable one is begun: a disk's write cache
    /// holds what it likes until then.
    fn secure(&self) -> Result<(), End> {
        Ok(self.frames.with(Frames::checkpoint)??)
    }

    fn clock(&self) -> Clock<'_> {
        Clock { journal: self.journal, supervisor: self.supervisor }
    }

    fn counts(&self, of: impl Fn(&Writer) -> PageCounts) -> PageCounts {
        self.frames.with(|f| of(f)).unwrap_or_default()
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
            "{what}, {which} pages: {}: {} with data, {} zero, {} of one word, {} same, {} excluded, {} unreadable, {} MiB written, {} ms",
            outcome.name(),
            now.data.saturating_sub(before.data),
            now.zero.saturating_sub(before.zero),
            now.fill.saturating_sub(before.fill),
            now.same.saturating_sub(before.same),
            now.excluded.saturating_sub(before.excluded),
            now.unreadable.saturating_sub(before.unreadable),
            now.stored_bytes.saturating_sub(before.stored_bytes) >> 20,
            self.journal.phase_ms()
        );
    }

    /// Has all workers do a task.
    fn run(&self, pool: &Pool, number: usize, task: &Task<'_>) -> Result<Outcome, End> {
        let (mut outcome, mut fatal) = (Outcome::Complete, None);
        self.interrupts.during(|| {
            pool.run(number, |error| {
                if !error.can_commit() {
                    // Whoever was ended by another worker's failure does not know the reason.
                    if matches!(fatal, None | Some(EngineError::Poisoned)) {
                        fatal = Some(error);
                    }
                    return;
                }
                say!("{}: {error}", task.job.name);
                outcome = error.outcome();
            });
        });
        fatal.map_or(Ok(outcome), |error| Err(error.into()))
    }
}

fn task<'t>(
    source: usize,
    layer: Layer,
    cursor: &'t Cursor<'t>,
    clock: &'t Clock<'_>,
    (tuner, twins): (&'t Tuner, Option<&'t Twins>),
) -> Task<'t> {
    let swap = source.checked_sub(MEMORY + 1);
    let job = Job {
        kind: if swap.is_some() { ChunkKind::Swap } else { ChunkKind::Memory },
        device: swap.and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        layer,
        tells_out: swap.is_none() && matches!(layer, Layer::Address | Layer::Kernel),
        name: if swap.is_some() { "a swap device" } else { "old memory" },
        cursor,
        monitor: clock,
        tuner,
        twins,
    };
    Task { job, source }
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
pub(crate) struct Readers<'m> {
    memory: Memory,
    places: Option<Places<'m>>,
    swap: swap::Reader<'m>,
}

impl<'m> Readers<'m> {
    pub(crate) fn open(
        memory: &AnyMemory,
        records: Option<&'m Records>,
        swap: swap::Reader<'m>,
    ) -> Result<Self, Failure> {
        let places = match records {
            Some(records) => Some(records.places(memory.reader()?)),
            None => None,
        };
        Ok(Self { memory: Memory(memory.reader()?), places, swap })
    }
}

impl Sources for Readers<'_> {
    fn input(&mut self, source: usize) -> Input<'_> {
        match source.checked_sub(MEMORY + 1) {
            None => {
                let places = self.places.as_mut().map(|p| p as &mut dyn PlaceRead);
                Input { pages: &mut self.memory, places }
            }
            Some(device) => {
                self.swap.select(device);
                Input { pages: &mut self.swap, places: None }
            }
        }
    }
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

    fn nanos(&self) -> u64 {
        self.supervisor.nanos()
    }
}
