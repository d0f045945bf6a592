//! zsmalloc: from a handle to the bytes of an object (`mm/zsmalloc.c`).
//!
//! A handle is the address of a word that says where the object is now: page frame number
//! and the object's number within its zspage. A zspage is a chain of single pages that objects
//! of one size are cut from, so an object may begin on one page and end on the next. Each
//! object begins with a word of its own, its handle with the lowest bit set; where one object
//! fills a page, that word is kept in `struct page` instead.
//!
//! How the number is packed is a macro's doing: all kernels leave the page frame number
//! `_PFN_BITS` (52 − 12 on x86-64, `MAX_POSSIBLE_PHYSMEM_BITS`) bits at the top, and some keep
//! a tag in the lowest bit (`OBJ_TAG_BITS`) while others number objects from bit 0 on. No line
//! here asks which: both readings are tried, and the one counts at whose place the handle
//! stands. A word that says neither is damage, and a hole.

use lifeboat_format::{PAGE, Pfn, PhysAddr};

use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::machine::Hole;

use super::why;

/// Bits below the page frame number: 64 − (52 − 12).
const PFN_SHIFT: u32 = 24;
/// Set in an object's first word when it is in use (`OBJ_ALLOCATED_TAG`).
const ALLOCATED: u64 = 1;
/// What `struct zspage` carries (`ZSPAGE_MAGIC`, kernel commit 3783689a1aa8).
const MAGIC: u64 = 0x58;
/// Bytes of the word at the start of an object (`ZS_HANDLE_SIZE`).
const HANDLE: usize = 8;

/// Where zsmalloc keeps what, by BTF.
#[derive(Debug, Clone, Copy)]
pub(super) struct Zsmalloc {
    /// Of a page: its zspage.
    zspage: Field,
    /// Of a page: the next one of the zspage; where a zspage has one object only, its handle.
    next: Field,
    huge: Field,
    class: Field,
    magic: Field,
    size_class: Field,
    size: Field,
}

impl Zsmalloc {
    /// From the dead kernel's types.
    ///
    /// # Errors
    /// [`KernelError`]: zsmalloc is not there, or too different.
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        // `struct page` until zsmalloc described its pages itself (`struct zpdesc`).
        let own =
            |zpdesc, page| kernel.field("zpdesc", zpdesc).or_else(|_| kernel.field("page", page));
        Ok(Self {
            zspage: own("zspage", "private")?,
            next: own("next", "index")?,
            huge: kernel.field("zspage", "huge")?,
            class: kernel.field("zspage", "class")?,
            magic: kernel.field("zspage", "magic")?,
            size_class: kernel.field("zs_pool", "size_class")?,
            size: kernel.field("size_class", "size")?,
        })
    }

    /// Reads the object `handle` of `pool`, `len` bytes of it.
    ///
    /// # Errors
    /// The [`Hole`] that is in its place.
    pub(super) fn object(
        &self,
        kernel: &Kernel<'_>,
        pool: u64,
        handle: u64,
        len: usize,
    ) -> Result<Vec<u8>, Hole> {
        if handle == 0 || !handle.is_multiple_of(8) || len == 0 || len > PAGE {
            return Err(Hole::Malformed);
        }
        let word = kernel.u64(handle).map_err(why)?;
        let spot = self.spot(kernel, pool, word)?;
        if spot.huge {
            let known = kernel.get(spot.page, self.next).map_err(why)?;
            if known != handle | ALLOCATED {
                return Err(Hole::Malformed);
            }
            let mut out = vec![0; len];
            read_page(kernel, spot.pfn, 0, &mut out).map_err(why)?;
            return Ok(out);
        }
        let low = word & ((1 << PFN_SHIFT) - 1);
        let mut hole = Hole::Malformed;
        for number in [low >> 1, low] {
            match self.try_read(kernel, &spot, number, handle, len) {
                Ok(Some(out)) => return Ok(out),
                Ok(None) => {}
                Err(other) => hole = other,
            }
        }
        Err(hole)
    }

    /// The page that a handle's word leads to, and its zspage's class.
    fn spot(&self, kernel: &Kernel<'_>, pool: u64, word: u64) -> Result<Spot, Hole> {
        let pfn = Pfn(word >> PFN_SHIFT);
        let page = kernel.page_struct(pfn);
        let get = |object, field| kernel.get(object, field).map_err(why);
        let zspage = get(page, self.zspage)?;
        if zspage == 0 || get(zspage, self.magic)? != MAGIC {
            return Err(Hole::Malformed);
        }
        let number = get(zspage, self.class)?;
        if number >= self.size_class.length {
            return Err(Hole::Malformed);
        }
        let slot = pool.checked_add(self.size_class.offset + number * 8);
        let class = kernel.u64(slot.ok_or(Hole::Malformed)?).map_err(why)?;
        let size = usize::try_from(get(class, self.size)?).unwrap_or(0);
        if size <= HANDLE || size > PAGE || !size.is_multiple_of(8) {
            return Err(Hole::Malformed);
        }
        Ok(Spot { pfn, page, size, huge: get(zspage, self.huge)? != 0 })
    }

    /// The object of a number, `None` where another one's handle stands there.
    fn try_read(
        &self,
        kernel: &Kernel<'_>,
        spot: &Spot,
        number: u64,
        handle: u64,
        len: usize,
    ) -> Result<Option<Vec<u8>>, Hole> {
        // 24 bits times at most a page: this cannot overflow.
        let inside = usize::try_from(number * spot.size as u64 % PAGE as u64).unwrap_or(0);
        let mut head = [0; HANDLE];
        if inside + HANDLE > PAGE {
            // Sizes are multiples of 8, so a word never straddles two pages.
            return Err(Hole::Malformed);
        }
        read_page(kernel, spot.pfn, inside, &mut head).map_err(why)?;
        if u64::from_le_bytes(head) != handle | ALLOCATED {
            return Ok(None);
        }
        if len > spot.size - HANDLE {
            return Err(Hole::Malformed);
        }
        let mut out = vec![0; len];
        let from = inside + HANDLE;
        let here = len.min(PAGE - from);
        let (now, later) = out.split_at_mut(here);
        read_page(kernel, spot.pfn, from, now).map_err(why)?;
        if !later.is_empty() {
            let next = kernel.get(spot.page, self.next).map_err(why)?;
            let pfn = kernel.pfn_of(next).ok_or(Hole::Malformed)?;
            read_page(kernel, pfn, 0, later).map_err(why)?;
        }
        Ok(Some(out))
    }
}

/// Where an object begins.
struct Spot {
    pfn: Pfn,
    /// Its `struct page`.
    page: u64,
    /// Bytes of each object of the zspage, with their first words.
    size: usize,
    /// Whether it has a page for itself.
    huge: bool,
}

/// Bytes of one physical page, by the kernel's cache: objects share pages.
fn read_page(kernel: &Kernel<'_>, pfn: Pfn, inside: usize, out: &mut [u8]) -> Result<(), Fault> {
    let phys = pfn.0.checked_mul(PAGE as u64).ok_or(Fault { addr: pfn.0, why: Hole::Malformed })?;
    kernel.read(kernel.direct(PhysAddr(phys)).wrapping_add(inside as u64), out)
}
