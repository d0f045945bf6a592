//! The meta chunk: tables that describe the dump, as tag-length-value records.
//!
//! A record is `tag: u16, flags: u16 = 0, len: u32, bytes[len]`, padded with
//! zeros to a multiple of 8. Unknown tags are refused: they could carry what a
//! reader must know.

use crate::{FormatError, PageRange, is_zero};

/// Bytes before a record's value.
pub const RECORD_HEAD: usize = 8;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Tag {
    /// SHA-256 of the dump header's block 0 (32 bytes).
    HeaderDigest = 1,
    /// The ELF header and program headers of the elfcorehdr, verbatim (`Elf64_Ehdr`
    /// and `Elf64_Phdr[]`; offsets in it mean nothing behind the crash).
    Elfcorehdr = 2,
    /// Physical memory to capture: pairs of u64 pfn, `[start, end)`, ascending, disjoint.
    MemoryRanges = 3,
    /// A swap device: see [`SwapDevice`].
    SwapDevice = 4,
    /// Name of the host, if the arming told it. UTF-8.
    Hostname = 5,
    /// The boot configuration without seed, as text.
    BootConfig = 6,
}

/// A swap device as a meta record: `index: u16, reserved: u16, page_size: u32, bytes: u64`,
/// then UTF-8 text lines `key value` (`path`, `partuuid`, `partlabel`, `uuid`, `label`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwapDevice<'a> {
    /// Number that its chunks carry.
    pub index: u16,
    /// Page size of its swap header.
    pub page_size: u32,
    /// Length of the device in bytes.
    pub bytes: u64,
    /// What is known of it, one `key value` a line.
    pub text: &'a str,
}

/// Bytes of a [`SwapDevice`] before its text.
pub const SWAP_FIXED: usize = 16;

/// Writes records into a fixed buffer.
#[derive(Debug)]
pub struct MetaWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> MetaWriter<'a> {
    /// An empty table in `buf`.
    #[must_use]
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Bytes written.
    #[must_use]
    pub fn finish(self) -> usize {
        self.len
    }

    /// Adds a record whose value is the concatenation of `parts`.
    ///
    /// # Errors
    /// [`FormatError::NoSpace`] when the buffer is full; the table stays as it was.
    pub fn record<'p>(
        &mut self,
        tag: Tag,
        parts: impl Iterator<Item = &'p [u8]> + Clone,
    ) -> Result<(), FormatError> {
        let full = FormatError::NoSpace { what: "meta chunk" };
        let value_len: usize = parts.clone().map(<[u8]>::len).sum();
        let padded = value_len.next_multiple_of(8);
        let space = self.buf.get_mut(self.len..self.len + RECORD_HEAD + padded).ok_or(full)?;
        space.fill(0);
        let (head, mut value) = space.split_at_mut_checked(RECORD_HEAD).ok_or(full)?;
        let len = u32::try_from(value_len).map_err(|_| full)?;
        let tag = (tag as u16).to_le_bytes();
        let lenb = len.to_le_bytes();
        for (to, from) in head.iter_mut().zip([tag.as_slice(), &[0, 0], &lenb].concat_iter()) {
            *to = from;
        }
        for part in parts {
            let (now, rest) = value.split_at_mut_checked(part.len()).ok_or(full)?;
            now.copy_from_slice(part);
            value = rest;
        }
        self.len += RECORD_HEAD + padded;
        Ok(())
    }

    /// Adds one memory range table.
    ///
    /// # Errors
    /// [`FormatError::NoSpace`].
    pub fn ranges(&mut self, ranges: &[PageRange]) -> Result<(), FormatError> {
        // One record a range keeps this free of allocation; readers join them.
        for r in ranges {
            let start = r.start.0.to_le_bytes();
            let end = r.end.0.to_le_bytes();
            self.record(Tag::MemoryRanges, [start.as_slice(), &end].into_iter())?;
        }
        Ok(())
    }

    /// Adds a swap device.
    ///
    /// # Errors
    /// [`FormatError::NoSpace`].
    pub fn swap_device(&mut self, dev: &SwapDevice<'_>) -> Result<(), FormatError> {
        let index = dev.index.to_le_bytes();
        let page = dev.page_size.to_le_bytes();
        let bytes = dev.bytes.to_le_bytes();
        self.record(
            Tag::SwapDevice,
            [index.as_slice(), &[0, 0], &page, &bytes, dev.text.as_bytes()].into_iter(),
        )
    }
}

trait ConcatIter {
    fn concat_iter(&self) -> impl Iterator<Item = u8>;
}

impl<const N: usize> ConcatIter for [&[u8]; N] {
    fn concat_iter(&self) -> impl Iterator<Item = u8> {
        self.iter().flat_map(|part| part.iter().copied())
    }
}

/// A record read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// [`Tag::HeaderDigest`].
    HeaderDigest([u8; 32]),
    /// [`Tag::Elfcorehdr`].
    Elfcorehdr(&'a [u8]),
    /// [`Tag::MemoryRanges`]: one range.
    MemoryRange(PageRange),
    /// [`Tag::SwapDevice`].
    SwapDevice(SwapDevice<'a>),
    /// [`Tag::Hostname`].
    Hostname(&'a str),
    /// [`Tag::BootConfig`].
    BootConfig(&'a str),
}

/// Reads records from the plaintext of the meta chunks.
#[derive(Debug, Clone)]
pub struct MetaReader<'a> {
    rest: &'a [u8],
}

impl<'a> MetaReader<'a> {
    /// A reader of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn next_record(&mut self) -> Result<Record<'a>, FormatError> {
        const WHAT: &str = "meta record";
        let short = FormatError::Short { what: WHAT };
        let bad = |field, value| FormatError::Field { what: WHAT, field, value };
        let (head, rest) = self.rest.split_first_chunk::<RECORD_HEAD>().ok_or(short)?;
        let [t0, t1, f0, f1, l0, l1, l2, l3] = *head;
        if (f0, f1) != (0, 0) {
            return Err(bad("flags", u64::from(u16::from_le_bytes([f0, f1]))));
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (padded, rest) = rest.split_at_checked(len.next_multiple_of(8)).ok_or(short)?;
        let (value, padding) = padded.split_at_checked(len).ok_or(short)?;
        if !is_zero(padding) {
            return Err(bad("padding", 1));
        }
        self.rest = rest;
        let text = |b: &'a [u8]| core::str::from_utf8(b).map_err(|_| bad("text", 0));
        match u16::from_le_bytes([t0, t1]) {
            1 => value.try_into().map(Record::HeaderDigest).map_err(|_| bad("digest", len as u64)),
            2 => Ok(Record::Elfcorehdr(value)),
            3 => {
                let (ends, left) = value.as_chunks::<8>();
                match (ends, left.is_empty()) {
                    ([start, end], true) => {
                        let (start, end) = (u64::from_le_bytes(*start), u64::from_le_bytes(*end));
                        if start >= end || end > 1 << 52 {
                            return Err(bad("range", end));
                        }
                        Ok(Record::MemoryRange(PageRange::new(start, end)))
                    }
                    _ => Err(bad("range", len as u64)),
                }
            }
            4 => {
                let (fixed, tail) = value.split_first_chunk::<SWAP_FIXED>().ok_or(short)?;
                let [i0, i1, r0, r1, p0, p1, p2, p3, b @ ..] = *fixed;
                let dev = SwapDevice {
                    index: u16::from_le_bytes([i0, i1]),
                    page_size: u32::from_le_bytes([p0, p1, p2, p3]),
                    bytes: u64::from_le_bytes(b),
                    text: text(tail)?,
                };
                if (r0, r1) != (0, 0) {
                    return Err(bad("reserved", u64::from(u16::from_le_bytes([r0, r1]))));
                }
                if dev.bytes > i64::MAX as u64 {
                    return Err(bad("bytes", dev.bytes));
                }
                Ok(Record::SwapDevice(dev))
            }
            5 => text(value).map(Record::Hostname),
            6 => text(value).map(Record::BootConfig),
            other => Err(bad("tag", other.into())),
        }
    }
}

impl<'a> Iterator for MetaReader<'a> {
    type Item = Result<Record<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.next_record();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}
