//! A whole dump: opened, verified, unlocked, read page by page, and exported.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use lifeboat_field::dump::{
    Decoder, DumpFile, OpenDump, Page, PageSource, PageSpace, ReadAt, Verdict,
};
use lifeboat_field::export::{ExportError, Options, Report, elf, kdump, pipe, swap};
use lifeboat_format::{IndexHead, Layer, PAGE, PageClass, Pfn};
use lifeboat_sources::elfcorehdr::CoreHeader;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::chunks::decoded;
use crate::script;

/// Most bytes of an export: what a hostile dump claims beyond is refused by the file.
const SINK: u64 = 16 << 20;
/// Most pages of one chunk that are read one by one.
const PAGES: u64 = 40;

/// A script (see [`script`]) is put together and read; the bytes as they are, too.
///
/// The heap that one input may take is the sum of what the readers promise: a text of at
/// most 64 MiB, twice while it grows; 32 MiB of decoded chunks; two threads with a chunk
/// each; the rest grows with the number of chunks.
pub fn dump(data: &[u8]) {
    if data.starts_with(&lifeboat_format::header::MAGIC) {
        read(data.to_vec());
    }
    read(script::assemble(data));
}

/// Reads a dump in every way that there is.
pub fn read(bytes: Vec<u8>) {
    let src: Arc<dyn ReadAt> = Arc::new(bytes);
    let open = || DumpFile::open(Arc::clone(&src));
    let Ok(file) = open() else { return };
    let keyless = file.verify(None, &|_| ());
    check_verdict(&keyless, &file);
    let ids = (!file.in_the_clear()).then(script::identities);
    let Ok(opener) = file.opener(ids.as_ref()) else { return };
    let verdict = file.verify(Some(&opener), &|_| ());
    check_verdict(&verdict, &file);
    assert!(!verdict.is_sound() || keyless.is_sound(), "a key finds no less: {keyless:?}");
    let Ok(dump) = OpenDump::unlock(file, ids.as_ref()) else {
        let complete = verdict.is_sound() && verdict.is_complete();
        assert!(!complete, "what is sound and complete can be unlocked");
        return;
    };
    let _ = (dump.log(), dump.notes(), dump.trailer());
    pages(&dump.memory());
    let devices: Vec<u16> = dump.meta().swap.iter().map(|d| d.index).collect();
    for index in devices.into_iter().chain([0, 1]).take(4) {
        if let Ok(space) = dump.swap(index) {
            pages(&space);
            let _ = export(|out, options| swap::write(&dump, index, out, options));
        }
    }
    exports(&dump);
}

fn check_verdict(verdict: &Verdict, file: &DumpFile) {
    assert_eq!(verdict.bytes, file.len());
    assert!(verdict.findings.windows(2).all(|w| w[0].start <= w[1].start));
    for finding in &verdict.findings {
        assert!(finding.start <= finding.end, "{finding:?}");
    }
    assert!(verdict.good_chunks + verdict.bad_chunks <= file.len() / 512);
}

/// The chunks of a space are disjoint, and its pages are those of the chunks.
fn pages(space: &PageSpace<'_>) {
    let mut decoder = Decoder::new();
    // Where there are layers, a page may come from another chunk than this one.
    let alone = space.entries().iter().all(|e| e.layer == Layer::Address);
    for entry in space.entries().iter().take(64) {
        assert!(entry.first.0.checked_add(entry.pages).is_some_and(|e| e <= 1 << 52));
        let Ok(chunk) = space.dump().read_chunk(entry, &mut decoder) else {
            assert!(!alone || entry.pages == 0 || space.page(entry.first).is_err());
            continue;
        };
        decoded(&chunk);
        for piece in chunk.pieces().take(16) {
            let mut bytes = piece.data.chunks(PAGE);
            for n in 0..piece.pages.min(PAGES) {
                let page = space.page(Pfn(piece.first.0 + n));
                match page {
                    // So may the contents of a page that equals another one.
                    _ if !alone || matches!(piece.class, PageClass::Same(_)) => {}
                    Ok(Page::Data(page)) => assert_eq!(Some(&page[..]), bytes.next()),
                    Ok(_) => assert!(bytes.next().is_none()),
                    Err(e) => panic!("its chunk was just read: {e}"),
                }
            }
        }
    }
    let mut buf = [0u8; 3 * PAGE];
    let start = space.entries().first().map_or(0, |e| e.first.0);
    for addr in [start.saturating_mul(4096), u64::MAX - 5000, 4000] {
        if let Ok(n) = space.read(addr, &mut buf) {
            assert!(n <= buf.len());
        }
    }
}

/// A file that cannot grow over [`SINK`].
fn sink() -> File {
    let fd = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
    let file = File::from(fd);
    file.set_len(SINK).expect("room for an empty file");
    fcntl_add_seals(&file, SealFlags::GROW).expect("its own seals");
    file
}

fn export(
    write: impl FnOnce(&File, &Options<'_>) -> Result<Report, ExportError>,
) -> Option<(File, Report)> {
    let out = sink();
    let report = write(&out, &Options { threads: 1, ..Options::default() }).ok()?;
    assert_eq!(out.metadata().expect("its length").len(), report.len);
    let mut end = 0;
    for m in &report.missing {
        assert!(m.pages.start < m.pages.end && m.pages.start.0 >= end, "{m:?}");
        end = m.pages.end.0;
    }
    Some((out, report))
}

fn exports(dump: &OpenDump) {
    if let Some((out, _)) = export(|out, options| elf::write(dump, out, options)) {
        same_pages(dump, &out);
    }
    let mut piped = sink();
    if pipe::write(dump, &mut piped, &Options { threads: 1, ..Options::default() }).is_ok() {
        same_pages(dump, &piped);
    }
    let zlib = kdump::Compression::Zlib;
    let first = export(|out, options| kdump::write(dump, out, zlib, options));
    let skip = |out: &File, options: &Options<'_>| {
        kdump::write(dump, out, zlib, &Options { skip_damaged: true, ..*options })
    };
    if let (Some((_, all)), Some((_, rest))) = (first, export(skip)) {
        // Nothing was damaged, so there was nothing to skip.
        assert_eq!((all.data_pages, all.zero_pages), (rest.data_pages, rest.zero_pages));
    }
}

/// The PT_LOADs of an export show what the dump's pages hold.
fn same_pages(dump: &OpenDump, out: &File) {
    let mut head = vec![0u8; 64 << 10];
    let len = out.read_at(&mut head, 0).expect("what was written");
    head.truncate(len);
    // More program headers than that are cut off.
    let Ok(core) = CoreHeader::parse(&head) else { return };
    let memory = dump.memory();
    for load in core.loads().take(16) {
        let pages = (load.paddr / 4096..(load.paddr + load.filesz) / 4096).take(8);
        for pfn in pages.filter(|p| p * 4096 >= load.paddr) {
            let mut bytes = [0u8; PAGE];
            let at = load.offset + (pfn * 4096 - load.paddr);
            // A hole at the very end of the file is not there at all.
            if out.read_exact_at(&mut bytes, at).is_err() {
                continue;
            }
            match memory.page(Pfn(pfn)).expect("it was exported") {
                Page::Data(page) => assert_eq!(bytes, *page, "page {pfn:#x}"),
                Page::Zero => assert_eq!(bytes, [0; PAGE], "page {pfn:#x}"),
                Page::Fill(word) => {
                    assert!(bytes.as_chunks().0.iter().all(|w| *w == word.to_le_bytes()));
                }
                other => panic!("page {pfn:#x} is shown, but is {other:?}"),
            }
        }
    }
}

/// The first bytes of block 0 of a dump in the clear.
#[must_use]
pub fn plain_header() -> [u8; 76] {
    let mut head = [0u8; 76];
    head[..8].copy_from_slice(&lifeboat_format::header::MAGIC);
    head[8..12].copy_from_slice(&1u32.to_le_bytes());
    head[12..16].copy_from_slice(&(16u32 << 10).to_le_bytes());
    head[16..32].fill(9);
    head[68..72].copy_from_slice(&4096u32.to_le_bytes());
    head[72..76].copy_from_slice(&4u32.to_le_bytes());
    head
}

/// The first bytes of a commit record: complete, from a file, by pwrite.
#[must_use]
pub fn plain_commit() -> [u8; 16] {
    let mut commit = [0u8; 16];
    commit[..8].copy_from_slice(&lifeboat_format::commit::MAGIC);
    commit[8..16].copy_from_slice(&[1, 0, 0, 0, 1, 3, 1, 0]);
    commit
}

/// Index payloads, `flags u8, len u16, payload[len]` each: first alone, then as the index
/// of a dump with three chunks of memory. Bit 0 of the flags puts the entries of the
/// chunks before in front of the payload's; bit 1 puts a chunk of memory before it; bit 2
/// leaves its lengths to the payload's first 12 bytes.
pub fn index(data: &[u8]) {
    if let Ok((head, entries)) = IndexHead::decode(data) {
        assert_eq!(head.count as usize, entries.len());
        assert!(head.encode().len() + entries.len() * 32 == data.len());
        for raw in entries {
            if let Ok(entry) = lifeboat_format::IndexEntry::decode(raw) {
                assert_eq!(entry.encode(), *raw);
            }
        }
    }
    let mut ops = Vec::new();
    script::push(&mut ops, 0, 0, &plain_header());
    script::push(&mut ops, 1, 0, b"LBKEYS\0\x01");
    let mut first = 0u64;
    let mut memory = |ops: &mut Vec<u8>| {
        script::push(ops, 2, 0, &script::zero_pages(first, 5));
        first += 5;
    };
    memory(&mut ops);
    let mut rest = data;
    while let Some(([flags, low, high], behind)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(behind.len());
        let (payload, behind) = behind.split_at(len);
        rest = behind;
        if flags & 2 != 0 {
            memory(&mut ops);
        }
        let own = if flags & 1 == 0 { script::chunk::KEEP_CONTENTS } else { 0 };
        let kept = if flags & 4 == 0 { 0 } else { script::chunk::KEEP_LENGTHS };
        script::push(&mut ops, 2, own | kept, &script::index_chunk(payload, flags & 4 != 0));
    }
    script::push(&mut ops, 3, 0, &plain_commit());
    let bytes = script::assemble(&ops);
    let chunks = bytes.len() as u64 / 512;
    let file = DumpFile::open(Arc::new(bytes)).expect("its ends are sound");
    let verdict = file.verify(Some(&file.opener(None).expect("in the clear")), &|_| ());
    check_verdict(&verdict, &file);
    let dump = OpenDump::unlock(file, None).expect("a scan finds what an index does not");
    assert!(dump.memory().entries().len() as u64 <= chunks);
    pages(&dump.memory());
}
