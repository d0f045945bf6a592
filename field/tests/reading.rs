//! A dump of the real engine, opened, looked into, and damaged in every way that
//! a disk or an attacker has.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod support;

use std::sync::Arc;

use lifeboat_crypt::{CryptError, Identities, generate_identity};
use lifeboat_field::dump::{DumpError, DumpFile, FindingKind, OpenDump, Page, PageSource, Verdict};
use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{BLOCK, ChunkHeader, ChunkKind, Pfn};
use proptest::prelude::*;
use support::{Kind, Pretended, Setup, Taken, fill, open, standard, take};

const DATA: usize = 4 * BLOCK;

fn check_all(dump: &OpenDump, machine: &Pretended) -> u64 {
    let mut want = vec![0u8; 4096];
    let mut count = 0;
    let spaces = [(None, dump.memory(), support::ranges())].into_iter().chain((0..2u16).map(|d| {
        let pages = [768, 257][usize::from(d)];
        (Some(d), dump.swap(d).unwrap(), vec![lifeboat_format::PageRange::new(0, pages)])
    }));
    for (device, space, ranges) in spaces {
        for page in ranges.iter().flat_map(|r| r.start.0..r.end.0) {
            let kind = machine.kind(device, page);
            fill(kind, &mut want);
            match (space.page(Pfn(page)).unwrap(), kind) {
                (Page::Data(bytes), Kind::Text(_) | Kind::Noise(_)) => {
                    assert_eq!(&bytes[..], &want[..], "page {page}");
                }
                (Page::Fill(word), Kind::Word(x)) if word == x => {}
                (Page::Zero, Kind::Zero) | (Page::Unreadable, Kind::Bad) => {}
                (got, _) => panic!("page {page} of {device:?} is {got:?}, not {kind:?}"),
            }
            count += 1;
        }
        for outside in [0, 0xa0, 0x2300, 0x10_0309, 1 << 51] {
            if !ranges.iter().any(|r| (r.start.0..r.end.0).contains(&outside)) {
                assert!(matches!(space.page(Pfn(outside)).unwrap(), Page::NotCaptured));
            }
        }
    }
    count
}

/// Pages that were stored once are found wherever they are, in swap too.
#[test]
fn identical_pages_come_back_everywhere() {
    for bad in [false, true] {
        let machine = Pretended { seed: 77, bad };
        for layered in [false, true] {
            let taken = take(&Setup { layered, dedup: true, ..standard(&machine) });
            let plain = take(&Setup { layered, ..standard(&machine) });
            let dump = taken.open().unwrap();
            assert_eq!(check_all(&dump, &machine), check_all(&plain.open().unwrap(), &machine));
            let (old, new) = (plain.record.memory, taken.record.memory);
            assert_eq!(old.data, new.data + new.same);
            assert!(new.same > 1000 && taken.record.swap.same > 100, "{:?}", taken.record);
            assert!(new.fill > 100, "{new:?}");
            let verdict = verify(&taken, true);
            assert!(verdict.is_sound() && verdict.is_complete(), "{verdict:?}");
        }
    }
}

fn verify(taken: &Taken, with_key: bool) -> Verdict {
    verify_bytes(&taken.bytes, with_key.then_some(taken.identity.as_ref()).flatten())
}

fn verify_bytes(bytes: &[u8], identity: Option<&Identities>) -> Verdict {
    let file = DumpFile::open(Arc::new(bytes.to_vec())).unwrap();
    let opener = identity.map(|i| file.opener(Some(i)).unwrap());
    file.verify(opener.as_ref(), &|_| {})
}

/// Chunks by a walk that trusts the writer: offset and header.
fn chunks(bytes: &[u8]) -> Vec<(usize, ChunkHeader)> {
    let (mut at, mut out) = (DATA, Vec::new());
    while let Ok(h) = ChunkHeader::decode(&bytes[at..]) {
        out.push((at, h));
        at += usize::try_from(h.frame_len()).unwrap();
    }
    out
}

#[test]
fn every_page_is_found_under_its_number() {
    for (encrypt, level, bad) in [(true, Some(1), true), (false, None, false), (true, None, true)] {
        let machine = Pretended { seed: 5, bad };
        let taken = take(&support::Setup { encrypt, level, ..standard(&machine) });
        let dump = taken.open().unwrap();
        assert!(dump.warnings().is_empty(), "{:?}", dump.warnings());
        assert_eq!(check_all(&dump, &machine), 0x9f + 0x2200 + 0x309 + 768 + 257);
        assert_eq!(dump.log().unwrap(), b"a line of the log\n".repeat(40_000));
        assert_eq!(dump.notes().unwrap(), support::notes());
        assert_eq!(dump.trailer().unwrap(), b"the trailer");
        assert_eq!(dump.meta().elfcorehdr, support::elfcorehdr(&support::loads()));
        assert_eq!(dump.meta().ranges, support::ranges());
        assert_eq!(dump.meta().hostname.as_deref(), Some("db7"));
        assert_eq!(dump.meta().swap[1].bytes, (1 << 20) + 512);
        assert!(dump.file().is_complete());
    }
}

#[test]
fn addresses_cross_pages_and_stop_before_what_is_missing() {
    let machine = Pretended { seed: 6, bad: true };
    let taken = take(&standard(&machine));
    let dump = taken.open().unwrap();
    let bad = (0x100..0x2300).find(|p| machine.kind(None, *p) == Kind::Bad).unwrap();
    let mut buf = [0xaa; 8192];
    let at = (bad - 1) * 4096 + 100;
    assert_eq!(dump.memory().read(at, &mut buf).unwrap(), 4096 - 100);
    let mut want = vec![0; 4096];
    fill(machine.kind(None, bad - 1), &mut want);
    assert_eq!(buf[..3996], want[100..]);
    assert_eq!(buf[3996], 0xaa);
    assert_eq!(dump.memory().read(u64::MAX - 3, &mut buf).unwrap(), 0);
}

#[test]
fn a_sound_dump_verifies_with_and_without_its_key() {
    let machine = Pretended { seed: 1, bad: true };
    let taken = take(&standard(&machine));
    for with_key in [false, true] {
        let v = verify(&taken, with_key);
        assert!(v.is_sound() && v.is_complete(), "{:?}", v.findings);
        assert_eq!(v.good_chunks, taken.record.chunks);
        assert!(v.memory.agrees(&taken.record.memory) && v.swap.agrees(&taken.record.swap));
        use sha2::{Digest, Sha256};
        let sum: String = Sha256::digest(&taken.bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(v.sha256.as_deref(), Some(&*sum));
        let json = serde_json::to_value(&v).unwrap();
        assert_eq!(json["opened"], with_key);
        assert_eq!(json["kinds"]["trailer"], 1);
    }
}

/// One bit in each 97th byte of the whole dump, and every byte of the small
/// structures: without a key all are seen, but for the unused tail of a key area.
#[test]
fn every_flipped_bit_is_seen_without_a_key() {
    let machine = Pretended { seed: 2, bad: true };
    let taken = take(&support::Setup {
        ranges: vec![lifeboat_format::PageRange::new(256, 700)],
        swap: vec![64 << 10],
        log: b"log".to_vec(),
        ..standard(&machine)
    });
    let len = taken.bytes.len();
    let tail = usize::try_from(taken.record.header_copy.0).unwrap();
    let places =
        (0..DATA).step_by(31).chain((DATA..tail).step_by(97)).chain((tail..len).step_by(29));
    let (mut tried, mut bytes) = (0, taken.bytes.clone());
    for at in places {
        bytes[at] ^= 1 << (at % 8);
        let file = DumpFile::open(Arc::new(bytes.clone()));
        let seen = match &file {
            Err(_) => true,
            // A damaged commit record leaves a dump that looks unfinished: told apart, not sound.
            Ok(f) => {
                let v = f.verify(None, &|_| {});
                !v.is_sound() || !v.committed
            }
        };
        assert!(seen, "byte {at} of {len}");
        bytes[at] ^= 1 << (at % 8);
        tried += 1;
    }
    assert!(tried > 4000, "{tried}");
}

/// With matching checksums, only the key shows that something was changed.
#[test]
fn what_was_forged_with_care_does_not_authenticate() {
    let machine = Pretended { seed: 3, bad: false };
    let taken = take(&standard(&machine));
    let all = chunks(&taken.bytes);
    let (at, header) = all.iter().rfind(|(_, h)| h.kind == ChunkKind::Memory).copied().unwrap();
    let stored = at + HEADER_LEN..at + HEADER_LEN + header.stored_len as usize;
    // A changed payload with a new checksum.
    let mut bytes = taken.bytes.clone();
    bytes[stored.start] ^= 1;
    let crc = lifeboat_format::crc32(&bytes[stored.clone()]);
    let new = ChunkHeader { payload_crc: crc, ..header };
    bytes[at..at + HEADER_LEN].copy_from_slice(&new.encode());
    assert!(verify_bytes(&bytes, None).is_sound());
    let v = verify_bytes(&bytes, taken.identity.as_ref());
    assert_eq!(v.findings.len(), 1, "{:?}", v.findings);
    assert_eq!(v.findings[0].kind, FindingKind::Contents);
    assert_eq!(v.findings[0].chunk, Some(header.seq));
    assert_eq!(v.findings[0].pages, Some((header.first.0, header.first.0 + header.pages)));
    let dump = open(bytes, taken.identity.as_ref()).unwrap();
    let e = dump.memory().page(header.first).unwrap_err().to_string();
    assert!(e.contains("does not authenticate") && e.contains("\nhint: "), "{e}");
    // A header that claims other pages.
    let mut bytes = taken.bytes.clone();
    let new = ChunkHeader { first: Pfn(header.first.0 + 1), ..header };
    bytes[at..at + HEADER_LEN].copy_from_slice(&new.encode());
    let v = verify_bytes(&bytes, taken.identity.as_ref());
    assert!(v.findings.iter().any(|f| f.kind == FindingKind::Contents), "{:?}", v.findings);
    assert!(open(bytes, taken.identity.as_ref()).unwrap().memory().page(header.first).is_err());
    // A header block with another reason for the panic, checksum and copy made to fit.
    let mut bytes = taken.bytes.clone();
    let mut h = *DumpFile::open(Arc::new(bytes.clone())).unwrap().header();
    h.reason = lifeboat_format::text_field("nothing to see here");
    for at in [0, usize::try_from(taken.record.header_copy.0).unwrap()] {
        bytes[at..at + BLOCK].copy_from_slice(&h.encode());
    }
    assert!(verify_bytes(&bytes, None).is_sound());
    assert!(
        verify_bytes(&bytes, taken.identity.as_ref())
            .findings
            .iter()
            .any(|f| f.kind == FindingKind::Meta)
    );
    assert!(matches!(open(bytes, taken.identity.as_ref()), Err(DumpError::HeaderForged)));
    // A commit record that claims completeness for less.
    let mut bytes = taken.bytes.clone();
    let mut record = taken.record;
    record.memory.unreadable += 1;
    let end = bytes.len() - BLOCK;
    bytes[end..].copy_from_slice(&record.encode());
    assert!(
        verify_bytes(&bytes, taken.identity.as_ref())
            .findings
            .iter()
            .any(|f| f.kind == FindingKind::Commit)
    );
    assert!(matches!(
        open(bytes, taken.identity.as_ref()),
        Err(DumpError::Crypt(CryptError::Forged { .. }))
    ));
}

#[test]
fn swapped_removed_and_foreign_chunks_are_named() {
    let machine = Pretended { seed: 4, bad: false };
    let taken = take(&support::Setup { level: None, ..standard(&machine) });
    let all = chunks(&taken.bytes);
    let frame = |i: usize| {
        let (at, h) = all[i];
        at..at + usize::try_from(h.frame_len()).unwrap()
    };
    // Two neighbours of the same size change places.
    let same = (5..all.len()).find(|i| frame(*i).len() == frame(i + 1).len()).unwrap();
    let mut bytes = taken.bytes.clone();
    let (a, b) = (frame(same), frame(same + 1));
    bytes[a.clone()].copy_from_slice(&taken.bytes[b.clone()]);
    bytes[b.clone()].copy_from_slice(&taken.bytes[a.clone()]);
    let v = verify_bytes(&bytes, None);
    assert!(v.findings.iter().any(|f| f.kind == FindingKind::WrongPlace), "{:?}", v.findings);
    // The same, with the places in the headers made to fit.
    for (from, to) in [(a.clone(), b.clone()), (b.clone(), a.clone())] {
        let h = ChunkHeader::decode(&taken.bytes[from.clone()]).unwrap();
        let h = ChunkHeader { offset: lifeboat_format::ByteOff(to.start as u64), ..h };
        bytes[to.start..to.start + HEADER_LEN].copy_from_slice(&h.encode());
    }
    let v = verify_bytes(&bytes, None);
    assert!(v.findings.iter().any(|f| f.kind == FindingKind::Sequence), "{:?}", v.findings);
    assert!(
        verify_bytes(&bytes, taken.identity.as_ref())
            .findings
            .iter()
            .any(|f| f.kind == FindingKind::Contents)
    );
    // A chunk is wiped.
    let mut bytes = taken.bytes.clone();
    bytes[a.clone()].fill(0);
    let v = verify_bytes(&bytes, None);
    let kinds: Vec<_> = v.findings.iter().map(|f| f.kind).collect();
    assert!(
        kinds.contains(&FindingKind::Lost) && kinds.contains(&FindingKind::Sequence),
        "{kinds:?}"
    );
    let lost = v.findings.iter().find(|f| f.kind == FindingKind::Lost).unwrap();
    assert_eq!((lost.start, lost.end), (a.start as u64, a.end as u64));
    // A chunk of another dump in its place, otherwise perfect.
    let mut bytes = taken.bytes.clone();
    let h = ChunkHeader { dump_id: [8; 16], ..all[same].1 };
    bytes[a.start..a.start + HEADER_LEN].copy_from_slice(&h.encode());
    let v = verify_bytes(&bytes, None);
    assert!(v.findings.iter().any(|f| f.kind == FindingKind::OtherDump), "{:?}", v.findings);
}

#[test]
fn wrong_lengths_name_both_sizes() {
    let machine = Pretended { seed: 7, bad: false };
    let taken = take(&standard(&machine));
    let len = taken.bytes.len();
    let mut longer = taken.bytes.clone();
    longer.extend([0x55; 5000]);
    let e = DumpFile::open(Arc::new(longer)).unwrap_err();
    assert!(
        matches!(e, DumpError::Length { committed, found } if committed == len as u64 && found == len as u64 + 5000),
        "{e}"
    );
    for cut in [1, 4096, len / 2, len - DATA - 700] {
        let file = DumpFile::open(Arc::new(taken.bytes[..len - cut].to_vec())).unwrap();
        let e = file.committed().unwrap_err().to_string();
        assert!(e.contains(&(len - cut).to_string()) && e.contains("\nhint: "), "{e}");
        assert!(!file.is_complete());
    }
    assert!(matches!(
        DumpFile::open(Arc::new(vec![0; 100])),
        Err(DumpError::TooShort { len: 100 })
    ));
    assert!(matches!(DumpFile::open(Arc::new(vec![0; 1 << 20])), Err(DumpError::NotADump { .. })));
}

#[test]
fn any_prefix_can_be_read() {
    let machine = Pretended { seed: 8, bad: true };
    let taken = take(&standard(&machine));
    let all = chunks(&taken.bytes);
    for cut in [all.len() / 3, all.len() / 2, all.len() - 2] {
        // In the middle of a chunk.
        let prefix = taken.bytes[..all[cut].0 + 300].to_vec();
        let dump = open(prefix.clone(), taken.identity.as_ref()).unwrap();
        assert!(dump.commit().is_none());
        let mut seen = 0;
        for (_, h) in all.iter().take(cut).filter(|(_, h)| h.kind == ChunkKind::Memory) {
            for page in h.first.0..h.first.0 + h.pages {
                assert!(!matches!(dump.memory().page(Pfn(page)).unwrap(), Page::NotCaptured));
                seen += 1;
            }
        }
        assert!(seen > 0);
        assert_eq!(dump.notes().unwrap(), support::notes());
        let v = verify_bytes(&prefix, taken.identity.as_ref());
        assert!(v.is_sound() && !v.committed && !v.is_complete(), "{:?}", v.findings);
        assert_eq!(v.good_chunks, cut as u64);
    }
}

#[test]
fn a_lost_header_is_taken_from_the_other_end() {
    let machine = Pretended { seed: 9, bad: true };
    let taken = take(&standard(&machine));
    let mut bytes = taken.bytes.clone();
    bytes[..DATA].fill(0xff);
    let dump = open(bytes.clone(), taken.identity.as_ref()).unwrap();
    assert_eq!(dump.warnings().len(), 1);
    check_all(&dump, &machine);
    let kinds: Vec<_> = verify_bytes(&bytes, None).findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FindingKind::Header, FindingKind::KeyArea]);
    // Without the commit record it must be searched for.
    let end = bytes.len() - BLOCK;
    bytes[end..].fill(0);
    let dump = open(bytes, taken.identity.as_ref()).unwrap();
    check_all(&dump, &machine);
}

#[test]
fn a_lost_index_is_replaced_by_a_scan() {
    let machine = Pretended { seed: 10, bad: true };
    let taken = take(&standard(&machine));
    let mut bytes = taken.bytes.clone();
    let at = usize::try_from(taken.record.index.0).unwrap() + 200;
    bytes[at] ^= 1;
    let dump = open(bytes, taken.identity.as_ref()).unwrap();
    assert!(dump.warnings()[0].starts_with("chunks were found by a scan"), "{:?}", dump.warnings());
    check_all(&dump, &machine);
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let machine = Pretended { seed: 11, bad: false };
    let taken = take(&standard(&machine));
    let other = Identities::parse(&generate_identity().secret).unwrap();
    let e = open(taken.bytes.clone(), Some(&other)).unwrap_err();
    assert!(matches!(e, DumpError::Crypt(CryptError::WrongKey)), "{e}");
    let e = open(taken.bytes.clone(), None).unwrap_err();
    assert!(e.to_string().contains("-i KEY"), "{e}");
    // Who has a key is not to be served a dump that anyone could have written.
    let clear = take(&support::Setup { encrypt: false, ..standard(&machine) });
    let e = open(clear.bytes, Some(&other)).unwrap_err();
    assert!(e.to_string().contains("not encrypted"), "{e}");
}

/// A slot whose capture was cut off: behind the last chunk lie older dumps and
/// whatever else, as far as the slot reaches.
#[test]
fn what_lies_behind_an_unfinished_dump_is_not_part_of_it() {
    struct Slot {
        head: Vec<u8>,
        old: Vec<u8>,
        len: u64,
        read: std::sync::atomic::AtomicU64,
    }
    impl lifeboat_field::dump::ReadAt for Slot {
        fn len(&self) -> u64 {
            self.len
        }
        fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> std::io::Result<()> {
            self.read.fetch_add(buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
            for (i, b) in buf.iter_mut().enumerate() {
                let at = off as usize + i;
                *b = match self.head.get(at) {
                    Some(b) => *b,
                    None => self.old.get(at).copied().unwrap_or(0x5a),
                };
            }
            Ok(())
        }
    }
    let machine = Pretended { seed: 13, bad: true };
    let taken = take(&standard(&machine));
    let all = chunks(&taken.bytes);
    // An older dump of the same shape lay here before; its chunks fit the places.
    let mut old = taken.bytes.clone();
    for (at, h) in &all {
        let foreign = ChunkHeader { dump_id: [1; 16], ..*h };
        old[*at..at + HEADER_LEN].copy_from_slice(&foreign.encode());
        old[at + HEADER_LEN + h.stored_len as usize - 1] ^= 1;
    }
    let cut = all[all.len() / 2].0 + 1024;
    let head = taken.bytes[..cut].to_vec();
    let slot = Arc::new(Slot { head, old, len: 1 << 40, read: 0.into() });
    let file = DumpFile::open(slot.clone()).unwrap();
    let v = file.verify(None, &|_| {});
    assert!(v.is_sound() && !v.committed, "{:?}", v.findings);
    assert_eq!((v.good_chunks, v.sha256), ((all.len() / 2) as u64, None));
    let dump = OpenDump::unlock(file, taken.identity.as_ref()).unwrap();
    assert!(matches!(
        dump.memory().page(Pfn(1)).unwrap(),
        Page::Data(_) | Page::Zero | Page::Fill(_) | Page::Unreadable
    ));
    let read = slot.read.load(std::sync::atomic::Ordering::Relaxed);
    assert!(read < 2 << 30, "{read} bytes read of a slot of 1 TiB");
}

/// Bytes that pass the first check of each structure, then go on at random.
fn hostile(base: &[u8], edits: &[(usize, u8)], cut: usize) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for (at, value) in edits {
        let at = at % bytes.len();
        bytes[at] = *value;
    }
    // Give what was damaged its checksums back, so that the contents are looked at.
    for (at, h) in chunks(base) {
        let stored = &bytes[at + HEADER_LEN..at + HEADER_LEN + h.stored_len as usize];
        let crc = lifeboat_format::crc32(stored).to_le_bytes();
        bytes[at + 80..at + 84].copy_from_slice(&crc);
        let crc = lifeboat_format::crc32(&bytes[at..at + HEADER_LEN - 4]).to_le_bytes();
        bytes[at + HEADER_LEN - 4..at + HEADER_LEN].copy_from_slice(&crc);
    }
    for at in [0, base.len() - 5 * BLOCK, base.len() - BLOCK] {
        let crc = lifeboat_format::crc32(&bytes[at..at + BLOCK - 4]).to_le_bytes();
        bytes[at + BLOCK - 4..at + BLOCK].copy_from_slice(&crc);
    }
    bytes.truncate(base.len() - cut.min(base.len()));
    bytes
}

/// Every read of a dump in the clear, whatever it says: no panic, no endless work.
/// True if it could be unlocked.
fn read_everything(bytes: Vec<u8>) -> bool {
    let Ok(file) = DumpFile::open(Arc::new(bytes)) else { return false };
    let Ok(opener) = file.opener(None) else { return false };
    let _ = file.verify(Some(&opener), &|_| {});
    let Ok(dump) = OpenDump::unlock(file, None) else { return false };
    let _ = (dump.log(), dump.notes(), dump.trailer());
    for page in [0, 1, 256, 300, 0x10_0000, 1 << 51] {
        let _ = dump.memory().page(Pfn(page));
    }
    let out = tempfile::tempfile().unwrap();
    let options =
        lifeboat_field::export::Options { threads: 1, skip_damaged: true, progress: None };
    let _ = lifeboat_field::export::elf::write(&dump, &out, &options);
    let out = tempfile::tempfile().unwrap();
    let _ = lifeboat_field::export::kdump::write(&dump, &out, Default::default(), &options);
    let out = tempfile::tempfile().unwrap();
    let _ = lifeboat_field::export::swap::write(&dump, 0, &out, &options);
    true
}

/// Random edits of a dump in the clear, most of them where they hurt.
#[test]
fn hostile_bytes_are_survived() {
    let machine = Pretended { seed: 12, bad: true };
    let base = take(&support::Setup {
        ranges: vec![lifeboat_format::PageRange::new(256, 400)],
        swap: vec![64 << 10],
        encrypt: false,
        level: None,
        log: b"log".to_vec(),
        workers: 1,
        ..standard(&machine)
    })
    .bytes;
    let heads = chunks(&base);
    let edits = proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6);
    // In a chunk's header, or in the first bytes of its payload: run tables, index
    // entries, records.
    let near = proptest::collection::vec((0usize..300, any::<u8>(), any::<usize>()), 0..6);
    let cut = prop_oneof![9 => Just(0), 1 => 0usize..100_000];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let counts = std::cell::Cell::new((0u32, 0u32));
    runner
        .run(&(edits, near, cut), |(mut edits, near, cut)| {
            edits.extend(near.iter().map(|(at, v, which)| (heads[which % heads.len()].0 + at, *v)));
            let (u, n) = counts.get();
            let open = read_everything(hostile(&base, &edits, cut));
            counts.set((u + u32::from(open), n + 1));
            Ok(())
        })
        .unwrap();
    let (unlocked, all) = counts.get();
    assert!(unlocked > all / 4, "only {unlocked} of {all} got as far as their contents");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn random_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40_000)) {
        let _ = read_everything(bytes);
    }
}
