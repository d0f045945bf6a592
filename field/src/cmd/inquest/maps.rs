//! `lifeboat maps`: what a process of the dead machine had mapped, and how many of its pages
//! were where.

use std::fmt::Write as _;

use lifeboat_inquest::files::Paths;
use lifeboat_inquest::mm::{self, Counts, Tables, Vma};
use lifeboat_inquest::tasks::Process;
use serde_json::{Value, json};

use crate::cli::inquest::Maps;
use crate::ui::{Context as _, Ended, Failure, put, safe, warn};

/// Lists them. Exit code 3 when something was damaged.
pub(crate) fn run(args: &Maps) -> Ended {
    super::ask(args, |kernel| {
        let (processes, mut damage) = super::processes(kernel)?;
        let mm = space(&processes, args.pid)?;
        let found = mm::vmas(kernel, mm);
        damage.extend(super::told("mappings", &found));
        let tables = Tables::open(kernel, mm).context("page tables")?;
        let paths = Paths::new(kernel).map_err(|why| {
            let why = why.to_string();
            warn(format!("no paths: {}", safe(why.lines().next().unwrap_or_default())));
        });
        let paths = paths.as_ref().ok();
        let all: Vec<Area> = found
            .items
            .into_iter()
            .map(|vma| Area {
                counts: mm::count(&tables, vma.start, vma.end),
                name: name(paths, &vma),
                vma,
            })
            .collect();
        if args.json {
            let list: Vec<Value> = all.iter().map(json).collect();
            crate::cmd::print_json(&json!({ "maps": list, "damage": damage }))?;
        } else {
            put(table(&all));
        }
        Ok(super::outcome(&damage))
    })
}

/// A mapping, what it is called, and where its pages were.
struct Area {
    vma: Vma,
    name: Option<String>,
    counts: Counts,
}

/// The address space of the process that a number means.
fn space(processes: &[Process], pid: u32) -> Result<u64, Failure> {
    let process = super::process(processes, pid)?;
    process.mm.ok_or_else(|| {
        let what = if process.leader.kernel { "is a thread of the kernel" } else { "had ended" };
        Failure::new(format!("{pid} ({}) {what}: it has no memory", safe(&process.leader.comm)))
            .hint("`lifeboat ps` shows memory for those that have some")
    })
}

/// What a mapping is called, as `/proc/PID/maps` of the machine put it. Paths are told from
/// the top of the process's mounts, also where it had another root directory.
fn name(paths: Option<&Paths<'_, '_>>, vma: &Vma) -> Option<String> {
    let file = || {
        let file = vma.file?;
        let path = paths.and_then(|paths| paths.of_file(file, None).ok());
        Some(path.map_or_else(|| format!("file at {file:#x}"), |path| path.text()))
    };
    vma.name.clone().or_else(file)
}

fn json(Area { vma, name, counts: n }: &Area) -> Value {
    json!({
        "start": vma.start,
        "end": vma.end,
        "flags": vma.flags.text(),
        "vm_flags": vma.flags.0,
        "offset": if vma.file.is_some() { vma.offset } else { 0 },
        "name": name,
        "pages": {
            "present": n.present, "swap": n.swap, "migration": n.migration,
            "marked": n.marked, "special": n.special, "none": n.none, "lost": n.lost,
        },
    })
}

fn table(all: &[Area]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:>16} {:>16} PERM {:>10} {:>8} {:>8} {:>6} NAME",
        "START", "END", "OFFSET", "PRESENT", "SWAP", "LOST"
    );
    for Area { vma, name, counts: n } in all {
        let offset = if vma.file.is_some() { vma.offset } else { 0 };
        let _ = writeln!(
            out,
            "{:>16x} {:>16x} {} {offset:>10x} {:>8} {:>8} {:>6} {}",
            vma.start,
            vma.end,
            vma.flags.text(),
            n.present.saturating_add(n.migration),
            n.swap,
            n.lost,
            safe(name.as_deref().unwrap_or_default()),
        );
    }
    out
}
