//! The tasks of the dead machine: processes, their threads, the kernel's own threads.
//!
//! They are found in two ways that know nothing of each other: by the lists
//! (`init_task.tasks` of processes, `signal->thread_head` of their threads;
//! `for_each_process_thread()`) and by the numbers (`init_pid_ns.idr`, each of whose
//! `struct pid`s tells its task; `find_task_by_pid_ns()`). What either has is given, so
//! that one damaged list costs nothing; where they differ, that is told. The idle tasks,
//! number 0, are in neither: they are no processes.

mod detail;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, HashSet};

use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::walk::{self, Damage, Entry, Found};

pub use detail::{CommandLine, Pages, Process, processes};

/// Most tasks that are believed in: `PID_MAX_LIMIT`, 4 million.
const MAX_TASKS: usize = 1 << 22;
/// Highest number of a task.
const MAX_PID: u64 = 1 << 22;
/// Most nodes of the table of numbers: as many as `MAX_TASKS` fill.
const MAX_NODES: usize = 1 << 17;
/// Most tasks that share a number; threads do not.
const MAX_SHARED: usize = 16;
/// Bytes of `task_struct.comm`, its NUL included.
const MAX_COMM: u64 = 64;
/// `PF_KTHREAD`; a macro (`include/linux/sched.h`) that has been the same since 2.6.27
/// (commit 246bb0b1deb2).
const KTHREAD: u64 = 0x0020_0000;

/// A task: a process's first thread, another of its threads, or a thread of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Where its `struct task_struct` is, in the kernel.
    pub addr: u64,
    /// Its own number; `gettid()`.
    pub pid: u32,
    /// Its process's number; `getpid()`.
    pub tgid: u32,
    /// Its name, at most 15 bytes; what is no UTF-8 is replaced.
    pub comm: String,
    /// What it was doing, in the letters of ps(1): R, S, D, T, t, X, Z, P, I; `?` where that
    /// cannot be.
    pub state: char,
    /// The CPU that it ran on last.
    pub cpu: u32,
    /// Whether it was running there at that moment.
    pub on_cpu: bool,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// Its `struct mm_struct`, in the kernel; 0 for the kernel's threads and what has ended.
    pub mm: u64,
    /// Its `struct signal_struct`, in the kernel.
    pub signal: u64,
}

impl Task {
    /// Whether it is its process's first thread.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.pid == self.tgid
    }
}

/// Where the members of a `struct task_struct` are.
#[derive(Debug, Clone, Copy)]
struct Layout {
    tasks: Field,
    thread_node: Field,
    pid_link: Field,
    pid: Field,
    tgid: Field,
    comm: Field,
    state: Field,
    exit_state: Field,
    cpu: Field,
    on_cpu: Option<Field>,
    flags: Field,
    mm: Field,
    signal: Field,
    thread_head: Field,
}

impl Layout {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let field = |path| kernel.field("task_struct", path);
        Ok(Self {
            tasks: field("tasks")?,
            thread_node: field("thread_node")?,
            pid_link: field("pid_links[0]")?,
            pid: field("pid")?,
            tgid: field("tgid")?,
            comm: field("comm")?,
            state: kernel.field_of("task_struct", &["__state", "state"])?,
            exit_state: field("exit_state")?,
            cpu: kernel.field_of("task_struct", &["thread_info.cpu", "cpu"])?,
            on_cpu: field("on_cpu").ok(),
            flags: field("flags")?,
            mm: field("mm")?,
            signal: field("signal")?,
            thread_head: kernel.field("signal_struct", "thread_head")?,
        })
    }

    /// Reads one task. What is overwritten shows in numbers that cannot be.
    fn read(&self, kernel: &Kernel<'_>, addr: u64) -> Result<Task, Damage> {
        if !addr.is_multiple_of(8) {
            return Err(Damage::Odd(addr));
        }
        let get = |field| kernel.get(addr, field);
        let (pid, tgid) = (get(self.pid)?, get(self.tgid)?);
        let number = |n: u64| u32::try_from(n).ok().filter(|_| (1..=MAX_PID).contains(&n));
        let (Some(pid), Some(tgid)) = (number(pid), number(tgid)) else {
            return Err(Damage::Odd(addr));
        };
        let at = addr.checked_add(self.comm.offset).ok_or(Damage::Odd(addr))?;
        let most = usize::try_from(self.comm.bytes.min(MAX_COMM)).unwrap_or(0);
        let comm = kernel.string(at, most)?;
        Ok(Task {
            addr,
            pid,
            tgid,
            comm: String::from_utf8_lossy(&comm).into_owned(),
            state: letter(get(self.state)?, get(self.exit_state)?),
            cpu: u32::try_from(get(self.cpu)?).unwrap_or(u32::MAX),
            on_cpu: self.on_cpu.map(get).transpose()?.is_some_and(|on| on != 0),
            kernel: get(self.flags)? & KTHREAD != 0,
            mm: get(self.mm)?,
            signal: get(self.signal)?,
        })
    }
}

/// What `task_state_to_char()` says (`include/linux/sched.h`). The bits are macros; these
/// have been the same since 4.14 (commits 8ef9925b02c2 and 06eb61844d84), the last two are
/// of 6.1 (commit f5d39b020809) and of no task before.
fn letter(state: u64, exit_state: u64) -> char {
    const REPORT: u64 = 0x7f;
    const IDLE: u64 = 0x402;
    const LOCK_WAIT: u64 = 0x1000;
    const FROZEN: u64 = 0x8000;
    let mut shown = (state | exit_state) & REPORT;
    if state & IDLE == IDLE {
        shown = REPORT + 1;
    }
    if state & (LOCK_WAIT | FROZEN) != 0 {
        shown = 2;
    }
    match shown.checked_ilog2() {
        None => 'R',
        Some(bit) => "SDTtXZPI".chars().nth(usize::try_from(bit).unwrap_or(8)).unwrap_or('?'),
    }
}

/// Every task that either way leads to, by the process's number and then its own.
///
/// Reads some 30 words a task; each is bounded by what the kernel allows.
#[must_use]
pub fn tasks(kernel: &Kernel<'_>) -> Found<Task> {
    at_most(kernel, MAX_TASKS)
}

/// As [`tasks`], of lists that have at most `most` nodes, all of them together: a damaged
/// list of threads may be the list of every process.
#[must_use]
pub fn at_most(kernel: &Kernel<'_>, most: usize) -> Found<Task> {
    let layout = match Layout::new(kernel) {
        Ok(layout) => layout,
        Err(why) => return Found::broken(why.into()),
    };
    let mut found = Found::default();
    let mut all: HashMap<u64, Task> = HashMap::new();
    let listed = by_lists(kernel, &layout, most, &mut all, &mut found);
    let numbered = by_numbers(kernel, &layout, &mut all, &mut found);
    // One that is in the lists only or in the table only is told, for it may be the trace
    // of what happened; while it is being made or reaped, that is in order.
    for addr in listed.symmetric_difference(&numbered) {
        if !listed.is_empty() && !numbered.is_empty() {
            found.spoil(Damage::OneWay(*addr));
        }
    }
    found.items = all.into_values().collect();
    found.items.sort_by_key(|task| (task.tgid, !task.is_leader(), task.pid, task.addr));
    found
}

/// Tasks by the lists. Gives their addresses.
fn by_lists(
    kernel: &Kernel<'_>,
    layout: &Layout,
    most: usize,
    all: &mut HashMap<u64, Task>,
    found: &mut Found<Task>,
) -> HashSet<u64> {
    let mut seen = HashSet::new();
    let init = match kernel.need("init_task") {
        Ok(init) => init,
        Err(why) => {
            found.spoil(why.into());
            return seen;
        }
    };
    let head = init.wrapping_add(layout.tasks.offset);
    let leaders = found.heed(walk::list(kernel, head, most));
    // Of each leader, and of each of its threads once more.
    let mut left = most.saturating_mul(2).saturating_sub(leaders.len());
    for node in leaders {
        let leader = node.wrapping_sub(layout.tasks.offset);
        let Some(signal) = take(kernel, layout, leader, all, found).map(|task| task.signal) else {
            continue;
        };
        seen.insert(leader);
        let head = signal.wrapping_add(layout.thread_head.offset);
        let threads = found.heed(walk::list(kernel, head, left));
        left = left.saturating_sub(threads.len());
        for node in threads {
            let thread = node.wrapping_sub(layout.thread_node.offset);
            if take(kernel, layout, thread, all, found).is_some() {
                seen.insert(thread);
            }
        }
    }
    seen
}

/// Tasks by the table of numbers. Gives their addresses.
fn by_numbers(
    kernel: &Kernel<'_>,
    layout: &Layout,
    all: &mut HashMap<u64, Task>,
    found: &mut Found<Task>,
) -> HashSet<u64> {
    let mut seen = HashSet::new();
    let read = || -> Result<(u64, Field), KernelError> {
        let space = kernel.need("init_pid_ns")?;
        let table = kernel.field("pid_namespace", "idr.idr_rt")?;
        Ok((space.wrapping_add(table.offset), kernel.field("pid", "tasks[0]")?))
    };
    let (table, tasks) = match read() {
        Ok(both) => both,
        Err(why) => {
            found.spoil(why.into());
            return seen;
        }
    };
    let pids = found.heed(walk::xarray(kernel, table, 0..=MAX_PID, MAX_NODES));
    for item in pids {
        let Entry::Pointer(pid) = item.entry else { continue };
        let head = pid.wrapping_add(tasks.offset);
        for node in found.heed(walk::hlist(kernel, head, MAX_SHARED)) {
            let task = node.wrapping_sub(layout.pid_link.offset);
            if take(kernel, layout, task, all, found).is_some() {
                seen.insert(task);
            }
        }
    }
    seen
}

/// A task at an address, read once.
fn take<'t>(
    kernel: &Kernel<'_>,
    layout: &Layout,
    addr: u64,
    all: &'t mut HashMap<u64, Task>,
    found: &mut Found<Task>,
) -> Option<&'t Task> {
    match all.entry(addr) {
        MapEntry::Occupied(known) => Some(known.into_mut()),
        MapEntry::Vacant(free) => match layout.read(kernel, addr) {
            Ok(task) => Some(free.insert(task)),
            Err(damage) => {
                found.spoil(damage);
                None
            }
        },
    }
}

/// A number of the dead kernel's, or why it cannot be had.
fn known(value: Result<u64, Fault>) -> Result<u64, crate::machine::Hole> {
    value.map_err(|fault| fault.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_of_ps() {
        let cases = [
            (0, 0, 'R'),
            (1, 0, 'S'),
            (2, 0, 'D'),
            (0x102, 0, 'D'),
            (0x104, 0, 'T'),
            (8, 0, 't'),
            (0x80, 0x10, 'X'),
            (0x80, 0x20, 'Z'),
            (0x40, 0, 'P'),
            (0x402, 0, 'I'),
            (0x2001, 0, 'S'),
            (0x8000, 0, 'D'),
            (0x1000, 0, 'D'),
        ];
        for (state, exit, want) in cases {
            assert_eq!(letter(state, exit), want, "{state:#x} {exit:#x}");
        }
        // Nothing that a damaged word may hold fails.
        for bit in 0..64 {
            let _ = letter(1 << bit, u64::MAX >> bit);
        }
    }
}
