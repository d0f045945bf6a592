//! The bill of materials: CycloneDX 1.5, without a serial number or a time, so
//! that the same image has the same one.

use serde_json::{Value, json};

use crate::kernel::Kernel;
use crate::programs::Linked;

/// Everything that is in an image: crates, kernel, driver.
pub(crate) fn cyclonedx(version: &str, kernel: &Kernel, crates: &[Linked]) -> Value {
    let mut components: Vec<Value> = crates.iter().map(library).collect();
    let source = &kernel.origin;
    let mut linux = json!({
        "type": "operating-system",
        "bom-ref": "linux",
        "name": "linux",
        "version": kernel.version,
        "licenses": [{ "expression": "GPL-2.0-only WITH Linux-syscall-note" }],
        "hashes": [{ "alg": "SHA-256", "content": source.sha256 }],
        "properties": [
            { "name": "lifeboat:source", "value": format!("{} {} {}", source.kind, source.name, source.version).trim_end() },
        ],
    });
    if let (true, Some(fields)) = (source.kind == "package", linux.as_object_mut()) {
        let purl = format!("pkg:deb/debian/{}@{}?arch=all", source.name, percent(&source.version));
        fields.insert("purl".to_owned(), json!(purl));
    }
    components.push(linux);
    let files = kernel.overlay.files.iter();
    components.push(json!({
        "type": "device-driver",
        "bom-ref": "lifeboat-oldmem",
        "name": "lifeboat-oldmem",
        "version": version,
        "licenses": [{ "license": { "id": "GPL-2.0-only" } }],
        "components": files.map(|(name, found)| json!({
            "type": "file",
            "name": name,
            "hashes": [{ "alg": "SHA-256", "content": found.sha256 }],
        })).collect::<Vec<_>>(),
    }));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "firmware",
                "bom-ref": "lifeboat-image",
                "name": "lifeboat-image",
                "version": version,
            },
        },
        "components": components,
    })
}

fn library(linked: &Linked) -> Value {
    let purl = format!("pkg:cargo/{}@{}", linked.name, percent(&linked.version));
    let own = linked.name.starts_with("lifeboat");
    let program = crate::programs::PACKAGES.contains(&linked.name.as_str());
    let mut out = json!({
        "type": if program { "application" } else { "library" },
        "bom-ref": purl,
        "name": linked.name,
        "version": linked.version,
        "licenses": [{ "expression": linked.licence }],
    });
    let Some(fields) = out.as_object_mut() else { return out };
    if !own {
        fields.insert("purl".to_owned(), json!(purl));
    }
    if let Some(sha256) = &linked.sha256 {
        fields.insert("hashes".to_owned(), json!([{ "alg": "SHA-256", "content": sha256 }]));
    }
    out
}

/// A version as a package URL has it.
fn percent(version: &str) -> String {
    version.replace('+', "%2B").replace('~', "%7E").replace(':', "%3A")
}
