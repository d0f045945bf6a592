//! `lifeboat export`: the contents of a dump, in the forms that other tools read.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use super::opened::Source;
use crate::cli::{
    Export, ExportLog, ExportNotes, ExportSwap, ExportVmcore, ExportWhat, VmcoreFormat,
};
use crate::output::Output;
use crate::ui::{self, Context as _, Ended, Failure, Outcome, progress, safe, warn};
use lifeboat_field::dump::OpenDump;
use lifeboat_field::export::kdump::Compression;
use lifeboat_field::export::{Missing, Options, Report, Why, elf, kdump, pipe, swap};

/// Exports what was asked for. Exit code 3 when the dump is not complete.
pub(crate) fn run(args: &Export) -> Ended {
    match &args.what {
        ExportWhat::Vmcore(a) => vmcore(a),
        ExportWhat::Swap(a) => swap(a),
        ExportWhat::Log(a) => log(a),
        ExportWhat::Notes(a) => notes(a),
    }
}

fn log(args: &ExportLog) -> Ended {
    let source = Source {
        dev: &args.dev,
        partition: args.partition.as_deref(),
        with: &args.with,
        which: args.dump,
    };
    let out = args.output.as_deref().map(|p| Output::create(p, args.force)).transpose()?;
    let dump = source.unlock(&args.identity)?;
    let bytes = dump.log().context(&args.dev)?;
    if bytes.is_empty() {
        return Err(Failure::new("the dump holds no log")
            .hint("the capturer could not read it; `lifeboat export vmcore` and `crash` may still find it"));
    }
    match out {
        Some(out) => write_whole(out, &bytes)?,
        None => std::io::stdout().lock().write_all(&bytes).context("standard output")?,
    }
    Ok(Outcome::Good)
}

fn notes(args: &ExportNotes) -> Ended {
    let source = Source {
        dev: &args.dev,
        partition: args.partition.as_deref(),
        with: &args.with,
        which: args.dump,
    };
    let out = Output::create(&args.output, args.force)?;
    let dump = source.unlock(&args.identity)?;
    let bytes = dump.notes().context(&args.dev)?;
    write_whole(out, &bytes)?;
    Ok(Outcome::Good)
}

fn vmcore(args: &ExportVmcore) -> Ended {
    let source = Source {
        dev: &args.dev,
        partition: args.partition.as_deref(),
        with: &args.with,
        which: args.dump,
    };
    let piped = args.output == Path::new("-");
    if piped {
        check_pipe(args)?;
    }
    let out = (!piped).then(|| Output::create(&args.output, args.force)).transpose()?;
    let listing = args.missing.as_deref().map(|p| Output::create(p, args.force)).transpose()?;
    let dump = source.unlock(&args.identity)?;
    let bar = progress(0, "export");
    let tell = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let options = Options { threads: 0, skip_damaged: args.skip_damaged, progress: Some(&tell) };
    let Some(out) = out else {
        // Not the locked one, which writes line by line.
        let stdout = std::io::stdout().lock().as_fd().try_clone_to_owned();
        let mut stdout = File::from(stdout.context("standard output")?);
        let report = pipe::write(&dump, &mut stdout, &options);
        bar.finish_and_clear();
        return finish(&dump, &report.context(&args.dev)?, None, listing);
    };
    let report = match args.format {
        VmcoreFormat::Elf => elf::write(&dump, out.file(), &options),
        VmcoreFormat::Kdump => kdump::write(&dump, out.file(), Compression::Zlib, &options),
        VmcoreFormat::KdumpZstd => kdump::write(&dump, out.file(), Compression::Zstd, &options),
    };
    bar.finish_and_clear();
    let report = report.context(&args.dev)?;
    finish(&dump, &report, Some(out), listing)
}

/// What a pipe can take: it cannot be written twice, nor out of order.
fn check_pipe(args: &ExportVmcore) -> Result<(), Failure> {
    if !matches!(args.format, VmcoreFormat::Elf) {
        return Err(Failure::usage("only an ELF vmcore can be written to standard output")
            .hint("name a file with -o, or leave out --format"));
    }
    if std::io::stdout().is_terminal() {
        return Err(Failure::usage("a vmcore is not for a terminal")
            .hint("pipe it to another program, or name a file with -o"));
    }
    Ok(())
}

fn swap(args: &ExportSwap) -> Ended {
    let source = Source {
        dev: &args.dev,
        partition: args.partition.as_deref(),
        with: &args.with,
        which: args.dump,
    };
    let out = Output::create(&args.output, args.force)?;
    let listing = args.missing.as_deref().map(|p| Output::create(p, args.force)).transpose()?;
    let dump = source.unlock(&args.identity)?;
    let device = swap_device(&dump, args.device)?;
    let bar = progress(0, "export");
    let tell = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let options = Options { threads: 0, skip_damaged: args.skip_damaged, progress: Some(&tell) };
    let report = swap::write(&dump, device, out.file(), &options);
    bar.finish_and_clear();
    let report = report.context(&args.dev)?;
    finish(&dump, &report, Some(out), listing)
}

/// The device that was named, or the only one.
fn swap_device(dump: &OpenDump, named: Option<u16>) -> Result<u16, Failure> {
    let devices = &dump.meta().swap;
    match (named, devices.as_slice()) {
        (Some(index), _) => Ok(index),
        (None, [one]) => Ok(one.index),
        (None, []) => Err(Failure::new("the dump holds no swap device")
            .hint("`lifeboat list` shows what was captured; the profile or --swap decides")),
        (None, several) => {
            let list: Vec<String> = several
                .iter()
                .map(|d| format!("{} ({})", d.index, safe(d.text.lines().next().unwrap_or("?"))))
                .collect();
            Err(Failure::usage(format!("the dump holds {} swap devices", several.len()))
                .hint(format!("choose one with --device: {}", list.join(", "))))
        }
    }
}

/// Names the files and says what is in them. Exit code 3 when pages are missing
/// that were asked for; 1 would hide that there is something to look at.
fn finish(dump: &OpenDump, report: &Report, out: Option<Output>, listing: Option<Output>) -> Ended {
    if let Some(listing) = listing {
        let mut text = Vec::new();
        report.write_missing(&mut text).context("the list of missing pages")?;
        let mut file = listing.file();
        file.write_all(&text).context("the list of missing pages")?;
        listing.finish()?;
    }
    let path = out.as_ref().map(|out| out.path().to_owned());
    if let Some(out) = out {
        out.finish()?;
    }
    for words in &report.warnings {
        warn(safe(words));
    }
    let words = format!(
        "wrote {}: {}, {} pages with contents, {} zero, {} missing",
        path.as_deref().unwrap_or(Path::new("standard output")).display(),
        ui::bytes(report.len),
        report.data_pages,
        report.zero_pages,
        report.missing_pages()
    );
    match path {
        Some(_) => crate::ui::say!("{words}"),
        None => eprintln!("{words}"),
    }
    if !report.is_complete() {
        let unreadable = report.missing.iter().filter(|m| m.why != Why::Excluded);
        let pages: u64 = unreadable.map(|m| m.pages.pages()).sum();
        warn(format!(
            "{pages} pages that were asked for are not in the dump; --missing FILE lists them"
        ));
    }
    Ok(completeness(dump, report))
}

fn write_whole(out: Output, bytes: &[u8]) -> Result<(), Failure> {
    let path = out.path().to_owned();
    out.file().write_all(bytes).context(path.display())?;
    out.finish()?;
    crate::ui::say!("wrote {}: {}", path.display(), ui::bytes(bytes.len() as u64));
    Ok(())
}

/// A dump that was committed as complete is good even where the dead machine had
/// unreadable pages; damage to the dump and what never came are not.
fn completeness(dump: &OpenDump, report: &Report) -> Outcome {
    let lost = |m: &Missing| matches!(m.why, Why::Damaged | Why::NotCaptured);
    if dump.file().is_complete() && !report.missing.iter().any(lost) {
        if report.missing.iter().any(|m| m.why == Why::Unreadable) {
            warn(
                "the dump is complete all the same: the dead machine itself could not give these pages",
            );
        }
        return Outcome::Good;
    }
    let how = dump.commit().map_or("was never committed", |c| c.outcome.name());
    warn(format!("the dump does not hold all that was asked for ({how})"));
    Outcome::Partial
}
