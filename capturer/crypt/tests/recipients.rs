//! Recipients of every type, judged by ssh-keygen, which makes the keys, and by
//! Debian's age, which opens what was wrapped to them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails shall panic"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lifeboat_crypt::*;
use lifeboat_format::bootcfg::{BootConfig, Escrow};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::keys::{KeyArea, KeyEntry, KeyKind};

/// A key made by ssh-keygen: the line of its `.pub` file, and the private half.
fn ssh_keygen(dir: &Path, name: &str, how: &str) -> (String, String) {
    let path = dir.join(name);
    let out = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "anna@db7 with words", "-f"])
        .arg(&path)
        .args(how.split(' '))
        .output()
        .expect("openssh-client is installed by scripts/bootstrap.sh");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    (line, std::fs::read_to_string(path).unwrap())
}

fn data(wrapped: &[u8]) -> KeyEntry<'_> {
    KeyEntry { kind: KeyKind::Data, fingerprints: &[], wrapped }
}

/// Opens by Debian's age, a program in Go that has nothing of ours.
fn by_age(wrapped: &[u8], identity: &Path) -> Vec<u8> {
    let mut age = Command::new("age")
        .args(["-d", "-i"])
        .arg(identity)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's age is installed by scripts/bootstrap.sh");
    age.stdin.take().unwrap().write_all(wrapped).unwrap();
    let out = age.wait_with_output().unwrap();
    assert!(out.status.success(), "age does not open it");
    out.stdout
}

/// The bytes of a key, by the one way out: what age says they are.
fn id_of(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    hash.update(b"lifeboat key id v2");
    hash.update(bytes);
    hash.finalize().into()
}

#[test]
fn any_one_identity_of_any_type_opens_and_age_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let new = generate_identity();
    std::fs::write(d.join("x"), &*new.secret).unwrap();
    let (ed, ed_secret) = ssh_keygen(d, "ed", "-t ed25519");
    let (rsa, rsa_secret) = ssh_keygen(d, "rsa", "-t rsa -b 3072");
    // The format that OpenSSH wrote until 2018.
    let (pem, pem_secret) = ssh_keygen(d, "pem", "-t rsa -b 2048 -m PEM");
    assert!(pem_secret.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    let key = DataKey::mix(&[b"the key"]);
    let all = [
        (new.recipient.as_str(), new.secret.as_str(), "x"),
        (&ed, &ed_secret, "ed"),
        (&rsa, &rsa_secret, "rsa"),
        (&pem, &pem_secret, "pem"),
    ];
    let names: Vec<&str> = all.iter().map(|(r, _, _)| *r).collect();
    let wrapped = wrap(&key, &names).unwrap();
    for (n, (recipient, secret, file)) in all.iter().enumerate() {
        let ids = Identities::parse(secret).unwrap();
        assert_eq!(open([data(&wrapped)], &ids, Some(&key.id())).unwrap().id(), key.id());
        assert_eq!(id_of(&by_age(&wrapped, &d.join(file))), key.id(), "{file}");
        // Without this one, all others still open, and this one does not.
        let rest: Vec<&str> = names.iter().filter(|r| *r != recipient).copied().collect();
        let without = wrap(&key, &rest).unwrap();
        assert!(matches!(open([data(&without)], &ids, None), Err(CryptError::WrongKey)), "{file}");
        for (_, other, _) in all.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, a)| a) {
            let ids = Identities::parse(other).unwrap();
            assert_eq!(open([data(&without)], &ids, None).unwrap().id(), key.id());
        }
    }
}

#[test]
fn the_comment_of_an_ssh_key_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    for how in ["-t ed25519", "-t rsa -b 2048", "-t rsa -b 4096"] {
        let (line, _) = ssh_keygen(dir.path(), &how.replace(' ', ""), how);
        assert!(line.contains("anna@db7"));
        let bare = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let tabs = format!("  {}\t\n", bare.replace(' ', "\t "));
        for form in [line.as_str(), &bare, &tabs] {
            let parsed = Recipient::parse(form).unwrap();
            assert_eq!(parsed.text(), bare);
            assert_eq!(parsed.plugin(), None);
            assert_eq!(parsed.fingerprint(), fingerprint(&bare));
            assert_eq!(fingerprint(form), fingerprint(&bare));
        }
    }
    let one = generate_identity().recipient;
    assert_eq!(Recipient::parse(&format!(" {one}\n")).unwrap().text(), one);
    assert_ne!(fingerprint(&one), fingerprint(&generate_identity().recipient));
}

/// The message of a recipient that is refused; it ends with one hint.
fn refused(text: &str) -> String {
    let e = Recipient::parse(text).unwrap_err().to_string();
    assert_eq!(e.matches("\nhint: ").count(), 1, "{e}");
    assert!(check_recipient(text).is_err());
    e
}

/// An ssh key's line from its parts.
fn line(kind: &str, fields: &[&[u8]]) -> String {
    let mut blob = Vec::new();
    for field in fields {
        blob.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
        blob.extend(*field);
    }
    format!("{kind} {}", BASE64_STANDARD.encode(blob))
}

#[test]
fn what_could_lose_every_dump_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let (weak, _) = ssh_keygen(d, "weak", "-t rsa -b 1024");
    assert!(refused(&weak).contains("fewer than 2048 bits"));
    let (large, _) = ssh_keygen(d, "large", "-t rsa -b 4104");
    assert!(refused(&large).contains("more than 4096 bits"));
    let (ecdsa, _) = ssh_keygen(d, "ecdsa", "-t ecdsa");
    assert!(refused(&ecdsa).contains("no key of this type"));
    let (ed, secret) = ssh_keygen(d, "ed", "-t ed25519");
    let word = ed.split(' ').nth(1).unwrap();
    assert!(refused(&format!("ssh-ed25519 {}", &word[..word.len() - 4])).contains("damaged"));
    assert!(refused(&format!("ssh-ed25519 {word}AAAA")).contains("damaged"));
    assert!(refused(&format!("ssh-rsa {word}")).contains("damaged"));
    assert!(refused(&format!("ssh-ed25519 {}", word.replace('A', "*"))).contains("base64"));
    assert!(refused("ssh-ed25519").contains("no type of key"));
    assert!(refused(&secret).contains("no key of this type"));
    // An RSA number of zeros makes the age crate panic.
    let n = [&[0u8; 1][..], &[0xc1; 256]].concat();
    for fields in [[&b"ssh-rsa"[..], &[0], &n], [b"ssh-rsa", &[1, 0, 1], &[0, 0]]] {
        assert!(refused(&line("ssh-rsa", &fields)).contains("damaged"));
    }
    assert!(Recipient::parse(&line("ssh-rsa", &[b"ssh-rsa", &[1, 0, 1], &n])).is_ok());
    let off_the_curve = line("ssh-ed25519", &[b"ssh-ed25519", &[2; 32]]);
    assert!(refused(&off_the_curve).contains("damaged"));
}

#[test]
fn age_recipients_are_told_apart() {
    let new = generate_identity();
    let secret = refused(&new.secret);
    assert!(secret.contains("secret key") && !secret.contains(&new.secret[20..]), "{secret}");
    assert!(refused("age1short").contains("62 characters"));
    assert!(refused(&new.recipient.replace("age1", "ago1")).contains("no type of key"));
    for at in 4..new.recipient.len() {
        let mut other = new.recipient.clone().into_bytes();
        other[at] = if other[at] == b'q' { b'p' } else { b'q' };
        assert!(refused(core::str::from_utf8(&other).unwrap()).contains("checksum"), "{at}");
    }
    let yubikey = "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t";
    let parsed = Recipient::parse(yubikey).unwrap();
    assert_eq!((parsed.plugin(), parsed.text()), (Some("yubikey"), yubikey));
    assert_eq!(parsed.fingerprint(), fingerprint(yubikey));
    let e = check_recipient(yubikey).unwrap_err();
    assert!(matches!(e, CryptError::NeedsPlugin { .. }));
    assert!(e.to_string().contains("hint: name it when arming"));
    assert!(wrap(&DataKey::mix(&[b"k"]), &[yubikey]).is_err(), "never silently dropped");
    assert!(refused(&yubikey.replace("qwt5", "qwt6")).contains("checksum"));
}

#[test]
fn an_identity_that_fails_keeps_no_other_from_opening() {
    let (ours, theirs) = (generate_identity(), generate_identity());
    let key = DataKey::mix(&[b"the key"]);
    // An age file whose stanza for `theirs` is right but whose payload is damaged, as a
    // bad entry beside a good one.
    let mut damaged = wrap(&key, &[&theirs.recipient]).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let good = wrap(&key, &[&ours.recipient]).unwrap();
    let both = Identities::parse(&format!("{}\n{}\n", *theirs.secret, *ours.secret)).unwrap();
    for order in [[data(&damaged), data(&good)], [data(&good), data(&damaged)]] {
        assert_eq!(open(order, &both, None).unwrap().id(), key.id());
    }
    let theirs = Identities::parse(&theirs.secret).unwrap();
    let e = open([data(&good), data(&damaged)], &theirs, None).unwrap_err();
    assert!(matches!(e, CryptError::Wrapped { .. }), "{e}");
}

#[test]
fn a_key_area_of_another_dump_is_named_as_such() {
    let new = generate_identity();
    let ids = Identities::parse(&new.secret).unwrap();
    let (ours, others) = (DataKey::mix(&[b"ours"]), DataKey::mix(&[b"another dump's"]));
    assert_ne!(ours.id(), others.id());
    let (good, foreign) =
        (wrap(&ours, &[&new.recipient]).unwrap(), wrap(&others, &[&new.recipient]).unwrap());
    let e = open([data(&foreign)], &ids, Some(&ours.id())).unwrap_err();
    assert!(matches!(e, CryptError::Replaced));
    assert!(e.to_string().contains("it holds the key of another dump"));
    // One foreign entry beside a good one hides nothing.
    let found = open([data(&foreign), data(&good)], &ids, Some(&ours.id())).unwrap();
    assert_eq!(found.id(), ours.id());
}

#[test]
fn every_flipped_bit_of_a_key_area_shows_without_a_key() {
    let new = generate_identity();
    let key = DataKey::mix(&[b"the key"]);
    let wrapped = wrap(&key, &[&new.recipient]).unwrap();
    let prints = [fingerprint(&new.recipient)];
    let entry = KeyEntry { kind: KeyKind::Data, fingerprints: &prints, wrapped: &wrapped };
    let mut area = Box::new([0u8; KEY_AREA_LEN]);
    KeyArea::encode(&mut area, 3, &[entry]).unwrap();
    assert_eq!(KeyArea::decode(&area).unwrap().entries().next().unwrap(), entry);
    for bit in 0..KEY_AREA_LEN * 8 {
        area[bit / 8] ^= 1 << (bit % 8);
        assert!(KeyArea::decode(&area).is_err(), "bit {bit}");
        area[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Orders for these recipients.
fn orders(recipients: &[&str], escrow: Option<Escrow>) -> BootConfig {
    let mut config = BootConfig { encrypt: true, escrow, ..BootConfig::default() };
    for r in recipients {
        let text = Recipient::parse(r).unwrap().text().try_into().unwrap();
        config.recipients.push(text).unwrap();
    }
    config
}

/// What the crash kernel could not write is found before: 32 age recipients fit, RSA of
/// 4096 bits only a dozen times.
#[test]
fn recipients_that_do_not_fit_are_found_before_the_crash() {
    // 4095 bits; any odd number is a modulus as far as wrapping goes.
    let rsa = line("ssh-rsa", &[b"ssh-rsa", &[1, 0, 1], &[0x55; 512]]);
    let new = generate_identity().recipient;
    assert!(check_room(&orders(&[new.as_str(); 32], None)).is_ok());
    assert!(check_room(&orders(&[rsa.as_str(); 12], None)).is_ok());
    let e = check_room(&orders(&[rsa.as_str(); 20], None)).unwrap_err();
    assert!(matches!(e, CryptError::NoRoom));
    assert!(e.to_string().contains("hint: name fewer"));
    let escrow = Escrow {
        fingerprints: heapless::Vec::from_slice(&[[1; 8]]).unwrap(),
        wrapped: heapless::Vec::from_slice(&[7; 4096]).unwrap(),
    };
    assert!(check_room(&orders(&[rsa.as_str(); 12], Some(escrow.clone()))).is_err());
    assert!(check_room(&orders(&[new.as_str(); 32], Some(escrow.clone()))).is_err(), "33 of them");
    // What is written: both kinds, in this order; nothing for a dump in the clear.
    let key = DataKey::mix(&[b"the key"]);
    let area = key_area(&orders(&[&new], Some(escrow.clone())), Some(&key)).unwrap();
    let entries: Vec<_> = KeyArea::decode(&area).unwrap().entries().collect();
    assert_eq!(
        entries.iter().map(|e| e.kind).collect::<Vec<_>>(),
        [KeyKind::Data, KeyKind::Identity]
    );
    assert_eq!(entries[0].fingerprints, [fingerprint(&new)]);
    assert_eq!(entries[1].wrapped, &escrow.wrapped[..]);
    let area = key_area(&BootConfig { encrypt: false, ..orders(&[], None) }, None).unwrap();
    assert_eq!(KeyArea::decode(&area).unwrap().entries().count(), 0);
}
