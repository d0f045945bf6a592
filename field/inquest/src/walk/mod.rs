//! Lists, trees and arrays of the dead kernel.
//!
//! Every walk has a bound that its caller names, remembers where it was, and gives what it
//! found beside what was wrong: a list whose middle is lost is read from both ends, a tree
//! with one wild pointer serves its other branches. Addresses are of the nodes that link
//! (`struct list_head`, …): the object begins `Field::offset` before.

mod list;
mod maple;
mod xarray;

use crate::kernel::{Fault, KernelError};
use crate::machine::Hole;

pub use list::{hlist, list};
pub use maple::{Span, maple};
pub use xarray::{Entry, Item, xa_load, xarray};

/// Most damages of one walk that are told one by one.
const MAX_DAMAGE: usize = 64;

/// What a walk found, and what was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// What was found, in order as far as the order is known.
    pub items: Vec<T>,
    /// What was wrong; the first 64 of it.
    pub damage: Vec<Damage>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { items: Vec::new(), damage: Vec::new() }
    }
}

impl<T> Found<T> {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }

    pub(crate) fn spoil(&mut self, damage: Damage) {
        if self.damage.len() < MAX_DAMAGE {
            self.damage.push(damage);
        }
    }

    /// Takes over what was wrong with another walk, and gives what that found.
    pub(crate) fn heed<U>(&mut self, other: Found<U>) -> Vec<U> {
        other.damage.into_iter().for_each(|damage| self.spoil(damage));
        other.items
    }

    /// Nothing but what was wrong.
    pub(crate) fn broken(damage: Damage) -> Self {
        Self { items: Vec::new(), damage: vec![damage] }
    }
}

/// What is wrong with a list or a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// A node cannot be read.
    #[error("a node {0}")]
    Lost(Fault),
    /// A node is in there twice, or its neighbours do not know it.
    #[error("the node at {0:#x} leads back, or is linked wrongly")]
    Circle(u64),
    /// There are more nodes than there can be.
    #[error("there are more than {0} nodes")]
    Endless(usize),
    /// A node says what cannot be.
    #[error("the node at {0:#x} says what cannot be")]
    Odd(u64),
    /// Two ways to the same objects differ.
    #[error("the object at {0:#x} is known to one of the kernel's two lists only")]
    OneWay(u64),
    /// The kernel lacks what the walk needs to know.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl Damage {
    /// As a reason for what is missing.
    #[must_use]
    pub fn hole(&self) -> Hole {
        match self {
            Self::Lost(fault) | Self::Kernel(KernelError::Memory { fault, .. }) => fault.why,
            _ => Hole::Malformed,
        }
    }
}

impl From<Fault> for Damage {
    fn from(fault: Fault) -> Self {
        if fault.why == Hole::Malformed { Self::Odd(fault.addr) } else { Self::Lost(fault) }
    }
}

/// Whether a node may be at an address: the kernel's half, and aligned as a pointer is.
fn sane(addr: u64) -> bool {
    addr.is_multiple_of(8) && addr >> 63 == 1
}
