//! The whole path in a machine: panic, capture, reboot, host commands. Without KVM
//! only ratios and the order of phases mean something.

use std::process::Command;

use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::paths::workspace;

use crate::lab::Lab;
use crate::table;

pub(crate) fn run(_lab: &mut Lab) -> Res<()> {
    table::title("from panic to opened dump, in QEMU");
    let status = Command::new("cargo")
        .args(["run", "--release", "-q", "-p", "lifeboat-qemu", "--bin", "lifeboat-demo", "--"])
        .arg("--bench")
        .current_dir(workspace())
        .status()
        .ctx("cargo")?;
    ensure(status.success(), "the cycle in QEMU failed\nhint: make image")
}
