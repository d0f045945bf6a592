//! Captures on simulated disks, and what the disks hold when the power goes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code"
)]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use lifeboat_crypt::{DataKey, Sealer, fingerprint, header_digest, wrap};
use lifeboat_engine::{
    CommitFacts, Cursor, Frames, Input, Job, Method, Monitor, PageRead, Place, PlaceRead,
    ReadFault, Shared, Tuner, Worker, capture,
};
use lifeboat_format::bootcfg::{Ladder, Policy};
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::meta::{MetaWriter, SwapDevice, Tag};
use lifeboat_format::{
    BLOCK, ChunkKind, Cipher, DumpHeader, FORMAT_VERSION, Id, KeyArea, KeyEntry, KeyKind, Layer,
    PAGE, PageRange, Pfn, SlotState, text_field,
};
use lifeboat_sink::{BlockDev, Candidate, Chain, Event, Head, Host, Placement, Volume};

use lifeboat_join as join;
#[path = "../../../capturer/sink/tests/sim/mod.rs"]
pub mod sim;
use join::{CryptSeal, Disk as Joined};
use sim::{Bytes, Disk, Log, Queue, Request, Rng, SECTOR};

pub mod check;

/// A worker that packs by a zstd level, or stores.
fn worker(level: Option<i32>, chunk_pages: u32) -> Worker {
    let ladder = Ladder::new(&[level.map_or(Method::Store, Method::Zstd)]).unwrap();
    join::worker(&ladder, chunk_pages).unwrap()
}

pub const LOG: &[u8] = b"[    9.123460] Kernel panic - not syncing: sysrq triggered crash\n";
pub const NOTES: &[u8] = b"the notes, verbatim";

/// Contents of a page of memory, or of the swap device; `false`: all zero.
pub fn page(swap: bool, number: u64, out: &mut [u8]) -> bool {
    let mut rng = Rng(number * 2 + u64::from(swap));
    match rng.below(5) {
        0 => out.fill(0),
        1 => out
            .iter_mut()
            .zip((0..).map(|n: u32| b"certain "[n as usize % 8]))
            .for_each(|(to, b)| *to = b),
        _ => out.chunks_mut(8).for_each(|c| c.copy_from_slice(&rng.next().to_le_bytes())),
    }
    out.iter().any(|b| *b != 0)
}

struct Reader(bool);
impl PageRead for Reader {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        _: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        for (number, out) in (first.0..).zip(buf.chunks_mut(PAGE)) {
            page(self.0, number, out);
        }
        Ok(())
    }
}

struct Layers;
impl PlaceRead for Layers {
    fn places(&mut self, first: Pfn, out: &mut [Place]) {
        for (number, to) in (first.0..).zip(out) {
            *to = Place::In(Layer::BY_WORTH[Rng(number / 5).below(4) as usize]);
        }
    }
}

struct Ever;
impl Monitor for Ever {
    fn tick(&self, _: u64) -> bool {
        true
    }
}

/// The disks of a capture.
pub struct Disks {
    disks: Vec<Disk>,
    buf_len: usize,
}

impl Host for Disks {
    type Out = Queue;
    fn queue(&mut self, target: usize) -> io::Result<Queue> {
        self.disks[target].open()?;
        Ok(Queue::new(&self.disks[target], 4, self.buf_len, 5))
    }
    fn lane(&mut self, target: usize, _: &Queue) -> io::Result<Disk> {
        self.disks[target].open()?;
        Ok(self.disks[target].clone())
    }
    fn tell(&mut self, _: Event) {}
}

pub fn volume(disk: &Disk) -> Volume<Disk> {
    Volume::open(disk.clone(), Placement { start: 0, len: disk.len() }).unwrap()
}

/// An empty volume of `len` bytes.
pub fn format(len: u64, number: u8) -> Disk {
    let disk = Disk::new(len);
    Volume::format(disk.clone(), Placement { start: 0, len }, 8, "", [number; 16], 1).unwrap();
    disk
}

/// How a capture is to be.
#[derive(Debug, Clone)]
pub struct Setup {
    pub id: u8,
    /// Pages of memory, from pfn 16, and of swap.
    pub pages: (u64, u64),
    pub layered: bool,
    pub policy: Policy,
    /// Bytes of the first extent, if not all of the gap.
    pub limit: u64,
    pub buf_len: usize,
}

impl Setup {
    pub fn ranges(&self) -> [PageRange; 1] {
        [PageRange::new(16, 16 + self.pages.0)]
    }

    fn header(&self, volume_id: Id, number: u64, key: &DataKey) -> DumpHeader {
        DumpHeader {
            version: FORMAT_VERSION,
            dump_id: [self.id; 16],
            volume_id,
            number,
            created: 2,
            cipher: Cipher::Aes256Gcm,
            chunk_pages: 32,
            release: text_field("6.1.0-test"),
            reason: text_field("sysrq triggered crash"),
            image: text_field("test"),
            key_id: key.id(),
        }
    }

    fn meta(&self, header: &DumpHeader) -> Vec<u8> {
        let mut buf = vec![0; 65536];
        let mut w = MetaWriter::new(&mut buf);
        let digest = header_digest(&header.encode());
        w.record(Tag::HeaderDigest, std::iter::once(&digest[..])).unwrap();
        w.ranges(&self.ranges()).unwrap();
        let bytes = self.pages.1 * PAGE as u64;
        w.swap_device(&SwapDevice { index: 0, page_size: 4096, bytes, text: "path x\n" }).unwrap();
        let len = w.finish();
        buf.truncate(len);
        buf
    }

    /// Captures onto `disks` as PID 1 does, sealed to `recipient`.
    pub fn capture(&self, disks: &[Disk], recipient: &str) {
        let targets: Vec<_> =
            disks.iter().map(|d| Candidate { volume: volume(d), spent: false }).collect();
        targets.iter().for_each(|t| t.volume.guard().unwrap());
        let mut plan = targets[0].volume.plan(self.policy).unwrap();
        plan.len = plan.len.min(self.limit);
        let key = DataKey::mix(&[b"a test's key", &[self.id]]);
        let header = self.header(targets[0].volume.superblock().volume_id, plan.number, &key);
        let wrapped = wrap(&key, &[recipient]).unwrap();
        let fingerprints = &[fingerprint(recipient)];
        let entry = KeyEntry { kind: KeyKind::Data, fingerprints, wrapped: &wrapped };
        let mut keys = [0u8; KEY_AREA_LEN];
        KeyArea::encode(&mut keys, 0, &[entry]).unwrap();
        let mut bytes = Box::new([0u8; HEADER_LEN]);
        bytes[..BLOCK].copy_from_slice(&header.encode());
        bytes[BLOCK..].copy_from_slice(&keys);
        let head = Head { dump_id: header.dump_id, bytes, now: 2 };
        let host = Disks { disks: disks.to_vec(), buf_len: self.buf_len };
        let chain = Chain::begin(host, targets, 0, &plan, self.policy, head).unwrap();
        let seal = CryptSeal(Sealer::new(Some(&key)));
        let mut frames = Frames::new(Joined(chain), seal, &header, &keys);
        let mut worker = worker(Some(1), 32);
        frames.begin().unwrap();
        for (kind, text) in [
            (ChunkKind::Log, LOG),
            (ChunkKind::Notes, NOTES),
            (ChunkKind::Meta, &self.meta(&header)),
        ] {
            frames.lasting_text(kind, text, worker.scratch()).unwrap();
        }
        frames.checkpoint().unwrap();
        let frames = Shared::new(frames);
        self.pages(&mut worker, &frames);
        let mut frames = frames.into_inner().unwrap();
        frames.open_reserve();
        frames.text(ChunkKind::Trailer, b"the trailer", worker.scratch()).unwrap();
        let facts = CommitFacts {
            outcome: Outcome::Complete,
            source: SourceKind::File,
            io: IoMode::Polled,
            writes: 1,
            now: 3,
            asked: self.pages,
            read_errors: 0,
            phases: [(0, 0); MAX_PHASES],
        };
        frames.finish(&facts).unwrap();
        // A disk that failed may refuse its slot.
        let _ = frames.sink_mut().0.close(SlotState::Complete);
    }

    fn pages(&self, worker: &mut Worker, frames: &Shared<Joined<Disk, Disks>, CryptSeal>) {
        let swap = [PageRange::new(0, self.pages.1)];
        let layers: &[Layer] = if self.layered { &Layer::BY_WORTH } else { &[Layer::Address] };
        let memory = layers.iter().map(|l| (ChunkKind::Memory, *l, self.ranges()));
        for (kind, layer, ranges) in memory.chain([(ChunkKind::Swap, Layer::Address, swap)]) {
            let cursor = Cursor::new(&ranges);
            let name = "the machine";
            let job = Job {
                kind,
                device: 0,
                layer,
                tells_out: false,
                name,
                cursor: &cursor,
                monitor: &Ever,
                tuner: &Tuner::new(&[Method::Zstd(1)]),
                twins: None,
            };
            let mut pages = Reader(kind == ChunkKind::Swap);
            let mut input = Input { pages: &mut pages, places: Some(&mut Layers) };
            capture(worker, &job, &mut input, frames).unwrap();
        }
    }
}

/// What happened to some disks, from a state on.
pub struct Story {
    pub start: Vec<Bytes>,
    pub log: Vec<(usize, Request)>,
    pub end: Vec<Bytes>,
}

impl Story {
    pub fn of(disks: &[Disk], run: impl FnOnce()) -> Self {
        let start = disks.iter().map(Disk::bytes).collect();
        let log = Log::default();
        disks.iter().enumerate().for_each(|(n, d)| d.record(&log, n));
        run();
        let end = disks.iter().map(Disk::bytes).collect();
        let log = std::mem::take(&mut *log.0.lock().unwrap());
        Self { start, log, end }
    }

    /// Sectors written, each of them a moment at which the power may go.
    pub fn sectors(&self) -> usize {
        self.log
            .iter()
            .map(
                |(_, r)| {
                    if let Request::Write { bytes, .. } = r { bytes.len() / SECTOR } else { 0 }
                },
            )
            .sum()
    }

    /// Goes through all cuts that `chosen` names: after each sector of each write, with
    /// `variants` of what the disks' caches had by then brought to their medium. `visit`
    /// gets number and variant of the cut and the disks' bytes.
    pub fn cuts(
        &self,
        variants: u64,
        chosen: impl Fn(usize) -> bool,
        mut visit: impl FnMut(usize, u64, Vec<Bytes>) -> ControlFlow<()>,
    ) {
        let mut media = self.start.clone();
        // Written and not flushed: any of it, in any order, may be on the medium.
        let mut cache: Vec<(usize, u64, Arc<[u8]>)> = Vec::new();
        let mut cut = 0;
        for (disk, request) in &self.log {
            match request {
                Request::Flush => {
                    cache.retain(|(d, at, bytes)| {
                        if d == disk {
                            media[*d].write(*at, bytes);
                        }
                        d != disk
                    });
                }
                Request::Write { at, bytes } => {
                    for sectors in 0..bytes.len() / SECTOR {
                        cut += 1;
                        if !chosen(cut - 1) {
                            continue;
                        }
                        let now = (*disk, *at, Arc::from(&bytes[..(sectors + 1) * SECTOR]));
                        for variant in 0..variants {
                            let image = arrive(&media, &cache, &now, variant, cut as u64);
                            if visit(cut - 1, variant, image).is_break() {
                                return;
                            }
                        }
                    }
                    cache.push((*disk, *at, Arc::clone(bytes)));
                }
            }
        }
    }
}

/// The media, with some of what was in the caches.
fn arrive(
    media: &[Bytes],
    cache: &[(usize, u64, Arc<[u8]>)],
    now: &(usize, u64, Arc<[u8]>),
    variant: u64,
    seed: u64,
) -> Vec<Bytes> {
    let mut out = media.to_vec();
    let mut rng = Rng(seed * 1000 + variant);
    // Of eight sectors, how many arrive; 8 is all.
    let share = [8, 0, 0, 4, 4, 1, 7, 6][(variant % 8) as usize];
    let last_only = variant == 2;
    let torn = variant > 3 && variant.is_multiple_of(4);
    for (n, (disk, at, bytes)) in cache.iter().chain([now]).enumerate() {
        let is_now = n == cache.len();
        let prefix = rng.below((bytes.len() / SECTOR) as u64 + 1);
        for (s, sector) in bytes.chunks(SECTOR).enumerate() {
            let arrives = match () {
                () if last_only => is_now,
                () if torn => (s as u64) < prefix,
                () => rng.below(8) < share,
            };
            if arrives {
                out[*disk].write(at + (s * SECTOR) as u64, sector);
            }
        }
    }
    out
}
