//! FORMAT.md's offsets against the one-block structures; every flipped bit of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a test that fails shall panic"
)]

mod common;

use common::{commit, edited, header, le16, le32, le64, part, slot, superblock};
use lifeboat_format::commit::{AAD_LEN, Outcome, PageCounts};
use lifeboat_format::meta::{MetaReader, MetaWriter, Record, SwapDevice, Tag};
use lifeboat_format::*;

const VOLUME: Id = [3; 16];
const END: u64 = 63 << 20;

type Decode = fn(&[u8; BLOCK]) -> Result<(), FormatError>;

/// Each structure of one block: its name, its bytes, bytes that its fields take, its reader.
fn blocks() -> [(&'static str, [u8; BLOCK], usize, Decode); 5] {
    [
        ("superblock", superblock().encode(), 144, |b| Superblock::decode(b).map(|_| ())),
        ("slot", slot().encode(), 120, |b| SlotRecord::decode(b, &VOLUME, END).map(|_| ())),
        ("part", part().encode(), 56, |b| PartBlock::decode(b).map(|_| ())),
        ("header", header().encode(), 408, |b| DumpHeader::decode(b).map(|_| ())),
        ("commit", commit().encode(), 328, |b| CommitRecord::decode(b).map(|_| ())),
    ]
}

#[test]
fn superblock_lies_as_documented() {
    let b = superblock().encode();
    assert_eq!(&b[..8], b"LIFEBOAT");
    assert_eq!((le32(&b, 8), le32(&b, 12)), (3, 4096));
    assert_eq!(b[16..32], [3; 16]);
    assert_eq!((le64(&b, 32), le64(&b, 40)), (1 << 21, 64 << 20));
    assert_eq!((le64(&b, 48), le64(&b, 56)), (1 << 20, 63 << 20));
    assert_eq!((le32(&b, 64), le32(&b, 68), le64(&b, 72)), (5, 64, 77));
    assert_eq!(&b[80..86], b"rack 7");
    assert_eq!(le32(&b, 4092), crc32(&b[..4092]));
    assert_eq!(Superblock::decode(&b).unwrap(), superblock());
    assert_eq!(superblock().guard_areas()[1], 640 << 10..1 << 20);
}

#[test]
fn every_flipped_bit_of_a_block_is_found() {
    let mut tried = 0;
    for (name, block, _, decode) in blocks() {
        decode(&block).unwrap();
        for bit in 0..BLOCK * 8 {
            let mut b = block;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&b).is_err(), "{name}: bit {bit}");
            tried += 1;
        }
    }
    println!("{tried} flipped bits, all found");
}

/// A block of a later version, sound in itself, is refused by that name; so is version 0.
#[test]
fn another_version_is_refused_by_name() {
    for (name, block, _, decode) in blocks() {
        for version in [0u32, 4, u32::MAX] {
            let e = decode(&edited(&block, 8, &version.to_le_bytes())).unwrap_err();
            assert!(matches!(e, FormatError::Version { found, .. } if found == version), "{name}");
            let want = format!("format version {version} is not known");
            assert!(e.to_string().contains(&want), "{e}");
        }
    }
}

/// What no field takes is zero: nothing seals these bytes, so nothing may hide there.
#[test]
fn bytes_without_a_field_must_be_zero() {
    for (name, block, used, decode) in blocks() {
        assert!(block[used..4092].iter().all(|b| *b == 0), "{name}");
        for at in used..4092 {
            let e = decode(&edited(&block, at, &[0x80])).unwrap_err();
            assert!(matches!(e, FormatError::Field { field: "reserved", .. }), "{name} {at}: {e}");
        }
    }
}

#[test]
fn slots_lie_as_documented_and_the_newest_copy_holds() {
    let b = slot().encode();
    assert_eq!((&b[..8], le32(&b, 8)), (&b"LBSLOT\0\x01"[..], 3));
    assert_eq!((b[12], b[13], le16(&b, 14)), (5, 1, 0x0102));
    assert_eq!((&b[16..32], &b[32..48]), (&[3; 16][..], &[4; 16][..]));
    assert_eq!((le64(&b, 48), le64(&b, 56), le64(&b, 64)), (9, 2, 1 << 20));
    assert_eq!((le64(&b, 72), le64(&b, 80), le64(&b, 88)), (60 << 20, 8192, 5));
    assert_eq!((le64(&b, 96), &b[104..120]), (0x70_0000, &[6; 16][..]));
    assert_eq!(SlotRecord::offset(3, 1), ByteOff((128 << 10) + 7 * 4096));
    let older = SlotRecord { generation: 8, state: SlotState::Capturing, used_len: 0, ..slot() };
    let torn = [0xffu8; BLOCK];
    let newest = |a: &[u8; BLOCK], c: &[u8; BLOCK]| SlotRecord::newest([a, c], &VOLUME, END);
    assert_eq!(newest(&older.encode(), &b), Ok(Some(slot())));
    assert_eq!(newest(&b, &older.encode()), Ok(Some(slot())));
    assert_eq!(newest(&older.encode(), &torn), Ok(Some(older)));
    assert_eq!(newest(&[0; BLOCK], &[0; BLOCK]), Ok(None));
    assert!(newest(&torn, &torn).is_err());
    assert!(SlotRecord::newest([&b, &b], &[8; 16], END).is_err(), "another volume's");
    assert!(SlotRecord::decode(&b, &VOLUME, 2 << 20).is_err(), "behind the end");
}

#[test]
fn a_slot_takes_space_by_its_state() {
    let taken = |state| SlotRecord { state, ..slot() }.extent();
    for (state, len) in [
        (SlotState::Capturing, 60 << 20),
        (SlotState::Complete, 8192),
        (SlotState::Partial, 8192),
        (SlotState::Continued, 8192),
        (SlotState::Cleared, 0),
    ] {
        assert_eq!(taken(state), 1 << 20..(1 << 20) + len, "{state:?}");
        let record = SlotRecord { state, ..slot() };
        assert_eq!(SlotRecord::decode(&record.encode(), &VOLUME, END), Ok(Some(record)));
    }
}

#[test]
fn a_slot_that_contradicts_itself_is_refused() {
    let first = SlotRecord { part: 0, base: 0, ..slot() };
    assert!(SlotRecord::decode(&first.encode(), &VOLUME, END).is_ok());
    // Part 0 failed before it held anything: the next one begins at 0 too.
    assert!(SlotRecord::decode(&SlotRecord { base: 0, ..slot() }.encode(), &VOLUME, END).is_ok());
    for (record, field) in [
        (SlotRecord { part: 0, ..slot() }, "base"),
        (SlotRecord { base: 4097, ..slot() }, "base"),
        (SlotRecord { base: u64::MAX - 4095, ..slot() }, "base"),
        (SlotRecord { number: 0, ..slot() }, "number"),
        (SlotRecord { used_len: 61 << 20, ..slot() }, "used_len"),
        (SlotRecord { reserved_len: u64::MAX, ..slot() }, "reserved_len"),
        (SlotRecord { start: ByteOff(4096), ..slot() }, "start"),
        (SlotRecord { start: ByteOff((1 << 20) + 512), ..slot() }, "start"),
        (SlotRecord { start: ByteOff(62 << 20), used_len: 2 << 20, ..slot() }, "reserved_len"),
    ] {
        let e = SlotRecord::decode(&record.encode(), &VOLUME, END).unwrap_err();
        assert!(matches!(e, FormatError::Field { field: f, .. } if f == field), "{field}: {e}");
    }
    for state in [0u8, 6, 255] {
        assert!(SlotRecord::decode(&edited(&slot().encode(), 12, &[state]), &VOLUME, END).is_err());
    }
}

/// Version 1 knew no parts: its slots have zeros there.
#[test]
fn version_1_slots_open_and_have_no_parts() {
    let old =
        SlotRecord { state: SlotState::Complete, part: 0, base: 0, next_volume: [0; 16], ..slot() };
    let v1 = edited(&old.encode(), 8, &1u32.to_le_bytes());
    assert_eq!(SlotRecord::decode(&v1, &VOLUME, END), Ok(Some(old)));
    for (at, byte) in [(12, 5), (14, 1), (97, 1), (104, 1)] {
        assert!(SlotRecord::decode(&edited(&v1, at, &[byte]), &VOLUME, END).is_err(), "{at}");
    }
}

#[test]
fn part_block_lies_as_documented() {
    let b = part().encode();
    assert_eq!((&b[..8], le32(&b, 8), le32(&b, 12)), (&b"LBPART\0\x02"[..], 3, 0x0102));
    assert_eq!((&b[16..32], &b[32..48], le64(&b, 48)), (&[1; 16][..], &[2; 16][..], 0x70_0000));
    assert_eq!(part::PART_HEAD, 4096 + 16384);
    assert_eq!(PartBlock::decode(&b), Ok(part()));
    let at_0 = PartBlock { base: 0, ..part() };
    assert_eq!(PartBlock::decode(&at_0.encode()), Ok(at_0));
    for (at, new) in [
        (12, 0u64.to_le_bytes()[..4].to_vec()),
        (12, 65536u32.to_le_bytes().to_vec()),
        (48, 4097u64.to_le_bytes().to_vec()),
        (48, (1u64 << 63).to_le_bytes().to_vec()),
    ] {
        assert!(PartBlock::decode(&edited(&b, at, &new)).is_err(), "{at}: {new:?}");
    }
}

#[test]
fn header_lies_as_documented() {
    let b = header().encode();
    assert_eq!((&b[..8], le32(&b, 8)), (&b"LBDUMP\0\x01"[..], 3));
    assert_eq!((le32(&b, 12), le64(&b, 48), le64(&b, 56), b[64]), (16384, 3, 4, 1));
    assert_eq!((le32(&b, 68), le32(&b, 72)), (4096, 64));
    assert_eq!(
        (&b[80..85], &b[152..158], &b[312..315]),
        (&b"6.1.0"[..], &b"Kernel"[..], &b"0.1"[..])
    );
    assert_eq!(b[376..408], [0x4b; 32]);
    assert_eq!(DumpHeader::decode(&b).unwrap(), header());
    for (at, new) in [(64, 2u8), (65, 1), (67, 1), (68, 1), (72, 0), (76, 1), (79, 1), (12, 1)] {
        assert!(DumpHeader::decode(&edited(&b, at, &[new])).is_err(), "{at}");
    }
}

#[test]
fn version_1_headers_open_and_have_no_key_id() {
    let old = DumpHeader { version: 1, key_id: [0; 32], ..header() };
    assert_eq!(DumpHeader::decode(&old.encode()), Ok(old));
    assert!(DumpHeader::decode(&DumpHeader { version: 1, ..header() }.encode()).is_err());
}

#[test]
fn commit_record_lies_as_documented() {
    let b = commit().encode();
    assert_eq!((&b[..8], le32(&b, 8), &b[12..16]), (&b"LBCOMMIT"[..], 3, &[1u8, 1, 3, 2][..]));
    assert_eq!((le64(&b, 32), le64(&b, 40), le64(&b, 48)), (40960, 9, 20480));
    assert_eq!((le64(&b, 56), le64(&b, 64), le64(&b, 72)), (20992, 8, 1));
    assert_eq!((le64(&b, 112), le64(&b, 120), le64(&b, 168), le64(&b, 176)), (6, 7, 4, 11));
    assert_eq!((le32(&b, 192), le32(&b, 196), AAD_LEN), (1, 10, 312));
    assert_eq!((le64(&b, 280), le64(&b, 288), le64(&b, 296), le64(&b, 304)), (12, 13, 14, 15));
    assert_eq!(&b[312..328], &[0xcc; 16]);
    assert_eq!(commit().aad(), b[..312]);
    assert_eq!(CommitRecord::decode(&b).unwrap(), commit());
    for (at, new) in [(12, 0u8), (12, 5), (13, 4), (14, 0), (33, 1), (39, 0x80), (185, 1)] {
        assert!(CommitRecord::decode(&edited(&b, at, &[new])).is_err(), "{at}");
    }
}

/// The tag covers the version, so a record of version 1 must come back as it was written.
#[test]
fn version_1_commit_records_open_and_have_no_parts() {
    let plain = |c: PageCounts| PageCounts { fill: 0, same: 0, ..c };
    let c = commit();
    let c = CommitRecord { memory: plain(c.memory), swap: plain(c.swap), ..c };
    let old = CommitRecord { version: 1, last_part: 0, outcome: Outcome::Full, ..c };
    let b = old.encode();
    assert_eq!((le32(&b, 8), le32(&old.aad(), 8)), (1, 1));
    assert_eq!(CommitRecord::decode(&b), Ok(old));
    assert!(CommitRecord::decode(&CommitRecord { version: 1, ..c }.encode()).is_err());
    let counts = CommitRecord { version: 2, swap: commit().swap, ..c };
    assert!(CommitRecord::decode(&counts.encode()).is_err(), "version 2 counted no such pages");
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
    // Flags, a byte of padding, the swap device's reserved field, an unknown tag, a length.
    for (at, new) in [(2, 1), (51, 1), (114, 1), (0, 7), (4, 255)] {
        let mut hurt = buf;
        hurt[at] = new;
        assert!(MetaReader::new(&hurt[..len]).any(|r| r.is_err()), "byte {at}");
    }
}

#[test]
fn a_byte_that_is_not_zero_is_seen_wherever_it_is() {
    for len in [0, 1, 511, 4095, 4096, 4097, 12_300] {
        let mut bytes = vec![0; len];
        assert!(lifeboat_format::is_zero(&bytes));
        for at in [0, len / 2, len.saturating_sub(1)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = 1;
                assert!(!lifeboat_format::is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
