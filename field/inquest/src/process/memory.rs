//! The pages of a dead process, wherever they were.
//!
//! A page table has them, or tells where they were swapped to; where it has nothing, a page
//! of a file is in the page cache or on the disk only; of a mapping that nobody fills it was
//! never touched, and is zeros. What the kernel itself fills is known for the vDSO only.

use crate::elfcore::{Ahead, Mapping as Segment, Origin, Pages};
use crate::files::cache::Backing;
use crate::files::{Cache, Cached, Mapping};
use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::machine::Hole;
use crate::mm::{Spot, Tables, Vma};
use crate::swapped::{SwapEntry, Swapped, Whence};
use crate::{PAGE, PhysAddr};

const PAGE64: u64 = PAGE as u64;
/// Addresses that one table of the lowest level maps.
const TABLE: u64 = 512 * PAGE64;
/// `PAGE_MAPPING_ANON`: the page belongs to processes, not to a file. A macro
/// (`include/linux/page-flags.h`), the same in 6.1 and 6.12.
const ANON: u64 = 1;
/// `PTE_MARKER_UFFD_WP` alone: the page is with the file, and userfaultfd watches it
/// (`include/linux/swapops.h`).
const WATCHED: u64 = 1;

/// A mapping, and the file that it is of.
#[derive(Debug, Clone)]
pub struct Mapped {
    /// The mapping.
    pub vma: Vma,
    /// Its file's pages, where it has a file.
    pub file: Option<Result<Mapping, Hole>>,
}

/// The vDSO that a process was given: the kernel keeps it whole, and maps a page of it when
/// it is touched (`vdso_fault()`, `arch/x86/entry/vdso/vma.c`).
#[derive(Debug, Clone, Copy)]
struct Vdso {
    data: u64,
    bytes: u64,
}

impl Vdso {
    /// Of the process whose `struct mm_struct` is at `mm`; `None` where it has none.
    fn of(kernel: &Kernel<'_>, mm: u64) -> Option<Self> {
        let image = kernel.field("mm_struct", "context.vdso_image").ok()?;
        let field = |path| kernel.field("vdso_image", path).ok();
        let image = kernel.get(mm, image).ok().filter(|image| *image != 0)?;
        let get = |field| kernel.get(image, field).ok();
        Some(Self { data: get(field("data")?)?, bytes: get(field("size")?)? })
    }

    fn page(self, kernel: &Kernel<'_>, number: u64, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        let inside = number.checked_mul(PAGE64).filter(|at| *at < self.bytes);
        let at = inside.and_then(|at| self.data.checked_add(at)).ok_or(Hole::NotMapped)?;
        kernel.read(at, out).map_err(|fault| fault.why)
    }
}

/// What pages are of.
#[derive(Debug, Clone, Copy)]
struct PageFields {
    head: Field,
    mapping: Field,
}

/// The memory of one process.
#[derive(Debug)]
pub struct Memory<'a, 'k, 'm> {
    kernel: &'k Kernel<'m>,
    tables: Tables<'k, 'm>,
    cache: &'a Cache<'k, 'm>,
    swapped: Option<&'a Swapped<'k, 'm>>,
    page: PageFields,
    vdso: Option<Vdso>,
    /// In order of address, none within another.
    maps: Vec<Mapped>,
}

impl<'a, 'k, 'm> Memory<'a, 'k, 'm> {
    /// The memory of the process whose `struct mm_struct` is at `mm`, with these tables and
    /// mappings. Mappings that lie within others, or are no pages, are left out.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn new(
        mm: u64,
        tables: Tables<'k, 'm>,
        cache: &'a Cache<'k, 'm>,
        swapped: Option<&'a Swapped<'k, 'm>>,
        vmas: Vec<Vma>,
    ) -> Result<Self, KernelError> {
        let kernel = tables.kernel();
        let page = PageFields {
            head: kernel.field("page", "compound_head")?,
            mapping: kernel.field("page", "mapping")?,
        };
        let mut maps: Vec<Mapped> = Vec::new();
        for vma in vmas {
            let before = maps.last().map_or(0, |m| m.vma.end);
            let whole = vma.start.is_multiple_of(PAGE64) && vma.end.is_multiple_of(PAGE64);
            if vma.start < before || vma.end <= vma.start || !whole {
                continue;
            }
            let file = vma.file.map(|file| cache.of_file(file).map_err(|f| f.why));
            maps.push(Mapped { vma, file });
        }
        let vdso = Vdso::of(kernel, mm);
        Ok(Self { kernel, tables, cache, swapped, page, vdso, maps })
    }

    /// The mappings.
    #[must_use]
    pub fn maps(&self) -> &[Mapped] {
        &self.maps
    }

    /// The mappings as segments of a core file. A device's memory is none: reading it may
    /// have done something, and it is not the process's (`always_dump_vma()` and
    /// `vma_dump_size()` leave it out as well).
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let dumped = self.maps.iter().map(|m| &m.vma).filter(|v| !v.flags.io());
        let bits = |v: &Vma| {
            let bit = |set, bit| if set { bit } else { 0 };
            bit(v.flags.read(), 4) | bit(v.flags.write(), 2) | bit(v.flags.exec(), 1)
        };
        dumped.map(|v| Segment { start: v.start, end: v.end, flags: bits(v) }).collect()
    }

    fn at(&self, addr: u64) -> Option<&Mapped> {
        let next = self.maps.partition_point(|m| m.vma.end <= addr);
        self.maps.get(next).filter(|m| m.vma.start <= addr)
    }

    /// Fills `buf` with the process's bytes at `addr`.
    ///
    /// # Errors
    /// [`Fault`], with the first address that failed; `buf` is then of no meaning.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let (mut at, mut rest) = (addr, buf);
        while !rest.is_empty() {
            let inside = usize::try_from(at % PAGE64).unwrap_or(0);
            let (now, later) = rest.split_at_mut(rest.len().min(PAGE - inside));
            let mut page = [0; PAGE];
            let lost = |why| Fault { addr: at, why };
            self.page(at - at % PAGE64, &mut page).map_err(lost)?;
            let from = page.get(inside..inside + now.len()).ok_or(lost(Hole::Malformed))?;
            now.copy_from_slice(from);
            at = at.checked_add(now.len() as u64).ok_or(Fault::malformed(at))?;
            rest = later;
        }
        Ok(())
    }

    fn present(
        &self,
        map: &Mapped,
        phys: PhysAddr,
        size: u64,
        out: &mut [u8; PAGE],
    ) -> Result<Origin, Hole> {
        self.kernel.machine().memory(phys.pfn(), out)?;
        if size > PAGE64 {
            return Ok(Origin::Huge);
        }
        let Some(Ok(file)) = map.file else { return Ok(Origin::Present) };
        // A page of a file that the process wrote to in private is its own.
        let own = self.is_anon(phys);
        Ok(match file.backing {
            _ if own => Origin::Present,
            Backing::Disk => Origin::File,
            Backing::Shmem => Origin::Shared,
            Backing::Huge(_) => Origin::Huge,
        })
    }

    /// Whether a page belongs to processes. Only for the count of pages: what cannot be read
    /// counts as the file's.
    fn is_anon(&self, phys: PhysAddr) -> bool {
        let page = self.kernel.page_struct(phys.pfn());
        let head = self.kernel.get(page, self.page.head).unwrap_or(0);
        let head = if head & 1 == 1 { head - 1 } else { page };
        self.kernel.get(head, self.page.mapping).is_ok_and(|m| m & ANON != 0)
    }

    fn swap(&self, entry: SwapEntry, out: &mut [u8; PAGE]) -> Result<Whence, Hole> {
        self.swapped.ok_or(Hole::Unsupported)?.page(entry, out)
    }

    /// A page that no table has.
    fn absent(&self, map: &Mapped, addr: u64, out: &mut [u8; PAGE]) -> Result<Origin, Hole> {
        if map.vma.anonymous {
            out.fill(0);
            return Ok(Origin::Untouched);
        }
        let page = page_of(&map.vma, addr).ok_or(Hole::Malformed)?;
        let Some(file) = map.file else {
            let vdso = self.vdso.filter(|_| is_vdso(&map.vma)).ok_or(Hole::Unsupported)?;
            return vdso.page(self.kernel, page, out).map(|()| Origin::Present);
        };
        let file = file?;
        match self.cache.read(&file, page, out)? {
            Cached::Untouched => Ok(Origin::Untouched),
            Cached::Swap(entry) => {
                self.swap(SwapEntry::from_val(entry), out).map(|_| Origin::SharedSwap)
            }
            Cached::Page(_) => Ok(match file.backing {
                Backing::Disk => Origin::File,
                Backing::Shmem => Origin::Shared,
                Backing::Huge(_) => Origin::Huge,
            }),
        }
    }

    /// How far nothing is to be found of a file's pages, and what that means.
    fn absent_ahead(&self, map: &Mapped, start: u64, end: u64) -> (u64, Ahead) {
        let nothing = match map.file {
            _ if map.vma.anonymous => return (end, Ahead::Untouched),
            None if is_vdso(&map.vma) => return (end, Ahead::Look),
            None => return (end, Ahead::Hole(Hole::Unsupported)),
            Some(Err(why)) => return (end, Ahead::Hole(why)),
            Some(Ok(file)) => file,
        };
        let Some(first) = page_of(&map.vma, start) else {
            return (end, Ahead::Hole(Hole::Malformed));
        };
        let Some((pages, what)) = self.cache.gap(&nothing, first) else {
            return (end.min((start / TABLE + 1) * TABLE), Ahead::Look);
        };
        let end =
            pages.checked_mul(PAGE64).and_then(|n| n.checked_add(start)).unwrap_or(end).min(end);
        match what {
            Ok(()) => (end, Ahead::Untouched),
            Err(why) => (end, Ahead::Hole(why)),
        }
    }
}

fn is_vdso(vma: &Vma) -> bool {
    vma.name.as_deref() == Some("[vdso]")
}

/// Which page of its file a mapping has at an address.
fn page_of(vma: &Vma, addr: u64) -> Option<u64> {
    Some(vma.offset.checked_add(addr.checked_sub(vma.start)?)? / PAGE64)
}

impl Pages for Memory<'_, '_, '_> {
    fn page(&self, addr: u64, out: &mut [u8; PAGE]) -> Result<Origin, Hole> {
        let map = self.at(addr).ok_or(Hole::NotMapped)?;
        if map.vma.flags.io() {
            return Err(Hole::Unsupported);
        }
        match self.tables.look(addr).spot.map_err(|f| f.why)? {
            Spot::Present { phys, size } => self.present(map, phys, size, out),
            Spot::Migration { phys } => self.present(map, phys, PAGE64, out),
            Spot::Swap(entry) => Ok(origin(self.swap(entry.into(), out)?)),
            Spot::None => self.absent(map, addr, out),
            Spot::Marker(WATCHED) if map.file.is_some() => self.absent(map, addr, out),
            other => Err(other.hole().unwrap_or(Hole::Unsupported)),
        }
    }

    fn ahead(&self, start: u64, end: u64) -> (u64, Ahead) {
        let Some(map) = self.at(start) else { return (end, Ahead::Hole(Hole::NotMapped)) };
        let look = self.tables.look(start);
        // To the end of the table that tells, or of all that a missing one would.
        let known = start.saturating_add(look.left).min(end);
        if look.left <= PAGE64 {
            return (end.min((start / TABLE + 1).saturating_mul(TABLE)), Ahead::Look);
        }
        match look.spot {
            Ok(Spot::None) => self.absent_ahead(map, start, known),
            Ok(_) => (known, Ahead::Look),
            Err(fault) => (known, Ahead::Hole(fault.why)),
        }
    }
}

fn origin(whence: Whence) -> Origin {
    match whence {
        Whence::SwapCache => Origin::SwapCache,
        Whence::Disk { .. } => Origin::Swap,
        Whence::Encrypted { .. } => Origin::Encrypted,
        Whence::Zswap => Origin::Zswap,
        Whence::Zram => Origin::Zram,
        Whence::SameFilled => Origin::SameFilled,
    }
}
