//! Tests of the builder's parts; the whole is tested by building an image.

use std::fs;
use std::process::Command;

use proptest::prelude::*;

use crate::contents::{self, Made};
use crate::cpio::{Archive, Kind};
use crate::kconfig;
use crate::needs::Needs;
use crate::{digest, image, place, verify};

const LIST: &str = include_str!("../../../initramfs/contents.list");

fn made() -> Made {
    Made::from([("init", b"#!static\n".to_vec())])
}

#[test]
fn the_list_of_the_house_makes_an_archive() {
    let without = contents::archive(LIST, &made()).unwrap();
    let mut with = made();
    with.insert("image.conf", b"lifeboat-boot 1\n".to_vec());
    let with = contents::archive(LIST, &with).unwrap();
    assert!(with.len() > without.len());
    // The judge is GNU cpio.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.cpio");
    fs::write(&path, &with).unwrap();
    let listed = Command::new("cpio").args(["-itvn", "--quiet", "-F"]).arg(&path).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().last()).collect();
    assert_eq!(names.last(), Some(&"init"), "{text}");
    assert!(names.contains(&"etc/lifeboat/image.conf"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("crw-------") && l.contains("5,   1")), "{text}");
    assert!(text.lines().all(|l| l.contains("Jan  1  1970")), "{text}");
}

#[test]
fn a_wrong_list_is_refused_with_its_line() {
    for (line, part) in [
        ("dir relative 0755", "starts with a slash"),
        ("dir /a 0999", "not an octal number"),
        ("dir /a/b 0755", "its directory is not in the list"),
        ("dir /a 0755\ndir /a 0755", ":2: the same path twice"),
        ("file /init 0755 @nothing", "makes no `nothing`"),
        ("file /init 0755 init", "comes from @NAME"),
        ("pipe /a 0755", "not a known kind"),
        ("dir /../a 0755", "not a plain absolute path"),
    ] {
        let said = contents::archive(line, &made()).unwrap_err().to_string();
        assert!(said.contains(part) && said.contains("hint: "), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn the_compressed_frame_has_a_small_window_and_no_size() {
    let archive = vec![7u8; 3 << 20];
    let packed = contents::compress(&archive).unwrap();
    // RFC 8878, 3.1.1.1: descriptor after the magic; not single segment (bit 5),
    // no content size (bits 7-6), checksum (bit 2); then the window descriptor.
    assert_eq!(&packed[..4], &[0x28, 0xb5, 0x2f, 0xfd]);
    assert_eq!(packed[4], 0b0000_0100);
    assert_eq!(packed[5] >> 3, 17 - 10, "window log 17");
    assert_eq!(zstd::decode_all(&packed[..]).unwrap(), archive);
}

#[test]
fn options_that_did_not_come_out_are_all_listed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("config/kernel")).unwrap();
    let file = dir.path().join("config/kernel/a.config");
    fs::write(&file, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\n# why\nCONFIG_D=\"x=y\"\n")
        .unwrap();
    let fragments = kconfig::read(dir.path(), &["a".into()]).unwrap();
    assert_eq!(fragments[0].name, "config/kernel/a.config");
    // B has no line at all: off, as asked.
    kconfig::check(&fragments, "CONFIG_A=y\nCONFIG_C=64\nCONFIG_D=\"x=y\"\n").unwrap();
    let said =
        kconfig::check(&fragments, "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=32\n").unwrap_err();
    let said = said.to_string();
    for part in [
        "4 kernel options",
        "CONFIG_A=y (config/kernel/a.config) came out as n",
        "CONFIG_B=n",
        "CONFIG_C=64",
        "CONFIG_D=\"x=y\"",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn an_image_is_replaced_whole_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (new, old) = (dir.path().join(".new"), dir.path().join("img"));
    for (at, text) in [(&old, "old"), (&new, "new")] {
        fs::create_dir(at).unwrap();
        fs::write(at.join("vmlinuz"), text).unwrap();
    }
    place::replace_dir(&new, &old).unwrap();
    assert_eq!(fs::read_to_string(old.join("vmlinuz")).unwrap(), "new");

    let kernel = digest::bytes(b"new");
    let manifest = serde_json::json!({ "schema": 1, "outputs": { "vmlinuz": kernel } }).to_string();
    fs::write(old.join("manifest.json"), &manifest).unwrap();
    let sums = format!(
        "{}  vmlinuz\n{}  manifest.json\n",
        kernel.sha256,
        digest::bytes(manifest.as_bytes()).sha256
    );
    fs::write(old.join("SHA256SUMS"), sums).unwrap();
    assert_eq!(verify::image(&old).unwrap(), 2);
    // sha256sum reads the same file.
    let judge =
        Command::new("sha256sum").args(["-c", "--status", "SHA256SUMS"]).current_dir(&old).status();
    assert!(judge.unwrap().success());
    fs::write(old.join("vmlinuz"), "neW").unwrap();
    let said = verify::image(&old).unwrap_err().to_string();
    assert!(said.contains("vmlinuz: not as in SHA256SUMS"), "{said}");
    fs::remove_file(old.join("vmlinuz")).unwrap();
    let said = verify::image(&old).unwrap_err().to_string();
    assert!(said.contains("vmlinuz: missing"), "{said}");
    fs::write(old.join("vmlinuz"), "new").unwrap();
    fs::write(old.join("stray"), "x").unwrap();
    assert!(verify::image(&old).unwrap_err().to_string().contains("stray"));
}

#[test]
fn a_cache_entry_is_filled_once_and_never_half() {
    let dir = tempfile::tempdir().unwrap();
    let cache = place::Cache::open(dir.path().to_str()).unwrap();
    let failed = cache.entry("k", "1", |d| {
        fs::write(d.join("half"), "x").unwrap();
        Err(crate::failure::Failure::new("broken"))
    });
    assert!(failed.is_err() && !dir.path().join("k/1").exists());
    let filled = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let cache = place::Cache::open(dir.path().to_str()).unwrap();
                cache
                    .entry("k", "1", |d| {
                        assert!(!d.join("half").exists());
                        filled.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        fs::write(d.join("whole"), "x").unwrap();
                        Ok(())
                    })
                    .unwrap();
            });
        }
    });
    assert_eq!(filled.into_inner(), 1);
    assert!(dir.path().join("k/1/whole").is_file());
}

/// The board of the house, with `more` over it.
fn board(more: &str) -> (tempfile::TempDir, lifeboat_profile::Profile) {
    let dir = tempfile::tempdir().unwrap();
    let house = concat!(env!("CARGO_MANIFEST_DIR"), "/../../board/x86_64-generic");
    let text = format!("inherits = \"{house}\"\nname = \"b\"\n{more}");
    fs::write(dir.path().join("board.toml"), text).unwrap();
    let profile = lifeboat_profile::Profile::load(dir.path()).unwrap();
    (dir, profile)
}

#[test]
fn what_an_image_needs_is_the_sum_of_what_it_takes() {
    let of = |more: &str| Needs::of(&board(more).1, 3 << 20).unwrap();
    let field = |needs: &Needs, name: &str| needs.json()[name].as_u64().unwrap();
    let two = of("[capture]\nworkers = 2\n");
    let sum: u64 = ["kernel_kib", "cpus_kib", "initramfs_unpacked_kib", "init_fixed_kib"]
        .iter()
        .map(|name| field(&two, name))
        .sum();
    assert_eq!((two.mib(), field(&two, "initramfs_unpacked_kib")), (sum.div_ceil(1024), 3072));
    // A worker has a chunk as it is read and as it is packed, and codecs.
    let worker = field(&two, "worker_kib");
    assert!((512..4096).contains(&worker), "{worker} KiB");
    let three = of("[capture]\nworkers = 3\n");
    assert_eq!(three.fixed(), two.fixed() + worker);
    assert_eq!(of("").fixed(), three.fixed(), "one a CPU, and there may be three");
    let larger = of("[capture]\nworkers = 2\nchunk_pages = 128\n");
    assert!(field(&larger, "worker_kib") >= worker + 2 * 64 * 4, "{larger:?}");
    let without = of("[capture]\nworkers = 2\ndedup_kib = 0\n");
    assert_eq!(without.fixed() + 4096, two.fixed());
}

#[test]
fn an_image_that_outgrows_its_reservation_is_not_built() {
    let (_dir, house) = board("");
    Needs::of(&house, 4 << 20).unwrap().check(&house).unwrap();
    // Each word of the profile that makes it larger, until it does not fit.
    for more in [
        "[reservation]\ncrashkernel_mib = 33\nimage_budget_mib = 8\n",
        "[capture]\nworkers = 8\n",
        "[capture]\ndedup_kib = 12000\n",
    ] {
        let (_dir, profile) = board(more);
        let said = Needs::of(&profile, 4 << 20).unwrap().check(&profile).unwrap_err().to_string();
        for part in ["too small for this image, which needs", "workers of", "hint: raise reserv"] {
            assert!(said.contains(part), "`{part}` is not in:\n{said}");
        }
    }
    let said = Needs::of(&house, 60 << 20).unwrap().check(&house).unwrap_err().to_string();
    assert!(said.contains("unpacked initramfs 61440 KiB"), "{said}");
}

#[test]
fn an_image_over_its_budget_is_not_built() {
    let (dir, profile) = board("");
    let budget = || image::budget(&profile, dir.path(), &crate::report::Report::new());
    fs::write(dir.path().join("vmlinuz"), vec![0; 7 << 20]).unwrap();
    fs::write(dir.path().join("initramfs.cpio.zst"), vec![0; 1 << 20]).unwrap();
    budget().unwrap();
    fs::write(dir.path().join("initramfs.cpio.zst"), vec![0; (1 << 20) + 1]).unwrap();
    let said = budget().unwrap_err().to_string();
    assert!(said.contains("of 8 MiB allowed") && said.contains("hint: "), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// What goes in comes out of GNU cpio again.
    #[test]
    fn any_files_survive_the_archive(files in proptest::collection::btree_map("[a-z]{1,20}", proptest::collection::vec(any::<u8>(), 0..600), 1..6)) {
        let mut archive = Archive::new();
        for (name, data) in &files {
            archive.add(name, 0o600, &Kind::File(data.clone())).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("A.cpio"), archive.finish().unwrap()).unwrap();
        let status = Command::new("cpio").args(["-i", "--quiet", "-F", "A.cpio"]).current_dir(&dir).status().unwrap();
        prop_assert!(status.success());
        for (name, data) in &files {
            prop_assert_eq!(&fs::read(dir.path().join(name)).unwrap(), data);
        }
    }
}
