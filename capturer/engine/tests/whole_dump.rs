//! A whole dump through the real sink and cipher into a file, read back with
//! nothing but the format crate, for sources with holes, faults and little room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    reason = "a test that fails shall panic"
)]

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_crypt::{DataKey, Opener, Sealer};
use lifeboat_engine::{
    CommitFacts, Cursor, EngineError, Frames, Job, Monitor, PageRead, ReadFault, Worker, capture,
};
use lifeboat_format::chunk::PagePayload;
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{
    BLOCK, ChunkHeader, ChunkKind, Cipher, Codec, CommitRecord, DumpHeader, IndexEntry, IndexHead,
    KeyArea, PAGE, PageClass, PageRange, Pfn,
};
use lifeboat_sink::{BlockDev, DumpWriter, FileDev, Placement, Volume};
use lifeboat_sys::{QueueMode, WriteQueue};
use proptest::prelude::*;

#[path = "../../../initramfs/init/src/join.rs"]
mod join;
use join::{CryptSeal, Disk};

/// What a page of the pretended machine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Zero,
    Text(u64),
    Noise(u64),
    Bad,
}

fn page_of(seed: u64, pfn: u64) -> Page {
    let x = (pfn ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    match x % 16 {
        0..=5 => Page::Zero,
        6 if x.is_multiple_of(5) => Page::Bad,
        6..=9 => Page::Noise(x),
        // Long zero stretches too.
        _ if (pfn / 500).is_multiple_of(3) => Page::Zero,
        _ => Page::Text(x),
    }
}

fn fill(page: Page, out: &mut [u8]) {
    match page {
        Page::Zero | Page::Bad => out.fill(0),
        Page::Text(x) => {
            for (i, b) in out.iter_mut().enumerate() {
                *b = b"certain consistent complete safe"[(i + x as usize) % 32];
            }
        }
        Page::Noise(x) => {
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

struct Machine {
    seed: u64,
    dies_at: Option<u64>,
}

impl PageRead for Machine {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        for (i, page) in buf.chunks_mut(PAGE).enumerate() {
            let pfn = first.0 + i as u64;
            if self.dies_at.is_some_and(|d| pfn >= d) {
                return Err(ReadFault(io::Error::from_raw_os_error(5)));
            }
            let kind = page_of(self.seed, pfn);
            if kind == Page::Bad {
                bad(i);
            }
            fill(kind, page);
        }
        Ok(())
    }
}

struct Ticks(AtomicU64);
impl Monitor for Ticks {
    fn tick(&self, pages: u64) -> bool {
        self.0.fetch_sub(pages.min(self.0.load(Ordering::Relaxed)), Ordering::Relaxed) > pages
    }
}

struct Setup {
    seed: u64,
    volume_len: u64,
    ranges: Vec<PageRange>,
    workers: usize,
    level: Option<i32>,
    chunk_pages: u32,
    ticks: u64,
    dies_at: Option<u64>,
    mode: QueueMode,
    encrypt: bool,
}

struct Taken {
    bytes: Vec<u8>,
    record: CommitRecord,
    key: Option<DataKey>,
    stop: Option<String>,
}

fn take(setup: &Setup) -> Taken {
    let file = tempfile::tempfile().unwrap();
    file.set_len(setup.volume_len).unwrap();
    let at = Placement { start: 0, len: setup.volume_len };
    let dev = FileDev::new(file.try_clone().unwrap(), 0, setup.volume_len);
    let mut volume = Volume::format(dev, at, 8, "test", [7; 16], 1).unwrap();
    volume.guard().unwrap();
    let plan = volume.plan().unwrap();
    volume.begin(&plan, [9; 16], 2).unwrap();
    let header = DumpHeader {
        dump_id: [9; 16],
        volume_id: [7; 16],
        number: plan.number,
        created: 2,
        cipher: if setup.encrypt { Cipher::Aes256Gcm } else { Cipher::None },
        chunk_pages: setup.chunk_pages,
        release: lifeboat_format::text_field("6.1.0-test"),
        reason: lifeboat_format::text_field("sysrq"),
        image: lifeboat_format::text_field("test"),
    };
    let mut keys = [0u8; KEY_AREA_LEN];
    KeyArea::encode(&mut keys, 0, &[[1; 8]], b"wrapped").unwrap();
    let key = setup.encrypt.then(|| DataKey::mix(&[&setup.seed.to_le_bytes()]));
    let queue = WriteQueue::new(file, setup.mode, 4, 64 << 10);
    let disk = Disk(DumpWriter::new(queue, plan.start.0, plan.len));
    let mut frames = Frames::new(disk, CryptSeal(Sealer::new(key.as_ref())), &header, &keys);
    frames.begin().unwrap();
    let mut workers: Vec<Worker> =
        (0..setup.workers).map(|_| Worker::new(setup.level, setup.chunk_pages).unwrap()).collect();
    frames
        .text(ChunkKind::Log, &b"a line of the log\n".repeat(40_000), workers[0].scratch())
        .unwrap();
    frames.checkpoint().unwrap();
    head_is_durable(&volume, plan.start.0, frames.position().0);
    let frames = Mutex::new(frames);
    let cursor = Cursor::new(&setup.ranges);
    let ticks = Ticks(AtomicU64::new(setup.ticks));
    let job = Job {
        kind: ChunkKind::Memory,
        device: 0,
        name: "memory",
        cursor: &cursor,
        monitor: &ticks,
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = workers
            .iter_mut()
            .map(|w| {
                let (job, frames) = (&job, &frames);
                scope.spawn(move || {
                    let mut m = Machine { seed: setup.seed, dies_at: setup.dies_at };
                    capture(w, job, &mut m, frames)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    let stop = results.into_iter().find_map(Result::err);
    assert!(stop.as_ref().is_none_or(EngineError::can_commit), "{stop:?}");
    let outcome = match &stop {
        None => Outcome::Complete,
        Some(EngineError::Full) => Outcome::Full,
        Some(EngineError::Stopped) => Outcome::Deadline,
        Some(_) => Outcome::SourceFailed,
    };
    let mut frames = frames.into_inner().unwrap();
    frames.open_reserve();
    frames.text(ChunkKind::Trailer, b"the trailer", workers[0].scratch()).unwrap();
    let facts = CommitFacts {
        outcome,
        source: SourceKind::File,
        io: IoMode::Uring,
        writes: 1,
        now: 3,
        asked: (cursor.total(), 0),
        read_errors: 0,
        phases: [(0, 0); MAX_PHASES],
    };
    let record = frames.finish(&facts).unwrap();
    let mut bytes = vec![0; usize::try_from(record.total_len).unwrap()];
    volume.dev().read_at(plan.start.0, &mut bytes).unwrap();
    Taken { bytes, record, key, stop: stop.map(|e| e.to_string()) }
}

/// After a checkpoint header and log are on the medium, whole, with zeros behind.
fn head_is_durable(volume: &Volume<FileDev>, start: u64, len: u64) {
    let mut bytes = vec![0xff; len.next_multiple_of(BLOCK as u64) as usize];
    volume.dev().read_at(start, &mut bytes).unwrap();
    DumpHeader::decode(bytes[..BLOCK].try_into().unwrap()).unwrap();
    let mut at = 4 * BLOCK;
    while at < len as usize {
        at += ChunkHeader::decode(&bytes[at..]).unwrap().frame_len() as usize;
    }
    assert_eq!(at as u64, len);
    assert!(bytes[at..].iter().all(|b| *b == 0));
}

type Pages = BTreeMap<u64, (PageClass, Vec<u8>)>;
type Texts = BTreeMap<ChunkKind, Vec<u8>>;

/// Reads a dump with the format crate alone: pages by pfn, and text by kind.
fn read_back(taken: &Taken) -> (Pages, Texts) {
    let bytes = &taken.bytes;
    let header = DumpHeader::decode(bytes[..BLOCK].try_into().unwrap()).unwrap();
    let copy = usize::try_from(taken.record.header_copy.0).unwrap();
    assert_eq!(bytes[..4 * BLOCK], bytes[copy..copy + 4 * BLOCK], "the header is there twice");
    let last = bytes[bytes.len() - BLOCK..].try_into().unwrap();
    assert_eq!(CommitRecord::decode(last).unwrap(), taken.record);
    let opener = Opener::new(header.cipher, taken.key.as_ref()).unwrap();
    opener.check_commit(&taken.record).unwrap();
    let (mut pages, mut texts) = (BTreeMap::new(), BTreeMap::<ChunkKind, Vec<u8>>::new());
    let (mut at, mut seq) = (4 * BLOCK, 0);
    let mut seen = Vec::new();
    while at < copy && bytes[at..at + 8] == lifeboat_format::chunk::MAGIC {
        let chunk = ChunkHeader::decode(&bytes[at..]).unwrap();
        assert_eq!((chunk.seq, chunk.offset.0), (seq, at as u64));
        let mut stored = bytes[at + 96..at + 96 + chunk.stored_len as usize].to_vec();
        assert_eq!(lifeboat_format::crc32(&stored), chunk.payload_crc);
        opener.open(&chunk, &mut stored).unwrap();
        let plain = match chunk.codec {
            Codec::Store => stored,
            Codec::Zstd => zstd::bulk::decompress(&stored, chunk.raw_len as usize).unwrap(),
            Codec::Lz4 => unreachable!("never written"),
        };
        assert_eq!(plain.len(), chunk.raw_len as usize);
        if chunk.kind.is_pages() {
            let payload = PagePayload::parse(&plain, &chunk).unwrap();
            let (mut pfn, mut data) = (chunk.first.0, payload.data().chunks(PAGE));
            for run in payload.runs() {
                for _ in 0..run.count {
                    let content = match run.class {
                        PageClass::Data => data.next().unwrap().to_vec(),
                        _ => Vec::new(),
                    };
                    assert!(pages.insert(pfn, (run.class, content)).is_none(), "page twice");
                    pfn += 1;
                }
            }
        } else {
            texts.entry(chunk.kind).or_default().extend_from_slice(&plain);
        }
        if chunk.kind != ChunkKind::Index {
            seen.push(IndexEntry::of(&chunk));
        }
        at += usize::try_from(chunk.frame_len()).unwrap();
        seq += 1;
    }
    assert_eq!(seq, taken.record.chunks);
    // The chain of index chunks lists every chunk, newest part first.
    let (mut at, mut listed) = (taken.record.index.0, Vec::new());
    while at != 0 {
        let off = usize::try_from(at).unwrap();
        let chunk = ChunkHeader::decode(&bytes[off..]).unwrap();
        let mut stored = bytes[off + 96..off + 96 + chunk.stored_len as usize].to_vec();
        opener.open(&chunk, &mut stored).unwrap();
        let (head, entries) = IndexHead::decode(&stored).unwrap();
        let part: Vec<_> = entries.iter().map(|e| IndexEntry::decode(e).unwrap()).collect();
        listed.splice(0..0, part);
        at = head.prev.0;
    }
    assert_eq!(listed, seen);
    (pages, texts)
}

fn check_pages(setup: &Setup, pages: &BTreeMap<u64, (PageClass, Vec<u8>)>) {
    let mut want = vec![0u8; PAGE];
    for (pfn, (class, content)) in pages {
        let kind = page_of(setup.seed, *pfn);
        fill(kind, &mut want);
        match class {
            PageClass::Data => assert_eq!(*content, want, "pfn {pfn}"),
            PageClass::Zero => assert_eq!(kind, Page::Zero, "pfn {pfn}"),
            PageClass::Unreadable => assert_eq!(kind, Page::Bad, "pfn {pfn}"),
            PageClass::Excluded => panic!("nothing was to be excluded"),
        }
    }
}

fn standard(seed: u64) -> Setup {
    Setup {
        seed,
        volume_len: 64 << 20,
        ranges: vec![
            PageRange::new(256, 9000),
            PageRange::new(20_000, 20_001),
            PageRange::new(1 << 20, (1 << 20) + 777),
        ],
        workers: 2,
        level: Some(1),
        chunk_pages: 64,
        ticks: u64::MAX,
        dies_at: None,
        mode: QueueMode::Uring,
        encrypt: true,
    }
}

#[test]
fn every_page_comes_back() {
    for (level, mode, encrypt) in [
        (Some(1), QueueMode::Uring, true),
        (None, QueueMode::Pwrite, true),
        (Some(3), QueueMode::Pwrite, false),
    ] {
        let setup = Setup { level, mode, encrypt, ..standard(42) };
        let taken = take(&setup);
        assert_eq!(taken.stop, None);
        let (pages, texts) = read_back(&taken);
        let want: u64 = setup.ranges.iter().map(|r| r.pages()).sum();
        assert_eq!(pages.len() as u64, want);
        assert_eq!(taken.record.memory.seen(), want);
        assert_eq!(taken.record.outcome, Outcome::Complete);
        check_pages(&setup, &pages);
        assert_eq!(texts[&ChunkKind::Log], b"a line of the log\n".repeat(40_000));
        assert_eq!(texts[&ChunkKind::Trailer], b"the trailer");
    }
}

#[test]
fn a_full_partition_ends_in_a_valid_partial_dump() {
    let setup = Setup {
        volume_len: 16 << 20,
        ranges: vec![PageRange::new(0, 40_000)],
        level: None,
        ..standard(1)
    };
    let taken = take(&setup);
    assert_eq!(taken.stop.as_deref(), Some("the dump partition is full"));
    let (pages, texts) = read_back(&taken);
    assert!(pages.len() > 1000 && pages.len() < 40_000);
    check_pages(&setup, &pages);
    assert_eq!(texts[&ChunkKind::Trailer], b"the trailer");
}

#[test]
fn a_deadline_ends_in_a_valid_partial_dump() {
    let setup = Setup { ticks: 3000, ..standard(2) };
    let taken = take(&setup);
    assert_eq!(taken.record.outcome, Outcome::Deadline);
    let (pages, _) = read_back(&taken);
    assert!(!pages.is_empty() && pages.len() < 9000);
    check_pages(&setup, &pages);
}

#[test]
fn a_source_that_dies_leaves_what_was_read() {
    let setup = Setup { dies_at: Some(5000), workers: 1, ..standard(3) };
    let taken = take(&setup);
    assert_eq!(taken.record.outcome, Outcome::SourceFailed);
    let (pages, _) = read_back(&taken);
    assert!(pages.keys().all(|p| *p < 5000) && pages.len() > 4600);
    check_pages(&setup, &pages);
}

#[test]
fn zero_pages_cost_next_to_nothing() {
    struct Nothing;
    impl PageRead for Nothing {
        fn read(
            &mut self,
            _: Pfn,
            buf: &mut [u8],
            _: &mut dyn FnMut(usize),
        ) -> Result<(), ReadFault> {
            buf.fill(0);
            Ok(())
        }
    }
    let ranges = [PageRange::new(0, 1 << 18)];
    let file = tempfile::tempfile().unwrap();
    let queue = WriteQueue::new(file, QueueMode::Pwrite, 2, 64 << 10);
    let header = DumpHeader {
        dump_id: [1; 16],
        volume_id: [0; 16],
        number: 1,
        created: 0,
        cipher: Cipher::Aes256Gcm,
        chunk_pages: 64,
        release: [0; 72],
        reason: [0; 160],
        image: [0; 64],
    };
    let key = DataKey::mix(&[b"k"]);
    let mut frames = Frames::new(
        Disk(DumpWriter::new(queue, 0, 1 << 30)),
        CryptSeal(Sealer::new(Some(&key))),
        &header,
        &[0; KEY_AREA_LEN],
    );
    frames.begin().unwrap();
    let frames = Mutex::new(frames);
    let cursor = Cursor::new(&ranges);
    let ticks = Ticks(AtomicU64::new(u64::MAX));
    let job = Job {
        kind: ChunkKind::Memory,
        device: 0,
        name: "memory",
        cursor: &cursor,
        monitor: &ticks,
    };
    capture(&mut Worker::new(Some(1), 64).unwrap(), &job, &mut Nothing, &frames).unwrap();
    let (memory, _) = frames.lock().unwrap().counts();
    assert_eq!((memory.zero, memory.data), (1 << 18, 0));
    assert!(memory.stored_bytes <= 32 * 512, "1 GiB of zeros took {} bytes", memory.stored_bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_shape_comes_back(
        seed in any::<u64>(),
        cuts in proptest::collection::vec(1u64..3000, 2..10),
        workers in 1usize..4,
        chunk_pages in 1u32..200,
        level in proptest::option::of(-3i32..3),
    ) {
        let mut at = 0;
        let mut ranges = Vec::new();
        for pair in cuts.chunks_exact(2) {
            ranges.push(PageRange::new(at + pair[0], at + pair[0] + pair[1]));
            at += pair[0] + pair[1];
        }
        let setup = Setup { ranges, workers, chunk_pages, level, ..standard(seed) };
        let taken = take(&setup);
        prop_assert_eq!(&taken.stop, &None);
        let (pages, _) = read_back(&taken);
        let want: u64 = setup.ranges.iter().map(|r| r.pages()).sum();
        prop_assert_eq!(pages.len() as u64, want);
        check_pages(&setup, &pages);
    }
}
