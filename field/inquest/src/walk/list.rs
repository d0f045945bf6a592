//! `struct list_head` and `struct hlist_head` (`include/linux/list.h`).

use std::collections::HashSet;

use crate::kernel::{Field, Kernel};

use super::{Damage, Found, sane};

/// The nodes of a circular list, the head itself left out, at most `bound` of them.
///
/// Where a node is lost, the list is read on from its other end: what lies between is all
/// that is missing, and the damage tells of it.
#[must_use]
pub fn list(kernel: &Kernel<'_>, head: u64, bound: usize) -> Found<u64> {
    let fields = kernel.field("list_head", "next").and_then(|next| {
        let prev = kernel.field("list_head", "prev")?;
        Ok((next, prev))
    });
    let (next, prev) = match fields {
        Ok(fields) => fields,
        Err(why) => return Found::broken(why.into()),
    };
    let mut found = Found::default();
    let mut seen = HashSet::from([head]);
    let whole = follow(kernel, head, next, bound, &mut seen, &mut found);
    if !whole {
        let mut back = Found::default();
        let left = bound.saturating_sub(found.items.len());
        follow(kernel, head, prev, left, &mut seen, &mut back);
        // The same damage from its other side; only the first is told.
        found.items.extend(back.items.into_iter().rev());
    }
    found
}

/// Follows one direction until it comes back to the head. Says whether it did.
fn follow(
    kernel: &Kernel<'_>,
    head: u64,
    link: Field,
    bound: usize,
    seen: &mut HashSet<u64>,
    found: &mut Found<u64>,
) -> bool {
    let mut at = head;
    loop {
        at = match kernel.get(at, link) {
            Ok(next) if next == head => return true,
            // The node that cannot be read is none.
            Err(fault) => {
                if at != head {
                    found.items.pop();
                }
                found.spoil(fault.into());
                return false;
            }
            Ok(next) => next,
        };
        if !accept(at, bound, seen, found) {
            return false;
        }
    }
}

/// Adds a node, if one may be there, and says whether it did.
fn accept(at: u64, bound: usize, seen: &mut HashSet<u64>, found: &mut Found<u64>) -> bool {
    let damage = if !sane(at) {
        Damage::Odd(at)
    } else if !seen.insert(at) {
        Damage::Circle(at)
    } else if found.items.len() >= bound {
        Damage::Endless(bound)
    } else {
        found.items.push(at);
        return true;
    };
    found.spoil(damage);
    false
}

/// The nodes of a list that ends with a null pointer, at most `bound` of them. `head` is the
/// address of the `struct hlist_head`, `hlist_bl_head` or `hlist_nulls_head`: the lowest bit
/// is a lock in the second, and ends the list in the third.
#[must_use]
pub fn hlist(kernel: &Kernel<'_>, head: u64, bound: usize) -> Found<u64> {
    let next = match kernel.field("hlist_node", "next") {
        Ok(next) => next,
        Err(why) => return Found::broken(why.into()),
    };
    let mut found = Found::default();
    let mut seen = HashSet::new();
    // `first` is the only member of a head.
    let mut now = kernel.u64(head).map(|first| first & !1);
    loop {
        let at = match now {
            Ok(at) if at == 0 || at & 1 != 0 => return found,
            Ok(at) => at,
            Err(fault) => {
                found.items.pop();
                found.spoil(fault.into());
                return found;
            }
        };
        if !accept(at, bound, &mut seen, &mut found) {
            return found;
        }
        now = kernel.get(at, next);
    }
}
