//! The page filter.
use lifeboat_qemu::cycle::{Plan, host, text};
use lifeboat_qemu::error::Res;
use lifeboat_qemu::kinds;
use lifeboat_qemu::provision::Victim;

fn full(victim: Victim, name: &'static str) -> Res<()> {
    let mut kinds = kinds::prepare(Plan { victim, ..Plan::named(name) })?;
    println!("{:#x} {:#x}", kinds.poisoned, kinds.offlined);
    for line in kinds::panic(&mut kinds.lab)? {
        println!("{line}");
    }
    let lab = &kinds.lab;
    let elf = text(&lab.work.join("full.elf"));
    let key = text(&lab.identity);
    host(&["export", "vmcore", &lab.volume(), "-i", &key, "-o", &elf])?.good()?;
    Ok(())
}

#[test]
fn full_6_1() -> Res<()> {
    full(Victim::Generic61, "filter-6.1")
}

#[test]
fn full_6_12() -> Res<()> {
    full(Victim::Cloud612, "filter-6.12")
}
