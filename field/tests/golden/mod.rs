//! Small dumps whose every page is known: what golden vectors are made of, and fresh
//! dumps to try the same readers on. Written by the real engine, cipher and sink.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, shared by several test programs"
)]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use lifeboat_crypt::{DataKey, Sealer, header_digest};
pub use lifeboat_engine::Method;
use lifeboat_engine::{CommitFacts, Monitor, PageRead, ReadFault, Shared};
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::meta::{MetaWriter, SwapDevice, Tag};
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{
    BLOCK, ChunkHeader, ChunkKind, Cipher, CommitRecord, DumpHeader, FORMAT_VERSION, KeyArea,
    KeyEntry, KeyKind, Layer, PAGE, PageRange, Pfn, SlotState, text_field,
};
use sha2::{Digest, Sha256};

pub mod words;
use words::{hex, space_line, text_line};

use crate::support::rig::{self, CryptSeal, Place};
use crate::support::{elfcorehdr, loads, notes};

pub const TRAILER: &[u8] = b"phase memory ok\nphase swap ok\n";

/// A machine whose pages follow from a seed. Class of a page as in a run; `LEFT OUT`
/// begins those that a filter would exclude.
#[derive(Debug, Clone, Copy)]
pub struct Golden {
    pub seed: u64,
    /// Pages with bytes that no compressor shortens; else text only.
    pub noise: bool,
    /// Whether some pages of memory are left out.
    pub excluded: bool,
    /// Whether some pages are one word over and over.
    pub words: bool,
}

impl Golden {
    pub fn device(self, device: Option<u16>) -> Self {
        // Nothing of swap is left out.
        let excluded = self.excluded && device.is_none();
        let seed = device.map_or(self.seed, |d| self.seed + 100 + u64::from(d));
        Self { seed, excluded, ..self }
    }

    pub fn page(&self, page: u64, out: &mut [u8]) -> u8 {
        let x = (page ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        out.fill(0);
        match x % 16 {
            0..=4 => 1,
            5 => 2,
            6 | 7 if self.excluded => {
                out[..8].copy_from_slice(b"LEFT OUT");
                3
            }
            10 | 11 if self.words => {
                for word in out.chunks_mut(8) {
                    word.copy_from_slice(&(x | 1).to_le_bytes());
                }
                0
            }
            8 | 9 if self.noise => {
                let mut s = x | 1;
                for b in out {
                    s ^= s << 13;
                    s ^= s >> 7;
                    s ^= s << 17;
                    *b = s as u8;
                }
                0
            }
            _ => {
                for (i, b) in out.iter_mut().enumerate() {
                    *b = b"certain consistent complete safe"[(i + x as usize) % 32];
                }
                0
            }
        }
    }
}

struct Pages(Golden);
impl PageRead for Pages {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        for (i, page) in buf.chunks_mut(PAGE).enumerate() {
            if self.0.page(first.0 + i as u64, page) == 2 {
                bad(i);
            }
        }
        Ok(())
    }
}

struct Ever;
impl Monitor for Ever {
    fn tick(&self, _: u64) -> bool {
        true
    }
}

/// An entry of the key area to be.
#[derive(Debug, Clone)]
pub struct Wrapped {
    pub kind: KeyKind,
    pub fingerprints: Vec<[u8; 8]>,
    pub bytes: Vec<u8>,
}

pub fn key_area(generation: u64, entries: &[Wrapped]) -> [u8; KEY_AREA_LEN] {
    let entries: Vec<KeyEntry<'_>> = entries
        .iter()
        .map(|e| KeyEntry { kind: e.kind, fingerprints: &e.fingerprints, wrapped: &e.bytes })
        .collect();
    let mut out = [0u8; KEY_AREA_LEN];
    KeyArea::encode(&mut out, generation, &entries).unwrap();
    out
}

/// How a dump is to be.
pub struct Order {
    pub machine: Golden,
    pub id: u8,
    pub ranges: Vec<PageRange>,
    pub swap: Vec<u64>,
    pub log: Vec<u8>,
    /// Its key; `None` in the clear.
    pub key: Option<DataKey>,
    pub keys: Vec<Wrapped>,
    pub generation: u64,
    pub method: Method,
    pub layered: bool,
    /// Identical pages once.
    pub dedup: bool,
    pub chunk_pages: u32,
    pub workers: usize,
}

impl Order {
    pub fn clear(seed: u64, id: u8) -> Self {
        Self {
            machine: Golden { seed, noise: true, excluded: false, words: false },
            id,
            ranges: vec![
                PageRange::new(1, 30),
                PageRange::new(0x100, 0x130),
                PageRange::new(0x10_0000, 0x10_0009),
            ],
            swap: vec![20 << 10, (8 << 10) + 512],
            log: (0..900).flat_map(|i| format!("[{i:5}.000001] line {i}\n").into_bytes()).collect(),
            key: None,
            keys: Vec::new(),
            generation: 0,
            method: Method::Zstd(1),
            layered: false,
            dedup: false,
            chunk_pages: 32,
            workers: 1,
        }
    }

    fn meta(&self, header: &DumpHeader) -> Vec<u8> {
        let mut buf = vec![0; self.ranges.len() * 24 + 65536];
        let mut w = MetaWriter::new(&mut buf);
        let digest = header_digest(&header.encode());
        w.record(Tag::HeaderDigest, std::iter::once(&digest[..])).unwrap();
        w.record(Tag::Elfcorehdr, std::iter::once(&elfcorehdr(&loads())[..])).unwrap();
        w.ranges(&self.ranges).unwrap();
        for (index, bytes) in (0u16..).zip(&self.swap) {
            let text = "path /dev/vda2\n";
            w.swap_device(&SwapDevice { index, page_size: 4096, bytes: *bytes, text }).unwrap();
        }
        w.record(Tag::Hostname, std::iter::once(&b"golden"[..])).unwrap();
        let len = w.finish();
        buf.truncate(len);
        buf
    }

    /// The digests of its spaces and texts, as the Python reader prints them.
    pub fn truth(&self) -> String {
        let mut out = String::new();
        let mut space = |name: &str, m: Golden, ranges: &[PageRange]| {
            let (mut hash, mut n, mut bytes) = (Sha256::new(), [0u64; 4], vec![0u8; PAGE]);
            for page in ranges.iter().flat_map(|r| r.start.0..r.end.0) {
                let class = m.page(page, &mut bytes);
                hash.update(page.to_le_bytes());
                hash.update([class]);
                if class == 0 {
                    hash.update(&bytes);
                }
                n[usize::from(class)] += 1;
            }
            out += &space_line(name, &hex(&hash.finalize()), n);
        };
        space("memory", self.machine, &self.ranges);
        for (i, bytes) in (0u16..).zip(&self.swap) {
            let range = [PageRange::new(0, bytes.div_ceil(PAGE as u64))];
            space(&format!("swap{i}"), self.machine.device(Some(i)), &range);
        }
        for (name, text) in [("log", &self.log[..]), ("notes", &notes()), ("trailer", TRAILER)] {
            out += &text_line(name, text);
        }
        out
    }
}

/// A dump's logical bytes.
pub struct Made {
    pub bytes: Vec<u8>,
    pub record: CommitRecord,
    pub header: DumpHeader,
    pub parts: usize,
}

impl Made {
    /// Offset and header of every chunk.
    pub fn chunks(&self) -> Vec<(usize, ChunkHeader)> {
        chunks(&self.bytes, usize::try_from(self.record.header_copy.0).unwrap())
    }
}

pub fn chunks(bytes: &[u8], end: usize) -> Vec<(usize, ChunkHeader)> {
    let (mut at, mut out) = (4 * BLOCK, Vec::new());
    while at < end {
        let Ok(h) = ChunkHeader::decode(&bytes[at..]) else { break };
        out.push((at, h));
        at += usize::try_from(h.frame_len()).unwrap();
    }
    out
}

/// Takes a dump as PID 1 does, onto the first of `places` and further ones when it is full.
pub fn make(order: &Order, places: Vec<Place>) -> Made {
    let reader: Vec<(File, u64)> =
        places.iter().map(|p| (p.file.try_clone().unwrap(), p.len)).collect();
    let mut header = DumpHeader {
        version: FORMAT_VERSION,
        dump_id: [order.id; 16],
        volume_id: [0; 16],
        number: 0,
        created: 1_764_000_000,
        cipher: if order.key.is_some() { Cipher::Aes256Gcm } else { Cipher::None },
        chunk_pages: order.chunk_pages,
        release: text_field("6.1.0-56-amd64"),
        reason: text_field("sysrq triggered crash"),
        image: text_field("lifeboat 0.1.0"),
        key_id: order.key.as_ref().map(DataKey::id).unwrap_or_default(),
    };
    let first = places[0].volume();
    header.volume_id = first.superblock().volume_id;
    let numbers = first.slots().iter().flatten().flatten().map(|r| r.number);
    header.number = numbers.max().unwrap_or(0) + 1;
    let area = key_area(order.generation, &order.keys);
    let seal = CryptSeal(Sealer::new(order.key.as_ref()));
    let (mut frames, _) = rig::begin(places, seal, |_, _| header, &area);
    let (mut workers, twins) =
        rig::crew(order.workers, order.method, order.chunk_pages, order.dedup);
    frames.lasting_text(ChunkKind::Log, &order.log, workers[0].scratch()).unwrap();
    frames.lasting_text(ChunkKind::Notes, &notes(), workers[0].scratch()).unwrap();
    frames.lasting_text(ChunkKind::Meta, &order.meta(&header), workers[0].scratch()).unwrap();
    frames.checkpoint().unwrap();
    let (frames, once) = (Shared::new(frames), twins.as_ref());
    let reader_of = |device| move || Pages(order.machine.device(device));
    let left_out = |page| order.machine.page(page, &mut [0; PAGE]) == 3;
    let capture = rig::Capture { frames: &frames, monitor: &Ever, twins: once, out: &left_out };
    let stop = capture.memory(&mut workers, &order.ranges, order.layered, reader_of(None));
    assert!(stop.is_none(), "{stop:?}");
    let pages = |bytes: &u64| bytes.div_ceil(PAGE as u64);
    for (device, bytes) in (0u16..).zip(&order.swap) {
        let range = [PageRange::new(0, pages(bytes))];
        let what = (ChunkKind::Swap, device, Layer::Address);
        let reader = reader_of(Some(device));
        let stop = capture.pages(&mut workers, what, &range, &reader);
        assert!(stop.is_none(), "{stop:?}");
    }
    let mut frames = frames.into_inner().unwrap();
    frames.open_reserve();
    frames.text(ChunkKind::Trailer, TRAILER, workers[0].scratch()).unwrap();
    let (memory, swap) = frames.counts();
    let mut phases = [(0, 0); MAX_PHASES];
    for (i, p) in phases.iter_mut().take(9).enumerate() {
        *p = (i as u8 + 1, 10 * i as u32 + 3);
    }
    let facts = CommitFacts {
        outcome: Outcome::Complete,
        source: SourceKind::File,
        io: IoMode::Pwrite,
        writes: 1,
        now: 1_764_000_007,
        asked: (order.ranges.iter().map(|r| r.pages()).sum(), order.swap.iter().map(pages).sum()),
        read_errors: memory.unreadable + swap.unreadable,
        phases,
    };
    let record = frames.finish(&facts).unwrap();
    frames.sink_mut().0.close(SlotState::Complete).unwrap();
    let (bytes, parts) = logical(&reader, order.id, record.total_len);
    Made { bytes, record, header, parts }
}

/// The bytes of a dump, put together from its parts as FORMAT.md says.
fn logical(volumes: &[(File, u64)], id: u8, len: u64) -> (Vec<u8>, usize) {
    let (mut out, mut parts) = (vec![0; usize::try_from(len).unwrap()], 0);
    for (file, len) in volumes {
        let place = Place { file: file.try_clone().unwrap(), base: 0, len: *len, good_for: 0 };
        for (_, r) in place.volume().dumps().into_iter().filter(|(_, r)| r.dump_id == [id; 16]) {
            let head = if r.part == 0 { 0 } else { PART_HEAD as u64 };
            let from = usize::try_from(r.base).unwrap();
            let take = usize::try_from(r.used_len - head).unwrap();
            file.read_exact_at(&mut out[from..from + take], r.start.0 + head).unwrap();
            parts += 1;
        }
    }
    (out, parts)
}

/// A formatted volume in `file` with `room` bytes for dumps.
pub fn volume(file: File, room: u64, id: u8) -> Place {
    use lifeboat_sink::{FileDev, Placement, Volume};
    let len = room + (2 << 20);
    file.set_len(len).unwrap();
    let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
    let at = Placement { start: 0, len };
    Volume::format(dev, at, 8, "golden", [id; 16], 1_764_000_000).unwrap();
    Place { file, base: 0, len, good_for: u64::MAX }
}

/// A volume that is nowhere else.
pub fn fresh(room: u64) -> Place {
    volume(tempfile::tempfile().unwrap(), room, 7)
}
