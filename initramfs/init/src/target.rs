//! The targets: the volumes of the profile's list that pass their guard, the one that
//! the dump begins on, and what becomes of them.

use std::io;
use std::path::Path;
use std::time::Duration;

use lifeboat_format::bootcfg::{BootConfig, Policy};
use lifeboat_format::{Id, PAGE};
use lifeboat_sink::{Candidate, Event, FileDev, Host, Placement, Plan, Volume};
use lifeboat_sources::blockdev::Block;
use lifeboat_sys::{QueueMode, WriteQueue};

use crate::Failure;
use crate::console::say;

/// Writes in flight at most; Linux caps a kdump kernel's queues at 64.
const DEPTH: usize = 8;
/// Bytes of a write.
const WRITE: usize = 512 << 10;

/// With another target to go on with, a device may be silent for this long: shorter
/// than any watchdog's usual timeout. Its driver gives up after 30 s at best.
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
        let path = self.disks.0.get(self.first).map(|b| b.path.display().to_string());
        format!("dump {} on {}", self.plan.number, path.unwrap_or_default())
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
pub(crate) struct Disks(Vec<Block>);

impl Disks {
    fn name(&self, target: usize) -> std::path::Display<'_> {
        self.0.get(target).map_or(Path::new("?"), |b| b.path.as_path()).display()
    }
}

impl Host for Disks {
    type Out = WriteQueue;

    fn queue(&mut self, target: usize) -> io::Result<WriteQueue> {
        let block = self.0.get(target).ok_or(io::ErrorKind::NotFound)?;
        let file = FileDev::open_file(&block.path, true, true)?;
        let polled = has_poll_queues(&block.disk);
        let want = if polled { QueueMode::Polled } else { QueueMode::Uring };
        let mut queue = WriteQueue::new(file, want, DEPTH, WRITE);
        if self.0.len() > 1 {
            queue.set_stall_limit(STALL);
        }
        Ok(queue)
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
                say!("target: {} FAILED at byte {at} of the dump: {why}", self.name(target));
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
pub(crate) fn choose(
    config: &BootConfig,
    found: &[(usize, Block)],
    pages: u64,
) -> Result<Target, Failure> {
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
    let (mut disks, mut candidates, mut plans) = (Disks(Vec::new()), Vec::new(), Vec::new());
    for (_, block) in found {
        if disks.0.iter().any(|b| b.path == block.path) {
            continue;
        }
        match open(block, config.policy) {
            Ok((volume, plan)) => {
                plans.push(plan);
                candidates.push(Candidate { volume, spent: false });
                disks.0.push(block.clone());
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
    Ok(Target { disks, candidates, first, plan })
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

/// Whether the block layer polls this disk (`queue/io_poll`,
/// Documentation/ABI/stable/sysfs-block). Without poll queues IOPOLL completes by
/// interrupt on some kernels and fails on others (commit 73e59d3eeca4).
fn has_poll_queues(disk: &str) -> bool {
    let file = Path::new("/sys/class/block").join(disk).join("queue/io_poll");
    std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}
