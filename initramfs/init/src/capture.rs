//! The capture itself: from devices to commit record.

use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_crypt::Sealer;
use lifeboat_engine::{CommitFacts, Frames, Scratch, Shared, Tuner, Twins, Worker};
use lifeboat_format::bootcfg::BootConfig;
use lifeboat_format::commit::{IoMode, Outcome, SourceKind as Recorded};
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::{BLOCK, ChunkKind, SlotState};
use lifeboat_join::{CryptSeal, Disk};
use lifeboat_sink::{Chain, FileDev, Head as PartHead};
use lifeboat_sources::{AnyMemory, OldMemory, SourceKind, open_auto};

use crate::console::{say, with_record};
use crate::cost::{self, Interrupts};
use crate::pages::{Pages, Readers};
use crate::phase::{Journal, Phase};
use crate::places::Records;
use crate::pool::Hand;
use crate::supervisor::Supervisor;
use crate::swap::Swaps;
use crate::target::{self, Disks, Target};
use crate::{End, Failure, devices, fault, head, places};

/// Seconds since 1970 by the crash kernel's clock, which comes from the RTC.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

pub(crate) type Writer = Frames<Disk<FileDev, Disks>, CryptSeal>;
pub(crate) type SharedWriter = Shared<Disk<FileDev, Disks>, CryptSeal>;

/// Runs all phases. `Ok` means that a dump is committed, complete or partial.
pub(crate) fn run(
    config: &BootConfig,
    journal: &Journal,
    supervisor: &Supervisor,
) -> Result<(), End> {
    let enter = |phase| {
        supervisor.enter(journal, phase, config);
        fault::inject(config, phase);
    };
    let (ready, workers) = Ready::new(config, journal, supervisor, &enter)?;
    let mut hands = ready.hands(workers)?;
    let all = Pages {
        config,
        journal,
        supervisor,
        memory: &ready.memory,
        swaps: &ready.swaps,
        records: ready.records.as_ref(),
        frames: &ready.frames,
        tuner: &ready.tuner,
        twins: ready.twins.as_ref(),
        interrupts: &ready.interrupts,
    };
    let outcome = all.capture(&mut hands)?;

    enter(Phase::Commit);
    let scratch = hands.first_mut().ok_or(End::Worker)?.worker.scratch();
    ready.commit(outcome, scratch, journal)
}

/// All that the pages need, and the dump whose head is written.
struct Ready {
    memory: AnyMemory,
    swaps: Swaps,
    records: Option<Records>,
    frames: SharedWriter,
    tuner: Tuner,
    twins: Option<Twins>,
    interrupts: Interrupts,
    /// Pages of memory and of swap that were asked for.
    asked: (u64, u64),
    name: String,
    /// Bytes to read ahead in.
    reads: usize,
}

impl Ready {
    /// Everything before the first page.
    fn new(
        config: &BootConfig,
        journal: &Journal,
        supervisor: &Supervisor,
        enter: &dyn Fn(Phase),
    ) -> Result<(Self, Vec<Worker>), Failure> {
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
        let pages = asked.0.saturating_add(asked.1);
        let mut target = target::choose(config, &devices.targets, pages)?;
        target.report();

        enter(Phase::Head);
        let records = Records::open(config, &memory);
        let head = head::Head::gather(config, &memory, &swaps, &target)?;
        let mut workers = make_workers(config)?;
        let twins = make_twins(config, &mut workers)?;
        // A quarter is for reading ahead, where there is anything to read so.
        let buffers = usize::try_from(config.buffers_kib)? << 10;
        let reads = if swaps.list.is_empty() { 0 } else { buffers / 4 };
        target.set_budget(buffers - reads);
        let name = target.name();
        let written = target.disk_names();
        let disks = written.iter().map(String::as_str).chain(swaps.disk_names());
        let interrupts = Interrupts::of(disks);
        let frames = begin(config, &memory, &head, target, &mut workers)?;
        say!(
            "head: kernel {}, {}, log {} KiB, {} recipients, {} workers",
            head.header.release_text(),
            head.reason(),
            head.log.len() >> 10,
            config.recipients.len(),
            workers.len()
        );
        let (frames, tuner) = (Shared::new(frames), Tuner::new(config.codec.methods()));
        places::expect(&tuner, &memory, records.as_ref(), asked);
        let ready =
            Self { memory, swaps, records, frames, tuner, twins, interrupts, asked, name, reads };
        Ok((ready, workers))
    }

    /// Each worker with its readers.
    fn hands(&self, workers: Vec<Worker>) -> Result<Vec<Hand<'_>>, Failure> {
        let ahead = self.swaps.read_ahead(self.reads, workers.len());
        let hand = |worker| {
            let swap = self.swaps.reader(ahead);
            let readers = Readers::open(&self.memory, self.records.as_ref(), swap)?;
            Ok(Hand { worker, sources: Box::new(readers) })
        };
        workers.into_iter().map(hand).collect()
    }
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
        match lifeboat_join::worker(&config.codec, config.chunk_pages) {
            Some(worker) => workers.push(worker),
            None if n > 0 => {
                say!("only {n} of {count} workers: zstd has not enough memory");
                break;
            }
            None => return Err("zstd has not enough memory".into()),
        }
    }
    Ok(workers)
}

/// The table of pages that were stored already, and the prints that it is made of.
fn make_twins(config: &BootConfig, workers: &mut [Worker]) -> Result<Option<Twins>, Failure> {
    let Some(twins) = Twins::new(usize::try_from(config.dedup_kib)? << 10) else {
        return Ok(None);
    };
    let key = head::random_bytes::<32>()?;
    if !lifeboat_join::look_for_twins(workers, &key) {
        say!("head: this processor cannot print pages; identical ones are stored each time");
        return Ok(None);
    }
    Ok(Some(twins))
}

impl Ready {
    fn commit(
        &self,
        outcome: Outcome,
        scratch: &mut Scratch,
        journal: &Journal,
    ) -> Result<(), End> {
        self.frames.with(|frames| self.finish(frames, outcome, scratch, journal))?
    }

    fn finish(
        &self,
        frames: &mut Writer,
        outcome: Outcome,
        scratch: &mut Scratch,
        journal: &Journal,
    ) -> Result<(), End> {
        let (io, writes) = frames.sink().0.io();
        say_costs(io, writes, &self.interrupts);
        say_packed(&self.tuner);
        frames.open_reserve();
        let mut result = Ok(());
        with_record(|text| {
            result = frames.text(ChunkKind::Trailer, text.as_bytes(), scratch);
        });
        result?;
        let (memory, swap) = frames.counts();
        let (io, writes) = frames.sink().0.io();
        let facts = CommitFacts {
            outcome,
            source: recorded(self.memory.kind()),
            io,
            writes,
            now: now(),
            asked: self.asked,
            read_errors: memory.unreadable.saturating_add(swap.unreadable),
            phases: journal.times(),
        };
        let record = frames.finish(&facts)?;
        let done = outcome == Outcome::Complete;
        let state = if done { SlotState::Complete } else { SlotState::Partial };
        // The dump is whole and says so itself: a slot that cannot be written costs `list` a line.
        if let Err(why) = frames.sink_mut().0.close(state) {
            say!("commit: the slot could not be written: {why}");
        }
        say!(
            "commit: {} is {}: {} MiB in {} chunks, {} parts, {} writes ({}), {} ms in all",
            self.name,
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
}

/// What the capture took of the machine, for the trailer.
fn say_costs(io: IoMode, writes: u64, interrupts: &Interrupts) {
    match interrupts.total() {
        Some(count) => {
            say!(
                "disks: {writes} writes ({}), {count} interrupts while pages were taken",
                io.name()
            );
        }
        None => say!("disks: {writes} writes ({})", io.name()),
    }
    let (own, used, total) = cost::peak();
    say!("memory: peak PID 1 {own} KiB, machine {used} of {total} KiB");
}

/// How the chunks of pages were packed.
fn say_packed(tuner: &Tuner) {
    for (method, chunks, bytes) in tuner.used().filter(|(_, chunks, _)| *chunks > 0) {
        say!("packed: {chunks} chunks, {} MiB of pages, by {method}", bytes >> 20);
    }
}

fn recorded(kind: SourceKind) -> Recorded {
    match kind {
        SourceKind::Oldmem => Recorded::Oldmem,
        SourceKind::Vmcore => Recorded::Vmcore,
        SourceKind::File => Recorded::File,
    }
}

pub(crate) fn pages_mib(pages: u64) -> u64 {
    pages >> 8
}
