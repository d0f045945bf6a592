//! What ps(1) shows of a process: whose it is, how much memory it had, its command line.

use std::collections::HashMap;

use crate::kernel::{Field, Kernel, KernelError};
use crate::machine::Hole;
use crate::mm::{self, Mm, SwapIn, Tables};

use super::{Task, known};

/// Most bytes of a command line that are read, and of all together: what is damaged may be
/// the command line of every process.
const MAX_ARGS: u64 = 64 << 10;
const MAX_ALL_ARGS: u64 = 64 << 20;
/// Bytes that are read of it at once: a lost page costs what is on it.
const STEP: u64 = 4096;

/// A process, or a thread of the kernel, with its threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its first thread.
    pub leader: Task,
    /// All threads, the first one among them, by number.
    pub threads: Vec<Task>,
    /// The number of its parent.
    pub ppid: Result<u32, Hole>,
    /// Its real user.
    pub uid: Result<u32, Hole>,
    /// Its effective user.
    pub euid: Result<u32, Hole>,
    /// When it began, in nanoseconds since the machine was booted, sleep included.
    pub start_ns: Result<u64, Hole>,
    /// Its address space, in the kernel: that of the first thread that has one.
    pub mm: Option<u64>,
    /// Its memory; `None` where it has no address space.
    pub pages: Option<Result<Pages, Hole>>,
    /// Its command line; `None` where it has no address space.
    pub command: Option<CommandLine>,
}

/// Pages of an address space, as the kernel counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pages {
    /// Of its own.
    pub anon: u64,
    /// Of files.
    pub file: u64,
    /// Of shared memory.
    pub shmem: u64,
    /// Swapped out.
    pub swap: u64,
}

impl Pages {
    /// In memory.
    #[must_use]
    pub fn resident(self) -> u64 {
        self.anon.saturating_add(self.file).saturating_add(self.shmem)
    }
}

/// A command line as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// The arguments; what is no UTF-8 is replaced.
    pub args: Vec<String>,
    /// Why the rest is not there.
    pub lost: Option<Hole>,
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.args.join(" "))?;
        match self.lost {
            Some(why) if self.args.is_empty() => write!(f, "<{why}>"),
            Some(why) => write!(f, " <{why}>"),
            None => Ok(()),
        }
    }
}

/// Tasks put together to processes, by number. `swap` brings back what is swapped out of
/// their command lines.
///
/// # Errors
/// [`KernelError`], where the kernel's types lack what every process has.
pub fn processes(
    kernel: &Kernel<'_>,
    tasks: &[Task],
    swap: Option<&dyn SwapIn>,
) -> Result<Vec<Process>, KernelError> {
    let layout = Layout::new(kernel)?;
    let cpus = kernel.possible_cpus()?;
    let mut groups: Vec<Vec<&Task>> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    for task in tasks {
        let place = *places.entry(task.tgid).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(task),
            None => groups.push(vec![task]),
        }
    }
    let mut room = MAX_ALL_ARGS;
    let of = |group: Vec<&Task>| {
        let process = layout.process(kernel, &cpus, &group, swap, room.min(MAX_ARGS))?;
        let words = process.command.iter().flat_map(|c| &c.args);
        room = words.fold(room, |room, word| room.saturating_sub(word.len() as u64 + 1));
        Some(process)
    };
    Ok(groups.into_iter().filter_map(of).collect())
}

/// How an address space counts its pages.
#[derive(Debug, Clone, Copy)]
enum Counter {
    /// A number, and what each CPU added to it (since 6.2, commit f1a7941243c1).
    PerCpu { count: Field, each: Field },
    /// A number, and what each thread added to it.
    PerThread { count: Field, each: Option<Field> },
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    parent: Field,
    tgid: Field,
    cred: Field,
    uid: Field,
    euid: Field,
    start: Field,
    /// Of files, own, swapped out, shared: as in `Pages`.
    counters: [Counter; 4],
}

impl Layout {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let field = |path| kernel.field("task_struct", path);
        let kinds = ["MM_ANONPAGES", "MM_FILEPAGES", "MM_SHMEMPAGES", "MM_SWAPENTS"];
        let [anon, file, shmem, swap] = kinds.map(|kind| counter(kernel, kind));
        Ok(Self {
            parent: field("real_parent")?,
            tgid: field("tgid")?,
            cred: field("real_cred")?,
            uid: kernel.field("cred", "uid.val")?,
            euid: kernel.field("cred", "euid.val")?,
            start: kernel.field_of("task_struct", &["start_boottime", "real_start_time"])?,
            counters: [anon?, file?, shmem?, swap?],
        })
    }

    fn process(
        &self,
        kernel: &Kernel<'_>,
        cpus: &[u32],
        group: &[&Task],
        swap: Option<&dyn SwapIn>,
        room: u64,
    ) -> Option<Process> {
        // Where the first thread is lost, another stands for it.
        let leader = *group.iter().find(|task| task.is_leader()).or(group.first())?;
        let get = |object, field| known(kernel.get(object, field));
        let half = |value: u64| u32::try_from(value).map_err(|_| Hole::Malformed);
        let cred = get(leader.addr, self.cred);
        let mm = group.iter().map(|task| task.mm).find(|mm| *mm != 0 && !leader.kernel);
        Some(Process {
            ppid: get(leader.addr, self.parent)
                .and_then(|parent| get(parent, self.tgid))
                .and_then(half),
            uid: cred.and_then(|cred| get(cred, self.uid)).and_then(half),
            euid: cred.and_then(|cred| get(cred, self.euid)).and_then(half),
            start_ns: get(leader.addr, self.start),
            mm,
            pages: mm.map(|mm| self.pages(kernel, cpus, mm, group)),
            command: mm.map(|mm| command(kernel, mm, swap, room)),
            leader: leader.clone(),
            threads: group.iter().map(|task| (*task).clone()).collect(),
        })
    }

    fn pages(
        &self,
        kernel: &Kernel<'_>,
        cpus: &[u32],
        mm: u64,
        group: &[&Task],
    ) -> Result<Pages, Hole> {
        let sum = |counter: Counter| -> Result<u64, Hole> {
            let signed = |object, field| kernel.get_signed(object, field).map_err(|f| f.why);
            let mut sum;
            match counter {
                Counter::PerCpu { count, each } => {
                    sum = signed(mm, count)?;
                    let base = known(kernel.get(mm, each))?;
                    for cpu in cpus {
                        let at = kernel.per_cpu(base, *cpu).map_err(|f| f.why)?;
                        let own = kernel.u32(at).map_err(|f| f.why)?;
                        sum = sum.wrapping_add(i64::from(own.cast_signed()));
                    }
                }
                Counter::PerThread { count, each } => {
                    sum = signed(mm, count)?;
                    for task in group.iter().filter(|task| task.mm == mm) {
                        let Some(each) = each else { break };
                        sum = sum.wrapping_add(signed(task.addr, each)?);
                    }
                }
            }
            // A moment's imbalance may be below zero; the kernel shows zero then too.
            Ok(u64::try_from(sum).unwrap_or(0))
        };
        let [anon, file, shmem, swap] = self.counters;
        Ok(Pages { anon: sum(anon)?, file: sum(file)?, shmem: sum(shmem)?, swap: sum(swap)? })
    }
}

/// Where the counter of a kind is, by its number in the enumeration.
fn counter(kernel: &Kernel<'_>, kind: &str) -> Result<Counter, KernelError> {
    let number = kernel.enumerator(kind).filter(|n| (0..64).contains(n));
    let n = number.ok_or_else(|| KernelError::NoRecord(format!("enumerator {kind}")))?;
    let field = |path: String| kernel.field("mm_struct", &path);
    if let Ok(each) = field(format!("rss_stat[{n}].counters")) {
        return Ok(Counter::PerCpu { count: field(format!("rss_stat[{n}].count"))?, each });
    }
    Ok(Counter::PerThread {
        count: field(format!("rss_stat.count[{n}].counter"))?,
        each: kernel.field("task_struct", &format!("rss_stat.count[{n}]")).ok(),
    })
}

/// Reads `mm->arg_start` to `mm->arg_end`, and what setproctitle(3) put behind, as
/// `get_mm_cmdline()` of `fs/proc/base.c` does; at most `room` bytes of either.
fn command(kernel: &Kernel<'_>, mm: u64, swap: Option<&dyn SwapIn>, room: u64) -> CommandLine {
    let lost = |why| CommandLine { args: Vec::new(), lost: Some(why) };
    let (marks, tables) =
        match Mm::open(kernel, mm).and_then(|m| Ok((m, Tables::open(kernel, mm)?))) {
            Ok(both) => both,
            Err(damage) => return lost(damage.hole()),
        };
    let read = |from, to| bytes(&tables, swap, from, to, room);
    let (mut raw, mut hole) = read(marks.arg_start, marks.arg_end);
    let titled = raw.last().is_some_and(|last| *last != 0);
    if hole.is_none() && titled && marks.env_start == marks.arg_end {
        let (more, why) = read(marks.env_start, marks.env_end);
        raw.extend_from_slice(&more);
        // One text, up to its NUL; what lies behind that does not matter.
        let end = raw.iter().position(|b| *b == 0);
        hole = why.filter(|_| end.is_none());
        raw.truncate(end.unwrap_or(raw.len()));
    }
    let text = raw.strip_suffix(b"\0").unwrap_or(&raw);
    let arg = |arg: &[u8]| String::from_utf8_lossy(arg).into_owned();
    let args =
        if text.is_empty() { Vec::new() } else { text.split(|b| *b == 0).map(arg).collect() };
    CommandLine { args, lost: hole }
}

/// The process's bytes from `from` to `to`, up to the first that are lost, and why: those
/// behind `room` bytes, to the page, are lost.
fn bytes(
    tables: &Tables<'_, '_>,
    swap: Option<&dyn SwapIn>,
    from: u64,
    to: u64,
    room: u64,
) -> (Vec<u8>, Option<Hole>) {
    let mut out = Vec::new();
    if from > to {
        return (out, Some(Hole::Malformed));
    }
    let mut at = from;
    while at < to {
        if at - from >= room {
            return (out, Some(Hole::Malformed));
        }
        let count = (STEP - at % STEP).min(to - at);
        let mut piece = vec![0; usize::try_from(count).unwrap_or(0)];
        if let Err(fault) = mm::read(tables, swap, at, &mut piece) {
            return (out, Some(fault.why));
        }
        out.extend_from_slice(&piece);
        at += count;
    }
    (out, None)
}
