//! What all sections share: the programs, the input in memory, what was measured
//! before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_qemu::error::{Context as _, Res, run};
use lifeboat_qemu::paths::workspace;

use crate::input::{self, Input, Variant};
use crate::measure::{Series, Task};
use crate::model::Rates;
use crate::ours::{Mode, Ours};
use crate::peers::Makedumpfile;
use crate::shm::{Folder, require};

/// Room that the largest outputs of a section need beside the input, two dumps and an
/// export of one at once.
const SPARE: u64 = 7 << 30;

/// Programs and the input that is in memory now.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Rounds in which contenders take turns.
    pub rounds: u32,
    /// The peer.
    pub peer: Makedumpfile,
    /// We.
    pub ours: Ours,
    /// What the model needs, once it has been measured.
    pub rates: Option<Rates>,
    /// Everything that is written lies here, in memory.
    pub work: Folder,
    loaded: Option<(Input, PathBuf)>,
}

impl Lab {
    /// Fetches and builds what is needed.
    ///
    /// # Errors
    /// When something cannot be had.
    pub(crate) fn new(rounds: u32) -> Res<Self> {
        let work = Folder::new("work", 0)?;
        let peer = Makedumpfile::get()?;
        let ours = Ours::get(&work.path)?;
        Ok(Self { rounds, peer, ours, rates: None, work, loaded: None })
    }

    /// Prints the machine and the versions.
    pub(crate) fn introduce(&self) {
        println!("# Capture benchmarks\n");
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|l| l.starts_with("model name"));
        let model = model.and_then(|l| l.split_once(": ")).map_or("?", |(_, name)| name);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let word = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        println!(
            "machine       {model}, {cores} CPUs, Linux {}",
            word("/proc/sys/kernel/osrelease")
        );
        println!("load before   {}", word("/proc/loadavg"));
        println!("rounds        {}, all in turn; medians, of ratios too", self.rounds);
        let commit = run(Command::new("git")
            .args(["describe", "--always", "--dirty"])
            .current_dir(workspace()));
        println!("ours          {}, {}", self.ours.version, commit.unwrap_or_default().trim());
        println!(
            "peer          makedumpfile {} (zstd, lzo{}), in one thread, its fastest on two CPUs",
            self.peer.version,
            if self.peer.snappy { ", snappy" } else { "; built without snappy" }
        );
        println!("codecs        zstd {}, lz4 {}", zstd::zstd_safe::version_string(), lz4_version());
        println!("outputs       in {}, removed after each run", self.work.path.display());
    }

    /// The input of a variant, copied into memory; another one's copy goes first. Its
    /// description is printed when it comes in.
    ///
    /// # Errors
    /// When it cannot be made or copied.
    pub(crate) fn input(&mut self, variant: Variant) -> Res<(Input, PathBuf)> {
        if let Some((input, path)) = &self.loaded {
            if input.variant == variant {
                return Ok((input.clone(), path.clone()));
            }
            fs::remove_file(path).ctx(path.display())?;
        }
        self.loaded = None;
        let input = input::get(variant)?;
        require(fs::metadata(&input.vmcore).ctx(input.vmcore.display())?.len() + SPARE)?;
        let path = self.work.path.join(format!("{}.vmcore", variant.name()));
        fs::copy(&input.vmcore, &path).ctx(path.display())?;
        println!("\ninput {}", input.description.trim_end());
        self.loaded = Some((input.clone(), path.clone()));
        Ok((input, path))
    }

    /// Where a contender writes.
    #[must_use]
    pub(crate) fn out(&self) -> PathBuf {
        self.work.path.join("out")
    }

    /// A capture of ours into [`Lab::out`].
    #[must_use]
    pub(crate) fn ours(&self, mode: &Mode<'_>, from: &Path) -> Task {
        self.ours.capture(mode, from, &self.out())
    }

    /// A run of makedumpfile into [`Lab::out`].
    #[must_use]
    pub(crate) fn peer(&self, options: &[&str], from: &Path) -> Task {
        self.peer.task(options, from, &self.out())
    }
}

fn lz4_version() -> String {
    let v = lz4::version();
    format!("{}.{}.{}", v / 10000, v / 100 % 100, v % 100)
}

/// The series of this name.
///
/// # Errors
/// When there is none: names are written in one place and looked up in another.
pub(crate) fn named<'s>(all: &'s [Series], name: &str) -> Res<&'s Series> {
    all.iter().find(|s| s.name == name).ctx(format_args!("the contender `{name}`"))
}
