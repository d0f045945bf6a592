//! The ELF header and program headers that describe a crashed machine's memory.
//!
//! There are two layouts, and one parser for both. In the *elfcorehdr* that kexec
//! builds (`arch/x86/kernel/crash.c`, `crash_prepare_elf64_headers()` in
//! `kernel/crash_core.c`), `p_offset` is a physical address and there is one
//! PT_NOTE for each CPU and one for VMCOREINFO. In `/proc/vmcore` and in vmcore
//! files, `p_offset` is an offset in that file, and the notes are one segment.
//!
//! Refused: ELF32, big-endian, what is not `ET_CORE`, and `PN_XNUM` (the count of
//! headers in a section header): `e_phnum` of the kernel's own writer is 16 bits
//! wide and never extended, so 65535 can only be a defect. Program headers may
//! overlap (the kernel's text is described twice).

use lifeboat_format::{PAGE, PageRange};

use crate::bytes::{le16, le32, le64};

/// Bytes of an `Elf64_Ehdr`.
pub const EHDR_LEN: usize = 64;
/// Bytes of an `Elf64_Phdr`.
pub const PHDR_LEN: usize = 56;
/// Most bytes from the start of the file to the end of the program headers. 65534
/// headers take 3.5 MiB; QEMU puts a section header before them.
pub const MAX_LEN: usize = 4 << 20;
/// Most bits of a physical address on x86-64 (`__PHYSICAL_MASK_SHIFT`).
const PHYS_BITS: u32 = 52;
/// `__START_KERNEL_map` of x86-64: virtual addresses from here on are the kernel's
/// image and modules, so a PT_LOAD there is an alias of RAM described elsewhere.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// What is wrong with a core header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// Fewer bytes than the headers need.
    #[error("the ELF header is cut short: {have} of {need} bytes")]
    Short {
        /// Bytes there are.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// No ELF magic.
    #[error("not an ELF file")]
    Magic,
    /// A field of the ELF header that makes it something else than a 64-bit core.
    #[error("ELF header: `{field}` holds {value}, which a 64-bit little-endian core has not")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// The headers end beyond [`MAX_LEN`].
    #[error("the program headers end beyond 4 MiB")]
    TooLong,
    /// A program header whose numbers overflow or leave the physical address space.
    #[error("program header {index}: `{field}` holds {value:#x}, which is out of range")]
    Segment {
        /// Its number, from 0.
        index: usize,
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// Type of a program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentType {
    /// `PT_LOAD`: memory.
    Load,
    /// `PT_NOTE`: notes.
    Note,
    /// Any other; ignored.
    Other(u32),
}

/// One program header. All sizes and offsets are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramHeader {
    /// `p_type`.
    pub kind: SegmentType,
    /// `p_flags`.
    pub flags: u32,
    /// `p_offset`: a physical address in an elfcorehdr, a file offset in a vmcore.
    pub offset: u64,
    /// `p_vaddr`.
    pub vaddr: u64,
    /// `p_paddr`.
    pub paddr: u64,
    /// `p_filesz`.
    pub filesz: u64,
    /// `p_memsz`.
    pub memsz: u64,
}

impl ProgramHeader {
    fn read(bytes: &[u8]) -> Option<Self> {
        let kind = match le32(bytes, 0)? {
            1 => SegmentType::Load,
            4 => SegmentType::Note,
            other => SegmentType::Other(other),
        };
        Some(Self {
            kind,
            flags: le32(bytes, 4)?,
            offset: le64(bytes, 8)?,
            vaddr: le64(bytes, 16)?,
            paddr: le64(bytes, 24)?,
            filesz: le64(bytes, 32)?,
            memsz: le64(bytes, 40)?,
        })
    }

    /// Whether this PT_LOAD describes the kernel's image a second time.
    #[must_use]
    pub fn is_kernel_alias(&self) -> bool {
        self.vaddr >= KERNEL_MAP
    }

    /// Refuses sums that overflow and memory outside the physical address space,
    /// so that arithmetic on a checked header cannot wrap.
    fn check(&self, index: usize) -> Result<(), ElfError> {
        let bad = |field, value| Err(ElfError::Segment { index, field, value });
        if matches!(self.kind, SegmentType::Other(_)) {
            return Ok(());
        }
        if self.offset.checked_add(self.filesz.max(self.memsz)).is_none_or(|e| e > i64::MAX as u64)
        {
            return bad("p_offset", self.offset);
        }
        if self.kind == SegmentType::Load {
            let end = self.paddr.checked_add(self.memsz.max(self.filesz));
            if end.is_none_or(|end| end > 1 << PHYS_BITS) {
                return bad("p_paddr", self.paddr);
            }
        }
        Ok(())
    }
}

/// The fixed ELF header: enough to know how much more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElfHead {
    /// `e_machine`: 62 is x86-64, 183 is AArch64.
    pub machine: u16,
    /// `e_phoff`, bytes.
    pub phoff: usize,
    /// `e_phnum`.
    pub phnum: usize,
}

impl ElfHead {
    /// Reads the first [`EHDR_LEN`] bytes.
    ///
    /// # Errors
    /// [`ElfError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        let short = ElfError::Short { have: bytes.len(), need: EHDR_LEN };
        let ehdr = bytes.get(..EHDR_LEN).ok_or(short)?;
        if !ehdr.starts_with(b"\x7fELF") {
            return Err(ElfError::Magic);
        }
        let field = |field, at: usize, want: u64| {
            let value = u64::from(*ehdr.get(at).ok_or(short)?);
            if value == want { Ok(()) } else { Err(ElfError::Field { field, value }) }
        };
        field("EI_CLASS", 4, 2)?;
        field("EI_DATA", 5, 1)?;
        field("EI_VERSION", 6, 1)?;
        let half = |field, at: usize, want: Option<u16>| {
            let value = le16(ehdr, at).ok_or(short)?;
            match want {
                Some(want) if want != value => {
                    Err(ElfError::Field { field, value: u64::from(value) })
                }
                _ => Ok(value),
            }
        };
        half("e_type", 16, Some(4))?;
        let machine = half("e_machine", 18, None)?;
        half("e_phentsize", 54, Some(56))?;
        let phnum = half("e_phnum", 56, None)?;
        if phnum == 0 || phnum == u16::MAX {
            return Err(ElfError::Field { field: "e_phnum", value: u64::from(phnum) });
        }
        let phoff = le64(ehdr, 32).ok_or(short)?;
        if phoff < EHDR_LEN as u64 {
            return Err(ElfError::Field { field: "e_phoff", value: phoff });
        }
        let phoff = usize::try_from(phoff).map_err(|_| ElfError::TooLong)?;
        let head = Self { machine, phoff, phnum: usize::from(phnum) };
        match phoff.checked_add(head.phnum * PHDR_LEN) {
            Some(end) if end <= MAX_LEN => Ok(head),
            _ => Err(ElfError::TooLong),
        }
    }

    /// Bytes from the start of the file to the end of the program headers; at most [`MAX_LEN`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.phoff + self.phnum * PHDR_LEN
    }

    /// Never: a header has at least one program header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A parsed and checked core header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreHeader {
    head: ElfHead,
    segments: Vec<ProgramHeader>,
    bytes: Vec<u8>,
}

impl CoreHeader {
    /// Parses `bytes`, which begin with the ELF header and hold all program headers.
    ///
    /// Allocates at most twice [`MAX_LEN`].
    ///
    /// # Errors
    /// [`ElfError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        let head = ElfHead::parse(bytes)?;
        let short = ElfError::Short { have: bytes.len(), need: head.len() };
        let table = bytes.get(head.phoff..head.len()).ok_or(short)?;
        let mut segments = Vec::with_capacity(head.phnum);
        for (index, raw) in table.chunks_exact(PHDR_LEN).enumerate() {
            let segment = ProgramHeader::read(raw).ok_or(short)?;
            segment.check(index)?;
            segments.push(segment);
        }
        let ehdr = bytes.get(..EHDR_LEN).ok_or(short)?;
        Ok(Self { head, segments, bytes: joined(ehdr, table) })
    }

    /// The fixed header.
    #[must_use]
    pub fn head(&self) -> &ElfHead {
        &self.head
    }

    /// All program headers, in their order.
    #[must_use]
    pub fn segments(&self) -> &[ProgramHeader] {
        &self.segments
    }

    /// The PT_LOAD headers that hold anything.
    pub fn loads(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(|s| s.kind == SegmentType::Load && s.memsz > 0)
    }

    /// The PT_NOTE headers.
    pub fn notes(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(|s| s.kind == SegmentType::Note)
    }

    /// `Elf64_Ehdr` and `Elf64_Phdr[]`, verbatim. Only where the program headers did
    /// not follow the ELF header at once (QEMU's dumps) are they moved there, and
    /// `e_phoff` and the section fields say so: the result parses again.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory of all PT_LOADs as whole pages: sorted, merged, disjoint.
    ///
    /// A page that a segment covers in part is included, as the kernel does for
    /// `/proc/vmcore` (`process_ptload_program_headers_elf64()`): dropping it would
    /// lose RAM, and a reader that cannot give it reports it as a hole.
    #[must_use]
    pub fn memory_ranges(&self) -> Vec<PageRange> {
        let page = PAGE as u64;
        let mut all: Vec<PageRange> = self
            .loads()
            .map(|s| PageRange::new(s.paddr / page, (s.paddr + s.memsz).div_ceil(page)))
            .collect();
        all.sort_unstable_by_key(|r| r.start);
        let mut out: Vec<PageRange> = Vec::with_capacity(all.len());
        for next in all {
            match out.last_mut() {
                Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
                _ => out.push(next),
            }
        }
        out
    }
}

/// The two tables one behind the other, with `e_phoff` fitting that.
fn joined(ehdr: &[u8], table: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ehdr.len() + table.len());
    out.extend_from_slice(ehdr);
    if le64(ehdr, 32) != Some(EHDR_LEN as u64) {
        // e_phoff at 32; e_shoff at 40; e_shentsize, e_shnum, e_shstrndx from 58.
        let patch = [(32, (EHDR_LEN as u64).to_le_bytes()), (40, [0; 8])];
        for (at, value) in patch {
            if let Some(field) = out.get_mut(at..at + 8) {
                field.copy_from_slice(&value);
            }
        }
        if let Some(field) = out.get_mut(58..EHDR_LEN) {
            field.fill(0);
        }
    }
    out.extend_from_slice(table);
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A core header described as text: `load PADDR SIZE OFFSET [VADDR]`, `note OFFSET SIZE`,
    /// numbers in hexadecimal.
    pub(crate) fn build(text: &str) -> Vec<u8> {
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .filter(|w: &Vec<&str>| !w.is_empty())
            .collect();
        let mut out = vec![0u8; EHDR_LEN];
        out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        out[16..20].copy_from_slice(&[4, 0, 62, 0]);
        out[32] = 64;
        out[54] = 56;
        out[56..58].copy_from_slice(&u16::try_from(lines.len()).unwrap().to_le_bytes());
        for words in lines {
            let n: Vec<u64> =
                words[1..].iter().map(|w| u64::from_str_radix(w, 16).unwrap()).collect();
            let (kind, off, vaddr, paddr, size) = match words[0] {
                "load" => (1u32, n[2], n.get(3).copied().unwrap_or(0), n[0], n[1]),
                "note" => (4, n[0], 0, n[0], n[1]),
                other => panic!("{other}"),
            };
            out.extend(kind.to_le_bytes());
            out.extend(7u32.to_le_bytes());
            for v in [off, vaddr, paddr, size, size, 0] {
                out.extend(v.to_le_bytes());
            }
        }
        out
    }

    fn pages(text: &str) -> Vec<(u64, u64)> {
        let ranges = CoreHeader::parse(&build(text)).unwrap().memory_ranges();
        ranges.iter().map(|r| (r.start.0, r.end.0)).collect()
    }

    #[test]
    fn ranges_are_merged_rounded_outward_and_sorted() {
        // The kernel's text lies within RAM; two ranges touch; one ends within a page.
        let text = "note 5000 1000
            load 1a00000 600000 1a00000 ffffffff81a00000
            load 100000000 200000 100000000
            load 100000 2ff00000 100000
            load 30000000 4d00 30000000
            load 1000 9ec00 1000";
        assert_eq!(pages(text), [(1, 0xa0), (0x100, 0x30005), (0x10_0000, 0x10_0200)]);
    }

    #[test]
    fn header_bytes_are_verbatim_or_parse_again() {
        let plain = build("load 1000 1000 1000\nnote 0 40");
        assert_eq!(CoreHeader::parse(&plain).unwrap().bytes(), plain);
        // As QEMU lays it out: a section header between the two.
        let mut moved = plain[..64].to_vec();
        moved[32] = 128;
        moved.extend([0xaa; 64]);
        moved.extend(&plain[64..]);
        let header = CoreHeader::parse(&moved).unwrap();
        let again = CoreHeader::parse(header.bytes()).unwrap();
        assert_eq!(again.segments(), header.segments());
    }

    #[test]
    fn refuses_what_is_not_a_core() {
        let good = build("load 1000 1000 1000");
        for (at, value) in [(4, 1u8), (5, 2), (16, 2), (54, 55), (56, 0), (32, 63), (36, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(CoreHeader::parse(&bad).is_err(), "byte {at} = {value}");
        }
        let mut xnum = good.clone();
        xnum[56..58].fill(0xff);
        assert_eq!(
            CoreHeader::parse(&xnum),
            Err(ElfError::Field { field: "e_phnum", value: 65535 })
        );
        assert!(CoreHeader::parse(&build("load ffffffffffffe000 4000 0")).is_err());
        assert!(CoreHeader::parse(&build("load 10000000000000 1000 0")).is_err());
        assert!(CoreHeader::parse(&build("load 0 1000 7fffffffffffffff")).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000),
                        real in any::<bool>()) {
            if real && bytes.len() > 64 {
                let head = build("note 0 10");
                bytes[..64].copy_from_slice(&head[..64]);
                bytes[56] = 20;
            }
            if let Ok(header) = CoreHeader::parse(&bytes) {
                let ranges = header.memory_ranges();
                for pair in ranges.windows(2) {
                    prop_assert!(pair[0].end < pair[1].start);
                }
                prop_assert!(CoreHeader::parse(header.bytes()).is_ok());
            }
        }

        #[test]
        fn every_byte_of_every_load_is_in_a_range(
            loads in proptest::collection::vec((0u64..1 << 30, 1u64..1 << 22), 1..40)) {
            let text: String =
                loads.iter().map(|(p, s)| format!("load {p:x} {s:x} {p:x}\n")).collect();
            let ranges = CoreHeader::parse(&build(&text)).unwrap().memory_ranges();
            for (p, s) in loads {
                prop_assert!(ranges.iter().any(|r|
                    r.start.0 <= p / 4096 && (p + s).div_ceil(4096) <= r.end.0));
            }
        }
    }
}
