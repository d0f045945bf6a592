//! `lifeboat core`: core files of the dead machine's processes.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use lifeboat_format::PAGE;
use lifeboat_inquest::elfcore::{self, Report};
use lifeboat_inquest::process::Tools;
use lifeboat_inquest::tasks::Process;
use lifeboat_inquest::{Hole, Kernel};
use serde_json::{Value, json};

use crate::cli::inquest::Core;
use crate::output::Output;
use crate::ui::{self, Context as _, Ended, Failure, Outcome, progress, safe, say, warn};

const PAGE64: u64 = PAGE as u64;
/// Most pages of memory that are believed in: 64 TiB.
const MAX_MEMORY: u64 = 1 << 34;

/// Writes them. Exit code 3 when pages are missing that were the process's.
pub(crate) fn run(args: &Core) -> Ended {
    let ways = usize::from(args.pid.is_some()) + usize::from(args.comm.is_some());
    if ways + usize::from(args.all) != 1 {
        return Err(Failure::usage("which process?")
            .hint("give one of --pid N, --comm NAME and --all; `lifeboat ps` lists them"));
    }
    let report = args.report.as_deref().map(|p| Output::create(p, args.force)).transpose()?;
    super::ask(args, |kernel| {
        let (processes, damage) = super::processes(kernel)?;
        let tools = Tools::new(kernel).plain()?;
        for words in tools.problems() {
            warn(safe(words));
        }
        let (told, outcome) = match args.pid {
            Some(pid) => {
                let process = super::process(&processes, pid)?;
                one(kernel, &tools, process, &args.output, args.force)?
            }
            None => {
                let (value, outcome) = several(kernel, &tools, &processes, args)?;
                // Some that were meant may be among those that were not found.
                (value, if damage.is_empty() { outcome } else { Outcome::Partial })
            }
        };
        if let Some(report) = report {
            let text = serde_json::to_string_pretty(&told).context("JSON")?;
            let mut file = report.file();
            file.write_all(text.as_bytes()).context(report.path().display())?;
            report.finish()?;
        }
        Ok(outcome)
    })
}

/// Core files of all that are meant, one that fails beside the others.
fn several(
    kernel: &Kernel<'_>,
    tools: &Tools<'_, '_>,
    processes: &[Process],
    args: &Core,
) -> Result<(Value, Outcome), Failure> {
    let named = |p: &&Process| args.comm.as_ref().is_none_or(|c| *c == p.leader.comm);
    let meant: Vec<&Process> = processes.iter().filter(|p| p.mm.is_some()).filter(named).collect();
    if meant.is_empty() {
        let name = args.comm.as_deref().unwrap_or("at all");
        return Err(Failure::new(format!("the dead machine had no process {}", safe(name)))
            .hint("`lifeboat ps` lists those it had"));
    }
    std::fs::create_dir_all(&args.output).context(args.output.display())?;
    let (mut told, mut all) = (Vec::new(), Outcome::Good);
    for process in meant {
        let path = args.output.join(file_name(process));
        match one(kernel, tools, process, &path, args.force) {
            Ok((value, outcome)) => {
                told.push(value);
                all = if outcome == Outcome::Good { all } else { Outcome::Partial };
            }
            Err(failure) => {
                warn(safe(failure.text()));
                let error = failure.text().to_owned();
                told.push(json!({ "pid": process.leader.tgid, "error": error }));
                all = Outcome::Partial;
            }
        }
    }
    Ok((json!({ "cores": told }), all))
}

/// `core.NAME.PID`; a name is anything that a program called itself.
fn file_name(process: &Process) -> PathBuf {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_+".contains(c) { c } else { '_' };
    let name: String = process.leader.comm.chars().map(safe).collect();
    format!("core.{name}.{}", process.leader.tgid).into()
}

/// One core file, and what is told of it.
fn one(
    kernel: &Kernel<'_>,
    tools: &Tools<'_, '_>,
    process: &Process,
    path: &Path,
    force: bool,
) -> Result<(Value, Outcome), Failure> {
    let out = Output::create(path, force)?;
    let dead = tools.process(process).plain()?;
    let problems = [dead.problems.as_slice(), &dead.thread_problems].concat();
    for words in &problems {
        warn(format!("{}: {}", process.leader.tgid, safe(words)));
    }
    let bytes: u64 = dead.process.mappings.iter().map(|m| m.end - m.start).sum();
    let bar = progress(bytes, "core");
    let tell = |pages: u64| bar.set_position(pages.saturating_mul(PAGE64));
    let options = elfcore::Options {
        most_pages: most_pages(kernel),
        progress: Some(&tell),
        ..elfcore::Options::default()
    };
    let file = BufWriter::with_capacity(1 << 20, out.file());
    let report = elfcore::write(file, &dead.process, &dead.memory, &options);
    bar.finish_and_clear();
    let report = report.context(path.display())?;
    out.finish()?;
    tell_user(process, path, &report);
    let lost = report.lost_pages() > 0
        || dead.process.threads.len() < process.threads.len()
        || !dead.whole
        || !dead.problems.is_empty();
    let outcome = if lost { Outcome::Partial } else { Outcome::Good };
    Ok((json(process, path, &report, (dead.whole, &problems)), outcome))
}

/// Pages that may be looked at: all of memory and swap four times, since memory that is
/// shared may be mapped several times; and at least 1 GiB.
fn most_pages(kernel: &Kernel<'_>) -> u64 {
    let swap = kernel.machine().swaps().iter().fold(0u64, |sum, d| sum.saturating_add(d.bytes));
    // `max_pfn` is behind the last page of memory (`arch/x86/kernel/setup.c`).
    let memory = kernel.symbol("max_pfn").and_then(|at| kernel.u64(at).ok());
    let memory = memory.unwrap_or(u64::MAX).min(MAX_MEMORY);
    memory.saturating_add(swap / PAGE64).saturating_mul(4).max(1 << 18)
}

fn tell_user(process: &Process, path: &Path, report: &Report) {
    let kinds: Vec<String> =
        report.pages.iter().map(|(o, n)| format!("{n} {}", o.name())).collect();
    say!(
        "wrote {}: {} ({}), {}, {} threads; pages: {}",
        path.display(),
        safe(&process.leader.comm),
        process.leader.tgid,
        ui::bytes(report.len),
        process.threads.len(),
        if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") },
    );
    for (why, pages) in &report.missing {
        let words = format!("{}: {pages} pages are {why}", process.leader.tgid);
        // What only a file has was never in memory: gdb takes it from that file.
        if *why == Hole::FileOnly { say!("  {words}") } else { warn(words) }
    }
}

fn json(
    process: &Process,
    path: &Path,
    report: &Report,
    (whole, problems): (bool, &[String]),
) -> Value {
    let pages: BTreeMap<&str, u64> = report.pages.iter().map(|(o, n)| (o.name(), *n)).collect();
    let missing: BTreeMap<String, u64> =
        report.missing.iter().map(|(why, n)| (why.to_string(), *n)).collect();
    let hole = |h: &elfcore::Stretch| {
        let (address, pages) = (h.start, (h.end - h.start) / PAGE64);
        json!({ "address": address, "pages": pages, "reason": h.why.to_string() })
    };
    let holes: Vec<Value> = report.holes.iter().map(hole).collect();
    json!({
        "pid": process.leader.tgid,
        "comm": process.leader.comm,
        "file": path.display().to_string(),
        "bytes": report.len,
        "segments": report.segments,
        "pages": pages,
        "missing": missing,
        // Of a mapping that was not found, no hole tells.
        "all_mappings": whole,
        "holes": holes,
        "problems": problems,
    })
}
