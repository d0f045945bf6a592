//! QEMU harness: boots stock Debian kernels, arms them with the image under
//! test, panics them, and compares what comes out of the dump with the memory
//! and the disk that were there.
//!
//! It drives the built programs from outside, as an operator would, and shares
//! no code with them: a fault on one side cannot hide on the other. What it
//! needs and the project does not ship it fetches by name ([`provision`]).

#![forbid(unsafe_code)]

pub mod apt;
pub mod bootconf;
pub mod chunks;
pub mod console;
pub mod cpio;
pub mod cycle;
pub mod disk;
pub mod error;
pub mod evidence;
pub mod guest;
pub mod judges;
pub mod kinds;
pub mod live;
pub mod machine;
pub mod paths;
pub mod pattern;
pub mod peer;
pub mod phases;
pub mod provision;
pub mod qmp;
pub mod record;
pub mod reservation;
pub mod revived;
pub mod usercore;
pub mod usergdb;
pub mod vmcore;
pub mod writelog;
