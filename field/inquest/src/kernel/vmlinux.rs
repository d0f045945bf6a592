//! What an engineer has of the dead kernel besides the dump: its vmlinux, its BTF.
//!
//! Of a vmlinux, three things are of use: its symbols, its types where it has a section
//! `.BTF`, and its build id, by which it is told that it is that kernel's and no other's. It
//! may be of the gigabyte that debuginfo takes: nothing else of it is read.

use std::io::{Read, Seek, SeekFrom};

use lifeboat_sources::bytes::{le16, le32, le64};
use lifeboat_sources::notes::Notes;

/// Most bytes of one section that are read.
const MAX_SECTION: u64 = 128 << 20;
/// Bytes of an `Elf64_Ehdr`, an `Elf64_Shdr`, an `Elf64_Sym`.
const EHDR: usize = 64;
const SHDR: usize = 64;
const SYM: usize = 24;
/// `SHT_SYMTAB`.
const SYMTAB: u32 = 2;
/// `NT_GNU_BUILD_ID`.
const BUILD_ID: u32 = 3;

/// What an engineer has of the dead kernel besides the dump.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Aids {
    /// BTF of vmlinux (the section `.BTF`, or what `/sys/kernel/btf/vmlinux` held).
    pub btf: Option<Vec<u8>>,
    /// Symbols of vmlinux as it was linked, without KASLR's offset.
    pub symbols: Option<Vec<(String, u64)>>,
    /// Its build id, in hexadecimal.
    pub build_id: Option<String>,
}

/// Why a vmlinux is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmlinuxError {
    /// It cannot be read.
    #[error("it cannot be read: {0}\nhint: is it a file, and may you read it?")]
    Io(#[from] std::io::Error),
    /// It is none.
    #[error(
        "it is no vmlinux: {0}\nhint: a bzImage or vmlinuz does not do; distributions have vmlinux in a package of debug symbols"
    )]
    NotOne(&'static str),
}

/// A section's header.
struct Section {
    name: u32,
    kind: u32,
    offset: u64,
    size: u64,
    link: u32,
}

impl Aids {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Those that a vmlinux has.
    ///
    /// # Errors
    /// [`VmlinuxError`], where it is none, or has neither symbols nor types.
    pub fn of_vmlinux(file: &mut (impl Read + Seek)) -> Result<Self, VmlinuxError> {
        let (sections, names) = sections(file)?;
        let name = |s: &Section| text(&names, s.name);
        let mut aids = Self::none();
        for section in &sections {
            match name(section) {
                Some(b".BTF") => aids.btf = Some(bytes(file, section.offset, section.size)?),
                Some(b".notes" | b".note.gnu.build-id") if aids.build_id.is_none() => {
                    aids.build_id = build_id(&bytes(file, section.offset, section.size)?);
                }
                _ if section.kind == SYMTAB && aids.symbols.is_none() => {
                    let link = usize::try_from(section.link).unwrap_or(usize::MAX);
                    let strings = sections.get(link);
                    let strings = strings.ok_or(VmlinuxError::NotOne("its symbols lack names"))?;
                    let table = bytes(file, section.offset, section.size)?;
                    let names = bytes(file, strings.offset, strings.size)?;
                    aids.symbols = Some(symbols(&table, &names));
                }
                _ => {}
            }
        }
        if aids.btf.is_none() && aids.symbols.is_none() {
            return Err(VmlinuxError::NotOne("it has neither symbols nor types"));
        }
        Ok(aids)
    }
}

/// Bytes of a file, no more than a section may have.
fn bytes(file: &mut (impl Read + Seek), at: u64, len: u64) -> Result<Vec<u8>, VmlinuxError> {
    let short = VmlinuxError::NotOne("a section is longer than the file, or than any is");
    let end = file.seek(SeekFrom::End(0))?;
    let fits = at.checked_add(len).is_some_and(|to| to <= end) && len <= MAX_SECTION;
    let Some(len) = usize::try_from(len).ok().filter(|_| fits) else { return Err(short) };
    let mut out = vec![0; len];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut out)?;
    Ok(out)
}

/// All sections, and the table of their names.
fn sections(file: &mut (impl Read + Seek)) -> Result<(Vec<Section>, Vec<u8>), VmlinuxError> {
    let no = |why| VmlinuxError::NotOne(why);
    let head = bytes(file, 0, EHDR as u64).map_err(|_| no("it is too short"))?;
    // ELFCLASS64, ELFDATA2LSB.
    if head.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(no("it is no ELF file of 64 bits"));
    }
    let field = |at| le16(&head, at).map_or(0, usize::from);
    let (size, count, names) = (field(0x3a), field(0x3c), field(0x3e));
    let start = le64(&head, 0x28).unwrap_or(0);
    if size != SHDR || count == 0 {
        return Err(no("it has no sections"));
    }
    let raw = bytes(file, start, (count * SHDR) as u64)?;
    let parse = |raw: &[u8]| {
        Some(Section {
            name: le32(raw, 0)?,
            kind: le32(raw, 4)?,
            offset: le64(raw, 0x18)?,
            size: le64(raw, 0x20)?,
            link: le32(raw, 0x28)?,
        })
    };
    let all: Vec<Section> = raw.chunks_exact(SHDR).filter_map(parse).collect();
    let names = all.get(names).ok_or(no("its sections have no names"))?;
    let names = bytes(file, names.offset, names.size)?;
    Ok((all, names))
}

/// The text at an offset of a table, up to its NUL.
fn text(names: &[u8], at: u32) -> Option<&[u8]> {
    let rest = names.get(usize::try_from(at).ok()?..)?;
    rest.split(|b| *b == 0).next()
}

/// Symbols that are defined; those of files and sections are no names.
fn symbols(table: &[u8], names: &[u8]) -> Vec<(String, u64)> {
    let parse = |raw: &[u8]| {
        let (name, kind, section) = (le32(raw, 0)?, raw.get(4)? & 15, le16(raw, 6)?);
        let text = std::str::from_utf8(text(names, name)?).ok()?;
        // STT_SECTION, STT_FILE; SHN_UNDEF.
        let named = !matches!(kind, 3 | 4) && section != 0 && !text.is_empty();
        named.then(|| Some((text.to_owned(), le64(raw, 8)?)))?
    };
    table.chunks_exact(SYM).filter_map(parse).collect()
}

fn build_id(notes: &[u8]) -> Option<String> {
    use std::fmt::Write as _;
    let note = Notes::new(notes).find(|n| n.name == b"GNU" && n.kind == BUILD_ID)?;
    Some(note.desc.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    }))
}
