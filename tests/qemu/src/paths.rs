//! Where things lie: the workspace, the image under test, the cache, work folders.

use std::env;
use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Context as _, Failure, Res};

/// The board whose image the tests drive.
pub const BOARD: &str = "x86_64-generic";

/// The workspace's root folder.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// What is downloaded once and kept between runs.
///
/// # Errors
/// When no home folder is known or the folder cannot be made.
pub fn cache() -> Res<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = set("LIFEBOAT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("lifeboat")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/lifeboat")))
        .ctx("a cache folder\nhint: set LIFEBOAT_CACHE")?;
    fs::create_dir_all(&dir).ctx(dir.display())?;
    Ok(dir)
}

/// The folder of the image under test, made by `make image`.
///
/// # Errors
/// When it is not there.
pub fn image() -> Res<PathBuf> {
    let dir = env::var_os("LIFEBOAT_IMAGE")
        .map_or_else(|| workspace().join("out").join(BOARD), PathBuf::from);
    if dir.join("vmlinuz").is_file() && dir.join("lifeboat").is_file() {
        return Ok(dir);
    }
    Err(Failure::check(format_args!(
        "no image in {}\nhint: make image BOARD={BOARD}",
        dir.display()
    )))
}

/// The static host command that came with the image.
///
/// # Errors
/// When the image is not there.
pub fn lifeboat() -> Res<PathBuf> {
    Ok(image()?.join("lifeboat"))
}

/// The build folder.
#[must_use]
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// A fresh work folder for one test, under the build folder; an old one is removed.
///
/// # Errors
/// When it cannot be made.
pub fn work(name: &str) -> Res<PathBuf> {
    let dir = target().join("qemu").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).ctx(dir.display())?;
    }
    fs::create_dir_all(&dir).ctx(dir.display())?;
    Ok(dir)
}

/// Holds the cache for one process at a time: tests run side by side.
///
/// # Errors
/// When the lock file cannot be made.
pub fn lock_cache() -> Res<File> {
    let path = cache()?.join("lock");
    let file = File::create(&path).ctx(path.display())?;
    flock(&file, FlockOperation::LockExclusive).ctx("locking the cache")?;
    Ok(file)
}

/// Removes from memory-backed storage what processes that are gone left there when they were
/// killed: files and folders named `<prefix>-<pid>-…`.
pub fn sweep(prefix: &str) {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().filter_map(Result::ok);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name, prefix).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// The process that a name is of.
fn owner(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.strip_prefix('-')?.split_once('-')?.0.parse().ok()
}

/// A file that goes when this does, also when a test fails.
#[derive(Debug)]
pub struct Scrap(pub PathBuf);

impl Drop for Scrap {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_swept() {
        let prefix = format!("lifeboat-sweep{}", std::process::id());
        // No process has this number: it is over the kernel's limit of 2^22.
        let named = |pid: u32, rest: &str| PathBuf::from(format!("/dev/shm/{prefix}-{pid}-{rest}"));
        let own = Scrap(named(std::process::id(), "ram"));
        let (file, folder) = (named(1 << 30, "ram"), named(1 << 30, "work"));
        fs::write(&own.0, "").unwrap();
        fs::write(&file, "").unwrap();
        fs::create_dir(&folder).unwrap();
        sweep(&prefix);
        assert!(own.0.exists() && !file.exists() && !folder.exists());
    }
}
