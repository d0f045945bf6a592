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

/// A fresh work folder for one test, under the build folder; an old one is removed.
///
/// # Errors
/// When it cannot be made.
pub fn work(name: &str) -> Res<PathBuf> {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let dir = target.join("qemu").join(name);
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

/// Frees what a dead or finished test left in memory-backed storage.
#[derive(Debug)]
pub struct Scrap(pub PathBuf);

impl Drop for Scrap {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
