//! The buddy allocator's own lists: a witness for what marks a free block.
//!
//! Sources: `struct pglist_data`, `struct zone` and `struct free_area` in
//! `include/linux/mmzone.h`. VMCOREINFO, or BTF, gives every offset that is used.

use crate::bytes::le64;
use crate::memory::PhysRead;

use super::checks::struct_page;
use super::class::Seen;
use super::facts::Facts;
use super::layout::MAX_SIZE;
use super::sections::word;
use super::{Worth, WorthError};

/// Nodes that are followed, zones of a node, lists of an order and entries of a list,
/// at most.
const MAX_NODES: usize = 16;
const MAX_ZONES: u64 = 8;
const MAX_TYPES: u64 = 8;
const MAX_ENTRIES: u32 = 4;
/// Slots of the table of nodes, at most: `MAX_NUMNODES` of x86 (`CONFIG_NODES_SHIFT` 10).
const MAX_SLOTS: u64 = 1024;

/// Where the lists are within a node, bytes.
struct Lists {
    zones: u64,
    nr_zones: u64,
    zone: u64,
    free_area: u64,
    area: u64,
    list: u64,
    types: u64,
}

impl Lists {
    fn new(info: &Facts<'_>) -> Result<Self, WorthError> {
        let small = |what, value: Option<u64>| match value {
            None => Err(WorthError::Missing(what)),
            // A node of a machine with many CPUs takes some hundred KiB.
            Some(v) if v < 1 << 24 => Ok(v),
            Some(value) => Err(WorthError::Odd { what, value }),
        };
        let types = info.length("free_area.free_list");
        Ok(Self {
            zones: small("OFFSET(pglist_data.node_zones)", info.offset("pglist_data.node_zones"))?,
            nr_zones: small("OFFSET(pglist_data.nr_zones)", info.offset("pglist_data.nr_zones"))?,
            zone: small("SIZE(zone)", info.size("zone"))?,
            free_area: small("OFFSET(zone.free_area)", info.offset("zone.free_area"))?,
            area: small("SIZE(free_area)", info.size("free_area"))?,
            list: small("OFFSET(free_area.free_list)", info.offset("free_area.free_list"))?,
            types: small("LENGTH(free_area.free_list)", types)?.min(MAX_TYPES),
        })
    }
}

/// How many entries were free blocks of their list's order, and how many there were.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    good: u64,
    all: u64,
}

/// Follows the lists from the nodes on, a few entries each, and looks whether what
/// they hold is a free block of the list's order. One in ten may differ: the kernel
/// may have died while it changed a list. Gives how many were right.
pub(super) fn follow(
    worth: &Worth,
    info: &Facts<'_>,
    memory: &mut impl PhysRead,
) -> Result<u64, WorthError> {
    let lists = Lists::new(info)?;
    let mut count = Count::default();
    // Without NUMA there is one node, and a symbol for it.
    if let Some(single) = info.info().symbol("contig_page_data") {
        node(worth, memory, &lists, single, &mut count)?;
    } else {
        let table =
            info.info().symbol("node_data").ok_or(WorthError::Missing("SYMBOL(node_data)"))?;
        let length =
            info.info().length("node_data").ok_or(WorthError::Missing("LENGTH(node_data)"))?;
        for pgdat in nodes(worth, memory, table, length)?.into_iter().filter(|p| *p != 0) {
            node(worth, memory, &lists, pgdat, &mut count)?;
        }
    }
    if count.good * 10 < count.all * 9 {
        let bad = count.all - count.good;
        return Err(WorthError::Nonsense { what: "free blocks", bad, of: count.all });
    }
    Ok(count.good)
}

/// The first nodes that there are; zeros behind them.
fn nodes(
    worth: &Worth,
    memory: &mut impl PhysRead,
    table: u64,
    length: u64,
) -> Result<[u64; MAX_NODES], WorthError> {
    let mut found = [0; MAX_NODES];
    let mut slots = found.iter_mut();
    for n in 0..length.min(MAX_SLOTS) {
        let odd = WorthError::Odd { what: "SYMBOL(node_data)", value: table };
        let at = table.checked_add(n * 8).ok_or(odd)?;
        let pgdat = word(&worth.space, memory, at, "node_data")?;
        if pgdat != 0 {
            let Some(slot) = slots.next() else { break };
            *slot = pgdat;
        }
    }
    Ok(found)
}

fn node(
    worth: &Worth,
    memory: &mut impl PhysRead,
    lists: &Lists,
    pgdat: u64,
    count: &mut Count,
) -> Result<(), WorthError> {
    let what = "a node";
    // What is added below is a few numbers under 2^24, times a dozen: far under this.
    if pgdat.checked_add(1 << 40).is_none() || !pgdat.is_multiple_of(8) {
        return Err(WorthError::Odd { what, value: pgdat });
    }
    // An int; read the word that it is in.
    let at = pgdat + lists.nr_zones;
    let pair = word(&worth.space, memory, at & !7, what)?;
    let zones = if at % 8 == 4 { pair >> 32 } else { pair & 0xffff_ffff };
    if !at.is_multiple_of(4) || zones == 0 || zones > MAX_ZONES {
        return Err(WorthError::Odd { what: "nr_zones", value: zones });
    }
    for zone in 0..zones {
        let zone = pgdat + lists.zones + zone * lists.zone;
        for order in 0..worth.layout.orders {
            let area = zone + lists.free_area + u64::from(order) * lists.area + lists.list;
            // A list_head is two pointers, `next` first.
            for head in (0..lists.types).map(|t| area + t * 16) {
                list(worth, memory, head, order, count)?;
            }
        }
    }
    Ok(())
}

/// The first entries of one list.
fn list(
    worth: &Worth,
    memory: &mut impl PhysRead,
    head: u64,
    order: u32,
    count: &mut Count,
) -> Result<(), WorthError> {
    let what = "a list of free blocks";
    let layout = &worth.layout;
    let mut next = word(&worth.space, memory, head, what)?;
    // A zone without pages, such as DMA of a second node, never got its lists
    // (`free_area_init_core()` leaves it out).
    if next == 0 {
        return Ok(());
    }
    for _ in 0..MAX_ENTRIES {
        if next == head {
            break;
        }
        count.all += 1;
        let pfn = next
            .checked_sub(layout.lru as u64)
            .and_then(|at| worth.sections.pfn_of(at, layout.size))
            .filter(|pfn| pfn.is_multiple_of(1 << order));
        let Some(pfn) = pfn else { break };
        let mut buf = [0; MAX_SIZE];
        let Ok(page) = struct_page(worth, memory, pfn, what, &mut buf) else { break };
        if layout.look(page, &[]) != Seen::Buddy(u64::from(order)) {
            break;
        }
        count.good += 1;
        next = le64(page, layout.lru).unwrap_or(head);
    }
    Ok(())
}
