//! The superblock: block 0 of a volume, and a copy in its last block.
//!
//! It is written by `lifeboat format` alone. The capturer writes to no volume
//! whose superblock does not carry the very start and length that the kernel
//! reports for the partition (the guard of s390-tools' zfcpdump), and whose
//! guard areas are not all zero: a foreign `mkfs`, `pvcreate` or `mkswap`
//! leaves its signature in one of them.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    BLOCK, BLOCK_U32, ByteOff, FORMAT_VERSION, FormatError, Id, check_block, sealed_block,
};

/// First bytes of a volume.
pub const MAGIC: [u8; 8] = *b"LIFEBOAT";
/// Bytes at each end of a volume that hold no dump: superblock, slots, guard zeros.
pub const EDGE: u64 = 1 << 20;
/// Where the slot table starts, in bytes from the volume's start. Not nearer:
/// btrfs and reiserfs put their superblock at 64 KiB, and the guard must see it.
pub const SLOT_TABLE: u64 = 128 << 10;
/// Number of slots, each of two blocks.
pub const SLOTS: u32 = 64;
/// First byte behind the slot table.
pub const SLOT_TABLE_END: u64 = SLOT_TABLE + (SLOTS as u64) * 2 * (BLOCK as u64);
/// The smallest volume that `lifeboat format` makes, in bytes.
pub const MIN_VOLUME: u64 = 16 << 20;

const WHAT: &str = "superblock";

/// The superblock as it lies on the volume: 4096 bytes, little-endian, CRC-32 last.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    block: U32,
    volume_id: Id,
    part_start: U64,
    part_len: U64,
    data_start: U64,
    data_end: U64,
    max_dumps: U32,
    slots: U32,
    created: U64,
    label: [u8; 64],
}

/// What a superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Random identity of the volume.
    pub volume_id: Id,
    /// Where the partition starts on its disk, in bytes; 0 for a whole disk or a plain file.
    pub part_start: ByteOff,
    /// Length of the volume in bytes, a multiple of 4096.
    pub part_len: u64,
    /// At most this many dumps are kept; 1 to [`SLOTS`].
    pub max_dumps: u32,
    /// When it was formatted, in seconds since 1970.
    pub created: u64,
    /// The user's label, NUL-padded UTF-8.
    pub label: [u8; 64],
}

impl Superblock {
    /// First byte that a dump may take.
    #[must_use]
    pub fn data_start(&self) -> ByteOff {
        ByteOff(EDGE)
    }

    /// First byte behind the last that a dump may take.
    #[must_use]
    pub fn data_end(&self) -> ByteOff {
        ByteOff(self.part_len.saturating_sub(EDGE))
    }

    /// Where the copy lies: the volume's last block.
    #[must_use]
    pub fn backup_at(part_len: u64) -> ByteOff {
        ByteOff(part_len.saturating_sub(BLOCK as u64))
    }

    /// The guard areas, as byte ranges of the volume that must be all zero:
    /// between superblock and slots, between slots and data, and the tail up
    /// to the backup superblock.
    #[must_use]
    pub fn guard_areas(&self) -> [core::ops::Range<u64>; 3] {
        [
            BLOCK as u64..SLOT_TABLE,
            SLOT_TABLE_END..EDGE,
            self.data_end().0..Self::backup_at(self.part_len).0,
        ]
    }

    /// The block to write.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let raw = Raw {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            block: BLOCK_U32.into(),
            volume_id: self.volume_id,
            part_start: self.part_start.0.into(),
            part_len: self.part_len.into(),
            data_start: self.data_start().0.into(),
            data_end: self.data_end().0.into(),
            max_dumps: self.max_dumps.into(),
            slots: SLOTS.into(),
            created: self.created.into(),
            label: self.label,
        };
        sealed_block(&raw)
    }

    /// Reads and checks a superblock.
    ///
    /// # Errors
    /// [`FormatError`]: wrong magic, unknown version, wrong checksum, or a field
    /// that contradicts another.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, FormatError> {
        check_block(block, MAGIC, size_of::<Raw>(), WHAT)?;
        let (raw, _) =
            Raw::read_from_prefix(block).map_err(|_| FormatError::Short { what: WHAT })?;
        let bad = |field, value| Err(FormatError::Field { what: WHAT, field, value });
        let sb = Self {
            volume_id: raw.volume_id,
            part_start: ByteOff(raw.part_start.get()),
            part_len: raw.part_len.get(),
            max_dumps: raw.max_dumps.get(),
            created: raw.created.get(),
            label: raw.label,
        };
        if raw.block.get() as usize != BLOCK {
            return bad("block", raw.block.get().into());
        }
        if sb.part_len < MIN_VOLUME || !sb.part_len.is_multiple_of(BLOCK as u64) {
            return bad("part_len", sb.part_len);
        }
        if raw.data_start.get() != sb.data_start().0 {
            return bad("data_start", raw.data_start.get());
        }
        if raw.data_end.get() != sb.data_end().0 {
            return bad("data_end", raw.data_end.get());
        }
        if raw.slots.get() != SLOTS {
            return bad("slots", raw.slots.get().into());
        }
        if sb.max_dumps == 0 || sb.max_dumps > SLOTS {
            return bad("max_dumps", sb.max_dumps.into());
        }
        Ok(sb)
    }
}
