//! A vmcore of a machine of 64 GiB, out of one of 4 GiB: its map holds the same bytes
//! several times, at other physical addresses, and between them zero pages, which are
//! one hole at the file's end that many segments share. So it needs little room, and
//! a capture of it works on 64 GiB.
//!
//! Its VMCOREINFO is the small machine's: what lies above is known to no structure of
//! the kernel, and a filter has to keep it.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use lifeboat_qemu::error::{Context as _, Res, ensure};

use super::core::{Load, header, parse};

const GIB: u64 = 1 << 30;
/// Memory of the large machine.
const TOTAL: u64 = 64 * GIB;
/// Every copy begins at a multiple of this.
const STEP: u64 = 16 * GIB;
/// Bytes of the hole that stands for zero pages.
const HOLE: u64 = GIB;
/// Room for the larger head, in bytes.
const HEAD: u64 = 1 << 16;

/// Writes the large vmcore; gives how many times it holds the small one's memory.
///
/// # Errors
/// When a file fails or the small one is too large.
pub(crate) fn make(small: &Path, to: &Path) -> Res<u64> {
    let file = File::open(small).ctx(small.display())?;
    let (loads, notes) = parse(&file)?;
    let end = loads.iter().map(|l| l.phys + l.len).max().unwrap_or(0);
    ensure(end <= STEP, "the vmcore is too large to be repeated")?;
    // The head grows: everything behind it moves by so much.
    let len = file.metadata().ctx(small.display())?.len();
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).open(to);
    let out = out.as_mut().map_err(|e| std::io::Error::from(e.kind())).ctx(to.display())?;
    // Everything but the map has been read by position: the file still stands at its start.
    out.seek(SeekFrom::Start(HEAD)).ctx(to.display())?;
    std::io::copy(&mut &file, out).ctx(to.display())?;
    let hole = (HEAD + len).next_multiple_of(4096);
    out.set_len(hole + HOLE).ctx(to.display())?;
    let map = spread(&loads, hole);
    let notes_at = 64 + 56 * (map.len() + 1);
    let head = header(&notes, &map, notes_at);
    ensure(head.len() as u64 <= HEAD, "too many segments")?;
    out.write_all_at(&head, 0).ctx(to.display())?;
    Ok(TOTAL / STEP)
}

/// The large machine's segments: the small one's, moved, and holes between them.
fn spread(loads: &[Load], hole: u64) -> Vec<Load> {
    // The direct map begins at the same address for all memory.
    let mut own: Vec<Load> = loads.to_vec();
    own.sort_by_key(|l| (l.phys, u64::MAX - l.len));
    let mut whole: Vec<Load> = Vec::new();
    for load in own {
        // The kernel's text a second time is no further memory.
        if whole.last().is_none_or(|w| load.phys >= w.phys + w.len) {
            whole.push(load);
        }
    }
    let base = whole.first().map_or(0, |l| l.virt.wrapping_sub(l.phys));
    let mut out = Vec::new();
    let mut at = whole.first().map_or(0, |l| l.phys);
    for copy in 0..TOTAL / STEP {
        for load in &whole {
            let phys = load.phys + copy * STEP;
            fill(&mut out, at, phys, base, hole);
            let virt = base.wrapping_add(phys);
            out.push(Load { virt, phys, len: load.len, offset: HEAD + load.offset });
            at = phys + load.len;
        }
    }
    fill(&mut out, at, TOTAL, base, hole);
    out
}

/// Segments of zeros from `at` to `end`.
fn fill(out: &mut Vec<Load>, at: u64, end: u64, base: u64, hole: u64) {
    let mut phys = at;
    while phys < end {
        let len = HOLE.min(end - phys);
        out.push(Load { virt: base.wrapping_add(phys), phys, len, offset: hole });
        phys += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_map_has_no_gap_and_no_overlap() {
        let load =
            |phys, len, offset| Load { virt: 0xffff_8880_0000_0000 + phys, phys, len, offset };
        let small = [load(0x10_0000, 2 * GIB, 4096), load(4 * GIB, 2 * GIB, 4096 + 2 * GIB)];
        let map = spread(&small, 9 * GIB);
        let mut at = 0x10_0000;
        for l in &map {
            assert_eq!(l.phys, at);
            assert_eq!(l.virt, 0xffff_8880_0000_0000 + l.phys);
            at += l.len;
        }
        assert_eq!(at, TOTAL);
        assert_eq!(map.iter().filter(|l| l.offset == HEAD + 4096).count(), 4);
    }
}
