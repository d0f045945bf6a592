//! The dump volume: whether it is ours, which dumps it holds, and how a new one
//! is written and committed.
//!
//! The capturer and the host command share this crate, so that there is one
//! opinion on what may be overwritten. It refuses to write a byte to a volume
//! whose guard does not hold ([`Volume::guard`]), and never moves or changes a
//! dump that is there.
#![forbid(unsafe_code)]

mod chain;
mod dev;
mod error;
mod plan;
mod targets;
mod volume;
mod writer;

pub use chain::{Candidate, Chain, Event, Head, Host};
pub use dev::{BlockDev, FileDev};
pub use error::VolumeError;
pub use plan::{Drops, MIN_DUMP, MIN_PART, NewPart, Plan};
pub use volume::{Placement, Volume};
pub use writer::{ExtentWriter, Output};
