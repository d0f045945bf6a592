//! `lifeboat keygen`, judged by age itself.
mod common;
use common::{cmd, lifeboat, tool};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

#[test]
fn age_accepts_the_identity_and_opens_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let ran = cmd(d, "keygen -o @/key.txt").exits(0);
    let recipient = ran.out.trim();
    assert!(recipient.starts_with("age1"), "{recipient}");
    let text = std::fs::read_to_string(d.join("key.txt")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("# created: 20") && lines[0].ends_with('Z'), "{}", lines[0]);
    assert_eq!(lines[1], format!("# public key: {recipient}"));
    assert!(lines[2].starts_with("AGE-SECRET-KEY-1"));
    assert_eq!(lines.len(), 3);
    assert_eq!(std::fs::metadata(d.join("key.txt")).unwrap().mode() & 0o777, 0o600);

    let key = d.join("key.txt");
    let key = key.to_str().unwrap();
    assert_eq!(tool(&format!("age-keygen -y {key}")).trim(), recipient);
    std::fs::write(d.join("plain"), b"from panic to dump").unwrap();
    let (plain, sealed) = (d.join("plain"), d.join("sealed"));
    tool(&format!("age -r {recipient} -o {} {}", sealed.display(), plain.display()));
    assert_eq!(tool(&format!("age -d -i {key} {}", sealed.display())), "from panic to dump");
}

#[test]
fn two_keys_differ_and_none_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let one = cmd(d, "keygen -o @/key").exits(0).out;
    let kept = std::fs::read(d.join("key")).unwrap();
    cmd(d, "keygen -o @/key").exits(1).complains("exists");
    assert_eq!(std::fs::read(d.join("key")).unwrap(), kept);
    let two = cmd(d, "keygen -o @/key --force").exits(0).out;
    assert_ne!(one, two);
    assert_eq!(common::names(d), ["key"]);
}

#[test]
fn without_a_file_the_identity_is_on_stdout_and_the_recipient_on_stderr() {
    let ran = lifeboat(&["keygen"]).exits(0).prints("AGE-SECRET-KEY-1");
    assert!(ran.err.starts_with("Public key: age1"));
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    cmd(dir.path(), "keygen -o @/no/such/key").exits(1).complains("no/such");
}

#[test]
fn usage_errors_give_two_and_help_gives_zero() {
    for bad in [
        &["keygen", "--nonsense"][..],
        &["frobnicate"],
        &[],
        &["format"],
        &["clear", "x", "--dump", "one"],
    ] {
        let ran = lifeboat(bad).exits(2);
        assert!(ran.err.contains("hint:"), "{}", ran.err);
        assert!(ran.out.is_empty());
    }
    lifeboat(&["--help"]).exits(0).prints("keygen");
    lifeboat(&["arm", "--help"]).exits(0).prints("--recipient");
    lifeboat(&["--version"]).exits(0).prints(concat!("lifeboat ", env!("CARGO_PKG_VERSION")));
}

/// Everything must run where there is no C library: an initramfs.
#[test]
fn the_program_is_static() {
    let out = Command::new("ldd").arg(env!("CARGO_BIN_EXE_lifeboat")).output().unwrap();
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(
        text.contains("statically linked") || text.contains("not a dynamic executable"),
        "{text}"
    );
}

/// `lifeboat … | head` must not end in a panic.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["status", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(1));
}
