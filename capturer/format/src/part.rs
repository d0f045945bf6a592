//! Parts: how a dump that does not fit one extent goes on in another.
//!
//! A dump's bytes have *logical offsets*, continuous over its parts. Part 0 lies
//! on its volume as it is. Every further part begins with a head: one part block,
//! then a copy of the dump's header and key area, then the dump's bytes from
//! logical offset `base` on. A pulled dump is the logical dump: heads are left out.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::header::HEADER_LEN;
use crate::{BLOCK, FORMAT_VERSION, FormatError, Id, check_block, sealed_block};

/// First bytes of a part behind the first.
pub const MAGIC: [u8; 8] = *b"LBPART\0\x02";
/// Bytes in front of the dump's bytes in a part behind the first.
pub const PART_HEAD: usize = BLOCK + HEADER_LEN;

const WHAT: &str = "part block";

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    part: U32,
    dump_id: Id,
    volume_id: Id,
    base: U64,
}

/// The first block of a part behind the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartBlock {
    /// The dump.
    pub dump_id: Id,
    /// The volume that this part lies on.
    pub volume_id: Id,
    /// Number of the part, from 1.
    pub part: u16,
    /// Logical offset in the dump of the first byte behind the head, in bytes; a
    /// multiple of 4096. 0 if part 0 failed before it held anything.
    pub base: u64,
}

impl PartBlock {
    /// The block to write.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let raw = Raw {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            part: u32::from(self.part).into(),
            dump_id: self.dump_id,
            volume_id: self.volume_id,
            base: self.base.into(),
        };
        sealed_block(&raw)
    }

    /// Reads and checks a part block.
    ///
    /// # Errors
    /// [`FormatError`], naming what is wrong.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, FormatError> {
        check_block(block, MAGIC, size_of::<Raw>(), WHAT)?;
        let (raw, _) =
            Raw::read_from_prefix(block).map_err(|_| FormatError::Short { what: WHAT })?;
        let bad = |field, value| FormatError::Field { what: WHAT, field, value };
        let part = u16::try_from(raw.part.get())
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| bad("part", raw.part.get().into()))?;
        let base = raw.base.get();
        if !base.is_multiple_of(BLOCK as u64) || base > i64::MAX as u64 {
            return Err(bad("base", base));
        }
        Ok(Self { dump_id: raw.dump_id, volume_id: raw.volume_id, part, base })
    }
}
