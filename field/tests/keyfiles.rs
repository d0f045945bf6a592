//! Key files: passphrases, formats, modes, and messages that say what to do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails shall panic")]
mod common;
mod keys;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use common::capture::LOG;
use common::cmd;
use keys::{Bench, age_key, alone, on_a_terminal, ssh_keygen};

const PASS: &str = "correct horse";
/// How the program asks for it.
const ASKS: &str = "Passphrase of key file";
const LOG_BY_ID: &str = "export log @/part -i @/id";

/// A dump sealed to an ssh key alone, ed25519 or RSA, with a passphrase.
fn locked(how: &str) -> (Bench, String) {
    let dir = tempfile::tempdir().unwrap();
    let line = ssh_keygen(dir.path(), "id", how, PASS);
    let b = Bench::new(|p| p.recipients = vec![line.clone()]);
    for name in ["id", "id.pub"] {
        fs::copy(dir.path().join(name), b.d().join(name)).unwrap();
    }
    (b, line)
}

#[test]
fn a_passphrase_comes_from_a_file_or_the_terminal() {
    for how in ["-t ed25519", "-t rsa -b 3072", "-t ed25519 -Z aes256-gcm@openssh.com"] {
        let (b, _) = locked(how);
        let d = b.d();
        let line = "export log @/part -i @/id";
        // Nobody to ask.
        let ran = alone(d, line, &[]).exits(1).complains("no terminal to ask on");
        assert!(ran.err.contains("hint:") && ran.err.contains("LIFEBOAT_PASSPHRASE_FILE"));
        // A file.
        fs::write(d.join("pass"), format!("{PASS}\n")).unwrap();
        fs::write(d.join("wrong"), "incorrect horse\n").unwrap();
        let file = |name: &str| d.join(name).to_str().unwrap().to_owned();
        let with = |name: &str| alone(d, line, &[("LIFEBOAT_PASSPHRASE_FILE", &file(name))]);
        assert_eq!(with("pass").exits(0).out, LOG);
        with("wrong").exits(1).complains("does not open the key file");
        with("none").exits(1).complains("LIFEBOAT_PASSPHRASE_FILE");
        fs::write(d.join("empty"), "").unwrap();
        with("empty").exits(1).complains("does not open the key file");
    }
}

#[test]
fn the_terminal_asks_without_echo_and_more_than_once() {
    let (b, _) = locked("-t ed25519");
    let (code, shown) =
        on_a_terminal(b.d(), LOG_BY_ID, (ASKS, &format!("mistyped\n{PASS}\n")), &[]);
    assert_eq!(code, 0, "{shown}");
    assert_eq!(shown.matches("Passphrase of key file").count(), 2, "{shown}");
    assert!(shown.contains("That passphrase does not open it.") && shown.contains("Kernel panic"));
    assert!(!shown.contains("horse") && !shown.contains("mistyped"), "{shown}");
    let (code, shown) = on_a_terminal(b.d(), LOG_BY_ID, (ASKS, "a\nb\nc\n"), &[]);
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("does not open the key file"), "{shown}");
}

#[test]
fn a_key_file_that_others_can_read_is_told_of() {
    let b = Bench::new(|_| {});
    let ran = cmd(b.d(), "verify @/part -i @/key").exits(0);
    assert!(!ran.err.contains("can be read by others"), "{}", ran.err);
    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(b.d().join("key"), Permissions::from_mode(mode)).unwrap();
        let ran = cmd(b.d(), "verify @/part -i @/key").exits(0);
        assert!(ran.err.contains(&format!("mode {mode:04o}")), "{}", ran.err);
    }
}

#[test]
fn files_that_are_no_key_say_what_to_do() {
    let b = Bench::new(|_| {});
    let d = b.d();
    ssh_keygen(d, "ecdsa", "-t ecdsa", "");
    ssh_keygen(d, "ed", "-t ed25519", "");
    ssh_keygen(d, "pem", "-t rsa -b 2048 -m PEM", PASS);
    ssh_keygen(d, "pkcs8", "-t rsa -b 2048 -m PKCS8", "");
    let text = fs::read_to_string(d.join("ed")).unwrap();
    fs::write(d.join("cut"), &text[..200]).unwrap();
    fs::write(d.join("binary"), [0xff, 0xfe, 0]).unwrap();
    fs::write(d.join("empty"), "# nothing\n").unwrap();
    fs::write(d.join("line"), "AGE-SECRET-KEY-1ABC\n").unwrap();
    fs::write(d.join("plugin"), "AGE-PLUGIN-YUBIKEY-1XXXX\n").unwrap();
    for (name, words) in [
        ("ecdsa", "a key of type ecdsa-sha2-nistp256 cannot decrypt"),
        ("ed.pub", "the public half of an ssh key"),
        ("pem", "old, weak way"),
        ("pkcs8", "none of OpenSSH's own formats"),
        ("cut", "none of OpenSSH's own formats"),
        ("binary", "UTF-8"),
        ("empty", "no line of it is one"),
        ("line", "line 1 is none"),
        ("plugin", "AGE-PLUGIN-… is damaged"),
        ("none", "No such file"),
    ] {
        let ran = cmd(d, &format!("verify @/part -i @/{name}")).exits(1).complains(words);
        assert!(!ran.err.contains("1ABC"), "a secret is shown: {}", ran.err);
    }
}

#[test]
fn several_key_files_are_one_bunch() {
    let b = Bench::new(|_| {});
    let d = b.d();
    age_key(d, "stranger");
    ssh_keygen(d, "ed", "-t ed25519", "");
    cmd(d, "verify @/part -i @/stranger -i @/ed").exits(1).complains("none of the given keys");
    cmd(d, "verify @/part -i @/stranger -i @/ed -i @/key").exits(0);
    // A plugin that is not installed keeps nobody out, and is named if nothing else opens.
    let key = fs::read_to_string(d.join("key")).unwrap();
    let hrp = "age-plugin-yubikey-";
    let line = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse(hrp).unwrap(), &[1; 8]).unwrap();
    let line = line.to_uppercase();
    fs::write(d.join("both"), format!("{line}\n{key}")).unwrap();
    fs::write(d.join("only"), format!("{line}\n")).unwrap();
    for name in ["both", "only"] {
        fs::set_permissions(d.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    cmd(d, "verify @/part -i @/both").exits(0);
    cmd(d, "verify @/part -i @/only").exits(1).complains("age-plugin-yubikey is not on the PATH");
}
