//! User space from a dead kernel's dump: which processes there were, what they mapped,
//! and what their pages held.
//!
//! This crate owns the *meaning* of a dead machine's memory. It needs no debuginfo: symbols
//! come from the kernel's own kallsyms, types from its own BTF, addresses from VMCOREINFO,
//! all of which the dump holds. It refuses to open dumps (callers hand it a [`Machine`]), to
//! follow a list without a bound, and to pass off as zeros what it cannot have: that is a
//! [`Hole`] with a reason.
//!
//! | module | what it knows |
//! |---|---|
//! | [`machine`] | the dead machine's pages, as a dump has them; reasons why one is missing |
//! | [`elfcore`] | core files of its processes: notes, segments, what is missing |
//! | [`files`] | paths of files, and their pages in memory |
//! | [`kernel`] | symbols, types and addresses of the dead kernel |
//! | [`process`] | a process as a whole: threads, mappings, pages, libraries |
//! | [`regs`] | registers of threads, from kernel stacks and crash notes |
//! | [`swapped`] | its swapped-out pages: swap cache, devices, zswap, zram |
//! | [`walk`] | its lists, trees and arrays, each with a bound |
//! | [`tasks`] | its tasks and threads, as `ps` shows them |
//! | [`mm`] | what each process mapped, and which page an address had |
#![forbid(unsafe_code)]

pub mod elfcore;
pub mod files;
pub mod kernel;
pub mod machine;
pub mod mm;
pub mod process;
pub mod regs;
pub mod swapped;
pub mod tasks;
pub mod walk;

pub use kernel::{Fault, Field, Kernel, KernelError};
pub use lifeboat_format::{PAGE, Pfn, PhysAddr};
pub use machine::{Hole, Machine, SwapDevice};
