//! Our own command: built with optimisation, given a fresh key, and run from outside.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_qemu::cycle::public_half;
use lifeboat_qemu::error::{Context as _, Res, ensure, run};
use lifeboat_qemu::paths::{target, workspace};

use crate::measure::Task;

/// The command under test and a key.
#[derive(Debug, Clone)]
pub(crate) struct Ours {
    program: PathBuf,
    /// The key's secret half.
    pub identity: PathBuf,
    recipient: String,
    /// What `--version` says.
    pub version: String,
}

/// One way to capture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode<'a> {
    /// `--codec`.
    pub codec: &'a str,
    /// `--level`, of zstd.
    pub level: Option<u32>,
    /// `--workers`.
    pub workers: usize,
    /// Whether it may use one CPU only, that of its one worker.
    pub one_cpu: bool,
    /// Whether identical pages are stored once.
    pub dedup: bool,
    /// Further arguments.
    pub more: &'a [&'a str],
}

impl<'a> Mode<'a> {
    /// A codec with two workers, without deduplication.
    #[must_use]
    pub(crate) fn of(codec: &'a str, level: Option<u32>) -> Self {
        Self { codec, level, workers: 2, one_cpu: false, dedup: false, more: &[] }
    }

    /// With identical pages stored once.
    #[must_use]
    pub(crate) fn dedup(self) -> Self {
        Self { dedup: true, ..self }
    }

    /// With another number of workers.
    #[must_use]
    pub(crate) fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// With one worker on one CPU, as in a crash kernel that has no second one. With
    /// two, the kernel's thread that copies into the output works on the other.
    #[must_use]
    pub(crate) fn one_cpu(self) -> Self {
        Self { workers: 1, one_cpu: true, ..self }
    }

    /// With further arguments.
    #[must_use]
    pub(crate) fn more(self, more: &'a [&'a str]) -> Self {
        Self { more, ..self }
    }

    /// As it stands in tables.
    #[must_use]
    pub(crate) fn name(&self) -> String {
        let level = self.level.map_or_else(String::new, |l| format!(" {l}"));
        let dedup = if self.dedup { ", dedup" } else { "" };
        let more: String = self.more.iter().map(|m| format!(" {m}")).collect();
        let word = if self.workers == 1 { "worker" } else { "workers" };
        let cpus = if self.one_cpu { " on 1 CPU" } else { "" };
        format!("ours {}{level}{dedup}, {} {word}{cpus}{more}", self.codec, self.workers)
    }
}

impl Ours {
    /// Builds the command (`LIFEBOAT` names another one) and makes a key in `work`.
    ///
    /// # Errors
    /// When building or `keygen` fails, or the command cannot capture.
    pub(crate) fn get(work: &Path) -> Res<Self> {
        let program = match env::var_os("LIFEBOAT").filter(|v| !v.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => build()?,
        };
        let identity = work.join("identity.txt");
        run(Command::new(&program).arg("keygen").arg("-o").arg(&identity))?;
        let recipient = public_half(&identity)?;
        let version = run(Command::new(&program).arg("--version"))?.trim().to_owned();
        Ok(Self { program, identity, recipient, version })
    }

    /// A capture of `from` into `to`, encrypted.
    #[must_use]
    pub(crate) fn capture(&self, mode: &Mode<'_>, from: &Path, to: &Path) -> Task {
        let mut task = if mode.one_cpu {
            Task::new("taskset", to).args(["-c", "0"]).args([&self.program])
        } else {
            Task::new(&self.program, to)
        };
        task = task.args(["capture", "--force", "--from"]).args([from]).args(["--to"]).args([to]);
        task = task.args(["--recipient", &self.recipient, "--codec", mode.codec]);
        task = task.args(["--workers", &mode.workers.to_string()]).args(mode.more);
        if let Some(level) = mode.level {
            task = task.args(["--level", &level.to_string()]);
        }
        if mode.dedup { task } else { task.args(["--dedup-kib", "0"]) }
    }

    /// An export of `dump` as a vmcore.
    #[must_use]
    pub(crate) fn export(&self, format: &str, dump: &Path, to: &Path) -> Task {
        let task = Task::new(&self.program, to).args(["export", "vmcore", "--force"]);
        let task = task.args(["--format", format, "-i"]).args([&*self.identity]);
        task.args([dump]).args(["-o"]).args([to])
    }

    /// A question to the dead machine of `dump`, with what it writes.
    #[must_use]
    pub(crate) fn ask(&self, what: &str, dump: &Path, to: &Path) -> Task {
        Task::new(&self.program, to).args([what, "-i"]).args([&*self.identity]).args([dump])
    }

    /// Whether every chunk of `dump` opens and holds what it should.
    ///
    /// # Errors
    /// When `verify` fails.
    pub(crate) fn verify(&self, dump: &Path) -> Res<()> {
        run(Command::new(&self.program).arg("verify").arg(dump).arg("-i").arg(&self.identity))
            .map(drop)
    }
}

fn build() -> Res<PathBuf> {
    let status = Command::new("cargo")
        .args(["build", "--release", "-q", "-p", "lifeboat"])
        .current_dir(workspace())
        .status()
        .ctx("cargo")?;
    ensure(status.success(), "`lifeboat` could not be built")?;
    Ok(target().join("x86_64-unknown-linux-gnu/release/lifeboat"))
}
