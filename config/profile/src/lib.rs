//! Board profiles: what a vendor writes, what a host adds, what PID 1 gets.
//!
//! ```text
//! board.toml ──inherits──▶ board.toml …      (source)
//!        └─ one merged tree ─▶ Raw (serde) ─▶ Profile (checked)
//!                                               │ + Site ─▶ BootConfig
//! ```
//! This crate owns the TOML schema, inheritance, the checks that turn a dump lost
//! in the field into an error at build time, and the lowering to
//! [`lifeboat_format::bootcfg::BootConfig`]. It refuses to build, fetch or arm
//! anything: it reads profile files and answers.
//!
//! Every complaint is a [`Defect`] with file, line, column, the line itself and a hint.
#![forbid(unsafe_code)]

mod check;
mod cmdline;
mod defect;
mod lower;
mod packing;
mod profile;
mod raw;
mod recipient;
mod site;
mod source;

pub use defect::{Defect, Defects};
pub use lower::lower;
pub use profile::{Console, KernelSource, Profile};
pub use recipient::recipients;
pub use site::Site;
