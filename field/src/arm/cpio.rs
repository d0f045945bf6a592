//! The little archive that carries the boot configuration: cpio "newc", not
//! compressed, appended to the image's initramfs. The kernel unpacks archives
//! one behind the other, each from a multiple of 4 bytes, and later files
//! replace earlier ones (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fmt::Write as _;

use zeroize::Zeroizing;

/// Where PID 1 looks for it.
pub(crate) const BOOT_CONF: &str = "etc/lifeboat/boot.conf";

const DIR: u32 = 0o040_755;
const FILE: u32 = 0o100_600;

/// An archive with the directories and the file `etc/lifeboat/boot.conf`. It
/// holds the seed, so it is wiped on drop.
pub(crate) fn archive(boot_conf: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // Reserved at once: a growing buffer would leave copies of the seed behind.
    let mut out = Zeroizing::new(Vec::with_capacity(boot_conf.len() + 1024));
    entry(&mut out, 1, DIR, "etc", &[])?;
    entry(&mut out, 2, DIR, "etc/lifeboat", &[])?;
    entry(&mut out, 3, FILE, BOOT_CONF, boot_conf)?;
    entry(&mut out, 0, 0, "TRAILER!!!", &[])?;
    Some(out)
}

/// Fills up with zeros to a multiple of 4, as the kernel wants between archives.
pub(crate) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn entry(out: &mut Vec<u8>, ino: u32, mode: u32, name: &str, data: &[u8]) -> Option<()> {
    let size = u32::try_from(data.len()).ok()?;
    let name_size = u32::try_from(name.len() + 1).ok()?;
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut head = String::with_capacity(110);
    head.push_str("070701");
    for f in fields {
        let _ = write!(head, "{f:08x}");
    }
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// cpio itself reads it, and gets the file back.
    #[test]
    fn cpio_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive(b"lifeboat-boot 1\nodd length").unwrap();
        assert!(archive.len().is_multiple_of(4));
        let mut cpio = Command::new("cpio")
            .args(["--quiet", "-idm", "--no-absolute-filenames"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("cpio (package cpio) is needed");
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(cpio.wait().unwrap().success());
        let conf = std::fs::read(dir.path().join(BOOT_CONF)).unwrap();
        assert_eq!(conf, b"lifeboat-boot 1\nodd length");
    }
}
