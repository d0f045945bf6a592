//! Makes golden vectors of the version that today's code writes, in `target/vectors`.
//! Run by hand when a version is new (see tests/vectors/README.md); never over old ones.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod golden;
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use golden::{Golden, Made, Order, Wrapped, fresh, make};
use lifeboat_crypt::{DataKey, Recipient, User, fingerprint, generate_identity, one_boot, wrap};
use lifeboat_format::{KeyKind, PageRange, SlotState};
use lifeboat_sink::{NewPart, Plan};
use zeroize::Zeroizing;

/// Nobody is asked anything.
#[derive(Clone)]
struct Nobody;
impl User for Nobody {
    fn tell(&self, _: &str) {}
    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }
    fn ask(&self, _: &str) -> Option<String> {
        None
    }
    fn ask_secret(&self, _: &str) -> Option<Zeroizing<String>> {
        None
    }
}

fn out() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vectors");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn save(name: &str, order: &Order, made: &Made) {
    std::fs::write(out().join(format!("{name}.lbdump")), &made.bytes).unwrap();
    std::fs::write(out().join(format!("{name}.truth")), order.truth()).unwrap();
    println!("{name}: {} bytes, {} chunks", made.bytes.len(), made.record.chunks);
}

fn keygen(name: &str) -> String {
    let new = generate_identity();
    let text = format!("# for tests only\n# public key: {}\n{}\n", new.recipient, &*new.secret);
    std::fs::write(out().join(name), text).unwrap();
    new.recipient
}

fn ssh_keygen(name: &str) -> String {
    let path = out().join(name);
    let _ = std::fs::remove_file(&path);
    let args = ["-q", "-t", "ed25519", "-N", "", "-C", "for tests only", "-f"];
    let run = std::process::Command::new("ssh-keygen").args(args).arg(&path).status();
    assert!(run.unwrap().success());
    let public = path.with_extension("key.pub");
    let text = std::fs::read_to_string(&public).unwrap();
    std::fs::remove_file(public).unwrap();
    text.trim().to_owned()
}

fn entry(kind: KeyKind, recipients: &[&str], bytes: Vec<u8>) -> Wrapped {
    Wrapped { kind, fingerprints: recipients.iter().map(|r| fingerprint(r)).collect(), bytes }
}

/// Layers; an age, an ssh and a one-boot recipient, and one more added by `rekey`.
fn sealed() -> Order {
    let key = DataKey::mix(&[b"a golden vector's key of version 3"]);
    let age = keygen("v3-sealed.age.key");
    let ssh = ssh_keygen("v3-sealed.ssh.key");
    let escrow = keygen("v3-sealed.oneboot.key");
    let late = keygen("v3-sealed.rekeyed.key");
    let boot = one_boot(&[Recipient::parse(&escrow).unwrap()], &Nobody).unwrap();
    let direct = [age.as_str(), ssh.as_str(), boot.recipient.as_str()];
    let wrapped = wrap(&key, &direct).unwrap();
    let again = wrap(&key, &[&late]).unwrap();
    Order {
        machine: Golden { seed: 31, noise: true, excluded: true, words: true },
        dedup: true,
        layered: true,
        generation: 1,
        keys: vec![
            entry(KeyKind::Data, &direct, wrapped),
            entry(KeyKind::Identity, &[&escrow], boot.wrapped),
            entry(KeyKind::Data, &[&late], again),
        ],
        key: Some(key),
        ..Order::clear(31, 0x31)
    }
}

/// A volume with a pulled dump in its middle, so that the next one lies in two parts.
fn two_parts(path: &Path) -> (Order, Made) {
    let file = File::options().create(true).truncate(true).read(true).write(true).open(path);
    let place = golden::volume(file.unwrap(), 14 << 20, 0x71);
    let small = Order { swap: vec![], ..Order::clear(34, 0x34) };
    let first = make(&small, vec![fresh(14 << 20)]);
    let mut volume = place.volume();
    let plan = Plan {
        slot: 0,
        number: 1,
        start: lifeboat_format::ByteOff(6 << 20),
        len: 1 << 20,
        drops: heapless::Vec::new(),
    };
    let new = NewPart { dump_id: [0x34; 16], part: 0, base: 0, now: 1_764_000_000 };
    volume.begin(&plan, &new).unwrap();
    place.file.write_all_at(&first.bytes, 6 << 20).unwrap();
    let used = first.bytes.len() as u64;
    volume.update(0, |r| (r.state, r.used_len) = (SlotState::Complete, used)).unwrap();
    volume.update(0, |r| r.pulled = true).unwrap();
    // Stored as they are, its pages do not fit the larger gap; being text, the image
    // compresses all the same.
    let order = Order {
        machine: Golden { seed: 33, noise: false, excluded: false, words: false },
        ranges: vec![PageRange::new(0x100, 0x100 + 5000)],
        swap: vec![20 << 10],
        method: golden::Method::Store,
        log: b"a short log\n".to_vec(),
        ..Order::clear(33, 0x33)
    };
    let made = make(&order, vec![place]);
    assert_eq!(made.parts, 2);
    (order, made)
}

#[test]
#[ignore = "by hand, when a version of the format is new"]
fn make_vectors() {
    let order = sealed();
    save("v3-sealed", &order, &make(&order, vec![fresh(14 << 20)]));
    let order = Order {
        machine: Golden { seed: 32, noise: true, excluded: true, words: true },
        dedup: true,
        method: golden::Method::Lz4,
        ..Order::clear(32, 0x32)
    };
    save("v3-clear", &order, &make(&order, vec![fresh(14 << 20)]));
    let path = out().join("v3-volume.img");
    let (order, made) = two_parts(&path);
    std::fs::write(out().join("v3-volume.truth"), order.truth()).unwrap();
    println!("v3-volume: sha256 of dump 2 {}", golden::words::sha256(&made.bytes));
}

/// What the generator makes is what its truth says: the vectors are no better than that.
#[test]
fn what_is_made_is_what_its_truth_says() {
    let order = sealed();
    let made = make(&order, vec![fresh(14 << 20)]);
    assert_eq!(made.header.version, lifeboat_format::FORMAT_VERSION);
    let dir = tempfile::tempdir().unwrap();
    let (text, volume) = two_parts(&dir.path().join("volume"));
    for (order, made) in [(order, made), (text, volume)] {
        let counts = [made.record.memory, made.record.swap];
        let sum =
            |f: fn(&lifeboat_format::commit::PageCounts) -> u64| counts.iter().map(f).sum::<u64>();
        let truth = order.truth();
        let told = |class: &str| -> u64 {
            let words: Vec<&str> = truth.split_whitespace().collect();
            words.windows(2).filter(|w| w[0] == class).map(|w| w[1].parse::<u64>().unwrap()).sum()
        };
        assert_eq!(
            (told("data"), told("zero"), told("unreadable"), told("excluded")),
            (
                sum(|c| c.data + c.fill + c.same),
                sum(|c| c.zero),
                sum(|c| c.unreadable),
                sum(|c| c.excluded)
            )
        );
    }
}
