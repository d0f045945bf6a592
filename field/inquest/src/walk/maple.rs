//! `struct maple_tree` (`include/linux/maple_tree.h`, `lib/maple_tree.c`): ranges of numbers
//! and what each stands for.
//!
//! A pointer to a node tells the node's kind in its low bits: nodes are 256 bytes at a
//! multiple of 256 (`MAPLE_NODE_MASK`), and the kind is in four bits from bit 3 on
//! (`MAPLE_NODE_TYPE_SHIFT`, `MAPLE_NODE_TYPE_MASK`). Bit 1 tells a top node from a tree of
//! one entry (`MAPLE_ROOT_NODE`, `xa_is_node()`); nodes below do not have it. These are macros, which BTF does
//! not have; they are the same since the tree came (6.1, commit 54a611b60590). Kinds and
//! slots are BTF's.
//!
//! Slot `n` of a node covers what lies behind pivot `n - 1`, up to pivot `n`; the last pivot
//! of a node is the node's own end, and need not be stored: a pivot of 0 stands for it.

use std::collections::HashSet;

use lifeboat_sources::bytes::le64;

use crate::kernel::{Field, Kernel, KernelError};

use super::{Damage, Found, sane};

/// Bytes of a node.
const NODE: usize = 256;
const NODE_MASK: u64 = NODE as u64 - 1;
const TYPE_SHIFT: u32 = 3;
const TYPE_MASK: u64 = 15;
/// `xa_is_internal()`, and the highest that is no node.
const INTERNAL: u64 = 2;
const LAST_INTERNAL: u64 = 4096;
/// `MAPLE_HEIGHT_MAX`.
const MAX_HEIGHT: usize = 31;

/// What lies at a range of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first number.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// The pointer.
    pub entry: u64,
}

/// The ranges that have an entry, ascending, by at most `bound` nodes. `tree` is the address
/// of a `struct maple_tree`. A branch that is damaged is left out and told.
#[must_use]
pub fn maple(kernel: &Kernel<'_>, tree: u64, bound: usize) -> Found<Span> {
    let read = Layout::new(kernel).map_err(Damage::from).and_then(|layout| {
        let root = kernel.get(tree, layout.root)?;
        Ok((layout, root))
    });
    let (layout, root) = match read {
        Ok(both) => both,
        Err(damage) => return Found::broken(damage),
    };
    let mut found = Found::default();
    if !is_node(root) {
        // A tree of one entry, at 0.
        if root != 0 && root & 3 != INTERNAL {
            found.items.push(Span { first: 0, last: 0, entry: root });
        }
        return found;
    }
    let top = Branch { node: root, first: 0, last: u64::MAX };
    let mut seen = HashSet::new();
    let mut stack = vec![(top, 0)];
    while let Some((branch, depth)) = stack.pop() {
        if seen.len() >= bound {
            found.spoil(Damage::Endless(bound));
            break;
        }
        let at = branch.node & !NODE_MASK;
        if depth >= MAX_HEIGHT || !seen.insert(at) {
            found.spoil(Damage::Circle(at));
            continue;
        }
        match layout.node(kernel, branch, &mut found) {
            Ok(below) => stack.extend(below.into_iter().rev().map(|b| (b, depth + 1))),
            Err(damage) => found.spoil(damage),
        }
    }
    found
}

fn is_node(entry: u64) -> bool {
    entry & 3 == INTERNAL && entry > LAST_INTERNAL
}

/// A node and the numbers that it answers for.
#[derive(Debug, Clone, Copy)]
struct Branch {
    node: u64,
    first: u64,
    last: u64,
}

/// A kind of node: its number, its first pivot, its first slot.
#[derive(Debug, Clone, Copy)]
struct Shape {
    kind: u64,
    pivots: Field,
    slots: Field,
}

struct Layout {
    root: Field,
    leaf: u64,
    shapes: [Shape; 3],
}

impl Layout {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let kind = |name: &str| {
            let number = kernel.enumerator(name).map(i64::cast_unsigned);
            number.ok_or_else(|| KernelError::NoRecord(format!("enumerator {name}")))
        };
        let shape = |kind, record| -> Result<Shape, KernelError> {
            let pivots = kernel.field(record, "pivot")?;
            Ok(Shape { kind, pivots, slots: kernel.field(record, "slot")? })
        };
        let leaf = kind("maple_leaf_64")?;
        let shapes = [
            shape(leaf, "maple_range_64")?,
            shape(kind("maple_range_64")?, "maple_range_64")?,
            shape(kind("maple_arange_64")?, "maple_arange_64")?,
        ];
        Ok(Self { root: kernel.field("maple_tree", "ma_root")?, leaf, shapes })
    }

    /// Adds a leaf's ranges, or gives an inner node's branches.
    fn node(
        &self,
        kernel: &Kernel<'_>,
        branch: Branch,
        found: &mut Found<Span>,
    ) -> Result<Vec<Branch>, Damage> {
        let at = branch.node & !NODE_MASK;
        if !sane(at) {
            return Err(Damage::Odd(branch.node));
        }
        let kind = branch.node >> TYPE_SHIFT & TYPE_MASK;
        let shape = self.shapes.iter().find(|s| s.kind == kind).ok_or(Damage::Odd(branch.node))?;
        let mut raw = [0; NODE];
        kernel.read(at, &mut raw)?;
        let word = |offset: u64| le64(&raw, usize::try_from(offset).ok()?);
        let mut below = Vec::new();
        let mut first = branch.first;
        for n in 0..shape.slots.length {
            let pivot = match n < shape.pivots.length {
                true => word(shape.pivots.offset + n * 8).ok_or(Damage::Odd(at))?,
                false => branch.last,
            };
            let last = if pivot == 0 && n > 0 { branch.last } else { pivot };
            let entry = word(shape.slots.offset + n * 8).ok_or(Damage::Odd(at))?;
            if last < first || last > branch.last {
                found.spoil(Damage::Odd(at));
                break;
            }
            if kind == self.leaf {
                // Internal entries hold a place and stand for nothing (XA_ZERO_ENTRY).
                if entry != 0 && entry & 3 != INTERNAL {
                    found.items.push(Span { first, last, entry });
                }
            } else if entry != 0 {
                // What it is, is seen when it is looked into.
                below.push(Branch { node: entry, first, last });
            } else {
                found.spoil(Damage::Odd(at));
            }
            if last == branch.last {
                break;
            }
            first = last + 1;
        }
        Ok(below)
    }
}
