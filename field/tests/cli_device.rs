//! `lifeboat format` on block devices that are in use. Needs root and loop devices.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
use common::capture::{Plan, plant};
use common::{cmd, image, lifeboat, tool};
use std::path::Path;

/// A loop device, detached on drop.
struct Loop(String);

impl Loop {
    fn new(path: &Path, options: &str) -> Self {
        Self(tool(&format!("losetup {options} -f --show {}", path.display())).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("/usr/sbin/losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_formatted_only_while_nobody_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let path = image(d, "part", 64);
    let dev = Loop::new(&path, "");
    cmd(d, "format @/part --force").exits(1).complains(&format!("attached to {}", dev.0));
    lifeboat(&["format", &dev.0]).exits(0).prints("64.0 MiB at byte 0");
    lifeboat(&["list", &dev.0]).exits(0).prints("0 of 8 dumps");

    tool(&format!("mkfs.ext4 -q -F {}", dev.0));
    lifeboat(&["format", &dev.0]).exits(1).complains("an ext2/3/4 file system");
    let at = d.join("mnt");
    std::fs::create_dir(&at).unwrap();
    tool(&format!("mount {} {}", dev.0, at.display()));
    let ran = lifeboat(&["format", &dev.0, "--force"]);
    tool(&format!("umount {}", at.display()));
    ran.exits(1).complains(&format!("it is mounted at {}", at.display()));
    lifeboat(&["format", &dev.0, "--force"]).exits(0);
}

/// Without `losetup -P` the kernel knows the disk but not its partitions (a
/// kernel that does is driven by the QEMU tests).
#[test]
fn a_partition_that_the_kernel_does_not_know_is_read_but_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let path = image(d, "disk.img", 64);
    tool(&format!("sgdisk -n 1:2048:+20M -c 1:other -n 2:0:+20M -c 2:lifeboat {}", path.display()));
    cmd(d, "format @/disk.img:lifeboat").exits(0).prints("at byte 22020096");
    let dev = Loop::new(&path, "");
    lifeboat(&["format", &dev.0]).exits(1).complains("a GPT partition table");
    lifeboat(&["format", &format!("{}:other", dev.0)])
        .exits(1)
        .complains("the kernel has no device for partition 1");
    let ran = lifeboat(&["list", &dev.0]).exits(0).prints("0 of 8 dumps");
    assert!(!ran.out.contains("WARNING"), "{}", ran.out);
}

/// Past the page cache, by direct reads of the device.
#[test]
fn a_dump_is_pulled_from_a_block_device() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let path = image(d, "part", 64);
    let recipient = cmd(d, "keygen -o @/key").exits(0).out;
    let dev = Loop::new(&path, "");
    lifeboat(&["format", &dev.0]).exits(0);
    plant(Path::new(&dev.0), 0, 64 << 20, &Plan::sealed(&recipient));
    cmd(d, &format!("pull {} -o @/x", dev.0)).exits(0).prints("0 findings");
    lifeboat(&["list", &dev.0]).exits(0).prints("complete, pulled");
    cmd(d, "verify @/x -i @/key").exits(0);
    cmd(d, &format!("clear {} --dump 1", dev.0)).exits(0);
}
