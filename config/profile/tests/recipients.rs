//! Recipients of every type, from profile to boot configuration.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test falls over where it is wrong"
)]

use std::fs;

use lifeboat_profile::{Profile, Site, lower, recipients};

const X25519: &str = "age1vdp67h82a3czfe430j64j0tk26fc2s4ppt4ahxzj4a6ny7ygl3ystue7ea";
const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKZLB1Zo0affrpOXoL2yhnN845u4v9cR5YmKkq7Me+Xw anna@db7";
const YUBIKEY: &str = "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t";

fn load(recipients: &[&str]) -> Result<Profile, String> {
    let dir = tempfile::Builder::new().prefix("board").tempdir().unwrap();
    let file = dir.path().join("board.toml");
    let list: Vec<String> = recipients.iter().map(|r| format!("\"{r}\"")).collect();
    let text = format!(
        "[kernel]\nfragments = [\"00-base\"]\n[[target]]\npartlabel = \"lifeboat\"\n[keys]\nrecipients = [{}]\n",
        list.join(", ")
    );
    fs::write(&file, text).unwrap();
    Profile::load(&file).map_err(|e| e.to_string())
}

#[test]
fn an_ssh_key_goes_into_the_orders_without_its_comment() {
    let profile = load(&[ED25519, X25519]).unwrap();
    assert!(profile.missing().is_empty(), "it can stand alone");
    let cfg = lower(&profile, &Site::default()).unwrap();
    let bare = ED25519.strip_suffix(" anna@db7").unwrap();
    assert_eq!(cfg.recipients.iter().map(|r| r.as_str()).collect::<Vec<_>>(), [bare, X25519]);
    let said = load(&[ED25519, bare]).unwrap_err();
    assert!(said.contains("the same recipient twice"), "{said}");
    let said = load(&[&ED25519.replace("AAAAC3", "AAAAC4")]).unwrap_err();
    assert!(said.contains("board.toml:6:15: ") && said.contains("damaged"), "{said}");
}

/// What the crash kernel could not write is found by whoever builds or arms.
#[test]
fn more_rsa_keys_than_a_dump_has_room_for_are_refused() {
    let key = |n: u8| {
        let mut blob = Vec::new();
        // 4095 bits; any odd number is a modulus as far as wrapping goes.
        let modulus = [&[0x7f, n][..], &[0x55; 510]].concat();
        for field in [&b"ssh-rsa"[..], &[1, 0, 1], &modulus] {
            blob.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
            blob.extend(field);
        }
        format!("ssh-rsa {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, blob))
    };
    let keys: Vec<String> = (0..20).map(key).collect();
    let texts: Vec<&str> = keys.iter().map(String::as_str).collect();
    let site = Site::default();
    assert!(lower(&load(&texts[..10]).unwrap(), &site).is_ok());
    let said = lower(&load(&texts).unwrap(), &site).unwrap_err().to_string();
    assert!(
        said.contains("do not fit a dump's key area") && said.contains("hint: name fewer"),
        "{said}"
    );
}

/// Plugins cannot run in a crash kernel: such a profile is for arming, not for an image
/// that stands alone, and what it lacks for that is said, never left out.
#[test]
fn a_plugins_recipient_needs_the_arming() {
    for list in [&[YUBIKEY][..], &[X25519, YUBIKEY]] {
        let profile = load(list).unwrap();
        assert_eq!(profile.missing().len(), 1, "{:?}", profile.missing());
        assert!(profile.missing()[0].contains("plugins"));
        assert_eq!(recipients(&profile, &Site::default()), list);
        let said = lower(&profile, &Site::default()).unwrap_err().to_string();
        assert!(said.contains("plugins cannot run in a crash kernel"), "{said}");
        assert!(said.contains("hint: name it when arming"), "{said}");
    }
    let site = Site { recipients: vec![X25519.to_owned()], ..Site::default() };
    let profile = load(&[YUBIKEY]).unwrap();
    assert_eq!(recipients(&profile, &site), [X25519]);
    assert!(lower(&profile, &site).is_ok());
    assert!(load(&["age1yubikey1qwt50d05nh5"]).unwrap_err().contains("is not a recipient"));
}
