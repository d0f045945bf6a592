//! The only crate with `unsafe`: what the kernel offers and safe crates do not.
//!
//! It has no policy: it does not know what a dump is, when to write or when to
//! reboot. Each module wraps one kernel interface and upholds that interface's
//! rules itself, so that callers cannot break them. It refuses to be clever.
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
pub use reads::{Ahead, ReadQueue};
pub use seal::Sealing;
pub use text::Plain;
pub use writeout::begin_writeout;
