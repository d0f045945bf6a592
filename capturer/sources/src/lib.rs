//! Reads a crashed machine: its memory, its notes, its kernel log, its swap devices.
//!
//! This crate owns every parser of bytes that the dead kernel left behind, and the
//! partition tables that say where to look. It refuses to write, to trust a length
//! or an offset, to loop without a bound, and to guess: what cannot be read is
//! reported page by page and never passed off as zeros.
//!
//! | module | what it reads |
//! |---|---|
//! | [`elfcorehdr`] | ELF core headers and notes, of kexec and of `/proc/vmcore` |
//! | [`vmcoreinfo`] | the `KEY=value` text that a kernel leaves for its debugger |
//! | [`paging`] | x86-64 page tables of the dead kernel |
//! | [`kallsyms`], [`btf`] | its symbols and its types, which it carries itself |
//! | [`worth`] | its `struct page`s: which page is the kernel's, a process's, cache, free |
//! | [`kmsg`] | its log, rendered as text |
//! | [`memory`] | [`memory::OldMemory`], the trait of both memory sources |
//! | [`oldmem`], [`vmcore`] | `/dev/oldmem`; `/proc/vmcore` and vmcore files |
//! | [`gpt`], [`mbr`] | partition tables |
//! | [`bytes`] | numbers in bytes of unknown length |
//! | [`blockdev`] | block devices by sysfs, and finding one by a selector |
//! | [`swap`], [`swapread`] | swap headers and swap devices; their pages |
//!
//! Opening something may allocate, within limits that each module names. Reading
//! pages uses the caller's buffer only and allocates nothing, so that it may go on
//! after PID 1 of the crash kernel has sealed its allocator.
#![forbid(unsafe_code)]

pub mod blockdev;
pub mod btf;
pub mod bytes;
pub mod elfcorehdr;
pub mod gpt;
pub mod kallsyms;
pub mod kmsg;
pub mod mbr;
pub mod memory;
pub mod notes;
pub mod oldmem;
pub mod pages;
pub mod paging;
pub mod swap;
pub mod swapread;
pub mod vmcore;
pub mod vmcoreinfo;
mod window;
pub mod worth;

pub use memory::{AnyMemory, MemoryReader, OldMemory, OpenError, SourceKind, open_auto};
pub use pages::ReadError;
