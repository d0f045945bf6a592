//! What can be wrong with a dump. Every message ends with a hint.

use std::io;

use lifeboat_crypt::CryptError;
use lifeboat_format::{ChunkKind, FormatError, IndexEntry};

/// Why a dump, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The file or device failed.
    #[error(
        "reading {len} bytes at byte {offset} of the dump: {source}\nhint: the medium or the file is damaged there; `lifeboat pull` again, or copy it with a tool that retries"
    )]
    Io {
        /// First byte, from the dump's start.
        offset: u64,
        /// How many.
        len: u64,
        /// The system's error.
        source: io::Error,
    },
    /// No header at either end.
    #[error(
        "this is not a Lifeboat dump ({first}; no second header either)\nhint: name a pulled dump file, or a volume that `lifeboat list` understands"
    )]
    NotADump {
        /// What is wrong with the first header.
        first: FormatError,
    },
    /// Too small to be one.
    #[error(
        "{len} bytes are too few for a dump, whose header alone takes 16384\nhint: the file was cut short; pull it again"
    )]
    TooShort {
        /// What there is.
        len: u64,
    },
    /// The commit record speaks of another length.
    #[error(
        "the dump is {committed} bytes long by its commit record, but {found} bytes are here\nhint: the file was cut short or something was appended; pull it again"
    )]
    Length {
        /// Length by the commit record.
        committed: u64,
        /// Length found.
        found: u64,
    },
    /// There is no commit record.
    #[error(
        "the dump's {len} bytes end without a commit record ({why}): the file was cut short, or the power went while it was captured\nhint: compare its size with what `lifeboat list` prints for the volume and pull it again; what is there can be read as a partial dump"
    )]
    NoCommit {
        /// Length found.
        len: u64,
        /// What is in its place.
        why: String,
    },
    /// Neither key area is sound.
    #[error(
        "both copies of the key area are damaged ({source}): nothing can decrypt this dump\nhint: pull the dump again from its volume; `lifeboat verify` shows what else is damaged"
    )]
    Keys {
        /// What is wrong with the first.
        source: FormatError,
    },
    /// Keys and seals, other than those of a chunk.
    #[error(transparent)]
    Crypt(#[from] CryptError),
    /// The header was changed since the capture.
    #[error(
        "the header does not match the digest that was sealed into the dump: it was changed after the capture\nhint: do not trust what `lifeboat list` prints for this dump; look for another copy"
    )]
    HeaderForged,
    /// A chunk is damaged, was changed, or says what cannot be.
    #[error("{} chunk at byte {} ({}): {why}\nhint: `lifeboat verify` lists all damage; pull the dump again if its volume still has it", .entry.kind.name(), .entry.offset.0, covers(.entry))]
    Chunk {
        /// Which.
        entry: IndexEntry,
        /// What is wrong.
        why: String,
    },
    /// The index contradicts itself or the dump.
    #[error(
        "the index is not usable at byte {offset}: {why}\nhint: `lifeboat verify -i KEY` shows what is damaged"
    )]
    Index {
        /// Offset of the index chunk or of the chunk that it speaks of.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// A part of a text is missing.
    #[error("bytes {from} to {to} of the {} are missing\nhint: the chunk that holds them is damaged; `lifeboat verify` names it", .kind.name())]
    TextGap {
        /// Which text.
        kind: ChunkKind,
        /// First missing byte.
        from: u64,
        /// First byte that is there again.
        to: u64,
    },
    /// A text is longer than any capturer writes.
    #[error("the {} takes {len} bytes, more than a capturer writes\nhint: this dump was not written by Lifeboat, or is damaged", .kind.name())]
    TextTooLong {
        /// Which text.
        kind: ChunkKind,
        /// Its length.
        len: u64,
    },
    /// A table in the meta chunk is damaged.
    #[error(
        "the dump's tables are not readable: {source}\nhint: this dump may come from a newer Lifeboat; use that version"
    )]
    Meta {
        /// What is wrong.
        source: FormatError,
    },
    /// No such swap device.
    #[error("the dump holds no swap device number {index}\nhint: it holds {known}")]
    NoSwap {
        /// What was asked for.
        index: u16,
        /// What there is, in words.
        known: String,
    },
}

/// What a chunk covers, in words: physical addresses for memory.
pub(crate) fn covers(entry: &IndexEntry) -> String {
    let (first, end) = (entry.first.0, entry.first.0.saturating_add(entry.pages));
    match entry.kind {
        ChunkKind::Memory => {
            format!(
                "physical memory {:#x} to {:#x}",
                first.saturating_mul(4096),
                end.saturating_mul(4096)
            )
        }
        ChunkKind::Swap => format!("pages {first} to {end} of swap device {}", entry.device),
        ChunkKind::Index => format!("{} entries", entry.pages),
        _ => format!("bytes {first} to {end}"),
    }
}
