//! `verify` and `export log|notes` on dumps that the real engine wrote: keys, damage,
//! truncation, and that nothing is left behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
mod readers;
use common::capture::{LOG, NOTES, Plan, plant};
use common::{cmd, image, names};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const LEN: u64 = 64 << 20;

struct Bench(tempfile::TempDir);

impl Bench {
    /// A volume with one dump, pulled into `x`; keys `key` (fits) and `other` (does not).
    fn new(change: impl FnOnce(&mut Plan), pull: i32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let part = image(d, "part", LEN >> 20);
        let recipient = cmd(d, "keygen -o @/key").exits(0).out;
        cmd(d, "keygen -o @/other").exits(0);
        cmd(d, "format @/part").exits(0);
        let mut plan = Plan::sealed(&recipient);
        change(&mut plan);
        plant(&part, 0, LEN, &plan);
        cmd(d, "pull @/part -o @/x").exits(pull);
        Self(dir)
    }
    fn d(&self) -> &Path {
        self.0.path()
    }
    fn cmd(&self, line: &str) -> common::Ran {
        cmd(self.d(), line)
    }
    fn flip(&self, at: u64) {
        let f = std::fs::File::options().read(true).write(true).open(self.d().join("x")).unwrap();
        let mut b = [0u8; 1];
        f.read_exact_at(&mut b, at).unwrap();
        f.write_all_at(&[b[0] ^ 4], at).unwrap();
    }
    fn is_clean(&self) {
        assert_eq!(names(self.d()), ["key", "other", "part", "x"]);
    }
}

#[test]
fn a_sound_dump_verifies_with_and_without_its_key() {
    let b = Bench::new(|_| {}, 0);
    b.cmd("verify @/x").exits(0).prints("checksums only").prints("sound and complete");
    b.cmd("verify @/x -i @/key").exits(0).prints("every seal").prints("1981 data, 990 zero");
    b.cmd("verify @/part -i @/key --dump 1").exits(0).prints("sound and complete");
    b.cmd("verify @/x -i @/other -i @/key").exits(0);
    let json: serde_json::Value =
        serde_json::from_str(&b.cmd("verify @/x --json -i @/key").exits(0).out).unwrap();
    assert_eq!(
        (json["sound"].as_bool(), json["verdict"]["opened"].as_bool()),
        (Some(true), Some(true))
    );
    let sum = common::tool(&format!("sha256sum {}/x", b.d().display()));
    assert!(json["verdict"]["sha256"].as_str().is_some(), "{sum}");
}

#[test]
fn log_and_notes_come_out_verbatim() {
    let b = Bench::new(|_| {}, 0);
    assert_eq!(b.cmd("export log @/x -i @/key").exits(0).out, LOG);
    b.cmd("export log @/part -i @/key -o @/log").exits(0);
    assert_eq!(std::fs::read_to_string(b.d().join("log")).unwrap(), LOG);
    b.cmd("export notes @/x -i @/key -o @/notes").exits(0);
    assert_eq!(std::fs::read(b.d().join("notes")).unwrap(), NOTES);
    b.cmd("export notes @/x -i @/key -o @/notes").exits(1).complains("exists");
    b.cmd("export notes @/x -i @/key -o @/notes --force").exits(0);
    b.cmd("export log @/x -i @/key --dump 7").exits(1).complains("no such dump");
}

#[test]
fn a_wrong_or_missing_key_opens_nothing_and_leaves_nothing() {
    let b = Bench::new(|_| {}, 0);
    b.cmd("export log @/x -i @/other -o @/out")
        .exits(1)
        .complains("none of the given keys opens this dump");
    b.cmd("export log @/x -o @/out").exits(1).complains("no key was given");
    b.cmd("export vmcore @/x -i @/other -o @/out").exits(1).complains("none of the given keys");
    b.cmd("export swap @/x -o @/out").exits(1).complains("no key was given");
    b.cmd("verify @/x -i @/other").exits(1).complains("none of the given keys");
    b.cmd("verify @/x -i @/nokey").exits(1).complains("nokey");
    b.cmd("verify @/x -i @/part").exits(1).complains("key file");
    b.is_clean();
}

#[test]
fn damage_is_found_and_named() {
    let b = Bench::new(|_| {}, 0);
    b.flip(300 << 10);
    b.cmd("verify @/x").exits(1).complains("is damaged: 1 findings").prints("DAMAGED");
    b.cmd("verify @/x -i @/key").exits(1).prints("verdict     damaged");
    // The log lies elsewhere and is still to be had.
    assert_eq!(b.cmd("export log @/x -i @/key").exits(0).out, LOG);
    b.cmd("export vmcore @/x -i @/key -o @/out").exits(1);
    b.is_clean();
}

#[test]
fn a_truncated_or_foreign_file_is_named() {
    let b = Bench::new(|_| {}, 0);
    let f = std::fs::File::options().write(true).open(b.d().join("x")).unwrap();
    let len = f.metadata().unwrap().len();
    f.set_len(len - 8192).unwrap();
    let code = b.cmd("verify @/x").code;
    assert!(code == 3 || code == 1, "{code}");
    f.set_len(5000).unwrap();
    b.cmd("verify @/x").exits(1).complains("too few for a dump");
    f.set_len(0).unwrap();
    b.cmd("verify @/x").exits(1).complains("no Lifeboat superblock and no dump found");
    f.set_len(1 << 20).unwrap();
    b.cmd("verify @/x").exits(1).complains("no Lifeboat superblock and no dump found");
    b.cmd("verify @/gone").exits(1).complains("No such file");
}

#[test]
fn a_partial_dump_is_sound_but_not_complete() {
    let b = Bench::new(|p| p.ticks = 1000, 3);
    b.cmd("verify @/x -i @/key").exits(3).prints("sound, but not complete");
    let b = Bench::new(|p| p.dies = true, 3);
    b.cmd("verify @/x -i @/key").exits(3).prints("never committed");
    assert_eq!(b.cmd("export log @/x -i @/key").exits(0).out, LOG);
}

#[test]
fn a_dump_in_the_clear_needs_no_key() {
    let b = Bench::new(|p| p.recipients.clear(), 0);
    b.cmd("verify @/x").exits(0).prints("UNENCRYPTED");
    assert_eq!(b.cmd("export log @/x").exits(0).out, LOG);
}

#[test]
fn a_swap_device_and_a_vmcore_come_out_with_their_holes_listed() {
    let b = Bench::new(|_| {}, 0);
    b.cmd("export swap @/x -i @/key -o @/swap --missing @/holes")
        .exits(0)
        .prints("330 pages with contents");
    assert_eq!(std::fs::metadata(b.d().join("swap")).unwrap().len(), 500 * 4096);
    // Pages 100, 201, 302 and 403 could not be read.
    let holes = std::fs::read_to_string(b.d().join("holes")).unwrap();
    let want: String = [100, 201, 302, 403]
        .iter()
        .map(|p| format!("{} {} unreadable\n", p * 4096, (p + 1) * 4096))
        .collect();
    assert_eq!(holes, want);
    b.cmd("export swap @/x -i @/key -o @/two --device 1")
        .exits(1)
        .complains("no swap device number 1");
    b.cmd("export vmcore @/x -i @/key -o @/core")
        .exits(0)
        .prints("1981 pages with contents, 990 zero, 29 missing");
    assert!(std::fs::read(b.d().join("core")).unwrap().starts_with(b"\x7fELF"));
    b.cmd("export vmcore @/x -i @/key -o @/core").exits(1).complains("exists");
    b.cmd("export vmcore @/x -i @/key -o @/x2 --format elf64").exits(2);
    assert_eq!(names(b.d()), ["core", "holes", "key", "other", "part", "swap", "x"]);
}

#[test]
fn damage_can_be_skipped_on_purpose() {
    let b = Bench::new(|_| {}, 0);
    b.flip(300 << 10);
    let ran =
        b.cmd("export vmcore @/x -i @/key -o @/core --skip-damaged --missing @/holes").exits(3);
    assert!(ran.err.contains("warning"), "{}", ran.err);
    assert!(std::fs::read_to_string(b.d().join("holes")).unwrap().contains(" damaged\n"));
}

/// What a program at the other end of a pipe gets is the vmcore.
#[test]
fn a_vmcore_goes_through_a_pipe() {
    let b = Bench::new(|p| p.layered = true, 0);
    b.cmd("export vmcore @/x -i @/key -o @/core").exits(0);
    let run = |line: &str| {
        let line = line.replace('@', b.d().to_str().unwrap());
        let line = line.replace("lifeboat", env!("CARGO_BIN_EXE_lifeboat"));
        let o = std::process::Command::new("bash").args(["-o", "pipefail", "-c", &line]).output();
        let o = o.unwrap();
        (o.status.code().unwrap(), String::from_utf8_lossy(&o.stderr).into_owned())
    };
    let (code, err) =
        run("lifeboat export vmcore @/x -i @/key -o - --missing @/holes | cat > @/piped");
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("wrote standard output: ") && err.contains("1981 pages"), "{err}");
    let read = |name: &str| std::fs::read(b.d().join(name)).unwrap();
    assert_eq!(std::fs::read_to_string(b.d().join("holes")).unwrap().lines().count(), 29);
    let (file, pipe) = (read("core"), read("piped"));
    let (heads, others) = (readers::phdrs(&file), readers::phdrs(&pipe));
    let page = |bytes: &[u8], heads: &[readers::Phdr], n: u64| {
        readers::elf_read(bytes, heads, n * 4096, 4096)
    };
    let found = (0..4000).filter(|n| {
        let got = page(&pipe, &others, *n);
        assert!(got == page(&file, &heads, *n), "page {n}");
        got.is_some()
    });
    assert_eq!(found.count(), 1981 + 990);
    // Who reads no further is told of as an error, and is no crash.
    let (code, err) = run("lifeboat export vmcore @/x -i @/key -o - | head -c 10000 > /dev/null");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("Broken pipe") && err.contains("hint:"), "{err}");
    let (code, err) = run("lifeboat export vmcore @/x -i @/key -o - --format kdump | cat");
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("only an ELF vmcore"), "{err}");
}
