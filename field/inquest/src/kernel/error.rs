//! What may be wrong with a dead kernel, and with an address in it.

use lifeboat_sources::btf::BtfError;
use lifeboat_sources::kallsyms::KallsymsError;
use lifeboat_sources::paging::PagingError;

use crate::machine::Hole;

/// Bytes of the dead machine that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{addr:#x}: {why}")]
pub struct Fault {
    /// The virtual address, or the physical one where that was asked for.
    pub addr: u64,
    /// Why.
    pub why: Hole,
}

impl Fault {
    /// Where the dead kernel says what cannot be.
    #[must_use]
    pub fn malformed(addr: u64) -> Self {
        Self { addr, why: Hole::Malformed }
    }
}

/// Why nothing, or some part of it, is known of the dead kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The dump's notes lack VMCOREINFO.
    #[error(
        "the dump's notes have no VMCOREINFO\nhint: the capture was cut short; only whole pages can be exported"
    )]
    NoVmcoreInfo,
    /// The given vmlinux is of another kernel.
    #[error(
        "the given vmlinux is of another kernel: its build id is {given}, the dead one's {dead}\nhint: `lifeboat list` shows the release; take vmlinux of exactly that package"
    )]
    OtherKernel {
        /// Build id of the file.
        given: String,
        /// That in VMCOREINFO.
        dead: String,
    },
    /// The page tables cannot be used.
    #[error("page tables: {0}\nhint: VMCOREINFO is damaged, or of another machine than x86-64")]
    Paging(PagingError),
    /// The symbols cannot be read.
    #[error("symbols of the dead kernel: {}\nhint: `--vmlinux FILE` names them instead", first(.0))]
    Symbols(KallsymsError),
    /// There is no such symbol, or more than one.
    #[error(
        "the dead kernel has no one symbol {0}\nhint: it was built without CONFIG_KALLSYMS_ALL, or is too new; `--vmlinux FILE` names them instead"
    )]
    Symbol(String),
    /// There may be such a symbol, but the dump lacks memory that told of it.
    #[error(
        "the symbol {name} is not among those left of the dead kernel's; {lost} are lost with memory that the dump lacks\nhint: `--vmlinux FILE` names them instead"
    )]
    LostSymbol {
        /// Its name.
        name: String,
        /// How many are lost.
        lost: u32,
    },
    /// The types cannot be read.
    #[error(
        "types of the dead kernel: {}\nhint: `--btf FILE` or `--vmlinux FILE` tells them instead",
        first(.0)
    )]
    Types(BtfError),
    /// The dump lacks memory that the types lie in.
    #[error(
        "types of the dead kernel at {0}\nhint: `--btf FILE` or `--vmlinux FILE` tells them instead"
    )]
    LostTypes(Fault),
    /// It carries no types.
    #[error(
        "the dead kernel carries no types: it has no symbols __start_BTF and __stop_BTF\nhint: it was built without CONFIG_DEBUG_INFO_BTF; `--btf FILE` or `--vmlinux FILE` tells them instead"
    )]
    NoTypes,
    /// No such struct, union or type.
    #[error(
        "the dead kernel has no type `{0}`\nhint: it is too old or too new, or the module is not loaded"
    )]
    NoRecord(String),
    /// No such member, or several types of that name have different ones.
    #[error(
        "the dead kernel's `{record}` has no one member `{path}`\nhint: it is too old or too new"
    )]
    NoField {
        /// Of which type.
        record: String,
        /// Which member.
        path: String,
    },
    /// Something that all others stand on cannot be read.
    #[error("{what} at {fault}\nhint: the machine lost that memory, or the dump does")]
    Memory {
        /// What.
        what: &'static str,
        /// Where, and why.
        fault: Fault,
    },
    /// Two witnesses differ.
    #[error(
        "{what} is {value:#x}, which cannot be\nhint: the dump is damaged, or the kernel is too new"
    )]
    Odd {
        /// What.
        what: &'static str,
        /// The number.
        value: u64,
    },
}

/// What is wrong, without its own hint: the way out that is told here is the one that helps.
fn first(source: &impl std::fmt::Display) -> String {
    source.to_string().lines().next().unwrap_or_default().to_owned()
}
