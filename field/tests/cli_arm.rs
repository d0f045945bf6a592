//! `lifeboat arm`, `status` and `disarm` up to the system call: everything that is
//! refused before. The whole of it is driven by the QEMU tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]
mod common;
use common::{cmd, tool};
use std::path::Path;

const BOARD: &str = r#"
name = "bench"
[kernel]
package = "linux-source-6.12"
fragments = ["base"]
cmdline = ["panic=10"]
[reservation]
crashkernel_mib = 64
"#;

fn image(dir: &Path, board: &str) {
    let at = dir.join("image");
    std::fs::create_dir_all(&at).unwrap();
    std::fs::write(at.join("vmlinuz"), b"not a kernel").unwrap();
    std::fs::write(at.join("initramfs.cpio.zst"), b"not an archive").unwrap();
    std::fs::write(at.join("board.toml"), board).unwrap();
    std::fs::write(at.join("manifest.json"), b"{\"version\": \"0.1.0-test\"}").unwrap();
    let sums = tool(&format!(
        "sha256sum {0}/vmlinuz {0}/initramfs.cpio.zst {0}/board.toml {0}/manifest.json",
        at.display()
    ));
    // Listed, but not needed on the host.
    let sums = sums.replace(&format!("{}/", at.display()), "")
        + &format!("{}  sbom.cdx.json\n", "0".repeat(64));
    std::fs::write(at.join("SHA256SUMS"), sums).unwrap();
}

struct Bench(tempfile::TempDir, String);

impl Bench {
    fn new(board: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path(), board);
        let recipient = cmd(dir.path(), "keygen -o @/key").exits(0).out.trim().to_owned();
        Self(dir, recipient)
    }
    fn arm(&self, options: &str) -> common::Ran {
        cmd(self.0.path(), &format!("arm --image @/image {options}").replace("RECIPIENT", &self.1))
    }
}

#[test]
fn a_changed_missing_or_unlisted_file_is_refused() {
    let b = Bench::new(BOARD);
    let at = b.0.path().join("image");
    std::fs::write(at.join("vmlinuz"), b"not that kernel").unwrap();
    b.arm("").exits(1).complains("vmlinuz is not what SHA256SUMS says");
    std::fs::remove_file(at.join("vmlinuz")).unwrap();
    b.arm("").exits(1).complains("vmlinuz: No such file");
    std::fs::write(at.join("SHA256SUMS"), format!("{}  ../vmlinuz\n", "0".repeat(64))).unwrap();
    b.arm("").exits(1);
    std::fs::write(at.join("SHA256SUMS"), "").unwrap();
    b.arm("").exits(1).complains("does not list vmlinuz");
    std::fs::remove_file(at.join("SHA256SUMS")).unwrap();
    b.arm("").exits(1).complains("SHA256SUMS: No such file");
}

#[test]
fn what_nobody_named_is_asked_for() {
    let b = Bench::new(BOARD);
    let ran = b.arm("").exits(1);
    assert!(ran.err.contains("no target") && ran.err.contains("no recipient"), "{}", ran.err);
    b.arm("--target partlabel=lifeboat").exits(1).complains("no recipient");
    b.arm("--target lifeboat --recipient RECIPIENT").exits(2).complains("key=value");
    b.arm("--target partlabel=x --recipient age1nonsense").exits(1).complains("is not a recipient");
    b.arm("--target partlabel=x --recipient RECIPIENT --swap none --swap auto").exits(2);
    b.arm("--target path=/dev/sda1 --recipient RECIPIENT").exits(1);
    b.arm("--target partlabel=x --recipient RECIPIENT --swap partlabel=x")
        .exits(1)
        .complains("swap device and the dump's target");
    b.arm("--site @/none.toml --target partlabel=x --recipient RECIPIENT")
        .exits(1)
        .complains("none.toml");
    b.arm("--target partlabel=x --recipient RECIPIENT --cmdline-append a\u{7}b")
        .exits(1)
        .complains("printable");
}

#[test]
fn a_broken_profile_is_named_with_its_line() {
    let b = Bench::new(&BOARD.replace("crashkernel_mib", "crashkernel_mb"));
    b.arm("").exits(1).complains("board.toml:8:");
}

/// All orders are good; what is missing is a machine with a reservation. The
/// machines that build and test have none.
#[test]
fn without_a_reservation_nothing_is_armed() {
    let b = Bench::new(BOARD);
    let size = std::fs::read_to_string("/sys/kernel/kexec_crash_size").unwrap_or_default();
    assert!(
        matches!(size.trim(), "" | "0"),
        "this machine has a crash kernel reservation: run elsewhere"
    );
    let ran = b.arm("--target partlabel=lifeboat-no-such --recipient RECIPIENT").exits(1);
    let words = if size.is_empty() { "has no kexec" } else { "no memory is reserved" };
    let ran = ran.complains(words);
    assert!(ran.out.is_empty(), "{}", ran.out);
    cmd(b.0.path(), "status").exits(1).prints("NOT ARMED");
    let json: serde_json::Value =
        serde_json::from_str(&cmd(b.0.path(), "status --json").exits(1).out).unwrap();
    assert_eq!(json["armed"], false);
}
