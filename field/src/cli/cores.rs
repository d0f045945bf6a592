//! What can be said of the dead machine's programs: their cores, libraries and files.

use std::path::PathBuf;

use argh::FromArgs;

use super::Which;

/// a core file of a process of the dead machine, for gdb
///
/// Pages are taken from memory, swap (partitions, files, zram, zswap) and the page cache. What
/// is missing is in no segment: gdb says that it cannot read there. Exit code 3 then.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "core")]
pub(crate) struct Core {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// identity file
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// number of the process, or of one of its threads
    #[argh(option)]
    pub(crate) pid: Option<u32>,
    /// all processes of this name
    #[argh(option)]
    pub(crate) comm: Option<String>,
    /// all processes
    #[argh(switch)]
    pub(crate) all: bool,
    /// file to write; with --comm or --all a directory, for files core.NAME.PID
    #[argh(option, short = 'o')]
    pub(crate) output: PathBuf,
    /// file for what was found where, and every hole with its reason (JSON)
    #[argh(option)]
    pub(crate) report: Option<PathBuf>,
    /// overwrite the files
    #[argh(switch)]
    pub(crate) force: bool,
    /// vmlinux of the dead kernel, for symbols and types that the dump does not have
    #[argh(option)]
    pub(crate) vmlinux: Option<PathBuf>,
    /// BTF of the dead kernel's vmlinux, if the dump does not have it
    #[argh(option)]
    pub(crate) btf: Option<PathBuf>,
}

/// the programs and libraries that a process of the dead machine ran, with their build ids
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "libs")]
pub(crate) struct Libs {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// identity file
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// number of the process, or of one of its threads
    #[argh(option)]
    pub(crate) pid: u32,
    /// machine-readable output
    #[argh(switch)]
    pub(crate) json: bool,
    /// vmlinux of the dead kernel, for symbols and types that the dump does not have
    #[argh(option)]
    pub(crate) vmlinux: Option<PathBuf>,
    /// BTF of the dead kernel's vmlinux, if the dump does not have it
    #[argh(option)]
    pub(crate) btf: Option<PathBuf>,
}

/// a file of the dead machine, as far as its memory holds it
///
/// What is missing is a hole in the file that is written; exit code 3 then.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "extract")]
pub(crate) struct Extract {
    /// device or file
    #[argh(positional)]
    pub(crate) dev: String,
    /// partition inside a whole-disk image: PARTLABEL or number
    #[argh(option)]
    pub(crate) partition: Option<String>,
    /// a further volume that holds parts of the dump; may be repeated
    #[argh(option)]
    pub(crate) with: Vec<String>,
    /// number of the dump, or `latest` (default)
    #[argh(option, default = "Which::Latest")]
    pub(crate) dump: Which,
    /// identity file
    #[argh(option, short = 'i')]
    pub(crate) identity: Vec<PathBuf>,
    /// path of the file on the dead machine
    #[argh(option)]
    pub(crate) path: String,
    /// as this process saw it: from its root, and among the files that it had mapped, deleted
    /// ones too
    #[argh(option)]
    pub(crate) pid: Option<u32>,
    /// file to write
    #[argh(option, short = 'o')]
    pub(crate) output: PathBuf,
    /// file for a list of what is missing: FIRST-BYTE END-BYTE WHY a line
    #[argh(option)]
    pub(crate) missing: Option<PathBuf>,
    /// overwrite the files
    #[argh(switch)]
    pub(crate) force: bool,
    /// vmlinux of the dead kernel, for symbols and types that the dump does not have
    #[argh(option)]
    pub(crate) vmlinux: Option<PathBuf>,
    /// BTF of the dead kernel's vmlinux, if the dump does not have it
    #[argh(option)]
    pub(crate) btf: Option<PathBuf>,
}
