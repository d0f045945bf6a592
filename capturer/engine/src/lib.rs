//! From pages to a dump: classify, compress, seal, frame, index, commit.
//!
//! The engine is pure: no file descriptors, paths, clocks or keys. It reads
//! pages through [`PageRead`], seals through [`Seal`], writes through
//! [`FrameSink`] and asks a [`Monitor`] whether to go on. The same code runs in
//! the crash kernel and in tests. After [`Worker::new`] and [`Frames::new`] it
//! allocates nothing: a worker's memory depends on the chunk size alone, never
//! on the size of the machine.
//!
//! Flow: [`Frames::begin`] (header) → [`Frames::text`] (log, notes, meta) →
//! [`capture`] by any number of workers over a [`Cursor`] into [`Shared`] frames (memory, then each
//! swap device; memory layer by layer if the caller can tell layers) → [`Frames::text`] (trailer) → [`Frames::finish`] (index, second
//! header, commit record).
#![forbid(unsafe_code)]

mod cursor;
mod estimate;
mod frames;
mod pack;
mod scratch;
mod shared;
mod traits;
mod twins;
mod worker;

pub use cursor::Cursor;
pub use estimate::estimate;
pub use frames::{CommitFacts, Frames, TAIL_RESERVE};
pub use pack::{Compress, MAX_METHODS, Method, Tuner};
pub use scratch::Scratch;
pub use shared::Shared;
pub use traits::{FrameSink, Monitor, PageRead, Place, PlaceRead, ReadFault, Seal, SealFault};
pub use twins::{Fingerprint, Twins};
pub use worker::{Input, Job, Worker, capture};

use lifeboat_format::commit::Outcome;
use std::fmt;
use std::io;

/// Why the engine stopped before the end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The dump partition has no room for more; what is there is valid.
    #[error("the dump partition is full")]
    Full,
    /// The monitor said stop.
    #[error("stopped: the deadline is near")]
    Stopped,
    /// A source failed as a whole.
    #[error("{what} cannot be read any more: {}", Plain(.source))]
    Source {
        /// Which source.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The device failed.
    #[error("writing the dump: {}", Plain(.0))]
    Sink(#[source] io::Error),
    /// Sealing failed.
    #[error("sealing a chunk failed")]
    Seal,
    /// Compression failed for a reason other than space.
    #[error("compressing a chunk failed: {}", Plain(.0))]
    Compress(#[source] io::Error),
    /// Another worker failed; it holds the reason.
    #[error("another worker failed")]
    Poisoned,
}

/// An I/O error for a message, without allocating: the system's as their number.
struct Plain<'e>(&'e io::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(number) => write!(f, "error {number}"),
            None => fmt::Display::fmt(self.0, f),
        }
    }
}

impl EngineError {
    /// How a dump ends that is finished after this.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Full => Outcome::Full,
            Self::Stopped => Outcome::Deadline,
            _ => Outcome::SourceFailed,
        }
    }

    /// Whether the dump can still be finished as a partial one.
    #[must_use]
    pub fn can_commit(&self) -> bool {
        matches!(self, Self::Full | Self::Stopped | Self::Source { .. } | Self::Compress(_))
    }
}
