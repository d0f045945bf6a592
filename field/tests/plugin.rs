//! Recipients of a plugin, through the real plugin protocol: a program on the PATH.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails shall panic")]
mod common;
mod keys;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::capture::LOG;
use common::{Ran, cmd, tool};
use keys::{
    Bench, alone, area, areas, by_age, entries, on_a_terminal, plugin_key, plugin_path, print,
};
use lifeboat_crypt::{Recipient, User, one_boot};
use lifeboat_format::bootcfg::{BootConfig, Escrow, Selector};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{KeyArea, KeyEntry, KeyKind};
use zeroize::Zeroizing;

/// Where this program's child finds recipients, and puts what was made.
const WORK: &str = "LIFEBOAT_TEST_ONE_BOOT";

fn with_plugin(dir: &Path, line: &str) -> Ran {
    alone(dir, line, &[("PATH", &plugin_path())])
}

#[test]
fn a_dump_is_given_to_a_plugins_recipient_and_opened_by_it() {
    let b = Bench::new(|_| {});
    let d = b.d();
    let token = plugin_key(d, "token", None);
    plugin_key(d, "stranger", None);
    b.pull("dump", 0);
    let before = b.bytes("dump");
    // Without the plugin nothing can be wrapped to it, and nothing is written.
    let to = format!("rekey @/dump -i @/key --to {token}");
    alone(d, &to, &[]).exits(1).complains("age-plugin-lifeboattest is not on the PATH");
    assert!(b.bytes("dump") == before);
    with_plugin(d, &to).exits(0).prints(&print(&token));
    let ran = with_plugin(d, "export log @/dump -i @/token").exits(0);
    assert_eq!(ran.out, LOG);
    assert!(ran.err.contains("Touch the test key"), "{}", ran.err);
    with_plugin(d, "verify @/dump -i @/stranger").exits(1).complains("none of the given keys");
    alone(d, "verify @/dump -i @/token", &[]).exits(1).complains("is not on the PATH");
    // A key that is here is tried before a token is asked for.
    let ran = with_plugin(d, "verify @/dump -i @/token -i @/key").exits(0);
    assert!(!ran.err.contains("Touch"), "{}", ran.err);
    // Debian's age opens it with the same plugin.
    let entry = &entries(&b.bytes("dump"), areas(&before)[0])[1];
    assert_eq!(by_age(entry, &d.join("token"), &plugin_path()).unwrap().len(), 32);
    // And the token gives the dump to others.
    let next = cmd(d, "keygen -o @/next").exits(0).out;
    with_plugin(d, &format!("rekey @/dump -i @/token --to {next}")).exits(0);
    cmd(d, "verify @/dump -i @/next").exits(0);
}

#[test]
fn a_plugin_asks_for_its_pin_on_the_terminal() {
    let b = Bench::new(|_| {});
    let d = b.d();
    let token = plugin_key(d, "token", Some("271828"));
    with_plugin(d, &format!("rekey @/part -i @/key --to {token}")).exits(0);
    let path = plugin_path();
    let open = |typed| {
        let asked = ("PIN of the test key:", typed);
        on_a_terminal(d, "export log @/part -i @/token", asked, &[("PATH", &path)])
    };
    let (code, shown) = open("271828\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("PIN of the test key:") && shown.contains("Kernel panic"), "{shown}");
    assert!(!shown.contains("271828"), "{shown}");
    let (code, shown) = open("314159\n");
    assert!(code == 1 && shown.contains("none of the given keys"), "{shown}");
    let ran = with_plugin(d, "verify @/part -i @/token").exits(1);
    assert!(ran.complains("age-plugin-lifeboattest").err.contains("nobody gave the PIN"));
}

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

/// What `lifeboat arm` does, in a process that has the plugin on its PATH.
#[test]
fn one_boot_child() {
    let Ok(work) = std::env::var(WORK) else { return };
    let work = Path::new(&work);
    let list = fs::read_to_string(work.join("recipients")).unwrap();
    let list: Vec<Recipient> = list.lines().map(|r| Recipient::parse(r).unwrap()).collect();
    let made = one_boot(&list, &Nobody).unwrap();
    let prints: Vec<[u8; 8]> = list.iter().map(Recipient::fingerprint).collect();
    let mut config = BootConfig {
        escrow: Some(Escrow {
            fingerprints: heapless::Vec::from_slice(&prints).unwrap(),
            wrapped: heapless::Vec::from_slice(&made.wrapped).unwrap(),
        }),
        encrypt: true,
        ..BootConfig::default()
    };
    config.recipients.push(made.recipient.as_str().try_into().unwrap()).unwrap();
    config.targets.push(Selector::parse("partlabel=lifeboat").unwrap()).unwrap();
    let mut text: Box<heapless::String<65536>> = Box::default();
    config.write(&mut *text, true).unwrap();
    assert!(!text.contains("AGE-SECRET-KEY"));
    fs::write(work.join("boot.conf"), text.as_bytes()).unwrap();
}

/// The boot configuration that arming makes for these recipients.
fn armed_for(work: &Path, recipients: &[&str]) -> BootConfig {
    fs::write(work.join("recipients"), recipients.join("\n")).unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_boot_child", "--nocapture"])
        .env(WORK, work)
        .env("PATH", plugin_path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    BootConfig::parse(&fs::read(work.join("boot.conf")).unwrap()).unwrap()
}

/// From arming to the opened dump: the crash kernel wraps to the one-boot recipient, which
/// only the tokens open, any one of them.
#[test]
fn any_one_token_opens_by_the_one_boot_identity() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = [plugin_key(dir.path(), "t0", None), plugin_key(dir.path(), "t1", None)];
    let config = armed_for(dir.path(), &[&tokens[0], &tokens[1]]);
    let escrow = config.escrow.as_ref().unwrap();
    let one_boot = config.recipients[0].as_str().to_owned();
    let b = Bench::new(|p| p.recipients = vec![one_boot.clone()]);
    b.pull("dump", 0);
    let mut dump = b.bytes("dump");
    // The second entry, as PID 1 writes it beside the first.
    for at in areas(&dump) {
        let old = area(&dump, at);
        let old = KeyArea::decode(&old).unwrap();
        let second = KeyEntry {
            kind: KeyKind::Identity,
            fingerprints: &escrow.fingerprints,
            wrapped: &escrow.wrapped,
        };
        let all: Vec<KeyEntry<'_>> = old.entries().chain([second]).collect();
        let mut new = [0; KEY_AREA_LEN];
        KeyArea::encode(&mut new, 0, &all).unwrap();
        dump[at..at + KEY_AREA_LEN].copy_from_slice(&new);
    }
    fs::write(b.d().join("dump"), &dump).unwrap();
    let d = b.d();
    plugin_key(d, "stranger", None);
    for name in ["t0", "t1"] {
        fs::copy(dir.path().join(name), d.join(name)).unwrap();
        with_plugin(d, &format!("verify @/dump -i @/{name}")).exits(0);
        assert_eq!(with_plugin(d, &format!("export log @/dump -i @/{name}")).exits(0).out, LOG);
    }
    with_plugin(d, "verify @/dump -i @/stranger").exits(1).complains("none of the given keys");
    cmd(d, "verify @/dump -i @/key").exits(1).complains("none of the given keys");
    let list = cmd(d, "list @/dump").exits(0).out;
    for r in [&tokens[0], &tokens[1], &one_boot] {
        assert!(list.contains(&print(r)), "{list}");
    }
    // Both steps by Debian's age alone: token → one-boot identity → data key.
    let found = entries(&dump, areas(&dump)[0]);
    let line = by_age(&found[1], &d.join("t0"), &plugin_path()).unwrap();
    assert!(line.starts_with(b"AGE-SECRET-KEY-1"));
    fs::write(d.join("one-boot"), line).unwrap();
    assert_eq!(by_age(&found[0], &d.join("one-boot"), &plugin_path()).unwrap().len(), 32);
    // Another arming has another identity, which does not open this dump.
    let other = armed_for(dir.path(), &[&tokens[0]]);
    assert_ne!(other.recipients[0], config.recipients[0]);
    // A token gives the dump to somebody new.
    let next = cmd(d, "keygen -o @/next").exits(0).out;
    with_plugin(d, &format!("rekey @/dump -i @/t1 --to {next}")).exits(0);
    cmd(d, "verify @/dump -i @/next").exits(0);
    with_plugin(d, "verify @/dump -i @/t0").exits(0);
}

/// An image directory whose profile names these recipients.
fn image(dir: &Path, recipients: &[String]) {
    let at = dir.join("image");
    fs::create_dir_all(&at).unwrap();
    let list: Vec<String> = recipients.iter().map(|r| format!("\"{r}\"")).collect();
    let board = format!(
        "name = \"bench\"\n[kernel]\nfragments = [\"base\"]\n[reservation]\ncrashkernel_mib = 64\n[[target]]\npartlabel = \"lifeboat-no-such\"\n[keys]\nrecipients = [{}]\n",
        list.join(", ")
    );
    let mut sums = String::new();
    for (name, text) in [
        ("vmlinuz", "not a kernel"),
        ("initramfs.cpio.zst", "not an archive"),
        ("board.toml", &board),
        ("manifest.json", "{\"version\": \"0.1.0-test\"}"),
    ] {
        fs::write(at.join(name), text).unwrap();
        let sum = tool(&format!("sha256sum {}", at.join(name).display()));
        sums.push_str(&format!("{}  {name}\n", sum.split(' ').next().unwrap()));
    }
    fs::write(at.join("SHA256SUMS"), sums).unwrap();
}

/// Arming runs the plugins before anything is loaded; the rest of it needs a machine with
/// a reservation, and this one has none.
#[test]
fn arming_needs_the_plugin_and_goes_on_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let tokens: Vec<String> = (0..9).map(|n| plugin_key(d, &format!("t{n}"), None)).collect();
    let arm = "arm --image @/image";
    image(d, &tokens[..2]);
    alone(d, arm, &[]).exits(1).complains("age-plugin-lifeboattest is not on the PATH");
    let ran = with_plugin(d, arm).exits(1);
    assert!(ran.err.contains("kexec") || ran.err.contains("no memory is reserved"), "{}", ran.err);
    let ran = with_plugin(d, &format!("{arm} --recipient {}", tokens[0])).exits(1);
    assert!(!ran.err.contains("plugin"), "{}", ran.err);
    image(d, &tokens);
    with_plugin(d, arm).exits(1).complains("name at most 8 of them");
    // A site that takes all recipients away takes those of plugins away too.
    fs::write(d.join("site.toml"), "[keys]\nencrypt = \"none\"\n").unwrap();
    let ran = alone(d, &format!("{arm} --site @/site.toml"), &[]).exits(1);
    assert!(!ran.err.contains("plugin"), "{}", ran.err);
}
