//! Exported vmcores, read here a second time without the project's own code,
//! and compared with the memory that was there.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{Context as _, Res, ensure};

const PAGE: u64 = 4096;
/// Compared at once.
const STEP: u64 = 1 << 20;
/// Below, kernel and firmware keep their trampolines; kexec leaves it out.
pub const LOW: u64 = 1 << 20;

/// A PT_LOAD: where a range of physical memory lies in the file.
#[derive(Debug, Clone)]
struct Load {
    memory: Range<u64>,
    offset: u64,
}

/// An ELF vmcore.
#[derive(Debug)]
pub struct Core {
    file: File,
    loads: Vec<Load>,
    /// All notes, as they lie in the file.
    pub notes: Vec<u8>,
}

impl Core {
    /// Opens a vmcore and reads its program headers.
    ///
    /// # Errors
    /// When it is no 64-bit ELF core.
    pub fn open(path: &Path) -> Res<Self> {
        let file = File::open(path).ctx(path.display())?;
        let mut head = [0u8; 64];
        file.read_exact_at(&mut head, 0).ctx(path.display())?;
        ensure(head.starts_with(b"\x7fELF\x02\x01"), "the vmcore is no 64-bit ELF file")?;
        ensure(u16_at(&head, 16) == 4, "the vmcore's type is not ET_CORE")?;
        let (table, short) = (u64_at(&head, 32), u16_at(&head, 56));
        let mut count = u64::from(short);
        if short == 0xffff {
            // PN_XNUM: the count is `sh_info` of section header 0.
            let mut section = [0u8; 64];
            file.read_exact_at(&mut section, u64_at(&head, 40)).ctx("section header 0")?;
            count = u64_at(&section, 40) >> 32;
        }
        let mut headers = vec![0u8; usize::try_from(count * 56).unwrap_or(0)];
        file.read_exact_at(&mut headers, table).ctx("the program headers")?;
        let mut core = Self { file, loads: Vec::new(), notes: Vec::new() };
        for ph in headers.chunks_exact(56) {
            let (offset, paddr, size) = (u64_at(ph, 8), u64_at(ph, 24), u64_at(ph, 32));
            match u32::try_from(u64_at(ph, 0) & 0xffff_ffff).unwrap_or(0) {
                1 => core.loads.push(Load { memory: paddr..paddr + size, offset }),
                4 => {
                    core.notes = vec![0; usize::try_from(size).unwrap_or(0)];
                    core.file.read_exact_at(&mut core.notes, offset).ctx("the notes")?;
                }
                _ => {}
            }
        }
        core.loads.sort_by_key(|l| l.memory.start);
        Ok(core)
    }

    /// A value of VMCOREINFO.
    ///
    /// # Errors
    /// When it is not there.
    pub fn vmcoreinfo(&self, key: &str) -> Res<String> {
        let text = String::from_utf8_lossy(&self.notes);
        let start = format!("{key}=");
        let found = text.lines().find_map(|l| l.strip_prefix(&start).map(str::to_owned));
        found.ctx(format_args!("{key} in VMCOREINFO"))
    }

    /// Ranges of physical memory that the file holds, joined, ascending.
    #[must_use]
    pub fn memory(&self) -> Vec<Range<u64>> {
        let mut all: Vec<Range<u64>> = Vec::new();
        for load in &self.loads {
            match all.last_mut() {
                Some(last) if load.memory.start <= last.end => {
                    last.end = last.end.max(load.memory.end);
                }
                _ => all.push(load.memory.clone()),
            }
        }
        all
    }

    /// Reads as much as one PT_LOAD gives from `at` on, at most `buf`; 0: not in the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Res<usize> {
        // The last that begins at or before it; one that was split has neighbours only.
        let behind = self.loads.partition_point(|l| l.memory.start <= at);
        let before = self.loads.get(..behind).unwrap_or_default();
        let Some(load) = before.iter().rev().take(4).find(|l| l.memory.contains(&at)) else {
            return Ok(0);
        };
        let len = buf.len().min(usize::try_from(load.memory.end - at).unwrap_or(usize::MAX));
        let part = buf.get_mut(..len).unwrap_or_default();
        let from = load.offset + (at - load.memory.start);
        self.file.read_exact_at(part, from).ctx("the vmcore")?;
        Ok(len)
    }
}

/// The guest's memory map, as its `/proc/iomem` told it before the crash.
#[derive(Debug, Clone, Default)]
pub struct MemoryMap {
    /// Ranges of System RAM.
    pub ram: Vec<Range<u64>>,
    /// The crash kernel's reservation.
    pub reserved: Vec<Range<u64>>,
}

impl MemoryMap {
    /// Reads the text of `/proc/iomem`.
    #[must_use]
    pub fn parse(iomem: &str) -> Self {
        let mut map = Self::default();
        for line in iomem.lines() {
            let Some((span, name)) = line.split_once(" : ") else { continue };
            let Some((start, last)) = span.trim().split_once('-') else { continue };
            let hex = |t| u64::from_str_radix(t, 16);
            let (Ok(start), Ok(last)) = (hex(start), hex(last)) else { continue };
            match name.trim() {
                "System RAM" if !line.starts_with(' ') => map.ram.push(start..last + 1),
                "Crash kernel" => map.reserved.push(start..last + 1),
                _ => {}
            }
        }
        map
    }

    /// Whole pages of RAM that a dump must hold: above the low 1 MiB, outside
    /// the reservation.
    #[must_use]
    pub fn expected(&self) -> Vec<Range<u64>> {
        let mut out = Vec::new();
        for ram in &self.ram {
            let mut start = ram.start.max(LOW).next_multiple_of(PAGE);
            let end = ram.end / PAGE * PAGE;
            for gap in &self.reserved {
                if gap.start >= start && gap.end <= end {
                    out.push(start..gap.start);
                    start = gap.end;
                }
            }
            if start < end {
                out.push(start..end);
            }
        }
        out
    }
}

/// Where physical memory lies in the file behind q35's RAM: a machine of 2.75 GiB
/// and more has 2 GiB below the PCI hole and the rest from 4 GiB on
/// (`pc_q35_init`, QEMU hw/i386/pc_q35.c).
pub(crate) fn file_offset(phys: u64, ram_bytes: u64) -> u64 {
    if phys < 4 << 30 || ram_bytes < 0xb000_0000 { phys } else { phys - (2 << 30) }
}

/// What a comparison counted, in pages of 4096 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Pages of System RAM outside the reservation and the low 1 MiB.
    pub compared: u64,
    /// Those that are equal in the vmcore and in the copy of RAM.
    pub equal: u64,
    /// Those that differ.
    pub different: u64,
    /// Those that the vmcore does not hold.
    pub missing: u64,
    /// Pages in the vmcore beyond the expected ones (the low 1 MiB).
    pub beyond: u64,
    /// The first page that differs or is missing, as a physical address.
    pub first_bad: Option<u64>,
}

impl Count {
    /// Every page is there and equal, and nothing of the reservation was dumped.
    ///
    /// # Errors
    /// With the counts, when that is not so.
    pub fn check(&self) -> Res<()> {
        ensure(self.compared > 0, "no page was compared")?;
        let sound = self.equal == self.compared && self.different == 0 && self.missing == 0;
        ensure(sound, format_args!("the vmcore is not what was in memory: {self:x?}"))
    }
}

/// Compares every page that must be in the vmcore with the copy of RAM.
///
/// # Errors
/// When a file fails, or the vmcore holds pages of the reservation.
pub fn compare(core: &Core, map: &MemoryMap, ram: &Path) -> Res<Count> {
    compare_telling(core, map, ram, |_| {})
}

/// Like [`compare`], and tells each page that the vmcore does not hold, as a physical
/// address, ascending.
///
/// # Errors
/// As [`compare`].
pub fn compare_telling(
    core: &Core,
    map: &MemoryMap,
    ram: &Path,
    mut missing: impl FnMut(u64),
) -> Res<Count> {
    let ram_bytes = fs::metadata(ram).ctx(ram.display())?.len();
    let ram_file = File::open(ram).ctx(ram.display())?;
    let mut count = Count::default();
    let (mut ours, mut theirs) = (vec![0u8; 1 << 20], vec![0u8; 1 << 20]);
    for range in map.expected() {
        let mut at = range.start;
        while at < range.end {
            let want = usize::try_from(STEP.min(range.end - at)).unwrap_or(0);
            let got = core.read(at, ours.get_mut(..want).unwrap_or_default())?;
            if got == 0 {
                count.compared += 1;
                count.missing += 1;
                missing(at);
                count.first_bad.get_or_insert(at);
                at += PAGE;
                continue;
            }
            let (a, b) = (ours.get(..got).unwrap_or_default(), theirs.get_mut(..got));
            let b = b.unwrap_or_default();
            ram_file.read_exact_at(b, file_offset(at, ram_bytes)).ctx(ram.display())?;
            for (n, (x, y)) in (0u64..).zip(a.chunks(4096).zip(b.chunks(4096))) {
                count.compared += 1;
                if x == y {
                    count.equal += 1;
                } else {
                    count.different += 1;
                    count.first_bad.get_or_insert(at + n * PAGE);
                }
            }
            at += got as u64;
        }
    }
    let held = core.memory();
    for gap in &map.reserved {
        let overlap = held.iter().any(|m| m.start < gap.end && m.end > gap.start);
        ensure(!overlap, "the vmcore holds memory of the crash kernel's reservation")?;
    }
    let pages: u64 = held.iter().map(|m| (m.end - m.start) / PAGE).sum();
    count.beyond = pages.saturating_sub(count.compared - count.missing);
    Ok(count)
}

/// Compares two files byte for byte; gives their length.
///
/// # Errors
/// When they differ, with the first offset.
pub fn same_bytes(a: &Path, b: &Path) -> Res<u64> {
    let len = |p: &Path| Ok(fs::metadata(p).ctx(p.display())?.len());
    let (la, lb) = (len(a)?, len(b)?);
    ensure(la == lb, format_args!("{} has {la} bytes, {} has {lb}", a.display(), b.display()))?;
    let (fa, fb) = (File::open(a).ctx(a.display())?, File::open(b).ctx(b.display())?);
    let (mut x, mut y) = (vec![0u8; 1 << 20], vec![0u8; 1 << 20]);
    let mut at = 0;
    while at < la {
        let n = usize::try_from(STEP.min(la - at)).unwrap_or(0);
        let (x, y) = (x.get_mut(..n).unwrap_or_default(), y.get_mut(..n).unwrap_or_default());
        fa.read_exact_at(x, at).ctx(a.display())?;
        fb.read_exact_at(y, at).ctx(b.display())?;
        if x != y {
            let first = x.iter().zip(y.iter()).position(|(p, q)| p != q).unwrap_or(0);
            let place = at + first as u64;
            return ensure(
                false,
                format_args!("{} differs from {} at byte {place}", a.display(), b.display()),
            )
            .map(|()| 0);
        }
        at += n as u64;
    }
    Ok(la)
}

/// Compares an image with the original, but for the ranges of bytes that it is known not
/// to hold; gives the bytes compared.
///
/// # Errors
/// When they differ, with the first page.
pub fn same_bytes_but(image: &Path, was: &Path, missing: &[Range<u64>]) -> Res<u64> {
    let len = fs::metadata(was).ctx(was.display())?.len();
    let (a, b) = (File::open(image).ctx(image.display())?, File::open(was).ctx(was.display())?);
    let (mut x, mut y) = ([0u8; 4096], [0u8; 4096]);
    let (mut at, mut equal, mut gaps) = (0, 0, missing.iter().peekable());
    while at < len {
        while gaps.next_if(|g| g.end <= at).is_some() {}
        if let Some(gap) = gaps.peek().filter(|g| g.start <= at) {
            at = gap.end;
            continue;
        }
        a.read_exact_at(&mut x, at).ctx(image.display())?;
        b.read_exact_at(&mut y, at).ctx(was.display())?;
        ensure(x == y, format_args!("{} differs at byte {at}", image.display()))?;
        equal += PAGE;
        at += PAGE;
    }
    Ok(equal)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMEM: &str = "00001000-0009fbff : System RAM\n\
        00100000-00103fff : System RAM\n  00102000-00102fff : Crash kernel\n\
        00104000-00104fff : Reserved\n";

    /// A vmcore of the pages at 1 MiB, 1 MiB + 4 KiB and 1 MiB + 12 KiB.
    fn vmcore(dir: &Path, third: u8) -> std::path::PathBuf {
        let mut bytes = vec![0u8; 0x1000];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 4;
        bytes[32] = 64;
        bytes[56] = 2;
        for (n, (paddr, size, offset)) in
            [(0x10_0000u64, 0x2000u64, 0x1000u64), (0x10_3000, 0x1000, 0x3000)]
                .into_iter()
                .enumerate()
        {
            let at = 64 + n * 56;
            bytes[at] = 1;
            bytes[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            bytes[at + 24..at + 32].copy_from_slice(&paddr.to_le_bytes());
            bytes[at + 32..at + 40].copy_from_slice(&size.to_le_bytes());
        }
        for value in [1, 2, third] {
            bytes.extend(vec![value; 0x1000]);
        }
        let path = dir.join("vmcore");
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn one_changed_byte_or_a_missing_page_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let map = MemoryMap::parse(IOMEM);
        assert_eq!(map.expected(), [0x10_0000..0x10_2000, 0x10_3000..0x10_4000]);
        let mut ram = vec![0u8; 0x10_5000];
        ram[0x10_0000..0x10_1000].fill(1);
        ram[0x10_1000..0x10_2000].fill(2);
        ram[0x10_3000..0x10_4000].fill(3);
        let copy = dir.path().join("ram");
        fs::write(&copy, &ram).unwrap();
        let good = compare(&Core::open(&vmcore(dir.path(), 3)).unwrap(), &map, &copy).unwrap();
        good.check().unwrap();
        assert_eq!((good.compared, good.equal), (3, 3));
        let bad = compare(&Core::open(&vmcore(dir.path(), 4)).unwrap(), &map, &copy).unwrap();
        assert_eq!((bad.different, bad.first_bad), (1, Some(0x10_3000)));
        bad.check().unwrap_err();
        let wider = MemoryMap::parse("00100000-00104fff : System RAM\n");
        let gap = compare(&Core::open(&vmcore(dir.path(), 3)).unwrap(), &wider, &copy).unwrap();
        assert_eq!(gap.missing, 2);
    }

    #[allow(clippy::single_range_in_vec_init, reason = "a list of one gap")]
    #[test]
    fn what_is_said_to_be_missing_is_passed_over_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (image, was) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&was, vec![1u8; 5 * 4096]).unwrap();
        let mut bytes = vec![1u8; 5 * 4096];
        bytes[4096..3 * 4096].fill(0);
        fs::write(&image, &bytes).unwrap();
        assert_eq!(same_bytes_but(&image, &was, &[4096..12288]).unwrap(), 3 * 4096);
        same_bytes_but(&image, &was, &[4096..8192]).unwrap_err();
        same_bytes_but(&image, &was, &[]).unwrap_err();
    }

    #[test]
    fn a_dumped_reservation_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let map = MemoryMap::parse(&IOMEM.replace("00102000-00102fff", "00101000-00102fff"));
        let copy = dir.path().join("ram");
        fs::write(&copy, vec![0u8; 0x10_5000]).unwrap();
        compare(&Core::open(&vmcore(dir.path(), 3)).unwrap(), &map, &copy).unwrap_err();
    }
}
