//! FORMAT.md's key area, of both versions, against what reads and writes it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

mod common;

use common::{edited, le16, le32, le64, sealed};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::keys::{MAX_ENTRIES, MAX_RECIPIENTS, MAX_WRAPPED, ROOM};
use lifeboat_format::{FormatError, KeyArea, KeyEntry, KeyKind, crc32};
use proptest::prelude::*;

const DATA: KeyEntry<'_> =
    KeyEntry { kind: KeyKind::Data, fingerprints: &[[5; 8], [6; 8]], wrapped: b"an age file" };
const IDENTITY: KeyEntry<'_> =
    KeyEntry { kind: KeyKind::Identity, fingerprints: &[[7; 8]], wrapped: b"another." };

fn area(generation: u64, entries: &[KeyEntry<'_>]) -> [u8; KEY_AREA_LEN] {
    let mut out = [0xee; KEY_AREA_LEN];
    KeyArea::encode(&mut out, generation, entries).unwrap();
    out
}

/// A key area as version 1 wrote it.
fn v1(generation: u64, prints: &[[u8; 8]], wrapped: &[u8]) -> [u8; KEY_AREA_LEN] {
    let mut out = vec![0u8; KEY_AREA_LEN];
    out[..8].copy_from_slice(b"LBKEYS\0\x01");
    out[8..16].copy_from_slice(&generation.to_le_bytes());
    out[16..20].copy_from_slice(&(prints.len() as u32).to_le_bytes());
    out[20..24].copy_from_slice(&(wrapped.len() as u32).to_le_bytes());
    out[32..32 + prints.len() * 8].copy_from_slice(prints.as_flattened());
    out[288..288 + wrapped.len()].copy_from_slice(wrapped);
    sealed(out).try_into().unwrap()
}

fn entries<'a>(area: &KeyArea<'a>) -> Vec<KeyEntry<'a>> {
    area.entries().collect()
}

#[test]
fn entries_lie_as_documented() {
    let b = area(3, &[DATA, IDENTITY]);
    assert_eq!((&b[..8], le64(&b, 8)), (&b"LBKEYS\0\x02"[..], 3));
    // 8 + 2*8 + 11, padded to 40; 8 + 8 + 8 = 24.
    assert_eq!((le32(&b, 16), le32(&b, 20), le64(&b, 24)), (2, 64, 0));
    assert_eq!((b[32], b[33], le16(&b, 34), le32(&b, 36)), (1, 0, 2, 11));
    assert_eq!((&b[40..48], &b[48..56]), (&[5u8; 8][..], &[6u8; 8][..]));
    assert_eq!((&b[56..67], &b[67..72]), (&b"an age file"[..], &[0u8; 5][..]));
    assert_eq!((b[72], b[73], le16(&b, 74), le32(&b, 76)), (2, 0, 1, 8));
    assert_eq!((&b[80..88], &b[88..96]), (&[7u8; 8][..], &b"another."[..]));
    assert!(b[96..12284].iter().all(|b| *b == 0));
    assert_eq!(le32(&b, 12284), crc32(&b[..12284]));
    let read = KeyArea::decode(&b).unwrap();
    assert_eq!((read.generation, entries(&read)), (3, vec![DATA, IDENTITY]));
    assert_eq!(read.fingerprints().collect::<Vec<_>>(), [[5; 8], [6; 8], [7; 8]]);
}

#[test]
fn version_1_is_one_entry() {
    let b = v1(4, &[[5; 8], [6; 8]], b"an age file");
    let read = KeyArea::decode(&b).unwrap();
    assert_eq!((read.generation, entries(&read)), (4, vec![DATA]));
    let full = vec![0x61; KEY_AREA_LEN - 4 - 288];
    let b = v1(0, &[[1; 8]; 32], &full);
    let read = KeyArea::decode(&b).unwrap();
    assert_eq!((read.fingerprints().count(), entries(&read)[0].wrapped.len()), (32, full.len()));
    let b = v1(0, &[[1; 8]], b"x");
    // Too many recipients, too long, something where nothing is.
    for (at, new) in [(16, 33u32), (20, 11_997), (20, u32::MAX), (16, u32::MAX), (40, 1), (292, 1)]
    {
        assert!(KeyArea::decode(&edited(&b, at, &new.to_le_bytes())).is_err(), "{at} {new}");
    }
}

#[test]
fn other_versions_are_refused_by_name() {
    for version in [0u8, 3, 9, 255] {
        let e = KeyArea::decode(&edited(&area(0, &[DATA]), 7, &[version])).unwrap_err();
        assert_eq!(e, FormatError::Version { what: "key area", found: version.into() });
    }
    let e = KeyArea::decode(&edited(&area(0, &[DATA]), 0, b"M")).unwrap_err();
    assert_eq!(e, FormatError::Magic { what: "key area" });
}

#[test]
fn every_flipped_bit_is_found() {
    for good in [area(3, &[DATA, IDENTITY]), v1(3, &[[5; 8]], b"an age file")] {
        let mut b = good;
        for bit in 0..KEY_AREA_LEN * 8 {
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(KeyArea::decode(&b).is_err(), "bit {bit}");
            b[bit / 8] ^= 1 << (bit % 8);
        }
    }
    println!("{} flipped bits, all found", 2 * KEY_AREA_LEN * 8);
}

/// Nothing seals a key area: what is not an entry must be zero, checksum or not.
#[test]
fn what_is_no_entry_must_be_zero() {
    for (good, free) in [
        (area(0, &[DATA]), [24..32, 33..34, 67..72, 72..12284]),
        (v1(0, &[[5; 8], [6; 8]], b"an age file"), [24..32, 48..288, 299..12284, 0..0]),
    ] {
        for at in free.into_iter().flatten().step_by(3) {
            assert!(KeyArea::decode(&edited(&good, at, &[1])).is_err(), "byte {at}");
        }
    }
}

#[test]
fn limits_are_kept() {
    let mut out = [0; KEY_AREA_LEN];
    let prints = [[1u8; 8]; MAX_RECIPIENTS + 1];
    let long = vec![7u8; ROOM];
    let entry = |prints, len: usize| KeyEntry {
        kind: KeyKind::Data,
        fingerprints: prints,
        wrapped: &long[..len],
    };
    let mut fits = |entries: &[KeyEntry<'_>]| {
        KeyArea::encode(&mut out, 0, entries).is_ok() && {
            let read = KeyArea::decode(&out).unwrap();
            assert_eq!(read.entries().collect::<Vec<_>>(), entries);
            true
        }
    };
    assert!(fits(&[]));
    assert!(fits(&[entry(&prints[..MAX_RECIPIENTS], MAX_WRAPPED)]));
    assert!(!fits(&[entry(&prints[..], 10)]));
    assert!(!fits(&[entry(&prints[..20], 10), entry(&prints[..13], 10)]));
    assert!(fits(&[entry(&[], 12_240)]), "to the last multiple of 8");
    assert!(!fits(&[entry(&[], 12_241)]));
    assert!(!fits(&[entry(&[], ROOM)]));
    assert!(fits(&[entry(&prints[..1], 300); MAX_ENTRIES]));
    assert!(!fits(&[entry(&[], 300); MAX_ENTRIES + 1]));
}

#[test]
fn entries_that_contradict_their_area_are_refused() {
    let b = area(0, &[DATA, IDENTITY]);
    let one = |v: u32| v.to_le_bytes().to_vec();
    for (at, new) in [
        (16, one(1)),
        (16, one(3)),
        (16, one(u32::MAX)),
        (20, one(40)),
        (20, one(63)),
        (20, one(72)),
        (20, one(u32::MAX)),
        (32, vec![0]),
        (32, vec![3]),
        (34, vec![9]),
        (34, vec![255, 255]),
        (36, one(10)),
        (36, one(19)),
        (36, one(u32::MAX)),
        (76, one(9)),
    ] {
        assert!(KeyArea::decode(&edited(&b, at, &new)).is_err(), "{at}: {new:?}");
    }
    // 33 recipients of one entry, put together by hand.
    let mut crowd = area(0, &[]).to_vec();
    crowd[16..20].copy_from_slice(&1u32.to_le_bytes());
    crowd[20..24].copy_from_slice(&(8 + 33 * 8u32).to_le_bytes());
    (crowd[32], crowd[34]) = (1, 33);
    let e = KeyArea::decode(&sealed(crowd).try_into().unwrap()).unwrap_err();
    assert_eq!(e, FormatError::Field { what: "key area", field: "count", value: 33 });
    // 33 entries without recipients, put together by hand.
    let mut many = area(0, &[]).to_vec();
    many[16..20].copy_from_slice(&33u32.to_le_bytes());
    many[20..24].copy_from_slice(&(33u32 * 8).to_le_bytes());
    for at in (32..32 + 33 * 8).step_by(8) {
        many[at] = 1;
    }
    assert!(KeyArea::decode(&sealed(many).try_into().unwrap()).is_err());
}

/// A torn rewrite: the new head over the old entries, or the old head over the new ones,
/// cut at any sector. Nobody who could open the dump loses it.
#[test]
fn entries_survive_a_torn_rewrite() {
    let (old, new) = (area(3, &[DATA, IDENTITY]), area(4, &[DATA, IDENTITY, DATA]));
    for cut in (0..=KEY_AREA_LEN).step_by(512) {
        for (front, back) in [(&old, &new), (&new, &old)] {
            let mut torn = *front;
            torn[cut..].copy_from_slice(&back[cut..]);
            let kept: Vec<_> = KeyArea::salvage(&torn).collect();
            assert!(kept.starts_with(&[DATA, IDENTITY]) && kept.len() <= 3, "{cut}: {kept:?}");
        }
    }
    // A damaged entry ends it; version 1 has none to give.
    let mut hurt = old;
    hurt[72] = 9;
    assert_eq!(KeyArea::salvage(&hurt).collect::<Vec<_>>(), [DATA]);
    assert_eq!(KeyArea::salvage(&v1(0, &[], b"x")).count(), 0);
    let mut many = area(0, &[]);
    for at in (32..12_280).step_by(8) {
        many[at] = 1;
    }
    assert_eq!(KeyArea::salvage(&many).count(), MAX_ENTRIES);
}

proptest! {
    /// `rekey` reads an area, adds an entry and writes all: the old ones stay as they are.
    #[test]
    fn entries_come_back(lens in proptest::collection::vec((0usize..6, 0usize..900, any::<bool>()), 0..6), generation: u64) {
        let prints = [[9u8; 8]; 8];
        let bytes = vec![0xa5u8; 900];
        let list: Vec<KeyEntry<'_>> = lens.iter().map(|(n, len, data)| KeyEntry {
            kind: if *data { KeyKind::Data } else { KeyKind::Identity },
            fingerprints: &prints[..*n],
            wrapped: &bytes[..*len],
        }).collect();
        let first = area(generation, &list);
        let read = KeyArea::decode(&first).unwrap();
        prop_assert_eq!(read.generation, generation);
        let mut more = entries(&read);
        prop_assert_eq!(&more, &list);
        more.push(IDENTITY);
        let second = area(generation.wrapping_add(1), &more);
        let used = 32 + le32(&first, 20) as usize;
        prop_assert_eq!(&first[32..used], &second[32..used]);
        prop_assert_eq!(entries(&KeyArea::decode(&second).unwrap()), more);
    }

    #[test]
    fn hostile_key_areas_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), small: bool, old: bool) {
        let mut area = vec![0u8; KEY_AREA_LEN];
        area[32..32 + bytes.len()].copy_from_slice(&bytes);
        if small {
            // Lengths that have a chance to fit.
            for b in area[32..].iter_mut().step_by(2) { *b &= 3; }
        }
        area[..8].copy_from_slice(if old { b"LBKEYS\0\x01" } else { b"LBKEYS\0\x02" });
        area[16] = bytes.first().copied().unwrap_or(0) % 4;
        area[20..22].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        let area: [u8; KEY_AREA_LEN] = sealed(area).try_into().unwrap();
        prop_assert!(KeyArea::salvage(&area).count() <= MAX_ENTRIES);
        if let Ok(area) = KeyArea::decode(&area) {
            let _ = (area.entries().count(), area.fingerprints().count());
        }
    }
}
