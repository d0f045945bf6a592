//! The chunks of a dump file, found here a second time from FORMAT.md alone: which
//! kinds and layers there are, how much is in each, and in what order they came.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::bootconf::crc32;
use crate::error::{Context as _, Res, ensure};

/// Where the first chunk of a dump file begins.
const FIRST: u64 = 16384;
/// Chunks begin at multiples of this.
const STEP: u64 = 512;
/// Bytes of a chunk header.
const HEADER: usize = 96;

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The dead kernel's log, the notes, or the tables.
    Head,
    /// Memory by address.
    Memory,
    /// Memory of the kernel.
    Kernel,
    /// Memory of programs.
    User,
    /// Swapped pages.
    Swap,
    /// Page cache.
    Cache,
    /// Free memory.
    Free,
    /// The capturer's own log.
    Trailer,
    /// A list of chunks.
    Index,
}

impl Kind {
    fn of(kind: u8, layer: u8) -> Option<Self> {
        Some(match (kind, layer) {
            (1..=3, 0) => Self::Head,
            (4, 0) => Self::Memory,
            (4, 1) => Self::Kernel,
            (4, 2) => Self::User,
            (4, 3) => Self::Cache,
            (4, 4) => Self::Free,
            (5, 0) => Self::Swap,
            (6, 0) => Self::Trailer,
            (7, 0) => Self::Index,
            _ => return None,
        })
    }
}

/// A chunk, by its header.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// What it holds.
    pub kind: Kind,
    /// Its number in order of writing.
    pub seq: u64,
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// Bytes that it takes there.
    pub len: u64,
    /// Pages with contents.
    pub data_pages: u64,
}

/// All chunks of a dump file in the order of their places. Bytes that are no chunk are
/// passed over, as a reader of a damaged dump does.
///
/// # Errors
/// When the file cannot be read, or a chunk has a kind that FORMAT.md does not know.
pub fn walk(path: &Path) -> Res<Vec<Chunk>> {
    let file = File::open(path).ctx(path.display())?;
    let len = file.metadata().ctx(path.display())?.len();
    let (mut at, mut id, mut out) = (FIRST, None, Vec::new());
    let mut header = [0u8; HEADER];
    while at + HEADER as u64 <= len {
        file.read_exact_at(&mut header, at).ctx(path.display())?;
        let dump = header.get(8..24).map(<[u8]>::to_vec);
        let sound = header.starts_with(b"LBCHUNK\x01")
            && crc32(header.get(..92).unwrap_or_default())
                == u32::try_from(number(&header, 92, 4)).unwrap_or(0)
            && number(&header, 64, 8) == at
            && (id.is_none() || id == dump);
        if !sound {
            at += STEP;
            continue;
        }
        id = dump;
        let (kind, layer) = (byte(&header, 32), byte(&header, 35));
        let kind = Kind::of(kind, layer).ctx(format_args!("kind {kind} of layer {layer}"))?;
        let bytes = (HEADER as u64 + number(&header, 60, 4)).next_multiple_of(STEP);
        out.push(Chunk {
            kind,
            seq: number(&header, 24, 8),
            offset: at,
            len: bytes,
            data_pages: number(&header, 72, 4),
        });
        at += bytes;
    }
    Ok(out)
}

/// Chunks, pages with contents and bytes of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Chunks.
    pub chunks: u64,
    /// Pages with contents.
    pub pages: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

/// Sums up the chunks of a kind.
#[must_use]
pub fn sum(chunks: &[Chunk], kind: Kind) -> Sum {
    let these = chunks.iter().filter(|c| c.kind == kind);
    these.fold(Sum::default(), |s, c| Sum {
        chunks: s.chunks + 1,
        pages: s.pages + c.data_pages,
        bytes: s.bytes + c.len,
    })
}

/// One line for people: pages and MiB of each kind, in the order of worth.
#[must_use]
pub fn table(chunks: &[Chunk]) -> String {
    let mut out = String::new();
    for kind in [Kind::Memory, Kind::Kernel, Kind::User, Kind::Swap, Kind::Cache, Kind::Free] {
        let s = sum(chunks, kind);
        let mib = s.bytes as f64 / f64::from(1 << 20);
        if s.chunks > 0 {
            let _ = write!(out, "{kind:?} {} chunks {} pages {mib:.1} MiB, ", s.chunks, s.pages);
        }
    }
    out.trim_end_matches(", ").to_owned()
}

/// The chunks lie in the order of worth: kernel, user, swap, page cache, free, trailer.
/// What stands at the head may come again where a dump goes on elsewhere; index chunks
/// stand anywhere.
///
/// # Errors
/// With the first chunk that is out of order, or when memory lies by address.
pub fn by_worth(chunks: &[Chunk]) -> Res<()> {
    let mut highest = Kind::Head;
    for chunk in chunks {
        ensure(
            chunk.kind != Kind::Memory,
            format_args!("chunk {} holds memory in order of address", chunk.seq),
        )?;
        if matches!(chunk.kind, Kind::Head | Kind::Index) {
            continue;
        }
        ensure(
            chunk.kind >= highest,
            format_args!("chunk {} ({:?}) comes after {highest:?}", chunk.seq, chunk.kind),
        )?;
        highest = chunk.kind;
    }
    Ok(())
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// A little-endian number of `len` bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let part = bytes.get(at..at + len).unwrap_or_default();
    part.iter().rev().fold(0, |n, b| (n << 8) | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: u8, layer: u8, offset: u64, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; (HEADER + payload).next_multiple_of(512)];
        bytes[..8].copy_from_slice(b"LBCHUNK\x01");
        bytes[8..24].fill(7);
        bytes[32] = kind;
        bytes[35] = layer;
        bytes[60..64].copy_from_slice(&u32::try_from(payload).unwrap().to_le_bytes());
        bytes[64..72].copy_from_slice(&offset.to_le_bytes());
        bytes[72] = 3;
        let crc = crc32(&bytes[..92]).to_le_bytes();
        bytes[92..96].copy_from_slice(&crc);
        bytes
    }

    fn file(kinds: &[(u8, u8)]) -> tempfile::NamedTempFile {
        let mut bytes = vec![0u8; 16384];
        for (kind, layer) in kinds {
            bytes.resize(bytes.len() + 1024, 0);
            let at = bytes.len() as u64;
            bytes.extend(chunk(*kind, *layer, at, 700));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn order_by_worth_is_seen_and_so_is_a_breach() {
        let good = walk(file(&[(1, 0), (4, 1), (4, 2), (5, 0), (4, 3), (4, 4), (7, 0)]).path());
        let good = good.unwrap();
        by_worth(&good).unwrap();
        assert_eq!(sum(&good, Kind::Free), Sum { chunks: 1, pages: 3, bytes: 1024 });
        let late = walk(file(&[(1, 0), (4, 1), (4, 4), (5, 0)]).path()).unwrap();
        by_worth(&late).unwrap_err();
        by_worth(&walk(file(&[(4, 0)]).path()).unwrap()).unwrap_err();
        walk(file(&[(9, 0)]).path()).unwrap_err();
    }
}
