//! A dump as bytes that anyone may have written: opened, checked, unlocked, read.
//!
//! Flow: [`DumpFile::open`] (header, key area, commit record; no key needed) →
//! [`DumpFile::verify`] (every byte), or [`OpenDump::unlock`] (key, index, tables)
//! → [`OpenDump::memory`] and [`OpenDump::swap`], where pages are looked up by
//! number, or [`crate::export`].
//!
//! Every length and offset in a dump is checked before it is used; memory is
//! bounded by the number of chunks, never by what a field claims.

mod decode;
mod ends;
mod error;
mod file;
mod hasher;
mod index;
mod inside;
mod open;
mod pages;
mod parts;
mod ranges;
mod read_at;
mod scan;
mod verdict;
mod verify;

pub use decode::{DecodedChunk, Decoder, Piece};
pub use error::DumpError;
pub use file::DumpFile;
pub(crate) use open::merge;
pub use open::{Meta, OpenDump, SwapDevice};
pub(crate) use pages::{Cache, page_of};
pub use pages::{Page, PageBytes, PageSource, PageSpace};
pub use parts::{Extent, Parts};
pub(crate) use ranges::{MAX_STRETCHES, RangeSet, subtract};
use read_at::Prefix;
pub use read_at::{FileWindow, ReadAt};
pub use scan::{Chunk, Faults, Gap, GapKind, Scanner, Step};
pub use verdict::{
    ChunkResult, Finding, FindingKind, MissingPages, PageTotals, SealState, Verdict,
};
