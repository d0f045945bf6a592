//! The rules of the house. ARCHITECTURE.md says why each is there.

#![allow(clippy::unwrap_used, reason = "a test falls over where it is wrong")]

use lifeboat_house::{crates, features, files, root, text};

/// Who may depend on whom. A crate that is not here may not be in the workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("lifeboat-format", &[]),
    ("lifeboat-sys", &[]),
    ("lifeboat-engine", &["lifeboat-format"]),
    ("lifeboat-sources", &["lifeboat-format", "lifeboat-sys"]),
    ("lifeboat-sink", &["lifeboat-format", "lifeboat-sys"]),
    ("lifeboat-crypt", &["lifeboat-format"]),
    (
        "lifeboat-join",
        &[
            "lifeboat-format",
            "lifeboat-engine",
            "lifeboat-sources",
            "lifeboat-sink",
            "lifeboat-crypt",
            "lifeboat-sys",
        ],
    ),
    (
        "lifeboat-init",
        &[
            "lifeboat-format",
            "lifeboat-engine",
            "lifeboat-sources",
            "lifeboat-sink",
            "lifeboat-crypt",
            "lifeboat-join",
            "lifeboat-sys",
        ],
    ),
    ("lifeboat-profile", &["lifeboat-format", "lifeboat-crypt"]),
    // What PID 1 will take is asked of the code that takes it.
    ("lifeboat-builder", &["lifeboat-profile", "lifeboat-format", "lifeboat-join"]),
    // What a dead kernel's memory means; how a dump is opened is not its business.
    ("lifeboat-inquest", &["lifeboat-format", "lifeboat-sources"]),
    (
        "lifeboat",
        &[
            "lifeboat-inquest",
            "lifeboat-engine",
            "lifeboat-join",
            "lifeboat-format",
            "lifeboat-crypt",
            "lifeboat-sink",
            "lifeboat-sources",
            "lifeboat-profile",
            "lifeboat-sys",
        ],
    ),
    // Tests drive the built programs from outside; they may know the format.
    ("lifeboat-qemu", &["lifeboat-format"]),
    ("lifeboat-house", &[]),
    // Peers and we are run from outside, on input that a crashed guest gave.
    ("lifeboat-bench", &["lifeboat-qemu"]),
    // Fuzz targets call every reader of hostile bytes by its public interface.
    (
        "lifeboat-fuzz",
        &[
            "lifeboat",
            "lifeboat-inquest",
            "lifeboat-format",
            "lifeboat-sources",
            "lifeboat-sink",
            "lifeboat-crypt",
        ],
    ),
];

/// The only crate with `unsafe` in it.
const UNSAFE: &str = "lifeboat-sys";

/// Most lines of a file, by how its name ends. A kernel driver is one file by custom.
const LENGTHS: &[(&str, usize)] = &[(".rs", 600), (".py", 600), (".sh", 60), (".c", 700)];

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    let crates = crates().unwrap();
    assert!(crates.len() > 5, "cargo metadata shows only {} crates", crates.len());
    for one in &crates {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == one.name) else {
            wrong.push(format!("{} has no line in the table of arrows", one.name));
            continue;
        };
        for need in one.needs.iter().filter(|n| !allowed.contains(&n.as_str())) {
            wrong.push(format!("{} may not depend on {need}", one.name));
        }
    }
    for (name, _) in ARROWS.iter().filter(|(n, _)| !crates.iter().any(|c| c.name == *n)) {
        wrong.push(format!("{name} is in the table, but not in the workspace"));
    }
    none("arrows between crates", &wrong);
}

#[test]
fn unsafe_is_in_one_crate_only() {
    let mut wrong = Vec::new();
    for one in crates().unwrap() {
        assert!(!one.roots.is_empty(), "{} has no roots", one.name);
        for file in &one.roots {
            let forbidden = text(file).unwrap().lines().any(|l| l == "#![forbid(unsafe_code)]");
            if forbidden == (one.name == UNSAFE) {
                wrong.push(file.clone());
            }
        }
    }
    none("every crate root but the one of capturer/sys says #![forbid(unsafe_code)]", &wrong);
}

/// Without `std` the checksum cannot ask what the processor has, and takes ten times as long:
/// a fifth of the time of a capture that stores.
#[test]
fn checksums_use_what_the_processor_has() {
    for program in ["lifeboat-init", "lifeboat"] {
        let features = features(program, "crc32fast").unwrap();
        assert!(features.iter().any(|f| f == "std"), "{program}: crc32fast has {features:?}");
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let mut wrong = Vec::new();
    for one in crates().unwrap() {
        let manifest: toml::Table = text(&one.manifest).unwrap().parse().unwrap();
        let lints = manifest.get("lints").and_then(|l| l.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            wrong.push(one.manifest);
        }
    }
    none("manifests without [lints] workspace = true", &wrong);
}

/// Whether a file without an ending is a shell script.
fn is_shell(name: &str) -> bool {
    let plain = !name.rsplit('/').next().unwrap_or_default().contains('.');
    let first = |t: String| t.lines().next().unwrap_or_default().to_owned();
    plain && first(text(name).unwrap()).starts_with("#!") && {
        let line = first(text(name).unwrap());
        line.ends_with("sh") || line.contains("sh ")
    }
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for name in files().unwrap() {
        let by_end = LENGTHS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, max)| *max);
        let max = by_end.or_else(|| is_shell(&name).then_some(60));
        let max = if name == "Makefile" { Some(80) } else { max };
        let Some(max) = max else { continue };
        seen += 1;
        let lines = text(&name).unwrap().lines().count();
        if lines >= max {
            wrong.push(format!("{name}: {lines} lines, allowed are fewer than {max}"));
        }
    }
    assert!(seen > 20, "only {seen} files were looked at");
    none("files that are too long: split them by noun", &wrong);
}

#[test]
fn no_file_names_the_host_of_a_registry() {
    // Put together here, so that this file does not name them either.
    let hosts: Vec<String> = [
        ["crates", "io"],
        ["pypi", "org"],
        ["pythonhosted", "org"],
        ["npmjs", "org"],
        ["deb.debian", "org"],
        ["security.debian", "org"],
        ["snapshot.debian", "org"],
        ["proxy.golang", "org"],
    ]
    .iter()
    .map(|parts| parts.join("."))
    .collect();
    let mut wrong = Vec::new();
    for name in files().unwrap().iter().filter(|n| *n != "Cargo.lock") {
        let text = text(name).unwrap();
        for (n, line) in text.lines().enumerate() {
            if hosts.iter().any(|h| line.contains(h.as_str())) {
                wrong.push(format!("{name}:{}", n + 1));
            }
        }
    }
    none("registries are named by their clients' configuration only", &wrong);
}

#[test]
fn kernel_code_states_its_licence() {
    let files = files().unwrap();
    let code: Vec<&String> = files
        .iter()
        .filter(|n| n.starts_with("image/linux/") && !n.ends_with(".md") && !n.ends_with(".patch"))
        .collect();
    assert!(code.len() >= 3, "only {} files in image/linux", code.len());
    let licensed = |name: &str| {
        let text = text(name).unwrap();
        text.lines().next().is_some_and(|l| l.contains("SPDX-License-Identifier: GPL-2.0-only"))
    };
    let wrong: Vec<String> = code.into_iter().filter(|n| !licensed(n)).cloned().collect();
    none("first line without SPDX-License-Identifier: GPL-2.0-only", &wrong);
}

#[test]
fn a_board_is_data() {
    let mut wrong = Vec::new();
    let mut boards = 0;
    for name in files().unwrap().iter().filter(|n| n.starts_with("board/")) {
        boards += usize::from(name.ends_with("/board.toml"));
        let data = [".toml", ".md", ".config", ".patch"].iter().any(|end| name.ends_with(end));
        let mode = std::fs::metadata(root().join(name)).unwrap().permissions();
        let runs = std::os::unix::fs::PermissionsExt::mode(&mode) & 0o111 != 0;
        if !data || runs {
            wrong.push(name.clone());
        }
    }
    assert!(boards > 0, "no board has a board.toml");
    none("a board directory holds data, never a script", &wrong);
}
