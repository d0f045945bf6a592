//! `lifeboat extract`: a file of the dead machine.

use std::io::{BufWriter, Write as _};

use lifeboat_format::PAGE;
use lifeboat_inquest::files::extract::Extracted;
use lifeboat_inquest::files::{Mapping, extract, lookup};
use lifeboat_inquest::process::{Dead, Tools};
use lifeboat_inquest::tasks::Process;

use crate::cli::inquest::Extract;
use crate::output::Output;
use crate::ui::{self, Context as _, Ended, Failure, Outcome, safe, say, warn};

const PAGE64: u64 = PAGE as u64;

/// Writes it. Exit code 3 when parts of it are missing.
pub(crate) fn run(args: &Extract) -> Ended {
    let out = Output::create(&args.output, args.force)?;
    let listing = args.missing.as_deref().map(|p| Output::create(p, args.force)).transpose()?;
    super::ask(args, |kernel| {
        let (processes, _) = super::processes(kernel)?;
        let tools = Tools::new(kernel).plain()?;
        let file = match args.pid {
            Some(pid) => of_process(&tools, super::process(&processes, pid)?, &args.path)?,
            None => of_machine(&tools, &processes, &args.path)?,
        };
        let file_out = BufWriter::with_capacity(1 << 20, out.file());
        let report = extract(tools.cache(), tools.swapped(), &file, file_out);
        let report = report.context(args.output.display())?;
        if let Some(listing) = listing {
            let mut file = listing.file();
            file.write_all(missing(&report).as_bytes()).context(listing.path().display())?;
            listing.finish()?;
        }
        out.finish()?;
        say!(
            "wrote {}: {}, {} of {} pages",
            args.output.display(),
            ui::bytes(report.len),
            report.pages,
            report.len.div_ceil(PAGE64),
        );
        if report.missing() == 0 {
            return Ok(Outcome::Good);
        }
        warn(format!(
            "{} pages are not in the dump; there are holes in their place, which --missing FILE lists",
            report.missing()
        ));
        Ok(Outcome::Partial)
    })
}

/// A file among those that a process had mapped, else by its path from the process's root.
fn of_process(tools: &Tools<'_, '_>, process: &Process, path: &str) -> Result<Mapping, Failure> {
    if process.mm.is_some() {
        let dead = tools.process(process).plain()?;
        if let Some(file) = mapped(&dead, path) {
            return Ok(file);
        }
    }
    from_root(tools, process.leader.addr, path)
}

/// A file by its path from the root of the first process, which is the machine's.
fn of_machine(
    tools: &Tools<'_, '_>,
    processes: &[Process],
    path: &str,
) -> Result<Mapping, Failure> {
    let first = processes.iter().find(|p| p.leader.tgid == 1).or(processes.first());
    let first = first.ok_or_else(|| Failure::new("the dead machine had no process"))?;
    match from_root(tools, first.leader.addr, path) {
        Ok(found) => Ok(found),
        // Another process may have mapped it: in a mount of its own, or deleted.
        Err(failure) => {
            let others = processes.iter().filter(|p| p.mm.is_some());
            let mut others = others.filter_map(|p| tools.process(p).ok());
            others.find_map(|dead| mapped(&dead, path)).ok_or_else(|| failure.context(safe(path)))
        }
    }
}

/// A file that a process had mapped.
fn mapped(dead: &Dead<'_, '_, '_>, path: &str) -> Option<Mapping> {
    let (start, _) = dead.paths.iter().find(|(_, p)| p.bytes == path.as_bytes())?;
    let map = dead.memory.maps().iter().find(|m| m.vma.start == *start)?;
    map.file.and_then(Result::ok)
}

fn from_root(tools: &Tools<'_, '_>, task: u64, path: &str) -> Result<Mapping, Failure> {
    let root = tools.paths().root_of(task).plain()?;
    let (kernel, paths, cache) = (tools.kernel(), tools.paths(), tools.cache());
    let target = lookup::find(kernel, paths, cache, root, path.as_bytes()).plain()?;
    cache.of_inode(target.inode).context(safe(path))
}

/// `FIRST-BYTE END-BYTE WHY` a line.
fn missing(report: &Extracted) -> String {
    let line = |g: &lifeboat_inquest::files::extract::Gap| {
        let (from, to) = (g.page * PAGE64, (g.page + g.pages) * PAGE64);
        format!("{from} {} {}\n", to.min(report.len), g.why)
    };
    report.gaps.iter().map(line).collect()
}
