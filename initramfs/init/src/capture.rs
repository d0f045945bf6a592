//! The capture itself: from devices to commit record.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_crypt::Sealer;
use lifeboat_engine::{
    CommitFacts, Cursor, EngineError, Frames, Job, Monitor, PageRead, ReadFault, Worker, capture,
};
use lifeboat_format::bootcfg::{BootConfig, SwapPlan};
use lifeboat_format::commit::{Outcome, SourceKind as Recorded};
use lifeboat_format::{ChunkKind, Pfn, SlotState};
use lifeboat_sink::DumpWriter;
use lifeboat_sources::{AnyMemory, MemoryReader, OldMemory, SourceKind, open_auto};

use crate::console::{say, with_record};
use crate::join::{CryptSeal, Disk};
use crate::phase::{Journal, Phase};
use crate::supervisor::Supervisor;
use crate::swap::Swaps;
use crate::target::{self, Target};
use crate::{Failure, devices, fault, head};

/// Seconds since 1970 by the crash kernel's clock, which comes from the RTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

type Writer = Frames<Disk, CryptSeal>;

/// Runs all phases. `Ok` means that a dump is committed, complete or partial.
pub(crate) fn run(
    config: &BootConfig,
    journal: &Journal,
    supervisor: &Supervisor,
) -> Result<(), Failure> {
    let enter = |phase| {
        supervisor.enter(journal, phase, config);
        fault::inject(config, phase);
    };
    enter(Phase::Devices);
    let devices = devices::wait(config, journal, supervisor);
    say!(
        "devices: {} block devices, {} candidate targets, {} ms",
        devices.all.len(),
        devices.targets.len(),
        journal.phase_ms()
    );
    devices::tell_missing(config, &devices);

    enter(Phase::Sources);
    let memory = open_memory(config)?;
    let swaps = Swaps::open(config, &devices);
    say!(
        "sources: {} {}, {} MiB of memory in {} ranges, {} swap devices with {} MiB",
        if config.memory { "memory from" } else { "memory not captured;" },
        memory.kind().name(),
        pages_mib(memory.ranges().iter().map(|r| r.pages()).sum()),
        memory.ranges().len(),
        swaps.list.len(),
        pages_mib(swaps.pages()),
    );

    enter(Phase::Guard);
    let mut target = target::choose(config, &devices.targets)?;
    say!(
        "guard: {} is ours, dump {} gets up to {} MiB in slot {}",
        target.block.path.display(),
        target.plan.number,
        target.plan.len >> 20,
        target.plan.slot
    );

    enter(Phase::Head);
    let head = head::Head::gather(config, &memory, &swaps, &target)?;
    let mut workers = make_workers(config)?;
    let sealer = Sealer::new(head.key.as_ref());
    let disk =
        Disk(DumpWriter::new(target::queue(&target.block)?, target.plan.start.0, target.plan.len));
    let mut frames = Frames::new(disk, CryptSeal(sealer), &head.header, &head.keys);
    target.volume.begin(&target.plan, head.header.dump_id, head.header.created)?;
    let first = workers.first_mut().ok_or("no worker")?;
    frames.begin()?;
    frames.text(ChunkKind::Log, head.log.as_bytes(), first.scratch())?;
    frames.text(ChunkKind::Notes, memory.notes(), first.scratch())?;
    frames.text(ChunkKind::Meta, &head.meta, first.scratch())?;
    frames.checkpoint()?;
    say!(
        "head: kernel {}, {}, log {} KiB, {} recipients, {} workers",
        head.header.release_text(),
        head.reason(),
        head.log.len() >> 10,
        config.recipients.len(),
        workers.len()
    );

    let frames = Mutex::new(frames);
    let outcome = pages(config, journal, supervisor, &memory, &swaps, &mut workers, &frames)?;

    enter(Phase::Commit);
    let asked = (
        if config.memory { memory.ranges().iter().map(|r| r.pages()).sum() } else { 0 },
        swaps.pages(),
    );
    let frames = frames.into_inner().map_err(|_| "a worker failed")?;
    commit(frames, outcome, recorded(memory.kind()), asked, &mut workers, journal, &mut target)
}

fn open_memory(config: &BootConfig) -> Result<AnyMemory, Failure> {
    let (memory, first) = open_auto(config.memory_source)?;
    if let Some(why) = first {
        say!("sources: /dev/oldmem failed, using /proc/vmcore: {why}");
    }
    if memory.notes_lost() > 0 {
        say!("sources: {} note segments could not be read", memory.notes_lost());
    }
    Ok(memory)
}

fn make_workers(config: &BootConfig) -> Result<Vec<Worker>, Failure> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let count = if config.workers == 0 { cpus } else { config.workers as usize };
    let mut workers = Vec::with_capacity(count);
    for n in 0..count.clamp(1, 64) {
        match Worker::new(config.zstd_level, config.chunk_pages) {
            Ok(worker) => workers.push(worker),
            Err(e) if n > 0 => {
                say!("only {n} of {count} workers: {e}");
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(workers)
}

/// Memory, then every swap device. `Err` only where nothing can be committed.
#[allow(
    clippy::too_many_arguments,
    reason = "they are all different things, and it has one caller"
)]
fn pages(
    config: &BootConfig,
    journal: &Journal,
    supervisor: &Supervisor,
    memory: &AnyMemory,
    swaps: &Swaps,
    workers: &mut [Worker],
    frames: &Mutex<Writer>,
) -> Result<Outcome, Failure> {
    let clock = Clock { journal, supervisor };
    supervisor.enter(journal, Phase::Memory, config);
    fault::inject(config, Phase::Memory);
    let mut outcome = Outcome::Complete;
    if config.memory {
        let cursor = Cursor::new(memory.ranges());
        let job = Job {
            kind: ChunkKind::Memory,
            device: 0,
            name: "old memory",
            cursor: &cursor,
            monitor: &clock,
        };
        let open = || Ok(Box::new(Memory(memory.reader()?)) as Box<dyn PageRead + Send>);
        outcome = run_job(&job, workers, &open, frames)?;
        report("memory", outcome, frames, journal, |f| f.counts().0);
    }
    supervisor.enter(journal, Phase::Swap, config);
    fault::inject(config, Phase::Swap);
    for source in &swaps.list {
        if matches!(outcome, Outcome::Full | Outcome::Deadline) {
            say!("swap: {} not captured: {}", source.name(), outcome.name());
            continue;
        }
        let ranges = [source.range()];
        let cursor = Cursor::new(&ranges);
        let job = Job {
            kind: ChunkKind::Swap,
            device: source.index(),
            name: "a swap device",
            cursor: &cursor,
            monitor: &clock,
        };
        let open = || source.reader();
        let this = run_job(&job, workers, &open, frames)?;
        if this != Outcome::Complete {
            outcome = this;
        }
    }
    if swaps.missing && outcome == Outcome::Complete {
        outcome = Outcome::SourceFailed;
    }
    if config.swap != SwapPlan::None {
        report("swap", outcome, frames, journal, |f| f.counts().1);
    }
    Ok(outcome)
}

type OpenReader<'a> = dyn Fn() -> Result<Box<dyn PageRead + Send>, Failure> + 'a;

/// Runs all workers over one source.
fn run_job(
    job: &Job<'_>,
    workers: &mut [Worker],
    open: &OpenReader<'_>,
    frames: &Mutex<Writer>,
) -> Result<Outcome, Failure> {
    let mut readers = Vec::with_capacity(workers.len());
    for _ in workers.iter() {
        readers.push(open()?);
    }
    let results: Vec<Result<(), EngineError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .zip(readers)
            .map(|(worker, mut reader)| {
                scope.spawn(move || capture(worker, job, &mut *reader, frames))
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

fn report(
    what: &str,
    outcome: Outcome,
    frames: &Mutex<Writer>,
    journal: &Journal,
    counts: impl Fn(&Writer) -> lifeboat_format::commit::PageCounts,
) {
    let Ok(frames) = frames.lock() else { return };
    let c = counts(&frames);
    say!(
        "{what}: {}: {} pages with data, {} zero, {} unreadable, {} MiB written, {} ms",
        outcome.name(),
        c.data,
        c.zero,
        c.unreadable,
        c.stored_bytes >> 20,
        journal.phase_ms()
    );
}

fn commit(
    mut frames: Writer,
    outcome: Outcome,
    source: Recorded,
    asked: (u64, u64),
    workers: &mut [Worker],
    journal: &Journal,
    target: &mut Target,
) -> Result<(), Failure> {
    let first = workers.first_mut().ok_or("no worker")?;
    frames.open_reserve();
    let mut result = Ok(());
    with_record(|text| {
        result = frames.text(ChunkKind::Trailer, text.as_bytes(), first.scratch());
    });
    result?;
    let (memory, swap) = frames.counts();
    let (io, writes) = frames.sink().0.io();
    let facts = CommitFacts {
        outcome,
        source,
        io,
        writes,
        now: now(),
        asked,
        read_errors: memory.unreadable.saturating_add(swap.unreadable),
        phases: journal.times(),
    };
    let record = frames.finish(&facts)?;
    let state = if outcome == Outcome::Complete { SlotState::Complete } else { SlotState::Partial };
    target.volume.update(target.plan.slot, |slot| {
        slot.state = state;
        slot.used_len = record.total_len;
    })?;
    say!(
        "commit: dump {} on {} is {}: {} MiB in {} chunks, {} writes ({}), {} ms in all",
        target.plan.number,
        target.block.path.display(),
        outcome.name(),
        record.total_len >> 20,
        record.chunks,
        writes,
        io.name(),
        journal.elapsed_ms()
    );
    Ok(())
}

fn recorded(kind: SourceKind) -> Recorded {
    match kind {
        SourceKind::Oldmem => Recorded::Oldmem,
        SourceKind::Vmcore => Recorded::Vmcore,
        SourceKind::File => Recorded::File,
    }
}

fn pages_mib(pages: u64) -> u64 {
    pages >> 8
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
