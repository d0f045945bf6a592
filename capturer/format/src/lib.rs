//! The words that every part of Lifeboat shares: the on-disk format of a dump
//! and the boot configuration that arms a crash image.
//!
//! This crate owns the layout of bytes, and checks every byte that it reads.
//! It refuses to do I/O, cryptography or allocation: the capturer (PID 1 of the
//! crash kernel) and the host command use it alike. `FORMAT.md` beside this
//! crate describes the same bytes for those who write another reader.
//!
//! # Glossary
//! * **volume**: a partition (or whole disk, or file) that `lifeboat format` prepared.
//! * **superblock**: says that a volume is ours, where it lies and how long it is.
//! * **slot**: the record of one dump on a volume; kept twice, newest generation wins.
//! * **dump**: header, chunks, second header, commit record, in one or more parts.
//! * **part**: one contiguous extent of a dump on a volume; see [`part`].
//! * **chunk**: a self-describing frame: 96-byte header, sealed payload, zero padding.
//! * **run**: within a page chunk, consecutive pages of one [`PageClass`].
//! * **valid** means that the bytes authenticate; **complete** that all that was
//!   asked for is there. A partial dump is valid.
#![no_std]
#![forbid(unsafe_code)]

pub mod bootcfg;
pub mod chunk;
pub mod commit;
pub mod error;
pub mod exclude;
pub mod header;
pub mod index;
pub mod keys;
pub mod meta;
pub mod part;
pub mod slot;
pub mod superblock;
pub mod units;

pub use chunk::{ChunkHeader, ChunkKind, Codec, Layer, PageClass, Run};
pub use commit::{CommitRecord, Outcome, PhaseId};
pub use error::FormatError;
pub use exclude::Exclude;
pub use header::{Cipher, DumpHeader};
pub use index::{IndexEntry, IndexHead};
pub use keys::{KeyArea, KeyEntry, KeyKind};
pub use part::PartBlock;
pub use slot::{SlotRecord, SlotState};
pub use superblock::Superblock;
pub use units::{ByteOff, PAGE, PageRange, Pfn, PhysAddr};

use zerocopy::{Immutable, IntoBytes};

/// Identity of a dump or a volume: 16 random bytes, printed as hexadecimal.
pub type Id = [u8; 16];

/// Version of the on-disk format that this crate writes. It reads this one and all before.
pub const FORMAT_VERSION: u32 = 3;

/// Unit of the volume's fixed structures (superblock, slots, header, commit), in bytes.
/// 4096 so that 512-byte and 4Kn devices hold them alike.
pub const BLOCK: usize = 4096;
/// [`BLOCK`] as it is stored in structures.
pub(crate) const BLOCK_U32: u32 = 4096;
const _: () = assert!(BLOCK == BLOCK_U32 as usize);

/// Alignment of a chunk within a dump, in bytes: the smallest sector of a disk.
pub const CHUNK_ALIGN: usize = 512;

/// CRC-32 (IEEE 802.3, as zlib's) of `bytes`.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Whether all `bytes` are zero. Compared as slices, which is a `memcmp`: a loop over bytes
/// that may end early is one byte at a time, whatever the compiler's level.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    bytes.chunks(BLOCK).all(|part| ZEROS.get(..part.len()) == Some(part))
}

/// Rounds `n` up to a multiple of `to` (a power of two); `None` on overflow.
#[must_use]
pub fn round_up(n: u64, to: u64) -> Option<u64> {
    n.checked_add(to.checked_sub(1)?).map(|v| v & !(to - 1))
}

/// Copies `text` into a NUL-padded field, cutting at a character boundary if it is too long.
#[must_use]
pub fn text_field<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [0u8; N];
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in out.iter_mut().zip(text.as_bytes().iter().take(end)) {
        *to = *from;
    }
    out
}

/// Reads a NUL-padded field back; bytes that are not UTF-8 end the text.
#[must_use]
pub fn field_text(field: &[u8]) -> &str {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let bytes = field.get(..end).unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => bytes
            .get(..e.valid_up_to())
            .and_then(|b| core::str::from_utf8(b).ok())
            .unwrap_or_default(),
    }
}

/// What every one-block structure begins and ends with: magic in bytes 0 to 7, version
/// in bytes 8 to 11, zeros from byte `used` on, and in the last four the CRC-32 of all
/// before. Gives the version.
pub(crate) fn check_block(
    block: &[u8; BLOCK],
    magic: [u8; 8],
    used: usize,
    what: &'static str,
) -> Result<u32, FormatError> {
    let short = FormatError::Short { what };
    let (found, rest) = block.split_first_chunk::<8>().ok_or(short)?;
    if *found != magic {
        return Err(FormatError::Magic { what });
    }
    let (body, tail) = block.split_last_chunk::<4>().ok_or(short)?;
    if crc32(body) != u32::from_le_bytes(*tail) {
        return Err(FormatError::Checksum { what });
    }
    let version = rest.first_chunk::<4>().map(|v| u32::from_le_bytes(*v)).ok_or(short)?;
    if version == 0 || version > FORMAT_VERSION {
        return Err(FormatError::Version { what, found: version });
    }
    // No seal covers these bytes: were they free, something could be hidden in them.
    if !is_zero(body.get(used..).unwrap_or_default()) {
        return Err(FormatError::Field { what, field: "reserved", value: 1 });
    }
    Ok(version)
}

/// The block that begins with `raw`, has zeros behind it, and in its last four bytes the
/// CRC-32 of all before.
#[must_use]
pub(crate) fn sealed_block<T: IntoBytes + Immutable>(raw: &T) -> [u8; BLOCK] {
    const { assert!(size_of::<T>() <= BLOCK - 4) };
    let mut block = [0u8; BLOCK];
    // Cannot fail: it is shorter than a block.
    let _ = raw.write_to_prefix(&mut block);
    if let Some((body, tail)) = block.split_last_chunk_mut::<4>() {
        *tail = crc32(body).to_le_bytes();
    }
    block
}

/// CRC-32 of several byte strings as if they were one.
#[must_use]
pub fn crc32_parts(parts: &[&[u8]]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize()
}
