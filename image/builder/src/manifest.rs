//! `manifest.json`: what an image was made of, and what it needs. It knows no time,
//! host or path, so that two builds of the same inputs have the same one.

use std::collections::BTreeMap;

use lifeboat_profile::Profile;
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::kernel::Kernel;
use crate::needs::Needs;

/// Version of the manifest's layout.
pub(crate) const SCHEMA: u32 = 1;

/// What a manifest is made from.
pub(crate) struct Facts<'a> {
    pub(crate) version: &'a str,
    pub(crate) commit: Option<&'a str>,
    pub(crate) profile: &'a Profile,
    pub(crate) kernel: &'a Kernel,
    pub(crate) rustc: &'a str,
    /// Inputs of the workspace, by name.
    pub(crate) inputs: BTreeMap<String, Digest>,
    /// Files of the image, by name.
    pub(crate) outputs: &'a BTreeMap<String, Digest>,
    /// The uncompressed initramfs, in bytes: it lies in the reservation too.
    pub(crate) unpacked: u64,
    /// What the image needs of its reservation.
    pub(crate) needs: &'a Needs,
}

/// The manifest as JSON.
pub(crate) fn json(facts: &Facts<'_>) -> Value {
    let kernel = facts.kernel;
    let mut inputs = facts.inputs.clone();
    for (name, found) in &kernel.overlay.files {
        inputs.insert(name.clone(), found.clone());
    }
    for fragment in &kernel.fragments {
        inputs.insert(fragment.name.clone(), fragment.digest.clone());
    }
    let mut toolchain: BTreeMap<&str, &str> = BTreeMap::from([("rustc", facts.rustc)]);
    toolchain.extend(kernel.tools.iter().map(|(tool, version)| (*tool, version.as_str())));
    let profile = facts.profile;
    let size = |name: &str| facts.outputs.get(name).map(|d| d.size);
    json!({
        "schema": SCHEMA,
        "version": facts.version,
        "board": profile.name,
        "commit": facts.commit,
        "cmdline": profile.cmdline(),
        "reservation": {
            "crashkernel": profile.crashkernel(),
            "crashkernel_mib": profile.crashkernel_mib,
            "image_budget_mib": profile.image_budget_mib,
            "initramfs_packed_bytes": size("initramfs.cpio.zst"),
            "initramfs_unpacked_bytes": facts.unpacked,
            "vmlinuz_bytes": size("vmlinuz"),
            "needs": facts.needs.json(),
        },
        "encrypt": profile.encrypt,
        // What a host must name when arming; empty if the image can stand alone.
        "site_needed": profile.missing(),
        "kernel": { "version": kernel.version, "source": kernel.origin },
        "inputs": inputs,
        "toolchain": toolchain,
        "outputs": facts.outputs,
    })
}
