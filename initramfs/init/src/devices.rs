//! Waiting for disks: until all that is named is there, with a deadline.
//!
//! No time is slept that nobody knows a reason for. PID 1 starts when the probes that the
//! kernel itself runs beside each other are over (`kernel_init()`, init/main.c, calls
//! `async_synchronize_full()` before it starts it); what may still come is what drivers
//! find by work of their own, such as NVMe's scan of namespaces. There is no netlink in
//! this kernel to be told by, so sysfs is looked at, in steps that grow from 1 to 10 ms.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_format::bootcfg::{BootConfig, Selector, SwapPlan};
use lifeboat_sources::blockdev::{self, Block};

use crate::console::say;
use crate::phase::Journal;
use crate::supervisor::Supervisor;

/// Between two looks at the list of disks: at first, and at most.
const FIRST: Duration = Duration::from_millis(1);
const MOST: Duration = Duration::from_millis(10);
/// Disks are read again after this long, though the list of them is the same: a node comes
/// a moment after its entry in sysfs, and an array may grow.
const AGAIN: Duration = Duration::from_millis(50);
/// Where it is not known what will come: the list must have been the same for this long.
/// Counted from the last change, so it is no fixed sleep.
const SETTLED: Duration = Duration::from_millis(500);

/// What appeared.
pub(crate) struct Devices {
    pub(crate) all: Vec<Block>,
    /// Targets, in order of the profile's list.
    pub(crate) targets: Vec<Block>,
}

/// Why the wait is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// No target is there.
    Target,
    /// Not all targets are there.
    FurtherTargets,
    /// A named swap device is missing.
    Swap,
    /// Swap devices have no names.
    Unnamed,
    /// A device that will be a disk is not one yet.
    Probe,
}

impl Reason {
    /// Whether waiting ends when no disk came for a while. What is named is waited for to
    /// the deadline.
    fn settles(self) -> bool {
        !matches!(self, Self::Target | Self::Swap)
    }

    fn text(self) -> &'static str {
        match self {
            Self::Target => "no target",
            Self::FurtherTargets => "not all targets are there",
            Self::Swap => "a swap device that is named is missing",
            Self::Unnamed => "nobody named the swap devices, as arming a host does",
            Self::Probe => "a controller has devices without a disk",
        }
    }
}

/// Waits for the targets, for the swap devices that are named or were on when the host was
/// armed, and for disks that are being found; at the deadline goes on with what is there.
pub(crate) fn wait(config: &BootConfig, journal: &Journal, supervisor: &Supervisor) -> Devices {
    let start = Instant::now();
    let limit = Duration::from_secs(u64::from(config.device_wait_s));
    let (mut all, mut targets) = (Vec::new(), Vec::new());
    let (mut listed, mut looked) = (None, start);
    let (mut changed, mut step) = (start, FIRST);
    let mut reason = None;
    loop {
        // Waiting is what this phase does, and it has a deadline of its own: the
        // watchdog is for what hangs, such as a read of a partition table.
        supervisor.moved(journal, 1);
        let list = listing();
        if listed != Some(list) || looked.elapsed() >= AGAIN {
            if listed != Some(list) {
                (changed, step) = (Instant::now(), FIRST);
            }
            (listed, looked) = (Some(list), Instant::now());
            all = blockdev::enumerate().unwrap_or_default();
            targets = matching(config, &all);
            reason = missing(config, &all, targets.len());
        }
        let why = reason.or_else(|| probing(Path::new("/sys")).then_some(Reason::Probe));
        let settled = changed.elapsed() >= SETTLED;
        let over = why.is_none_or(|w| w.settles() && settled) || start.elapsed() >= limit;
        if over {
            if let Some(why) = why {
                let (quiet, all) = (changed.elapsed().as_millis(), start.elapsed().as_millis());
                say!(
                    "devices: went on {quiet} ms after the last disk, {all} ms in all: {}",
                    why.text()
                );
            }
            return Devices { all, targets };
        }
        std::thread::sleep(step);
        step = (step * 2).min(MOST);
    }
}

/// What is not there yet of all that is named; `targets` of them are.
fn missing(config: &BootConfig, all: &[Block], targets: usize) -> Option<Reason> {
    let gone = |list: &[Selector]| list.iter().any(|s| blockdev::find(all, s).is_err());
    if targets == 0 {
        return Some(Reason::Target);
    }
    match (&config.swap, &config.swap_on) {
        (SwapPlan::List(list), _) | (SwapPlan::Auto, Some(list)) if gone(list) => {
            return Some(Reason::Swap);
        }
        (SwapPlan::Auto, None) => return Some(Reason::Unnamed),
        _ => {}
    }
    (targets < config.targets.len()).then_some(Reason::FurtherTargets)
}

fn matching(config: &BootConfig, all: &[Block]) -> Vec<Block> {
    let find = |selector| blockdev::find(all, selector).ok().cloned();
    config.targets.iter().filter_map(find).collect()
}

/// Says which targets are not there, or not one alone.
pub(crate) fn tell_missing(config: &BootConfig, devices: &Devices) {
    if devices.targets.len() == config.targets.len() {
        return;
    }
    for selector in &config.targets {
        if let Err(why) = blockdev::find(&devices.all, selector) {
            say!("devices: target {why}");
        }
    }
}

/// The names of all block devices, in one number: what there is costs more to find out.
fn listing() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    entries.fold(0u64, |sum, entry| {
        let mut hash = DefaultHasher::new();
        entry.file_name().hash(&mut hash);
        sum.wrapping_add(hash.finish() | 1)
    })
}

/// Whether a device that is a disk by its kind has no block device yet: a virtio disk, a
/// SCSI disk (types 0 and 14, include/scsi/scsi_proto.h), or an NVMe controller whose
/// namespaces are still to be scanned.
fn probing(sys: &Path) -> bool {
    let is = |path: &Path, values: &[&str]| {
        fs::read_to_string(path).is_ok_and(|text| values.contains(&text.trim()))
    };
    let virtio = entries(&sys.join("bus/virtio/drivers/virtio_blk"), "virtio")
        .iter()
        .any(|dir| !dir.join("block").exists());
    let scsi = entries(&sys.join("bus/scsi/devices"), "")
        .iter()
        .any(|dir| is(&dir.join("type"), &["0", "14"]) && !dir.join("block").exists());
    let nvme = entries(&sys.join("class/nvme"), "nvme").iter().any(|dir| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = ["c", "n"].iter().map(|kind| entries(dir, &format!("{name}{kind}")).len());
        // What is dead or being deleted brings nothing more (`nvme_sysfs_show_state()`,
        // drivers/nvme/host/sysfs.c).
        is(&dir.join("state"), &["new", "live", "resetting", "connecting"])
            && found.sum::<usize>() == 0
    });
    virtio || scsi || nvme
}

fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = all.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    named.map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

    use super::*;

    fn config(swap: SwapPlan, on: Option<&str>) -> BootConfig {
        let mut config = BootConfig { swap, ..BootConfig::default() };
        config.targets.push(Selector::parse("partlabel=lifeboat").unwrap()).unwrap();
        config.swap_on = on.map(|text| {
            let names = text.split(' ').filter(|n| !n.is_empty());
            names.map(|n| Selector::parse(n).unwrap()).collect()
        });
        config
    }

    fn block(name: &str, label: &str) -> Block {
        Block { name: name.into(), partlabel: Some(label.into()), ..Block::default() }
    }

    #[test]
    fn what_is_named_is_waited_for() {
        let target = [block("sda1", "lifeboat")];
        let both = [block("sda1", "lifeboat"), block("sdb1", "swap")];
        let auto = |on| config(SwapPlan::Auto, on);
        assert_eq!(missing(&auto(Some("")), &[], 0), Some(Reason::Target));
        // Nothing was on: the target is all that is waited for.
        assert_eq!(missing(&auto(Some("")), &target, 1), None);
        // A late swap disk.
        assert_eq!(missing(&auto(Some("partlabel=swap")), &target, 1), Some(Reason::Swap));
        assert_eq!(missing(&auto(Some("partlabel=swap")), &both, 1), None);
        assert!(!Reason::Swap.settles() && !Reason::Target.settles());
        // Nobody looked.
        assert_eq!(missing(&auto(None), &both, 1), Some(Reason::Unnamed));
        assert_eq!(missing(&config(SwapPlan::None, None), &target, 1), None);
        // A target to go on with may be late too.
        let mut two = auto(Some(""));
        two.targets.push(Selector::parse("partlabel=second").unwrap()).unwrap();
        assert_eq!(missing(&two, &target, 1), Some(Reason::FurtherTargets));
        assert!(Reason::FurtherTargets.settles() && Reason::Unnamed.settles());
    }

    #[test]
    fn a_device_without_its_disk_is_being_probed() {
        let sys = std::env::temp_dir().join(format!("lifeboat-probing-{}", std::process::id()));
        let (virtio, scsi) = (
            sys.join("bus/virtio/drivers/virtio_blk/virtio0"),
            sys.join("bus/scsi/devices/0:0:0:0"),
        );
        let nvme = sys.join("class/nvme/nvme0");
        for dir in [&virtio, &scsi, &nvme] {
            fs::create_dir_all(dir).unwrap();
        }
        // A DVD drive, and a controller that is gone.
        fs::write(scsi.join("type"), "5\n").unwrap();
        fs::write(nvme.join("state"), "dead\n").unwrap();
        assert!(probing(&sys), "virtio0 has no disk");
        fs::create_dir(virtio.join("block")).unwrap();
        assert!(!probing(&sys));
        fs::write(scsi.join("type"), "0\n").unwrap();
        assert!(probing(&sys), "a SCSI disk without sd");
        fs::create_dir(scsi.join("block")).unwrap();
        fs::write(nvme.join("state"), "live\n").unwrap();
        assert!(probing(&sys), "an NVMe controller without namespaces");
        fs::create_dir(nvme.join("nvme0c0n1")).unwrap();
        assert!(!probing(&sys));
        fs::remove_dir_all(&sys).unwrap();
    }
}
