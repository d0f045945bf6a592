//! A vmcore out of a stopped machine's memory, as `/proc/vmcore` would give it: the
//! crash kernel has begun, so the elfcorehdr that the dead kernel's kexec built lies
//! in memory, with the notes that the dying CPUs wrote.
//!
//! Layout: ELF header, program headers at 64 (where makedumpfile looks for them),
//! notes, then the segments, page-aligned. A segment that lies within another one
//! (the kernel's text, mapped a second time) shares its bytes.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::vmcore::file_offset;

const PAGE: u64 = 4096;
/// Bytes of an ELF64 file header and of a program header.
const EHDR: usize = 64;
const PHDR: usize = 56;
/// Segment types.
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// More program headers than a machine of this size can have.
const MAX_HEADERS: u16 = 4096;
/// No note area of one CPU or of VMCOREINFO is larger.
const MAX_NOTE: u64 = 1 << 16;

/// A segment of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Address that the dead kernel used for it.
    pub virt: u64,
    /// Physical address of its first byte.
    pub phys: u64,
    /// Bytes.
    pub len: u64,
    /// Where it lies in the vmcore.
    pub offset: u64,
}

/// What the elfcorehdr tells.
#[derive(Debug)]
pub(crate) struct Map {
    /// Segments of memory; offsets not yet set.
    pub loads: Vec<Load>,
    /// All notes, one behind the other.
    pub notes: Vec<u8>,
}

/// A stopped machine's memory.
#[derive(Debug)]
pub(crate) struct Ram {
    file: File,
    bytes: u64,
}

impl Ram {
    /// Opens the file behind q35's memory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: &Path) -> Res<Self> {
        let bytes = fs::metadata(path).ctx(path.display())?.len();
        Ok(Self { file: File::open(path).ctx(path.display())?, bytes })
    }

    fn read(&self, phys: u64, len: usize) -> Res<Vec<u8>> {
        let mut buf = vec![0; len];
        self.file
            .read_exact_at(&mut buf, file_offset(phys, self.bytes))
            .ctx(format_args!("memory at {phys:#x}"))?;
        Ok(buf)
    }

    /// Reads the elfcorehdr at the physical address `at`, and the notes it points to.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn map(&self, at: u64) -> Res<Map> {
        let head = self.read(at, EHDR)?;
        ensure(head.starts_with(b"\x7fELF\x02\x01"), "no elfcorehdr is where it should be")?;
        let count = u16_at(&head, 56);
        ensure(count > 1 && count < MAX_HEADERS, format_args!("{count} program headers"))?;
        let table = self.read(at + u64_at(&head, 32), usize::from(count) * PHDR)?;
        let mut map = Map { loads: Vec::new(), notes: Vec::new() };
        for ph in table.chunks_exact(PHDR) {
            let (offset, virt) = (u64_at(ph, 8), u64_at(ph, 16));
            let (phys, len) = (u64_at(ph, 24), u64_at(ph, 40));
            match u32_at(ph, 0) {
                LOAD => map.loads.push(Load { virt, phys, len, offset: 0 }),
                NOTE => {
                    let len = usize::try_from(u64_at(ph, 32).min(MAX_NOTE)).unwrap_or(0);
                    map.notes.extend(whole_notes(&self.read(offset, len)?));
                }
                _ => {}
            }
        }
        ensure(!map.loads.is_empty() && !map.notes.is_empty(), "an elfcorehdr without memory")?;
        Ok(map)
    }

    /// Writes the vmcore; gives its segments.
    ///
    /// # Errors
    /// When a file fails.
    pub(crate) fn write(&self, map: &Map, to: &Path) -> Res<Vec<Load>> {
        let mut out = File::create(to).ctx(to.display())?;
        let (head, loads) = layout(map);
        out.write_all(&head).ctx(to.display())?;
        let mut source = self.file.try_clone().ctx("the memory")?;
        let mut written = 0;
        let mut in_order = loads.clone();
        in_order.sort_by_key(|l| (l.offset, u64::MAX - l.len));
        for load in &in_order {
            if load.offset < written {
                continue;
            }
            source.seek(SeekFrom::Start(file_offset(load.phys, self.bytes))).ctx("the memory")?;
            out.seek(SeekFrom::Start(load.offset)).ctx(to.display())?;
            let mut part = std::io::Read::take(&mut source, load.len);
            let got = std::io::copy(&mut part, &mut out).ctx(to.display())?;
            ensure(got == load.len, "the memory ends before the map does")?;
            written = load.offset + load.len;
        }
        Ok(loads)
    }
}

/// Whole notes from the start of `area`: an unused rest is zero.
fn whole_notes(area: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some(head) = area.get(at..at + 12) {
        let (name, desc) = (u32_at(head, 0), u32_at(head, 4));
        if name == 0 {
            break;
        }
        let round = |n: u32| usize::try_from(n).unwrap_or(usize::MAX).next_multiple_of(4);
        let next = at + 12 + round(name) + round(desc);
        if next > area.len() {
            break;
        }
        at = next;
    }
    area.get(..at).unwrap_or_default()
}

/// Places segments and notes; gives everything before the first segment.
fn layout(map: &Map) -> (Vec<u8>, Vec<Load>) {
    let table = EHDR + (map.loads.len() + 1) * PHDR;
    let notes = table.next_multiple_of(8);
    let data = (notes + map.notes.len()) as u64;
    let mut at = data.next_multiple_of(PAGE);
    let mut loads = map.loads.clone();
    // A later segment may lie in an earlier one and the other way round: the wide first.
    let inside =
        |a: &Load, b: &Load| a.phys >= b.phys && a.phys + a.len <= b.phys + b.len && a.len < b.len;
    for n in 0..loads.len() {
        let Some(load) = loads.get(n).copied() else { break };
        if map.loads.iter().any(|other| inside(&load, other)) {
            continue;
        }
        if let Some(load) = loads.get_mut(n) {
            load.offset = at;
            at = (at + load.len).next_multiple_of(PAGE);
        }
    }
    let wide: Vec<Load> = loads.iter().filter(|l| l.offset != 0).copied().collect();
    for load in loads.iter_mut().filter(|l| l.offset == 0) {
        if let Some(around) = wide.iter().find(|w| inside(load, w)) {
            load.offset = around.offset + (load.phys - around.phys);
        }
    }
    (header(&map.notes, &loads, notes), loads)
}

/// The file's head: ELF header, program headers, notes at `notes`.
#[must_use]
pub(crate) fn header(note_bytes: &[u8], loads: &[Load], notes: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(notes + note_bytes.len());
    head.extend(b"\x7fELF\x02\x01\x01");
    head.resize(16, 0);
    let count = u16::try_from(loads.len() + 1).unwrap_or(u16::MAX);
    // ET_CORE for x86-64, version 1.
    head.extend([4, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0u64, EHDR as u64, 0] {
        head.extend(word.to_le_bytes());
    }
    head.extend([0; 4]);
    for half in [64u16, 56, count, 0, 0, 0] {
        head.extend(half.to_le_bytes());
    }
    let len = note_bytes.len() as u64;
    program_header(&mut head, NOTE, 0, [notes as u64, 0, 0, len, len, 0]);
    for l in loads {
        program_header(&mut head, LOAD, 7, [l.offset, l.virt, l.phys, l.len, l.len, 0]);
    }
    head.resize(notes, 0);
    head.extend(note_bytes);
    head
}

fn program_header(head: &mut Vec<u8>, kind: u32, flags: u32, words: [u64; 6]) {
    head.extend(kind.to_le_bytes());
    head.extend(flags.to_le_bytes());
    for word in words {
        head.extend(word.to_le_bytes());
    }
}

/// The segments and notes of a vmcore whose program headers lie behind its header.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn parse(file: &File) -> Res<(Vec<Load>, Vec<u8>)> {
    let mut head = [0u8; EHDR];
    file.read_exact_at(&mut head, 0).ctx("the vmcore")?;
    let mut table = vec![0u8; usize::from(u16_at(&head, 56)) * PHDR];
    file.read_exact_at(&mut table, u64_at(&head, 32)).ctx("the program headers")?;
    let (mut loads, mut notes) = (Vec::new(), Vec::new());
    for ph in table.chunks_exact(PHDR) {
        let (offset, len) = (u64_at(ph, 8), u64_at(ph, 32));
        if u32_at(ph, 0) == LOAD {
            loads.push(Load { virt: u64_at(ph, 16), phys: u64_at(ph, 24), len, offset });
        } else {
            notes = vec![0; usize::try_from(len.min(1 << 20)).unwrap_or(0)];
            file.read_exact_at(&mut notes, offset).ctx("the notes")?;
        }
    }
    Ok((loads, notes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_8880_0000_0000;

    fn note(name: &[u8], desc: &[u8]) -> Vec<u8> {
        let len = |b: &[u8]| u32::try_from(b.len()).unwrap().to_le_bytes();
        let mut out = [len(name), len(desc), [1, 0, 0, 0]].concat();
        for part in [name, desc] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    /// Memory of 64 pages: page n is full of n; notes at 0x1000, the elfcorehdr at 0x3000.
    fn ram(dir: &Path) -> Ram {
        let mut bytes: Vec<u8> = (0..64u8).flat_map(|n| [n; 4096]).collect();
        let mut area = note(b"CORE\0", &[7; 10]);
        area.resize(0x200, 0);
        bytes[0x1000..0x1200].copy_from_slice(&area);
        let load = |virt, phys, len| Load { virt, phys, len, offset: 0 };
        let loads = [
            load(0xffff_ffff_8100_0000, 0x1_2000, 0x2000),
            load(BASE + 0x1_0000, 0x1_0000, 0x8000),
            load(BASE + 0x2_0000, 0x2_0000, 0x1800),
        ];
        let mut head = header(&[], &loads, 64 + 4 * 56);
        // The first program header: the note area of a CPU, as kexec writes it.
        head[64 + 8..64 + 16].copy_from_slice(&0x1000u64.to_le_bytes());
        head[64 + 32..64 + 40].copy_from_slice(&0x200u64.to_le_bytes());
        bytes[0x3000..0x3000 + head.len()].copy_from_slice(&head);
        let path = dir.join("ram");
        fs::write(&path, bytes).unwrap();
        Ram::open(&path).unwrap()
    }

    #[test]
    fn a_vmcore_holds_what_the_map_names_once() {
        let dir = tempfile::tempdir().unwrap();
        let ram = ram(dir.path());
        let map = ram.map(0x3000).unwrap();
        assert_eq!(map.notes, note(b"CORE\0", &[7; 10]));
        let path = dir.path().join("vmcore");
        let loads = ram.write(&map, &path).unwrap();
        assert_eq!(loads.len(), 3);
        let (read, notes) = parse(&File::open(&path).unwrap()).unwrap();
        assert_eq!((&read, &notes), (&loads, &map.notes));
        let bytes = fs::read(&path).unwrap();
        for load in &loads {
            let part = &bytes[usize::try_from(load.offset).unwrap()..];
            for at in 0..load.len {
                let want = u8::try_from((load.phys + at) / 4096).unwrap();
                assert_eq!(part[usize::try_from(at).unwrap()], want, "{load:x?} at {at:#x}");
            }
        }
        // The kernel's text shares the bytes of the segment around it.
        assert_eq!(loads[0].offset, loads[1].offset + 0x2000);
        assert_eq!(bytes.len() as u64, loads[2].offset + 0x1800);
    }

    #[test]
    fn there_is_no_map_where_there_is_no_header() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ram(dir.path()).map(0x4000).is_err());
    }
}
