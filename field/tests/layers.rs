//! Dumps whose memory was captured in the order of its worth, layer by layer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod support;

use std::sync::Arc;

use lifeboat_field::dump::{
    DumpFile, FindingKind, MissingPages, Page, PageSource, SealState, Verdict,
};
use lifeboat_field::export::kdump::{self, Compression};
use lifeboat_field::export::{ExportError, Missing, Options, Why, elf};
use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{BLOCK, ChunkHeader, ChunkKind, Layer, PageRange, Pfn};
use support::rig::layer_of;
use support::{Kind, Pretended, Setup, Taken, fill, standard, take};

fn chunks(bytes: &[u8]) -> Vec<(usize, ChunkHeader)> {
    let (mut at, mut out) = (4 * BLOCK, Vec::new());
    while let Ok(h) = ChunkHeader::decode(&bytes[at..]) {
        out.push((at, h));
        at += h.frame_len() as usize;
    }
    out
}

fn all_pages() -> impl Iterator<Item = u64> {
    support::ranges().into_iter().flat_map(|r| r.start.0..r.end.0)
}

fn verify(taken: &Taken, bytes: Vec<u8>) -> Verdict {
    let file = DumpFile::open(Arc::new(bytes)).unwrap();
    let opener = file.opener(taken.identity.as_ref()).unwrap();
    file.verify(Some(&opener), &|_| {})
}

fn matches(machine: &Pretended, page: u64, got: &Page) -> bool {
    let kind = machine.kind(None, page);
    let mut want = vec![0; 4096];
    fill(kind, &mut want);
    match (got, kind) {
        (Page::Data(bytes), Kind::Text(_) | Kind::Noise(_)) => bytes[..] == want[..],
        (Page::Fill(word), Kind::Word(x)) => *word == x,
        (Page::Zero, Kind::Zero) | (Page::Unreadable, Kind::Bad) => true,
        _ => false,
    }
}

#[test]
fn every_page_is_found_in_its_layer() {
    for (seed, bad, encrypt) in [(41, true, true), (42, false, false)] {
        let machine = Pretended { seed, bad };
        let taken = take(&Setup { layered: true, encrypt, ..standard(&machine) });
        let layers: std::collections::BTreeSet<Layer> =
            chunks(&taken.bytes).iter().map(|(_, h)| h.layer).collect();
        assert_eq!(layers.len(), 5, "four of memory, and the one of all else: {layers:?}");
        let dump = taken.open().unwrap();
        assert!(dump.warnings().is_empty(), "{:?}", dump.warnings());
        for page in all_pages() {
            let got = dump.memory().page(Pfn(page)).unwrap();
            assert!(matches(&machine, page, &got), "page {page}: {got:?}");
        }
        for outside in [0, 0xa0, 0x2300, 0x10_0309] {
            let got = dump.memory().page(Pfn(outside)).unwrap();
            assert!(matches!(got, Page::NotCaptured), "{outside}: {got:?}");
        }
        let v = verify(&taken, taken.bytes.clone());
        assert!(v.is_sound() && v.is_complete() && v.missing_known, "{:?}", v.findings);
        assert!(v.missing.is_empty());
        assert!(v.memory.agrees(&taken.record.memory));
        let seal = if encrypt { SealState::Ok } else { SealState::NotSealed };
        assert!(v.chunks.iter().all(|c| c.checksum && c.seal == seal));
        assert_eq!(v.chunks.len() as u64, taken.record.chunks);
    }
}

/// The bytes of an export do not depend on the order in which memory was captured.
#[test]
fn exports_of_layers_are_those_of_plain_order() {
    for bad in [false, true] {
        let machine = Pretended { seed: 43, bad };
        let (plain, layered) = (
            take(&standard(&machine)).open().unwrap(),
            take(&Setup { layered: true, ..standard(&machine) }).open().unwrap(),
        );
        for skip_damaged in [false, true] {
            let options = Options { threads: 2, skip_damaged, progress: None };
            let run = |dump| {
                let out = tempfile::tempfile().unwrap();
                let report = elf::write(dump, &out, &options).unwrap();
                (read(&out), report.missing, report.data_pages, report.zero_pages)
            };
            assert!(run(&plain) == run(&layered), "bad {bad}, skip {skip_damaged}");
            // Data lies in another order there, so pages are compared one by one.
            let out = tempfile::tempfile().unwrap();
            kdump::write(&layered, &out, Compression::Zlib, &options).unwrap();
            let k = Kdump(read(&out));
            for page in all_pages() {
                let kind = machine.kind(None, page);
                let mut want = vec![0; 4096];
                fill(kind, &mut want);
                let want = (kind != Kind::Bad).then_some(want);
                assert!(k.page(page) == want, "page {page:#x}");
            }
        }
    }
}

fn read(file: &std::fs::File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A reader of makedumpfile's format, zlib only.
struct Kdump(Vec<u8>);
impl Kdump {
    fn word(&self, at: usize, len: usize) -> usize {
        let mut v = [0; 8];
        v[..len].copy_from_slice(&self.0[at..at + len]);
        u64::from_le_bytes(v) as usize
    }
    fn page(&self, page: u64) -> Option<Vec<u8>> {
        use std::io::Read;
        let half = self.word(436, 4) / 2 * 4096;
        let second = 4096 + self.word(432, 4) * 4096 + half;
        let bit = |p: usize| self.0[second + p / 8] & (1 << (p % 8)) != 0;
        let page = page as usize;
        let whole: usize =
            self.0[second..second + page / 8].iter().map(|b| b.count_ones() as usize).sum();
        let before = whole + (page / 8 * 8..page).filter(|p| bit(*p)).count();
        bit(page).then(|| {
            let desc = second + half + before * 24;
            let data = &self.0[self.word(desc, 8)..][..self.word(desc + 8, 4)];
            if self.word(desc + 12, 4) & 1 == 0 {
                return data.to_vec();
            }
            let mut out = Vec::new();
            flate2::read::ZlibDecoder::new(data).read_to_end(&mut out).unwrap();
            out
        })
    }
}

#[test]
fn a_full_partition_costs_the_least_valuable_layers() {
    let machine = Pretended { seed: 44, bad: false };
    let taken =
        take(&Setup { layered: true, level: None, rooms: vec![14 << 20], ..standard(&machine) });
    let dump = taken.open().unwrap();
    assert!(!dump.file().is_complete());
    let mut lost = Vec::new();
    for page in all_pages() {
        match dump.memory().page(Pfn(page)).unwrap() {
            Page::NotCaptured => lost.push(page),
            got => assert!(matches(&machine, page, &got), "page {page}"),
        }
    }
    assert!(!lost.is_empty());
    assert!(lost.iter().all(|p| layer_of(*p) != Layer::Kernel), "the kernel was captured first");
    // The export and the verification name exactly these pages, and no zeros stand in.
    let out = tempfile::tempfile().unwrap();
    let report = elf::write(&dump, &out, &Options::default()).unwrap();
    let told = |all: Vec<(u64, u64)>| all.into_iter().flat_map(|(a, b)| a..b).collect::<Vec<_>>();
    assert!(report.missing.iter().all(|m| m.why == Why::NotCaptured));
    let missing = report.missing.iter().map(|m| (m.pages.start.0, m.pages.end.0)).collect();
    assert_eq!(told(missing), lost);
    let v = verify(&taken, taken.bytes.clone());
    assert!(v.is_sound() && !v.is_complete(), "{:?}", v.findings);
    let memory = v.missing.iter().filter(|m| m.space == "memory");
    assert_eq!(told(memory.map(|m| (m.first, m.end)).collect()), lost);
    assert!(v.missing.contains(&MissingPages { space: "swap", device: 0, first: 0, end: 768 }));
}

/// A damaged chunk hides its own pages and no other layer's.
#[test]
fn damage_to_one_layer_leaves_the_others() {
    let machine = Pretended { seed: 45, bad: false };
    let taken = take(&Setup { layered: true, ..standard(&machine) });
    let all = chunks(&taken.bytes);
    let (at, hit) = all
        .iter()
        .find(|(_, h)| h.layer == Layer::User && u64::from(h.data_pages) < h.pages / 2)
        .unwrap();
    let mut bytes = taken.bytes.clone();
    bytes[at + HEADER_LEN + 5] ^= 1;
    let dump = support::open(bytes.clone(), taken.identity.as_ref()).unwrap();
    let (mut own, mut others) = (Vec::new(), 0);
    for page in hit.first.0..hit.first.0 + hit.pages {
        match dump.memory().page(Pfn(page)) {
            Ok(got) => {
                assert!(matches(&machine, page, &got) && layer_of(page) != Layer::User);
                others += 1;
            }
            Err(_) => own.push(page),
        }
    }
    assert!(own.iter().all(|p| layer_of(*p) == Layer::User) && !own.is_empty() && others > 0);
    let out = tempfile::tempfile().unwrap();
    assert!(elf::write(&dump, &out, &Options::default()).is_err());
    let out = tempfile::tempfile().unwrap();
    let options = Options { skip_damaged: true, ..Options::default() };
    let report = elf::write(&dump, &out, &options).unwrap();
    let missing: Vec<u64> =
        report.missing.iter().flat_map(|m| m.pages.start.0..m.pages.end.0).collect();
    assert!(report.missing.iter().all(|m| m.why == Why::Damaged));
    assert_eq!(missing, own);
    let v = verify(&taken, bytes);
    let told: Vec<u64> = v.missing.iter().flat_map(|m| m.first..m.end).collect();
    assert_eq!(told, own);
    assert_eq!(v.chunks.iter().filter(|c| !c.checksum).count(), 1);
}

/// A dump in the clear, made to hold a page twice and another one never.
#[test]
fn a_page_in_two_layers_is_a_finding_and_never_exported_quietly() {
    let machine = Pretended { seed: 46, bad: false };
    let setup = Setup {
        layered: true,
        workers: 1,
        encrypt: false,
        level: None,
        swap: vec![],
        ..standard(&machine)
    };
    let taken = take(&setup);
    // A chunk of the second layer disowns its first run and takes the next, which is
    // the first layer's.
    let mut bytes = taken.bytes.clone();
    let (at, h) = *chunks(&bytes)
        .iter()
        .find(|(at, h)| {
            let table = &taken.bytes[at + HEADER_LEN + 4..];
            h.layer == Layer::User && h.kind == ChunkKind::Memory && (table[7], table[15]) == (1, 4)
        })
        .expect("a chunk that begins with zero pages and goes on with other layers'");
    let table = at + HEADER_LEN + 4;
    bytes[table + 7] = 4;
    bytes[table + 15] = 1;
    let stored = &bytes[at + HEADER_LEN..at + HEADER_LEN + h.stored_len as usize];
    let new = ChunkHeader { payload_crc: lifeboat_format::crc32(stored), ..h };
    bytes[at..at + HEADER_LEN].copy_from_slice(&new.encode());
    let run =
        |i: usize| u64::from_le_bytes(bytes[table + i * 8..][..8].try_into().unwrap()) & 0xffff;
    let (gone, taken_too) = (h.first.0..h.first.0 + run(0), h.first.0 + run(0));
    let twice = (taken_too..taken_too + run(1)).find(|p| layer_of(*p) == Layer::Kernel).unwrap();
    let v = verify(&taken, bytes.clone());
    assert!(v.findings.iter().any(|f| f.kind == FindingKind::Overlap), "{:?}", v.findings);
    assert!(
        v.missing.iter().any(|m| m.first == gone.start && m.end == gone.end),
        "{:?}",
        v.missing
    );
    let dump = support::open(bytes, None).unwrap();
    // The first layer wins a look-up; what nobody holds is not zero.
    assert!(matches(&machine, twice, &dump.memory().page(Pfn(twice)).unwrap()));
    assert!(matches!(dump.memory().page(Pfn(gone.start)).unwrap(), Page::NotCaptured));
    let out = tempfile::tempfile().unwrap();
    let e = elf::write(&dump, &out, &Options::default()).unwrap_err();
    assert!(matches!(e, ExportError::Contradiction { .. }), "{e}");
    let out = tempfile::tempfile().unwrap();
    let e = kdump::write(&dump, &out, Compression::Zlib, &Options::default()).unwrap_err();
    assert!(matches!(e, ExportError::Contradiction { .. }), "{e}");
    let options = Options { skip_damaged: true, ..Options::default() };
    let out = tempfile::tempfile().unwrap();
    let report = elf::write(&dump, &out, &options).unwrap();
    let pages = PageRange::new(gone.start, gone.end);
    assert_eq!(report.missing, [Missing { pages, why: Why::NotCaptured }]);
}

/// A file that ends where a chunk ends has no damage to find: what is missing is named.
#[test]
fn truncation_between_chunks_names_the_missing_memory() {
    let machine = Pretended { seed: 47, bad: true };
    for layered in [false, true] {
        let taken = take(&Setup { layered, ..standard(&machine) });
        let all = chunks(&taken.bytes);
        let memory: Vec<_> = all.iter().filter(|(_, h)| h.kind == ChunkKind::Memory).collect();
        let (cut, _) = memory[memory.len() / 2];
        let v = verify(&taken, taken.bytes[..*cut].to_vec());
        assert!(v.is_sound() && !v.is_complete() && v.missing_known, "{:?}", v.findings);
        let told: Vec<u64> =
            v.missing.iter().filter(|m| m.space == "memory").flat_map(|m| m.first..m.end).collect();
        let dump = support::open(taken.bytes[..*cut].to_vec(), taken.identity.as_ref()).unwrap();
        let want: Vec<u64> = all_pages()
            .filter(|p| matches!(dump.memory().page(Pfn(*p)).unwrap(), Page::NotCaptured))
            .collect();
        assert!(!want.is_empty());
        assert_eq!(told, want);
        assert_eq!(v.missing_pages, want.len() as u64 + 768 + 257);
    }
}
