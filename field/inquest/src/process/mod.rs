//! A dead process as a whole: threads, mappings, files and pages, put together from the
//! other modules, in the form that a core file wants.

mod facts;
mod libs;
mod memory;

use crate::elfcore::{self, FileMapping, Status, Thread};
use crate::files::{Cache, Path, Paths, Root};
use crate::kernel::{Kernel, KernelError};
use crate::mm::{self, Tables, Vma};
use crate::regs::{Fpu, Regs, RegsError};
use crate::swapped::Swapped;
use crate::tasks::{self, Task};
use crate::walk::Damage;

use facts::Facts;

pub use libs::{Library, libraries};
pub use memory::{Mapped, Memory};

/// Most words about what is wrong with one process.
const MAX_PROBLEMS: usize = 64;
/// Most bytes of all paths of a process, and most paths that lead nowhere: each may take
/// some 10,000 steps to find that out.
const MAX_PATHS: usize = 32 << 20;
const MAX_ASTRAY: usize = 1 << 12;
/// Most threads of a process whose vector registers are read, some 12 KiB each;
/// `threads-max` is seldom more.
const MAX_VECTORS: usize = 1 << 16;

/// Why there is no core file of a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It is a thread of the kernel, or had ended.
    #[error(
        "{name} ({pid}) had no memory of its own\nhint: it is a thread of the kernel, or had ended; `lifeboat ps` shows its state"
    )]
    NoMemory {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// It is a 32-bit program.
    #[error(
        "{name} ({pid}) is a 32-bit program\nhint: core files are written of 64-bit programs only; `lifeboat maps` shows what it had mapped"
    )]
    Compat {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// Its page tables cannot be found.
    #[error(
        "the page tables of {name} ({pid}): {damage}\nhint: the dead kernel's memory is damaged or missing there"
    )]
    Tables {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// What is wrong.
        damage: Damage,
    },
    /// Something is not known of the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// All that must be known once of a kernel to put any of its processes together.
#[derive(Debug)]
pub struct Tools<'k, 'm> {
    kernel: &'k Kernel<'m>,
    regs: Regs<'k, 'm>,
    fpu: Result<Fpu<'k, 'm>, KernelError>,
    paths: Paths<'k, 'm>,
    cache: Cache<'k, 'm>,
    swapped: Option<Swapped<'k, 'm>>,
    facts: Facts,
    problems: Vec<String>,
}

/// A process, put together.
#[derive(Debug)]
pub struct Dead<'a, 'k, 'm> {
    /// All but its pages.
    pub process: elfcore::Process,
    /// Its pages.
    pub memory: Memory<'a, 'k, 'm>,
    /// Its files, as far as they have paths: a mapping's start, and the path as the machine
    /// saw it. The notes of a core file tell it as the process did, which may have had
    /// another root directory.
    pub paths: Vec<(u64, Path)>,
    /// Whether all of its mappings were found. What is not, no hole tells of: nobody knows
    /// its addresses.
    pub whole: bool,
    /// What is not known or was wrong of its mappings and files, in words.
    pub problems: Vec<String>,
    /// What is not known or was wrong of its threads, in words.
    pub thread_problems: Vec<String>,
}

impl<'k, 'm> Tools<'k, 'm> {
    /// Finds out what must be known.
    ///
    /// # Errors
    /// [`KernelError`]. Without vector registers or swap it goes on, see
    /// [`Tools::problems`].
    pub fn new(kernel: &'k Kernel<'m>) -> Result<Self, KernelError> {
        let mut problems = Vec::new();
        let first = |e: &KernelError| e.to_string().lines().next().unwrap_or_default().to_owned();
        let fpu = Fpu::new(kernel);
        if let Err(e) = &fpu {
            problems.push(format!("no floating-point registers: {}", first(e)));
        }
        let swapped = Swapped::open(kernel);
        match &swapped {
            Ok(swapped) => problems.extend_from_slice(swapped.problems()),
            Err(e) => problems.push(format!("no swapped-out pages: {}", first(e))),
        }
        Ok(Self {
            kernel,
            regs: Regs::new(kernel)?,
            fpu,
            paths: Paths::new(kernel)?,
            cache: Cache::new(kernel)?,
            swapped: swapped.ok(),
            facts: Facts::new(kernel)?,
            problems,
        })
    }

    /// What could not be found out, in words.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> &'k Kernel<'m> {
        self.kernel
    }

    /// Paths of files.
    #[must_use]
    pub fn paths(&self) -> &Paths<'k, 'm> {
        &self.paths
    }

    /// Pages of files.
    #[must_use]
    pub fn cache(&self) -> &Cache<'k, 'm> {
        &self.cache
    }

    /// Swapped-out pages, where there are any.
    #[must_use]
    pub fn swapped(&self) -> Option<&Swapped<'k, 'm>> {
        self.swapped.as_ref()
    }

    /// Puts a process together.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn process(&self, of: &tasks::Process) -> Result<Dead<'_, 'k, 'm>, ProcessError> {
        let (pid, name) = (of.leader.tgid, || of.leader.comm.clone());
        let mm = of.mm.ok_or_else(|| ProcessError::NoMemory { pid, name: name() })?;
        let mut problems = Vec::new();
        let tables = Tables::open(self.kernel, mm);
        let tables = tables.map_err(|damage| ProcessError::Tables { pid, name: name(), damage })?;
        let found = mm::vmas(self.kernel, mm);
        let (whole, all) = (found.is_whole(), found.items.len());
        for damage in &found.damage {
            tell(&mut problems, format!("a mapping is missing: {damage}"));
        }
        let root = match self.paths.root_of(of.leader.addr) {
            Ok(root) => Some(root),
            Err(e) => {
                tell(&mut problems, format!("paths are told from the machine's root: {e}"));
                None
            }
        };
        let (files, paths) = self.files(&found.items, root, &mut problems);
        let mut thread_problems = Vec::new();
        let threads = self.threads(of, &mut thread_problems)?;
        let memory = Memory::new(mm, tables, &self.cache, self.swapped.as_ref(), found.items)?;
        let process = elfcore::Process {
            info: self.facts.info(self.kernel, of),
            threads,
            auxv: self.facts.auxv(self.kernel, mm).unwrap_or_else(|fault| {
                tell(&mut problems, format!("the auxiliary vector: {fault}"));
                Vec::new()
            }),
            files,
            mappings: memory.segments(),
        };
        // One that lies within another cannot be, and was left out.
        let whole = whole && memory.maps().len() == all;
        Ok(Dead { process, memory, paths, whole, problems, thread_problems })
    }

    /// Threads with registers, the leader first. One without is told, and left out: a
    /// debugger would show zeros.
    fn threads(
        &self,
        of: &tasks::Process,
        problems: &mut Vec<String>,
    ) -> Result<Vec<Thread>, ProcessError> {
        let mut threads = Vec::new();
        for task in &of.threads {
            match self.regs.of(task.addr) {
                Ok(registers) => {
                    let mut status = self.facts.status(self.kernel, task, of);
                    status.registers = registers.values;
                    let vectors = threads.len() < MAX_VECTORS;
                    threads.push(self.thread(task, status, vectors, problems));
                }
                Err(RegsError::Compat) => {
                    let (pid, name) = (of.leader.tgid, of.leader.comm.clone());
                    return Err(ProcessError::Compat { pid, name });
                }
                Err(e) => tell(problems, format!("thread {} has no registers: {e}", task.pid)),
            }
        }
        if threads.len() > MAX_VECTORS {
            tell(problems, format!("vector registers only of the first {MAX_VECTORS} threads"));
        }
        threads.sort_by_key(|t| t.status.pid != of.leader.pid);
        Ok(threads)
    }

    fn thread(
        &self,
        task: &Task,
        mut status: Status,
        vectors: bool,
        problems: &mut Vec<String>,
    ) -> Thread {
        let siginfo = self.facts.siginfo(self.kernel, task.addr);
        if let Some(info) = &siginfo {
            let [a, b, ..] = *info;
            status.signal = u16::from_le_bytes([a, b]);
        }
        let fpu = self.fpu.as_ref().ok().filter(|_| vectors);
        let vectors = fpu.map(|fpu| fpu.of(task.addr));
        let (fp, xstate) = match vectors {
            Some(Ok(vectors)) => (Some(vectors.fp), vectors.xstate),
            Some(Err(e)) => {
                let e = e.to_string();
                let first = e.lines().next().unwrap_or_default();
                tell(problems, format!("thread {}: no vector registers: {first}", task.pid));
                (None, None)
            }
            None => (None, None),
        };
        Thread { status, fp, xstate, siginfo }
    }

    fn files(
        &self,
        vmas: &[Vma],
        root: Option<Root>,
        problems: &mut Vec<String>,
    ) -> (Vec<FileMapping>, Vec<(u64, Path)>) {
        let (mut files, mut paths) = (Vec::new(), Vec::new());
        let (mut room, mut astray) = (MAX_PATHS, MAX_ASTRAY);
        for vma in vmas {
            let Some(file) = vma.file else { continue };
            if room == 0 || astray == 0 {
                tell(problems, format!("no paths from {:#x} on: too many", vma.start));
                break;
            }
            let both = self.paths.of_file(file, root).and_then(|own| {
                let seen = self.paths.of_file(file, None)?;
                Ok((own, seen))
            });
            let whole = both.as_ref().is_ok_and(|(own, seen)| own.whole && seen.whole);
            astray = astray.saturating_sub(usize::from(!whole));
            match both {
                Ok((own, seen)) => {
                    let page = vma.offset / crate::PAGE as u64;
                    room = room.saturating_sub(own.bytes.len()).saturating_sub(seen.bytes.len());
                    let (start, end, path) = (vma.start, vma.end, own.bytes);
                    files.push(FileMapping { start, end, page, path });
                    paths.push((vma.start, seen));
                }
                Err(fault) => {
                    tell(problems, format!("the file mapped at {:#x}: {fault}", vma.start));
                }
            }
        }
        (files, paths)
    }
}

/// Adds words, as long as there is room.
fn tell(problems: &mut Vec<String>, words: String) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(words);
    }
}
