//! What can be said of the dead machine's processes.

use std::path::PathBuf;

use argh::FromArgs;

use super::Which;

/// list the dead machine's processes
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "ps")]
pub(crate) struct Ps {
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
    /// one line for each thread
    #[argh(switch)]
    pub(crate) threads: bool,
    /// machine-readable output
    #[argh(switch)]
    pub(crate) json: bool,
    /// vmlinux of the dead kernel, for symbols and types that the dump does not have
    #[argh(option)]
    pub(crate) vmlinux: Option<PathBuf>,
    /// BTF of the dead kernel's vmlinux, for types that the dump does not have
    #[argh(option)]
    pub(crate) btf: Option<PathBuf>,
}

/// what a process of the dead machine had mapped, and how many pages of it there are
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "maps")]
pub(crate) struct Maps {
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
    /// BTF of the dead kernel's vmlinux, for types that the dump does not have
    #[argh(option)]
    pub(crate) btf: Option<PathBuf>,
}
