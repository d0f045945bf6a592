//! FORMAT.md's offsets against the structures, and hostile bytes against the readers.
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

use lifeboat_format::bootcfg::{
    Action, BootConfig, Led, MemorySource, Selector, SwapPlan, Watchdog,
};
use lifeboat_format::chunk::{self, PagePayload};
use lifeboat_format::commit::{AAD_LEN, IoMode, Outcome, PageCounts, SourceKind};
use lifeboat_format::header::{KEY_AREA_LEN, MAX_WRAPPED};
use lifeboat_format::meta::{MetaReader, MetaWriter, Record, SwapDevice, Tag};
use lifeboat_format::*;
use proptest::prelude::*;

fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}
fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

fn superblock() -> Superblock {
    Superblock {
        volume_id: [3; 16],
        part_start: ByteOff(1 << 21),
        part_len: 64 << 20,
        max_dumps: 5,
        created: 77,
        label: text_field("rack 7"),
    }
}

#[test]
fn superblock_lies_as_documented() {
    let b = superblock().encode();
    assert_eq!(&b[..8], b"LIFEBOAT");
    assert_eq!((le32(&b, 8), le32(&b, 12)), (1, 4096));
    assert_eq!((le64(&b, 32), le64(&b, 40)), (1 << 21, 64 << 20));
    assert_eq!((le64(&b, 48), le64(&b, 56)), (1 << 20, 63 << 20));
    assert_eq!((le32(&b, 64), le32(&b, 68), le64(&b, 72)), (5, 64, 77));
    assert_eq!(&b[80..86], b"rack 7");
    assert_eq!(le32(&b, 4092), crc32(&b[..4092]));
    assert_eq!(Superblock::decode(&b).unwrap(), superblock());
}

#[test]
fn every_flipped_bit_of_a_block_is_found() {
    let sb = superblock().encode();
    let record = commit().encode();
    let header = header().encode();
    for bit in 0..BLOCK * 8 {
        let flip = |block: &[u8; BLOCK]| {
            let mut b = *block;
            b[bit / 8] ^= 1 << (bit % 8);
            b
        };
        assert!(Superblock::decode(&flip(&sb)).is_err(), "superblock bit {bit}");
        assert!(CommitRecord::decode(&flip(&record)).is_err(), "commit bit {bit}");
        assert!(DumpHeader::decode(&flip(&header)).is_err(), "header bit {bit}");
    }
}

/// A block of a later version, sound in itself, is refused by that name.
#[test]
fn another_version_is_refused_by_name() {
    let later = |mut b: [u8; BLOCK]| {
        b[8..12].copy_from_slice(&2u32.to_le_bytes());
        let crc = crc32(&b[..4092]);
        b[4092..].copy_from_slice(&crc.to_le_bytes());
        b
    };
    let found = |e: FormatError| matches!(e, FormatError::Version { found: 2, .. });
    assert!(found(Superblock::decode(&later(superblock().encode())).unwrap_err()));
    assert!(found(DumpHeader::decode(&later(header().encode())).unwrap_err()));
    assert!(found(CommitRecord::decode(&later(commit().encode())).unwrap_err()));
    let slot = SlotRecord::decode(&later(slot().encode()), &[3; 16], 63 << 20);
    assert!(found(slot.unwrap_err()));
}

fn slot() -> SlotRecord {
    SlotRecord {
        volume_id: [3; 16],
        dump_id: [4; 16],
        generation: 9,
        number: 2,
        state: SlotState::Complete,
        pulled: true,
        start: ByteOff(1 << 20),
        reserved_len: 60 << 20,
        used_len: 8192,
        created: 5,
    }
}

#[test]
fn slots_lie_as_documented_and_the_newest_copy_holds() {
    let b = slot().encode();
    assert_eq!((&b[..8], b[12], b[13]), (&b"LBSLOT\0\x01"[..], 2, 1));
    assert_eq!((le64(&b, 48), le64(&b, 56), le64(&b, 64)), (9, 2, 1 << 20));
    assert_eq!((le64(&b, 72), le64(&b, 80), le64(&b, 88)), (60 << 20, 8192, 5));
    assert_eq!(SlotRecord::offset(3, 1), ByteOff((128 << 10) + 7 * 4096));
    let end = 63 << 20;
    let older = SlotRecord { generation: 8, state: SlotState::Capturing, used_len: 0, ..slot() };
    let torn = [0xffu8; BLOCK];
    let newest = |a: &[u8; BLOCK], c: &[u8; BLOCK]| SlotRecord::newest([a, c], &[3; 16], end);
    assert_eq!(newest(&older.encode(), &b), Ok(Some(slot())));
    assert_eq!(newest(&b, &older.encode()), Ok(Some(slot())));
    assert_eq!(newest(&older.encode(), &torn), Ok(Some(older)));
    assert_eq!(newest(&[0; BLOCK], &[0; BLOCK]), Ok(None));
    assert!(newest(&torn, &torn).is_err());
    assert!(SlotRecord::newest([&b, &b], &[8; 16], end).is_err(), "another volume's");
    assert!(SlotRecord::decode(&b, &[3; 16], 2 << 20).is_err(), "behind the end");
}

fn header() -> DumpHeader {
    DumpHeader {
        dump_id: [1; 16],
        volume_id: [2; 16],
        number: 3,
        created: 4,
        cipher: Cipher::Aes256Gcm,
        chunk_pages: 64,
        release: text_field("6.1.0-56-cloud-amd64"),
        reason: text_field("Kernel panic"),
        image: text_field("0.1"),
    }
}

#[test]
fn header_and_keys_lie_as_documented() {
    let b = header().encode();
    assert_eq!(&b[..8], b"LBDUMP\0\x01");
    assert_eq!((le32(&b, 12), le64(&b, 48), le64(&b, 56), b[64]), (16384, 3, 4, 1));
    assert_eq!((le32(&b, 68), le32(&b, 72)), (4096, 64));
    assert_eq!(
        (&b[80..85], &b[152..158], &b[312..315]),
        (&b"6.1.0"[..], &b"Kernel"[..], &b"0.1"[..])
    );
    assert_eq!(DumpHeader::decode(&b).unwrap(), header());
    let mut keys = [0; KEY_AREA_LEN];
    KeyArea::encode(&mut keys, 1, &[[5; 8], [6; 8]], b"age file").unwrap();
    assert_eq!((&keys[..8], le64(&keys, 8)), (&b"LBKEYS\0\x01"[..], 1));
    assert_eq!((le32(&keys, 16), le32(&keys, 20)), (2, 8));
    assert_eq!((&keys[32..40], &keys[288..296]), (&[5u8; 8][..], &b"age file"[..]));
    assert_eq!(le32(&keys, 12284), crc32(&keys[..12284]));
    let area = KeyArea::decode(&keys).unwrap();
    assert_eq!((area.fingerprints(), area.wrapped), (&[[5u8; 8], [6; 8]][..], &b"age file"[..]));
    assert!(KeyArea::encode(&mut keys, 0, &[], &vec![0; MAX_WRAPPED]).is_ok());
    assert!(KeyArea::encode(&mut keys, 0, &[], &vec![0; MAX_WRAPPED + 1]).is_err());
}

fn chunk_header() -> ChunkHeader {
    ChunkHeader {
        dump_id: [1; 16],
        seq: 5,
        kind: ChunkKind::Memory,
        codec: Codec::Zstd,
        cipher: Cipher::Aes256Gcm,
        device: 0,
        first: Pfn(0x100),
        pages: 3,
        raw_len: 8204,
        stored_len: 600,
        offset: ByteOff(16384),
        data_pages: 2,
        missing_pages: 1,
        payload_crc: 0xdead_beef,
    }
}

#[test]
fn chunk_header_lies_as_documented() {
    let b = chunk_header().encode();
    assert_eq!((&b[..8], le64(&b, 24)), (&b"LBCHUNK\x01"[..], 5));
    assert_eq!(&b[32..36], &[4, 1, 1, 0]);
    assert_eq!((le64(&b, 40), le64(&b, 48), le32(&b, 56), le32(&b, 60)), (0x100, 3, 8204, 600));
    assert_eq!((le64(&b, 64), le32(&b, 72), le32(&b, 76)), (16384, 2, 1));
    assert_eq!((le32(&b, 80), le32(&b, 92)), (0xdead_beef, crc32(&b[..92])));
    assert_eq!(chunk_header().aad(), b[..80]);
    assert_eq!(ChunkHeader::decode(&b).unwrap(), chunk_header());
    assert_eq!(chunk_header().frame_len(), 1024);
    for bit in 0..96 * 8 {
        let mut f = b;
        f[bit / 8] ^= 1 << (bit % 8);
        assert!(ChunkHeader::decode(&f).is_err(), "bit {bit}");
    }
}

#[test]
fn page_payload_must_add_up() {
    let run = |class, count| Run { class, count }.encode();
    let mut plain = 2u32.to_le_bytes().to_vec();
    plain.extend(run(PageClass::Data, 2));
    plain.extend(run(PageClass::Unreadable, 1));
    plain.extend([7u8; 8192]);
    let payload = PagePayload::parse(&plain, &chunk_header()).unwrap();
    assert_eq!(payload.runs().count(), 2);
    assert_eq!(payload.data().len(), 8192);
    let wrong = |h: ChunkHeader| PagePayload::parse(&plain, &h).is_err();
    assert!(wrong(ChunkHeader { pages: 4, ..chunk_header() }));
    assert!(wrong(ChunkHeader { data_pages: 1, ..chunk_header() }));
    assert!(PagePayload::parse(&plain[..plain.len() - 1], &chunk_header()).is_err());
    let mut huge = 2u32.to_le_bytes().to_vec();
    huge.extend(run(PageClass::Data, (1 << 56) - 1));
    huge.extend(run(PageClass::Zero, (1 << 56) - 1));
    assert!(PagePayload::parse(&huge, &chunk_header()).is_err());
}

fn commit() -> CommitRecord {
    CommitRecord {
        dump_id: [1; 16],
        outcome: Outcome::Complete,
        source: SourceKind::Oldmem,
        io: IoMode::Polled,
        total_len: 40960,
        chunks: 9,
        index: ByteOff(20480),
        header_copy: ByteOff(20992),
        committed: 8,
        memory: PageCounts {
            asked: 1,
            data: 2,
            zero: 3,
            unreadable: 4,
            excluded: 5,
            stored_bytes: 6,
        },
        swap: PageCounts { asked: 7, ..PageCounts::default() },
        read_errors: 4,
        writes: 11,
        phases: core::array::from_fn(|i| (i as u8, i as u32 * 10)),
        tag: [0xcc; 16],
    }
}

#[test]
fn commit_record_lies_as_documented() {
    let b = commit().encode();
    assert_eq!((&b[..8], &b[12..16]), (&b"LBCOMMIT"[..], &[1u8, 1, 3, 0][..]));
    assert_eq!((le64(&b, 32), le64(&b, 40), le64(&b, 48)), (40960, 9, 20480));
    assert_eq!((le64(&b, 56), le64(&b, 64), le64(&b, 72)), (20992, 8, 1));
    assert_eq!((le64(&b, 112), le64(&b, 120), le64(&b, 168), le64(&b, 176)), (6, 7, 4, 11));
    assert_eq!((le32(&b, 192), le32(&b, 196), AAD_LEN), (1, 10, 312));
    assert_eq!(&b[312..328], &[0xcc; 16]);
    assert_eq!(CommitRecord::decode(&b).unwrap(), commit());
}

#[test]
fn meta_records_come_back() {
    let mut buf = [0u8; 512];
    let mut w = MetaWriter::new(&mut buf);
    w.record(Tag::HeaderDigest, [&[9u8; 32][..]].into_iter()).unwrap();
    w.record(Tag::Hostname, ["db1".as_bytes()].into_iter()).unwrap();
    w.ranges(&[PageRange::new(1, 5), PageRange::new(7, 9)]).unwrap();
    let dev = SwapDevice { index: 1, page_size: 4096, bytes: 1 << 30, text: "uuid x\n" };
    w.swap_device(&dev).unwrap();
    assert!(w.record(Tag::BootConfig, [&[0u8; 512][..]].into_iter()).is_err(), "too long");
    let len = w.finish();
    let records: Vec<_> = MetaReader::new(&buf[..len]).map(Result::unwrap).collect();
    assert_eq!(
        records,
        [
            Record::HeaderDigest([9; 32]),
            Record::Hostname("db1"),
            Record::MemoryRange(PageRange::new(1, 5)),
            Record::MemoryRange(PageRange::new(7, 9)),
            Record::SwapDevice(dev),
        ]
    );
}

fn config() -> BootConfig {
    let mut c = BootConfig {
        board: "x".try_into().unwrap(),
        hostname: "db1".try_into().unwrap(),
        action: Action::Poweroff,
        memory_source: MemorySource::Vmcore,
        watchdog: Watchdog::Device("/dev/watchdog1".try_into().unwrap()),
        led: Some(Led { chip: "/dev/gpiochip0".try_into().unwrap(), line: 4, active_low: true }),
        seed: Some([0x5a; 32]),
        armed_at: 12,
        zstd_level: Some(-3),
        fault: "hang@memory".try_into().unwrap(),
        ..BootConfig::default()
    };
    c.targets.push(Selector::parse("partlabel=lifeboat dump").unwrap()).unwrap();
    c.recipients.push("age1qqq".try_into().unwrap()).unwrap();
    let mut list = heapless::Vec::new();
    list.push(Selector::parse("uuid=ABC").unwrap()).unwrap();
    list.push(Selector::parse("path=/dev/sda2").unwrap()).unwrap();
    c.swap = SwapPlan::List(list);
    c
}

fn text_of(c: &BootConfig) -> String {
    let mut out = Box::new(heapless::String::<{ 64 << 10 }>::new());
    c.write(&mut *out, true).unwrap();
    out.as_str().to_owned()
}

#[test]
fn boot_configuration_comes_back() {
    assert_eq!(BootConfig::parse(text_of(&config()).as_bytes()).unwrap(), config());
    let mut quiet = Box::new(heapless::String::<{ 64 << 10 }>::new());
    config().write(&mut *quiet, false).unwrap();
    assert!(!quiet.contains("5a5a"), "no seed");
}

#[test]
fn a_damaged_boot_configuration_is_refused() {
    let text = text_of(&config());
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        assert!(BootConfig::parse(&bytes).is_err(), "byte {at}");
        assert!(BootConfig::parse(&text.as_bytes()[..at]).is_err(), "cut at {at}");
    }
    let signed = |body: &str| format!("{body}crc32 {:08x}\n", crc32(body.as_bytes()));
    for (body, want) in [
        ("lifeboat-boot 1\ntarget partlabel=a\nrecipient r\ncolour red\n", "line 4: unknown key"),
        ("lifeboat-boot 1\nrecipient r\n", "no target"),
        ("lifeboat-boot 1\ntarget partlabel=a\n", "no recipient"),
        (
            "lifeboat-boot 1\ntarget path=/dev/sda\nrecipient r\n",
            "partlabel, partuuid or parttype only",
        ),
        ("lifeboat-boot 1\ntarget partlabel=a\nencrypt none\nrecipient r\n", "encrypt is none"),
    ] {
        let got = BootConfig::parse(signed(body).as_bytes()).unwrap_err().to_string();
        assert!(got.contains(want), "{got}");
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), fix in any::<bool>()) {
        let mut block = [0u8; BLOCK];
        let n = bytes.len().min(BLOCK);
        block[..n].copy_from_slice(&bytes[..n]);
        if fix {
            // Give the checksum its due, so that the fields behind it are reached.
            for magic in [&b"LIFEBOAT"[..], b"LBSLOT\0\x01", b"LBDUMP\0\x01", b"LBCOMMIT"] {
                block[..8].copy_from_slice(magic);
                block[8..12].copy_from_slice(&1u32.to_le_bytes());
                let crc = crc32(&block[..4092]);
                block[4092..].copy_from_slice(&crc.to_le_bytes());
                let _ = Superblock::decode(&block);
                let _ = SlotRecord::decode(&block, &[0; 16], u64::MAX);
                let _ = DumpHeader::decode(&block);
                let _ = CommitRecord::decode(&block);
            }
        }
        let _ = chunk::IndexHead::decode(&bytes);
        let _ = BootConfig::parse(&bytes);
        let _ = MetaReader::new(&bytes).count();
        let mut h = bytes.clone();
        h.resize(96, 0);
        h[..8].copy_from_slice(&chunk::MAGIC);
        let crc = crc32(&h[..92]);
        h[92..].copy_from_slice(&crc.to_le_bytes());
        if let Ok(header) = ChunkHeader::decode(&h) {
            let _ = PagePayload::parse(&bytes, &header);
        }
        let _ = PagePayload::parse(&bytes, &chunk_header());
    }

    #[test]
    fn hostile_boot_lines_never_panic(lines in "([a-z-]{1,16} [ -~]{0,40}\n){0,12}") {
        let body = format!("lifeboat-boot 1\n{lines}");
        let text = format!("{body}crc32 {:08x}\n", crc32(body.as_bytes()));
        let _ = BootConfig::parse(text.as_bytes());
    }
}
