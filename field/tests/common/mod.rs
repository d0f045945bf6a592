//! Runs the built program and makes the images that the tests feed it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests; each test program uses a part of them"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) mod capture;

/// What a run printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Asserts the exit code, showing everything otherwise.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Asserts that stderr holds `words`, and one hint at the end of an error.
    #[track_caller]
    pub(crate) fn complains(self, words: &str) -> Self {
        assert!(self.err.contains(words), "no `{words}` in:\n{}", self.err);
        assert_eq!(self.err.matches("hint:").count(), 1, "not one hint in:\n{}", self.err);
        self
    }

    /// Asserts that stdout holds `words`.
    #[track_caller]
    pub(crate) fn prints(self, words: &str) -> Self {
        assert!(self.out.contains(words), "no `{words}` in:\n{}", self.out);
        self
    }
}

/// Runs `lifeboat`.
pub(crate) fn lifeboat<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Ran {
    ran(&Command::new(env!("CARGO_BIN_EXE_lifeboat")).args(args).output().unwrap())
}

/// Runs `lifeboat` with the words of a line, `@` standing for `dir`.
pub(crate) fn cmd(dir: &Path, line: &str) -> Ran {
    let words: Vec<String> =
        line.split_whitespace().map(|w| w.replace('@', dir.to_str().unwrap())).collect();
    lifeboat(&words)
}

fn ran(o: &Output) -> Ran {
    Ran {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&o.stdout).into_owned(),
        err: String::from_utf8_lossy(&o.stderr).into_owned(),
    }
}

/// Runs another program; it must succeed.
#[track_caller]
pub(crate) fn tool(line: &str) -> String {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let o = Command::new(name)
        .args(words)
        .env("PATH", path)
        .output()
        .unwrap_or_else(|e| panic!("{name}: {e} (is its package installed?)"));
    assert!(o.status.success(), "{line}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

/// A sparse file.
pub(crate) fn image(dir: &Path, name: &str, mib: u64) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

/// Names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut list: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    list.sort();
    list
}
