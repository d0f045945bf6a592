//! The commit record: the last block of a dump, written when all else is on the medium.
//!
//! A dump without one is still readable chunk by chunk; what it proves is that
//! nothing is missing behind the last chunk, and it tells in the clear how the
//! capture went.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{BLOCK, ByteOff, FormatError, Id, check_block, is_zero, sealed_block};

/// First bytes of a commit record.
pub const MAGIC: [u8; 8] = *b"LBCOMMIT";
/// Phases that a commit record can hold.
pub const MAX_PHASES: usize = 12;
/// Bytes of the record that its tag authenticates.
pub const AAD_LEN: usize = size_of::<Raw>() - 16;
/// The nonce's sequence number for the commit tag; no chunk ever has it.
pub const COMMIT_SEQ: u64 = u64::MAX;

const WHAT: &str = "commit record";

/// How a capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// All that was asked for was captured.
    Complete = 1,
    /// The partition was full.
    Full = 2,
    /// The deadline came.
    Deadline = 3,
    /// A source failed as a whole (not single pages).
    SourceFailed = 4,
}

impl Outcome {
    fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            1 => Self::Complete,
            2 => Self::Full,
            3 => Self::Deadline,
            4 => Self::SourceFailed,
            _ => return None,
        })
    }

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Full => "partial (dump partition full)",
            Self::Deadline => "partial (deadline)",
            Self::SourceFailed => "partial (a source failed)",
        }
    }
}

/// Phases of a capture whose time is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PhaseId {
    /// From the crash kernel's start to PID 1, by the kernel's clock.
    Kernel = 1,
    /// proc, sysfs, devtmpfs.
    Mounts = 2,
    /// Waiting for the dump partition and the swap devices.
    Devices = 3,
    /// Opening old memory, reading elfcorehdr and notes.
    Sources = 4,
    /// Checking that the target is ours.
    Guard = 5,
    /// Data key, header, log and notes.
    Head = 6,
    /// Memory.
    Memory = 7,
    /// Swap.
    Swap = 8,
    /// Trailer, index and flush before the commit record.
    Commit = 9,
}

impl PhaseId {
    /// Reads a phase's number.
    #[must_use]
    pub fn from_u8(v: u8) -> Option<Self> {
        Some(match v {
            1 => Self::Kernel,
            2 => Self::Mounts,
            3 => Self::Devices,
            4 => Self::Sources,
            5 => Self::Guard,
            6 => Self::Head,
            7 => Self::Memory,
            8 => Self::Swap,
            9 => Self::Commit,
            _ => return None,
        })
    }

    /// Name as the console and `list` print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Mounts => "mounts",
            Self::Devices => "devices",
            Self::Sources => "sources",
            Self::Guard => "guard",
            Self::Head => "head",
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Commit => "commit",
        }
    }
}

/// Which interface gave the old memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SourceKind {
    /// `/dev/oldmem`.
    Oldmem = 1,
    /// `/proc/vmcore`.
    Vmcore = 2,
    /// A file on a host (`lifeboat capture`, tests).
    File = 3,
}

/// How blocks reached the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum IoMode {
    /// `pwrite(2)`, O_DIRECT where the file allows it.
    Pwrite = 1,
    /// io_uring, completed by interrupt.
    Uring = 2,
    /// io_uring with IOPOLL on a poll queue.
    Polled = 3,
}

impl IoMode {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pwrite => "pwrite",
            Self::Uring => "io_uring, interrupts",
            Self::Polled => "io_uring, polled",
        }
    }
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawPhase {
    id: U32,
    millis: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    outcome: u8,
    source: u8,
    io: u8,
    last_part: u8,
    dump_id: Id,
    total_len: U64,
    chunks: U64,
    index: U64,
    header_copy: U64,
    committed: U64,
    memory: RawPages,
    swap: RawPages,
    read_errors: U64,
    writes: U64,
    phases: [RawPhase; MAX_PHASES],
    memory_more: RawMore,
    swap_more: RawMore,
    tag: [u8; 16],
}

/// What version 3 counts besides. Lies where the last phases of version 2 were, which
/// were never used.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawMore {
    fill: U64,
    same: U64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawPages {
    asked: U64,
    data: U64,
    zero: U64,
    unreadable: U64,
    excluded: U64,
    stored: U64,
}

/// Pages of one source, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCounts {
    /// Pages that the capture was to cover.
    pub asked: u64,
    /// Pages whose contents are in the dump.
    pub data: u64,
    /// Pages that were all zero.
    pub zero: u64,
    /// Pages that could not be read.
    pub unreadable: u64,
    /// Pages left out: of a kind that was to be, or faulty.
    pub excluded: u64,
    /// Pages of one word, not zero, over and over.
    pub fill: u64,
    /// Pages with the contents of another one that is in the dump.
    pub same: u64,
    /// Bytes of their chunks in the dump, headers and padding included.
    pub stored_bytes: u64,
}

impl PageCounts {
    /// Pages that the dump says something of.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.data
            .saturating_add(self.zero)
            .saturating_add(self.unreadable)
            .saturating_add(self.excluded)
            .saturating_add(self.fill)
            .saturating_add(self.same)
    }

    /// Adds another count, saturating.
    pub fn add(&mut self, other: &Self) {
        self.asked = self.asked.saturating_add(other.asked);
        self.data = self.data.saturating_add(other.data);
        self.zero = self.zero.saturating_add(other.zero);
        self.unreadable = self.unreadable.saturating_add(other.unreadable);
        self.excluded = self.excluded.saturating_add(other.excluded);
        self.fill = self.fill.saturating_add(other.fill);
        self.same = self.same.saturating_add(other.same);
        self.stored_bytes = self.stored_bytes.saturating_add(other.stored_bytes);
    }

    fn raw(&self) -> RawPages {
        RawPages {
            asked: self.asked.into(),
            data: self.data.into(),
            zero: self.zero.into(),
            unreadable: self.unreadable.into(),
            excluded: self.excluded.into(),
            stored: self.stored_bytes.into(),
        }
    }

    fn raw_more(&self) -> RawMore {
        RawMore { fill: self.fill.into(), same: self.same.into() }
    }

    fn of(raw: &RawPages, more: &RawMore) -> Self {
        Self {
            fill: more.fill.get(),
            same: more.same.get(),
            asked: raw.asked.get(),
            data: raw.data.get(),
            zero: raw.zero.get(),
            unreadable: raw.unreadable.get(),
            excluded: raw.excluded.get(),
            stored_bytes: raw.stored.get(),
        }
    }
}

/// What the last block of a dump says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitRecord {
    /// Version of the format that it was written in; the tag covers it.
    pub version: u32,
    /// The dump.
    pub dump_id: Id,
    /// How it ended.
    pub outcome: Outcome,
    /// Where memory came from.
    pub source: SourceKind,
    /// How blocks reached the device.
    pub io: IoMode,
    /// Number of the part that this record lies in; 0 for a dump of one part.
    pub last_part: u8,
    /// Bytes of the dump, this record included.
    pub total_len: u64,
    /// Chunks written, index chunks included.
    pub chunks: u64,
    /// Offset in the dump of the last index chunk.
    pub index: ByteOff,
    /// Offset in the dump of the second copy of the header.
    pub header_copy: ByteOff,
    /// When it was written, seconds since 1970.
    pub committed: u64,
    /// Memory pages.
    pub memory: PageCounts,
    /// Swap pages, all devices.
    pub swap: PageCounts,
    /// Reads that failed, memory and swap.
    pub read_errors: u64,
    /// Write requests to the device.
    pub writes: u64,
    /// Phases in order: number (see [`PhaseId`]) and milliseconds; number 0 is unused.
    pub phases: [(u8, u32); MAX_PHASES],
    /// AES-256-GCM tag over the first [`AAD_LEN`] bytes with no plaintext; zero if not encrypted.
    pub tag: [u8; 16],
}

impl CommitRecord {
    fn raw(&self) -> Raw {
        Raw {
            magic: MAGIC,
            version: self.version.into(),
            outcome: self.outcome as u8,
            source: self.source as u8,
            io: self.io as u8,
            last_part: self.last_part,
            dump_id: self.dump_id,
            total_len: self.total_len.into(),
            chunks: self.chunks.into(),
            index: self.index.0.into(),
            header_copy: self.header_copy.0.into(),
            committed: self.committed.into(),
            memory: self.memory.raw(),
            swap: self.swap.raw(),
            read_errors: self.read_errors.into(),
            writes: self.writes.into(),
            phases: self
                .phases
                .map(|(id, ms)| RawPhase { id: u32::from(id).into(), millis: ms.into() }),
            memory_more: self.memory.raw_more(),
            swap_more: self.swap.raw_more(),
            tag: self.tag,
        }
    }

    /// The bytes that the tag authenticates.
    #[must_use]
    pub fn aad(&self) -> [u8; AAD_LEN] {
        let mut out = [0u8; AAD_LEN];
        for (to, from) in out.iter_mut().zip(self.raw().as_bytes()) {
            *to = *from;
        }
        out
    }

    /// The block to write.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        sealed_block(&self.raw())
    }

    /// Reads and checks a commit record.
    ///
    /// # Errors
    /// [`FormatError`], naming what is wrong.
    pub fn decode(block: &[u8; BLOCK]) -> Result<Self, FormatError> {
        let version = check_block(block, MAGIC, size_of::<Raw>(), WHAT)?;
        let (raw, _) =
            Raw::read_from_prefix(block).map_err(|_| FormatError::Short { what: WHAT })?;
        let bad = |field, value: u64| FormatError::Field { what: WHAT, field, value };
        let total_len = raw.total_len.get();
        if total_len > i64::MAX as u64 || !total_len.is_multiple_of(BLOCK as u64) {
            return Err(bad("total_len", total_len));
        }
        let mut phases = [(0u8, 0u32); MAX_PHASES];
        for (to, from) in phases.iter_mut().zip(raw.phases) {
            let id = u8::try_from(from.id.get()).map_err(|_| bad("phase", from.id.get().into()))?;
            *to = (id, from.millis.get());
        }
        if version == 1 && raw.last_part != 0 {
            return Err(bad("reserved", raw.last_part.into()));
        }
        let more = [raw.memory_more, raw.swap_more];
        if version < 3 && !is_zero(more.as_bytes()) {
            return Err(bad("reserved", 1));
        }
        Ok(Self {
            version,
            dump_id: raw.dump_id,
            outcome: Outcome::from_u8(raw.outcome)
                .ok_or_else(|| bad("outcome", raw.outcome.into()))?,
            source: match raw.source {
                1 => SourceKind::Oldmem,
                2 => SourceKind::Vmcore,
                3 => SourceKind::File,
                other => return Err(bad("source", other.into())),
            },
            io: match raw.io {
                1 => IoMode::Pwrite,
                2 => IoMode::Uring,
                3 => IoMode::Polled,
                other => return Err(bad("io", other.into())),
            },
            last_part: raw.last_part,
            total_len,
            chunks: raw.chunks.get(),
            index: ByteOff(raw.index.get()),
            header_copy: ByteOff(raw.header_copy.get()),
            committed: raw.committed.get(),
            memory: PageCounts::of(&raw.memory, &raw.memory_more),
            swap: PageCounts::of(&raw.swap, &raw.swap_more),
            read_errors: raw.read_errors.get(),
            writes: raw.writes.get(),
            phases,
            tag: raw.tag,
        })
    }
}
