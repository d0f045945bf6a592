//! Slots: which dumps a volume holds, and where.
//!
//! A slot has two blocks; a change writes the one that is *not* the newest, with
//! a higher generation, so that a torn write loses the change and never the
//! record. A slot that never held a dump is all zero.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::superblock::{EDGE, SLOT_TABLE, SLOTS};
use crate::{
    BLOCK, ByteOff, CHUNK_ALIGN, FORMAT_VERSION, FormatError, Id, check_block, is_zero,
    sealed_block,
};

const MAGIC: [u8; 8] = *b"LBSLOT\0\x01";
const WHAT: &str = "slot record";

/// State of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// A capture began and has not committed: still running, or the power went.
    Capturing = 1,
    /// Everything that was asked for is in the dump.
    Complete = 2,
    /// The dump is valid but something that was asked for is missing.
    Partial = 3,
    /// Given up by `lifeboat clear` or by the volume's policy; the space is free.
    Cleared = 4,
    /// This part is whole as far as it reaches, and the dump goes on in another part.
    Continued = 5,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    state: u8,
    pulled: u8,
    part: U16,
    volume_id: Id,
    dump_id: Id,
    generation: U64,
    number: U64,
    start: U64,
    reserved_len: U64,
    used_len: U64,
    created: U64,
    base: U64,
    next_volume: Id,
}

/// What a slot says of its dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRecord {
    /// The volume it belongs to: a record copied from elsewhere is refused.
    pub volume_id: Id,
    /// The dump.
    pub dump_id: Id,
    /// Counts the writes of this slot; the higher of the two copies holds.
    pub generation: u64,
    /// Number of the dump on this volume, from 1, never used twice.
    pub number: u64,
    /// State.
    pub state: SlotState,
    /// `lifeboat pull` has fetched it whole.
    pub pulled: bool,
    /// First byte of the dump within the volume.
    pub start: ByteOff,
    /// Bytes set aside for it when the capture began.
    pub reserved_len: u64,
    /// Bytes that it takes; 0 while capturing.
    pub used_len: u64,
    /// When the capture began, seconds since 1970 by the crash kernel's clock.
    pub created: u64,
    /// Which part of the dump this is, from 0.
    pub part: u16,
    /// Logical offset in the dump of the part's first byte behind its head; 0 for part 0.
    pub base: u64,
    /// The volume that holds the next part, where the state is [`SlotState::Continued`].
    pub next_volume: Id,
}

impl SlotRecord {
    /// Byte offset within the volume of copy `copy` (0 or 1) of slot `slot`.
    #[must_use]
    pub fn offset(slot: u32, copy: u32) -> ByteOff {
        ByteOff(SLOT_TABLE + (u64::from(slot) * 2 + u64::from(copy & 1)) * BLOCK as u64)
    }

    /// Bytes of the volume that are not free because of this slot.
    #[must_use]
    pub fn extent(&self) -> core::ops::Range<u64> {
        let len = match self.state {
            SlotState::Cleared => 0,
            SlotState::Capturing => self.reserved_len,
            SlotState::Complete | SlotState::Partial | SlotState::Continued => self.used_len,
        };
        self.start.0..self.start.0.saturating_add(len)
    }

    /// The copy to write this record to: the one that an even or odd generation takes.
    #[must_use]
    pub fn copy_index(&self) -> u32 {
        (self.generation & 1) as u32
    }

    /// The block to write.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let raw = Raw {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            state: self.state as u8,
            pulled: u8::from(self.pulled),
            part: self.part.into(),
            volume_id: self.volume_id,
            dump_id: self.dump_id,
            generation: self.generation.into(),
            number: self.number.into(),
            start: self.start.0.into(),
            reserved_len: self.reserved_len.into(),
            used_len: self.used_len.into(),
            created: self.created.into(),
            base: self.base.into(),
            next_volume: self.next_volume,
        };
        sealed_block(&raw)
    }

    /// Reads one copy. `Ok(None)`: all zero, never written.
    ///
    /// # Errors
    /// [`FormatError`] for anything that is neither zero nor a sound record
    /// of this volume, with its extent inside `[EDGE, data_end)`.
    pub fn decode(
        block: &[u8; BLOCK],
        volume_id: &Id,
        data_end: u64,
    ) -> Result<Option<Self>, FormatError> {
        if is_zero(block) {
            return Ok(None);
        }
        let version = check_block(block, MAGIC, size_of::<Raw>(), WHAT)?;
        let (raw, _) =
            Raw::read_from_prefix(block).map_err(|_| FormatError::Short { what: WHAT })?;
        let bad = |field, value: u64| Err(FormatError::Field { what: WHAT, field, value });
        if raw.volume_id != *volume_id {
            return bad("volume_id", 0);
        }
        let state = match raw.state {
            1 => SlotState::Capturing,
            2 => SlotState::Complete,
            3 => SlotState::Partial,
            4 => SlotState::Cleared,
            5 => SlotState::Continued,
            other => return bad("state", other.into()),
        };
        let parts = raw.part.get() != 0 || raw.base.get() != 0 || raw.next_volume != [0; 16];
        if version == 1 && (parts || state == SlotState::Continued) {
            return bad("reserved", 1);
        }
        if raw.pulled > 1 {
            return bad("pulled", raw.pulled.into());
        }
        let record = Self {
            volume_id: raw.volume_id,
            dump_id: raw.dump_id,
            generation: raw.generation.get(),
            number: raw.number.get(),
            state,
            pulled: raw.pulled == 1,
            start: ByteOff(raw.start.get()),
            reserved_len: raw.reserved_len.get(),
            used_len: raw.used_len.get(),
            created: raw.created.get(),
            part: raw.part.get(),
            base: raw.base.get(),
            next_volume: raw.next_volume,
        };
        let extent = record.extent();
        if record.start.0 < EDGE || !record.start.0.is_multiple_of(BLOCK as u64) {
            return bad("start", record.start.0);
        }
        if record.used_len > record.reserved_len {
            return bad("used_len", record.used_len);
        }
        if extent.end > data_end || record.reserved_len > data_end {
            return bad("reserved_len", record.reserved_len);
        }
        // Part 0 has no base. Another one has none if part 0 failed before it held anything.
        if (record.part == 0 && record.base != 0)
            || !record.base.is_multiple_of(BLOCK as u64)
            || record.base.checked_add(record.reserved_len).is_none()
        {
            return bad("base", record.base);
        }
        if record.number == 0 {
            return bad("number", 0);
        }
        Ok(Some(record))
    }

    /// The valid record of a slot from its two copies: the higher generation. A slot whose
    /// very first write was torn was never used: nothing is written into an extent before
    /// that write is durable.
    ///
    /// # Errors
    /// When neither copy is sound and not both are zero.
    pub fn newest(
        copies: [&[u8; BLOCK]; 2],
        volume_id: &Id,
        data_end: u64,
    ) -> Result<Option<Self>, FormatError> {
        match copies.map(|c| Self::decode(c, volume_id, data_end)) {
            [Ok(Some(a)), Ok(Some(b))] => {
                Ok(Some(if a.generation >= b.generation { a } else { b }))
            }
            [Ok(Some(one)), _] | [_, Ok(Some(one))] => Ok(Some(one)),
            [Ok(None), Ok(None)] => Ok(None),
            [Err(_), Ok(None)] if is_torn(copies[0]) => Ok(None),
            [Ok(None), Err(_)] if is_torn(copies[1]) => Ok(None),
            [Err(e), _] | [_, Err(e)] => Err(e),
        }
    }
}

/// Whether of a record written over zeros only one end arrived. (What lies between the
/// first sector and the last is zero in every record.)
fn is_torn(block: &[u8; BLOCK]) -> bool {
    let (first, rest) = block.split_at(CHUNK_ALIGN);
    let (between, last) = rest.split_at(rest.len() - CHUNK_ALIGN);
    is_zero(between) && (is_zero(first) || is_zero(last))
}

/// Slot numbers `0..SLOTS`.
#[must_use]
pub fn all_slots() -> core::ops::Range<u32> {
    0..SLOTS
}
