//! The targets: the volumes of the profile's list that pass their guard, the one that
//! the dump begins on, and what becomes of them.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use lifeboat_format::bootcfg::{BootConfig, Policy};
use lifeboat_format::{Id, PAGE};
use lifeboat_sink::{Candidate, Event, FileDev, Host, Placement, Plan, Volume};
use lifeboat_sources::blockdev::Block;
use lifeboat_sys::{Lane, Plain, WriteQueue};

use crate::Failure;
use crate::console::say;
use crate::limits::{Limits, Shape};

/// With another target to go on with, a device may be silent for this long: shorter
/// than any watchdog's usual timeout. Its driver gives up after 30 s at best. On the last
/// target the chain lifts it: there the driver, the watchdog or the deadline ends a wait.
const STALL: Duration = Duration::from_secs(20);

/// The volumes that may be written, and where the dump begins.
pub(crate) struct Target {
    pub(crate) disks: Disks,
    pub(crate) candidates: Vec<Candidate<FileDev>>,
    /// Index of the one that is written first.
    pub(crate) first: usize,
    pub(crate) plan: Plan,
}

impl Target {
    /// Dump number and device, for the console.
    pub(crate) fn name(&self) -> String {
        format!("dump {} on {}", self.plan.number, self.disks.name(self.first))
    }

    /// The disks that may be written, by the kernel's names.
    pub(crate) fn disk_names(&self) -> Vec<String> {
        self.disks.list.iter().map(|(block, _)| block.disk.clone()).collect()
    }

    /// Fixes the memory that writes wait in, in bytes.
    pub(crate) fn set_budget(&mut self, bytes: usize) {
        self.disks.budget = bytes;
    }

    /// The volume that the dump begins on.
    pub(crate) fn volume_id(&self) -> Id {
        let first = self.candidates.get(self.first);
        first.map(|c| c.volume.superblock().volume_id).unwrap_or_default()
    }

    /// Says what was chosen.
    pub(crate) fn report(&self) {
        // Those in front of it in the list, too: the search goes round.
        let more = self.candidates.len().saturating_sub(1);
        say!(
            "guard: {}: ours, up to {} MiB in slot {}{}",
            self.name(),
            self.plan.len >> 20,
            self.plan.slot,
            if more > 0 {
                format!(", {more} more targets if it fails or is full")
            } else {
                String::new()
            }
        );
    }
}

/// The devices of the candidates, and what happens to them.
pub(crate) struct Disks {
    list: Vec<(Block, Limits)>,
    /// Bytes of all buffers.
    budget: usize,
}

impl Disks {
    fn name(&self, target: usize) -> std::path::Display<'_> {
        self.list.get(target).map_or(Path::new("?"), |(b, _)| b.path.as_path()).display()
    }

    fn open(&self, target: usize) -> io::Result<(File, Limits)> {
        let (block, limits) = self.list.get(target).ok_or(io::ErrorKind::NotFound)?;
        Ok((FileDev::open_file(&block.path, true, true)?, *limits))
    }

    /// Buffers that suit all targets: they serve one after the other.
    fn shape(&self) -> Shape {
        let all = self.list.iter().map(|(_, limits)| *limits).reduce(Limits::and);
        all.unwrap_or_default().writes(self.budget)
    }
}

impl Host for Disks {
    type Out = WriteQueue;

    fn queue(&mut self, target: usize) -> io::Result<WriteQueue> {
        let (file, limits) = self.open(target)?;
        let shape = self.shape();
        let mut queue = WriteQueue::new(file, limits.mode(), shape.depth, shape.len);
        if self.list.len() > 1 {
            queue.set_stall_limit(Some(STALL));
        }
        Ok(queue)
    }

    fn lane(&mut self, target: usize, out: &WriteQueue) -> io::Result<Lane> {
        let (file, limits) = self.open(target)?;
        Ok(out.lane(file, limits.mode()))
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Dropped { target, slots } => {
                say!("target: {} gave up {} slots by its policy", self.name(target), slots.len());
            }
            Event::More { target, len } => {
                say!("target: {} MiB more set aside on {}", len >> 20, self.name(target));
            }
            Event::NoRoom { target, why } => {
                say!("target: {} has no more room: {why}", self.name(target));
            }
            Event::Failed { target, at, why } => {
                let (name, why) = (self.name(target), Plain(&why));
                say!("target: {name} FAILED at byte {at} of the dump: {why}");
            }
            Event::Slot { target, why } => {
                say!("target: the slot on {} is not up to date: {why}", self.name(target));
            }
            other => say!("target: {other:?}"),
        }
    }
}

/// Opens the targets in the order of the profile and begins on the first that has room
/// for the whole dump, as far as that can be told before it is taken; if none has, on
/// the one with the most. All failures are told, none is final until the last.
pub(crate) fn choose(config: &BootConfig, found: &[Block], pages: u64) -> Result<Target, Failure> {
    if found.is_empty() {
        let names: Vec<String> = config.targets.iter().map(ToString::to_string).collect();
        return Err(format!(
            "no dump partition appeared within {} s (looked for {})",
            config.device_wait_s,
            names.join(", ")
        )
        .into());
    }
    let mut last: Failure = "no target".into();
    let (mut list, mut candidates, mut plans) = (Vec::new(), Vec::new(), Vec::new());
    for block in found {
        if list.iter().any(|(b, _): &(Block, Limits)| b.path == block.path) {
            continue;
        }
        match open(block, config.policy) {
            Ok((volume, plan)) => {
                plans.push(plan);
                candidates.push(Candidate { volume, spent: false });
                list.push((block.clone(), Limits::of(&block.disk)));
            }
            Err(why) => {
                say!("guard: {} refused: {why}", block.path.display());
                last = format!("{} refused: {why}", block.path.display()).into();
            }
        }
    }
    let want = pages.saturating_mul(PAGE as u64) / USUAL_RATIO;
    let enough = plans.iter().position(|p| p.len >= want);
    let largest = || (0..plans.len()).rev().max_by_key(|n| plans.get(*n).map(|p| p.len));
    let first = match enough.or_else(largest) {
        Some(first) => first,
        None => return Err(last),
    };
    let plan = plans.swap_remove(first);
    Ok(Target { disks: Disks { list, budget: 0 }, candidates, first, plan })
}

/// A dump takes a quarter of its pages or less on most machines, zero pages nothing.
const USUAL_RATIO: u64 = 4;

fn open(block: &Block, policy: Policy) -> Result<(Volume<FileDev>, Plan), Failure> {
    let file = FileDev::open_file(&block.path, true, true)?;
    let dev = FileDev::new(file, 0, block.len);
    let volume = Volume::open(dev, Placement { start: block.start, len: block.len })?;
    volume.guard()?;
    let plan = volume.plan(policy)?;
    Ok((volume, plan))
}
