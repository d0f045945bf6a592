//! `lifeboat capture` on a vmcore whose every byte is known: what it takes comes back, and
//! what it refuses leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
mod readers;
use common::{cmd, names};
use readers::{elf_read, phdrs};
use std::path::Path;

const PAGE: usize = 4096;
/// First page and pages of each stretch of memory.
const LOADS: [(u64, u64); 2] = [(0x100, 3000), (0x10_0000, 500)];
const DIRECT: u64 = 0xffff_8880_0000_0000;
const INFO: &[u8] = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n";

/// One page in five is zero, one of one word, one like some few others; two are noise.
fn page(pfn: u64) -> Vec<u8> {
    let word = match pfn % 5 {
        0 => return vec![0; PAGE],
        1 => return (pfn | 1).to_le_bytes().repeat(PAGE / 8),
        2 => pfn % 7,
        _ => pfn,
    };
    let mut s = (word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let noise = |_| {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        s.to_le_bytes()
    };
    (0..PAGE / 8).flat_map(noise).collect()
}

fn pages() -> impl Iterator<Item = u64> {
    LOADS.into_iter().flat_map(|(first, count)| first..first + count)
}

fn notes() -> Vec<u8> {
    let mut out = Vec::new();
    for word in [11, u32::try_from(INFO.len()).unwrap(), 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(b"VMCOREINFO\0\0");
    out.extend(INFO);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn vmcore() -> Vec<u8> {
    let notes = notes();
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0, 64u64, 0] {
        out.extend(word.to_le_bytes());
    }
    for half in [0, 0, 64, 56, 3, 0, 0, 0u16] {
        out.extend(half.to_le_bytes());
    }
    let mut header = |kind: u32, words: [u64; 6]| {
        out.extend(kind.to_le_bytes());
        out.extend(7u32.to_le_bytes());
        words.iter().for_each(|w| out.extend(w.to_le_bytes()));
    };
    let len = notes.len() as u64;
    header(4, [1024, 0, 0, len, len, 0]);
    let mut at = PAGE as u64;
    for (first, count) in LOADS {
        let (addr, len) = (first * PAGE as u64, count * PAGE as u64);
        header(1, [at, DIRECT + addr, addr, len, len, 0]);
        at += len;
    }
    out.resize(1024, 0);
    out.extend(notes);
    out.resize(PAGE, 0);
    pages().for_each(|pfn| out.extend(page(pfn)));
    out
}

/// Where `vmcore` lies, and the key's recipient.
fn bench() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vmcore"), vmcore()).unwrap();
    let recipient = cmd(dir.path(), "keygen -o @/key").exits(0).out.trim().to_owned();
    (dir, recipient)
}

fn exported(d: &Path, options: &str) {
    cmd(d, &format!("verify @/dump {options}")).exits(0).prints("sound and complete");
    cmd(d, &format!("export vmcore @/dump {options} -o @/out --force")).exits(0);
    let bytes = std::fs::read(d.join("out")).unwrap();
    let heads = phdrs(&bytes);
    let at = usize::try_from(heads[0][1]).unwrap();
    assert_eq!(bytes[at..at + notes().len()], notes());
    let loads: Vec<_> = heads[1..].iter().map(|h| (h[2] - DIRECT, h[3], h[4])).collect();
    assert_eq!(loads, LOADS.map(|(first, count)| (first << 12, first << 12, count << 12)));
    for pfn in pages() {
        assert!(elf_read(&bytes, &heads, pfn << 12, PAGE) == Some(page(pfn)), "page {pfn:#x}");
    }
}

#[test]
fn a_vmcore_comes_back_as_it_was() {
    let (dir, recipient) = bench();
    let d = dir.path();
    let counts = |of: fn(u64) -> bool| pages().filter(|p| of(p % 5)).count();
    let (zero, fill) = (counts(|p| p == 0), counts(|p| p == 1));
    for (how, key) in [
        (format!("--recipient {recipient}"), "-i @/key"),
        (
            format!("--recipient {recipient} --codec zstd --chunk-pages 1024 --workers 1"),
            "-i @/key",
        ),
        ("--clear --codec lz4 --chunk-pages 1 --dedup-kib 0 --workers 64".to_owned(), ""),
    ] {
        cmd(d, &format!("capture --from @/vmcore --to @/dump --force {how}"))
            .exits(0)
            .prints("outcome complete")
            .prints("pages 3500\n")
            .prints(&format!("pages-zero {zero}\n"))
            .prints(&format!("pages-fill {fill}\n"));
        exported(d, key);
    }
    cmd(d, "list @/dump").exits(0).prints("6.1.0-test");
}

/// A dump of chunks that no reader takes would be found out years later.
#[test]
fn what_no_dump_can_be_packed_by_is_refused() {
    let (dir, recipient) = bench();
    let d = dir.path();
    for (wrong, words) in [
        ("--clear --chunk-pages 0", "chunk-pages is from 1 to 1024"),
        ("--clear --chunk-pages 2000", "chunk-pages is from 1 to 1024"),
        ("--clear --dedup-kib 1048577", "dedup is at most 1048576 KiB"),
        ("--clear --workers 65", "workers is at most 64"),
        ("--clear --exclude some", "exclude is some of zero"),
        ("--clear --codec lz4 --level 3", "--level is of --codec zstd"),
        (&format!("--clear --recipient {recipient}"), "--recipient or --clear"),
        ("", "--recipient or --clear"),
    ] {
        cmd(d, &format!("capture --from @/vmcore --to @/dump {wrong}")).exits(2).complains(words);
        assert_eq!(names(d), ["key", "vmcore"], "{wrong}");
    }
    cmd(d, "capture --from @/vmcore --to @/dump --recipient age1x").exits(1).complains("age1x");
    cmd(d, "capture --from @/key --to @/dump --clear").exits(1);
    assert_eq!(names(d), ["key", "vmcore"]);
}

#[test]
fn a_file_that_is_there_is_kept_unless_told_otherwise() {
    let (dir, _) = bench();
    let d = dir.path();
    std::fs::write(d.join("dump"), "mine").unwrap();
    cmd(d, "capture --from @/vmcore --to @/dump --clear").exits(1).complains("exists");
    assert_eq!(std::fs::read(d.join("dump")).unwrap(), b"mine");
    cmd(d, "capture --from @/vmcore --to @/dump --clear --force").exits(0);
    exported(d, "");
}
