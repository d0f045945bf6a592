//! Both sources against a machine described as text.

use super::*;
use crate::elfcorehdr::tests::build;
use crate::notes::tests::note;
use proptest::prelude::*;
use std::io::Write as _;

/// The byte at a physical address of the machine in these tests.
fn byte(phys: u64) -> u8 {
    (phys.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn fill(phys: u64, len: u64) -> Vec<u8> {
    (phys..phys + len).map(byte).collect()
}

/// A vmcore file: each `(paddr, size, vaddr)` gets its bytes in the file, in order,
/// behind a note segment.
fn vmcore(loads: &[(u64, u64, u64)], notes: &[u8], filesz_cut: u64) -> Vec<u8> {
    let head = 64 + 56 * (loads.len() as u64 + 1);
    let mut text = format!("note {head:x} {:x}\n", notes.len());
    let mut at = head + notes.len() as u64;
    for (paddr, size, vaddr) in loads {
        text += &format!("load {paddr:x} {size:x} {at:x} {vaddr:x}\n");
        at += size;
    }
    let mut out = build(&text);
    if filesz_cut > 0 {
        let field = out.len() - 56 + 32;
        let size = loads.last().unwrap().1 - filesz_cut;
        out[field..field + 8].copy_from_slice(&size.to_le_bytes());
    }
    out.extend(notes);
    for (paddr, size, vaddr) in loads {
        // What the alias holds is told apart, to see which one is read.
        let flip = if *vaddr >= 0xffff_ffff_8000_0000 { 0xff } else { 0 };
        out.extend(fill(*paddr, *size).iter().map(|b| b ^ flip));
    }
    out
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut f = tempfile::NamedTempFile::new().unwrap();
    f.write_all(bytes).unwrap();
    f
}

fn read(mem: &dyn OldMemory, first: u64, pages: usize) -> (Vec<u8>, Vec<u64>) {
    let mut buf = vec![0xee; pages * PAGE];
    let mut bad = Vec::new();
    let n = mem.reader().unwrap().read_pages(Pfn(first), &mut buf, &mut |p| bad.push(p.0)).unwrap();
    assert_eq!(n, bad.len() as u64);
    (buf, bad)
}

const TEXT: u64 = 0xffff_ffff_8100_0000;

#[test]
fn reads_memory_notes_and_holes_of_a_file() {
    let mut notes = note("CORE", 1, &[3; 336]);
    notes.extend(note("VMCOREINFO", 0, b"OSRELEASE=6.1.0\n"));
    let bytes =
        vmcore(&[(0x1000, 0x9000, 0), (0x3000, 0x2000, TEXT), (0x10000, 0x3000, 0)], &notes, 0);
    let f = file(&bytes);
    let mem = Vmcore::open_file(f.path()).unwrap();
    assert_eq!(mem.kind(), SourceKind::File);
    assert_eq!(mem.ranges(), [PageRange::new(1, 10), PageRange::new(16, 19)]);
    assert_eq!(mem.notes(), notes);
    assert_eq!(mem.elfcorehdr(), &bytes[..64 + 4 * 56]);
    let (buf, bad) = read(&mem, 0, 24);
    assert_eq!(bad, [0, 10, 11, 12, 13, 14, 15, 19, 20, 21, 22, 23]);
    for (i, page) in buf.chunks(PAGE).enumerate() {
        let want =
            if bad.contains(&(i as u64)) { vec![0; PAGE] } else { fill(i as u64 * 4096, 4096) };
        assert_eq!(page, want, "page {i}");
    }
}

#[test]
fn what_the_file_does_not_have_is_a_hole() {
    // A filtered segment (p_filesz short), then the same cut off in the middle of a page.
    let f = file(&vmcore(&[(0x1000, 0x1000, 0), (0x4000, 0x4000, 0)], &[], 0x2000));
    assert_eq!(read(&Vmcore::open_file(f.path()).unwrap(), 1, 7).1, [2, 3, 6, 7]);
    let len = f.as_file().metadata().unwrap().len();
    f.as_file().set_len(len - 0x3000).unwrap();
    assert_eq!(read(&Vmcore::open_file(f.path()).unwrap(), 1, 7).1, [2, 3, 5, 6, 7]);
    f.as_file().set_len(len - 0x3000 - 10).unwrap();
    let (buf, bad) = read(&Vmcore::open_file(f.path()).unwrap(), 4, 1);
    // The end of the file lies within page 4: what is there is kept.
    assert!(bad.is_empty());
    assert_eq!(buf[..4086], fill(0x4000, 4086));
}

#[test]
fn an_edge_within_a_page_keeps_its_bytes() {
    let f = file(&vmcore(&[(0x1800, 0x1000, 0), (0x2800, 0x400, 0), (0x2d00, 0x300, 0)], &[], 0));
    let (buf, bad) = read(&Vmcore::open_file(f.path()).unwrap(), 1, 2);
    assert!(bad.is_empty());
    let mut want = vec![0; 0x800];
    want.extend(fill(0x1800, 0x1400));
    want.extend([0; 0x100]);
    want.extend(fill(0x2d00, 0x300));
    assert_eq!(buf, want);
}

#[test]
fn oldmem_reads_by_physical_address_and_gathers_notes() {
    // A sparse file in place of the driver: offsets are physical addresses, and the
    // elfcorehdr lies where kexec put it. Two CPUs, of which one left no note.
    let head = build("note 2000 200\nnote 2200 200\nnote 3000 1000\nload 1000 8000 1000");
    let f = tempfile::NamedTempFile::new().unwrap();
    let put = |at: u64, bytes: &[u8]| {
        std::os::unix::fs::FileExt::write_all_at(f.as_file(), bytes, at).unwrap();
    };
    put(0x1000, &fill(0x1000, 0x8000));
    let (cpu, info) = (note("CORE", 1, &[5; 336]), note("VMCOREINFO", 0, b"OSRELEASE=6.1.0\n"));
    put(0x2000, &[0; 0x2000]);
    put(0x2000, &cpu);
    put(0x3000, &info);
    put(0x20_0000, &head);
    let mem = Oldmem::open_at(f.path(), 0x20_0000).unwrap();
    assert_eq!(mem.notes(), [cpu, info].concat());
    assert_eq!(mem.notes_lost(), 0);
    assert_eq!(mem.elfcorehdr(), head);
    let (buf, bad) = read(&mem, 4, 6);
    assert_eq!((bad, &buf[..5 * PAGE]), (vec![9], &fill(0x4000, 0x5000)[..]));
    let mut four = [0u8; 4];
    let mut reader = mem.reader().unwrap();
    reader.read_phys(PhysAddr(0x8ffc), &mut four).unwrap();
    assert_eq!(four[..], fill(0x8ffc, 4));
    assert!(reader.read_phys(PhysAddr(0x8ffd), &mut four).is_err());
}

#[test]
fn opening_fails_with_its_cause_and_a_hint() {
    let missing = Vmcore::open_file(Path::new("/nonexistent/vmcore")).unwrap_err();
    let text = Vmcore::open_file(file(&[b'x'; 100]).path()).unwrap_err();
    let short = Vmcore::open_file(file(b"\x7fELF").path()).unwrap_err();
    let empty = Vmcore::open_file(file(&build("note 0 0")).path()).unwrap_err();
    for e in [missing, text, short, empty] {
        let shown = e.to_string();
        assert!(shown.contains("\nhint: "), "{shown}");
    }
    // On this machine, which did not crash, both are missing.
    let shown = open_auto(MemorySource::Auto).unwrap_err().to_string();
    assert!(shown.contains("1. ") && shown.contains("2. /proc/vmcore"), "{shown}");
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    proptest::collection::vec((0u64..200, 0u64..60, 0u64..10_000), 0..12).prop_map(|v| {
        v.into_iter().map(|(s, l, o)| Segment { start: s, end: s + l, offset: o }).collect()
    })
}

proptest! {
    #[test]
    fn disjoint_covers_the_same_bytes_and_prefers_ram(ram in segments(), alias in segments()) {
        let out = disjoint(ram.clone(), alias.clone());
        for pair in out.windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
        }
        prop_assert!(out.iter().all(|s| s.start < s.end));
        let at = |list: &[Segment], p: u64| -> Vec<u64> {
            list.iter().filter(|s| s.start <= p && p < s.end).map(|s| s.offset + p - s.start)
                .collect()
        };
        for p in 0..270 {
            let got = at(&out, p);
            let (in_ram, in_alias) = (at(&ram, p), at(&alias, p));
            let allowed = if in_ram.is_empty() { &in_alias } else { &in_ram };
            prop_assert_eq!(got.len(), usize::from(!allowed.is_empty()), "at {}", p);
            prop_assert!(got.iter().all(|o| allowed.contains(o)));
        }
    }

    #[test]
    fn hostile_files_neither_panic_nor_take_memory(
        mut bytes in proptest::collection::vec(any::<u8>(), 64 + 56 * 3..2000), phnum in 1u8..8) {
        let head = build("load 0 0 0");
        bytes[..64].copy_from_slice(&head[..64]);
        bytes[56] = phnum;
        // Small numbers, so that some of them are accepted.
        for chunk in bytes[64..].chunks_mut(56) {
            for (i, b) in chunk.iter_mut().enumerate() {
                if i % 8 > 1 { *b = 0; }
                if i < 4 { *b = u8::from(i == 0) * (1 + 3 * (*b & 1)); }
            }
        }
        let f = file(&bytes);
        if let Ok(mem) = Vmcore::open_file(f.path()) {
            let mut buf = vec![0; 40 * PAGE];
            let _ = mem.reader().unwrap().read_pages(Pfn(0), &mut buf, &mut |_| ());
        }
    }
}
