//! What is exported, read back by readers that share no code with the writers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod readers;
mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use lifeboat_field::dump::OpenDump;
use lifeboat_field::export::kdump::Compression;
use lifeboat_field::export::{ExportError, Missing, Options, Report, Why, elf, kdump, swap};
use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{ChunkHeader, ChunkKind, PageRange};
use readers::{Kdump, elf_read, phdrs, u32_at, u64_at};
use support::{Kind, Machine, Pretended, Setup, fill, standard, take};

type Export = fn(&OpenDump, &File, &Options<'_>) -> Result<Report, ExportError>;

fn export(dump: &OpenDump, how: Export, threads: usize) -> (Vec<u8>, Report, u64) {
    let out = tempfile::tempfile().unwrap();
    let report = how(dump, &out, &Options { threads, ..Options::default() }).unwrap();
    let meta = out.metadata().unwrap();
    assert_eq!(meta.len(), report.len);
    let mut bytes = vec![0; meta.len() as usize];
    out.read_exact_at(&mut bytes, 0).unwrap();
    (bytes, report, meta.blocks() * 512)
}

fn zlib(d: &OpenDump, f: &File, o: &Options<'_>) -> Result<Report, ExportError> {
    kdump::write(d, f, Compression::Zlib, o)
}
fn zstd_(d: &OpenDump, f: &File, o: &Options<'_>) -> Result<Report, ExportError> {
    kdump::write(d, f, Compression::Zstd, o)
}
fn swap0(d: &OpenDump, f: &File, o: &Options<'_>) -> Result<Report, ExportError> {
    swap::write(d, 0, f, o)
}
fn swap1(d: &OpenDump, f: &File, o: &Options<'_>) -> Result<Report, ExportError> {
    swap::write(d, 1, f, o)
}

/// Missing pages of memory that are unreadable, by a plain loop.
fn bad_pages(machine: &Pretended) -> Vec<u64> {
    support::ranges()
        .iter()
        .flat_map(|r| r.start.0..r.end.0)
        .filter(|p| machine.kind(None, *p) == Kind::Bad)
        .collect()
}

fn listed(report: &Report) -> Vec<u64> {
    report.missing.iter().flat_map(|m| m.pages.start.0..m.pages.end.0).collect()
}

#[test]
fn an_elf_vmcore_holds_every_page_and_no_invented_one() {
    for bad in [false, true] {
        let machine = Pretended { seed: 21, bad };
        let dump = take(&standard(&machine)).open().unwrap();
        let (bytes, report, blocks) = export(&dump, elf::write, 2);
        let heads = phdrs(&bytes);
        assert_eq!(heads[0][0], 4);
        let notes = support::notes();
        assert_eq!(bytes[heads[0][1] as usize..][..notes.len()], notes);
        assert_eq!(listed(&report), bad_pages(&machine));
        assert_eq!(report.missing.is_empty(), !bad);
        let (mut want, mut data) = (vec![0; 4096], 0u64);
        for page in support::ranges().iter().flat_map(|r| r.start.0..r.end.0) {
            // Low memory ends within page 0x9f.
            let len = if page == 0x9f { 0xc00 } else { 4096 };
            let kind = machine.kind(None, page);
            fill(kind, &mut want);
            let got = elf_read(&bytes, &heads, page * 4096, len);
            match kind {
                Kind::Bad => assert_eq!(got, None, "page {page:#x}"),
                _ => assert_eq!(got.as_deref(), Some(&want[..len]), "page {page:#x}"),
            }
            data += u64::from(matches!(kind, Kind::Text(_) | Kind::Noise(_) | Kind::Word(_)));
        }
        assert_eq!(report.data_pages, data);
        assert!(blocks <= data * 4096 + 65536, "not sparse: {blocks} for {data} pages");
        // The kernel's text keeps its address and shares its RAM's bytes.
        for p in heads.iter().filter(|p| p[2] >= support::TEXT) {
            assert_eq!(p[2] - support::TEXT, p[3] - support::TEXT_AT);
            let ram = heads
                .iter()
                .find(|r| r[0] == 1 && r[2] < support::TEXT && r[3] <= p[3] && p[3] < r[3] + r[4]);
            let ram = ram.unwrap();
            assert_eq!(p[1] - ram[1], p[3] - ram[3]);
        }
        for p in heads.iter().filter(|p| p[0] == 1) {
            assert!(p[4] == p[5] && p[4] > 0 && p[1] + p[4] <= bytes.len() as u64);
        }
        let covered: u64 = heads.iter().filter(|p| p[2] >= support::TEXT).map(|p| p[4]).sum();
        let text_bad =
            bad_pages(&machine).iter().filter(|p| (0x300..0x380).contains(*p)).count() as u64;
        assert_eq!(covered, support::TEXT_LEN - text_bad * 4096);
    }
}

#[test]
fn a_text_segment_without_ram_around_it_gets_its_own() {
    let machine = Pretended { seed: 22, bad: false };
    let ranges = vec![PageRange::new(0x300, 0x380), PageRange::new(0x500, 0x510)];
    let loads =
        [(support::TEXT_AT, support::TEXT_LEN, support::TEXT), (0x50_0000, 0x1_0000, 5 << 40)];
    let setup = Setup { ranges, elfcorehdr: support::elfcorehdr(&loads), ..standard(&machine) };
    let dump = take(&setup).open().unwrap();
    let (bytes, report, _) = export(&dump, elf::write, 1);
    assert!(report.missing.is_empty());
    let heads = phdrs(&bytes);
    assert_eq!(heads.len(), 3);
    let mut want = vec![0; 4096];
    for page in (0x300..0x380).chain(0x500..0x510) {
        fill(machine.kind(None, page), &mut want);
        assert_eq!(elf_read(&bytes, &heads, page * 4096, 4096).unwrap(), want);
    }
}

#[test]
fn kdump_files_hold_every_page_and_no_invented_one() {
    for (how, bad) in [(zlib as Export, true), (zstd_, false)] {
        let machine = Pretended { seed: 23, bad };
        let dump = take(&standard(&machine)).open().unwrap();
        let (bytes, report, _) = export(&dump, how, 2);
        assert_eq!(listed(&report), bad_pages(&machine));
        let k = Kdump::open(bytes);
        let mut want = vec![0; 4096];
        for page in (0..0x2400).chain(0xf_fff0..0x10_0400) {
            let inside = support::ranges().iter().any(|r| (r.start.0..r.end.0).contains(&page));
            assert_eq!(Kdump::bit(&k.bitmap1, page), inside, "bitmap 1, page {page:#x}");
            let kind = machine.kind(None, page);
            fill(kind, &mut want);
            match (inside, kind) {
                (true, Kind::Text(_) | Kind::Noise(_) | Kind::Word(_) | Kind::Zero) => {
                    assert_eq!(k.page(page).as_deref(), Some(&want[..]), "page {page:#x}");
                }
                _ => assert_eq!(k.page(page), None, "page {page:#x}"),
            }
        }
        let notes = support::notes();
        let note_at = u64_at(&k.bytes, 4096 + 48) as usize;
        assert_eq!(k.bytes[note_at..][..u64_at(&k.bytes, 4096 + 56) as usize], notes);
        let info_at = u64_at(&k.bytes, 4096 + 32) as usize;
        assert!(k.bytes[info_at..].starts_with(b"OSRELEASE=6.1.0-test\n"));
        assert_eq!(u64_at(&k.bytes, 4096).cast_signed(), -1_048_576);
        assert_eq!(u64_at(&k.bytes, 4096 + 96), 0x10_0309);
        assert_eq!(u32_at(&k.bytes, 460), 2);
        assert_eq!(u64_at(&k.bytes, 408), 1_700_000_000);
        let uts = |i: usize| lifeboat_format::field_text(&k.bytes[12 + i * 65..][..65]);
        assert_eq!([uts(0), uts(1), uts(2), uts(4)], ["Linux", "db7", "6.1.0-test", "x86_64"]);
    }
}

#[test]
fn threads_do_not_change_the_bytes() {
    let machine = Pretended { seed: 24, bad: true };
    let taken = take(&standard(&machine));
    for how in [elf::write as Export, zlib, zstd_, swap0] {
        let dump = taken.open().unwrap();
        let one = export(&dump, how, 1).0;
        for threads in [2, 5] {
            assert!(export(&dump, how, threads).0 == one);
        }
    }
}

#[test]
fn a_swap_image_is_the_device_and_its_holes_are_listed() {
    for bad in [false, true] {
        let machine = Pretended { seed: 25, bad };
        let setup = standard(&machine);
        let dump = take(&setup).open().unwrap();
        for (device, how) in [(0u16, swap0 as Export), (1, swap1)] {
            let (bytes, report, _) = export(&dump, how, 2);
            let len = setup.swap[usize::from(device)];
            assert_eq!(bytes.len() as u64, len);
            let mut want = vec![0; len.next_multiple_of(4096) as usize];
            let mut missing = String::new();
            for (page, space) in want.chunks_mut(4096).enumerate() {
                if !machine.page(Some(device), page as u64, space) {
                    missing += &format!("{} {} unreadable\n", page * 4096, (page + 1) * 4096);
                }
            }
            assert!(bytes[..] == want[..len as usize]);
            assert_eq!(report.is_complete(), missing.is_empty());
            let mut told = Vec::new();
            report.write_missing(&mut told).unwrap();
            // Neighbours are joined in the listing: compare pages.
            let pages: usize = missing.lines().count();
            assert_eq!(report.missing_pages(), pages as u64);
            assert!(bad == (pages > 0) && told.is_empty() == missing.is_empty());
        }
    }
}

#[test]
fn a_dump_that_did_not_fit_tells_what_it_lacks() {
    let machine = Pretended { seed: 26, bad: false };
    let taken = take(&Setup { level: None, rooms: vec![14 << 20], ..standard(&machine) });
    let dump = taken.open().unwrap();
    assert!(!dump.file().is_complete());
    for how in [elf::write as Export, zlib] {
        let (_, report, _) = export(&dump, how, 2);
        assert!(!report.is_complete());
        assert!(report.missing.iter().all(|m| m.why == Why::NotCaptured));
        let all: u64 = support::ranges().iter().map(|r| r.pages()).sum();
        assert_eq!(report.data_pages + report.zero_pages + report.missing_pages(), all);
    }
    let (bytes, report, _) = export(&dump, swap0, 2);
    assert_eq!(report.missing, [Missing { pages: PageRange::new(0, 768), why: Why::NotCaptured }]);
    assert_eq!(bytes.len(), 3 << 20);
}

#[test]
fn damage_fails_an_export_unless_it_is_to_be_skipped() {
    let machine = Pretended { seed: 27, bad: false };
    let mut taken = take(&standard(&machine));
    let (mut at, mut hit) = (16384, None);
    while let Ok(h) = ChunkHeader::decode(&taken.bytes[at..]) {
        if h.kind == ChunkKind::Memory && h.data_pages > 0 {
            hit = Some((at, h));
        }
        at += h.frame_len() as usize;
    }
    let (at, header) = hit.unwrap();
    taken.bytes[at + HEADER_LEN + 7] ^= 4;
    let dump = taken.open().unwrap();
    let pages = PageRange::new(header.first.0, header.first.0 + header.pages);
    for how in [elf::write as Export, zlib, zstd_] {
        let out = tempfile::tempfile().unwrap();
        let e = how(&dump, &out, &Options::default()).unwrap_err().to_string();
        assert!(e.contains("physical memory 0x") && e.contains("hint: "), "{e}");
        let options = Options { skip_damaged: true, ..Options::default() };
        let out = tempfile::tempfile().unwrap();
        let report = how(&dump, &out, &options).unwrap();
        assert_eq!(report.missing, [Missing { pages, why: Why::Damaged }]);
    }
}

#[test]
fn progress_reaches_its_end() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let machine = Pretended { seed: 28, bad: true };
    let dump = take(&standard(&machine)).open().unwrap();
    let (most, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let progress = |now: u64, all: u64| {
        most.fetch_max(now, Ordering::Relaxed);
        total.store(all, Ordering::Relaxed);
    };
    let out = tempfile::tempfile().unwrap();
    elf::write(&dump, &out, &Options { progress: Some(&progress), ..Options::default() }).unwrap();
    assert!(most.load(Ordering::Relaxed) > 0);
    assert_eq!(most.into_inner(), total.into_inner());
}
