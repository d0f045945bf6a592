//! Nothing is allocated once the pages begin: a whole capture behind the sealed heap, with
//! the threads, joints, queues and swap reader of PID 1, and under every fault.
//!
//! A breach ends the program, so each capture is a program of its own
//! (`examples/sealed-capture`); the test owns the volumes and reads back what it wrote.
//! Some captures break the seal on purpose, to show that this is found.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

#[path = "../../examples/sealed-capture/machine.rs"]
mod machine;
mod reading;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use lifeboat_format::commit::Outcome;
use lifeboat_sink::{FileDev, Placement, Volume};
use lifeboat_sys::QueueMode;
use machine::{MEMORY, SWAP, page_of};
use reading::Dump;
use rustix::fs::{MemfdFlags, memfd_create};

const MIB: u64 = 1 << 20;
const SIGABRT: i32 = 6;

/// The program, which cargo builds with the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    let path = path.join("sealed-capture");
    assert!(path.is_file(), "cargo build -p lifeboat-engine --example sealed-capture");
    path
}

/// What the capture ended with, and the dump on the volumes.
struct Run {
    code: Option<i32>,
    signal: Option<i32>,
    said: String,
    volumes: Vec<File>,
}

impl Run {
    /// Captures with fault `fault` onto volumes of these sizes.
    fn of(fault: &str, mode: QueueMode, mib: &[u64]) -> Self {
        let volumes: Vec<File> = mib.iter().map(|mib| volume(mib * MIB)).collect();
        let swap = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        machine::write_swap(swap.as_file());
        if fault == "bad-swap" {
            swap.as_file().set_len((SWAP.end.0 - 100) * 4096).unwrap();
        }
        let me = std::process::id();
        let paths = volumes.iter().map(|f| format!("/proc/{me}/fd/{}", f.as_raw_fd()));
        let mode = if mode == QueueMode::Uring { "uring" } else { "pwrite" };
        let start = Instant::now();
        let mut command = Command::new(program());
        command.args([fault, mode]).arg(swap.path()).args(paths);
        let out = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&out.stdout) + &text(&out.stderr);
        println!("{fault} on {mib:?} MiB by {mode}: {:.2} s", start.elapsed().as_secs_f64());
        Self { code: out.status.code(), signal: out.status.signal(), said, volumes }
    }

    /// It came to its end with `outcome`, and what is in the dump is right.
    fn ended(&self, what: &str, outcome: Outcome) -> Dump {
        let (code, signal) = (self.code, self.signal);
        assert_eq!((code, signal), (Some(0), None), "{what}: {}", self.said);
        let line = format!("outcome {}\n", outcome.name());
        assert!(self.said.contains(&line), "{what}: {}", self.said);
        let dump = Dump::read(&self.volumes);
        for (swap, pages) in [(false, &dump.memory), (true, &dump.swap)] {
            for (pfn, found) in pages {
                let mut want = vec![0; 4096];
                page_of(swap, *pfn, &mut want);
                match found {
                    Some(bytes) => assert!(*bytes == want, "{what}: page {pfn} differs"),
                    None => assert!(swap && *pfn >= SWAP.end.0 - 100, "{what}: {pfn} is bad"),
                }
            }
        }
        assert_eq!(dump.texts("trailer"), 1, "{what}");
        dump
    }
}

fn volume(len: u64) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("volume", flags).unwrap());
    file.set_len(len).unwrap();
    let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
    Volume::format(dev, Placement { start: 0, len }, 8, "", [len as u8; 16], 1).unwrap();
    file
}

const MODES: [QueueMode; 2] = [QueueMode::Uring, QueueMode::Pwrite];

fn whole(dump: &Dump, what: &str) {
    let (memory, swap) = (dump.memory.len() as u64, dump.swap.len() as u64);
    assert_eq!((memory, swap), (MEMORY.pages(), SWAP.pages()), "{what}");
}

#[test]
fn a_capture_allocates_nothing() {
    for mode in MODES {
        let run = Run::of("none", mode, &[96]);
        let dump = run.ended("none", Outcome::Complete);
        whole(&dump, "none");
        assert_eq!((dump.parts, dump.texts("log")), (1, 1));
    }
}

#[test]
fn a_move_to_another_target_allocates_nothing() {
    for mode in MODES {
        // Two are full; the third has room for all that is left.
        let dump = Run::of("none", mode, &[16, 18, 96]).ended("full", Outcome::Complete);
        whole(&dump, "full");
        assert_eq!((dump.parts, dump.texts("log")), (3, 3));
        // The first fails in the middle, then the second.
        for (fault, parts) in [("dies", 2), ("both-die", 3)] {
            let dump = Run::of(fault, mode, &[95, 96, 97]).ended(fault, Outcome::Complete);
            whole(&dump, fault);
            assert_eq!((dump.parts, dump.texts("log")), (parts, parts), "{fault}");
        }
    }
}

#[test]
fn an_early_end_allocates_nothing() {
    for mode in MODES {
        let dump = Run::of("none", mode, &[16]).ended("full", Outcome::Full);
        assert!(dump.memory.len() > 500 && dump.memory.len() < MEMORY.pages() as usize);
        let dump = Run::of("deadline", mode, &[96]).ended("deadline", Outcome::Deadline);
        assert!(dump.memory.len() > 500 && dump.memory.len() < MEMORY.pages() as usize);
        let dump = Run::of("source", mode, &[96]).ended("source", Outcome::SourceFailed);
        assert!(dump.memory.len() > 500 && dump.memory.len() < MEMORY.pages() as usize);
        assert_eq!(dump.swap.len() as u64, SWAP.pages());
        let dump = Run::of("bad-swap", mode, &[96]).ended("bad swap", Outcome::Complete);
        whole(&dump, "bad swap");
        assert_eq!(dump.swap.values().filter(|p| p.is_none()).count(), 100);
        // No target is left.
        let lost = Run::of("both-die", mode, &[95, 96]);
        assert_eq!((lost.code, lost.signal), (Some(1), None), "{}", lost.said);
        assert!(lost.said.contains("writing the dump: error 1"), "{}", lost.said);
    }
}

/// What the other tests rely on: an allocation anywhere is found, also one that only a
/// fault would bring.
#[test]
fn an_allocation_is_found() {
    for (fault, mib) in [
        ("allocates-in-a-reader", &[96][..]),
        ("allocates-on-a-move", &[16, 96][..]),
        ("allocates-in-the-lead", &[96][..]),
    ] {
        let run = Run::of(fault, QueueMode::Uring, mib);
        assert_eq!((run.code, run.signal), (None, Some(SIGABRT)), "{fault}: {}", run.said);
        assert!(run.said.contains("allocated behind the seal"), "{fault}: {}", run.said);
    }
}
