//! Boot configurations that `lifeboat arm` would never write: they are made here
//! by hand and put behind the image's initramfs, as a vendor's mistake could.

use std::fs;

use crate::cpio::Archive;
use crate::error::{Context as _, Res};
use crate::paths::image;

/// A command line for a crash kernel that is loaded without `lifeboat arm`.
pub const CMDLINE: &str = "reset_devices panic=10 oops=panic nr_cpus=2 loglevel=7 \
    console=ttyS0,115200n8";

/// CRC-32 (IEEE 802.3), bit by bit: a second opinion on the one under test.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// Lines as a boot configuration with a right checksum.
#[must_use]
pub fn sealed(lines: &str) -> String {
    format!("{lines}crc32 {:08x}\n", crc32(lines.as_bytes()))
}

/// The image's initramfs with `text` as its boot configuration behind it.
///
/// # Errors
/// When the image is missing.
pub fn initramfs(text: &str) -> Res<Vec<u8>> {
    let path = image()?.join("initramfs.cpio.zst");
    let mut bytes = fs::read(&path).ctx(path.display())?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut archive = Archive::new();
    archive.file("etc/lifeboat/boot.conf", text.as_bytes());
    bytes.extend(archive.finish());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_crc32() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
