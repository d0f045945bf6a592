//! Whether pages lead to their owners and back: a witness for what marks memory of
//! processes and page cache, before any of it is left out.
//!
//! `mapping` of a page of a file is its `struct address_space`, whose `host` is an inode
//! that has this very space as `i_data` or `i_mapping` (`inode_init_always()`,
//! `fs/inode.c`); that of an anonymous page is a `struct anon_vma` whose `root` is its
//! own root (`anon_vma_alloc()`, `mm/rmap.c`). Only BTF tells where these members are:
//! without it nothing is looked at.

use crate::bytes::le64;
use crate::memory::PhysRead;

use super::Worth;
use super::checks::struct_page;
use super::class::{ANON, Class, MOVABLE};
use super::facts::Facts;
use super::layout::MAX_SIZE;
use super::sections;

/// Pages of a kind that are counted, and those of one block that are looked at.
const MOST: u64 = 64;
const PER_BLOCK: u64 = 4;

/// How many pages led to an owner that knows them, and how many were looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Witness {
    /// That did.
    pub good: u64,
    /// All.
    pub all: u64,
}

/// The witnesses of both kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owners {
    /// Pages of files.
    pub files: Witness,
    /// Anonymous pages.
    pub anon: Witness,
}

/// Where the members lie.
#[derive(Clone, Copy)]
pub(super) struct Members {
    host: u64,
    i_data: u64,
    i_mapping: u64,
    root: u64,
}

impl Members {
    /// `None` without BTF.
    pub(super) fn new(info: &Facts<'_>) -> Option<Self> {
        Some(Self {
            host: info.offset("address_space.host")?,
            i_data: info.offset("inode.i_data")?,
            i_mapping: info.offset("inode.i_mapping")?,
            root: info.offset("anon_vma.root")?,
        })
    }
}

impl Owners {
    /// Looks at some pages of each kind among those from `first` on, which are `classes`.
    pub(super) fn look(
        &mut self,
        worth: &Worth,
        memory: &mut impl PhysRead,
        members: &Members,
        first: u64,
        classes: &[Class],
    ) {
        let (mut files, mut anon) = (0, 0);
        let mut before = Class::Kernel;
        for (pfn, class) in (first..).zip(classes.iter().copied()) {
            // The first of a stretch is no further page of something, most often.
            if std::mem::replace(&mut before, class) == class {
                continue;
            }
            let (witness, here) = match class {
                Class::Cache | Class::CachePrivate => (&mut self.files, &mut files),
                Class::Anon => (&mut self.anon, &mut anon),
                _ => continue,
            };
            if *here == PER_BLOCK || witness.all == MOST {
                continue;
            }
            *here += 1;
            if let Some(good) = leads_back(worth, memory, members, pfn, class) {
                witness.all += 1;
                witness.good += u64::from(good);
            }
        }
    }
}

/// Whether the owner knows the page. `None` for a page that says nothing: the further
/// ones of a compound page, those merged by KSM, those that their file gave up.
fn leads_back(
    worth: &Worth,
    memory: &mut impl PhysRead,
    members: &Members,
    pfn: u64,
    class: Class,
) -> Option<bool> {
    let mut buf = [0; MAX_SIZE];
    let page = struct_page(worth, memory, pfn, "a sample", &mut buf).ok()?;
    let mapping = le64(page, worth.layout.mapping)?;
    if le64(page, worth.layout.compound_head)? & 1 == 1 {
        return None;
    }
    // An address that is none reads as 0, which no pointer here is.
    let mut word = |at: u64, offset: u64| {
        let at = at.checked_add(offset);
        at.and_then(|at| sections::word(&worth.space, memory, at, "an owner").ok()).unwrap_or(0)
    };
    if class == Class::Anon {
        if mapping & MOVABLE != 0 {
            return None;
        }
        let root = word(mapping & !ANON, members.root);
        return Some(root != 0 && word(root, members.root) == root);
    }
    if mapping == 0 {
        return None;
    }
    let inode = word(mapping, members.host);
    let own = inode.checked_add(members.i_data) == Some(mapping);
    Some(inode != 0 && (own || word(inode, members.i_mapping) == mapping))
}
