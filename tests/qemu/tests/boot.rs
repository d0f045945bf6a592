//! The victims boot, reach their disks and swap: the harness itself.

use std::time::Duration;

use lifeboat_qemu::cycle::start_victim;
use lifeboat_qemu::disk::Disk;
use lifeboat_qemu::error::{Res, ensure};
use lifeboat_qemu::machine::{Bus, Setup};
use lifeboat_qemu::pattern::Facts;
use lifeboat_qemu::provision::{self, Victim};
use lifeboat_qemu::{guest, paths};

const MIB: u64 = 1 << 20;

fn boots(victim: Victim, bus: Bus) -> Res<()> {
    let work = paths::work(&format!("boot-{victim:?}-{bus:?}"))?;
    let kernel = provision::kernel(victim)?;
    let initramfs = guest::initramfs(&kernel, bus, &[], &work)?;
    let disk = Disk::create(&work.join("disk.img"), 128 * MIB, 64 * MIB)?;
    let setup = Setup::of(&kernel.vmlinuz, &initramfs, &disk, &work);
    let (mut machine, ready) = start_victim(&Setup { bus, ..setup })?;
    println!("ready after {:?}: {}", ready.at, ready.text);
    let limit = Duration::from_secs(30);
    machine.must("swapon /dev/disk/by-partlabel/swap", limit)?;
    let text = machine.must("start /bin/victim 0xbeef 4096", limit)?;
    println!("{text}");
    let facts = Facts::parse(&text)?;
    ensure(facts.swapped_kb > facts.pages, "less than a quarter of the heap is swapped")?;
    println!("{}", machine.must("cat /proc/iomem", limit)?);
    println!("{}", machine.must("cat /proc/swaps", limit)?);
    machine.send("poweroff")?;
    machine.wait_off(limit)?;
    disk.check_fillers()?;
    Ok(())
}

#[test]
fn boot_6_1_virtio() -> Res<()> {
    boots(Victim::Cloud61, Bus::Virtio)
}

#[test]
fn boot_6_1_nvme() -> Res<()> {
    boots(Victim::Cloud61, Bus::Nvme)
}

#[test]
fn boot_6_1_ahci() -> Res<()> {
    boots(Victim::Generic61, Bus::Ahci)
}

#[test]
fn boot_6_12_ahci() -> Res<()> {
    boots(Victim::Cloud612, Bus::Ahci)
}
