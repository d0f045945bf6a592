//! `struct xarray` (`include/linux/xarray.h`, `lib/xarray.c`), which the radix tree and IDR
//! are made of since 4.20: numbers and what each stands for.
//!
//! An entry tells what it is by its low bits, by macros that BTF does not have; they are the
//! same since it came (commits 3159f943aafd and 02c02bf12c5d): 1 in bit 0 is a value,
//! shifted left by one; `10` is internal, and then a node if above 4096, else the number of
//! an older sibling's slot, shifted left by two. Anything else is a pointer.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::kernel::{Field, Kernel, KernelError};

use super::{Damage, Found, sane};

const INTERNAL: u64 = 2;
const LAST_INTERNAL: u64 = 4096;
/// Most bits that the nodes' shifts may add up to.
const INDEX_BITS: u64 = 64;

/// What an array has at a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A pointer; the lowest two bits may be a tag of its owner's.
    Pointer(u64),
    /// A value of 63 bits, such as a shadow or a swap entry of the page cache.
    Value(u64),
}

/// An entry and the numbers that it stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The first number.
    pub index: u64,
    /// How many there are; more than one for an entry of a higher order.
    pub count: u64,
    /// What is there.
    pub entry: Entry,
}

/// The entries at the numbers `range`, ascending, by at most `bound` nodes. `array` is the
/// address of a `struct xarray` or `struct radix_tree_root`. A branch that is damaged is
/// left out and told.
#[must_use]
pub fn xarray(
    kernel: &Kernel<'_>,
    array: u64,
    range: RangeInclusive<u64>,
    bound: usize,
) -> Found<Item> {
    let layout = match Layout::new(kernel) {
        Ok(layout) => layout,
        Err(why) => return Found::broken(why.into()),
    };
    let head = match kernel.get(array, layout.head) {
        Ok(head) => head,
        Err(fault) => return Found::broken(fault.into()),
    };
    let mut walk = Walk { kernel, layout, range, found: Found::default(), seen: HashSet::new() };
    walk.all(head, bound);
    // An entry of a higher order may lie beside a node that was looked into later.
    walk.found.items.sort_by_key(|item| item.index);
    walk.found
}

/// The entry at one number; `None` where there is none.
///
/// # Errors
/// The damage on the way to it.
pub fn xa_load(kernel: &Kernel<'_>, array: u64, index: u64) -> Result<Option<Item>, Damage> {
    // One node a level.
    let found = xarray(kernel, array, index..=index, 16);
    match found.damage.into_iter().next() {
        Some(damage) => Err(damage),
        None => Ok(found.items.first().copied()),
    }
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    head: Field,
    shift: Field,
    slots: Field,
    /// log2 of the slots of a node (`XA_CHUNK_SHIFT`).
    chunk: u32,
}

impl Layout {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let slots = kernel.field("xa_node", "slots")?;
        let odd = KernelError::Odd { what: "xa_node.slots", value: slots.length };
        let chunk = slots.length.is_power_of_two() && (2..=256).contains(&slots.length);
        Ok(Self {
            head: kernel.field("xarray", "xa_head")?,
            shift: kernel.field("xa_node", "shift")?,
            slots,
            chunk: chunk.then_some(slots.length.trailing_zeros()).ok_or(odd)?,
        })
    }
}

/// A node, the first number below it, and the shift that it must have at most.
#[derive(Debug, Clone, Copy)]
struct Branch {
    node: u64,
    first: u64,
    /// Shift of the node above; 64 for the top.
    below: u64,
}

struct Walk<'k, 'm> {
    kernel: &'k Kernel<'m>,
    layout: Layout,
    range: RangeInclusive<u64>,
    found: Found<Item>,
    seen: HashSet<u64>,
}

fn is_node(entry: u64) -> bool {
    entry & 3 == INTERNAL && entry > LAST_INTERNAL
}

/// What an entry that is no node stands for; `None` for nothing, and for the internal ones
/// that only hold a place.
fn meaning(entry: u64) -> Option<Entry> {
    match entry {
        0 => None,
        _ if entry & 1 != 0 => Some(Entry::Value(entry >> 1)),
        _ if entry & 3 == INTERNAL => None,
        _ => Some(Entry::Pointer(entry)),
    }
}

impl Walk<'_, '_> {
    fn all(&mut self, head: u64, bound: usize) {
        if !is_node(head) {
            if self.range.contains(&0)
                && let Some(entry) = meaning(head)
            {
                self.found.items.push(Item { index: 0, count: 1, entry });
            }
            return;
        }
        let mut stack = vec![Branch { node: head, first: 0, below: INDEX_BITS }];
        while let Some(branch) = stack.pop() {
            if self.seen.len() >= bound {
                self.found.spoil(Damage::Endless(bound));
                return;
            }
            if !self.seen.insert(branch.node) {
                self.found.spoil(Damage::Circle(branch.node));
                continue;
            }
            match self.node(branch) {
                Ok(below) => stack.extend(below.into_iter().rev()),
                Err(damage) => self.found.spoil(damage),
            }
        }
    }

    fn node(&mut self, branch: Branch) -> Result<Vec<Branch>, Damage> {
        // xa_to_node(): the mark is subtracted.
        let at = branch.node - INTERNAL;
        let odd = Damage::Odd(at);
        if !sane(at) {
            return Err(odd);
        }
        let shift = self.kernel.get(at, self.layout.shift)?;
        let chunk = u64::from(self.layout.chunk);
        // A node within a node is one chunk smaller; the top one fits 64 bits.
        let fits = match branch.below {
            INDEX_BITS => shift < INDEX_BITS && shift.is_multiple_of(chunk),
            below => shift.checked_add(chunk) == Some(below),
        };
        if !fits {
            return Err(odd);
        }
        let mut raw = vec![0; usize::try_from(self.layout.slots.length * 8).unwrap_or(0)];
        let slots = at.checked_add(self.layout.slots.offset).ok_or(odd)?;
        self.kernel.read(slots, &mut raw)?;
        let (words, _) = raw.as_chunks::<8>();
        let mut below = Vec::new();
        let mut last: Option<(usize, usize)> = None;
        let before = self.found.items.len();
        for (n, word) in (0u64..).zip(words) {
            let entry = u64::from_le_bytes(*word);
            let Some(first) = n.checked_shl(u32::try_from(shift).unwrap_or(64)) else { break };
            if first >> shift != n {
                break;
            }
            let first = branch.first | first;
            let end = first | ((1u64 << shift) - 1);
            if is_node(entry) {
                last = None;
                if first <= *self.range.end() && end >= *self.range.start() && shift > 0 {
                    below.push(Branch { node: entry, first, below: shift });
                } else if shift == 0 {
                    self.found.spoil(Damage::Odd(entry));
                }
                continue;
            }
            let slot = usize::try_from(n).unwrap_or(usize::MAX);
            if entry & 3 == INTERNAL {
                // A sibling belongs to the entry at the slot that it names.
                if let Some((item, of)) = last.filter(|(_, of)| entry >> 2 == *of as u64)
                    && let Some(item) = self.found.items.get_mut(item)
                {
                    item.count = item.count.saturating_add(1 << shift);
                    last = Some((self.found.items.len() - 1, of));
                }
                continue;
            }
            last = None;
            if let Some(entry) = meaning(entry) {
                last = Some((self.found.items.len(), slot));
                self.found.items.push(Item { index: first, count: 1 << shift, entry });
            }
        }
        self.trim(before);
        Ok(below)
    }

    /// Drops what lies outside of the range, of what came since.
    fn trim(&mut self, before: usize) {
        let came = self.found.items.split_off(before.min(self.found.items.len()));
        let (from, to) = (*self.range.start(), *self.range.end());
        self.found.items.extend(came.into_iter().filter(|item| {
            let last = item.index.saturating_add(item.count.saturating_sub(1));
            last >= from && item.index <= to
        }));
    }
}
