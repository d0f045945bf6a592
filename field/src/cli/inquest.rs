//! What can be asked of the dead machine: its processes, their cores, libraries and files.

use std::path::{Path, PathBuf};

use argh::FromArgs;

use super::Which;
use crate::cmd::opened::Source;

/// What all questions to a dead machine say.
pub(crate) trait Question {
    /// Which dump is asked.
    fn source(&self) -> Source<'_>;

    /// What opens it.
    fn keys(&self) -> &[PathBuf];

    /// `--vmlinux`
    fn vmlinux(&self) -> Option<&Path>;

    /// `--btf`
    fn btf(&self) -> Option<&Path>;
}

/// A command that asks the dead machine something: what all of them take (which dump, by
/// which key, and what helps with its kernel), and behind that its own arguments. The
/// parser knows no groups of arguments, so that each command would spell them out.
macro_rules! question {
    ($(#[$about:meta])* $name:ident { $($own:tt)* }) => {
        #[derive(FromArgs, Debug)]
        $(#[$about])*
        pub(crate) struct $name {
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
            /// vmlinux of the dead kernel, for symbols and types that the dump does not have
            #[argh(option)]
            pub(crate) vmlinux: Option<PathBuf>,
            /// BTF of the dead kernel's vmlinux, for types that the dump does not have
            #[argh(option)]
            pub(crate) btf: Option<PathBuf>,
            $($own)*
        }

        impl Question for $name {
            fn source(&self) -> Source<'_> {
                Source {
                    dev: &self.dev,
                    partition: self.partition.as_deref(),
                    with: &self.with,
                    which: self.dump,
                }
            }

            fn keys(&self) -> &[PathBuf] {
                &self.identity
            }

            fn vmlinux(&self) -> Option<&Path> {
                self.vmlinux.as_deref()
            }

            fn btf(&self) -> Option<&Path> {
                self.btf.as_deref()
            }
        }
    };
}

question! {
    /// list the dead machine's processes
    #[argh(subcommand, name = "ps")]
    Ps {
        /// one line for each thread
        #[argh(switch)]
        pub(crate) threads: bool,
        /// machine-readable output
        #[argh(switch)]
        pub(crate) json: bool,
    }
}

question! {
    /// what a process of the dead machine had mapped, and how many pages of it there are
    #[argh(subcommand, name = "maps")]
    Maps {
        /// number of the process, or of one of its threads
        #[argh(option)]
        pub(crate) pid: u32,
        /// machine-readable output
        #[argh(switch)]
        pub(crate) json: bool,
    }
}

question! {
    /// a core file of a process of the dead machine, for gdb
    ///
    /// Pages are taken from memory, swap (partitions, files, zram, zswap) and the page cache.
    /// What is missing is in no segment: gdb says that it cannot read there. Exit code 3 then.
    #[argh(subcommand, name = "core")]
    Core {
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
    }
}

question! {
    /// the programs and libraries that a process of the dead machine ran, with their build ids
    #[argh(subcommand, name = "libs")]
    Libs {
        /// number of the process, or of one of its threads
        #[argh(option)]
        pub(crate) pid: u32,
        /// machine-readable output
        #[argh(switch)]
        pub(crate) json: bool,
    }
}

question! {
    /// a file of the dead machine, as far as its memory holds it
    ///
    /// What is missing is a hole in the file that is written; exit code 3 then.
    #[argh(subcommand, name = "extract")]
    Extract {
        /// path of the file on the dead machine
        #[argh(option)]
        pub(crate) path: String,
        /// as this process saw it: from its root, and among the files that it had mapped,
        /// deleted ones too
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
    }
}
