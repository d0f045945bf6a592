//! A capture as PID 1 makes it, behind the sealed heap; `tests/sealed` runs it as a program
//! of its own, because a breach ends it, and because a test harness allocates when it likes.
//!
//! From the seal on, nothing here allocates either, unless the fault says so.
//! `sealed-capture FAULT uring|pwrite SWAP VOLUME…`
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

mod machine;

#[path = "../../../../initramfs/init/src/pool.rs"]
mod pool;

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_crypt::{DataKey, Sealer};
use lifeboat_engine::{
    CommitFacts, Cursor, EngineError, Frames, Input, Job, Monitor, PageRead, ReadFault, Shared,
    Tuner, Twins, Worker,
};
use lifeboat_format::bootcfg::{Ladder, Policy};
use lifeboat_format::commit::{MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{
    BLOCK, ChunkKind, Cipher, DumpHeader, FORMAT_VERSION, Layer, Pfn, SlotState, text_field,
};
use lifeboat_join::{CryptSeal, Disk, Swap};
use lifeboat_sink::{Candidate, Chain, Event, FileDev, Head, Host, Placement, Volume};
use lifeboat_sources::blockdev::Block;
use lifeboat_sources::swap::{SwapDevice, SwapHeader};
use lifeboat_sources::swapread::{ReadAhead, SwapReader};
use lifeboat_sys::{Lane, QueueMode, Sealing, WriteQueue, seal};
use rustix::fs::{SealFlags, fcntl_add_seals};

use machine::{ID, Layers, MEMORY, SWAP, key, page_of};
use pool::{Hand, Sources, Task};

#[global_allocator]
static HEAP: Sealing = Sealing;

/// What the child is to do.
#[derive(Clone)]
struct Order {
    fault: String,
    mode: QueueMode,
    swap: PathBuf,
    volumes: Vec<PathBuf>,
}

impl Order {
    fn from_args() -> Self {
        let mut words = std::env::args().skip(1);
        let fault = words.next().unwrap();
        let uring = words.next().unwrap() == "uring";
        let mode = if uring { QueueMode::Uring } else { QueueMode::Pwrite };
        let swap = words.next().unwrap().into();
        Self { fault, mode, swap, volumes: words.map(PathBuf::from).collect() }
    }

    fn open(&self, volume: usize) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.volumes[volume])
    }
}

/// The volumes, as files.
struct Files(Order);

impl Host for Files {
    type Out = WriteQueue;
    fn queue(&mut self, target: usize) -> io::Result<WriteQueue> {
        Ok(WriteQueue::new(self.0.open(target)?, self.0.mode, 4, 64 << 10))
    }
    fn lane(&mut self, target: usize, out: &WriteQueue) -> io::Result<Lane> {
        Ok(out.lane(self.0.open(target)?, self.0.mode))
    }
    fn tell(&mut self, event: Event) {
        match event {
            Event::Failed { target, at, why } => {
                say(format_args!(
                    "target {target} failed at {at}: {}\n",
                    lifeboat_sys::Plain(&why)
                ));
            }
            Event::Slot { target, why } => say(format_args!("target {target}: {why}\n")),
            Event::NoRoom { target, why } => {
                say(format_args!("target {target} has no room: {why}\n"));
                if self.0.fault == "allocates-on-a-move" {
                    drop(black_box(Box::new(target)));
                }
            }
            _ => {}
        }
    }
}

/// Writes a line without allocating.
fn say(text: std::fmt::Arguments<'_>) {
    struct Out;
    impl std::fmt::Write for Out {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let _ = rustix::io::write(rustix::stdio::stdout(), text.as_bytes());
            Ok(())
        }
    }
    let _ = std::fmt::write(&mut Out, text);
}

/// Memory, with the faults that strike while it is read.
struct Memory<'o> {
    order: &'o Order,
    /// Volumes that become read-only at some page.
    dying: &'o [File],
}

impl PageRead for Memory<'_> {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        _: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        /// Pages read so far, by all workers.
        static READ: AtomicU64 = AtomicU64::new(0);
        for (pfn, page) in (first.0..).zip(buf.chunks_mut(4096)) {
            page_of(false, pfn, page);
            match (&*self.order.fault, READ.fetch_add(1, Ordering::Relaxed)) {
                ("dies" | "both-die", 6000) => die(&self.dying[0]),
                ("both-die", 12_000) => die(&self.dying[1]),
                ("source", 5000) => {
                    return Err(ReadFault(io::Error::from_raw_os_error(19)));
                }
                ("allocates-in-a-reader", 7000) => drop(black_box(vec![pfn])),
                _ => {}
            }
        }
        Ok(())
    }
}

/// From now on every write to it fails with EPERM, and reading goes on.
fn die(volume: &File) {
    fcntl_add_seals(volume, SealFlags::WRITE).unwrap();
}

struct Readers<'o> {
    memory: Memory<'o>,
    layers: Layers,
    swap: Swap,
}

impl Sources for Readers<'_> {
    fn input(&mut self, source: usize) -> Input<'_> {
        if source == 0 {
            Input { pages: &mut self.memory, places: Some(&mut self.layers) }
        } else {
            Input { pages: &mut self.swap, places: None }
        }
    }
}

/// Pages until the deadline.
struct Clock(AtomicU64);

impl Monitor for Clock {
    fn tick(&self, pages: u64) -> bool {
        let left = self.0.load(Ordering::Relaxed).saturating_sub(pages);
        self.0.store(left, Ordering::Relaxed);
        left > 0
    }
}

fn header(volume_id: [u8; 16], number: u64, key: &DataKey) -> DumpHeader {
    DumpHeader {
        version: FORMAT_VERSION,
        dump_id: ID,
        volume_id,
        number,
        created: 2,
        cipher: Cipher::Aes256Gcm,
        chunk_pages: 64,
        release: text_field("6.1.0-test"),
        reason: text_field("sysrq"),
        image: text_field("test"),
        key_id: key.id(),
    }
}

type Writer = Frames<Disk<FileDev, Files>, CryptSeal>;

/// Takes a slot and writes the head.
fn begin(order: &Order, worker: &mut Worker) -> Writer {
    let candidate = |n| {
        let file = order.open(n).unwrap();
        let len = file.metadata().unwrap().len();
        let volume = Volume::open(FileDev::new(file, 0, len), Placement { start: 0, len }).unwrap();
        volume.guard().unwrap();
        Candidate { volume, spent: false }
    };
    let targets: Vec<_> = (0..order.volumes.len()).map(candidate).collect();
    let plan = targets[0].volume.plan(Policy::KeepFirst).unwrap();
    let key = key();
    let header = header(targets[0].volume.superblock().volume_id, plan.number, &key);
    let keys = [0; KEY_AREA_LEN];
    let mut bytes = Box::new([0; HEADER_LEN]);
    bytes[..BLOCK].copy_from_slice(&header.encode());
    let head = Head { dump_id: ID, bytes, now: 2 };
    let host = Files(order.clone());
    let chain = Chain::begin(host, targets, 0, &plan, Policy::KeepFirst, head).unwrap();
    let mut frames = Frames::new(Disk(chain), CryptSeal(Sealer::new(Some(&key))), &header, &keys);
    frames.begin().unwrap();
    let log = b"a line of the log\n".repeat(30_000);
    frames.lasting_text(ChunkKind::Log, &log, worker.scratch()).unwrap();
    frames.checkpoint().unwrap();
    frames
}

/// Takes a dump; exit code 0 when it is committed, 1 when not, 9 when C code allocated.
fn main() {
    seal::lean();
    let order = Order::from_args();
    let dying: Vec<File> = (0..order.volumes.len()).map(|n| order.open(n).unwrap()).collect();
    let swap = SwapDevice {
        block: Block { path: order.swap.clone(), len: SWAP.end.0 * 4096, ..Block::default() },
        header: SwapHeader {
            page_size: 4096,
            last_page: 1,
            bad_pages: 0,
            uuid: String::new(),
            label: String::new(),
        },
    };
    let ladder = Ladder::default();
    let (tuner, twins) = (Tuner::new(ladder.methods()), Twins::new(256 << 10));
    let mut workers: Vec<_> = (0..3).map(|_| lifeboat_join::worker(&ladder, 64).unwrap()).collect();
    assert!(lifeboat_join::look_for_twins(&mut workers, &[3; 32]));
    let hand = |(n, worker): (usize, Worker)| {
        let ahead = ReadAhead { depth: 3 + n, len: 64 << 10 };
        let readers = Readers {
            memory: Memory { order: &order, dying: &dying },
            layers: Layers,
            swap: Swap(SwapReader::open([(&swap, order.mode)], ahead)),
        };
        Hand { worker, sources: Box::new(readers) }
    };
    let mut hands: Vec<Hand<'_>> = workers.into_iter().enumerate().map(hand).collect();
    let frames = Shared::new(begin(&order, &mut hands[0].worker));
    let limit = if order.fault == "deadline" { 20_000 } else { u64::MAX };
    let clock = Clock(AtomicU64::new(limit));
    let (memory, swap) = ([MEMORY], [SWAP]);
    let layers = Layer::BY_WORTH.map(|layer| (0, layer, Cursor::new(&memory)));
    let all: Vec<_> = layers.into_iter().chain([(1, Layer::Address, Cursor::new(&swap))]).collect();
    let tasks: Vec<Task<'_>> = all
        .iter()
        .map(|(source, layer, cursor)| {
            task(*source, *layer, cursor, &clock, (&tuner, twins.as_ref()))
        })
        .collect();
    let lead = |pool: &pool::Pool| {
        assert_eq!(pool.threads(), 3);
        seal::seal();
        (seal::c_heap(), run(&order, pool, tasks.len(), &frames))
    };
    let (before, outcome) = pool::with(&mut hands, &tasks, &frames, lead).unwrap();
    let done = outcome.and_then(|outcome| commit(&frames, outcome, &mut hands[0].worker));
    let code = match done {
        Ok(outcome) => {
            say(format_args!("outcome {}\n", outcome.name()));
            0
        }
        Err(why) => {
            say(format_args!("failed: {why}\n"));
            1
        }
    };
    // C code does not come by the seal: its heap must not have grown.
    let after = seal::c_heap();
    if after > before {
        say(format_args!("the C heap grew from {before} to {after} bytes\n"));
        std::process::exit(9);
    }
    std::process::exit(code)
}

fn task<'t>(
    source: usize,
    layer: Layer,
    cursor: &'t Cursor<'t>,
    clock: &'t Clock,
    (tuner, twins): (&'t Tuner, Option<&'t Twins>),
) -> Task<'t> {
    let job = Job {
        kind: if source == 0 { ChunkKind::Memory } else { ChunkKind::Swap },
        device: 0,
        layer,
        tells_out: false,
        name: if source == 0 { "memory" } else { "swap" },
        cursor,
        monitor: clock,
        tuner,
        twins,
    };
    Task { job, source }
}

fn run(
    order: &Order,
    pool: &pool::Pool,
    tasks: usize,
    frames: &Shared<Disk<FileDev, Files>, CryptSeal>,
) -> Result<Outcome, EngineError> {
    let (mut outcome, mut fatal) = (Outcome::Complete, None);
    for number in 0..tasks {
        if order.fault == "allocates-in-the-lead" && number == 2 {
            drop(black_box(number.to_string()));
        }
        if matches!(outcome, Outcome::Full | Outcome::Deadline) {
            break;
        }
        pool.run(number, |error| {
            say(format_args!("task {number}: {error}\n"));
            if error.can_commit() {
                outcome = error.outcome();
            } else {
                fatal.get_or_insert(error);
            }
        });
        if let Some(error) = fatal.take() {
            return Err(error);
        }
        frames.with(Frames::checkpoint)??;
    }
    Ok(outcome)
}

fn commit(
    frames: &Shared<Disk<FileDev, Files>, CryptSeal>,
    outcome: Outcome,
    worker: &mut Worker,
) -> Result<Outcome, EngineError> {
    frames.with(|frames| finish(frames, outcome, worker))?
}

fn finish(
    frames: &mut Writer,
    outcome: Outcome,
    worker: &mut Worker,
) -> Result<Outcome, EngineError> {
    frames.open_reserve();
    frames.text(ChunkKind::Trailer, b"the trailer", worker.scratch())?;
    let (io, writes) = frames.sink().0.io();
    let facts = CommitFacts {
        outcome,
        source: SourceKind::File,
        io,
        writes,
        now: 3,
        asked: (MEMORY.pages(), SWAP.pages()),
        read_errors: 0,
        phases: [(0, 0); MAX_PHASES],
    };
    frames.finish(&facts)?;
    if let Err(why) = frames.sink_mut().0.close(SlotState::Complete) {
        say(format_args!("the slot: {why}\n"));
    }
    Ok(outcome)
}
