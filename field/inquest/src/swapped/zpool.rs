//! The pools that zswap keeps compressed pages in: which allocator, and the bytes behind a
//! handle of each (`mm/zpool.c`, `mm/zbud.c`, `mm/z3fold.c`; [`super::zsmalloc`]).

use lifeboat_format::PAGE;

use crate::kernel::{Field, Kernel, KernelError};
use crate::machine::Hole;

use super::zsmalloc::Zsmalloc;
use super::{text, why};

/// Bytes of a chunk of zbud and z3fold: a 64th of a page (`NCHUNKS_ORDER` 6 in
/// `mm/zbud.c` and `mm/z3fold.c` of 6.1 and 6.12).
const CHUNK: u64 = 64;
/// Longest name of a driver that is read, bytes.
const NAME: usize = 32;

/// Which allocator a pool is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Zbud,
    Z3fold,
    Zsmalloc,
}

/// Where the pools keep what, by BTF.
#[derive(Debug)]
pub(super) struct Zpools {
    driver: Field,
    pool: Field,
    kind: Field,
    /// Whether the user's bytes begin with a header, where there is such a thing.
    evictable: Option<Field>,
    zbud: Option<Zbud>,
    z3fold: Option<Z3fold>,
    zsmalloc: Option<Zsmalloc>,
}

/// `struct zbud_header`, at the start of a page that two objects share.
#[derive(Debug, Clone, Copy)]
struct Zbud {
    first: Field,
    last: Field,
}

/// `struct z3fold_header`, at the start of a page that three objects share.
#[derive(Debug, Clone, Copy)]
struct Z3fold {
    header: u64,
    start_middle: Field,
    first_num: Field,
}

impl Zpools {
    /// From the dead kernel's types.
    ///
    /// # Errors
    /// [`KernelError`]: there are no pools.
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let zbud = || {
            let field = |path| kernel.field("zbud_header", path);
            Ok::<_, KernelError>(Zbud {
                first: field("first_chunks")?,
                last: field("last_chunks")?,
            })
        };
        let z3fold = || {
            let field = |path| kernel.field("z3fold_header", path);
            Ok::<_, KernelError>(Z3fold {
                header: kernel.size("z3fold_header")?,
                start_middle: field("start_middle")?,
                first_num: field("first_num")?,
            })
        };
        Ok(Self {
            driver: kernel.field("zpool", "driver")?,
            pool: kernel.field("zpool", "pool")?,
            kind: kernel.field("zpool_driver", "type")?,
            evictable: kernel.field("zpool", "evictable").ok(),
            zbud: zbud().ok(),
            z3fold: z3fold().ok(),
            zsmalloc: Zsmalloc::new(kernel).ok(),
        })
    }

    /// Whether objects begin with zswap's own header (`struct zswap_header`): where a pool can
    /// write objects back by itself (`zpool_evictable()`).
    pub(super) fn evictable(&self, kernel: &Kernel<'_>, zpool: u64) -> Result<bool, Hole> {
        let Some(field) = self.evictable else { return Ok(false) };
        Ok(kernel.get(zpool, field).map_err(why)? != 0)
    }

    /// Reads the object `handle` of a `struct zpool`, `len` bytes of it.
    ///
    /// # Errors
    /// The [`Hole`] that is in its place.
    pub(super) fn object(
        &self,
        kernel: &Kernel<'_>,
        zpool: u64,
        handle: u64,
        len: usize,
    ) -> Result<Vec<u8>, Hole> {
        if len == 0 || len > PAGE {
            return Err(Hole::Malformed);
        }
        let get = |object, field| kernel.get(object, field).map_err(why);
        let driver = get(zpool, self.driver)?;
        match self.driver_of(kernel, get(driver, self.kind)?)? {
            Driver::Zbud => self.zbud.ok_or(Hole::Unsupported)?.object(kernel, handle, len),
            Driver::Z3fold => self.z3fold.ok_or(Hole::Unsupported)?.object(kernel, handle, len),
            Driver::Zsmalloc => {
                let pool = get(zpool, self.pool)?;
                self.zsmalloc.ok_or(Hole::Unsupported)?.object(kernel, pool, handle, len)
            }
        }
    }

    fn driver_of(&self, kernel: &Kernel<'_>, name: u64) -> Result<Driver, Hole> {
        match text(kernel, name, NAME).map_err(why)?.as_str() {
            "zbud" => Ok(Driver::Zbud),
            "z3fold" => Ok(Driver::Z3fold),
            "zsmalloc" => Ok(Driver::Zsmalloc),
            _ => Err(Hole::Unsupported),
        }
    }
}

/// Reads bytes that must not reach over the end of their page.
fn within(kernel: &Kernel<'_>, addr: u64, len: usize) -> Result<Vec<u8>, Hole> {
    let inside = usize::try_from(addr % PAGE as u64).unwrap_or(PAGE);
    if inside + len > PAGE {
        return Err(Hole::Malformed);
    }
    let mut out = vec![0; len];
    kernel.read(addr, &mut out).map_err(why)?;
    Ok(out)
}

fn page_of(addr: u64) -> u64 {
    addr & !(PAGE as u64 - 1)
}

impl Zbud {
    /// A handle is the object's address: the first object begins behind the header's chunk,
    /// the last one ends with the page (`encode_handle()`).
    fn object(self, kernel: &Kernel<'_>, handle: u64, len: usize) -> Result<Vec<u8>, Hole> {
        let header = page_of(handle);
        let at = handle - header;
        let field = if at == CHUNK { self.first } else { self.last };
        let room = kernel.get(header, field).map_err(why)?.saturating_mul(CHUNK);
        let begins = if at == CHUNK { CHUNK } else { (PAGE as u64).saturating_sub(room) };
        if at != begins || room < len as u64 {
            return Err(Hole::Malformed);
        }
        within(kernel, handle, len)
    }
}

impl Z3fold {
    /// A handle is the address of a word: the page, and in its low bits which of the three
    /// objects, and for the last one how many chunks it has (`__encode_handle()`,
    /// `z3fold_map()`). An object that has a page for itself is marked in the handle instead
    /// (`PAGE_HEADLESS`, bit 0).
    fn object(self, kernel: &Kernel<'_>, handle: u64, len: usize) -> Result<Vec<u8>, Hole> {
        if handle & 1 == 1 {
            return within(kernel, page_of(handle), len);
        }
        let word = kernel.u64(handle).map_err(why)?;
        let header = page_of(word);
        let get = |field| kernel.get(header, field).map_err(why);
        let inside = match word.wrapping_sub(get(self.first_num)?) & 3 {
            1 => self.header.checked_next_multiple_of(CHUNK).unwrap_or(u64::MAX),
            2 => get(self.start_middle)?.saturating_mul(CHUNK),
            3 => {
                let chunks = (word - header) >> 2;
                (PAGE as u64).saturating_sub(chunks.saturating_mul(CHUNK))
            }
            // What has a page for itself has no word.
            _ => return Err(Hole::Malformed),
        };
        if inside < self.header || inside >= PAGE as u64 {
            return Err(Hole::Malformed);
        }
        within(kernel, header + inside, len)
    }
}
