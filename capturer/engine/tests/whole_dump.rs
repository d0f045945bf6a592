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

mod whole;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use lifeboat_crypt::{DataKey, Opener, Sealer};
use lifeboat_engine::{
    CommitFacts, Cursor, EngineError, Fingerprint, Frames, Input, Job, Method, PageRead, PlaceRead,
    ReadFault, Shared, Tuner, Twins, Worker, capture,
};
use lifeboat_format::bootcfg::Ladder;
use lifeboat_format::chunk::PagePayload;
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{
    BLOCK, ChunkHeader, ChunkKind, Codec, CommitRecord, DumpHeader, IndexEntry, IndexHead, KeyArea,
    KeyEntry, KeyKind, Layer, PAGE, PageClass, PageRange, Pfn,
};
use lifeboat_sink::{BlockDev, FileDev};
use lifeboat_sys::QueueMode;
use proptest::prelude::*;

use join::{CryptSeal, Disk};
use lifeboat_join as join;

use whole::*;

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
    layers: bool,
    /// Choose among all methods instead of `level`.
    adapt: bool,
    dedup: bool,
}

impl Setup {
    fn ladder(&self) -> Ladder {
        match self.level {
            _ if self.adapt => Ladder::default(),
            Some(level) => Ladder::new(&[Method::Zstd(level)]).unwrap(),
            None => Ladder::new(&[Method::Store]).unwrap(),
        }
    }
}

struct Prints;
impl Fingerprint for Prints {
    fn print(&mut self, page: &[u8]) -> u128 {
        // A test can look at all of the page.
        let hash = |seed: u64| {
            page.iter().fold(seed, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
        };
        (u128::from(hash(7)) << 64) | u128::from(hash(9))
    }
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
    let key = setup.encrypt.then(|| DataKey::mix(&[&setup.seed.to_le_bytes()]));
    let (disk, header, keys) = disk(&file, setup.volume_len, setup.mode, |number| {
        let mut keys = [0u8; KEY_AREA_LEN];
        let entry = KeyEntry { kind: KeyKind::Data, fingerprints: &[[1; 8]], wrapped: b"wrapped" };
        KeyArea::encode(&mut keys, 0, &[entry]).unwrap();
        (dump_header(key.as_ref(), number, setup.chunk_pages), keys)
    });
    let dev = FileDev::new(file, 0, setup.volume_len);
    let start = 1 << 20;
    let mut frames = Frames::new(disk, CryptSeal(Sealer::new(key.as_ref())), &header, &keys);
    frames.begin().unwrap();
    let mut workers: Vec<Worker> = (0..setup.workers).map(|_| crew(setup)).collect();
    frames
        .text(ChunkKind::Log, &b"a line of the log\n".repeat(40_000), workers[0].scratch())
        .unwrap();
    frames.checkpoint().unwrap();
    head_is_durable(&dev, start, frames.position().0);
    let frames = Shared::new(frames);
    let ticks = Ticks(AtomicU64::new(setup.ticks));
    let tuner = Tuner::new(setup.ladder().methods());
    let twins = Twins::new(256 << 10).filter(|_| setup.dedup);
    let layers = if setup.layers { &Layer::BY_WORTH[..] } else { &[Layer::Address] };
    let mut stop = None;
    for layer in layers {
        if stop.is_none() {
            stop =
                run_layer(setup, *layer, &mut workers, &frames, (&ticks, &tuner, twins.as_ref()));
        }
    }
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
        asked: (Cursor::new(&setup.ranges).total(), 0),
        read_errors: 0,
        phases: [(0, 0); MAX_PHASES],
    };
    let record = frames.finish(&facts).unwrap();
    let mut bytes = vec![0; usize::try_from(record.total_len).unwrap()];
    dev.read_at(start, &mut bytes).unwrap();
    Taken { bytes, record, key, stop: stop.map(|e| e.to_string()) }
}

fn run_layer(
    setup: &Setup,
    layer: Layer,
    workers: &mut [Worker],
    frames: &Shared<Disk<FileDev, Target>, CryptSeal>,
    (ticks, tuner, twins): (&Ticks, &Tuner, Option<&Twins>),
) -> Option<EngineError> {
    let cursor = Cursor::new(&setup.ranges);
    let (kind, name) = (ChunkKind::Memory, "memory");
    let job = Job {
        kind,
        device: 0,
        layer,
        tells_out: false,
        name,
        cursor: &cursor,
        monitor: ticks,
        tuner,
        twins,
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = workers
            .iter_mut()
            .map(|w| {
                let job = &job;
                scope.spawn(move || {
                    let mut m = Machine { seed: setup.seed, dies_at: setup.dies_at };
                    let mut sorted = Sorted(setup.seed);
                    let places = setup.layers.then_some(&mut sorted as &mut dyn PlaceRead);
                    capture(w, job, &mut Input { pages: &mut m, places }, frames)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    results.into_iter().find_map(Result::err)
}

/// After a checkpoint header and log are on the medium, whole, with zeros behind.
fn head_is_durable(dev: &FileDev, start: u64, len: u64) {
    let mut bytes = vec![0xff; len.next_multiple_of(BLOCK as u64) as usize];
    dev.read_at(start, &mut bytes).unwrap();
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
            Codec::Lz4 => lz4_flex::block::decompress(&stored, chunk.raw_len as usize).unwrap(),
        };
        assert_eq!(plain.len(), chunk.raw_len as usize);
        if chunk.kind.is_pages() {
            let payload = PagePayload::parse(&plain, &chunk).unwrap();
            let (mut pfn, mut data) = (chunk.first.0, payload.data().chunks(PAGE));
            for run in payload.runs() {
                for n in 0..run.count {
                    if run.class == PageClass::Elsewhere {
                        pfn += 1;
                        continue;
                    }
                    let content = match run.class {
                        PageClass::Data => data.next().unwrap().to_vec(),
                        _ => Vec::new(),
                    };
                    let class = run.class.ahead(n);
                    assert!(pages.insert(pfn, (class, content)).is_none(), "page twice");
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
    let asked: u64 = setup.ranges.iter().map(|r| r.pages()).sum();
    let whole = pages.len() as u64 == asked;
    let mut want = vec![0u8; PAGE];
    for (pfn, (class, content)) in pages {
        let kind = page_of(setup.seed, *pfn);
        fill(kind, &mut want);
        match class {
            PageClass::Data => assert_eq!(*content, want, "pfn {pfn}"),
            PageClass::Zero => assert_eq!(kind, Page::Zero, "pfn {pfn}"),
            PageClass::Unreadable => assert_eq!(kind, Page::Bad, "pfn {pfn}"),
            PageClass::Fill(word) => {
                assert!(want.as_chunks().0.iter().all(|w| *w == word.to_le_bytes()), "pfn {pfn}");
            }
            PageClass::Same(source) => {
                // Of a dump that was cut short the source may be missing, never false.
                let found = pages.get(&source.0).filter(|_| *source != Pfn(*pfn));
                if let Some((class, content)) = found {
                    assert_eq!((*class, content), (PageClass::Data, &want), "pfn {pfn}");
                } else {
                    assert!(!whole, "pfn {pfn}: its source {source:?} is not there");
                }
            }
            PageClass::Excluded | PageClass::Elsewhere => panic!("nothing was to be left out"),
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
        layers: false,
        adapt: false,
        dedup: false,
    }
}

fn crew(setup: &Setup) -> Worker {
    let mut worker = join::worker(&setup.ladder(), setup.chunk_pages).unwrap();
    if setup.dedup {
        worker.look_for_twins(Box::new(Prints));
    }
    worker
}

/// Pages of one text come many times, on both sides of a layer's border too: each is
/// stored once, as far as the table reaches, and names a page that is stored.
#[test]
fn identical_pages_are_stored_once() {
    for layers in [false, true] {
        let plain = take(&Setup { layers, workers: 1, ..standard(8) });
        for workers in [1, 3] {
            let setup = Setup { layers, dedup: true, workers, ..standard(8) };
            let taken = take(&setup);
            let (pages, _) = read_back(&taken);
            check_pages(&setup, &pages);
            let (old, new) = (plain.record.memory, taken.record.memory);
            assert_eq!(old.data, new.data + new.same);
            assert_eq!((old.zero, old.fill), (new.zero, new.fill));
            let texts = pages.iter().filter(|(p, (class, _))| {
                *class == PageClass::Data && matches!(page_of(8, **p), Page::Text(_))
            });
            assert_eq!(texts.count(), 12, "there are 12 texts");
            assert!(new.fill > 100 && new.same > 1000, "{new:?}");
        }
    }
}

/// Pages without data between those with some do not end a chunk early.
#[test]
fn chunks_are_filled() {
    let setup = Setup { workers: 1, ..standard(5) };
    let taken = take(&setup);
    // 64 pages less 7; one chunk that is cut short for each range; texts and the index.
    let most = taken.record.memory.data.div_ceil(57) + setup.ranges.len() as u64 + 8;
    assert!(taken.record.chunks <= most, "{} chunks, {most} suffice", taken.record.chunks);
}

/// What is chosen by the machine's speed is read back whatever was chosen.
#[test]
fn a_ladder_of_methods_comes_back() {
    let setup = Setup { adapt: true, ..standard(9) };
    let taken = take(&setup);
    let (pages, _) = read_back(&taken);
    check_pages(&setup, &pages);
    assert_eq!(taken.record.memory.seen(), pages.len() as u64);
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

/// Layer by layer every page is there once, and what comes first is what is worth most:
/// when room or time ends, no page of a lower layer was taken before one of a higher.
#[test]
fn layers_come_in_the_order_of_their_worth() {
    let setup = Setup { layers: true, ..standard(6) };
    let taken = take(&setup);
    let (pages, _) = read_back(&taken);
    let want: u64 = setup.ranges.iter().map(|r| r.pages()).sum();
    assert_eq!((pages.len() as u64, taken.record.memory.seen()), (want, want));
    check_pages(&setup, &pages);
    let full = Setup {
        layers: true,
        volume_len: 16 << 20,
        ranges: vec![PageRange::new(0, 12_000)],
        level: None,
        ..standard(6)
    };
    let late = Setup { ticks: 15_000, ..full_copy(&setup) };
    for setup in [full, late] {
        let taken = take(&setup);
        assert!(taken.stop.is_some());
        let (pages, _) = read_back(&taken);
        check_pages(&setup, &pages);
        let all = setup.ranges.iter().flat_map(|r| r.start.0..r.end.0);
        let missing = all.filter(|p| !pages.contains_key(p)).map(|p| layer_of(setup.seed, p));
        let first_missing = missing.min().unwrap();
        let last_taken = pages.keys().map(|p| layer_of(setup.seed, *p)).max().unwrap();
        assert!(last_taken <= first_missing, "{last_taken:?} before {first_missing:?}");
        assert!(last_taken > Layer::Kernel, "the test shall cut in a later layer");
    }
}

fn full_copy(setup: &Setup) -> Setup {
    Setup { ranges: setup.ranges.clone(), ..*setup }
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
    file.set_len(64 << 20).unwrap();
    let key = DataKey::mix(&[b"k"]);
    let (disk, header, keys) = disk(&file, 64 << 20, QueueMode::Pwrite, |number| {
        (dump_header(Some(&key), number, 64), [0; KEY_AREA_LEN])
    });
    let mut frames = Frames::new(disk, CryptSeal(Sealer::new(Some(&key))), &header, &keys);
    frames.begin().unwrap();
    let frames = Shared::new(frames);
    let cursor = Cursor::new(&ranges);
    let ticks = Ticks(AtomicU64::new(u64::MAX));
    let job = Job {
        kind: ChunkKind::Memory,
        device: 0,
        layer: Layer::Address,
        tells_out: false,
        name: "memory",
        cursor: &cursor,
        monitor: &ticks,
        tuner: &Tuner::new(&[Method::Zstd(1)]),
        twins: None,
    };
    let mut input = Input { pages: &mut Nothing, places: None };
    capture(&mut worker(Some(1), 64), &job, &mut input, &frames).unwrap();
    let (memory, _) = frames.with(|f| f.counts()).unwrap();
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
        layers in any::<bool>(),
        adapt in any::<bool>(),
        dedup in any::<bool>(),
    ) {
        let mut at = 0;
        let mut ranges = Vec::new();
        for pair in cuts.chunks_exact(2) {
            ranges.push(PageRange::new(at + pair[0], at + pair[0] + pair[1]));
            at += pair[0] + pair[1];
        }
        let more = Setup { adapt, dedup, ..standard(seed) };
        let setup = Setup { ranges, workers, chunk_pages, level, layers, ..more };
        let taken = take(&setup);
        prop_assert_eq!(&taken.stop, &None);
        let (pages, _) = read_back(&taken);
        let want: u64 = setup.ranges.iter().map(|r| r.pages()).sum();
        prop_assert_eq!(pages.len() as u64, want);
        check_pages(&setup, &pages);
    }
}
