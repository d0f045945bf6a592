//! One function for each reader of hostile bytes: whatever the bytes are, it must not
//! panic, must not take longer or more memory than stated here, and what it accepts
//! must keep its promises (ranges inside their bounds, encode ∘ decode is the identity).
//!
//! Checksums would keep a fuzzer out. So each target tries the bytes as they are, and
//! then once more with the checksums, seals and lengths made right.
//!
//! Who calls them:
//! * `scripts/fuzz.sh` builds `src/bin/fuzz.rs` with coverage instrumentation and lets
//!   libFuzzer search for new inputs;
//! * `tests/replay.rs` runs the kept inputs of `corpus/<target>/` on every `make test`;
//! * `tests/seeds.rs` shows that the kept dumps are real ones, and writes them anew.
//!
//! This crate refuses to know how a parser works inside: it sees what a caller sees.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a target that sees a broken promise shall fall over"
)]
#![allow(
    clippy::duplicate_mod,
    reason = "both dead machines of the inquest's tests bring the builder that their types are made by"
)]

pub mod blocks;
pub mod boot;
pub mod buried;
pub mod chunks;
pub mod dump;
pub mod edits;
pub mod inquest;
pub mod keys;
pub mod machine;
pub mod measure;
pub mod script;
pub mod types;
pub mod volume;

/// A fuzz target, and what one input may cost.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name, and the folder of its corpus.
    pub name: &'static str,
    /// The code under test with the promises that it must keep.
    pub run: fn(&[u8]),
    /// Longest input that the fuzzer makes, bytes.
    pub max_len: usize,
    /// Most heap that one input may take at a time, bytes; the input is not counted.
    pub max_heap: usize,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All targets. Each bound follows from the limits of the format, not from what was seen.
pub const TARGETS: &[Target] = &[
    // Blocks are parsed in place: nothing but the error's text is allocated.
    Target { name: "superblock", run: blocks::superblock, max_len: 512, max_heap: 64 * KIB },
    Target { name: "header", run: blocks::header, max_len: 16 * KIB, max_heap: 256 * KIB },
    // The sparse device of the test, and the buffers of the guard: 1 MiB.
    Target { name: "slots", run: volume::slots, max_len: 8 * KIB, max_heap: 4 * MIB },
    // Stored bytes, plaintext (each a little over 4 MiB) and a copy of the stored bytes.
    Target { name: "chunk", run: chunks::chunk, max_len: 64 * KIB, max_heap: 24 * MIB },
    Target { name: "index", run: dump::index, max_len: 16 * KIB, max_heap: 64 * MIB },
    // Every line is held in fixed space of some 120 KiB; its text twice.
    Target { name: "bootconf", run: boot::bootconf, max_len: 8 * KIB, max_heap: MIB },
    // `CoreHeader::parse` promises twice 4 MiB; here for inputs of at most 64 KiB.
    Target { name: "elfcorehdr", run: machine::elfcorehdr, max_len: 64 * KIB, max_heap: MIB },
    Target { name: "notes", run: machine::notes, max_len: 16 * KIB, max_heap: MIB },
    Target { name: "swap", run: machine::swap, max_len: 4 * KIB, max_heap: 256 * KIB },
    // A table of entries takes up to 1 MiB, its partitions a little more.
    Target { name: "gpt", run: machine::gpt, max_len: 16 * KIB, max_heap: 4 * MIB },
    // age buffers a chunk of 64 KiB and the header's stanzas.
    Target { name: "age", run: keys::age, max_len: 16 * KIB, max_heap: 4 * MIB },
    // Two windows of 64 KiB, an index, and here a list of all types.
    Target { name: "btf", run: types::btf, max_len: 16 * KIB, max_heap: MIB },
    // A window, the tokens, and the image that the target puts together.
    Target { name: "kallsyms", run: types::kallsyms, max_len: 8 * KIB, max_heap: MIB },
    // The machine is 16 MiB, four of them in `buried`, made by the first input; its pages as
    // the reader keeps them take as much, and a table of types and one of symbols 16 MiB each.
    Target { name: "inquest", run: inquest::overwritten, max_len: 4 * KIB, max_heap: 96 * MIB },
    Target { name: "buried", run: buried::overwritten, max_len: 4 * KIB, max_heap: 160 * MIB },
    // See `dump::dump`.
    Target { name: "dump", run: dump::dump, max_len: 64 * KIB, max_heap: 256 * MIB },
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
