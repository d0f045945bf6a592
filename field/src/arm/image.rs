//! The image directory: what `make image` left there, checked before it is loaded.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ui::{Context as _, Failure, hex};

/// Files without which nothing can be armed; each must be in SHA256SUMS.
const NEEDED: [&str; 4] = ["vmlinuz", "initramfs.cpio.zst", "board.toml", "manifest.json"];
/// Largest file that is read into memory, in bytes; an initramfs has a few MiB.
const MAX_READ: u64 = 256 << 20;

/// A checked image.
pub(crate) struct Image {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// `manifest.json`.
    pub(crate) manifest: Value,
    /// The compressed initramfs.
    pub(crate) initramfs: Vec<u8>,
    /// The kernel, open and hashed.
    pub(crate) kernel: File,
    /// SHA-256 of the kernel, in hexadecimal.
    pub(crate) kernel_sha256: String,
}

impl Image {
    /// What the manifest calls this image; goes into every dump's header.
    pub(crate) fn version(&self) -> String {
        let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_owned);
        text(self.manifest.get("version"))
            .or_else(|| text(self.manifest.get("lifeboat")))
            .unwrap_or_else(|| format!("kernel {}", self.kernel_sha256.get(..12).unwrap_or("?")))
    }

    /// Opens a directory and checks its files against SHA256SUMS. Files that are
    /// listed but not needed here (`lifeboat` itself, the SBOM) may be missing.
    ///
    /// # Errors
    /// A missing or changed file, or one that SHA256SUMS does not list.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        let sums = sums(dir)?;
        for name in NEEDED {
            if !sums.iter().any(|(n, _)| n == name) {
                return Err(Failure::new(format!(
                    "{}: SHA256SUMS does not list {name}",
                    dir.display()
                ))
                .hint("name the directory that `make image` wrote, out/BOARD"));
            }
        }
        let (mut initramfs, mut manifest, mut kernel) = (None, None, None);
        let mut kernel_sha256 = String::new();
        for (name, want) in &sums {
            let path = dir.join(name);
            if !NEEDED.contains(&name.as_str()) && !path.exists() {
                continue;
            }
            let mut file = File::open(&path).context(path.display())?;
            let keep = matches!(name.as_str(), "initramfs.cpio.zst" | "manifest.json");
            let (found, bytes) = digest(&mut file, keep).context(path.display())?;
            if found != *want {
                return Err(Failure::new(format!(
                    "{} is not what SHA256SUMS says",
                    path.display()
                ))
                .hint("copy the image again, or build it anew with `make image`"));
            }
            match name.as_str() {
                "initramfs.cpio.zst" => initramfs = Some(bytes),
                "manifest.json" => {
                    manifest = Some(serde_json::from_slice(&bytes).context(path.display())?)
                }
                "vmlinuz" => {
                    kernel_sha256 = found;
                    kernel = Some(file);
                }
                _ => {}
            }
        }
        match (initramfs, manifest, kernel) {
            (Some(initramfs), Some(manifest), Some(kernel)) => {
                Ok(Self { dir: dir.into(), manifest, initramfs, kernel, kernel_sha256 })
            }
            _ => Err(Failure::new(format!("{}: the image is not complete", dir.display()))),
        }
    }
}

/// Names and hashes of SHA256SUMS, as sha256sum(1) writes them.
fn sums(dir: &Path) -> Result<Vec<(String, String)>, Failure> {
    let path = dir.join("SHA256SUMS");
    let text =
        std::fs::read_to_string(&path).map_err(|e| Failure::of(&e).context(path.display()))?;
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|line| {
            let (sum, name) = line.split_once(' ').unwrap_or((line, ""));
            let name = name.trim_start_matches([' ', '*']).trim_start_matches("./");
            let sound = sum.len() == 64
                && sum.bytes().all(|b| b.is_ascii_hexdigit())
                && !name.is_empty()
                && !name.contains('/')
                && name != "..";
            if sound {
                Ok((name.to_owned(), sum.to_ascii_lowercase()))
            } else {
                Err(Failure::new(format!(
                    "{}: not a line of sha256sum: `{}`",
                    path.display(),
                    crate::ui::safe(line)
                )))
            }
        })
        .collect()
}

fn digest(file: &mut File, keep: bool) -> std::io::Result<(String, Vec<u8>)> {
    let mut hash = Sha256::new();
    let mut kept = Vec::new();
    let mut buf = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buf)?;
        let part = buf.get(..n).unwrap_or_default();
        if part.is_empty() {
            return Ok((hex(&hash.finalize()), kept));
        }
        hash.update(part);
        if keep {
            if kept.len() as u64 + part.len() as u64 > MAX_READ {
                return Err(std::io::Error::other("larger than 256 MiB"));
            }
            kept.extend_from_slice(part);
        }
    }
}
