//! `lifeboat capture`: what the crash kernel does, on a host: a vmcore becomes a dump.
//!
//! The same engine, workers, codecs, cipher and queue as in PID 1 (`lifeboat_join`), with
//! a file as source and a file as target: for vmcores that other tools took, and for
//! measuring. It refuses to touch a volume: a dump in a file is what `pull` would give.

mod head;
mod places;
mod throttle;

use std::time::Instant;

use lifeboat_crypt::{Recipient, Sealer};
use lifeboat_engine::{
    CommitFacts, Cursor, EngineError, Frames, Input, Job, Method, Monitor, PlaceRead, Shared,
    Tuner, Twins, Worker,
};
use lifeboat_format::bootcfg::{BootConfig, Ladder};
use lifeboat_format::commit::{MAX_PHASES, Outcome, PageCounts, PhaseId, SourceKind};
use lifeboat_format::{ChunkKind, CommitRecord, Exclude, Layer};
use lifeboat_join::{CryptSeal, Memory, Places, Plain};
use lifeboat_sink::ExtentWriter;
use lifeboat_sources::OldMemory;
use lifeboat_sources::vmcore::Vmcore;
use lifeboat_sys::{QueueMode, WriteQueue};

use crate::cli::{Capture, PackWord};
use crate::output::Output;
use crate::ui::{self, Context as _, Ended, Failure, Outcome as Exit, say};
use head::Head;
use places::Records;
use throttle::Throttled;

/// Buffers of the queue, and their length in bytes. The crash kernel has 8: here the code of
/// the whole command is resident beside them.
const BUFFERS: usize = 6;
const BUFFER_LEN: usize = 512 << 10;

type Writer = Shared<Plain<Throttled>, CryptSeal>;

/// Takes a dump of a vmcore file.
pub(crate) fn run(args: &Capture) -> Ended {
    let config = config(args)?;
    let out = Output::create(&args.to, args.force)?;
    let memory = Vmcore::open_file(&args.from).map_err(|e| Failure::of(&e))?;
    let head = Head::make(&config, &memory)?;
    let clock = Clock(Instant::now());
    let mut workers = workers(&config)?;
    let twins = twins(&config, &mut workers)?;
    // A file takes what comes, so nobody asks how much that will be.
    let tuner = Tuner::new(config.codec.methods());
    let asked = memory.ranges().iter().map(|r| r.pages()).sum();
    let frames = begin(&out, args.throttle_mbs, &head, &memory, &mut workers)?;
    let records = Records::open(config.exclude, &memory);
    let readers = Readers::open(&memory, records.as_ref(), workers.len())?;
    let outcome = pages(&memory, &mut workers, readers, &frames, (&tuner, twins.as_ref(), &clock))?;
    let pages_ms = clock.millis();
    let frames = frames.into_inner().map_err(|e| Failure::of(&e))?;
    let record = commit(frames, outcome, asked, pages_ms, &mut workers)?;
    out.file().set_len(record.total_len).context(out.path().display())?;
    out.finish()?;
    if let Some(records) = &records {
        say!("filter {}", records.filter);
    }
    report(args, &record, &tuner, workers.len(), &clock);
    Ok(if record.outcome == Outcome::Complete { Exit::Good } else { Exit::Partial })
}

/// The arguments as a crash kernel would be told of them, and held to the same rules.
fn config(args: &Capture) -> Result<BootConfig, Failure> {
    if args.clear != args.recipient.is_empty() {
        return Err(Failure::usage("either --recipient or --clear, one of the two")
            .hint("`lifeboat keygen` makes a key and prints its recipient"));
    }
    let usage = |why: &str| {
        Failure::usage(format!("capture: {why}")).hint("`lifeboat capture --help` says what fits")
    };
    let mut config = BootConfig {
        codec: ladder(args)?,
        exclude: Exclude::parse(args.exclude.as_deref().unwrap_or("zero")).map_err(usage)?,
        dedup_kib: args.dedup_kib,
        chunk_pages: args.chunk_pages,
        workers: args.workers,
        encrypt: !args.clear,
        ..BootConfig::default()
    };
    config.check_packing().map_err(usage)?;
    for text in &args.recipient {
        let recipient = Recipient::parse(text).map_err(|e| Failure::of(&e))?;
        let text = recipient.text().try_into().map_err(|_| usage("a recipient is too long"))?;
        config.recipients.push(text).map_err(|_| usage("more than 32 recipients"))?;
    }
    Ok(config)
}

fn ladder(args: &Capture) -> Result<Ladder, Failure> {
    let level = args.level.unwrap_or(1);
    if args.level.is_some() && args.codec != PackWord::Zstd {
        return Err(
            Failure::usage("--level is of --codec zstd").hint("leave it out, or name --codec zstd")
        );
    }
    let methods = match args.codec {
        PackWord::Adaptive => return Ok(Ladder::default()),
        PackWord::Store => [Method::Store],
        PackWord::Lz4 => [Method::Lz4],
        PackWord::Zstd => [Method::Zstd(level)],
    };
    Ladder::new(&methods).map_err(|why| Failure::usage(why).hint("1 is a good choice"))
}

fn workers(config: &BootConfig) -> Result<Vec<Worker>, Failure> {
    let count = match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n as usize,
    };
    let make = |_| lifeboat_join::worker(&config.codec, config.chunk_pages);
    let made: Option<Vec<Worker>> = (0..count).map(make).collect();
    made.ok_or_else(|| Failure::new("zstd refused its working memory").hint("use a lower --level"))
}

fn twins(config: &BootConfig, workers: &mut [Worker]) -> Result<Option<Twins>, Failure> {
    let Some(twins) = Twins::new((config.dedup_kib as usize) << 10) else { return Ok(None) };
    let mut key = [0u8; 32];
    getrandom::fill(&mut key).context("random numbers")?;
    if !lifeboat_join::look_for_twins(workers, &key) {
        return Err(Failure::new("this processor has no carry-less multiplication")
            .hint("--dedup-kib 0 stores identical pages each time"));
    }
    Ok(Some(twins))
}

fn begin(
    out: &Output,
    throttle_mbs: u32,
    head: &Head,
    memory: &Vmcore,
    workers: &mut [Worker],
) -> Result<Writer, Failure> {
    let file = out.file().try_clone().context(out.path().display())?;
    let mut queue = WriteQueue::new(file, QueueMode::Uring, BUFFERS, BUFFER_LEN);
    queue.hand_over();
    let queue = Throttled::new(queue, throttle_mbs);
    let extent = ExtentWriter::new(queue, 0, i64::MAX as u64 & !4095);
    let seal = CryptSeal(Sealer::new(head.key.as_ref()));
    let mut frames = Frames::new(Plain(extent), seal, &head.header, &head.keys);
    let scratch = workers.first_mut().ok_or_else(|| Failure::new("no worker"))?.scratch();
    let texts = [
        (ChunkKind::Log, head.log.as_bytes()),
        (ChunkKind::Notes, memory.notes()),
        (ChunkKind::Meta, &head.meta[..]),
    ];
    let mut work = || -> Result<(), EngineError> {
        frames.begin()?;
        texts.into_iter().try_for_each(|(kind, bytes)| frames.text(kind, bytes, scratch))
    };
    work().map_err(|e| Failure::of(&e))?;
    Ok(Shared::new(frames))
}

fn pages(
    memory: &Vmcore,
    workers: &mut [Worker],
    readers: Vec<Readers<'_>>,
    frames: &Writer,
    (tuner, twins, clock): (&Tuner, Option<&Twins>, &Clock),
) -> Result<Outcome, Failure> {
    let cursor = Cursor::new(memory.ranges());
    let job = Job {
        kind: ChunkKind::Memory,
        device: 0,
        layer: Layer::Address,
        tells_out: true,
        name: "the vmcore",
        cursor: &cursor,
        monitor: clock,
        tuner,
        twins,
    };
    let results: Vec<Result<(), EngineError>> = std::thread::scope(|scope| {
        let job = &job;
        let mut threads = Vec::with_capacity(workers.len());
        for (worker, mut readers) in workers.iter_mut().zip(readers) {
            threads.push(scope.spawn(move || {
                lifeboat_engine::capture(worker, job, &mut readers.input(), frames)
            }));
        }
        threads.into_iter().map(|t| t.join().unwrap_or(Err(EngineError::Poisoned))).collect()
    });
    ended(results.into_iter().filter_map(Result::err))
}

/// How the dump ends after what went wrong with some workers.
fn ended(errors: impl Iterator<Item = EngineError>) -> Result<Outcome, Failure> {
    let (mut outcome, mut fatal) = (Outcome::Complete, None);
    for error in errors {
        if error.can_commit() {
            ui::warn(&error);
            outcome = error.outcome();
        } else if matches!(fatal, None | Some(EngineError::Poisoned)) {
            // Whoever was ended by another worker's failure does not know the reason.
            fatal = Some(error);
        }
    }
    fatal.map_or(Ok(outcome), |error| Err(Failure::of(&error)))
}

fn commit(
    mut frames: Frames<Plain<Throttled>, CryptSeal>,
    outcome: Outcome,
    asked: u64,
    pages_ms: u64,
    workers: &mut [Worker],
) -> Result<CommitRecord, Failure> {
    let trailer = format!("lifeboat capture: {} workers, {pages_ms} ms\n", workers.len());
    let scratch = workers.first_mut().ok_or_else(|| Failure::new("no worker"))?.scratch();
    frames.text(ChunkKind::Trailer, trailer.as_bytes(), scratch).map_err(|e| Failure::of(&e))?;
    let (counts, _) = frames.counts();
    let (io, writes) = frames.sink().0.io();
    let mut phases = [(0, 0); MAX_PHASES];
    phases[0] = (PhaseId::Memory as u8, u32::try_from(pages_ms).unwrap_or(u32::MAX));
    let facts = CommitFacts {
        outcome,
        source: SourceKind::File,
        io,
        writes,
        now: ui::now(),
        asked: (asked, 0),
        read_errors: counts.unreadable,
        phases,
    };
    frames.finish(&facts).map_err(|e| Failure::of(&e))
}

fn report(args: &Capture, record: &CommitRecord, tuner: &Tuner, workers: usize, clock: &Clock) {
    let PageCounts { asked, data, zero, fill, same, unreadable, excluded, .. } = record.memory;
    let secs = clock.0.elapsed().as_secs_f64();
    say!("dump {}", args.to.display());
    say!("outcome {}", record.outcome.name());
    say!("bytes {}", record.total_len);
    say!("chunks {}", record.chunks);
    say!("pages {asked}");
    for (name, count) in [
        ("data", data),
        ("zero", zero),
        ("fill", fill),
        ("same", same),
        ("excluded", excluded),
        ("unreadable", unreadable),
    ] {
        say!("pages-{name} {count}");
    }
    for (method, chunks, bytes) in tuner.used() {
        say!("packed {} chunks {chunks} bytes {bytes}", method.to_string().replace(' ', ":"));
    }
    say!("workers {workers}");
    say!("io {} writes {}", record.io.name().replace(", ", "-"), record.writes);
    say!("seconds {secs:.3}");
}

/// The capture's clock. Nothing stops it: a host has time.
struct Clock(Instant);

impl Clock {
    fn millis(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Monitor for Clock {
    fn tick(&self, _: u64) -> bool {
        true
    }
    fn nanos(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What one worker reads.
struct Readers<'w> {
    pages: Memory,
    places: Option<Places<'w>>,
}

impl<'w> Readers<'w> {
    fn open(
        memory: &Vmcore,
        records: Option<&'w Records>,
        workers: usize,
    ) -> Result<Vec<Self>, Failure> {
        let reader = || memory.reader().map_err(|e| Failure::of(&e));
        let one = |_| {
            let places = records.map(|r| Ok::<_, Failure>(r.places(reader()?))).transpose()?;
            Ok(Self { pages: Memory(reader()?), places })
        };
        (0..workers).map(one).collect()
    }

    fn input(&mut self) -> Input<'_> {
        let places = self.places.as_mut().map(|p| p as &mut dyn PlaceRead);
        Input { pages: &mut self.pages, places }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_that_knows_the_reason_is_heard() {
        let errors = |known_at: usize| {
            let reason = || EngineError::Sink(std::io::Error::from_raw_os_error(28));
            (0..3).map(move |n| if n == known_at { reason() } else { EngineError::Poisoned })
        };
        for known_at in 0..3 {
            let failure = ended(errors(known_at)).unwrap_err();
            assert!(failure.text().contains("writing the dump"), "{}", failure.text());
        }
        assert!(ended(errors(3)).unwrap_err().text().contains("another worker failed"));
        assert_eq!(ended([EngineError::Full].into_iter()).unwrap(), Outcome::Full);
    }
}
