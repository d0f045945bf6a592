//! Writes a cpio "newc" archive: the guest's initramfs.
//!
//! The harness has its own writer, so that a fault in the one under test shows.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::error::{Context as _, Res};

const DIR: u32 = 0o040_755;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    dirs: Vec<String>,
}

impl Archive {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, and its parents, once.
    pub fn dir(&mut self, name: &str) {
        if name.is_empty() || self.dirs.iter().any(|d| d == name) {
            return;
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        self.dirs.push(name.to_owned());
        self.entry(DIR, name, &[]);
    }

    /// Adds a file that may be executed.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        self.entry(0o100_755, name, data);
    }

    /// Adds a file of the host.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy(&mut self, name: &str, from: &Path) -> Res<()> {
        let data = fs::read(from).ctx(from.display())?;
        self.file(name, &data);
        Ok(())
    }

    /// The whole archive, with its trailer.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(0, "TRAILER!!!", &[]);
        self.bytes
    }

    fn entry(&mut self, mode: u32, name: &str, data: &[u8]) {
        self.inode += 1;
        let size = data.len();
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields =
            [self.inode as usize, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() + 1, 0];
        let mut head = String::from("070701");
        for f in fields {
            let _ = write!(head, "{f:08x}");
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
