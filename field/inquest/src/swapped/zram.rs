//! zram: a block device whose pages lie compressed in memory (`drivers/block/zram`).
//!
//! Its table has an entry a page: a handle of zsmalloc, and a word whose low bits are the
//! compressed length and whose high bits are flags. Which bit is which flag the module's own
//! BTF says (`enum zram_pageflags`); the length has the bits below the lowest of them
//! (`ZRAM_FLAG_SHIFT`).

use lifeboat_format::PAGE;

use crate::kernel::{Field, Kernel, KernelError};
use crate::machine::Hole;

use super::codec::Codec;
use super::zsmalloc::Zsmalloc;
use super::{Whence, fill, text, why};

/// Longest name of a codec that is read, bytes (`CRYPTO_MAX_ALG_NAME`).
const NAME: usize = 128;
/// Most codecs of one device; the kernel has 4 (`ZRAM_MAX_COMPS`).
const MAX_CODECS: u64 = 8;

/// Where zram keeps what, by BTF of the module.
#[derive(Debug)]
pub(super) struct Zram {
    private: Field,
    table: Field,
    pool: Field,
    disksize: Field,
    entry: u64,
    handle: Field,
    flags: Field,
    names: Names,
    bits: Bits,
}

/// How a device names its codecs.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// One, the text itself.
    Inline(Field),
    /// Several, pointers to texts; and where the sizes of their dictionaries are, of each.
    Pointers(Field, Option<(Field, u64)>),
}

/// Which bit is which.
#[derive(Debug, Clone, Copy)]
struct Bits {
    same: u32,
    written_back: u32,
    /// Number of the codec: lowest bit, and how many.
    codec: Option<(u32, u32)>,
    /// Bits of the length.
    length: u32,
}

impl Bits {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let flag = |name: &'static str| {
            let value = kernel.enumerator(name).and_then(|v| u32::try_from(v).ok());
            value.filter(|bit| *bit < 32)
        };
        let need = |name| flag(name).ok_or(KernelError::Odd { what: name, value: u64::MAX });
        let same = need("ZRAM_SAME")?;
        // The lowest flag: a lock, where the entry has no spin lock of its own.
        let length = flag("ZRAM_LOCK").map_or(same, |lock| lock.min(same));
        // A length of a whole page must fit.
        if 1u64.checked_shl(length).is_none_or(|limit| limit <= PAGE as u64) {
            return Err(KernelError::Odd { what: "ZRAM_SAME", value: u64::from(length) });
        }
        let codec = flag("ZRAM_COMP_PRIORITY_BIT1").map(|low| {
            let high = flag("ZRAM_COMP_PRIORITY_BIT2").unwrap_or(low);
            (low, high.saturating_sub(low) + 1)
        });
        Ok(Self { same, written_back: need("ZRAM_WB")?, codec, length })
    }
}

impl Zram {
    /// From the types of the dead kernel's module.
    ///
    /// # Errors
    /// [`KernelError`]: the module is not loaded, or too different.
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let field = |path| kernel.field("zram", path);
        let entry = |path| kernel.field("zram_table_entry", path);
        let dictionaries = || {
            let first = field("params[0].dict_sz").ok()?;
            Some((first, kernel.size("zcomp_params").ok()?))
        };
        let names = match field("comp_algs") {
            Ok(names) => Names::Pointers(names, dictionaries()),
            Err(_) => Names::Inline(field("compressor")?),
        };
        Ok(Self {
            private: kernel.field("gendisk", "private_data")?,
            table: field("table")?,
            pool: field("mem_pool")?,
            disksize: field("disksize")?,
            entry: kernel.size("zram_table_entry")?,
            handle: entry("handle")?,
            flags: entry("flags")?,
            names,
            bits: Bits::new(kernel)?,
        })
    }

    /// Reads page `index` of the zram device whose `struct gendisk` is at `disk`.
    ///
    /// # Errors
    /// The [`Hole`] that is in its place.
    pub(super) fn page(
        &self,
        kernel: &Kernel<'_>,
        zsmalloc: Option<&Zsmalloc>,
        disk: u64,
        index: u64,
        out: &mut [u8; PAGE],
    ) -> Result<Whence, Hole> {
        let get = |object, field| kernel.get(object, field).map_err(why);
        let zram = get(disk, self.private)?;
        if index >= get(zram, self.disksize)? / PAGE as u64 {
            return Err(Hole::Malformed);
        }
        let table = get(zram, self.table)?;
        // The index is less than 2^52, and an entry is some 16 bytes.
        let at = table.checked_add(index.saturating_mul(self.entry)).ok_or(Hole::Malformed)?;
        let handle = get(at, self.handle)?;
        let flags = get(at, self.flags)?;
        let has = |bit: u32| flags >> bit & 1 == 1;
        if has(self.bits.written_back) {
            // On a device behind zram, which is no swap device.
            return Err(Hole::SwapNotCaptured);
        }
        if has(self.bits.same) || handle == 0 {
            // `__zram_bvec_read()`: without a handle it reads as zeros.
            fill(out, handle);
            return Ok(Whence::SameFilled);
        }
        let len = usize::try_from(flags & ((1 << self.bits.length) - 1)).unwrap_or(0);
        let pool = get(zram, self.pool)?;
        let zsmalloc = zsmalloc.ok_or(Hole::Unsupported)?;
        let object = zsmalloc.object(kernel, pool, handle, len)?;
        if let Some(whole) = object.first_chunk::<PAGE>() {
            *out = *whole;
            return Ok(Whence::Zram);
        }
        let number = self.bits.codec.map_or(0, |(low, count)| (flags >> low) & ((1 << count) - 1));
        let codec = self.codec(kernel, zram, number)?;
        codec.decompress(&object, out).map_err(|_| Hole::Undecodable)?;
        Ok(Whence::Zram)
    }

    /// The codec of a number, by the name that the device has for it.
    fn codec(&self, kernel: &Kernel<'_>, zram: u64, number: u64) -> Result<Codec, Hole> {
        if number >= MAX_CODECS {
            return Err(Hole::Malformed);
        }
        let name = match self.names {
            Names::Inline(field) => zram.checked_add(field.offset).ok_or(Hole::Malformed)?,
            Names::Pointers(field, dictionaries) => {
                if number >= field.length {
                    return Err(Hole::Malformed);
                }
                if let Some((first, step)) = dictionaries {
                    let at = zram.wrapping_add(step.wrapping_mul(number));
                    if kernel.get(at, first).map_err(why)? != 0 {
                        // What was compressed by a dictionary needs it.
                        return Err(Hole::Unsupported);
                    }
                }
                let slot = zram.checked_add(field.offset + number * 8).ok_or(Hole::Malformed)?;
                kernel.u64(slot).map_err(why)?
            }
        };
        let name = text(kernel, name, NAME).map_err(why)?;
        Codec::by_name(&name).ok_or(Hole::Unsupported)
    }
}
