//! What each page of the dead kernel's memory is worth: its own memory, memory of
//! processes, page cache, or free.
//!
//! This module owns every reading of `struct page`: where they lie (`sections`),
//! what their members mean (`layout`, `class`), and the checks that both are right
//! (`checks`, `lists`, `owners`). Everything comes from VMCOREINFO and BTF; there is no
//! table of kernel versions. It refuses to guess: where VMCOREINFO lacks something or a check fails,
//! [`Worth::open`] says what, and the capture goes on in order of address. Where one
//! page is in doubt, it is the kernel's, which is captured first and always kept.
//!
//! | page | is |
//! |---|---|
//! | marked `PG_hwpoison`; of a hugetlb page so marked, all | poison |
//! | head of a free block by its page type, refcount 0, order and alignment right; the pages of the block, unless one looks used | free |
//! | `mapping` marked anonymous | user |
//! | `PG_swapbacked`, in the swap cache, nobody's by its mapping | user |
//! | `PG_swapbacked`, not anonymous: tmpfs, shared memory; no file holds it | user |
//! | hugetlb, used or in reserve | user |
//! | `PG_lru` and none of the above | cache |
//! | a further page of a compound page | what its first page is |
//! | all else: slab, page tables, reserved, offline, on no list | kernel |
//!
//! VMCOREINFO suffices for all of it; BTF, the kernel's own account of its types
//! (`facts`), confirms each number and adds some, with which pages are followed to their
//! owners (`owners`) and no free page has any flag. What is left out of a dump is `filter`'s.
//!
//! Known limits, all on the safe side. Page cache that is not on an LRU list at the
//! moment of the crash (a batch of some dozen pages for each CPU) counts as kernel, as in
//! makedumpfile. Free pages in the per-CPU lists carry no mark and count as kernel. Dirty
//! cache counts as cache. `PG_reserved` is not in VMCOREINFO: it is found as the one flag
//! that all pages of the kernel's text share, and BTF must say the same.
//!
//! Kernel facts: the page type became the high byte of `_mapcount` in 6.12 (commit
//! 4ffca5a96678), which shows in the value of `PAGE_BUDDY_MAPCOUNT_VALUE`; slab became
//! a page type before that, which shows in `PAGE_SLAB_MAPCOUNT_VALUE`.

mod cached;
mod checks;
mod class;
mod facts;
mod filter;
mod layout;
mod lists;
mod owners;
mod reader;
mod sections;

use std::fmt;

use lifeboat_format::Pfn;

use crate::memory::{PhysRead, Unreadable};
use crate::paging::{AddressSpace, PagingError};
use crate::vmcoreinfo::VmcoreInfo;

pub use checks::Checked;
pub use class::Class;
pub use facts::{BtfState, NoBtf};
pub use filter::{Filter, Places, Verdict};
pub use lifeboat_format::chunk::Layer;
pub use owners::{Owners, Witness};
pub use reader::WorthReader;

use cached::Cached;
use facts::Facts;
use layout::PageLayout;
use sections::Sections;

/// Why the dead kernel's `struct page`s are not used. The capturer then takes memory
/// in order of address; nothing is lost by it but the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorthError {
    /// VMCOREINFO lacks something.
    #[error(
        "VMCOREINFO has no {0}\nhint: this kernel does not tell enough of itself; memory is captured in order of address"
    )]
    Missing(&'static str),
    /// A number that no kernel has.
    #[error(
        "{what} is {value:#x}, which no kernel has\nhint: VMCOREINFO or the kernel's tables are damaged, or too new; memory is captured in order of address"
    )]
    Odd {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// Two things are said to be at the same place.
    #[error(
        "VMCOREINFO puts two {0} at the same place\nhint: VMCOREINFO is damaged; memory is captured in order of address"
    )]
    Overlap(&'static str),
    /// The page tables do not lead there.
    #[error(
        "{what}: {source}\nhint: the kernel's page tables are damaged; memory is captured in order of address"
    )]
    Paging {
        /// To what.
        what: &'static str,
        /// Where it ended.
        source: PagingError,
    },
    /// Memory cannot be read.
    #[error(
        "{what}: {source}\nhint: the machine lost that page; memory is captured in order of address"
    )]
    Memory {
        /// What lies there.
        what: &'static str,
        /// Where.
        source: Unreadable,
    },
    /// Two sections have their `struct page`s in two places.
    #[error(
        "struct page 0 lies at {one:#x} by one section and at {other:#x} by another\nhint: this kernel has no vmemmap, or its sections are damaged; memory is captured in order of address"
    )]
    NoVmemmap {
        /// By the first section.
        one: u64,
        /// By another one.
        other: u64,
    },
    /// No section is present.
    #[error(
        "no section of memory has struct pages\nhint: the kernel's sections are damaged; memory is captured in order of address"
    )]
    NoSections,
    /// What must be the kernel's does not look so.
    #[error(
        "{what} at pfn {pfn:#x} does not look like the kernel's\nhint: struct page is laid out in another way than VMCOREINFO says; memory is captured in order of address"
    )]
    NotKernel {
        /// What lies there.
        what: &'static str,
        /// Its page.
        pfn: u64,
    },
    /// Too many samples say what cannot be.
    #[error(
        "{bad} of {of} {what} are not what they should be\nhint: struct page is laid out in another way than VMCOREINFO says; memory is captured in order of address"
    )]
    Nonsense {
        /// What was looked at.
        what: &'static str,
        /// How many were wrong.
        bad: u64,
        /// How many there were.
        of: u64,
    },
}

impl WorthError {
    /// Of a virtual address: memory that the machine lost, or no way there.
    fn unread(what: &'static str, source: PagingError) -> Self {
        match source {
            PagingError::Unreadable { source, .. } => Self::Memory { what, source },
            source => Self::Paging { what, source },
        }
    }
}

/// Where the dead kernel's `struct page`s lie and what their bits mean. Shared by all
/// workers.
#[derive(Debug, Clone, Copy)]
pub struct Worth {
    space: AddressSpace,
    layout: PageLayout,
    sections: Sections,
    /// Whether free pages can be told; see [`Checked::lists`].
    free: bool,
    checked: Checked,
    btf: BtfState,
    owners: Owners,
}

impl Worth {
    /// Finds the `struct page`s and checks that they are what VMCOREINFO says.
    /// Allocates under 1 MiB and frees it again; reads the table of sections, some 4 MiB
    /// of samples and, where it is there, the 10 MiB or so of symbols and BTF, whatever
    /// the size of the machine.
    ///
    /// # Errors
    /// [`WorthError`]: what is missing or wrong.
    pub fn open(info: &VmcoreInfo<'_>, memory: &mut impl PhysRead) -> Result<Self, WorthError> {
        let memory = &mut Cached::new(memory);
        let space = AddressSpace::new(info)
            .map_err(|source| WorthError::Paging { what: "page tables", source })?;
        let mut facts = Facts::gather(info, &space, memory);
        let layout = PageLayout::new(&facts)?;
        let (sections, sample) = Sections::open(&facts, &space, memory, layout.size)?;
        let mut this = Self {
            space,
            layout,
            sections,
            free: true,
            checked: Checked::default(),
            btf: facts.state,
            owners: Owners::default(),
        };
        let reserved = checks::text(&this, &facts, memory)?;
        facts.hear("PG_reserved", i64::from(reserved.trailing_zeros()));
        this.btf = facts.state;
        this.layout = layout.with_reserved(reserved, &facts);
        (this.checked, this.owners) = checks::all(&this, &facts, memory, &sample.list)?;
        this.free = this.checked.lists > 0;
        Ok(this)
    }

    /// Confirms that a page which is known to be the kernel's looks so. For pages that
    /// only the source knows: those of the notes, VMCOREINFO's among them, whose
    /// physical addresses stand in an elfcorehdr (`/proc/vmcore` hides them).
    ///
    /// # Errors
    /// [`WorthError::NotKernel`].
    pub fn confirm(&self, memory: &mut impl PhysRead, pfn: Pfn) -> Result<(), WorthError> {
        checks::must_be_kernel(self, memory, pfn.0, "a note")
    }

    /// One line of what was found, for the log and the trailer.
    #[must_use]
    pub fn describe(&self) -> impl fmt::Display + '_ {
        Description(self)
    }

    /// What became of BTF.
    #[must_use]
    pub fn btf(&self) -> BtfState {
        self.btf
    }

    /// Whether pages led to their owners.
    #[must_use]
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// What the checks at the start saw.
    #[must_use]
    pub fn checked(&self) -> Checked {
        self.checked
    }
}

struct Description<'a>(&'a Worth);

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worth { layout, sections, checked, free, btf, owners, .. } = self.0;
        let Owners { files, anon } = owners;
        write!(
            f,
            "struct page of {} bytes from {:#x} on, {} sections; checked {} pages ({} in doubt) and {} free blocks",
            layout.size,
            sections.vmemmap,
            sections.usable,
            checked.pages,
            checked.doubts,
            checked.lists
        )?;
        if !*free {
            f.write_str("; free pages cannot be told")?;
        }
        write!(f, "; {btf}")?;
        if files.all + anon.all > 0 {
            let (good, all) = (files.good + anon.good, files.all + anon.all);
            write!(f, "; {good} of {all} pages lead to their owners")?;
        }
        Ok(())
    }
}
