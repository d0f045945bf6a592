//! Builds the crash image of a board: kernel, initramfs, manifest.
//!
//! ```text
//! profile ─▶ source ─▶ tree + driver ─▶ config ─▶ bzImage ─┐
//!         └▶ static programs ─▶ initramfs ─────────────────┴▶ out/BOARD
//! ```
//! This program owns fetching and verifying the kernel's source, its configuration
//! and build, the initramfs archive, and the record of all that went in. It refuses
//! to guess: an option that did not come out as asked, a file that does not hash as
//! said, an image over its budget end the build, and leave the last good image alone.
#![forbid(unsafe_code)]

mod contents;
mod cpio;
mod digest;
mod failure;
mod image;
mod kconfig;
mod kernel;
mod manifest;
mod needs;
mod place;
mod programs;
mod report;
mod run;
mod sbom;
mod source;
#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::FromArgs;

use crate::failure::Failure;
use crate::place::Cache;
use crate::report::{Report, mib};

/// Builds crash images. Exit code 0: good, 1: failed, 2: usage.
#[derive(FromArgs)]
struct Args {
    #[argh(subcommand)]
    command: Sub,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Sub {
    Image(ImageArgs),
    Kernel(KernelArgs),
    Check(CheckArgs),
}

/// Build the image of a board into OUT/BOARD.
#[derive(FromArgs)]
#[argh(subcommand, name = "image")]
struct ImageArgs {
    /// a name in board/, or the path of a board's directory
    #[argh(option)]
    board: String,
    /// directory of images (default: out, in the checkout)
    #[argh(option)]
    out: Option<String>,
    /// cache (default: $LIFEBOAT_CACHE or ~/.cache/lifeboat)
    #[argh(option)]
    cache: Option<String>,
    /// top of the checkout (default: the one around the current directory)
    #[argh(option)]
    root: Option<String>,
}

/// Build only the kernel of a board, into the cache.
#[derive(FromArgs)]
#[argh(subcommand, name = "kernel")]
struct KernelArgs {
    /// a name in board/, or the path of a board's directory
    #[argh(option)]
    board: String,
    /// cache (default: $LIFEBOAT_CACHE or ~/.cache/lifeboat)
    #[argh(option)]
    cache: Option<String>,
    /// top of the checkout (default: the one around the current directory)
    #[argh(option)]
    root: Option<String>,
}

/// Check an image directory against its manifest and sums.
#[derive(FromArgs)]
#[argh(subcommand, name = "manifest-check")]
struct CheckArgs {
    /// the image directory
    #[argh(positional)]
    dir: String,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (name, rest) = words.split_first().map_or(("lifeboat-builder", &[][..]), |(n, r)| (*n, r));
    let args = match Args::from_args(&[name], rest) {
        Ok(args) => args,
        Err(early) if early.status.is_ok() => {
            println!("{}", early.output);
            return ExitCode::SUCCESS;
        }
        Err(early) => {
            eprintln!("{}\nhint: lifeboat-builder --help", early.output.trim_end());
            return ExitCode::from(2);
        }
    };
    match run(&args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Sub) -> Result<(), Failure> {
    let report = Report::new();
    match command {
        Sub::Image(args) => {
            let root = place::root(args.root.as_deref())?;
            let cache = Cache::open(args.cache.as_deref())?;
            let out = args.out.as_ref().map_or_else(|| root.join("out"), PathBuf::from);
            image::build(&root, &cache, &args.board, &out, &report)
        }
        Sub::Kernel(args) => {
            let root = place::root(args.root.as_deref())?;
            let cache = Cache::open(args.cache.as_deref())?;
            let profile = image::profile(&root, &args.board)?;
            let kernel = kernel::build(&root, &cache, &profile, &report)?;
            let size = digest::file(&kernel.bzimage)?.size;
            report.line("kernel", &format!("{} ({})", kernel.bzimage.display(), mib(size)));
            Ok(())
        }
        Sub::Check(args) => {
            let files = verify::image(Path::new(&args.dir))?;
            report.line("good", &format!("{files} files are as the manifest says"));
            Ok(())
        }
    }
}
