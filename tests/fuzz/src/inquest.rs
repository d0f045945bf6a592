//! A dead kernel whose objects somebody overwrote: whatever is asked of it ends, soon.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use lifeboat_inquest::mm::{self, Tables};
use lifeboat_inquest::tasks;

#[path = "../../../field/inquest/tests/machine/mod.rs"]
mod machine;

use machine::people::make;
use machine::{DIRECT, OBJECTS, Ram, open};

/// Bytes that one word takes in an input: how and where it is put, and what.
const WORD: usize = 11;
/// Most pages that one input may cost; the machine has 4096.
const MAX_READS: u64 = 200_000;

/// The machine, whole: memory, notes, and where an address space and the tasks are.
struct Whole {
    bytes: Vec<u8>,
    notes: Vec<u8>,
    mm: u64,
    tasks: Vec<u64>,
}

fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let made = make();
        let (mm, tasks) = (made.mm, made.tasks.iter().map(|(_, at)| *at).collect());
        let (ram, notes) = made.world.finish();
        Whole { bytes: ram.bytes, notes, mm, tasks }
    })
}

/// Every 11 bytes overwrite a word of the kernel's objects: wild, with an address within
/// them, with a task's, or its low byte only.
pub fn overwritten(data: &[u8]) {
    let whole = whole();
    let last = whole.tasks.iter().max().expect("there are tasks");
    let span = last - DIRECT + 0x1_0000 - OBJECTS;
    let mut bytes = whole.bytes.clone();
    for word in data.chunks_exact(WORD) {
        let (head, value) = word.split_at(3);
        let value = u64::from_le_bytes(value.try_into().expect("eight bytes"));
        let place = u64::from(u16::from_le_bytes([head[1], head[2]]));
        let at = usize::try_from(OBJECTS + place % (span / 8) * 8).expect("within memory");
        let old = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let value = match head[0] % 4 {
            0 => value,
            1 => DIRECT + OBJECTS + value % span,
            2 => whole.tasks[usize::from(head[0] >> 2) % whole.tasks.len()] + value % 512,
            _ => old ^ value & 0xff,
        };
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let ram = Ram::new(bytes);
    let kernel = open(&ram, &whole.notes);
    let found = tasks::tasks(&kernel);
    let all = tasks::processes(&kernel, &found.items, None).expect("the types are whole");
    assert_eq!(all.iter().map(|p| p.threads.len()).sum::<usize>(), found.items.len());
    let maps = mm::vmas(&kernel, whole.mm);
    if let Ok(tables) = Tables::open(&kernel, whole.mm) {
        for vma in maps.items {
            assert!(vma.start < vma.end);
            let end = vma.end.min(vma.start + (1 << 30));
            let n = mm::count(&tables, vma.start, end);
            let all = n.present + n.swap + n.migration + n.marked + n.special + n.none + n.lost;
            assert_eq!(all, (end - vma.start) / 4096, "each page is counted once");
        }
    }
    assert!(ram.reads.load(Ordering::Relaxed) < MAX_READS, "a walk has no end");
}
