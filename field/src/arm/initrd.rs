//! The initramfs as the kernel gets it: the image's, and our archive behind it,
//! in a memory file that nobody can write any more.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::fs::{MemfdFlags, memfd_create};

/// Puts both archives into a memfd and opens that read-only: `kexec_file_load`
/// answers ETXTBSY while a descriptor can write to the file.
///
/// # Errors
/// Those of the system, `OutOfMemory` above all.
pub(crate) fn build(initramfs: &[u8], archive: &[u8]) -> io::Result<File> {
    let mut writer = File::from(memfd_create("lifeboat-initramfs", MemfdFlags::CLOEXEC)?);
    writer.write_all(initramfs)?;
    let gap = initramfs.len().next_multiple_of(4) - initramfs.len();
    writer.write_all([0u8; 3].get(..gap).unwrap_or_default())?;
    writer.write_all(archive)?;
    let reader = File::open(format!("/proc/self/fd/{}", writer.as_raw_fd()))?;
    drop(writer);
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn the_second_archive_starts_at_a_multiple_of_four() {
        for len in 0..9usize {
            let mut all = Vec::new();
            build(&vec![7; len], b"070701--").unwrap().read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), len.next_multiple_of(4) + 8);
            assert!(all.ends_with(b"070701--"));
        }
    }

    #[test]
    fn what_the_kernel_gets_cannot_be_written() {
        let mut file = build(b"abc", b"").unwrap();
        file.write_all(b"x").unwrap_err();
    }
}
