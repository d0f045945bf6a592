//! `/dev/oldmem`, the driver of our own crash kernel: a file whose offsets are
//! physical addresses of the crashed machine. See `image/linux/README.md`.
//!
//! Reading a byte that was no RAM gives ENXIO, a page that cannot be read EIO, and a
//! read that reaches one of these ends there. The elfcorehdr lies in the crash
//! kernel's own reservation, and is the only thing there that can be read; its
//! address is on the kernel command line.

use std::fs::{self, File};
use std::path::Path;

use lifeboat_format::PageRange;

use crate::memory::{Common, MemoryReader, OldMemory, OpenError, Segment, SourceKind};

/// Where the driver's device is.
pub const DEVICE: &str = "/dev/oldmem";
/// Where the command line is.
const CMDLINE: &str = "/proc/cmdline";

/// An open `/dev/oldmem`.
#[derive(Debug)]
pub struct Oldmem(Common);

impl Oldmem {
    /// Opens the device, and reads the elfcorehdr that `/proc/cmdline` names.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open() -> Result<Self, OpenError> {
        let path = Path::new(CMDLINE);
        let cmdline = fs::read(path).map_err(OpenError::io("read", path))?;
        let at = elfcorehdr_param(&String::from_utf8_lossy(&cmdline));
        Self::open_at(Path::new(DEVICE), at.ok_or(OpenError::NoElfcorehdr)?)
    }

    /// Opens a file whose offsets are physical addresses, with the elfcorehdr at `at`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_at(device: &Path, at: u64) -> Result<Self, OpenError> {
        let file = File::open(device).map_err(OpenError::io("open", device))?;
        // The driver gives p_paddr, and looks itself where the bytes lie now.
        let common = Common::open(&file, device, SourceKind::Oldmem, at, |load| Segment {
            start: load.paddr,
            end: load.paddr + load.memsz,
            offset: load.paddr,
        })?;
        Ok(Self(common))
    }
}

impl OldMemory for Oldmem {
    fn ranges(&self) -> &[PageRange] {
        &self.0.ranges
    }
    fn elfcorehdr(&self) -> &[u8] {
        self.0.header.bytes()
    }
    fn notes(&self) -> &[u8] {
        &self.0.notes
    }
    fn notes_lost(&self) -> u32 {
        self.0.notes_lost
    }
    fn kind(&self) -> SourceKind {
        self.0.kind
    }
    fn reader(&self) -> Result<MemoryReader, OpenError> {
        self.0.reader()
    }
}

/// The address in `elfcorehdr=[size[KMG]@]offset[KMG]`
/// (`setup_elfcorehdr()`, `kernel/crash_dump.c`). The last one on the line counts.
#[must_use]
pub fn elfcorehdr_param(cmdline: &str) -> Option<u64> {
    let value = cmdline.split_whitespace().rev().find_map(|w| w.strip_prefix("elfcorehdr="))?;
    let address = value.split_once('@').map_or(value, |(_size, address)| address);
    memparse(address)
}

/// As the kernel's `memparse()`, of whole words only: hexadecimal with `0x`, octal
/// with `0`, else decimal, and a suffix K, M, G or T.
fn memparse(word: &str) -> Option<u64> {
    let (digits, shift) = match word.char_indices().last()? {
        (at, 'k' | 'K') => (word.get(..at)?, 10),
        (at, 'm' | 'M') => (word.get(..at)?, 20),
        (at, 'g' | 'G') => (word.get(..at)?, 30),
        (at, 't' | 'T') => (word.get(..at)?, 40),
        _ => (word, 0),
    };
    let lower = digits.to_ascii_lowercase();
    let value = match lower.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if lower.len() > 1 && lower.starts_with('0') => u64::from_str_radix(&lower, 8),
        None => lower.parse(),
    };
    value.ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_elfcorehdr_as_the_kernel_does() {
        for (line, want) in [
            ("console=ttyS0 elfcorehdr=0x7b000000 panic=10\n", Some(0x7b00_0000)),
            ("elfcorehdr=1 elfcorehdr=640K@1968M", Some(1968 << 20)),
            ("elfcorehdr=2015232K", Some(2_015_232 << 10)),
            ("elfcorehdr=010", Some(8)),
            ("xelfcorehdr=0x10", None),
            ("elfcorehdr=", None),
            ("elfcorehdr=0xg", None),
            ("elfcorehdr=99999999999999T", None),
            ("", None),
        ] {
            assert_eq!(elfcorehdr_param(line), want, "{line}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(line in "elfcorehdr=\\PC{0,30}") {
            let _ = elfcorehdr_param(&line);
        }
    }
}
