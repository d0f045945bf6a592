//! Pages of one word, and pages that have the contents of another one: exported as if each
//! was stored by itself, wherever their source lies; never invented where it is lost.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod readers;
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use lifeboat_field::dump::{OpenDump, Page, PageSource};
use lifeboat_field::export::kdump::Compression;
use lifeboat_field::export::{ExportError, Options, Report, Why, elf, kdump, pipe, swap};
use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{ChunkHeader, ChunkKind, PAGE, Pfn};
use readers::{Kdump, elf_read, phdrs};
use support::{Machine, Setup, Taken, standard, take};

/// Zero pages, pages of one word, copies of some few pages, stretches of copies, noise.
struct Copies {
    bad: bool,
}

impl Copies {
    fn contents(&self, device: Option<u16>, page: u64) -> Option<Vec<u8>> {
        let seed = device.map_or(0, |d| 1 + u64::from(d));
        let x = (page ^ seed << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let noise = |seed: u64| {
            let mut s = seed.wrapping_mul(0xd134_2543_de82_ef95) | 1;
            let word = |_| {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                (s & 0x0f0f_ffff_0000_0f0f).to_le_bytes()
            };
            (0..PAGE / 8).flat_map(word).collect::<Vec<u8>>()
        };
        Some(match (x % 16, page / 100 % 5) {
            // A file of 40 pages that is in memory many times, and in swap.
            (_, 4) => noise(page % 100 % 40),
            (0..3, _) => vec![0; PAGE],
            (3..6, _) => (x % 3 + 1).to_le_bytes().repeat(PAGE / 8),
            (6..9, _) => noise(1000 + x % 7),
            (9, _) if self.bad && x.is_multiple_of(3) => return None,
            _ => noise(1_000_000 + (page << 8) + seed),
        })
    }
}

impl Machine for Copies {
    fn page(&self, device: Option<u16>, page: u64, out: &mut [u8]) -> bool {
        match self.contents(device, page) {
            Some(contents) => out.copy_from_slice(&contents),
            None => return false,
        }
        true
    }
}

fn read(out: &File) -> Vec<u8> {
    let mut bytes = vec![0; out.metadata().unwrap().len() as usize];
    out.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn elf_of(dump: &OpenDump, options: &Options<'_>) -> Result<(Vec<u8>, Report), ExportError> {
    let out = tempfile::tempfile().unwrap();
    let report = elf::write(dump, &out, options)?;
    Ok((read(&out), report))
}

/// By a pipe: pages as the ELF file has them, and the report.
fn piped(dump: &OpenDump, options: &Options<'_>) -> Result<(Vec<u8>, Report), ExportError> {
    let mut out = Vec::new();
    let told = Mutex::new((0, 1));
    let progress = |done, total| *told.lock().unwrap() = (done, total);
    let report = pipe::write(dump, &mut out, &Options { progress: Some(&progress), ..*options })?;
    assert_eq!(out.len() as u64, report.len);
    let pages = (report.data_pages + report.zero_pages) * PAGE as u64;
    assert_eq!(told.into_inner().unwrap(), (pages, pages), "progress comes to its end");
    Ok((out, report))
}

fn kdump_of(dump: &OpenDump, options: &Options<'_>) -> Result<(Kdump, Report), ExportError> {
    let out = tempfile::tempfile().unwrap();
    let report = kdump::write(dump, &out, Compression::Zstd, options)?;
    Ok((Kdump::open(read(&out)), report))
}

fn all_pages() -> impl Iterator<Item = u64> {
    support::ranges().into_iter().flat_map(|r| r.start.0..r.end.0)
}

#[test]
fn copies_are_exported_as_if_each_was_stored() {
    for (layered, bad, workers) in [(false, false, 1), (true, true, 2), (true, false, 1)] {
        let machine = Copies { bad };
        let setup = |dedup| Setup { layered, workers, dedup, ..standard(&machine) };
        let (with, without) = (take(&setup(true)), take(&setup(false)));
        for taken in [&with, &without] {
            let dump = taken.open().unwrap();
            let opener = dump.file().opener(taken.identity.as_ref()).unwrap();
            let verdict = dump.file().verify(Some(&opener), &|_| ());
            assert!(verdict.is_sound() && verdict.is_complete(), "{:?}", verdict.findings);
            assert_eq!(verdict.memory, (&taken.record.memory).into());
        }
        let counts = with.record.memory;
        assert!(counts.same > 2000 && counts.fill > 1000 && with.record.swap.same > 50);
        assert_eq!(without.record.memory.same, 0);
        let (with, without) = (with.open().unwrap(), without.open().unwrap());
        for skip_damaged in [false, true] {
            let options = Options { threads: 2, skip_damaged, progress: None };
            let (bytes, report) = elf_of(&with, &options).unwrap();
            let (want, other) = elf_of(&without, &options).unwrap();
            assert!(bytes == want, "layered {layered}, bad {bad}, skip {skip_damaged}");
            assert_eq!(report.data_pages, counts.data + counts.same + counts.fill);
            assert_eq!(report.missing, other.missing);
            let (by_pipe, piped) = piped(&with, &options).unwrap();
            assert_eq!(
                (piped.data_pages, piped.zero_pages),
                (report.data_pages, report.zero_pages)
            );
            assert_eq!(piped.missing, other.missing);
            let (heads, others) = (phdrs(&by_pipe), phdrs(&bytes));
            for page in all_pages().filter(|p| *p != 0x9f) {
                let page = page * 4096;
                let (a, b) =
                    (elf_read(&by_pipe, &heads, page, PAGE), elf_read(&bytes, &others, page, PAGE));
                assert!(a == b && b.is_some() == machine.contents(None, page / 4096).is_some());
            }
            let (k, report) = kdump_of(&with, &options).unwrap();
            assert_eq!(report.data_pages, counts.data + counts.same + counts.fill);
            assert_eq!(report.missing, other.missing);
            for page in all_pages() {
                assert!(k.page(page) == machine.contents(None, page), "page {page:#x}");
            }
            let (plain, _) = kdump_of(&without, &options).unwrap();
            assert!(k.bytes.len() < plain.bytes.len() * 9 / 10, "their data is there once");
            for device in 0..2u16 {
                let out = tempfile::tempfile().unwrap();
                let report = swap::write(&with, device, &out, &options).unwrap();
                let image = read(&out);
                for (page, bytes) in (0..).zip(image.chunks(PAGE)) {
                    let want = machine.contents(Some(device), page);
                    let want = want.unwrap_or_else(|| vec![0; PAGE]);
                    assert!(bytes == &want[..bytes.len()], "page {page} of swap {device}");
                }
                let lost = (0..image.len().div_ceil(PAGE) as u64)
                    .filter(|p| machine.contents(Some(device), *p).is_none());
                assert_eq!(report.missing_pages(), lost.count() as u64);
            }
        }
    }
}

/// Memory chunks of a dump: offset and header.
fn chunks(bytes: &[u8]) -> Vec<(usize, ChunkHeader)> {
    let (mut at, mut out) = (4 * 4096, Vec::new());
    while let Ok(h) = ChunkHeader::decode(&bytes[at..]) {
        if h.kind == ChunkKind::Memory {
            out.push((at, h));
        }
        at += h.frame_len() as usize;
    }
    out
}

/// Makes runs of class fill in a stored dump in the clear name a source instead: what
/// `source` says of their first page, if anything. Gives pages and sources.
fn forge(taken: &mut Taken, source: impl Fn(u64) -> Option<u64>) -> BTreeMap<u64, u64> {
    let mut made = BTreeMap::new();
    for (at, h) in chunks(&taken.bytes) {
        let word =
            |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let table = at + HEADER_LEN + 4;
        let entries = u64::from(taken.bytes[table - 4]) | u64::from(taken.bytes[table - 3]) << 8;
        let (mut n, mut page) = (0, h.first.0);
        while n < entries as usize {
            let run = word(&taken.bytes, table + 8 * n);
            let (class, count) = (run >> 56, run & 0xff_ffff);
            if class == 5
                && let Some(from) = source(page)
            {
                taken.bytes[table + 8 * n + 7] = 6;
                taken.bytes[table + 8 * n + 8..][..8].copy_from_slice(&from.to_le_bytes());
                made.extend((0..count).map(|i| (page + i, from + i)));
            }
            (n, page) = (n + if class > 4 { 2 } else { 1 }, page + count);
        }
        let stored = &taken.bytes[at + HEADER_LEN..at + HEADER_LEN + h.stored_len as usize];
        let new = ChunkHeader { payload_crc: lifeboat_format::crc32(stored), ..h };
        taken.bytes[at..at + HEADER_LEN].copy_from_slice(&new.encode());
    }
    made
}

fn in_the_clear(machine: &Copies) -> Setup<'_> {
    Setup { encrypt: false, level: None, swap: vec![], workers: 1, ..standard(machine) }
}

/// Whether a page's contents are stored.
fn is_data(machine: &Copies, page: u64) -> bool {
    let contents = machine.contents(None, page).unwrap();
    let captured = support::ranges().iter().any(|r| (r.start.0..r.end.0).contains(&page));
    captured && contents.chunks(8).any(|w| w != &contents[..8])
}

/// A source may come before or behind, far away or in the same chunk.
#[test]
fn a_source_may_lie_anywhere() {
    let machine = Copies { bad: false };
    for (layered, far) in [(false, -1i64), (false, 1), (false, -3000), (true, 3000)] {
        let mut taken = take(&Setup { layered, ..in_the_clear(&machine) });
        let made = forge(&mut taken, |page| {
            let from = page.checked_add_signed(far)?;
            is_data(&machine, from).then_some(from)
        });
        assert!(made.len() > 100, "{far}: {}", made.len());
        let dump = taken.open().unwrap();
        // A run of several pages may come to one that is not stored: those are lost.
        let want = |page: u64| match made.get(&page) {
            Some(from) => is_data(&machine, *from).then(|| machine.contents(None, *from).unwrap()),
            None => machine.contents(None, page),
        };
        check(&dump, &want, Why::Damaged);
    }
}

/// What both exports and a look-up say, compared with `want`.
fn check(dump: &OpenDump, want: &dyn Fn(u64) -> Option<Vec<u8>>, why: Why) {
    let lost: Vec<u64> = all_pages().filter(|p| want(*p).is_none()).collect();
    let options = Options { threads: 2, skip_damaged: why == Why::Damaged, progress: None };
    let (bytes, report) = elf_of(dump, &options).unwrap();
    let (k, second) = kdump_of(dump, &options).unwrap();
    assert_eq!(report.missing, second.missing);
    let told: Vec<u64> =
        report.missing.iter().flat_map(|m| m.pages.start.0..m.pages.end.0).collect();
    assert_eq!(told, lost);
    assert!(report.missing.iter().all(|m| m.why == why), "{:?}", report.missing);
    let heads = phdrs(&bytes);
    let (by_pipe, third) = piped(dump, &options).unwrap();
    assert_eq!(third.missing, report.missing);
    let others = phdrs(&by_pipe);
    for page in all_pages() {
        let want = want(page);
        assert!(k.page(page) == want, "page {page:#x}, kdump");
        // The machine's low memory ends within a page.
        if page != 0x9f {
            assert!(elf_read(&bytes, &heads, page * 4096, PAGE) == want, "page {page:#x}, ELF");
            assert!(elf_read(&by_pipe, &others, page * 4096, PAGE) == want, "page {page:#x}, pipe");
        }
        let found = match dump.memory().page(Pfn(page)).unwrap() {
            Page::Data(bytes) => Some(bytes.to_vec()),
            Page::Fill(word) => Some(word.to_le_bytes().repeat(PAGE / 8)),
            Page::Zero => Some(vec![0; PAGE]),
            _ => None,
        };
        assert!(found == want, "page {page:#x}, looked up");
    }
    let verdict = dump.file().verify(Some(&dump.file().opener(None).unwrap()), &|_| ());
    assert!(verdict.missing_known);
    let named: Vec<u64> = verdict.missing.iter().flat_map(|m| m.first..m.end).collect();
    assert_eq!(named, lost, "what a verification misses");
    // Nothing is left in the file of what was noted on the way; every page has its place.
    let all: Vec<u64> = all_pages().collect();
    let rank = |page| all.binary_search(&page).unwrap() * PAGE;
    let data_at = heads[1][1] as usize - rank(heads[1][3] / 4096);
    for page in lost {
        let place = bytes.get(data_at + rank(page)..).unwrap_or_default();
        assert!(place.iter().take(PAGE).all(|b| *b == 0), "page {page:#x}");
    }
}

#[test]
fn what_names_no_stored_page_is_missing_and_never_invented() {
    let machine = Copies { bad: false };
    let first = |is: &dyn Fn(&[u8]) -> bool| {
        all_pages().find(|p| is(&machine.contents(None, *p).unwrap())).unwrap()
    };
    let zero = first(&|c| c.iter().all(|b| *b == 0));
    let word = first(&|c| c[0] != 0 && c.chunks(8).all(|w| w == &c[..8]));
    for source in [zero, word, 0xf0, (1 << 52) - 200] {
        let mut taken = take(&in_the_clear(&machine));
        let made = forge(&mut taken, |page| page.is_multiple_of(3).then_some(source));
        assert!(made.len() > 100);
        let dump = taken.open().unwrap();
        // The commit record promised these pages.
        let e = elf_of(&dump, &Options::default()).unwrap_err();
        assert!(matches!(e, ExportError::Contradiction { .. }), "{e}");
        let e = kdump_of(&dump, &Options::default()).err().unwrap();
        assert!(matches!(e, ExportError::Contradiction { .. }), "{e}");
        let want = |page: u64| match made.get(&page) {
            Some(from) => is_data(&machine, *from).then(|| machine.contents(None, *from).unwrap()),
            None => machine.contents(None, page),
        };
        check(&dump, &want, Why::Damaged);
        // Without a commit record nobody promised them.
        let len = taken.bytes.len();
        taken.bytes.truncate(len - 4096);
        check(&taken.open().unwrap(), &want, Why::NotCaptured);
    }
}

/// The chunk that holds a source is damaged: all that equal it go with it.
#[test]
fn damage_to_a_source_is_told_of_all_that_equal_it() {
    let machine = Copies { bad: false };
    let mut taken = take(&Setup { dedup: true, workers: 1, swap: vec![], ..standard(&machine) });
    let whole = taken.open().unwrap();
    let (at, h) = *chunks(&taken.bytes).iter().find(|(_, h)| h.data_pages > 40).unwrap();
    taken.bytes[at + HEADER_LEN + 20] ^= 1;
    let dump = taken.open().unwrap();
    let e = elf_of(&dump, &Options::default()).unwrap_err();
    assert!(matches!(e, ExportError::Dump(_)), "{e}");
    let options = Options { skip_damaged: true, ..Options::default() };
    let (bytes, report) = elf_of(&dump, &options).unwrap();
    let lost: Vec<u64> =
        report.missing.iter().flat_map(|m| m.pages.start.0..m.pages.end.0).collect();
    assert!(lost.len() as u64 > h.pages, "{} and {}", lost.len(), h.pages);
    assert!(report.missing.iter().all(|m| m.why == Why::Damaged));
    let (want, _) = elf_of(&whole, &Options::default()).unwrap();
    let (heads, all) = (phdrs(&bytes), phdrs(&want));
    for page in all_pages().filter(|p| *p != 0x9f) {
        let found = elf_read(&bytes, &heads, page * 4096, PAGE);
        assert_eq!(found.is_none(), lost.contains(&page), "page {page:#x}");
        let right = elf_read(&want, &all, page * 4096, PAGE);
        assert!(found.is_none() || found == right, "page {page:#x}");
    }
    let (k, second) = kdump_of(&dump, &options).unwrap();
    assert_eq!(second.missing, report.missing);
    assert!(all_pages().all(|p| k.page(p).is_none() == lost.contains(&p)));
}
