//! Foreign signatures: how to see that a device already belongs to somebody.
//!
//! One table of magic bytes, searched in the first 264 KiB and the last 1 MiB.
//! It decides whether `lifeboat format` refuses, so it leans towards refusing.
//! Offsets are those of each format's own documentation and of util-linux
//! `libblkid/src/superblocks/`.

use std::io;
use std::os::unix::fs::FileExt;

use super::Window;

/// Where a signature is searched for.
#[derive(Debug, Clone, Copy)]
enum At {
    /// Bytes from the start.
    Head(u64),
    /// Bytes before the end.
    Tail(u64),
    /// The last multiple of `.0` that leaves at least `.1` bytes to the end
    /// (MD metadata 0.90 and 1.0).
    TailAligned(u64, u64),
    /// Every multiple of `step` in `[from, to)`.
    Every { from: u64, to: u64, step: u64 },
}

use At::{Every, Head, Tail, TailAligned};

/// Bytes of the head that hold every signature of the table.
const HEAD: u64 = 264 << 10;

type Entry = (&'static str, At, &'static [u8]);

const TABLE: &[Entry] = &[
    ("an ext2/3/4 file system", Head(0x438), b"\x53\xef"),
    ("an XFS file system", Head(0), b"XFSB"),
    ("a btrfs file system", Head(0x1_0040), b"_BHRfS_M"),
    ("a FAT file system", Head(0x36), b"FAT12   "),
    ("a FAT file system", Head(0x36), b"FAT16   "),
    ("a FAT file system", Head(0x52), b"FAT32   "),
    ("an exFAT file system", Head(3), b"EXFAT   "),
    ("an NTFS file system", Head(3), b"NTFS    "),
    ("an ISO 9660 file system", Every { from: 0x8001, to: 0x1_0000, step: 0x800 }, b"CD001"),
    ("a UDF file system", Every { from: 0x8001, to: 0x1_0000, step: 0x800 }, b"NSR0"),
    ("an F2FS file system", Head(0x400), b"\x10\x20\xf5\xf2"),
    ("a NILFS2 file system", Head(0x406), b"\x34\x34"),
    ("a JFS file system", Head(0x8000), b"JFS1"),
    ("a ReiserFS file system", Head(0x1_0034), b"ReIsEr"),
    ("a GFS2 file system", Head(0x1_0000), b"\x01\x16\x19\x70"),
    ("an OCFS2 file system", Every { from: 0x400, to: 0x4000, step: 0x400 }, b"OCFSV2"),
    ("a squashfs image", Head(0), b"hsqs"),
    ("an EROFS image", Head(0x400), b"\xe2\xe1\xf5\xe0"),
    ("an HFS+ file system", Head(0x400), b"H+\0\x04"),
    ("an APFS container", Head(0x20), b"NXSB"),
    // The upper half of ZFS's first label holds uberblocks, on either byte order.
    (
        "a ZFS member",
        Every { from: 0x2_0000, to: 0x4_0000, step: 0x400 },
        b"\x0c\xb1\xba\0\0\0\0\0",
    ),
    (
        "a ZFS member",
        Every { from: 0x2_0000, to: 0x4_0000, step: 0x400 },
        b"\0\0\0\0\0\xba\xb1\x0c",
    ),
    ("a bcache device", Head(0x1018), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca"),
    ("a bcachefs file system", Head(0x1018), b"\xc6\x85\x73\xf6\x66\xce\x90\xa9"),
    // The signature is the last ten bytes of the first page, of whatever size.
    ("a swap area", Every { from: 0xff6, to: 0x1_0000, step: 0x1000 }, b"SWAPSPACE2"),
    ("a swap area", Every { from: 0xff6, to: 0x1_0000, step: 0x1000 }, b"SWAP-SPACE"),
    ("a hibernated system", Every { from: 0xff6, to: 0x1_0000, step: 0x1000 }, b"S1SUSPEND"),
    ("a hibernated system", Every { from: 0xff6, to: 0x1_0000, step: 0x1000 }, b"S2SUSPEND"),
    ("a hibernated system", Every { from: 0xff6, to: 0x1_0000, step: 0x1000 }, b"LINHIB0001"),
    ("an LVM physical volume", Every { from: 0, to: 0x800, step: 0x200 }, b"LABELONE"),
    ("a LUKS volume", Head(0), b"LUKS\xba\xbe"),
    (
        "a LUKS volume (second header)",
        Every { from: 0x4000, to: 0x4_0000, step: 0x4000 },
        b"SKUL\xba\xbe",
    ),
    ("a BitLocker volume", Head(3), b"-FVE-FS-"),
    ("an MD RAID member (1.1)", Head(0), b"\xfc\x4e\x2b\xa9"),
    ("an MD RAID member (1.2)", Head(0x1000), b"\xfc\x4e\x2b\xa9"),
    ("an MD RAID member (1.0)", TailAligned(4096, 8192), b"\xfc\x4e\x2b\xa9"),
    ("an MD RAID member (0.90)", TailAligned(65536, 65536), b"\xfc\x4e\x2b\xa9"),
    ("a DDF RAID member", Tail(512), b"\xde\x11\xde\x11"),
    ("an Intel RAID member", Tail(1024), b"Intel Raid ISM Cfg"),
    ("a Ceph OSD", Head(0), b"bluestore block device"),
    ("a VDO volume", Head(0), b"dmvdo001"),
    ("a Stratis pool", Head(0x204), b"!Stra0tis\x86\xff\x02"),
    ("an Oracle ASM disk", Head(32), b"ORCLDISK"),
    ("a GPT partition table", Head(512), b"EFI PART"),
    ("a GPT partition table", Head(4096), b"EFI PART"),
    ("a GPT partition table (backup)", Tail(512), b"EFI PART"),
    ("a GPT partition table (backup)", Tail(4096), b"EFI PART"),
    ("an MBR partition table or boot sector", Head(510), b"\x55\xaa"),
    ("a zfcpdump dump", Head(0), b"\xa8\x19\x01\x73\x61\x8f\x23\xfd"),
    ("a kdump-compressed dump", Every { from: 0, to: 0x1001, step: 0x1000 }, b"KDUMP   "),
    ("an ELF file (a vmcore?)", Head(0), b"\x7fELF"),
];

/// Every foreign signature on a window, in the table's order, each name once.
///
/// # Errors
/// When the window's head or tail cannot be read.
pub(crate) fn find(window: &Window) -> io::Result<Vec<&'static str>> {
    let head_len = HEAD.min(window.len);
    let tail_len = (1u64 << 20).min(window.len);
    let head = read(window, 0, head_len)?;
    let tail = read(window, window.len - tail_len, tail_len)?;
    let mut found = Vec::new();
    for (name, at, magic) in TABLE {
        if !found.contains(name) && matches(*at, magic, &head, &tail, window.len) {
            found.push(*name);
        }
    }
    Ok(found)
}

fn read(window: &Window, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; usize::try_from(len).unwrap_or(0)];
    window.file.read_exact_at(&mut bytes, window.base + at)?;
    Ok(bytes)
}

fn matches(at: At, magic: &[u8], head: &[u8], tail: &[u8], len: u64) -> bool {
    let here = |bytes: &[u8], at: u64| {
        usize::try_from(at)
            .ok()
            .and_then(|at| bytes.get(at..))
            .is_some_and(|b| b.starts_with(magic))
    };
    let tail_start = len - tail.len() as u64;
    match at {
        Head(at) => here(head, at),
        Every { from, to, step } => {
            let mut at = from;
            while at < to {
                if here(head, at) {
                    return true;
                }
                at += step;
            }
            false
        }
        Tail(back) => len.checked_sub(back).is_some_and(|at| here(tail, at - tail_start)),
        TailAligned(align, back) => len
            .checked_sub(back)
            .map(|at| at & !(align - 1))
            .and_then(|at| at.checked_sub(tail_start))
            .is_some_and(|at| here(tail, at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::window_of;

    const LEN: u64 = 16 << 20;

    /// Each entry of the table is found where it is put, and nothing is found on zeros.
    #[test]
    fn every_entry_is_found_at_its_place() {
        assert!(find(&window_of(LEN, &[])).unwrap().is_empty());
        for (name, at, magic) in TABLE {
            let places = match at {
                Head(at) => vec![*at],
                Tail(back) => vec![LEN - back],
                TailAligned(align, back) => vec![(LEN - back) & !(align - 1)],
                Every { from, to, step } => {
                    vec![*from, from + (to - 1 - from) / step * step]
                }
            };
            for place in places {
                let found = find(&window_of(LEN, &[(place, magic)])).unwrap();
                assert!(found.contains(name), "{name} at {place:#x}: {found:?}");
            }
        }
    }

    /// A byte off its place is not a signature; magic bytes of data are common.
    #[test]
    fn a_signature_off_its_place_is_not_one() {
        for (at, magic) in
            [(0x439u64, b"\x53\xef".as_slice()), (1, b"XFSB"), (0xff7, b"SWAPSPACE2")]
        {
            assert!(find(&window_of(LEN, &[(at, magic)])).unwrap().is_empty(), "{at:#x}");
        }
    }
}
