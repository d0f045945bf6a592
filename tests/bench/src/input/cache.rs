//! Folders that are made once and kept, named by a hash of all that determines
//! them; made beside their place and renamed when whole.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use lifeboat_qemu::error::{Context as _, Res};
use lifeboat_qemu::paths;
use lifeboat_qemu::provision::install;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

/// What determines a folder's contents.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    name: String,
    parts: String,
}

impl Key {
    /// An empty one; `name` begins the folder's name.
    #[must_use]
    pub(crate) fn of(name: &str) -> Self {
        Self { name: name.to_owned(), parts: String::new() }
    }

    /// Adds a text.
    pub(crate) fn add(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.parts, "{} {text}", text.len());
        self
    }

    /// Adds a file's contents.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn add_file(&mut self, path: &Path) -> Res<&mut Self> {
        let bytes = fs::read(path).ctx(path.display())?;
        Ok(self.add(&hex(&Sha256::digest(bytes))))
    }

    /// The folder's name.
    #[must_use]
    pub(crate) fn folder(&self) -> String {
        let hash = hex(&Sha256::digest(self.parts.as_bytes()));
        format!("{}-{}", self.name, hash.get(..16).unwrap_or_default())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The folder of `key`; if it is not there, `fill` makes its contents first.
/// One process at a time fills.
///
/// # Errors
/// When `fill` fails; nothing is kept then.
pub(crate) fn keep(key: &Key, fill: impl FnOnce(&Path) -> Res<()>) -> Res<PathBuf> {
    let top = paths::cache()?.join("bench");
    fs::create_dir_all(&top).ctx(top.display())?;
    let lock = File::create(top.join(format!("{}.lock", key.name))).ctx("a lock")?;
    flock(&lock, FlockOperation::LockExclusive).ctx("locking the cache")?;
    let dir = top.join(key.folder());
    if dir.is_dir() {
        return Ok(dir);
    }
    install(&dir, |new| {
        fill(new)?;
        fs::write(new.join("key"), &key.parts).ctx("the key")
    })?;
    forget_older(&top, key)?;
    Ok(dir)
}

/// Removes folders of the same name with other keys: they are gigabytes, and every
/// security update makes new ones.
fn forget_older(top: &Path, key: &Key) -> Res<()> {
    let current = key.folder();
    for entry in fs::read_dir(top).ctx(top.display())?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(&key.name).and_then(|r| r.strip_prefix('-'));
        let ours = rest.is_some_and(|r| r.len() == 16 && r.chars().all(|c| c.is_ascii_hexdigit()));
        if ours && name != current && entry.path().is_dir() && !entry.path().is_symlink() {
            fs::remove_dir_all(entry.path()).ctx(entry.path().display())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_folders_of_the_same_name_go_and_no_others() {
        let top = tempfile::tempdir().unwrap();
        let key = Key::of("few");
        let keep = [key.folder(), "few-6.12-0123456789abcdef".into(), "few.lock".into()];
        for name in keep.iter().map(String::as_str).chain(["few-0123456789abcdef"]) {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        forget_older(top.path(), &key).unwrap();
        let left = fs::read_dir(top.path()).unwrap().map(|e| e.unwrap().file_name());
        let mut left: Vec<_> = left.map(|n| n.into_string().unwrap()).collect();
        left.sort();
        let mut keep = keep.to_vec();
        keep.sort();
        assert_eq!(left, keep);
    }

    #[test]
    fn a_key_tells_where_one_part_ends() {
        let folder = |parts: &[&str]| {
            let mut key = Key::of("x");
            for part in parts {
                key.add(part);
            }
            key.folder()
        };
        assert_eq!(folder(&["ab", "c"]), folder(&["ab", "c"]));
        assert_ne!(folder(&["ab", "c"]), folder(&["a", "bc"]));
        assert_ne!(folder(&["ab"]), folder(&["ab", ""]));
    }
}
