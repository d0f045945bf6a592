//! Whether a block device or file is in use on this machine: mounted, swap,
//! held by another device, split into partitions, or behind a loop device.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A device number, as sysfs and mountinfo write it.
pub(crate) fn dev_name(rdev: u64) -> String {
    format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

/// Why a block device must not be written to; `None` when it is free.
/// A file of /proc or /sys that is missing counts as no user.
pub(crate) fn block_device(rdev: u64) -> Option<String> {
    mounted(rdev)
        .map(|at| format!("it is mounted at {at}"))
        .or_else(|| {
            swap(|path| rdev_of(path) == Some(rdev)).then(|| "it is in use as swap".to_owned())
        })
        .or_else(|| {
            let list = names(&sys(rdev).join("holders"));
            (!list.is_empty()).then(|| format!("it is held by {}", list.join(", ")))
        })
        .or_else(|| {
            let parts = partitions(rdev);
            (!parts.is_empty())
                .then(|| format!("it is a whole disk with partitions ({})", parts.join(", ")))
        })
}

/// Why a regular file must not be written to.
pub(crate) fn file(path: &Path) -> Option<String> {
    let full = fs::canonicalize(path).ok()?;
    if swap(|p| p == full) {
        return Some("it is in use as swap".to_owned());
    }
    for name in names(Path::new("/sys/block")) {
        let backing = Path::new("/sys/block").join(&name).join("loop/backing_file");
        if fs::read_to_string(backing).is_ok_and(|b| Path::new(b.trim_end()) == full) {
            return Some(format!("it is attached to /dev/{name}"));
        }
    }
    None
}

/// Names of the partitions that the kernel sees on a disk.
pub(crate) fn partitions(rdev: u64) -> Vec<String> {
    let dir = sys(rdev);
    names(&dir).into_iter().filter(|n| dir.join(n).join("partition").exists()).collect()
}

/// The sysfs directory of a block device.
pub(crate) fn sys(rdev: u64) -> std::path::PathBuf {
    Path::new("/sys/dev/block").join(dev_name(rdev))
}

fn names(dir: &Path) -> Vec<String> {
    let mut list: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    list.sort();
    list
}

fn rdev_of(path: &Path) -> Option<u64> {
    use std::os::unix::fs::FileTypeExt;
    let meta = fs::metadata(path).ok()?;
    meta.file_type().is_block_device().then(|| meta.rdev())
}

/// First mount point of a device. btrfs mounts carry an anonymous device
/// number, so the source path is compared too (proc_pid_mountinfo(5)).
fn mounted(rdev: u64) -> Option<String> {
    let info = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let number = dev_name(rdev);
    info.lines().find_map(|line| {
        let (mount, fs_part) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(2);
        let (dev, _root, at) = (words.next()?, words.next()?, words.next()?);
        let source = fs_part.split(' ').nth(1)?;
        let same = dev == number
            || (source.starts_with("/dev/") && rdev_of(Path::new(&unescape(source))) == Some(rdev));
        same.then(|| unescape(at))
    })
}

fn swap(is: impl Fn(&Path) -> bool) -> bool {
    swaps(Path::new(SWAPS)).is_ok_and(|list| list.iter().any(|s| is(&s.path)))
}

/// Where the kernel lists what it swaps to.
pub(crate) const SWAPS: &str = "/proc/swaps";

/// A swap area that is on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Swap {
    /// Where it is, or was when it was switched on.
    pub(crate) path: PathBuf,
    /// A block device and no file.
    pub(crate) partition: bool,
}

/// The swap areas in `table`, which is [`SWAPS`] but in tests. A kernel without swap has
/// no such file, and none is on.
///
/// # Errors
/// The file is there and cannot be read.
pub(crate) fn swaps(table: &Path) -> io::Result<Vec<Swap>> {
    match fs::read_to_string(table) {
        Ok(text) => Ok(parse_swaps(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Name, type, and three numbers (`swap_show()`, mm/swapfile.c); a swap file's type is
/// `file`.
fn parse_swaps(text: &str) -> Vec<Swap> {
    let swap = |line: &str| {
        let mut words = line.split_whitespace();
        let (path, kind) = (words.next()?, words.next()?);
        Some(Swap { path: unescape(path).into(), partition: kind == "partition" })
    };
    text.lines().skip(1).filter_map(swap).collect()
}

/// `\040` and its like, as the kernel writes blanks in paths.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |t, (from, to)| t.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_partitions_are_told_from_files() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/lifeboat\\040none1                 partition\t131068\t\t0\t\t-2\n\
            /swap\\040file                            file\t\t1048572\t\t0\t\t-3\n\
            /dev/zram9                              partition\t4\t0\t100\n";
        let want = [("/dev/lifeboat none1", true), ("/swap file", false), ("/dev/zram9", true)];
        let want = want.map(|(path, partition)| Swap { path: path.into(), partition });
        assert_eq!(parse_swaps(text), want);
        assert_eq!(parse_swaps(""), []);
    }

    #[test]
    fn only_a_missing_table_says_that_no_swap_is_on() {
        assert_eq!(swaps(Path::new("/nowhere/swaps")).unwrap(), []);
        assert!(swaps(Path::new("/proc")).is_err());
    }
}
