//! The only crate with `unsafe`: what the kernel, the C library and the C codecs offer
//! and safe crates do not.
//!
//! It has no policy: it does not know what a dump is, when to write or when to
//! reboot. Each module wraps one such interface and upholds its rules itself, so that
//! callers cannot break them. `text` has no `unsafe`, but needs a place that sink and
//! init both see.
#![allow(unsafe_code, reason = "this is the crate that holds it")]

pub mod aligned;
pub mod codec;
pub mod kexec;
pub mod queue;
pub mod reads;
pub mod seal;
pub mod text;
pub mod watchdog;
pub mod writeout;

pub use aligned::AlignedBuf;
pub use codec::Codecs;
pub use queue::{Lane, QueueMode, WriteQueue};
pub use reads::ReadQueue;
pub use seal::Sealing;
pub use text::Plain;
pub use writeout::begin_writeout;
