//! ELF core files of dead processes, as the kernel writes them for living ones.
//!
//! This module owns the file's layout. It knows nothing of kernels: what a process was is
//! handed over as [`Process`], what its pages held through [`Pages`]. It refuses to put
//! anything where a page is not known: no segment covers a hole, so that a debugger says
//! that it cannot read there, where `p_memsz` alone would have it show zeros.
//!
//! ```text
//! ELF header | notes | pages, page-aligned, sparse | program headers [| section header]
//! ```
//! The program headers come last, since it is known only then which pages are holes. Bytes
//! between `p_filesz` and `p_memsz` are zeros by the ELF specification, and so they are used
//! here: for long stretches that the process never touched. See `elf_core_dump()` in
//! `fs/binfmt_elf.c` for the notes and their order.
//!
//! | part | what it knows |
//! |---|---|
//! | [`notes`] | the structures of `<sys/procfs.h>`, byte by byte |
//! | [`xstate`] | from the CPU's compacted format to the one that debuggers read |
//! | [`image`] | which bytes go where, and which pages are segments |
//! | [`report`] | what of a process is there, and what not |

pub mod image;
pub mod notes;
mod pipeline;
pub mod report;
pub mod xstate;

use crate::{Hole, PAGE};

pub use image::{CoreError, Options, write};
pub use notes::{FileMapping, Info, Status, Thread};
pub use report::{Origin, Report, Stretch};

/// A process, but for its pages.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// What is said of it as a whole.
    pub info: Info,
    /// Its threads; a debugger looks at the first one first.
    pub threads: Vec<Thread>,
    /// Its auxiliary vector, as the kernel keeps it; empty if it is not known.
    pub auxv: Vec<u8>,
    /// Mappings of files, in order of address.
    pub files: Vec<FileMapping>,
    /// All mappings, in order of address.
    pub mappings: Vec<Mapping>,
}

/// A mapping: addresses of one process with the same protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Address of its first byte, a multiple of [`PAGE`].
    pub start: u64,
    /// Address behind its last byte, a multiple of [`PAGE`].
    pub end: u64,
    /// `p_flags`: 4 it may be read, 2 written, 1 executed.
    pub flags: u32,
}

/// What a stretch of addresses is like, as far as its page tables tell at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Its pages must be looked at one by one.
    Look,
    /// All of it was never touched and reads as zeros.
    Untouched,
    /// All of it is this hole.
    Hole(Hole),
}

/// The pages of a process.
pub trait Pages: Sync {
    /// Fills `out` with the page at `addr`, a multiple of [`PAGE`] within a mapping, and says
    /// where it was.
    ///
    /// # Errors
    /// The [`Hole`] that is in its place; `out` is then of no meaning.
    fn page(&self, addr: u64, out: &mut [u8; PAGE]) -> Result<Origin, Hole>;

    /// What can be said at once of the addresses from `start` on, and up to where, at most
    /// `end`: so that nobody looks page by page at terabytes that were only reserved.
    fn ahead(&self, start: u64, end: u64) -> (u64, Ahead) {
        let _ = start;
        (end, Ahead::Look)
    }
}
