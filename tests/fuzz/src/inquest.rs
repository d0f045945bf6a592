//! A dead kernel whose memory somebody overwrote: whatever is asked of it ends, soon.

use std::sync::atomic::Ordering;
use std::sync::{LazyLock, Mutex};

use lifeboat_inquest::elfcore::{self, Ahead, Origin, Pages};
use lifeboat_inquest::mm::{self, Spot, Tables, Vma};
use lifeboat_inquest::{Hole, Kernel, PAGE, tasks, walk};

use crate::edits::{Nowhere, Places};

#[path = "../../../field/inquest/tests/machine/mod.rs"]
mod machine;

use machine::people::{ARGS, TEXT, make, map, swap};
use machine::{DIRECT, MEMORY, OBJECTS, Ram};

/// Most pages of memory that one input may cost; the machine has 4096, and most are kept.
const MAX_READS: u64 = 400_000;
/// Most pages of a core file that are looked at.
const MAX_PAGES: u64 = 4096;

/// The machine: memory, notes, an address space, and heads of lists.
struct Whole {
    ram: Ram,
    notes: Vec<u8>,
    places: Places,
    mm: u64,
    list: u64,
}

static WHOLE: LazyLock<Mutex<Whole>> = LazyLock::new(|| Mutex::new(whole()));

fn whole() -> Whole {
    let mut made = make();
    let (mm, world) = (made.mm, &mut made.world);
    let (list, nodes) = world.list(6);
    // Two mappings, with pages of each kind.
    let pgd = world.get(mm + 32);
    let leaf = world.alloc_page();
    world.put(mm + 24, leaf | 1 << 3 | 4 | 2);
    for (n, (start, end)) in (0..).zip([(TEXT, TEXT + (5 << 21)), (ARGS, ARGS + 0x4000)]) {
        let vma = world.alloc(128);
        world.put(vma, start);
        world.put(vma + 8, end);
        world.put(vma + 16, 0x73);
        world.put(leaf + 8 + n * 16, start - 1);
        world.put(leaf + 16 + n * 16, end - 1);
        world.put(leaf + 128 + (n * 2 + 1) * 8, vma);
    }
    for (page, entry) in [(0, 0x40_0067), (1, swap(1, 99)), (2, swap(25, 0x802)), (3, swap(30, 1))]
    {
        map(world, pgd, TEXT + page * 4096, 1, entry);
    }
    map(world, pgd, TEXT + (1 << 21), 2, 0x80_0000 | 0xe7);
    let mut aims: Vec<u64> = made.tasks.iter().map(|(_, at)| *at).collect();
    aims.extend([mm, nodes[2], leaf]);
    let (ram, notes) = made.world.finish();
    let parts = [OBJECTS..MEMORY, 0x20_0000..OBJECTS, 0x10_0000..0x20_0000, 0x1000..0x6000];
    let places = Places::new(&ram.bytes, parts, aims, DIRECT);
    Whole { ram, notes, places, mm, list }
}

/// Overwrites words of page tables, symbols, types, pages' descriptions and objects; then
/// asks for everything.
pub fn overwritten(data: &[u8]) {
    let whole = &mut *WHOLE.lock().expect("no input failed before");
    let before = whole.places.overwrite(&mut whole.ram.bytes, data);
    whole.ram.reads.store(0, Ordering::Relaxed);
    if let Ok(kernel) = Kernel::open(&whole.ram, &whole.notes) {
        ask(&kernel, whole);
    }
    let reads = whole.ram.reads.load(Ordering::Relaxed);
    Places::restore(&mut whole.ram.bytes, before);
    assert!(reads < MAX_READS, "a walk has no end: {reads}");
}

fn ask(kernel: &Kernel<'_>, whole: &Whole) {
    let found = tasks::tasks(kernel);
    if let Ok(all) = tasks::processes(kernel, &found.items, None) {
        assert_eq!(all.iter().map(|p| p.threads.len()).sum::<usize>(), found.items.len());
    }
    let _ = (kernel.module_faults(), kernel.symbol("zram_devops"));
    assert!(walk::list(kernel, whole.list, 100).items.len() <= 100);
    let maps = mm::vmas(kernel, whole.mm);
    let Ok(tables) = Tables::open(kernel, whole.mm) else { return };
    for vma in &maps.items {
        assert!(vma.start < vma.end);
        let n = mm::count(&tables, vma.start, vma.end);
        let all = n.present + n.swap + n.migration + n.marked + n.special + n.none + n.lost;
        assert_eq!(all, (vma.end - vma.start) / 4096, "each page is counted once");
    }
    core(&tables, &maps.items);
}

/// A core file of what the page tables have.
fn core(tables: &Tables<'_, '_>, vmas: &[Vma]) {
    let mut end = 0;
    let mut mappings = Vec::new();
    for vma in vmas.iter().filter(|v| v.start < 1 << 47) {
        if vma.start >= end {
            end = vma.end;
            mappings.push(elfcore::Mapping { start: vma.start, end, flags: 6 });
        }
    }
    let all: u64 = mappings.iter().map(|m| (m.end - m.start) / PAGE as u64).sum();
    let process = elfcore::Process { mappings, ..elfcore::Process::default() };
    let options = elfcore::Options { threads: 1, most_pages: MAX_PAGES, progress: None };
    let report = elfcore::write(Nowhere, &process, &Tabled(tables), &options);
    let report = report.expect("nothing fails to be written");
    assert_eq!(report.held_pages() + report.missing_pages(), all, "each page is told once");
}

/// Pages by page tables alone.
struct Tabled<'a, 'k, 'm>(&'a Tables<'k, 'm>);

impl Pages for Tabled<'_, '_, '_> {
    fn page(&self, addr: u64, out: &mut [u8; PAGE]) -> Result<Origin, Hole> {
        match self.0.look(addr).spot.map_err(|fault| fault.why)? {
            Spot::Present { phys, .. } | Spot::Migration { phys } => {
                let read = self.0.kernel().read_phys(phys, out);
                read.map(|()| Origin::Present).map_err(|fault| fault.why)
            }
            Spot::None => {
                out.fill(0);
                Ok(Origin::Untouched)
            }
            other => Err(other.hole().unwrap_or(Hole::Unsupported)),
        }
    }

    fn ahead(&self, start: u64, end: u64) -> (u64, Ahead) {
        let look = self.0.look(start);
        let known = start.saturating_add(look.left).min(end);
        match look.spot {
            Ok(Spot::None) => (known, Ahead::Untouched),
            Ok(_) => (known, Ahead::Look),
            Err(fault) => (known, Ahead::Hole(fault.why)),
        }
    }
}
