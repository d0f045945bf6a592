//! `lifeboat rekey`: who could open a dump still can, others can too, and nothing but
//! key areas is written.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]
mod common;
mod keys;

use std::fs;

use common::capture::{Plan, plant_on, rig::Place};
use common::{cmd, image};
use keys::{Bench, LEN, age_key, area, areas, by_age, entries, print, ssh_keygen};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{BLOCK, KeyArea};

/// The bytes that differ, as offsets.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    assert_eq!(before.len(), after.len());
    (0..before.len()).filter(|at| before[*at] != after[*at]).collect()
}

#[test]
fn keys_of_every_type_are_added_and_nothing_else_is_written() {
    let b = Bench::new(|_| {});
    let d = b.d();
    let path = std::env::var("PATH").unwrap();
    let second = age_key(d, "second");
    let ed = ssh_keygen(d, "ed", "-t ed25519", "");
    let rsa = ssh_keygen(d, "rsa", "-t rsa -b 3072", "");
    b.pull("dump", 0);
    // On the volume, where the dump begins at 1 MiB, and in the pulled file.
    for (name, start) in [("part", 1 << 20), ("dump", 0)] {
        let before = b.bytes(name);
        let dump = &before[start..];
        let at: Vec<usize> = areas(&b.bytes("dump"));
        assert_eq!(at.len(), 2);
        cmd(d, &format!("verify @/{name} -i @/ed")).exits(1).complains("none of the given keys");
        fs::write(d.join("list"), format!("# the team\n{ed}\n\n{rsa}\n{rsa}\n")).unwrap();
        cmd(d, &format!("rekey @/{name} -i @/key --to {second} --to-file @/list"))
            .exits(0)
            .prints("2 key areas written, nothing else");
        let after = b.bytes(name);
        for byte in changed(&before, &after) {
            let byte = byte - start;
            assert!(at.iter().any(|a| (*a..a + KEY_AREA_LEN).contains(&byte)), "byte {byte}");
        }
        assert!(!changed(&before, &after).is_empty());
        assert_eq!(area(&after[start..], at[0]), area(&after[start..], at[1]));
        // Old entries are where they were, the new one is a plain age file for all three.
        let (old, new) = (entries(dump, at[0]), entries(&after[start..], at[0]));
        assert_eq!((old.len(), new.len()), (1, 2));
        assert_eq!(old[0], new[0]);
        for key in ["second", "ed", "rsa"] {
            assert_eq!(by_age(&new[1], &d.join(key), &path).unwrap().len(), 32, "{key}");
        }
        assert!(by_age(&new[1], &d.join("key"), &path).is_none());
        for key in ["key", "second", "ed", "rsa"] {
            cmd(d, &format!("verify @/{name} -i @/{key}")).exits(0);
        }
        let list = cmd(d, &format!("list @/{name}")).exits(0).out;
        for r in [&b.recipient, &second, &ed, &rsa] {
            assert!(list.contains(&print(r)), "{} is not in\n{list}", print(r));
        }
        // A key that was added adds another.
        let third = age_key(d, &format!("third-{name}"));
        cmd(d, &format!("rekey @/{name} -i @/rsa --to {third}")).exits(0);
        cmd(d, &format!("verify @/{name} -i @/third-{name}")).exits(0);
        cmd(d, &format!("verify @/{name} -i @/key")).exits(0);
        assert_eq!(KeyArea::decode(&area(&b.bytes(name)[start..], at[1])).unwrap().generation, 2);
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_writes_nothing() {
    let b = Bench::new(|_| {});
    let d = b.d();
    let other = age_key(d, "other");
    b.plant(|p| {
        p.id = 10;
        p.recipients.clear();
    });
    b.pull("dump", 0);
    for name in ["part", "dump"] {
        let before = b.bytes(name);
        let rekey = |rest: &str| cmd(d, &format!("rekey @/{name} {rest}"));
        let mine = &b.recipient;
        rekey(&format!("-n 1 -i @/other --to {other}")).exits(1).complains("none of the given");
        rekey(&format!("-n 1 --to {other}")).exits(2).complains("no key was given");
        rekey("-n 1 -i @/key").exits(2).complains("no recipient was given");
        let said = rekey(&format!("-n 1 -i @/key --to {mine} --to {other}")).exits(1);
        said.complains(&print(mine));
        rekey(&format!("-n 1 -i @/key --to {mine}")).exits(1).complains("opened already");
        rekey("-n 1 -i @/key --to age1nonsense").exits(1).complains("is not a recipient");
        rekey("-n 1 -i @/key --to-file @/none").exits(1).complains("none");
        rekey("-n 1 -i @/key --to-file @/key").exits(1).complains("key:3: `AGE-…`");
        assert!(b.bytes(name) == before, "{name} was written");
    }
    let other = format!("--to {other}");
    let before = b.bytes("part");
    cmd(d, &format!("rekey @/part -n 2 -i @/key {other}")).exits(1).complains("in the clear");
    cmd(d, &format!("rekey @/part -n 7 -i @/key {other}")).exits(1).complains("it holds 1, 2");
    assert!(b.bytes("part") == before);
}

#[test]
fn a_full_area_is_refused_with_all_that_is_in_it_kept() {
    let b = Bench::new(|_| {});
    let d = b.d();
    b.pull("dump", 0);
    let mut added = 0;
    let refused = loop {
        let before = b.bytes("dump");
        let new = age_key(d, &format!("k{added}"));
        let ran = cmd(d, &format!("rekey @/dump -i @/key --to {new}"));
        if ran.code != 0 {
            assert!(b.bytes("dump") == before, "it was written");
            break ran;
        }
        added += 1;
    };
    refused.exits(1).complains("the key area is full");
    assert_eq!(added, 31, "32 recipients fit");
    cmd(d, "verify @/dump -i @/k30").exits(0);
    // By room, not by number: RSA takes the most.
    b.pull("rsa", 0);
    for n in 0.. {
        let before = b.bytes("rsa");
        ssh_keygen(d, &format!("r{n}"), "-t rsa -b 2048", "");
        let ran = cmd(d, &format!("rekey @/rsa -i @/key --to-file @/r{n}.pub"));
        if ran.code != 0 {
            ran.exits(1).complains("the key area is full");
            assert!(b.bytes("rsa") == before, "it was written");
            assert!((10..31).contains(&n), "{n} fit");
            cmd(d, &format!("verify @/rsa -i @/r{}", n - 1)).exits(0);
            break;
        }
    }
    cmd(d, "verify @/rsa -i @/key").exits(0);
}

#[test]
fn a_damaged_copy_is_repaired_and_told_of() {
    let b = Bench::new(|_| {});
    let d = b.d();
    b.pull("dump", 0);
    let good = b.bytes("dump");
    let at = areas(&good);
    for (n, name) in [(0, "first copy"), (1, "second copy")] {
        let mut hurt = good.clone();
        hurt[at[n] + 700] ^= 4;
        fs::write(d.join("dump"), &hurt).unwrap();
        cmd(d, "verify @/dump").exits(1);
        // With a further recipient, and without any.
        let new = age_key(d, &format!("new{n}"));
        let ran = cmd(d, &format!("rekey @/dump -i @/key --to {new}")).exits(0);
        assert!(
            ran.err.contains(&format!("the {name} of the key area was repaired")),
            "{}",
            ran.err
        );
        cmd(d, &format!("verify @/dump -i @/new{n}")).exits(0);
        fs::write(d.join("dump"), &hurt).unwrap();
        let ran = cmd(d, "rekey @/dump -i @/key").exits(0);
        assert!(
            ran.err.contains(&format!("the {name} of the key area was repaired")),
            "{}",
            ran.err
        );
        assert!(b.bytes("dump") == good, "repaired to what it was");
        // Behind the other: a rekey that the power cut.
        cmd(d, &format!("rekey @/dump -i @/key --to {new}")).exits(0);
        let whole = b.bytes("dump");
        let mut behind = whole.clone();
        behind[at[n]..at[n] + KEY_AREA_LEN].copy_from_slice(&good[at[n]..at[n] + KEY_AREA_LEN]);
        fs::write(d.join("dump"), &behind).unwrap();
        let ran = cmd(d, &format!("rekey @/dump -i @/new{n} --to {new}")).exits(0);
        assert!(ran.err.contains("it was behind the other"), "{}", ran.err);
        assert!(b.bytes("dump") == whole);
        fs::write(d.join("dump"), &good).unwrap();
    }
    let mut lost = good;
    for at in at {
        lost[at] ^= 1;
    }
    fs::write(d.join("dump"), &lost).unwrap();
    cmd(d, "rekey @/dump -i @/key").exits(1).complains("every key area is damaged");
}

/// Any mixture of old and new sectors in the only key area of a dump that was never
/// committed still opens with the old key: what the power cut left.
#[test]
fn a_torn_write_of_the_only_key_area_loses_nobody() {
    let b = Bench::new(|p| p.dies = true);
    let d = b.d();
    let new = age_key(d, "new");
    b.pull("dump", 3);
    let before = b.bytes("dump");
    assert_eq!(areas(&before).len(), 1);
    let ran = cmd(d, &format!("rekey @/dump -i @/key --to {new}")).exits(0);
    ran.prints("1 key areas written");
    let after = b.bytes("dump");
    let log = cmd(d, "export log @/dump -i @/new").exits(0).out;
    assert!(log.contains("Kernel panic"), "{log}");
    let sectors: Vec<usize> = (BLOCK..BLOCK + KEY_AREA_LEN)
        .step_by(512)
        .filter(|s| before[*s..s + 512] != after[*s..s + 512])
        .collect();
    assert!(sectors.len() > 1 && sectors.len() < 6, "{} sectors", sectors.len());
    for mixture in 1..(1u32 << sectors.len()) - 1 {
        let mut torn = before.clone();
        for (_, s) in sectors.iter().enumerate().filter(|(n, _)| mixture >> n & 1 == 1) {
            torn[*s..s + 512].copy_from_slice(&after[*s..s + 512]);
        }
        fs::write(d.join("dump"), &torn).unwrap();
        let log = cmd(d, "export log @/dump -i @/key").exits(0).out;
        assert!(log.contains("Kernel panic"), "{mixture}");
        // And the same command again mends it.
        let ran = cmd(d, &format!("rekey @/dump -i @/key --to {new}")).exits(0);
        assert!(ran.err.contains("no key area is sound"), "{}", ran.err);
        assert!(KeyArea::decode(&area(&b.bytes("dump"), BLOCK)).is_ok());
        for key in ["key", "new"] {
            cmd(d, &format!("export log @/dump -i @/{key}")).exits(0);
        }
    }
}

#[test]
fn a_key_area_from_another_dump_is_named_as_such() {
    let b = Bench::new(|_| {});
    let d = b.d();
    b.plant(|p| p.id = 77);
    b.pull("one", 0);
    cmd(d, "pull @/part --dump 2 -o @/two").exits(0);
    let (mut one, two) = (b.bytes("one"), b.bytes("two"));
    for (mine, theirs) in areas(&one.clone()).into_iter().zip(areas(&two)) {
        one[mine..mine + KEY_AREA_LEN].copy_from_slice(&two[theirs..theirs + KEY_AREA_LEN]);
    }
    fs::write(d.join("one"), &one).unwrap();
    // Its checksums are sound, so that no key finds nothing.
    for line in ["verify @/one -i @/key", "export log @/one -i @/key", "rekey @/one -i @/key"] {
        let ran = cmd(d, line).exits(1);
        let said = format!("{}{}", ran.out, ran.err);
        assert!(
            said.contains("the key area was replaced: it holds the key of another dump"),
            "{said}"
        );
    }
}

/// A dump that goes on on another volume: each volume's copies are renewed by themselves.
#[test]
fn every_part_of_a_dump_is_given_to_the_recipient() {
    let b = Bench::new(|p| p.id = 1);
    let d = b.d();
    let (one, two) = (image(d, "one", LEN >> 20), image(d, "two", LEN >> 20));
    for name in ["one", "two"] {
        cmd(d, &format!("format @/{name}")).exits(0);
    }
    let places =
        vec![Place { good_for: 3 << 20, ..Place::of(&one, 0, LEN) }, Place::of(&two, 0, LEN)];
    plant_on(places, &Plan { id: 42, ..Plan::sealed(&b.recipient) });
    let new = age_key(d, "new");
    let mut written = 0;
    for name in ["one", "two"] {
        let before = b.bytes(name);
        let ran = cmd(d, &format!("rekey @/{name} -i @/key --to {new}")).exits(0);
        let after = b.bytes(name);
        // Every key area there is, found by its magic, has the new recipient, and no byte
        // outside of them differs.
        let magic = lifeboat_format::keys::MAGIC;
        let found: Vec<usize> =
            (0..after.len()).step_by(BLOCK).filter(|at| after[*at..].starts_with(&magic)).collect();
        written += found.len();
        for at in &found {
            let prints: Vec<_> =
                KeyArea::decode(&area(&after, *at)).unwrap().fingerprints().collect();
            assert!(
                prints.contains(&lifeboat_crypt::fingerprint(&new)),
                "{name} at {at}: {}",
                ran.out
            );
        }
        for byte in changed(&before, &after) {
            assert!(found.iter().any(|a| (*a..a + KEY_AREA_LEN).contains(&byte)), "byte {byte}");
        }
    }
    assert_eq!(written, 3, "first copy, the second part's head, second copy");
}
