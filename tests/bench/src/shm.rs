//! Folders in memory-backed storage: what is timed there does not wait for a disk.
//! They are removed with their last user.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::paths::sweep;

/// A tmpfs of every Linux.
const SHM: &str = "/dev/shm";
/// How names of folders begin; the process follows.
const PREFIX: &str = "lifeboat-bench";

/// A folder in memory; dropped, it is removed with all that is in it.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where.
    pub path: PathBuf,
}

impl Folder {
    /// A fresh folder with room for `need` bytes.
    ///
    /// # Errors
    /// When there is not so much room or memory.
    pub(crate) fn new(name: &str, need: u64) -> Res<Self> {
        sweep(PREFIX);
        require(need)?;
        let path = Path::new(SHM).join(format!("{PREFIX}-{}-{name}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).ctx(path.display())?;
        }
        fs::create_dir_all(&path).ctx(path.display())?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// There must be room for `need` more bytes, in the file system and in memory: when
/// memory ends, the kernel kills somebody, and not always the one who took it.
///
/// # Errors
/// When there is not.
pub(crate) fn require(need: u64) -> Res<()> {
    let room = rustix::fs::statvfs(SHM).map_or(0, |s| s.f_bavail * s.f_frsize);
    let free = available().min(room);
    ensure(
        free >= need,
        format_args!(
            "{SHM} has room for {} MiB, {} are needed\n\
             hint: a machine with more memory, or `mount -o remount,size=… {SHM}`",
            free >> 20,
            need >> 20
        ),
    )
}

/// Bytes of memory that programs can have (`MemAvailable`).
#[must_use]
pub(crate) fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
