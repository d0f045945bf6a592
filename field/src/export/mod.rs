//! What a dump is turned into, for tools that others wrote.
//!
//! Every writer here streams, on all cores. Into a file, chunks are decoded once (for swap,
//! those of memory that it copies from as well), pages are written while the disk works on
//! those before, and the tables that say what is there come last. Memory depends on the
//! number of chunks and of holes, and on the machine's by four bits a page (`marks`). Those
//! writers get an open, empty, regular file, to write and read back; naming it, and removing
//! it on failure, is the caller's. A pipe (`pipe`) is written from front to back.
//!
//! Pages that the dump has not (unreadable, excluded, never captured) are never
//! written as zeros that a reader could take for contents; each format says below
//! how it leaves them out, and [`Report::missing`] lists them.

mod coverage;
pub mod elf;
pub mod kdump;
mod links;
mod marks;
pub mod pipe;
mod pipeline;
pub mod swap;

use std::io::{self, Write};

use lifeboat_format::PageRange;

use crate::dump::{DumpError, page_of};

/// How to export.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Threads that decode; 0 means one a CPU.
    pub threads: usize,
    /// Treat damaged chunks as missing pages instead of failing. They are reported.
    pub skip_damaged: bool,
    /// Told how many bytes are done, and of how many: of the dump's chunks, or of the pages
    /// that go into a pipe.
    pub progress: Option<&'a (dyn Fn(u64, u64) + Sync)>,
}

/// Why a page has no contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The capturer could not read it.
    Unreadable,
    /// It was left out: of a kind that was to be, or faulty.
    Excluded,
    /// No chunk covers it.
    NotCaptured,
    /// Its chunk is damaged.
    Damaged,
}

impl Why {
    /// As the listing prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Excluded => "excluded",
            Self::NotCaptured => "not-captured",
            Self::Damaged => "damaged",
        }
    }
}

/// Pages that the output lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub pages: PageRange,
    /// Why.
    pub why: Why,
}

/// What an export did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Pages written with contents, those of one word included.
    pub data_pages: u64,
    /// Zero pages.
    pub zero_pages: u64,
    /// Pages that the output lacks though they were to be captured, in order.
    pub missing: Vec<Missing>,
    /// Length of the output, bytes; holes included.
    pub len: u64,
    /// For the user, in words.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether nothing is missing but what was left out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.iter().all(|m| m.why == Why::Excluded)
    }

    /// Pages missing in all.
    #[must_use]
    pub fn missing_pages(&self) -> u64 {
        self.missing.iter().map(|m| m.pages.pages()).fold(0, u64::saturating_add)
    }

    /// Writes [`Report::missing`] as text: `FIRST-BYTE END-BYTE WHY` a line, decimal,
    /// `[first, end)`, ascending.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_missing(&self, out: &mut impl Write) -> io::Result<()> {
        for m in &self.missing {
            let (start, end) = (m.pages.start.0, m.pages.end.0);
            writeln!(out, "{} {} {}", start * 4096, end * 4096, m.why.name())?;
        }
        Ok(())
    }
}

/// Why an export failed. Nothing of its output is to be kept then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The dump.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The output.
    #[error(
        "writing the output: {0}\nhint: check the free space and the file size limit of the destination's file system"
    )]
    Write(#[source] io::Error),
    /// The pipe, or what stands in its place.
    #[error(
        "writing to the pipe: {0}\nhint: see why its reader ended or, if it leads into a file, whether there is space"
    )]
    Pipe(#[source] io::Error),
    /// A chunk holds pages that the commit record or another chunk denies.
    #[error(
        "the dump contradicts itself on page {page}: the commit record or another chunk says otherwise\nhint: `lifeboat verify -i KEY` shows what is wrong; export it with --skip-damaged to see what is there"
    )]
    Contradiction {
        /// The page.
        page: u64,
    },
    /// The dump describes more memory than the format can hold.
    #[error(
        "the dump describes {what}, more than this format holds\nhint: choose the other format; if that fails too, the dump is damaged"
    )]
    TooLarge {
        /// What is too much.
        what: String,
    },
    /// There is nothing to export.
    #[error("the dump holds no memory pages\nhint: `lifeboat list` shows what was captured")]
    Nothing,
    /// What a vmcore cannot be without.
    #[error(
        "the dump lacks {what}\nhint: `lifeboat verify -i KEY` shows what is damaged; `--format elf` needs less"
    )]
    Lacks {
        /// What.
        what: &'static str,
    },
    /// A codec could not be set up.
    #[error("the compressor failed: {0}\nhint: report this, with the version of lifeboat")]
    Compressor(String),
}
