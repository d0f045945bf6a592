//! Lists, trees and arrays: whole ones, and what is found of damaged ones.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test falls over where it is wrong"
)]

mod machine;

use lifeboat_inquest::Hole;
use lifeboat_inquest::walk::{self, Damage, Entry, Item, Span};
use machine::{World, open, pfn};

#[test]
fn a_whole_list() {
    let mut world = World::new();
    let (head, nodes) = world.list(50);
    let (empty, _) = world.list(0);
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    let found = walk::list(&kernel, head, 50);
    assert!(found.is_whole(), "{:?}", found.damage);
    assert_eq!(found.items, nodes);
    assert!(walk::list(&kernel, empty, 0).items.is_empty());
    let short = walk::list(&kernel, head, 49);
    assert_eq!(short.damage, [Damage::Endless(49)]);
}

#[test]
fn a_list_whose_middle_is_lost_is_read_from_both_ends() {
    let mut world = World::new();
    let (head, nodes) = world.list(20);
    let (mut ram, notes) = world.finish();
    ram.bad.insert(pfn(nodes[7]), Hole::Unreadable);
    let kernel = open(&ram, &notes);
    let found = walk::list(&kernel, head, 100);
    let mut want = nodes.clone();
    want.remove(7);
    assert_eq!(found.items, want);
    assert!(matches!(&found.damage[..], [Damage::Lost(f)] if f.why == Hole::Unreadable));
}

#[test]
fn circles_and_wild_pointers_end_a_list() {
    let mut world = World::new();
    let (head, nodes) = world.list(20);
    world.put(nodes[12], nodes[3]);
    let (wild, others) = world.list(20);
    world.put(others[5], 0xdead_beef_0bad_f00d);
    let (nulled, last) = world.list(20);
    world.put(last[5], 0);
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    let found = walk::list(&kernel, head, 1000);
    assert_eq!(found.damage, [Damage::Circle(nodes[3])]);
    // All the same: what is behind is found from the other end.
    assert_eq!(found.items, nodes);
    let found = walk::list(&kernel, wild, 1000);
    assert_eq!(found.damage, [Damage::Odd(0xdead_beef_0bad_f00d)]);
    assert_eq!(found.items, others);
    let found = walk::list(&kernel, nulled, 1000);
    assert_eq!(found.damage, [Damage::Odd(0)]);
    assert_eq!(found.items, last);
}

#[test]
fn lists_that_end_with_null() {
    let mut world = World::new();
    let head = world.alloc(8);
    let nodes: Vec<u64> = (0..5).map(|_| world.alloc_page()).collect();
    // The lock of a hlist_bl_head is no part of the address.
    world.put(head, nodes[0] | 1);
    for pair in nodes.windows(2) {
        world.put(pair[0], pair[1]);
    }
    let looped = world.alloc(8);
    let node = world.alloc(16);
    world.put(looped, node);
    world.put(node, node);
    let (mut ram, notes) = world.finish();
    {
        let kernel = open(&ram, &notes);
        let found = walk::hlist(&kernel, head, 5);
        assert!(found.is_whole());
        assert_eq!(found.items, nodes);
        assert_eq!(walk::hlist(&kernel, head, 4).damage, [Damage::Endless(4)]);
        assert_eq!(walk::hlist(&kernel, looped, 9).damage, [Damage::Circle(node)]);
    }
    ram.bad.insert(pfn(nodes[2]), Hole::Damaged);
    let kernel = open(&ram, &notes);
    let found = walk::hlist(&kernel, head, 5);
    assert_eq!(found.items, nodes[..2]);
    assert_eq!(found.damage.len(), 1);
}

/// `mt_mk_node()` and `mte_mk_root()`.
const LEAF: u64 = 1 << 3 | 4;
const RANGE: u64 = 2 << 3 | 4;
const ARANGE: u64 = 3 << 3 | 4;
const ROOT: u64 = 2;

/// Fills a node of a maple tree: pivots, and slots from `slots` on.
fn fill(world: &mut World, node: u64, slots: u64, list: &[(u64, u64)]) {
    for ((pivot, slot), n) in list.iter().zip(0..) {
        if *pivot != u64::MAX {
            world.put(node + 8 + n * 8, *pivot);
        }
        world.put(node + slots + n * 8, *slot);
    }
}

#[test]
fn ranges_of_a_maple_tree() {
    let mut world = World::new();
    let (tree, top) = (world.alloc(16), world.alloc_page());
    let leaves: Vec<u64> = (0..3).map(|_| world.alloc_page()).collect();
    let inner = world.alloc_page();
    world.put(tree + 8, top | ARANGE | ROOT);
    fill(&mut world, top, 80, &[(0xfff, leaves[0] | LEAF), (u64::MAX, inner | RANGE)]);
    let below = [(0x4fff, leaves[1] | LEAF), (u64::MAX, leaves[2] | LEAF)];
    fill(&mut world, inner, 128, &below);
    // A gap, a range, an internal entry, a range to the node's end.
    let object = |n: u64| 0xffff_8880_0010_0000 + n * 256;
    fill(
        &mut world,
        leaves[0],
        128,
        &[(0xf, 0), (0x1f, object(1)), (0x2f, 1030), (0xfff, object(2))],
    );
    fill(&mut world, leaves[1], 128, &[(0x1fff, object(3)), (0x4fff, 0)]);
    fill(&mut world, leaves[2], 128, &[(0x5fff, 0), (u64::MAX, object(4))]);
    let (mut ram, notes) = world.finish();
    let span = |first, last, n| Span { first, last, entry: object(n) };
    let want = [
        span(0x10, 0x1f, 1),
        span(0x30, 0xfff, 2),
        span(0x1000, 0x1fff, 3),
        span(0x6000, u64::MAX, 4),
    ];
    {
        let kernel = open(&ram, &notes);
        let found = walk::maple(&kernel, tree, 5);
        assert!(found.is_whole(), "{:?}", found.damage);
        assert_eq!(found.items, want);
        let short = walk::maple(&kernel, tree, 4);
        assert_eq!(short.damage, [Damage::Endless(4)]);
        assert_eq!(short.items, want[..3]);
    }
    ram.bad.insert(pfn(leaves[1]), Hole::Damaged);
    let kernel = open(&ram, &notes);
    let found = walk::maple(&kernel, tree, 100);
    assert_eq!(found.items, [want[0], want[1], want[3]]);
    assert_eq!(found.damage.len(), 1);
}

#[test]
fn a_maple_tree_of_nothing_and_of_nonsense() {
    let mut world = World::new();
    let trees: Vec<u64> = (0..6).map(|_| world.alloc(16)).collect();
    let node = world.alloc_page();
    world.put(trees[1] + 8, 0xffff_8880_0000_1000);
    // A node that contains itself.
    world.put(trees[2] + 8, node | RANGE | ROOT);
    fill(&mut world, node, 128, &[(0xfff, node | RANGE), (0x1fff, node | RANGE)]);
    // Of a kind that there is not; at an address that there is not; with pivots that fall.
    world.put(trees[3] + 8, node | 9 << 3 | 4 | ROOT);
    world.put(trees[4] + 8, 0x1234_5678_9abc_de00 | LEAF | ROOT);
    let falling = world.alloc_page();
    world.put(trees[5] + 8, falling | LEAF | ROOT);
    fill(&mut world, falling, 128, &[(0xfff, 0x1000), (0x10, 0x2000)]);
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    let found: Vec<_> = trees.iter().map(|t| walk::maple(&kernel, *t, 1000)).collect();
    assert!(found[0].is_whole() && found[0].items.is_empty());
    assert_eq!(found[1].items, [Span { first: 0, last: 0, entry: 0xffff_8880_0000_1000 }]);
    for broken in &found[2..] {
        assert!(!broken.is_whole() && broken.items.len() <= 1, "{broken:?}");
    }
}

/// A node of an XArray.
fn xnode(world: &mut World, shift: u64, slots: &[(u64, u64)]) -> u64 {
    let node = world.alloc(600);
    world.put(node, shift);
    for (n, entry) in slots {
        world.put(node + 40 + n * 8, *entry);
    }
    node | 2
}

#[test]
fn entries_of_an_xarray() {
    let mut world = World::new();
    let object = |n: u64| 0xffff_8880_0010_0000 + n * 256;
    let array = world.alloc(16);
    let leaf = xnode(&mut world, 0, &[(0, object(0)), (5, 7 << 1 | 1), (63, object(1))]);
    // An entry of order 2, by an older sibling, and one of order 7 a level above.
    let second = xnode(&mut world, 0, &[(4, object(2)), (5, 18), (6, 18), (7, 18), (9, 18)]);
    let top = xnode(&mut world, 6, &[(0, leaf), (1, second), (2, object(3)), (3, 10)]);
    world.put(array + 8, top);
    let single = world.alloc(16);
    world.put(single + 8, object(9));
    let empty = world.alloc(16);
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    let item = |index, count, entry| Item { index, count, entry };
    let want = [
        item(0, 1, Entry::Pointer(object(0))),
        item(5, 1, Entry::Value(7)),
        item(63, 1, Entry::Pointer(object(1))),
        item(68, 4, Entry::Pointer(object(2))),
        item(128, 128, Entry::Pointer(object(3))),
    ];
    let found = walk::xarray(&kernel, array, 0..=u64::MAX, 3);
    assert!(found.is_whole(), "{:?}", found.damage);
    assert_eq!(found.items, want);
    assert_eq!(walk::xarray(&kernel, array, 6..=70, 9).items, want[2..4]);
    assert_eq!(walk::xarray(&kernel, array, 0..=9, 1).damage, [Damage::Endless(1)]);
    let load = |index| walk::xa_load(&kernel, array, index).unwrap();
    assert_eq!(load(5), Some(want[1]));
    assert_eq!(load(71), Some(want[3]));
    assert_eq!(load(200), Some(want[4]));
    for none in [1, 72, 73, 256, 1 << 12, u64::MAX] {
        assert_eq!(load(none), None, "{none}");
    }
    assert_eq!(
        walk::xa_load(&kernel, single, 0).unwrap().unwrap().entry,
        Entry::Pointer(object(9))
    );
    assert_eq!(walk::xa_load(&kernel, single, 1), Ok(None));
    assert_eq!(walk::xa_load(&kernel, empty, 0), Ok(None));
}

#[test]
fn an_xarray_of_nonsense() {
    let mut world = World::new();
    let good = xnode(&mut world, 0, &[(1, 0x1000)]);
    let array = world.alloc(16);
    // A node within itself, one of a wrong shift, one that is not there; and a good one.
    let wrong = xnode(&mut world, 6, &[]);
    let top = xnode(&mut world, 6, &[(1, wrong), (2, 0xdead_0000_0000_0002), (3, good)]);
    world.put((top & !2) + 40, top);
    world.put(array + 8, top);
    let odd = world.alloc(16);
    let shift = xnode(&mut world, 200, &[(1, 0x1000)]);
    world.put(odd + 8, shift);
    let (ram, notes) = world.finish();
    let kernel = open(&ram, &notes);
    let found = walk::xarray(&kernel, array, 0..=u64::MAX, 1000);
    assert_eq!(found.items.iter().map(|i| i.index).collect::<Vec<_>>(), [193]);
    assert_eq!(found.damage.len(), 3, "{:?}", found.damage);
    assert!(!walk::xarray(&kernel, odd, 0..=u64::MAX, 1000).is_whole());
}
