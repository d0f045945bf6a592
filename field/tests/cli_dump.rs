//! `list`, `pull` and `clear` on volumes that the real engine and sink wrote.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
use common::capture::{PAGES, Plan, plant};
use common::{cmd, image, names};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const LEN: u64 = 64 << 20;

struct Bench {
    dir: tempfile::TempDir,
    recipient: String,
    part: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let part = image(dir.path(), "part", LEN >> 20);
        let recipient = cmd(dir.path(), "keygen -o @/key").exits(0).out.trim().to_owned();
        cmd(dir.path(), "format @/part --max-dumps 3").exits(0);
        Self { dir, recipient, part }
    }
    fn d(&self) -> &Path {
        self.dir.path()
    }
    fn plant(&self, change: impl FnOnce(&mut Plan)) -> u64 {
        let mut plan = Plan::sealed(&self.recipient);
        change(&mut plan);
        plant(&self.part, 0, LEN, &plan)
    }
    fn json(&self, line: &str, code: i32) -> serde_json::Value {
        serde_json::from_str(&cmd(self.d(), line).exits(code).out).unwrap()
    }
    fn flip(&self, path: &str, at: u64) {
        let f = std::fs::File::options().read(true).write(true).open(self.d().join(path)).unwrap();
        let mut b = [0u8; 1];
        f.read_exact_at(&mut b, at).unwrap();
        f.write_all_at(&[b[0] ^ 1], at).unwrap();
    }
}

#[test]
fn a_complete_dump_is_listed_pulled_and_cleared() {
    let b = Bench::new();
    let number = b.plant(|_| {});
    assert_eq!(number, 1);
    let text = cmd(b.d(), "list @/part").exits(0).out;
    let print = lifeboat_crypt::fingerprint(&b.recipient)
        .iter()
        .map(|x| format!("{x:02x}"))
        .collect::<String>();
    for words in [
        "dump 1  complete, not pulled",
        "2025-11-24T16:00:00Z",
        "6.1.0-99-amd64",
        "sysrq triggered crash",
        "ENCRYPTED (AES-256-GCM",
        &print,
        "3000 pages asked: 1981 data, 990 zero, 0 of one word, 0 same as another, 0 excluded, 29 unreadable",
        "kernel 1.500 s, memory 12.345 s",
        "/dev/oldmem",
        "io_uring, polled, 42 writes",
    ] {
        assert!(text.contains(words), "no `{words}` in\n{text}");
    }
    assert!(
        !text.contains("UNENCRYPTED")
            && !text.contains("DAMAGED")
            && !text.contains("NOT CAPTURED"),
        "{text}"
    );
    let json = b.json("list @/part --json", 0);
    let dump = &json["volumes"][0]["dumps"][0];
    assert_eq!(dump["state"], "complete");
    assert_eq!(dump["commit"]["memory"]["asked"], PAGES);
    assert_eq!(dump["recipients"][0], print);

    cmd(b.d(), "clear @/part --dump 1").exits(1).complains("never pulled");
    cmd(b.d(), "pull @/part --dump 2 -o @/x").exits(1).complains("holds no such dump");
    cmd(b.d(), "pull @/part -o @/x").exits(0).prints("0 findings");
    let bytes = std::fs::read(b.d().join("x")).unwrap();
    let len = dump["bytes"].as_u64().unwrap();
    assert_eq!(bytes.len() as u64, len);
    let mut want = vec![0u8; bytes.len()];
    std::fs::File::open(&b.part).unwrap().read_exact_at(&mut want, 1 << 20).unwrap();
    assert!(bytes == want, "the copy differs from the extent");
    cmd(b.d(), "list @/part").exits(0).prints("dump 1  complete, pulled");
    cmd(b.d(), "pull @/part -o @/x").exits(1).complains("exists");
    cmd(b.d(), "pull @/part --dump 1 -o @/x --force").exits(0);
    cmd(b.d(), "list @/x").exits(0).prints("a pulled dump");
    cmd(b.d(), "pull @/x -o @/y").exits(1).complains("is a pulled dump, not a volume");
    cmd(b.d(), "clear @/x --dump 1").exits(1).complains("is a pulled dump, not a volume");
    cmd(b.d(), "format @/part").exits(1).complains("a Lifeboat volume with 1 dumps");

    cmd(b.d(), "clear @/part --dump 1").exits(0).prints("cleared dump 1");
    cmd(b.d(), "list @/part").exits(0).prints("0 of 3 dumps");
    cmd(b.d(), "clear @/part --dump 1").exits(1).complains("holds no dump");
    // Numbers are never used twice.
    assert_eq!(b.plant(|p| p.id = 3), 2);
    assert_eq!(names(b.d()), ["key", "part", "x"]);
}

#[test]
fn several_dumps_are_told_apart_and_latest_is_the_newest() {
    let b = Bench::new();
    b.plant(|p| p.id = 1);
    b.plant(|p| p.id = 2);
    cmd(b.d(), "pull @/part -o @/two").exits(0).prints("pulled dump 2");
    cmd(b.d(), "pull @/part --dump 1 -o @/one").exits(0);
    assert_eq!(
        b.json("list @/one --json", 0)["volumes"][0]["dumps"][0]["dump_id"],
        "01".repeat(16)
    );
    assert_eq!(
        b.json("list @/two --json", 0)["volumes"][0]["dumps"][0]["dump_id"],
        "02".repeat(16)
    );
    cmd(b.d(), "clear @/part --dump latest").exits(0).prints("cleared dump 2");
    cmd(b.d(), "pull @/part -o @/again").exits(0).prints("pulled dump 1");
    assert!(
        std::fs::read(b.d().join("one")).unwrap() == std::fs::read(b.d().join("again")).unwrap()
    );
}

#[test]
fn a_dump_in_the_clear_is_said_loudly() {
    let b = Bench::new();
    b.plant(|p| p.recipients.clear());
    cmd(b.d(), "list @/part").exits(0).prints("*** UNENCRYPTED");
    assert_eq!(b.json("list @/part --json", 0)["volumes"][0]["dumps"][0]["encrypted"], false);
}

#[test]
fn a_partial_dump_exits_with_three_until_a_complete_one_is_there() {
    let b = Bench::new();
    b.plant(|p| p.ticks = 1000);
    cmd(b.d(), "list @/part").exits(3).prints("partial (deadline)").prints("NOT CAPTURED");
    let ran = cmd(b.d(), "pull @/part -o @/x").exits(3);
    assert!(ran.err.contains("dump 1 is partial"), "{}", ran.err);
    cmd(b.d(), "list @/x").exits(3);
    cmd(b.d(), "list @/part").exits(3).prints("partial, pulled");
    b.plant(|p| p.id = 2);
    cmd(b.d(), "list @/part").exits(0);
}

#[test]
fn a_dump_that_lost_power_is_pulled_up_to_its_last_chunk() {
    let b = Bench::new();
    b.plant(|p| p.dies = true);
    cmd(b.d(), "list @/part")
        .exits(3)
        .prints("dump 1  capturing, not pulled")
        .prints("never committed");
    let ran = cmd(b.d(), "pull @/part -o @/x").exits(3);
    assert!(ran.err.contains("dump 1 is capturing"), "{}", ran.err);
    let len = std::fs::metadata(b.d().join("x")).unwrap().len();
    assert!(len > 1 << 20 && len < LEN / 2 && len.is_multiple_of(512), "{len}");
    cmd(b.d(), "list @/x").exits(3).prints("capturing");
    cmd(b.d(), "clear @/part --dump 1").exits(0);
}

#[test]
fn damage_is_pulled_with_a_warning_and_stays_unpulled() {
    let b = Bench::new();
    b.plant(|_| {});
    b.flip("part", (1 << 20) + (300 << 10));
    let ran = cmd(b.d(), "pull @/part -o @/x").exits(3).prints("1 findings");
    assert!(ran.err.contains("fails its checksum"), "{}", ran.err);
    cmd(b.d(), "list @/part").exits(0).prints("complete, not pulled");
    cmd(b.d(), "clear @/part --dump 1").exits(1).complains("never pulled");
}

#[test]
fn a_damaged_header_is_read_from_its_copy() {
    let b = Bench::new();
    b.plant(|_| {});
    for at in [40, 4096 + 300] {
        b.flip("part", (1 << 20) + at);
    }
    cmd(b.d(), "list @/part").exits(0).prints("DAMAGED").prints("6.1.0-99-amd64");
    cmd(b.d(), "pull @/part -o @/x").exits(3);
}

#[test]
fn a_truncated_pulled_file_is_incomplete() {
    let b = Bench::new();
    b.plant(|_| {});
    cmd(b.d(), "pull @/part -o @/x").exits(0);
    let f = std::fs::File::options().write(true).open(b.d().join("x")).unwrap();
    f.set_len(f.metadata().unwrap().len() - 4096).unwrap();
    cmd(b.d(), "list @/x").exits(3).prints("capturing");
    f.set_len(100).unwrap();
    cmd(b.d(), "list @/x").exits(1);
}

#[test]
fn a_foreign_writer_is_noticed_before_a_slot_is_changed() {
    let b = Bench::new();
    b.plant(|_| {});
    let f = std::fs::File::options().write(true).open(&b.part).unwrap();
    f.write_all_at(b"_BHRfS_M", 0x1_0040).unwrap();
    cmd(b.d(), "clear @/part --dump 1 --force").exits(1).complains("foreign data at byte 65600");
    // Pulling only reads; the copy is whole, the mark is not made.
    let ran = cmd(b.d(), "pull @/part -o @/x").exits(0);
    assert!(ran.err.contains("could not be marked"), "{}", ran.err);
}

#[test]
fn a_dump_inside_a_disk_image_is_found() {
    let b = Bench::new();
    let d = b.d();
    let disk = image(d, "disk.img", 128);
    common::tool(&format!(
        "sgdisk -n 1:2048:+16M -c 1:swap -n 2:0:+64M -c 2:lifeboat {}",
        disk.display()
    ));
    cmd(d, "format @/disk.img:lifeboat").exits(0);
    let base = (1 << 20) + (16 << 20);
    plant(&disk, base, 64 << 20, &Plan::sealed(&b.recipient));
    cmd(d, "list @/disk.img").exits(0).prints("dump 1  complete");
    cmd(d, "pull @/disk.img -o @/x").exits(0);
    cmd(d, "list @/disk.img").exits(0).prints("complete, pulled");
    // The partition alone, copied away from its disk, is still a volume.
    let bytes = std::fs::read(&disk).unwrap();
    let base = usize::try_from(base).unwrap();
    std::fs::write(d.join("copy"), &bytes[base..base + (64 << 20)]).unwrap();
    cmd(d, "list @/copy").exits(0).prints("dump 1  complete, pulled");
    cmd(d, "pull @/copy -o @/y").exits(0);
    assert!(std::fs::read(d.join("x")).unwrap() == std::fs::read(d.join("y")).unwrap());
    cmd(d, "clear @/copy --dump 1").exits(0);
}
