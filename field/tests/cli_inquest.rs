//! `lifeboat ps` and `lifeboat maps` on a dump of a machine whose every byte is known.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
#[path = "../inquest/tests/machine/mod.rs"]
mod machine;

use common::cmd;
use machine::people::{ARGS, make, map, swap};
use machine::{DIRECT, IMAGE, KALLSYMS, MEMORY, World};
use serde_json::Value;
use std::path::Path;

/// An ELF vmcore of the machine, without one page of it.
fn vmcore(world: World, lost: u64) -> Vec<u8> {
    let (ram, notes) = world.finish();
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0, 64u64, 0] {
        out.extend(word.to_le_bytes());
    }
    for half in [0, 0, 64, 56, 3, 0, 0, 0u16] {
        out.extend(half.to_le_bytes());
    }
    let len = notes.len() as u64;
    let memory = |from, to| [8192 + from, DIRECT + from, from, to - from, to - from, 0];
    let lost = lost * 4096;
    for (kind, words) in [
        (4u32, [1024, 0, 0, len, len, 0]),
        (1, memory(0, lost)),
        (1, memory((lost + 4096).min(MEMORY), MEMORY)),
    ] {
        out.extend(kind.to_le_bytes());
        out.extend(7u32.to_le_bytes());
        words.iter().for_each(|w: &u64| out.extend(w.to_le_bytes()));
    }
    out.resize(1024, 0);
    out.extend(notes);
    out.resize(8192, 0);
    out.extend(ram.bytes);
    out
}

fn dump(world: World) -> tempfile::TempDir {
    // Page 0 holds nothing.
    dump_without(world, 0)
}

fn dump_without(world: World, lost: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vmcore"), vmcore(world, lost)).unwrap();
    let recipient = cmd(dir.path(), "keygen -o @/key").exits(0).out.trim().to_owned();
    cmd(dir.path(), &format!("capture --from @/vmcore --to @/dump --recipient {recipient}"))
        .exits(0);
    dir
}

fn json(dir: &Path, words: &str, code: i32) -> Value {
    serde_json::from_str(&cmd(dir, words).exits(code).out).unwrap()
}

#[test]
fn processes_of_a_dump() {
    let dir = dump(make().world);
    let d = dir.path();
    let text = cmd(d, "ps @/dump -i @/key").exits(0).out;
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["PID", "PPID", "S", "CPU"]);
    assert_eq!(lines[1][..], ["1", "1", "I", "1", "1001", "0", "0", "1.00", "[kworker]"]);
    let cat = ["100", "1", "S", "0", "1001", "4072", "28", "100.00", "cat", "-n", "a", "file"];
    assert_eq!(lines[2][..], cat);
    assert_eq!(lines[3][8..], ["[gone]", "<defunct>"]);
    assert_eq!(lines.len(), 4);
    let threads = cmd(d, "ps @/dump -i @/key --threads").exits(0).out;
    assert_eq!(threads.lines().count(), 6);
    let all = json(d, "ps @/dump -i @/key --json", 0);
    let cat = &all["processes"][1];
    assert_eq!((cat["pid"].as_u64(), cat["pages"]["swap"].as_u64()), (Some(100), Some(7)));
    assert_eq!(cat["args"], serde_json::json!(["cat", "-n", "a file"]));
    assert_eq!(cat["threads"].as_array().unwrap().len(), 3);
    assert_eq!(cat["threads"][1]["running"], true);
    assert_eq!(all["damage"], serde_json::json!([]));
}

#[test]
fn mappings_of_a_dump_and_of_nobody() {
    let mut made = make();
    let pgd = made.world.get(made.mm + 32);
    let leaf = made.world.alloc_page();
    let vma = made.world.alloc(128);
    for (n, value) in [ARGS, ARGS + 0x4000, 0x73, 0, 0].into_iter().enumerate() {
        made.world.put(vma + n as u64 * 8, value);
    }
    made.world.put(leaf + 8, ARGS - 1);
    made.world.put(leaf + 16, ARGS + 0x3fff);
    made.world.put(leaf + 136, vma);
    made.world.put(made.mm + 24, leaf | 1 << 3 | 4 | 2);
    map(&mut made.world, pgd, ARGS + 0x1000, 1, swap(1, 99));
    let dir = dump(made.world);
    let d = dir.path();
    let all = json(d, "maps @/dump -i @/key --pid 102 --json", 0);
    let only = &all["maps"][0];
    assert_eq!((only["start"].as_u64(), only["end"].as_u64()), (Some(ARGS), Some(ARGS + 0x4000)));
    assert_eq!(only["flags"], "rw-p");
    let pages = &only["pages"];
    assert_eq!(
        (&pages["present"], &pages["swap"], &pages["none"]),
        (&1.into(), &1.into(), &2.into())
    );
    cmd(d, "maps @/dump -i @/key --pid 100").exits(0).prints("rw-p");
    cmd(d, "maps @/dump -i @/key --pid 7").exits(1).complains("no process 7");
    cmd(d, "maps @/dump -i @/key --pid 1").exits(1).complains("thread of the kernel");
    cmd(d, "maps @/dump -i @/key --pid 200").exits(1).complains("had ended");
}

#[test]
fn a_damaged_machine_serves_the_rest() {
    let mut made = make();
    made.world.put(made.head, 0x10);
    let dir = dump(made.world);
    let d = dir.path();
    let all = json(d, "ps @/dump -i @/key --json", 3);
    assert_eq!(all["processes"].as_array().unwrap().len(), 3);
    assert_eq!(all["damage"].as_array().unwrap().len(), 1);
}

#[test]
fn a_machine_that_lost_names_serves_the_rest() {
    let mut made = make();
    made.world.symbols.extend((0..1600).map(|n| (IMAGE + n * 8, format!("symbol_{n}"))));
    // The second page of names.
    let dir = dump_without(made.world, KALLSYMS / 4096 + 2);
    let d = dir.path();
    let all = json(d, "ps @/dump -i @/key --json", 3);
    assert_eq!(all["processes"].as_array().unwrap().len(), 3);
    let damage = all["damage"].as_array().unwrap();
    assert!(damage[0].as_str().unwrap().starts_with("symbols: 8"), "{damage:?}");
    assert_eq!(damage.len(), 1);
    let told = cmd(d, "ps @/dump -i @/key").exits(3).err;
    assert!(told.contains("are lost with memory"), "{told}");
    // Where all names are needed that are lost, it says how to help.
    let mut made = make();
    made.world.symbols.extend((0..1000).map(|n| (IMAGE + n * 8, format!("symbol_{n}"))));
    let dir = dump_without(made.world, KALLSYMS / 4096 + 2);
    let d = dir.path();
    cmd(d, "ps @/dump -i @/key").exits(1).complains("hint: `--vmlinux FILE`");
}

#[test]
fn a_kernel_that_says_nothing_of_itself() {
    let world = World::new();
    let types = world.types.build();
    let dir = dump(world);
    let d = dir.path();
    std::fs::write(d.join("btf"), &types).unwrap();
    // Neither the file nor its kind is taken on trust.
    cmd(d, "ps @/dump -i @/key --btf @/none").exits(1).complains("hint:");
    cmd(d, "ps @/dump -i @/key --btf @/key").exits(1).complains("BTF");
    cmd(d, "ps @/dump -i @/key --vmlinux @/key").exits(1).complains("no vmlinux");
    // It has no tasks at all.
    cmd(d, "ps @/dump -i @/key --btf @/btf").exits(1).complains("no task");
}
