//! Three processes of the small machine, threads and memory and all.

use super::types::{
    COMM, CPU, EXIT_STATE, FLAGS, MM, ON_CPU, PID, PID_LINK, REAL_CRED, REAL_PARENT, SIGNAL, START,
    STATE, TASKS, TGID, THREAD_HEAD, THREAD_NODE,
};
use super::{DIRECT, World};

/// What a test needs of the machine that it made.
pub struct Made {
    pub world: World,
    /// By number.
    pub tasks: Vec<(u32, u64)>,
    /// The address space of process 100.
    pub mm: u64,
    /// The page of its arguments.
    pub args: u64,
    pub head: u64,
}

/// Adds a page to a process's tables, and the tables that lead to it.
pub fn map(world: &mut World, pgd: u64, addr: u64, level: u32, entry: u64) {
    let mut table = pgd;
    for now in (level + 1..=4).rev() {
        let at = table + (addr >> (12 + 9 * (now - 1)) & 511) * 8;
        if world.get(at) == 0 {
            let below = world.alloc_page();
            world.put(at, (below - DIRECT) | 0x67);
        }
        table = (world.get(at) & 0x000f_ffff_ffff_f000) + DIRECT;
    }
    world.put(table + (addr >> (12 + 9 * (level - 1)) & 511) * 8, entry);
}

pub const ARGS: u64 = 0x7ffc_0000_1000;
pub const TEXT: u64 = 0x5555_0000_0000;

/// The address space of process 100, and the page of its arguments.
fn space(world: &mut World) -> (u64, u64) {
    let mm = world.alloc(512);
    let pgd = world.alloc_page();
    world.put(mm + 32, pgd);
    let marks = [0x1000_0000, 0x1000_8000, 0x7ffc_0000_3000, ARGS, ARGS + 14];
    for (n, value) in (2..).zip(marks) {
        world.put(mm + 16 + n * 16, value);
    }
    let args = world.alloc_page();
    world.write(args, b"cat\0-n\0a file\0");
    map(world, pgd, ARGS, 1, (args - DIRECT) | 0x67);
    // 3, 1000, 7 and 20 pages, of which CPU 1 counts some for itself.
    for (n, count) in (0..).zip([3, 1000, 7, 20]) {
        let at = mm + 256 + n * 24;
        world.put(at, count);
        world.put(at + 16, 0x1100 + n * 4);
    }
    let offsets = world.symbols.iter().find(|(_, n)| n == "__per_cpu_offset").unwrap().0;
    let second = world.get(offsets + 8);
    world.put32(second + 0x1104, (-5i32).cast_unsigned());
    (mm, args)
}

/// Number, process's number, name, state, exit state, flags.
type Person = (u32, u32, &'static str, u32, u32, u32);
const PEOPLE: [Person; 5] = [
    (1, 1, "kworker", 0x402, 0, 0x20_0000),
    (100, 100, "cat", 1, 0, 0),
    (101, 100, "cat worker", 0, 0, 0),
    (102, 100, "cat other", 2, 0, 0),
    (200, 200, "gone", 0x80, 0x20, 0),
];

fn task(world: &mut World, person: Person, cred: u64) -> u64 {
    let (pid, tgid, comm, state, exit, flags) = person;
    let task = world.alloc_page();
    world.put32(task + PID, pid);
    world.put32(task + TGID, tgid);
    world.write(task + COMM, comm.as_bytes());
    world.put32(task + STATE, state);
    world.put32(task + EXIT_STATE, exit);
    world.put32(task + FLAGS, flags);
    world.put32(task + CPU, pid % 2);
    world.put32(task + ON_CPU, u32::from(pid == 101));
    world.put(task + REAL_CRED, cred);
    world.put(task + START, u64::from(pid) * 1_000_000_000);
    task
}

/// The table of numbers up to 255: a node of shift 6 above four of shift 0. Gives its head.
fn table(world: &mut World, slots: &[(u32, u64)]) -> u64 {
    let node = |world: &mut World, shift: u64, entries: &[(u64, u64)]| {
        let node = world.alloc(600);
        world.put(node, shift);
        entries.iter().for_each(|(n, entry)| world.put(node + 40 + n * 8, *entry));
        node | 2
    };
    let below: Vec<(u64, u64)> = (0..4)
        .map(|n| {
            let mine = |(pid, at): &(u32, u64)| {
                (u64::from(*pid) / 64 == n).then_some((u64::from(*pid) % 64, *at))
            };
            let entries: Vec<(u64, u64)> = slots.iter().filter_map(mine).collect();
            (n, node(world, 0, &entries))
        })
        .collect();
    node(world, 6, &below)
}

/// Processes 1 (the kernel's), 100 with threads 101 and 102, 200 (ended).
pub fn make() -> Made {
    let mut world = World::new();
    let init = world.var("init_task", 512);
    let head = init + TASKS;
    world.empty_list(head);
    let namespace = world.var("init_pid_ns", 64);
    let (mm, args) = space(&mut world);
    let cred = world.alloc(64);
    world.put32(cred + 4, 1000);
    world.put32(cred + 20, 1001);
    let mut tasks: Vec<(u32, u64)> = Vec::new();
    let mut slots = Vec::new();
    let mut signal = 0;
    for person in PEOPLE {
        let (pid, tgid, ..) = person;
        let task = task(&mut world, person, cred);
        world.put(task + MM, if tgid == 100 { mm } else { 0 });
        if pid == tgid {
            signal = world.alloc_page();
            world.empty_list(signal + THREAD_HEAD);
            world.add_tail(head, task + TASKS);
        }
        world.put(task + SIGNAL, signal);
        world.add_tail(signal + THREAD_HEAD, task + THREAD_NODE);
        let first = tasks.first().map_or(task, |(_, first)| *first);
        world.put(task + REAL_PARENT, first);
        let number = world.alloc(96);
        world.put(number + 16, task + PID_LINK);
        slots.push((pid, number));
        tasks.push((pid, task));
    }
    let top = table(&mut world, &slots);
    world.put(namespace + 16 + 8 + 8, top);
    Made { world, tasks, mm, args, head }
}

/// `__swp_entry()` of x86-64.
pub fn swap(ty: u64, offset: u64) -> u64 {
    (!offset << 14 >> 5) | ty << 59
}
