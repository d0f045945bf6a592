//! The sink's chain of parts over image files, for captures in tests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code, shared by several test programs"
)]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]

use std::fs::File;
use std::io;
use std::path::Path;

use lifeboat_crypt::PagePrint;
use lifeboat_engine::{
    Cursor, EngineError, Fingerprint, Frames, Input, Job, Method, Monitor, PageRead,
    Place as PagePlace, PlaceRead, Shared, Tuner, Twins, Worker, capture,
};
use lifeboat_format::bootcfg::{Ladder, Policy};
use lifeboat_format::commit::IoMode;
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{BLOCK, ChunkKind, DumpHeader, Id, Layer, PageRange, Pfn};
use lifeboat_sink::{Candidate, Chain, Event, FileDev, Head, Host, Output, Placement, Volume};
use lifeboat_sys::{Lane, QueueMode, WriteQueue};

use lifeboat_join as join;
pub use lifeboat_join::{CryptSeal, Disk};

/// A worker that packs by one method.
pub fn worker(method: Method, chunk_pages: u32) -> Worker {
    let ladder = Ladder::new(&[method]).unwrap();
    join::worker(&ladder, chunk_pages).unwrap()
}

/// A volume in a file.
pub struct Place {
    pub file: File,
    pub base: u64,
    pub len: u64,
    /// Bytes that the device takes before it fails.
    pub good_for: u64,
}

impl Place {
    pub fn of(path: &Path, base: u64, len: u64) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        Self { file, base, len, good_for: u64::MAX }
    }

    pub fn volume(&self) -> Volume<FileDev> {
        let dev = FileDev::new(self.file.try_clone().unwrap(), self.base, self.len);
        Volume::open(dev, Placement { start: self.base, len: self.len }).unwrap()
    }
}

/// The devices of a capture.
pub struct Files(pub Vec<Place>);

impl Host for Files {
    type Out = Shifted;
    fn queue(&mut self, target: usize) -> io::Result<Shifted> {
        let place = &self.0[target];
        let file = place.file.try_clone().unwrap();
        let queue = WriteQueue::new(file, QueueMode::Pwrite, 4, 64 << 10);
        Ok(Shifted { queue, base: place.base, left: place.good_for })
    }
    fn lane(&mut self, target: usize, out: &Shifted) -> io::Result<ShiftedLane> {
        let place = &self.0[target];
        let lane = out.queue.lane(place.file.try_clone().unwrap(), QueueMode::Pwrite);
        Ok(ShiftedLane { lane, base: place.base, left: place.good_for })
    }
    fn tell(&mut self, _: Event) {}
}

/// Where no file reaches: pwrite(2) fails there.
const FAR: u64 = 1 << 62;

/// A queue to a volume within a file, on a device that may fail.
pub struct Shifted {
    queue: WriteQueue,
    base: u64,
    left: u64,
}

/// The way to a further such device.
pub struct ShiftedLane {
    lane: Lane,
    base: u64,
    left: u64,
}

impl Shifted {
    /// Where a write goes: nothing arrives any more once the device is at its end.
    fn place(left: &mut u64, base: u64, offset: u64, len: usize) -> u64 {
        *left = left.saturating_sub(len as u64);
        if *left == 0 { FAR + offset } else { base + offset }
    }

    /// The volume's offset of a write that was sent there.
    fn home(&self, at: u64) -> u64 {
        at.checked_sub(FAR).unwrap_or(at.wrapping_sub(self.base))
    }
}

impl Output for Shifted {
    type Lane = ShiftedLane;
    fn buf_len(&self) -> usize {
        self.queue.buf_len()
    }
    fn take(&mut self) -> io::Result<usize> {
        self.queue.take()
    }
    fn bytes(&mut self, index: usize) -> &mut [u8] {
        self.queue.bytes(index)
    }
    fn submit(&mut self, index: usize, len: usize, offset: u64) -> io::Result<()> {
        let at = Self::place(&mut self.left, self.base, offset, len);
        self.queue.submit(index, len, at)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.queue.flush()
    }
    fn busy(&self) -> (usize, usize) {
        self.queue.busy()
    }
    fn mode(&self) -> IoMode {
        IoMode::Polled
    }
    fn requests(&self) -> u64 {
        42
    }
    fn held(&self) -> Option<u64> {
        // The writes that failed were sent to where no device reaches.
        self.queue.held().map(|at| self.home(at))
    }
    fn switch(
        &mut self,
        to: ShiftedLane,
        place: &mut dyn FnMut(u64, usize) -> Option<(u64, usize)>,
    ) -> io::Result<()> {
        let base = self.base;
        let home = |at: u64| at.checked_sub(FAR).unwrap_or(at.wrapping_sub(base));
        (self.base, self.left) = (to.base, to.left);
        let (left, base) = (&mut self.left, self.base);
        self.queue.switch(to.lane, |at, len| {
            let (at, len) = place(home(at), len)?;
            Some((Self::place(left, base, at, len), len))
        })
    }
}

pub type Writer = Frames<Disk<FileDev, Files>, CryptSeal>;

/// Takes a slot on the first place and writes the header.
pub fn begin(
    places: Vec<Place>,
    seal: CryptSeal,
    header: impl FnOnce(Id, u64) -> DumpHeader,
    keys: &[u8; KEY_AREA_LEN],
) -> (Writer, u64) {
    let targets: Vec<_> =
        places.iter().map(|p| Candidate { volume: p.volume(), spent: false }).collect();
    for t in &targets {
        t.volume.guard().unwrap();
    }
    let plan = targets[0].volume.plan(Policy::KeepFirst).unwrap();
    let header = header(targets[0].volume.superblock().volume_id, plan.number);
    let mut bytes = Box::new([0u8; HEADER_LEN]);
    bytes[..BLOCK].copy_from_slice(&header.encode());
    bytes[BLOCK..].copy_from_slice(keys);
    let head = Head { dump_id: header.dump_id, bytes, now: header.created };
    let chain = Chain::begin(Files(places), targets, 0, &plan, Policy::KeepFirst, head).unwrap();
    let mut frames = Frames::new(Disk(chain), seal, &header, keys);
    frames.begin().unwrap();
    (frames, plan.number)
}

/// Which layer a page of a test's machine belongs to: stretches of 1 to some 100 pages.
pub fn layer_of(page: u64) -> Layer {
    let block = page / 13;
    let x = (block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 11;
    match x {
        0..=3 => Layer::Kernel,
        4..=7 => Layer::User,
        8..=9 => Layer::Cache,
        _ => Layer::Free,
    }
}

/// Layers of pages, but for those that are left out.
struct Layers<'a>(&'a (dyn Fn(u64) -> bool + Sync));
impl PlaceRead for Layers<'_> {
    fn places(&mut self, first: Pfn, out: &mut [PagePlace]) {
        for (page, to) in (first.0..).zip(out) {
            *to = if self.0(page) { PagePlace::Out } else { PagePlace::In(layer_of(page)) };
        }
    }
}

/// Prints under a fixed key, for a worker that stores identical pages once.
pub fn prints() -> Box<dyn Fingerprint + Send> {
    Box::new(join::Prints(PagePrint::new(&[5; 32]).unwrap()))
}

/// Workers, and the table of pages that were stored if they look for twins.
pub fn crew(
    count: usize,
    method: Method,
    chunk_pages: u32,
    dedup: bool,
) -> (Vec<Worker>, Option<Twins>) {
    let twins = Twins::new(64 << 10).filter(|_| dedup);
    let mut workers: Vec<Worker> = (0..count).map(|_| worker(method, chunk_pages)).collect();
    if dedup {
        workers.iter_mut().for_each(|w| w.look_for_twins(prints()));
    }
    (workers, twins)
}

/// What is captured into, until when, and how.
pub struct Capture<'a> {
    pub frames: &'a Shared<Disk<FileDev, Files>, CryptSeal>,
    pub monitor: &'a dyn Monitor,
    pub twins: Option<&'a Twins>,
    /// Which pages of memory are left out.
    pub out: &'a (dyn Fn(u64) -> bool + Sync),
}

impl<'a> Capture<'a> {
    /// Everything, every time.
    pub fn plain(
        frames: &'a Shared<Disk<FileDev, Files>, CryptSeal>,
        monitor: &'a dyn Monitor,
    ) -> Self {
        Self { frames, monitor, twins: None, out: &|_| false }
    }

    /// Captures memory in the order of its worth, or in order of address.
    pub fn memory<P: PageRead + Send>(
        &self,
        workers: &mut [Worker],
        ranges: &[PageRange],
        layered: bool,
        reader: impl Fn() -> P + Sync,
    ) -> Option<EngineError> {
        let all: &[Layer] = if layered { &Layer::BY_WORTH } else { &[Layer::Address] };
        let what = |layer| (ChunkKind::Memory, 0, layer);
        all.iter().find_map(|layer| self.pages(workers, what(*layer), ranges, &reader))
    }

    /// Captures one layer of memory, or a swap device.
    pub fn pages<P: PageRead + Send>(
        &self,
        workers: &mut [Worker],
        (kind, device, layer): (ChunkKind, u16, Layer),
        ranges: &[PageRange],
        reader: &(impl Fn() -> P + Sync),
    ) -> Option<EngineError> {
        let cursor = Cursor::new(ranges);
        let is_memory = kind == ChunkKind::Memory;
        let job = Job {
            kind,
            device,
            layer,
            tells_out: matches!(layer, Layer::Address | Layer::Kernel),
            name: "the machine",
            cursor: &cursor,
            monitor: self.monitor,
            tuner: &Tuner::new(&[workers[0].scratch().method()]),
            twins: self.twins,
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = workers
                .iter_mut()
                .map(|w| {
                    let (job, mut layers) = (&job, Layers(self.out));
                    scope.spawn(move || {
                        let places = is_memory.then_some(&mut layers as &mut dyn PlaceRead);
                        let mut input = Input { pages: &mut reader(), places };
                        capture(w, job, &mut input, self.frames)
                    })
                })
                .collect();
            threads.into_iter().find_map(|t| t.join().unwrap().err())
        })
    }
}
