//! zswap: pages on their way to a swap device that are kept compressed in memory
//! (`mm/zswap.c`).
//!
//! Each swap area has trees of entries by offset: one red-black tree, later one for each
//! 64 MiB, later XArrays. BTF and the symbols say which it is: `struct zswap_tree` is there or
//! not, `nr_zswap_trees` is there or not. An entry that is found is the page's only copy:
//! what the device holds in that place is older.

use lifeboat_format::PAGE;

use crate::kernel::{Field, Kernel, KernelError};
use crate::machine::Hole;

use super::area::Area;
use super::codec::Codec;
use super::entry::SwapEntry;
use super::zpool::Zpools;
use super::{Whence, fill, load, search, text, why};

/// Longest name of a codec that is read, bytes (`CRYPTO_MAX_ALG_NAME`).
const NAME: usize = 128;

/// Where zswap keeps what, by BTF.
#[derive(Debug)]
pub(super) struct Zswap {
    trees: u64,
    /// Of which several belong to one area, how many do.
    counts: Option<u64>,
    tree: Tree,
    /// Offset or whole entry that an entry is for.
    key: Key,
    length: Field,
    handle: Field,
    /// In place of the handle, where entries may stand for one word.
    value: Option<Field>,
    pool: Field,
    zpool: Field,
    codec: Field,
    /// `struct zswap_header`: its size, and the entry in it.
    header: Option<(usize, Field)>,
}

/// What an area's trees are.
#[derive(Debug, Clone, Copy)]
enum Tree {
    /// `struct zswap_tree` of this size, with a red-black tree of entries.
    Rb { size: u64, root: Field, node: Field, left: Field, right: Field },
    /// XArrays of this size.
    Xarray { size: u64 },
}

/// What an entry says it is for.
#[derive(Debug, Clone, Copy)]
enum Key {
    Offset(Field),
    Entry(Field),
}

impl Zswap {
    /// From the dead kernel's symbols and types; `None` where it has no zswap.
    ///
    /// # Errors
    /// [`KernelError`]: it has one that is too different.
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Option<Self>, KernelError> {
        let Some(trees) = kernel.known("zswap_trees")? else { return Ok(None) };
        let entry = |path| kernel.field("zswap_entry", path);
        let tree = match kernel.size("zswap_tree") {
            Ok(size) => Tree::Rb {
                size,
                root: kernel.field("zswap_tree", "rbroot.rb_node")?,
                node: entry("rbnode")?,
                left: kernel.field("rb_node", "rb_left")?,
                right: kernel.field("rb_node", "rb_right")?,
            },
            Err(_) => Tree::Xarray { size: kernel.size("xarray")? },
        };
        let key = match entry("swpentry.val") {
            Ok(field) => Key::Entry(field),
            Err(_) => Key::Offset(entry("offset")?),
        };
        let header = || {
            let size = usize::try_from(kernel.size("zswap_header").ok()?).ok()?;
            Some((size, kernel.field("zswap_header", "swpentry.val").ok()?))
        };
        Ok(Some(Self {
            trees,
            counts: kernel.known("nr_zswap_trees")?,
            tree,
            key,
            length: entry("length")?,
            handle: entry("handle")?,
            value: entry("value").ok(),
            pool: entry("pool")?,
            zpool: kernel
                .field("zswap_pool", "zpool")
                // One kernel spread its objects over several pools of one kind. Which of them
                // is the right one matters to none of the allocators: a handle tells all.
                .or_else(|_| kernel.field("zswap_pool", "zpools[0]"))?,
            codec: kernel.field("zswap_pool", "tfm_name")?,
            header: header(),
        }))
    }

    /// Reads the page of an entry; `None` where zswap has none.
    ///
    /// # Errors
    /// The [`Hole`] that is in its place.
    pub(super) fn page(
        &self,
        kernel: &Kernel<'_>,
        zpools: Option<&Zpools>,
        area: &Area,
        entry: SwapEntry,
        out: &mut [u8; PAGE],
    ) -> Result<Option<Whence>, Hole> {
        let get = |object, field| kernel.get(object, field).map_err(why);
        let Some(found) = self.find(kernel, area, entry)? else { return Ok(None) };
        let len = usize::try_from(get(found, self.length)?).unwrap_or(usize::MAX);
        if let (0, Some(value)) = (len, self.value) {
            fill(out, get(found, value)?);
            return Ok(Some(Whence::SameFilled));
        }
        if len == 0 || len > PAGE {
            return Err(Hole::Malformed);
        }
        let pool = get(found, self.pool)?;
        let zpool = get(pool, self.zpool)?;
        let zpools = zpools.ok_or(Hole::Unsupported)?;
        let skip = match self.header {
            Some((size, _)) if zpools.evictable(kernel, zpool)? => size,
            _ => 0,
        };
        let all =
            zpools.object(kernel, zpool, get(found, self.handle)?, skip.saturating_add(len))?;
        let (head, packed) = all.split_at_checked(skip).ok_or(Hole::Malformed)?;
        self.check(head, entry)?;
        let at = pool.checked_add(self.codec.offset).ok_or(Hole::Malformed)?;
        let name = text(kernel, at, NAME).map_err(why)?;
        let codec = Codec::by_name(&name).ok_or(Hole::Unsupported)?;
        if let Some(whole) = packed.first_chunk::<PAGE>() {
            // Stored as it is, by kernels that keep what cannot be compressed.
            *out = *whole;
        } else {
            codec.decompress(packed, out).map_err(|_| Hole::Undecodable)?;
        }
        Ok(Some(Whence::Zswap))
    }

    /// What stands before the compressed bytes must be the entry itself.
    fn check(&self, head: &[u8], entry: SwapEntry) -> Result<(), Hole> {
        let Some((_, field)) = self.header.filter(|_| !head.is_empty()) else { return Ok(()) };
        let at = usize::try_from(field.offset).map_err(|_| Hole::Malformed)?;
        let word = head.get(at..).and_then(|h| h.first_chunk::<8>()).ok_or(Hole::Malformed)?;
        let same = u64::from_le_bytes(*word) == entry.val();
        same.then_some(()).ok_or(Hole::Malformed)
    }

    /// The `struct zswap_entry` of an entry.
    fn find(
        &self,
        kernel: &Kernel<'_>,
        area: &Area,
        entry: SwapEntry,
    ) -> Result<Option<u64>, Hole> {
        let word = |at| kernel.u64(at).map_err(why);
        let trees = word(self.trees.wrapping_add(u64::from(entry.area) * 8))?;
        if trees == 0 {
            return Ok(None);
        }
        let number = match self.counts {
            Some(counts) => {
                let at = counts.wrapping_add(u64::from(entry.area) * 4);
                let count = kernel.u32(at).map_err(why)?;
                area.space(entry.offset, u64::from(count))?
            }
            None => 0,
        };
        let tree = |size: u64| {
            let at = size.checked_mul(number).and_then(|inside| trees.checked_add(inside));
            at.ok_or(Hole::Malformed)
        };
        let found = match self.tree {
            Tree::Rb { size, root, node, left, right } => {
                let top = kernel.get(tree(size)?, root).map_err(why)?;
                let entry_of = |at: u64| at.wrapping_sub(node.offset);
                // `zswap_rb_search()`
                let at = search(kernel, top, [left, right], |at| {
                    Ok(self.offset(kernel, entry_of(at))?.cmp(&entry.offset))
                })?;
                at.map(entry_of)
            }
            Tree::Xarray { size } => load(kernel, tree(size)?, entry.offset)?,
        };
        // Another entry in its place is damage.
        if let Some(this) = found
            && let Key::Entry(field) = self.key
            && kernel.get(this, field).map_err(why)? != entry.val()
        {
            return Err(Hole::Malformed);
        }
        Ok(found)
    }

    fn offset(&self, kernel: &Kernel<'_>, entry: u64) -> Result<u64, Hole> {
        match self.key {
            Key::Offset(field) => kernel.get(entry, field).map_err(why),
            Key::Entry(field) => {
                let val = kernel.get(entry, field).map_err(why)?;
                Ok(SwapEntry::from_val(val).offset)
            }
        }
    }
}
