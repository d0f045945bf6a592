//! The reading side of a Lifeboat dump, as a library: open it, check it, look up
//! its pages, and write it out in the forms that other tools read.
//!
//! This library owns the *meaning* of a pulled dump or of a dump on a volume. It
//! finds nothing by itself: callers hand it bytes through [`dump::ReadAt`] and
//! files to write to. It refuses to believe any byte that it did not check, and to
//! pass off as zeros what the capture could not read.
//!
//! | module | what it does |
//! |---|---|
//! | [`dump`] | headers, chunks, index; verification; pages by number |
//! | [`export`] | ELF vmcore, kdump-compressed vmcore, raw swap image |
//! | [`machine`] | an open dump as the dead machine, for `lifeboat-inquest` |
//! | [`lanes`] | pieces made on several threads, used in order |
//! | [`stream`] | large outputs on their way to the disk |
#![forbid(unsafe_code)]

pub mod dump;
pub mod export;
pub mod lanes;
pub mod machine;
pub mod stream;
