//! The capture itself: from devices to commit record.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_crypt::Sealer;
use lifeboat_engine::{CommitFacts, Frames, Worker};
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::commit::{Outcome, SourceKind as Recorded};
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::{BLOCK, ChunkKind, SlotState};
use lifeboat_sink::{Chain, FileDev, Head as PartHead};
use lifeboat_sources::{AnyMemory, OldMemory, SourceKind, open_auto};

use crate::console::{say, with_record};
use crate::join::{CryptSeal, Disk};
use crate::pages::Pages;
use crate::phase::{Journal, Phase};
use crate::places::Records;
use crate::supervisor::Supervisor;
use crate::swap::Swaps;
use crate::target::{self, Disks, Target};
use crate::{Failure, devices, fault, head};

/// Seconds since 1970 by the crash kernel's clock, which comes from the RTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

pub(crate) type Writer = Frames<Disk<FileDev, Disks>, CryptSeal>;

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
    let asked = (
        if config.memory { memory.ranges().iter().map(|r| r.pages()).sum() } else { 0 },
        swaps.pages(),
    );
    let target = target::choose(config, &devices.targets, asked.0.saturating_add(asked.1))?;
    target.report();

    enter(Phase::Head);
    let records = Records::open(config, &memory);
    let head = head::Head::gather(config, &memory, &swaps, &target)?;
    let mut workers = make_workers(config)?;
    let name = target.name();
    let frames = begin(config, &memory, &head, target, &mut workers)?;
    say!(
        "head: kernel {}, {}, log {} KiB, {} recipients, {} workers",
        head.header.release_text(),
        head.reason(),
        head.log.len() >> 10,
        config.recipients.len(),
        workers.len()
    );

    let frames = Mutex::new(frames);
    let records = records.as_ref();
    let (memory, swaps, frames_ref) = (&memory, &swaps, &frames);
    let all = Pages { config, journal, supervisor, memory, swaps, records, frames: frames_ref };
    let outcome = all.capture(&mut workers)?;

    enter(Phase::Commit);
    let frames = frames.into_inner().map_err(|_| "a worker failed")?;
    commit(frames, outcome, recorded(memory.kind()), asked, &mut workers, journal, &name)
}

/// Takes a slot and writes all that comes before the first page.
fn begin(
    config: &BootConfig,
    memory: &AnyMemory,
    head: &head::Head,
    target: Target,
    workers: &mut [Worker],
) -> Result<Writer, Failure> {
    let header = head.header.encode();
    let mut bytes = Box::new([0u8; HEADER_LEN]);
    let (first, rest) = bytes.split_at_mut(BLOCK);
    first.copy_from_slice(&header);
    rest.copy_from_slice(&*head.keys);
    let part = PartHead { dump_id: head.header.dump_id, bytes, now: head.header.created };
    let Target { disks, candidates, first, plan } = target;
    let chain = Chain::begin(disks, candidates, first, &plan, config.policy, part)?;
    let sealer = Sealer::new(head.key.as_ref());
    let mut frames = Frames::new(Disk(chain), CryptSeal(sealer), &head.header, &head.keys);
    let scratch = workers.first_mut().ok_or("no worker")?.scratch();
    frames.begin()?;
    frames.lasting_text(ChunkKind::Log, head.log.as_bytes(), scratch)?;
    frames.lasting_text(ChunkKind::Notes, memory.notes(), scratch)?;
    frames.lasting_text(ChunkKind::Meta, &head.meta, scratch)?;
    frames.checkpoint()?;
    Ok(frames)
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

fn commit(
    mut frames: Writer,
    outcome: Outcome,
    source: Recorded,
    asked: (u64, u64),
    workers: &mut [Worker],
    journal: &Journal,
    name: &str,
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
    // The dump is whole and says so itself: a slot that cannot be written costs `list` a line.
    if let Err(why) = frames.sink_mut().0.close(state) {
        say!("commit: the slot could not be written: {why}");
    }
    say!(
        "commit: {name} is {}: {} MiB in {} chunks, {} parts, {} writes ({}), {} ms in all",
        outcome.name(),
        record.total_len >> 20,
        record.chunks,
        u32::from(record.last_part) + 1,
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
