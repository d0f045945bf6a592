//! BTF: the types of a kernel, which it carries in its own memory.
//!
//! This module owns the format (`Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`)
//! and its hostile variants. It reads through a window of 64 KiB from wherever BTF lies:
//! a dead kernel's memory between `__start_BTF` and `__stop_BTF`, or a slice. It refuses
//! to believe a length, to follow a circle, and to guess: a name that two types of a
//! kind have is told as such.
//!
//! | step | cost |
//! |---|---|
//! | [`Btf::open`] | the header |
//! | [`Btf::find`] | one walk over the names and one over the types, for any number of names |
//! | [`Btf::by_id`] | at most 64 types, once there was a walk |
//! | [`Btf::member`], [`Btf::enumerator`] | the members of that type, anonymous ones within |
//!
//! Types are numbered from 1 on in the order in which they lie; 0 is `void`. A kind that
//! is not known cannot be passed over, since its length is not known: everything ends
//! there with [`BtfError::Kind`].

mod query;
mod types;

use crate::bytes::{le16, le32};
use crate::paging::{PagingError, ReadVirt};
use crate::window::Window;

pub use query::{Hits, Place};
pub use types::{Array, Enumerator, Kind, Member, Type};

/// Most bytes of BTF that are looked at; kernels of distributions have 4 to 8 MB.
pub const MAX_LEN: u64 = 64 << 20;
/// Most bytes of a name that is given out, and that is looked for.
pub const MAX_NAME: usize = 512;
/// `BTF_MAGIC`.
const MAGIC: u16 = 0xeb9f;
/// Bytes of `struct btf_header`, the first version; later ones add to it.
const HEADER: usize = 24;
/// Largest header that is believed in.
const MAX_HEADER: u64 = 256;
/// Each how many types the place of one is kept.
const STRIDE: u32 = 64;

/// Why BTF is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    /// A number in the header that cannot be.
    #[error("BTF's {what} is {value:#x}, which cannot be\nhint: it is damaged, or too new")]
    Header {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A kind of type that is not known.
    #[error("BTF type {id} is of kind {kind}, which is not known\nhint: it is damaged, or too new")]
    Kind {
        /// Number of the type.
        id: u32,
        /// Its kind.
        kind: u32,
    },
    /// A type reaches over the end of the types, or says what cannot be.
    #[error("BTF type {id} is damaged\nhint: its kernel's memory was overwritten, or is too new")]
    Type {
        /// Number of the type.
        id: u32,
    },
    /// There is no such type, or it is of another kind.
    #[error("BTF has no type {id} of the kind that is needed\nhint: it is damaged")]
    NoType {
        /// Its number.
        id: u32,
    },
    /// A name beyond the names, without an end, too long or no text.
    #[error("BTF has no sound name at {offset:#x}\nhint: it is damaged")]
    Name {
        /// Where it should be, in bytes.
        offset: u32,
    },
    /// Types that contain each other, or more members than any type has.
    #[error("BTF type {id} has no end\nhint: it is damaged")]
    Endless {
        /// Number of the type.
        id: u32,
    },
    /// It cannot be read.
    #[error("BTF: {0}\nhint: the machine lost that memory")]
    Memory(#[from] PagingError),
}

/// A stretch of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Section {
    start: u64,
    end: u64,
}

/// The types of one kernel or module.
#[derive(Debug)]
pub struct Btf<R> {
    reader: R,
    types: Section,
    names: Section,
    type_window: Window,
    name_window: Window,
    /// Where types 1, 1 + STRIDE, … lie, in bytes from the start of the types.
    index: Vec<u32>,
    count: u32,
}

impl<R: ReadVirt> Btf<R> {
    /// Reads and checks the header of what lies at `start`, `len` bytes. Allocates
    /// 128 KiB.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn open(mut reader: R, start: u64, len: u64) -> Result<Self, BtfError> {
        let (types, names) = header(&mut reader, start, len)?;
        let (type_window, name_window) = (Window::new(), Window::new());
        Ok(Self { reader, types, names, type_window, name_window, index: Vec::new(), count: 0 })
    }

    /// How many types there are, `void` not counted: their numbers are 1 to this.
    ///
    /// # Errors
    /// [`BtfError`], of the walk that counts them.
    pub fn count(&mut self) -> Result<u32, BtfError> {
        if self.count == 0 {
            self.walk(|_| ())?;
        }
        Ok(self.count)
    }

    /// Every type in order. The first walk keeps the place of each 64th type: at most
    /// 350 KiB, for [`MAX_LEN`].
    ///
    /// # Errors
    /// [`BtfError`], at the first type that is not sound.
    pub fn walk(&mut self, mut each: impl FnMut(&Type)) -> Result<(), BtfError> {
        let len = self.types.end - self.types.start;
        let (mut at, mut id) = (0, 0u32);
        let mut index = std::mem::take(&mut self.index);
        index.clear();
        while at < len {
            // At least 12 bytes a type: far fewer than 2^32 of them.
            id += 1;
            let offset = u32::try_from(at).map_err(|_| BtfError::Type { id })?;
            let ty = self.read_type(id, offset)?;
            if (id - 1).is_multiple_of(STRIDE) {
                index.push(offset);
            }
            each(&ty);
            at = ty.end();
        }
        (self.index, self.count) = (index, id);
        Ok(())
    }

    /// A type by its number.
    ///
    /// # Errors
    /// [`BtfError::NoType`] for 0 and beyond the last one, and others.
    pub fn by_id(&mut self, id: u32) -> Result<Type, BtfError> {
        let none = BtfError::NoType { id };
        let count = self.count()?;
        let before = id.checked_sub(1).filter(|_| id <= count).ok_or(none)?;
        let slot = usize::try_from(before / STRIDE).map_err(|_| none)?;
        let mut at = *self.index.get(slot).ok_or(none)?;
        let mut now = before / STRIDE * STRIDE + 1;
        loop {
            let ty = self.read_type(now, at)?;
            if now == id {
                return Ok(ty);
            }
            at = u32::try_from(ty.end()).map_err(|_| BtfError::Type { id: now })?;
            now += 1;
        }
    }

    /// The name at an offset, at most [`MAX_NAME`] bytes; that at 0 is empty.
    ///
    /// # Errors
    /// [`BtfError::Name`], [`BtfError::Memory`].
    pub fn name(&mut self, offset: u32) -> Result<&str, BtfError> {
        let bad = BtfError::Name { offset };
        let at = self.names.start.saturating_add(u64::from(offset));
        let left = usize::try_from(self.names.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let count = left.min(MAX_NAME + 1);
        let (window, reader) = (&mut self.name_window, &mut self.reader);
        let bytes = window.get(reader, at, count, self.names.end)?.ok_or(bad)?;
        let text = bytes.split(|b| *b == 0).next().filter(|t| t.len() < bytes.len());
        text.and_then(|t| std::str::from_utf8(t).ok()).ok_or(bad)
    }

    /// `count` bytes of the types from `at` on.
    fn type_bytes(&mut self, id: u32, at: u64, count: usize) -> Result<&[u8], BtfError> {
        let (window, reader) = (&mut self.type_window, &mut self.reader);
        let at = self.types.start.saturating_add(at);
        let bytes = window.get(reader, at, count, self.types.end)?;
        bytes.ok_or(BtfError::Type { id })
    }

    fn read_type(&mut self, id: u32, at: u32) -> Result<Type, BtfError> {
        let damaged = BtfError::Type { id };
        let head = self.type_bytes(id, u64::from(at), types::HEAD)?;
        let words = le32(head, 0).zip(le32(head, 4)).zip(le32(head, 8));
        let ((name, info), size_or_type) = words.ok_or(damaged)?;
        let kind =
            Kind::new(info >> 24 & 0x1f).ok_or(BtfError::Kind { id, kind: info >> 24 & 0x1f })?;
        let ty =
            Type { id, kind, name, vlen: info & 0xffff, flag: info >> 31 != 0, size_or_type, at };
        if ty.end() > self.types.end - self.types.start {
            return Err(damaged);
        }
        Ok(ty)
    }
}

/// Where types and names lie.
fn header(
    reader: &mut impl ReadVirt,
    start: u64,
    len: u64,
) -> Result<(Section, Section), BtfError> {
    let odd = |what, value: u64| BtfError::Header { what, value };
    if !(HEADER as u64..=MAX_LEN).contains(&len) || start.checked_add(len).is_none() {
        return Err(odd("length", len));
    }
    let mut raw = [0; HEADER];
    reader.read_virt(start, &mut raw)?;
    let half = |at| u64::from(le16(&raw, at).unwrap_or_default());
    let word = |at| u64::from(le32(&raw, at).unwrap_or_default());
    let [_, _, version, flags, ..] = raw;
    if half(0) != u64::from(MAGIC) {
        return Err(odd("magic", half(0)));
    }
    if version != 1 || flags != 0 {
        return Err(odd("version", u64::from(version) << 8 | u64::from(flags)));
    }
    let head = word(4);
    if !(HEADER as u64..=MAX_HEADER.min(len)).contains(&head) {
        return Err(odd("header length", head));
    }
    let section = |what, offset: u64, size: u64| {
        // All from 32 bits: no sum overflows.
        let end = head + offset + size;
        if end > len {
            return Err(odd(what, size));
        }
        Ok(Section { start: start + head + offset, end: start + end })
    };
    let types = section("length of types", word(8), word(12))?;
    let names = section("length of names", word(16), word(20))?;
    let apart = types.end <= names.start || names.end <= types.start;
    if !apart || word(12) == 0 || word(20) == 0 {
        return Err(odd("place of names", word(16)));
    }
    Ok((types, names))
}
