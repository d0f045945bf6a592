//! Dumps for tests, written by the real engine, cipher and sink from a pretended
//! machine or from a real vmcore.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code"
)]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use lifeboat_crypt::{
    DataKey, Identities, Sealer, fingerprint, generate_identity, header_digest, wrap,
};
use lifeboat_engine::{CommitFacts, EngineError, Method, Monitor, PageRead, ReadFault, Shared};
use lifeboat_field::dump::{DumpError, DumpFile, OpenDump};
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::meta::{MetaWriter, SwapDevice, Tag};
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{
    ChunkKind, Cipher, CommitRecord, DumpHeader, FORMAT_VERSION, Id, KeyArea, KeyEntry, KeyKind,
    Layer, PAGE, PageRange, Pfn, SlotState, text_field,
};
use lifeboat_sink::{FileDev, Placement, Volume};

pub mod rig;
use rig::{CryptSeal, Place};

pub const ID: Id = [9; 16];

struct Ever;
impl Monitor for Ever {
    fn tick(&self, _: u64) -> bool {
        true
    }
}

/// What a page of the pretended machine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Zero,
    Text(u64),
    Noise(u64),
    /// One word over and over.
    Word(u64),
    Bad,
}

pub fn kind_of(seed: u64, page: u64) -> Kind {
    let x = (page ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    match x % 16 {
        0..=3 => Kind::Zero,
        4 => Kind::Word(x | 1),
        5 if x.is_multiple_of(5) => Kind::Bad,
        5..=8 => Kind::Noise(x),
        _ if (page / 500).is_multiple_of(3) => Kind::Zero,
        _ => Kind::Text(x),
    }
}

pub fn fill(kind: Kind, out: &mut [u8]) {
    match kind {
        Kind::Zero | Kind::Bad => out.fill(0),
        Kind::Text(x) => {
            for (i, b) in out.iter_mut().enumerate() {
                *b = b"certain consistent complete safe"[(i + x as usize) % 32];
            }
        }
        Kind::Word(x) => {
            for word in out.chunks_mut(8) {
                word.copy_from_slice(&x.to_le_bytes()[..word.len()]);
            }
        }
        Kind::Noise(x) => {
            let mut s = x | 1;
            for b in out {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                *b = s as u8;
            }
        }
    }
}

/// Memory and swap of a machine: anything that gives pages.
pub trait Machine: Sync {
    /// False: cannot be read.
    fn page(&self, device: Option<u16>, page: u64, out: &mut [u8]) -> bool;
}

/// Pages computed from a seed; swap devices have their own.
pub struct Pretended {
    pub seed: u64,
    /// Whether some pages cannot be read.
    pub bad: bool,
}

impl Pretended {
    pub fn kind(&self, device: Option<u16>, page: u64) -> Kind {
        let seed = device.map_or(self.seed, |d| self.seed + 1 + u64::from(d));
        match kind_of(seed, page) {
            Kind::Bad if !self.bad => Kind::Zero,
            kind => kind,
        }
    }
}

impl Machine for Pretended {
    fn page(&self, device: Option<u16>, page: u64, out: &mut [u8]) -> bool {
        let kind = self.kind(device, page);
        fill(kind, out);
        kind != Kind::Bad
    }
}

struct Reader<'m>(&'m dyn Machine, Option<u16>);
impl PageRead for Reader<'_> {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        for (i, page) in buf.chunks_mut(PAGE).enumerate() {
            if !self.0.page(self.1, first.0 + i as u64, page) {
                bad(i);
            }
        }
        Ok(())
    }
}

/// How a dump is to be.
pub struct Setup<'a> {
    pub machine: &'a dyn Machine,
    pub ranges: Vec<PageRange>,
    /// Length of each swap device, bytes.
    pub swap: Vec<u64>,
    pub elfcorehdr: Vec<u8>,
    pub notes: Vec<u8>,
    pub log: Vec<u8>,
    pub hostname: &'a str,
    pub encrypt: bool,
    pub level: Option<i32>,
    pub workers: usize,
    pub chunk_pages: u32,
    /// Bytes for dumps on each of the volumes.
    pub rooms: Vec<u64>,
    /// Memory in the order of its worth.
    pub layered: bool,
    /// Identical pages once.
    pub dedup: bool,
}

/// A dump's bytes and what opens it.
pub struct Taken {
    pub bytes: Vec<u8>,
    pub record: CommitRecord,
    pub identity: Option<Identities>,
}

impl Taken {
    pub fn open(&self) -> Result<OpenDump, DumpError> {
        open(self.bytes.clone(), self.identity.as_ref())
    }
}

pub fn open(bytes: Vec<u8>, identity: Option<&Identities>) -> Result<OpenDump, DumpError> {
    OpenDump::unlock(DumpFile::open(Arc::new(bytes))?, identity)
}

fn meta(setup: &Setup<'_>, header: &DumpHeader) -> Vec<u8> {
    let mut buf = vec![0; setup.elfcorehdr.len() + setup.ranges.len() * 24 + 65536];
    let mut w = MetaWriter::new(&mut buf);
    let digest = header_digest(&header.encode());
    w.record(Tag::HeaderDigest, std::iter::once(&digest[..])).unwrap();
    w.record(Tag::Elfcorehdr, std::iter::once(&setup.elfcorehdr[..])).unwrap();
    w.ranges(&setup.ranges).unwrap();
    for (index, bytes) in setup.swap.iter().enumerate() {
        let index = u16::try_from(index).unwrap();
        w.swap_device(&SwapDevice {
            index,
            page_size: 4096,
            bytes: *bytes,
            text: "path /dev/vda2\n",
        })
        .unwrap();
    }
    w.record(Tag::Hostname, std::iter::once(setup.hostname.as_bytes())).unwrap();
    let len = w.finish();
    buf.truncate(len);
    buf
}

/// Takes a dump as PID 1 does.
pub fn take(setup: &Setup<'_>) -> Taken {
    let places: Vec<Place> = setup.rooms.iter().map(|room| volume(*room)).collect();
    let readers: Vec<Window> = places.iter().map(Window::of).collect();
    let mut header = DumpHeader {
        version: FORMAT_VERSION,
        dump_id: ID,
        volume_id: [7; 16],
        number: 1,
        created: 2,
        cipher: if setup.encrypt { Cipher::Aes256Gcm } else { Cipher::None },
        chunk_pages: setup.chunk_pages,
        release: text_field("6.1.0-test"),
        reason: text_field("sysrq triggered crash"),
        image: text_field("test"),
        key_id: [0; 32],
    };
    let key = setup.encrypt.then(|| DataKey::mix(&[b"a test's key"]));
    header.key_id = key.as_ref().map(DataKey::id).unwrap_or_default();
    let (keys, identity) = key_area(key.as_ref());
    let seal = CryptSeal(Sealer::new(key.as_ref()));
    let (mut frames, _) = rig::begin(places, seal, |_, _| header, &keys);
    let method = setup.level.map_or(Method::Store, Method::Zstd);
    let (mut workers, twins) = rig::crew(setup.workers, method, setup.chunk_pages, setup.dedup);
    frames.lasting_text(ChunkKind::Log, &setup.log, workers[0].scratch()).unwrap();
    frames.lasting_text(ChunkKind::Notes, &setup.notes, workers[0].scratch()).unwrap();
    frames.lasting_text(ChunkKind::Meta, &meta(setup, &header), workers[0].scratch()).unwrap();
    let (frames, once) = (Shared::new(frames), twins.as_ref());
    let reader = |device| move || Reader(setup.machine, device);
    let capture = rig::Capture { twins: once, ..rig::Capture::plain(&frames, &Ever) };
    let mut stop = capture.memory(&mut workers, &setup.ranges, setup.layered, reader(None));
    let pages = |bytes: &u64| bytes.div_ceil(PAGE as u64);
    for (index, bytes) in setup.swap.iter().enumerate() {
        let range = [PageRange::new(0, pages(bytes))];
        let device = u16::try_from(index).unwrap();
        let what = (ChunkKind::Swap, device, Layer::Address);
        let reader = reader(Some(device));
        stop = stop.or_else(|| capture.pages(&mut workers, what, &range, &reader));
    }
    assert!(stop.as_ref().is_none_or(EngineError::can_commit), "{stop:?}");
    let mut frames = frames.into_inner().unwrap();
    frames.open_reserve();
    frames.text(ChunkKind::Trailer, b"the trailer", workers[0].scratch()).unwrap();
    let facts = CommitFacts {
        outcome: if stop.is_some() { Outcome::Full } else { Outcome::Complete },
        source: SourceKind::File,
        io: IoMode::Pwrite,
        writes: 1,
        now: 3,
        asked: (setup.ranges.iter().map(|r| r.pages()).sum(), setup.swap.iter().map(pages).sum()),
        read_errors: 0,
        phases: [(0, 0); MAX_PHASES],
    };
    let record = frames.finish(&facts).unwrap();
    let state = if stop.is_some() { SlotState::Partial } else { SlotState::Complete };
    frames.sink_mut().0.close(state).unwrap();
    let bytes = logical(&readers, &ID, record.total_len);
    Taken { bytes, record, identity }
}

/// The key area, and what opens it.
fn key_area(key: Option<&DataKey>) -> ([u8; KEY_AREA_LEN], Option<Identities>) {
    let mut keys = [0u8; KEY_AREA_LEN];
    let Some(key) = key else {
        KeyArea::encode(&mut keys, 0, &[]).unwrap();
        return (keys, None);
    };
    let new = generate_identity();
    let wrapped = wrap(key, &[&new.recipient]).unwrap();
    let fingerprints = &[fingerprint(&new.recipient)];
    let entry = KeyEntry { kind: KeyKind::Data, fingerprints, wrapped: &wrapped };
    KeyArea::encode(&mut keys, 0, &[entry]).unwrap();
    (keys, Some(Identities::parse(&new.secret).unwrap()))
}

/// A formatted volume with `room` bytes for dumps.
fn volume(room: u64) -> Place {
    let file = tempfile::tempfile().unwrap();
    let len = room + (2 << 20);
    file.set_len(len).unwrap();
    let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
    Volume::format(dev, Placement { start: 0, len }, 8, "", [7; 16], 1).unwrap();
    Place { file, base: 0, len, good_for: u64::MAX }
}

struct Window(std::fs::File, u64);
impl Window {
    fn of(place: &Place) -> Self {
        Self(place.file.try_clone().unwrap(), place.len)
    }
}

/// The bytes of a dump, put together from its parts as FORMAT.md says.
fn logical(volumes: &[Window], id: &Id, len: u64) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(len).unwrap()];
    for Window(file, len) in volumes {
        let place = Place { file: file.try_clone().unwrap(), base: 0, len: *len, good_for: 0 };
        for (_, r) in place.volume().dumps().into_iter().filter(|(_, r)| r.dump_id == *id) {
            let head = if r.part == 0 { 0 } else { PART_HEAD as u64 };
            let from = usize::try_from(r.base).unwrap();
            let take = usize::try_from(r.used_len - head).unwrap();
            file.read_exact_at(&mut out[from..from + take], r.start.0 + head).unwrap();
        }
    }
    out
}

/// One ELF note.
pub fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(u32::try_from(name.len() + 1).unwrap().to_le_bytes());
    out.extend(u32::try_from(desc.len()).unwrap().to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(name.as_bytes());
    out.resize((out.len() + 1).next_multiple_of(4), 0);
    out.extend(desc);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// An elfcorehdr: a PT_NOTE, then PT_LOADs of `(paddr, size, vaddr)`, bytes.
pub fn elfcorehdr(loads: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut out = vec![0u8; 64];
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    out[16..20].copy_from_slice(&[4, 0, 62, 0]);
    out[32] = 64;
    out[54] = 56;
    out[56..58].copy_from_slice(&u16::try_from(loads.len() + 1).unwrap().to_le_bytes());
    let mut push = |kind: u32, off: u64, vaddr: u64, paddr: u64, size: u64| {
        out.extend(kind.to_le_bytes());
        out.extend(7u32.to_le_bytes());
        for v in [off, vaddr, paddr, size, size, 0] {
            out.extend(v.to_le_bytes());
        }
    };
    push(4, 0x5000, 0, 0x5000, 0x1000);
    for (paddr, size, vaddr) in loads {
        push(1, *paddr, *vaddr, *paddr, *size);
    }
    out
}

const DIRECT: u64 = 0xffff_8880_0000_0000;
pub const TEXT: u64 = 0xffff_ffff_8100_0000;
/// Where the pretended kernel's text lies, and its pages.
pub const TEXT_AT: u64 = 0x30_0000;
pub const TEXT_LEN: u64 = 0x8_0000;

/// The loads of the pretended machine: low memory that ends within a page, RAM
/// that holds the kernel's text, RAM high up.
pub fn loads() -> Vec<(u64, u64, u64)> {
    vec![
        (TEXT_AT, TEXT_LEN, TEXT),
        (0x1000, 0x9_ec00, DIRECT + 0x1000),
        (0x10_0000, 0x220_0000, DIRECT + 0x10_0000),
        (0x1_0000_0000, 0x30_9000, DIRECT + 0x1_0000_0000),
    ]
}

/// Its ranges, in pages.
pub fn ranges() -> Vec<PageRange> {
    vec![
        PageRange::new(1, 0xa0),
        PageRange::new(0x100, 0x2300),
        PageRange::new(0x10_0000, 0x10_0309),
    ]
}

pub fn notes() -> Vec<u8> {
    let mut out = note("CORE", 1, &[7; 336]);
    out.extend(note("CORE", 1, &[8; 336]));
    out.extend(note(
        "VMCOREINFO",
        0,
        b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nNUMBER(phys_base)=-1048576\nCRASHTIME=1700000000\n",
    ));
    out
}

/// The usual dump: everything in it, some pages unreadable if `machine` says so.
pub fn standard(machine: &dyn Machine) -> Setup<'_> {
    Setup {
        machine,
        ranges: ranges(),
        swap: vec![3 << 20, (1 << 20) + 512],
        elfcorehdr: elfcorehdr(&loads()),
        notes: notes(),
        log: b"a line of the log\n".repeat(40_000),
        hostname: "db7",
        encrypt: true,
        level: Some(1),
        workers: 2,
        chunk_pages: 64,
        rooms: vec![1 << 32],
        layered: false,
        dedup: false,
    }
}
