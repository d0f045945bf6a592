//! Where things are: the checkout, the cache, scratch directories; and changing
//! what is there in one step only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Step as _};

/// The top of the checkout: the directory that holds what an image is made of.
pub(crate) fn root(given: Option<&str>) -> Result<PathBuf, Failure> {
    let start = match given {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_dir().step(|| "the current directory".to_owned())?,
    };
    let start = start.canonicalize().step(|| start.display().to_string())?;
    let is_root = |d: &&Path| d.join("image/linux").is_dir() && d.join("config/kernel").is_dir();
    let found = start.ancestors().find(is_root).map(Path::to_path_buf);
    found.ok_or_else(|| {
        Failure::new(format!("{} is not within a Lifeboat checkout", start.display()))
            .hint("run it there, or name it with --root")
    })
}

/// What is kept between builds.
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// `--cache`, else `$LIFEBOAT_CACHE`, else `lifeboat` in the user's cache directory.
    pub(crate) fn open(given: Option<&str>) -> Result<Self, Failure> {
        let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = given
            .map(PathBuf::from)
            .or_else(|| env("LIFEBOAT_CACHE"))
            .or_else(|| env("XDG_CACHE_HOME").map(|d| d.join("lifeboat")))
            .or_else(|| env("HOME").map(|d| d.join(".cache/lifeboat")))
            .ok_or_else(|| Failure::new("no place for a cache").hint("name one with --cache"))?;
        fs::create_dir_all(&dir).step(|| format!("cache {}", dir.display()))?;
        let dir = dir.canonicalize().step(|| format!("cache {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// `kind/key`, made once: if it is not there, `fill` fills a scratch directory,
    /// which is then renamed. Only one builder at a time fills the same entry.
    pub(crate) fn entry(
        &self,
        kind: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<PathBuf, Failure> {
        let dir = self.dir.join(kind);
        fs::create_dir_all(&dir).step(|| dir.display().to_string())?;
        let done = dir.join(key);
        let lock_path = dir.join(format!("{key}.lock"));
        let lock = File::create(&lock_path).step(|| lock_path.display().to_string())?;
        lock.lock().step(|| format!("waiting for another builder at {}", lock_path.display()))?;
        // Tools inherit the lock: if this builder is killed, the next one waits for
        // a make that goes on by itself, and does not work in the same directory.
        rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())
            .map_err(std::io::Error::from)
            .step(|| lock_path.display().to_string())?;
        if done.is_dir() {
            return Ok(done);
        }
        let scratch = Scratch::new(dir.join(format!("{key}.new")))?;
        fill(&scratch.dir)?;
        fs::rename(&scratch.dir, &done).step(|| done.display().to_string())?;
        Ok(done)
    }

    /// A directory for work that is thrown away, under a lock held by the caller's entry.
    pub(crate) fn scratch(&self, name: &str) -> Result<Scratch, Failure> {
        Scratch::new(self.dir.join("work").join(name))
    }
}

/// A directory that is empty at first and removed at the end.
pub(crate) struct Scratch {
    pub(crate) dir: PathBuf,
}

impl Scratch {
    pub(crate) fn new(dir: PathBuf) -> Result<Self, Failure> {
        if dir.exists() {
            fs::remove_dir_all(&dir).step(|| dir.display().to_string())?;
        }
        fs::create_dir_all(&dir).step(|| dir.display().to_string())?;
        Ok(Self { dir })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over is removed by the next build with the same name.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Puts the finished directory `new` in the place of `old`, which a reader sees
/// either as it was or as it is, never half.
pub(crate) fn replace_dir(new: &Path, old: &Path) -> Result<(), Failure> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let named = || format!("moving the image to {}", old.display());
    if !old.exists() {
        return fs::rename(new, old).step(named);
    }
    renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE)
        .map_err(std::io::Error::from)
        .step(named)
}
