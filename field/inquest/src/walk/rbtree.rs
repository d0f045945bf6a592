//! `struct rb_root` (`include/linux/rbtree_types.h`, `lib/rbtree.c`).

use std::collections::HashSet;

use crate::kernel::{Field, Kernel, KernelError};

use super::{Damage, Found, sane};

/// Colour, and alignment: the low bits of `__rb_parent_color` that are no address.
const COLOUR: u64 = 3;

/// The nodes of a red-black tree in order, at most `bound` of them. `root` is the address of
/// a `struct rb_root`, or of a `struct rb_root_cached`, which begins with one.
///
/// A branch whose first node cannot be read, is known already or does not know its parent is
/// left out and told; the rest of the tree is given.
#[must_use]
pub fn rbtree(kernel: &Kernel<'_>, root: u64, bound: usize) -> Found<u64> {
    let tree = match Tree::new(kernel) {
        Ok(tree) => tree,
        Err(why) => return Found::broken(why.into()),
    };
    let top = match kernel.get(root, tree.node) {
        Ok(top) => top,
        Err(fault) => return Found::broken(fault.into()),
    };
    tree.walk(kernel, top, bound)
}

struct Tree {
    node: Field,
    left: Field,
    right: Field,
    parent: Field,
}

/// A node whose left branch is done, or is not.
struct Step {
    node: u64,
    right: u64,
}

impl Tree {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        Ok(Self {
            node: kernel.field("rb_root", "rb_node")?,
            left: kernel.field("rb_node", "rb_left")?,
            right: kernel.field("rb_node", "rb_right")?,
            parent: kernel.field("rb_node", "__rb_parent_color")?,
        })
    }

    fn walk(&self, kernel: &Kernel<'_>, top: u64, bound: usize) -> Found<u64> {
        let mut found = Found::default();
        let mut seen = HashSet::new();
        let mut path: Vec<Step> = Vec::new();
        let (mut at, mut parent) = (top, 0);
        loop {
            // Down to the left as far as it goes.
            while at != 0 {
                if seen.len() >= bound {
                    found.spoil(Damage::Endless(bound));
                    found.items.extend(path.iter().rev().map(|step| step.node));
                    return found;
                }
                match self.node(kernel, at, parent, &mut seen) {
                    Ok((left, right)) => {
                        path.push(Step { node: at, right });
                        (parent, at) = (at, left);
                    }
                    Err(damage) => {
                        found.spoil(damage);
                        break;
                    }
                }
            }
            let Some(step) = path.pop() else { return found };
            found.items.push(step.node);
            (parent, at) = (step.node, step.right);
        }
    }

    /// A node's branches.
    fn node(
        &self,
        kernel: &Kernel<'_>,
        at: u64,
        parent: u64,
        seen: &mut HashSet<u64>,
    ) -> Result<(u64, u64), Damage> {
        if !sane(at) {
            return Err(Damage::Odd(at));
        }
        let above = kernel.get(at, self.parent)? & !COLOUR;
        let branches = (kernel.get(at, self.left)?, kernel.get(at, self.right)?);
        if above != parent || !seen.insert(at) {
            return Err(Damage::Circle(at));
        }
        Ok(branches)
    }
}
