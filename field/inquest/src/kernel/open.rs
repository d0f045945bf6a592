//! How a dead kernel becomes known, step by step, and what of it must agree.

use lifeboat_sources::btf::MAX_LEN;
use lifeboat_sources::paging::{AddressSpace, SpanReader};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;

use crate::machine::Machine;

use super::pages::{Direct, Pages, Reader};
use super::symbols::{Symbols, hash};
use super::types::{Blob, Types};
use super::vmlinux::Aids;
use super::{Kernel, KernelError};

/// Highest address that a table of the kernel may end at: vmemmap and all that is random
/// lies below the CPU entry area (`Documentation/arch/x86/x86_64/mm.rst`).
const HIGHEST: u64 = 0xffff_fe00_0000_0000;
/// Where the upper half begins with five levels.
const LOWEST: u64 = 0xff00_0000_0000_0000;
/// Where the kernel's image lies, `__START_KERNEL_map`.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// Largest `struct page` that is believed in, bytes.
const MAX_PAGE_STRUCT: u64 = 4096;

impl<'m> Kernel<'m> {
    /// Finds everything in the dump. `notes` are its ELF notes, as
    /// `lifeboat export notes` writes them.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn open(machine: &'m dyn Machine, notes: &[u8]) -> Result<Self, KernelError> {
        Self::open_with(machine, notes, &Aids::none())
    }

    /// As [`Kernel::open`]; what `aids` has is taken from there.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn open_with(
        machine: &'m dyn Machine,
        notes: &[u8],
        aids: &Aids,
    ) -> Result<Self, KernelError> {
        let text = lifeboat_sources::notes::vmcoreinfo(notes).ok_or(KernelError::NoVmcoreInfo)?;
        let info = VmcoreInfo::new(text);
        if let (Some(given), Some(dead)) = (&aids.build_id, info.build_id())
            && !given.eq_ignore_ascii_case(dead)
        {
            let (given, dead) = (given.clone(), dead.to_owned());
            return Err(KernelError::OtherKernel { given, dead });
        }
        let space = AddressSpace::new(&info).map_err(KernelError::Paging)?;
        let mut pages = Pages::new(machine, space);
        let symbols = symbols(&pages, &info, aids)?;
        let direct = direct(&pages, &symbols)?;
        pages.direct = Some(direct);
        let blob = blob(&pages, &symbols, aids)?;
        let mut types = Types::new(&[&blob]).map_err(KernelError::Types)?;
        let page_size = page_size(&info, &mut types)?;
        let vmemmap = base(&pages, &symbols, "vmemmap_base", VMEMMAP)?;
        Ok(Self {
            per_cpu_offset: symbols.only("__per_cpu_offset"),
            pages,
            notes: notes.to_vec(),
            symbols,
            blob,
            types: std::sync::Mutex::new(types),
            fields: std::sync::RwLock::default(),
            modules: std::sync::OnceLock::new(),
            vmemmap,
            page_size,
        })
    }
}

fn symbols(pages: &Pages<'_>, info: &VmcoreInfo<'_>, aids: &Aids) -> Result<Symbols, KernelError> {
    let Some(given) = &aids.symbols else {
        let reader = SpanReader::new(pages.space, Reader::new(pages));
        return Symbols::of_kernel(info, reader).map_err(KernelError::Symbols);
    };
    let slide = info.kernel_offset().unwrap_or(0);
    let of = |(name, addr): &(String, u64)| {
        // Per-CPU variables are offsets, which nothing moves.
        let moved = if *addr >= IMAGE { addr.wrapping_add(slide) } else { *addr };
        (hash(name.as_bytes()), moved)
    };
    let list = Symbols::new(given.iter().map(of).collect());
    // The file must be that kernel's: what both know must be in one place.
    let known = info.symbol("init_uts_ns").or_else(|| info.symbol("_stext"));
    let name = if info.symbol("init_uts_ns").is_some() { "init_uts_ns" } else { "_stext" };
    match (known, list.only(name)) {
        (Some(here), Some(there)) if here == there => Ok(list),
        (_, there) => {
            let what = "a symbol of the given vmlinux (is it this kernel's?)";
            Err(KernelError::Odd { what, value: there.unwrap_or(0) })
        }
    }
}

/// Where something begins with four and with five levels when KASLR does not move it.
/// Since 4.20 (commit d52888aa2753), which is older than kallsyms in VMCOREINFO; the kernel
/// has no variable for it then, so nothing else tells it.
type Fixed = (u64, u64);
const PAGE_OFFSET: Fixed = (0xffff_8880_0000_0000, 0xff11_0000_0000_0000);
const VMALLOC: Fixed = (0xffff_c900_0000_0000, 0xffa0_0000_0000_0000);
const VMEMMAP: Fixed = (0xffff_ea00_0000_0000, 0xffd4_0000_0000_0000);

/// The value of one of the variables `page_offset_base`, `vmalloc_base`, `vmemmap_base`
/// (`arch/x86/include/asm/page_64_types.h`, `CONFIG_DYNAMIC_MEMORY_LAYOUT`).
fn base(
    pages: &Pages<'_>,
    symbols: &Symbols,
    what: &'static str,
    fixed: Fixed,
) -> Result<u64, KernelError> {
    let Some(addr) = symbols.only(what) else {
        // Without the variable a kernel has it in one place; where the variable is lost, it
        // may be anywhere.
        if let Some(lost) = symbols.lost(what) {
            return Err(lost);
        }
        return Ok(if pages.space.levels() == 5 { fixed.1 } else { fixed.0 });
    };
    let mut raw = [0; 8];
    pages.virt(addr, &mut raw).map_err(|fault| KernelError::Memory { what, fault })?;
    let value = u64::from_le_bytes(raw);
    let sane = (LOWEST..HIGHEST).contains(&value) && value.is_multiple_of(1 << 12);
    sane.then_some(value).ok_or(KernelError::Odd { what, value })
}

/// The direct map. That the kernel's own page tables see their top table there too is the
/// check of it.
fn direct(pages: &Pages<'_>, symbols: &Symbols) -> Result<Direct, KernelError> {
    let from = base(pages, symbols, "page_offset_base", PAGE_OFFSET)?;
    let to = base(pages, symbols, "vmalloc_base", VMALLOC)?;
    let what = "page_offset_base";
    if to <= from {
        return Err(KernelError::Odd { what, value: from });
    }
    let top = pages.space.top();
    let seen = from.checked_add(top.0).ok_or(KernelError::Odd { what, value: from })?;
    let phys = pages.translate(seen).map_err(|fault| KernelError::Memory { what, fault })?;
    if phys != top {
        return Err(KernelError::Odd { what, value: from });
    }
    Ok(Direct { from, to })
}

fn blob(pages: &Pages<'_>, symbols: &Symbols, aids: &Aids) -> Result<Blob, KernelError> {
    if let Some(given) = &aids.btf {
        return Blob::new(given).map_err(KernelError::Types);
    }
    let end =
        |name| symbols.only(name).ok_or_else(|| symbols.lost(name).unwrap_or(KernelError::NoTypes));
    let (start, stop) = (end("__start_BTF")?, end("__stop_BTF")?);
    let what = "__stop_BTF";
    let len = stop.checked_sub(start).filter(|len| *len <= MAX_LEN);
    let len = len.and_then(|len| usize::try_from(len).ok());
    let mut raw = vec![0; len.ok_or(KernelError::Odd { what, value: stop })?];
    // No page of it can be done without: where types follow one another without a mark, a
    // hole ends them; and a member whose name is lost would pass for one that is not there,
    // by which older kernels are told from newer ones.
    pages.virt(start, &mut raw).map_err(KernelError::LostTypes)?;
    Blob::new(&raw).map_err(KernelError::Types)
}

/// Bytes of a `struct page`, by both witnesses.
fn page_size(info: &VmcoreInfo<'_>, types: &mut Types) -> Result<u64, KernelError> {
    let what = "SIZE(page)";
    let odd = |value| KernelError::Odd { what, value };
    let size = types.size("page").map_err(|miss| super::no_field(miss, "page", "sizeof"))?;
    if let Some(other) = info.size("page").filter(|other| *other != size) {
        return Err(odd(other));
    }
    (8..=MAX_PAGE_STRUCT).contains(&size).then_some(size).ok_or(odd(size))
}
