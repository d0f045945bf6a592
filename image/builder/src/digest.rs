//! SHA-256 of files, and of many inputs as one key.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Step as _};

/// Size and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Digest {
    /// In bytes.
    pub(crate) size: u64,
    /// 64 hexadecimal digits.
    pub(crate) sha256: String,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn bytes(data: &[u8]) -> Digest {
    Digest { size: data.len() as u64, sha256: hex(&Sha256::digest(data)) }
}

pub(crate) fn file(path: &Path) -> Result<Digest, Failure> {
    let named = || path.display().to_string();
    let mut from = File::open(path).step(named)?;
    let (mut hash, mut size, mut buf) = (Sha256::new(), 0, vec![0u8; 1 << 20]);
    loop {
        let n = from.read(&mut buf).step(named)?;
        let part = buf.get(..n).unwrap_or_default();
        if part.is_empty() {
            return Ok(Digest { size, sha256: hex(&hash.finalize()) });
        }
        size += part.len() as u64;
        hash.update(part);
    }
}

/// All regular files below `dir`, as sorted paths relative to it; `.git` is left out.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let here = dir.join(&relative);
        for entry in fs::read_dir(&here).step(|| here.display().to_string())? {
            let entry = entry.step(|| here.display().to_string())?;
            let kind = entry.file_type().step(|| entry.path().display().to_string())?;
            let path = relative.join(entry.file_name());
            if kind.is_dir() && entry.file_name() != ".git" {
                open.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A key over named inputs: every name and value counts, and where one ends.
pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn new(purpose: &str) -> Self {
        let mut key = Self(Sha256::new());
        key.add("purpose", purpose.as_bytes());
        key
    }

    pub(crate) fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}
