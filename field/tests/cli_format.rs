//! `lifeboat format`: what it refuses, with signatures made by the real tools,
//! and what it leaves on the medium.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
use common::{cmd, image, tool};
use lifeboat_format::superblock::{EDGE, MAGIC, SLOT_TABLE};
use lifeboat_format::{BLOCK, Superblock};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

fn digest(path: &Path) -> String {
    tool(&format!("sha256sum {}", path.display())).split(' ').next().unwrap().to_owned()
}

/// Each foreign maker: the command that makes it (`@` is the image), the words of the refusal.
const FOREIGN: &[(u64, &str, &str)] = &[
    (64, "mkfs.ext4 -q -F @", "an ext2/3/4 file system"),
    (64, "mkfs.ext2 -q -F @", "an ext2/3/4 file system"),
    (512, "mkfs.xfs -q -f @", "an XFS file system"),
    (256, "mkfs.btrfs -q -f @", "a btrfs file system"),
    (64, "mkfs.vfat -F 32 @", "a FAT file system"),
    (32, "mkfs.vfat -F 16 @", "a FAT file system"),
    (64, "mkntfs -Q -q -F @", "an NTFS file system"),
    (64, "mkswap -q @", "a swap area"),
    (64, "mkswap -q -p 65536 @", "a swap area"),
    (
        64,
        "cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/hostname @",
        "a LUKS volume",
    ),
    (64, "sgdisk -n 1:0:0 @", "a GPT partition table"),
];

#[test]
fn foreign_signatures_are_refused_and_left_alone() {
    for (mib, make, words) in FOREIGN {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path(), "part", *mib);
        tool(&make.replace('@', path.to_str().unwrap()));
        let before = digest(&path);
        cmd(dir.path(), "format @/part").exits(1).complains(words);
        assert_eq!(digest(&path), before, "{make}: the image was changed");
        cmd(dir.path(), "format @/part --force").exits(0).prints("formatted");
        // Nothing of the old owner is left where anybody would look for it.
        let seen = tool(&format!("wipefs --no-act --noheadings {}", path.display()));
        assert!(seen.trim().is_empty(), "{make}: wipefs still sees {seen}");
        cmd(dir.path(), "list @/part").exits(0).prints("0 of 8 dumps");
    }
}

#[test]
fn what_is_written_is_what_the_format_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path(), "part", 24);
    // Old bytes everywhere: the edges must be cleared, the middle kept.
    std::fs::write(&path, vec![0xa5u8; 24 << 20]).unwrap();
    cmd(dir.path(), "format @/part --max-dumps 3 --label rack-7").exits(0);
    let bytes = std::fs::read(&path).unwrap();
    let sb = Superblock::decode(bytes.first_chunk::<BLOCK>().unwrap()).unwrap();
    assert_eq!((sb.max_dumps, sb.part_len, sb.part_start.0), (3, 24 << 20, 0));
    assert_eq!(lifeboat_format::field_text(&sb.label), "rack-7");
    assert_eq!(bytes[..BLOCK], bytes[bytes.len() - BLOCK..], "no backup superblock");
    for area in sb.guard_areas() {
        let (a, b) = (usize::try_from(area.start).unwrap(), usize::try_from(area.end).unwrap());
        assert!(bytes[a..b].iter().all(|b| *b == 0), "guard area {area:?}");
    }
    let (slots, edge) = (usize::try_from(SLOT_TABLE).unwrap(), usize::try_from(EDGE).unwrap());
    assert!(bytes[slots..edge].iter().all(|b| *b == 0));
    assert!(
        bytes[edge..bytes.len() - edge].iter().all(|b| *b == 0xa5),
        "the data area was touched"
    );
}

#[test]
fn small_and_silly_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    image(d, "small", 15);
    cmd(d, "format @/small").exits(1).complains("needs at least 16.0 MiB");
    image(d, "part", 16);
    cmd(d, "format @/part --max-dumps 0").exits(2);
    cmd(d, "format @/part --max-dumps 65").exits(2);
    cmd(d, "format @/part --max-dumps 64").exits(0);
    cmd(d, "format @/none").exits(1).complains("No such file");
    cmd(d, "format /dev/null").exits(1).complains("neither a file nor a block device");
    cmd(d, "format @").exits(1).complains("neither a file nor a block device");
    // A second format of an empty volume destroys nothing.
    cmd(d, "format @/part").exits(0);
}

/// A disk with a GPT: swap, dump partition, filler.
fn disk(dir: &Path) -> std::path::PathBuf {
    let path = image(dir, "disk.img", 128);
    tool(&format!(
        "sgdisk -n 1:2048:+16M -t 1:8200 -c 1:swap -n 2:0:+40M -c 2:lifeboat -n 3:0:+20M -c 3:filler {}",
        path.display()
    ));
    path
}

#[test]
fn a_partition_in_a_disk_image_is_formatted_and_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let path = disk(d);
    let info = tool(&format!("sgdisk -i 2 {}", path.display()));
    let first: u64 = info
        .lines()
        .find_map(|l| l.strip_prefix("First sector: "))
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    cmd(d, "list @/disk.img").exits(1).complains("no partition holds a Lifeboat volume");
    cmd(d, "format @/disk.img:lifeboat --label x").exits(0);
    let after = std::fs::read(&path).unwrap();
    let start = usize::try_from(first * 512).unwrap();
    let range = start..start + (40 << 20);
    assert_eq!(before[..range.start], after[..range.start]);
    assert_eq!(before[range.end..], after[range.end..]);
    let sb = Superblock::decode(after[start..].first_chunk::<BLOCK>().unwrap()).unwrap();
    assert_eq!((sb.part_start.0, sb.part_len), (first * 512, 40 << 20));
    for name in
        ["@/disk.img", "@/disk.img:2", "@/disk.img:lifeboat", "@/disk.img --partition lifeboat"]
    {
        let ran = cmd(d, &format!("list {name}")).exits(0).prints("label `x`");
        assert!(!ran.out.contains("WARNING"), "{}", ran.out);
    }
    cmd(d, "list @/disk.img:nope").exits(1).complains("2 `lifeboat` (40.0 MiB)");
    cmd(d, "list @/disk.img:filler").exits(1).complains("no Lifeboat superblock");
    cmd(d, "format @/disk.img").exits(1).complains("a GPT partition table");
    cmd(d, "list @/disk.img:2 --partition 3").exits(2);
    // Two volumes: list shows both, everything else asks which.
    cmd(d, "format @/disk.img:filler").exits(0);
    let two = cmd(d, "list @/disk.img --json").exits(0);
    let json: serde_json::Value = serde_json::from_str(&two.out).unwrap();
    assert_eq!(json["volumes"].as_array().unwrap().len(), 2);
    cmd(d, "pull @/disk.img -o @/x").exits(2).complains("choose one with --partition");
    cmd(d, "pull @/disk.img:lifeboat -o @/x").exits(1).complains("holds no dump");
    assert_eq!(common::names(d), ["disk.img"]);
}

#[test]
fn a_backup_gpt_is_enough_and_a_ruined_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let path = disk(d);
    cmd(d, "format @/disk.img:lifeboat").exits(0);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 64], 512 + 16).unwrap();
    cmd(d, "list @/disk.img").exits(0).prints("0 of 8 dumps");
    file.write_all_at(&[0xff; 64], (128 << 20) - 512 + 16).unwrap();
    cmd(d, "list @/disk.img").exits(1).complains("GPT is damaged");
}

#[test]
fn list_warns_when_the_guard_would_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let path = image(d, "part", 16);
    cmd(d, "format @/part").exits(0);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"_BHRfS_M", 0x1_0040).unwrap();
    cmd(d, "list @/part").exits(0).prints("no crash kernel will write here");
    file.write_all_at(&[0u8; BLOCK], 0).unwrap();
    cmd(d, "list @/part").exits(0).prints("the two superblocks differ");
    file.write_all_at(&[0u8; BLOCK], (16 << 20) - BLOCK as u64).unwrap();
    cmd(d, "list @/part")
        .exits(1)
        .complains("no Lifeboat superblock; it holds a btrfs file system");
    assert_eq!(&MAGIC, b"LIFEBOAT");
}
