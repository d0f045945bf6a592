//! `lifeboat libs`: the files that a process of the dead machine ran.

use std::fmt::Write as _;

use lifeboat_inquest::files::buildid::Identity;
use lifeboat_inquest::process::{Library, Tools, libraries};
use serde_json::{Value, json};

use crate::cli::inquest::Libs;
use crate::ui::{Context as _, Ended, Outcome, put, safe, warn};

/// Lists them. Exit code 3 when a mapping or a path was damaged.
pub(crate) fn run(args: &Libs) -> Ended {
    super::ask(args, |kernel| {
        let (processes, _) = super::processes(kernel)?;
        let process = super::process(&processes, args.pid)?;
        let tools = Tools::new(kernel).plain()?;
        let dead = tools.process(process).plain()?;
        for words in &dead.problems {
            warn(safe(words));
        }
        let mut libs = libraries(&tools, &dead);
        // Data that a program mapped has no build id to be fetched by.
        libs.retain(|l| l.identity != Identity::NotElf);
        if args.json {
            let list: Vec<Value> = libs.iter().map(json).collect();
            crate::cmd::print_json(&json!({ "libs": list, "problems": dead.problems }))?;
        } else {
            put(table(&libs));
        }
        Ok(if dead.problems.is_empty() { Outcome::Good } else { Outcome::Partial })
    })
}

/// How much of a file is in memory: all of it can be had by `lifeboat extract`.
fn present(lib: &Library) -> &'static str {
    match lib.cached {
        0 => "no",
        n if n >= lib.pages => "yes",
        _ => "partly",
    }
}

fn json(lib: &Library) -> Value {
    json!({
        "path": lib.path.text(),
        "build_id": lib.identity.hex(),
        "deleted": lib.path.deleted,
        "start": lib.start,
        "end": lib.end,
        "executable": lib.executable,
        "present": present(lib),
        "pages": lib.pages,
        "cached": lib.cached,
    })
}

fn table(libs: &[Library]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:>16} {:<40} PRESENT {:>13} PATH", "START", "BUILD-ID", "PAGES");
    for lib in libs {
        let id = match &lib.identity {
            Identity::BuildId(_) => lib.identity.hex().unwrap_or_default(),
            Identity::NoBuildId => "none".to_owned(),
            Identity::Unknown | Identity::NotElf => "not in memory".to_owned(),
        };
        let _ = writeln!(
            out,
            "{:>16x} {id:<40} {:<7} {:>6}/{:<6} {}",
            lib.start,
            present(lib),
            lib.cached,
            lib.pages,
            safe(&lib.path.text()),
        );
    }
    out
}
