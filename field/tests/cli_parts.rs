//! Dumps in several parts: on several volumes, in several gaps, with a part missing, on
//! a device that fails; and dumps that no slot tells of.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
use common::capture::rig::Place;
use common::capture::{LOG, Plan, plant, plant_on};
use common::{cmd, image};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Two volumes; a dump of 12000 pages takes all of the first and goes on.
const SMALL: u64 = 16 << 20;
const LARGE: u64 = 64 << 20;

struct Bench {
    dir: tempfile::TempDir,
    recipient: String,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path(), "a", SMALL >> 20);
        image(dir.path(), "b", LARGE >> 20);
        let recipient = cmd(dir.path(), "keygen -o @/key").exits(0).out.trim().to_owned();
        cmd(dir.path(), "format @/a").exits(0);
        cmd(dir.path(), "format @/b").exits(0);
        Self { dir, recipient }
    }
    fn d(&self) -> &Path {
        self.dir.path()
    }
    fn places(&self) -> Vec<Place> {
        [("a", SMALL), ("b", LARGE)].map(|(n, len)| Place::of(&self.d().join(n), 0, len)).into()
    }
    fn plan(&self, change: impl FnOnce(&mut Plan)) -> Plan {
        let mut plan = Plan { pages: 12_000, ..Plan::sealed(&self.recipient) };
        change(&mut plan);
        plan
    }
    fn json(&self, line: &str, code: i32) -> serde_json::Value {
        serde_json::from_str(&cmd(self.d(), line).exits(code).out).unwrap()
    }
    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.d().join(name)).unwrap()
    }
    fn write(&self, name: &str, at: u64, bytes: &[u8]) {
        let f = File::options().write(true).open(self.d().join(name)).unwrap();
        f.write_all_at(bytes, at).unwrap();
    }
}

#[test]
fn a_dump_on_two_volumes_is_one_dump() {
    for layered in [false, true] {
        let b = Bench::new();
        plant_on(b.places(), &b.plan(|p| p.layered = layered));
        let id = b.json("list @/b --json", 3)["volumes"][0]["volume"]["id"].clone();
        let id = id.as_str().unwrap();
        cmd(b.d(), "list @/a @/b")
            .exits(0)
            .prints("dump 1  complete, not pulled")
            .prints("part        1: bytes 0 to ")
            .prints("part        2: bytes ");
        let json = b.json("list @/a @/b --json", 0);
        assert_eq!(json["volumes"][0]["dumps"][0]["parts"].as_array().unwrap().len(), 2);
        assert_eq!(json["volumes"][1]["dumps"].as_array().unwrap().len(), 0);
        // With one volume alone, the other is named.
        let text = cmd(b.d(), "list @/a").exits(3).prints("dump 1  part missing").out;
        assert!(text.contains(&format!("is on volume {id}: name its device too")), "{text}");
        cmd(b.d(), "pull @/a --with @/b -o @/x").exits(0).prints("0 findings");
        cmd(b.d(), "list @/a @/b").exits(0).prints("complete, pulled");
        let report = b.json("verify @/x -i @/key --json", 0);
        assert_eq!(report["conclusion"], "sound and complete");
        assert_eq!(report["commit"]["last_part"], 1);
        let of_parts = b.json("verify @/b --with @/a -i @/key --json", 0);
        assert_eq!(of_parts["sha256"], report["sha256"]);
        cmd(b.d(), "export vmcore @/x -i @/key -o @/x.elf").exits(0);
        cmd(b.d(), "export vmcore @/a --with @/b -i @/key -o @/y.elf").exits(0);
        assert!(b.bytes("x.elf") == b.bytes("y.elf"));
        cmd(b.d(), "clear @/a --with @/b --dump 1").exits(0).prints("(2 parts)");
        for name in ["a", "b"] {
            cmd(b.d(), &format!("list @/{name}")).exits(0).prints("0 of 8 dumps");
        }
    }
}

#[test]
fn a_missing_part_is_a_loss_and_never_zeros() {
    let b = Bench::new();
    plant_on(b.places(), &b.plan(|_| {}));
    for (name, hole) in [("a", "pages"), ("b", "the dump")] {
        let line = format!("pull @/{name} -o @/only-{name}");
        let ran = cmd(b.d(), &line).exits(3);
        assert!(ran.err.contains("name its device too"), "{}", ran.err);
        // The export leaves out what is not there, and says so.
        let line =
            format!("export vmcore @/{name} -i @/key -o @/{name}.elf --missing @/{name}.txt");
        let ran = cmd(b.d(), &line).exits(3);
        assert!(ran.err.contains("that were asked for are not in the dump"), "{hole}: {}", ran.err);
        let listed = std::fs::read_to_string(b.d().join(format!("{name}.txt"))).unwrap();
        assert!(listed.lines().any(|l| l.ends_with("not-captured")), "{listed}");
        // The log is on both.
        let ran = cmd(b.d(), &format!("export log @/{name} -i @/key")).exits(0);
        assert_eq!(ran.out, LOG);
    }
    cmd(b.d(), "list @/a").exits(3).prints("not pulled");
    cmd(b.d(), "pull @/a --with @/b -o @/whole").exits(0);
    // The second volume alone: header, then zeros up to where it begins.
    let (whole, rest) = (b.bytes("whole"), b.bytes("only-b"));
    assert_eq!(whole.len(), rest.len());
    let json = b.json("list @/b --json", 3);
    let part = &json["volumes"][0]["dumps"][0]["parts"][0];
    let base = usize::try_from(part["base"].as_u64().unwrap()).unwrap();
    assert!(whole[..16384] == rest[..16384] && whole[base..] == rest[base..]);
    assert!(rest[16384..base].iter().all(|x| *x == 0));
    // There is no mistaking it for whole.
    let report = b.json("verify @/only-b -i @/key --json", 1);
    assert_eq!((&report["sound"], &report["complete"]), (&false.into(), &false.into()));
    assert!(report["verdict"]["missing_pages"].as_u64().unwrap() > 1000);
    let report = b.json("verify @/b -i @/key --json", 1);
    let kinds: Vec<&str> = report["verdict"]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"missing-part"), "{kinds:?}");
}

#[test]
fn further_gaps_of_one_volume_make_one_dump() {
    let b = Bench::new();
    let small = |id| Plan { id, pages: 3000, ..b.plan(|_| {}) };
    let path = b.d().join("b");
    // Three dumps, the middle one stays, and something in front of the tail.
    for id in 1..=7 {
        plant(&path, 0, LARGE, &small(id));
    }
    for n in [1, 2, 3, 5, 6, 7] {
        cmd(b.d(), &format!("clear @/b --dump {n} --force")).exits(0);
    }
    plant(&path, 0, LARGE, &Plan { id: 9, pages: 28_000, ..b.plan(|_| {}) });
    let json = b.json("list @/b --json", 0);
    let dumps = json["volumes"][0]["dumps"].as_array().unwrap();
    assert_eq!(dumps.len(), 2);
    assert_eq!(dumps[1]["parts"].as_array().unwrap().len(), 2);
    cmd(b.d(), "pull @/b -o @/x").exits(0);
    cmd(b.d(), "verify @/x -i @/key").exits(0).prints("sound and complete");
    cmd(b.d(), "clear @/b --dump latest").exits(0).prints("(2 parts)");
    cmd(b.d(), "list @/b").exits(0).prints("1 of 8 dumps");
}

#[test]
fn a_device_that_fails_midway_is_one_part() {
    for good_for in [1u64 << 20, 5 << 20] {
        let b = Bench::new();
        let mut places = b.places();
        places[0].good_for = good_for;
        plant_on(places, &b.plan(|p| p.pages = 3000));
        cmd(b.d(), "list @/a @/b").exits(0).prints("dump 1  complete, not pulled");
        cmd(b.d(), "pull @/a --with @/b -o @/x").exits(0);
        cmd(b.d(), "verify @/x -i @/key").exits(0).prints("sound and complete");
    }
}

/// The slot table is gone, then the superblocks as well.
#[test]
fn what_no_slot_tells_of_is_found_by_a_scan() {
    let b = Bench::new();
    plant_on(b.places(), &b.plan(|_| {}));
    plant(&b.d().join("b"), 0, LARGE, &b.plan(|p| (p.id, p.pages) = (5, 3000)));
    cmd(b.d(), "pull @/a --with @/b -o @/want").exits(0);
    cmd(b.d(), "pull @/b --dump latest -o @/want5").exits(0);
    let none = b.json("list @/b --scan --json", 0);
    assert_eq!(none["scanned"][0]["found"].as_array().unwrap().len(), 0);
    for name in ["a", "b"] {
        b.write(name, 128 << 10, &vec![0; 64 * 2 * 4096]);
        cmd(b.d(), &format!("list @/{name}")).exits(0).prints("0 of 8 dumps");
    }
    for step in ["slots", "superblocks"] {
        let json = b.json("list @/a @/b --scan --json", 3);
        let found = |n: usize| json["scanned"][n]["found"].as_array().unwrap().clone();
        assert_eq!((found(0).len(), found(1).len()), (1, 2), "{step}");
        assert_eq!(found(0)[0]["at"], 1 << 20);
        assert_eq!(found(1)[0]["part"], 1);
        let other = found(1)[1]["at"].as_u64().unwrap();
        cmd(b.d(), "list @/b --scan").exits(3).prints("that no slot tells of");
        let line = format!("pull @/a --with @/b --at {} -o @/{step}", 1 << 20);
        cmd(b.d(), &line).exits(0);
        assert!(b.bytes(step) == b.bytes("want"));
        cmd(b.d(), &format!("pull @/b --at {other} -o @/{step}5")).exits(0);
        assert!(b.bytes(&format!("{step}5")) == b.bytes("want5"));
        cmd(b.d(), "pull @/b --at 4096 -o @/none")
            .exits(1)
            .complains("no dump begins at byte 4096");
        for (name, len) in [("a", SMALL), ("b", LARGE)] {
            b.write(name, 0, &[0; 4096]);
            b.write(name, len - 4096, &[0; 4096]);
        }
    }
}

#[test]
fn a_volume_from_two_times_is_refused() {
    let b = Bench::new();
    let path = b.d().join("b");
    let plant = |id| plant(&path, 0, LARGE, &b.plan(|p| (p.id, p.pages) = (id, 3000)));
    let head = |len: usize| b.bytes("b")[..len].to_vec();
    plant(1);
    let old = head(1 << 20);
    cmd(b.d(), "clear @/b --dump 1 --force").exits(0);
    plant(2);
    // The old table over the new dump: its slot speaks of what is not there any more.
    b.write("b", 0, &old);
    cmd(b.d(), "list @/b").exits(1).prints("DAMAGED").prints("rolled back");
    cmd(b.d(), "clear @/b --dump 1 --force").exits(1).complains("rolled back");
    assert!(head(1 << 20) == old, "nothing is written");
    // Slots of another volume under this superblock.
    cmd(b.d(), "format @/b --force").exits(0);
    b.write("b", 128 << 10, &old[128 << 10..640 << 10]);
    cmd(b.d(), "list @/b").exits(1).prints("belongs to another volume").prints("rolled back");
    let before = b.bytes("b");
    cmd(b.d(), "pull @/b -o @/x").exits(1);
    cmd(b.d(), &format!("pull @/b --at {} -o @/x", 1 << 20)).exits(0);
    cmd(b.d(), "clear @/b --dump 1 --force").exits(1);
    assert!(b.bytes("b") == before, "nothing is written");
}

/// A commit record makes a dump whole, whatever its slot came to say.
#[test]
fn a_slot_that_was_not_brought_up_to_date_costs_nothing() {
    let b = Bench::new();
    plant_on(b.places(), &b.plan(|p| p.dies_late = true));
    cmd(b.d(), "list @/a @/b").exits(3).prints("capturing, not pulled");
    cmd(b.d(), "pull @/a --with @/b -o @/x").exits(0).prints("0 findings");
    cmd(b.d(), "verify @/x -i @/key").exits(0).prints("sound and complete");
}

/// The report names every chunk with its result.
#[test]
fn a_verification_can_be_filed_as_evidence() {
    let b = Bench::new();
    plant(&b.d().join("b"), 0, LARGE, &b.plan(|p| p.pages = 3000));
    cmd(b.d(), "pull @/b -o @/x").exits(0);
    let sum = common::tool(&format!("sha256sum {}/x", b.d().display()));
    let sum = sum.split_whitespace().next().unwrap().to_owned();
    for (key, seal) in [("", "not-checked"), ("-i @/key", "ok")] {
        let report = b.json(&format!("verify @/x {key} --json"), 0);
        assert_eq!(report["sha256"], sum.as_str());
        assert_eq!(report["header"]["reason"], "sysrq triggered crash");
        let chunks = report["verdict"]["chunks"].as_array().unwrap();
        assert_eq!(chunks.len() as u64, report["commit"]["chunks"].as_u64().unwrap());
        assert!(
            chunks.iter().enumerate().all(|(n, c)| {
                c["seq"] == n as u64 && c["checksum"] == true && c["seal"] == seal
            })
        );
    }
    // One bit: the chunk is named, with the memory that is lost.
    let at = 400_000;
    let byte = b.bytes("x")[at] ^ 1;
    b.write("x", at as u64, &[byte]);
    let report = b.json("verify @/x -i @/key --json", 1);
    let bad: Vec<_> = report["verdict"]["chunks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["checksum"] == false)
        .collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0]["seal"], "not-checked");
    let missing = &report["verdict"]["missing"][0];
    assert_eq!((&missing["first"], &missing["space"]), (&bad[0]["first"], &"memory".into()));
    assert_eq!(report["verdict"]["missing_pages"], bad[0]["pages"]);
    assert_ne!(report["sha256"], sum.as_str());
}
