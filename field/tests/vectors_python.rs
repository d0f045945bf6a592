//! The Python reader, written from FORMAT.md alone, against the Rust one: golden vectors,
//! fresh dumps page for page, and damage that it must refuse.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod golden;
mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use golden::words::sha256;
use golden::{Golden, Order, Wrapped, fresh, make};
use lifeboat_crypt::{DataKey, Identities, fingerprint, generate_identity, wrap};
use lifeboat_field::dump::{DumpFile, OpenDump, Page, PageSource};
use lifeboat_format::{BLOCK, KeyKind, PageRange, Pfn};

/// Debian's interpreter: the packages are Debian's (scripts/bootstrap.sh).
const PYTHON: &str = "/usr/bin/python3";

fn root(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// Runs the reader: its output, or its one line of complaint.
fn reader(dump: &Path, key: Option<&Path>, flags: &[&str]) -> Result<String, String> {
    let mut run = Command::new(PYTHON);
    run.arg(root("tests/checkers/lifeboat_reader.py")).arg(dump).args(flags);
    if let Some(key) = key {
        run.arg("-i").arg(key);
    }
    let o = run.output().unwrap();
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(
        !err.contains("ModuleNotFoundError"),
        "{err}hint: scripts/bootstrap.sh installs python3-cryptography and python3-zstandard"
    );
    if o.status.success() { Ok(String::from_utf8(o.stdout).unwrap()) } else { Err(err) }
}

#[test]
fn it_opens_the_golden_vectors() {
    let dir = root("tests/vectors");
    for (name, keys) in [
        ("v1-sealed", &["v1-sealed.key"][..]),
        ("v1-clear", &[]),
        ("v2-sealed", &["v2-sealed.age.key", "v2-sealed.oneboot.key", "v2-sealed.rekeyed.key"]),
        ("v2-clear", &[]),
        ("v3-sealed", &["v3-sealed.age.key", "v3-sealed.oneboot.key", "v3-sealed.rekeyed.key"]),
        ("v3-clear", &[]),
    ] {
        let truth = fs::read_to_string(dir.join(format!("{name}.truth"))).unwrap();
        let dump = dir.join(format!("{name}.lbdump"));
        let keys: Vec<Option<PathBuf>> = match keys {
            [] => vec![None],
            some => some.iter().map(|k| Some(dir.join(k))).collect(),
        };
        for key in &keys {
            for flags in [&[][..], &["--scan"]] {
                assert_eq!(reader(&dump, key.as_deref(), flags).unwrap(), truth, "{name} {key:?}");
            }
        }
        // Without the commit record there is no index either: it scans.
        let cut = tempfile::NamedTempFile::new().unwrap();
        let bytes = fs::read(&dump).unwrap();
        fs::write(cut.path(), &bytes[..bytes.len() - BLOCK]).unwrap();
        assert_eq!(reader(cut.path(), keys[0].as_deref(), &[]).unwrap(), truth, "{name}, cut");
    }
}

/// As the Python reader prints pages.
fn pages(dump: &OpenDump) -> String {
    let mut out = String::new();
    let mut space = |name: &str, space: &dyn PageSource, ranges: &[PageRange]| {
        for page in ranges.iter().flat_map(|r| r.start.0..r.end.0) {
            let (class, digest) = match space.page(Pfn(page)).unwrap() {
                Page::Data(bytes) => (0, sha256(&bytes[..])),
                Page::Fill(word) => (0, sha256(&word.to_le_bytes().repeat(512))),
                Page::Zero => (1, sha256(b"")),
                Page::Unreadable => (2, sha256(b"")),
                Page::Excluded => (3, sha256(b"")),
                Page::NotCaptured => continue,
            };
            writeln!(out, "page {name} {page} {class} {digest}").unwrap();
        }
    };
    space("memory", &dump.memory(), &dump.meta().ranges);
    for dev in &dump.meta().swap {
        let range = [PageRange::new(0, dev.bytes.div_ceil(4096))];
        space(&format!("swap{}", dev.index), &dump.swap(dev.index).unwrap(), &range);
    }
    out
}

struct Fresh {
    dir: tempfile::TempDir,
    order: Order,
    bytes: Vec<u8>,
    chunks: u64,
    parts: usize,
    identity: Identities,
}

impl Fresh {
    fn take(change: impl FnOnce(&mut Order), rooms: &[u64]) -> Self {
        let (dir, new) = (tempfile::tempdir().unwrap(), generate_identity());
        let key = DataKey::mix(&[new.recipient.as_bytes()]);
        let bytes = wrap(&key, &[&new.recipient]).unwrap();
        let fingerprints = vec![fingerprint(&new.recipient)];
        let mut order = Order {
            keys: vec![Wrapped { kind: KeyKind::Data, fingerprints, bytes }],
            key: Some(key),
            layered: true,
            workers: 2,
            ..Order::clear(41, 0x41)
        };
        change(&mut order);
        let made = make(&order, rooms.iter().map(|room| fresh(*room)).collect());
        fs::write(dir.path().join("key"), &*new.secret).unwrap();
        fs::write(dir.path().join("dump"), &made.bytes).unwrap();
        let (chunks, parts) = (made.record.chunks, made.parts);
        let identity = Identities::parse(&new.secret).unwrap();
        Self { dir, order, bytes: made.bytes, chunks, parts, identity }
    }

    /// What the reader says of these bytes.
    fn says(&self, bytes: &[u8], flags: &[&str]) -> Result<String, String> {
        fs::write(self.dir.path().join("dump"), bytes).unwrap();
        reader(&self.dir.path().join("dump"), Some(&self.dir.path().join("key")), flags)
    }

    /// Both readers agree page for page, and with the truth.
    fn compare(&self) -> usize {
        let file = DumpFile::open(Arc::new(self.bytes.clone())).unwrap();
        let dump = OpenDump::unlock(file, Some(&self.identity)).unwrap();
        let want = pages(&dump);
        for flags in [&["--pages"][..], &["--pages", "--scan"]] {
            let said = self.says(&self.bytes, flags).unwrap();
            let (page, rest): (Vec<&str>, Vec<&str>) =
                said.lines().partition(|line| line.starts_with("page "));
            assert_eq!(page, want.lines().collect::<Vec<_>>());
            assert_eq!(rest, self.order.truth().lines().collect::<Vec<_>>());
        }
        let log = self.says(&self.bytes, &["--log"]).unwrap();
        assert!(log.ends_with(std::str::from_utf8(&dump.log().unwrap()).unwrap()));
        want.lines().count()
    }
}

/// More chunks than one index chunk lists.
#[test]
fn it_agrees_page_for_page_on_a_long_dump() {
    let fresh = Fresh::take(
        |order| order.ranges = (0..4500).map(|n| PageRange::new(7 * n, 7 * n + 2)).collect(),
        &[60 << 20],
    );
    assert!(fresh.chunks > 4096, "{}", fresh.chunks);
    println!("{} chunks, {} pages the same", fresh.chunks, fresh.compare());
}

/// Begun on one volume, ended on another, with the texts told twice.
#[test]
fn it_agrees_page_for_page_on_a_dump_of_two_parts() {
    let change = |order: &mut Order| {
        order.ranges = vec![PageRange::new(0x100, 0x100 + 6000)];
        order.machine = Golden { seed: 42, noise: true, excluded: false, words: false };
        order.method = golden::Method::Store;
    };
    let fresh = Fresh::take(change, &[14 << 20, 60 << 20]);
    assert_eq!(fresh.parts, 2);
    println!("{} chunks, {} pages the same", fresh.chunks, fresh.compare());
}

/// It is a judge only if it can say no.
#[test]
fn it_refuses_what_was_changed() {
    let fresh = Fresh::take(|_| {}, &[14 << 20]);
    let chunks = golden::chunks(&fresh.bytes, fresh.bytes.len() - 5 * BLOCK);
    let (at, _) = chunks[4];
    let end = fresh.bytes.len();
    for (place, words) in [
        (at + 100, "checksum"),
        (at + 40, "no chunk at"),
        (end - BLOCK + 40, "no commit record"),
        (end - 5 * BLOCK + 100, "header at"),
    ] {
        let mut bytes = fresh.bytes.clone();
        bytes[place] ^= 1;
        let said = fresh.says(&bytes, &[]);
        let pages = |text: &str| text.lines().next().map(str::to_owned);
        let truth = fresh.order.truth();
        // A chunk that is gone shows in the digest; a copy that is gone does not.
        let same = said.as_ref().is_ok_and(|text| pages(text) == pages(&truth));
        assert_eq!(same, place > end - 5 * BLOCK, "{words}: {said:?}");
    }
    // With its checksums made to fit, only the key shows it.
    let mut bytes = fresh.bytes.clone();
    let (at, h) = chunks[4];
    bytes[at + 96] ^= 1;
    let crc = lifeboat_format::crc32(&bytes[at + 96..at + 96 + h.stored_len as usize]);
    let forged = lifeboat_format::ChunkHeader { payload_crc: crc, ..h };
    bytes[at..at + 96].copy_from_slice(&forged.encode());
    let said = fresh.says(&bytes, &[]);
    assert!(said != Ok(fresh.order.truth()), "{said:?}");
    // Another identity, and the header of a later version.
    let other = generate_identity();
    fs::write(fresh.dir.path().join("key"), &*other.secret).unwrap();
    let e = fresh.says(&fresh.bytes, &[]).unwrap_err();
    assert!(e.contains("no key entry opens"), "{e}");
    let mut later = fresh.bytes.clone();
    for at in [0, end - 5 * BLOCK] {
        later[at + 8] = 4;
        let crc = lifeboat_format::crc32(&later[at..at + 4092]).to_le_bytes();
        later[at + 4092..at + 4096].copy_from_slice(&crc);
    }
    let e = fresh.says(&later, &[]).unwrap_err();
    assert!(e.contains("no sound header"), "{e}");
}
