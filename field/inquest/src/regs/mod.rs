//! Registers of the dead machine's threads, as they were in user mode.
//!
//! When a thread enters the kernel, its registers are stored at the top of its kernel stack
//! as `struct pt_regs`, below a padding that FRED needs (`task_pt_regs()`,
//! `task_top_of_stack()`, `TOP_OF_KERNEL_STACK_PADDING`, which is a macro that BTF does not
//! have). How large that is, the machine itself says: each CPU keeps the top of the stack of
//! the thread that it runs, for its next entry (`cpu_current_top_of_stack`, in `pcpu_hot`
//! for some versions).
//!
//! A thread that ran when the machine died has its last registers in that CPU's crash note,
//! if it was in user mode; the note also has the segment bases that the CPU had
//! (`crash_save_cpu()`, `ELF_CORE_COPY_REGS`).
//!
//! Between user mode and the kernel there are a few instructions where the CPU alone has them,
//! and what is at the top of the stack is of an earlier call. A crash note whose stack pointer
//! is a user's still, is on the CPU's entry stack (`struct entry_stack`, whose top is `sp0` of
//! the CPU's TSS: `cpu_init_exception_handling()`), or is among the registers being stored,
//! shows that.
//!
//! Floating-point and vector registers of a thread that does not run are in its `fpstate`.
//! Those of one that ran were in the CPU, and no crash note has them: they are lost, and
//! what is in memory is older. They are left out, and not shown as if they were right.

mod fpu;

use std::ops::Range;

use lifeboat_sources::notes::{NT_PRSTATUS, Notes};

use crate::elfcore::notes::REGISTERS;
use crate::kernel::{Fault, Field, Kernel, KernelError};

pub use fpu::{Fpu, Lost, Vectors};

/// Selector of 64-bit user code (`__USER_CS`): what every debugger and program may see, and
/// so it never changes.
const USER_CS: u64 = 0x33;
/// Of 32-bit user code (`__USER32_CS`).
const USER32_CS: u64 = 0x23;
/// The first address that is no user's with 5-level page tables.
const USER_END: u64 = 1 << 56;
/// Bytes of `struct elf_prstatus`.
const PRSTATUS: usize = 336;
/// Most bytes of a padding above the registers.
const MAX_PADDING: u64 = 256;
/// Most bytes of a kernel stack; KASAN's have 64 KiB.
const MAX_STACK: u64 = 1 << 20;

/// Names of registers in `pt_regs`, in the order of `struct user_regs_struct`.
const PT_REGS: [&str; 21] = [
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
];
/// Names in `thread_struct` of those behind: bases, then selectors.
const THREAD: [&str; 6] = ["fsbase", "gsbase", "ds", "es", "fsindex", "gsindex"];
/// Places of some of them in `struct user_regs_struct`.
const IP: usize = 16;
const CS: usize = 17;
const SP: usize = 19;
const SS: usize = 20;
const FS_BASE: usize = 21;
const GS_BASE: usize = 22;

/// Why a thread has no registers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegsError {
    /// Its stack cannot be read.
    #[error("the registers at the top of its kernel stack: {0}")]
    Lost(#[from] Fault),
    /// What should be registers says that it is none of user mode.
    #[error("its kernel stack at {stack:#x} does not end in registers of user mode (cs {cs:#x})")]
    NotUser {
        /// Where its stack begins.
        stack: u64,
        /// What is in the place of the code segment.
        cs: u64,
    },
    /// Its CPU was at the border of user mode: what its stack has is older.
    #[error(
        "its CPU was just entering or leaving the kernel (stack pointer {sp:#x}), and nothing has its registers"
    )]
    Entering {
        /// The CPU's stack pointer.
        sp: u64,
    },
    /// It is a 32-bit program.
    #[error("it is a 32-bit program, of which no core file is written")]
    Compat,
}

/// Where a thread's registers are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From its kernel stack: it slept, or was in the kernel.
    Stack,
    /// From the crash note of the CPU that it ran on in user mode.
    Note,
}

/// Registers of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    /// In the order of `struct user_regs_struct`.
    pub values: [u64; REGISTERS],
    /// Where they are from.
    pub source: Source,
}

/// A CPU's crash note.
#[derive(Debug, Clone, Copy)]
struct CrashNote {
    /// Number of the thread that it ran.
    pid: u32,
    values: [u64; REGISTERS],
}

/// What must be known once to find any thread's registers.
#[derive(Debug)]
pub struct Regs<'k, 'm> {
    kernel: &'k Kernel<'m>,
    stack: Field,
    pid: Field,
    thread: Vec<Field>,
    pt_regs: Vec<Field>,
    pt_size: u64,
    /// Bytes of a stack, without the padding at its top.
    depth: u64,
    /// Where each CPU's entry stack is, as far as that is known.
    entry: Vec<Range<u64>>,
    notes: Vec<CrashNote>,
}

impl<'k, 'm> Regs<'k, 'm> {
    /// Finds out where stacks end, and reads the crash notes.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn new(kernel: &'k Kernel<'m>) -> Result<Self, KernelError> {
        let stack = kernel.field("task_struct", "stack")?;
        let member = |name: &&str| kernel.field("pt_regs", name);
        let thread = |name: &&str| kernel.field("task_struct", &format!("thread.{name}"));
        Ok(Self {
            kernel,
            stack,
            pid: kernel.field("task_struct", "pid")?,
            thread: THREAD.iter().map(thread).collect::<Result<_, _>>()?,
            pt_regs: PT_REGS.iter().map(member).collect::<Result<_, _>>()?,
            pt_size: kernel.size("pt_regs")?,
            depth: depth(kernel, stack)?,
            entry: entry_stacks(kernel).unwrap_or_default(),
            notes: crash_notes(kernel.notes()),
        })
    }

    /// Registers that the thread `task` had in user mode; `task` is the address of its
    /// `struct task_struct`.
    ///
    /// # Errors
    /// [`RegsError`].
    pub fn of(&self, task: u64) -> Result<Registers, RegsError> {
        let pid = self.kernel.get(task, self.pid)?;
        let note = self.notes.iter().find(|n| u64::from(n.pid) == pid && pid != 0);
        if let Some(note) = note.filter(|n| is_user(&n.values)) {
            return Ok(Registers { values: note.values, source: Source::Note });
        }
        let mut values = self.on_stack(task)?;
        if let Some(note) = note {
            self.stored(task, note)?;
            // It ran in the kernel: its bases were in the CPU, where the note took them from.
            for place in [FS_BASE, GS_BASE] {
                if let (Some(to), Some(from)) = (values.get_mut(place), note.values.get(place)) {
                    *to = *from;
                }
            }
        }
        Ok(Registers { values, source: Source::Stack })
    }

    /// Whether a thread that ran in the kernel had its registers stored.
    fn stored(&self, task: u64, note: &CrashNote) -> Result<(), RegsError> {
        let sp = note.values.get(SP).copied().unwrap_or(0);
        let top = self.kernel.get(task, self.stack)?.saturating_add(self.depth);
        // The last of them is stored when the stack pointer is at the first.
        let storing = sp > top.saturating_sub(self.pt_size) && sp <= top;
        // Under Xen, threads enter on their own stack.
        let entry = |e: &Range<u64>| e.contains(&sp) && e.end.saturating_sub(1) != top;
        let between = sp < USER_END || storing || self.entry.iter().any(entry);
        if between { Err(RegsError::Entering { sp }) } else { Ok(()) }
    }

    fn on_stack(&self, task: u64) -> Result<[u64; REGISTERS], RegsError> {
        let stack = self.kernel.get(task, self.stack)?;
        let top = stack.checked_add(self.depth).ok_or(Fault::malformed(stack))?;
        let at = top.checked_sub(self.pt_size).ok_or(Fault::malformed(stack))?;
        let mut values = [0; REGISTERS];
        let on_stack = self.pt_regs.iter().map(|f| (at, f));
        let places = on_stack.chain(self.thread.iter().map(|f| (task, f)));
        for (to, (object, field)) in values.iter_mut().zip(places) {
            *to = self.kernel.get(object, *field)?;
        }
        for selector in [CS, SS] {
            // FRED keeps what happened in the bits above.
            if let Some(value) = values.get_mut(selector) {
                *value &= 0xffff;
            }
        }
        let cs = values.get(CS).copied().unwrap_or(0);
        match cs {
            USER32_CS => Err(RegsError::Compat),
            USER_CS if is_user(&values) => Ok(values),
            cs => Err(RegsError::NotUser { stack, cs }),
        }
    }
}

/// Whether these are registers of 64-bit user mode.
fn is_user(values: &[u64; REGISTERS]) -> bool {
    let get = |n: usize| values.get(n).copied().unwrap_or(u64::MAX);
    get(CS) & 0xffff == USER_CS && get(IP) < USER_END
}

/// Registers of each CPU that has a note.
fn crash_notes(notes: &[u8]) -> Vec<CrashNote> {
    let cpus = Notes::new(notes).filter(|n| n.name == b"CORE" && n.kind == NT_PRSTATUS);
    cpus.filter_map(|n| {
        let desc = n.desc.get(..PRSTATUS)?;
        let pid = u32::from_le_bytes(desc.get(32..36)?.try_into().ok()?);
        let mut values = [0; REGISTERS];
        let (words, _) = desc.get(112..)?.as_chunks::<8>();
        for (to, from) in values.iter_mut().zip(words) {
            *to = u64::from_le_bytes(*from);
        }
        Some(CrashNote { pid, values })
    })
    .collect()
}

/// Where each CPU stands before it has the stack of its thread; the top itself is where it
/// stands when nothing is stored yet.
fn entry_stacks(kernel: &Kernel<'_>) -> Option<Vec<Range<u64>>> {
    let tss = kernel.symbol("cpu_tss_rw")?;
    let sp0 = kernel.field("tss_struct", "x86_tss.sp0").ok()?;
    let size = kernel.size("entry_stack").ok()?;
    let one = |cpu| {
        let top = kernel.get(kernel.per_cpu(tss, cpu).ok()?, sp0).ok()?;
        Some(top.checked_sub(size)?..top.checked_add(1)?)
    };
    Some((0..kernel.cpus().ok()?).filter_map(one).collect())
}

/// Bytes from the start of a kernel stack to where a thread's registers end: as each CPU has
/// it for the thread that it runs. All that can be read must agree.
fn depth(kernel: &Kernel<'_>, stack: Field) -> Result<u64, KernelError> {
    let (top, current) = per_cpu_places(kernel)?;
    let mut depth = None;
    let mut fault = None;
    for cpu in 0..kernel.cpus()? {
        let one = (|| {
            let task = kernel.u64(kernel.per_cpu(current, cpu)?)?;
            let top = kernel.u64(kernel.per_cpu(top, cpu)?)?;
            Ok((top, kernel.get(task, stack)?))
        })();
        match one {
            Ok((top, stack)) => {
                let bytes = top.wrapping_sub(stack);
                // A CPU that was never started has neither.
                let padding = bytes.next_multiple_of(4096).wrapping_sub(bytes);
                if bytes == 0 || bytes > MAX_STACK || padding > MAX_PADDING {
                    continue;
                }
                if depth.is_some_and(|d| d != bytes) {
                    return Err(KernelError::Odd { what: "the top of a kernel stack", value: top });
                }
                depth = Some(bytes);
            }
            Err(e) => fault = Some(e),
        }
    }
    let none = fault.unwrap_or(Fault::malformed(top));
    depth.ok_or(KernelError::Memory { what: "the top of the stacks of all CPUs", fault: none })
}

/// Per-CPU addresses of the top of the running thread's stack, and of the thread.
fn per_cpu_places(kernel: &Kernel<'_>) -> Result<(u64, u64), KernelError> {
    if let Some(hot) = kernel.known("pcpu_hot")? {
        let top = kernel.field("pcpu_hot", "top_of_stack")?;
        let current = kernel.field("pcpu_hot", "current_task")?;
        // Members of a small struct: no sum overflows.
        return Ok((hot.wrapping_add(top.offset), hot.wrapping_add(current.offset)));
    }
    Ok((kernel.need("cpu_current_top_of_stack")?, kernel.need("current_task")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pid: u32, ip: u64, cs: u64) -> Vec<u8> {
        let mut desc = vec![0; PRSTATUS];
        desc[32..36].copy_from_slice(&pid.to_le_bytes());
        desc[112 + IP * 8..112 + IP * 8 + 8].copy_from_slice(&ip.to_le_bytes());
        desc[112 + CS * 8..112 + CS * 8 + 8].copy_from_slice(&cs.to_le_bytes());
        let mut out = [5u32, 336, 1].map(u32::to_le_bytes).concat();
        out.extend(b"CORE\0\0\0\0");
        out.extend(desc);
        out
    }

    #[test]
    fn crash_notes_are_told_from_each_other() {
        let all = [note(7, 0x40_1000, 0x33), note(0, 0xffff_ffff_8100_0000, 0x10)].concat();
        let notes = crash_notes(&all);
        assert_eq!(notes.iter().map(|n| n.pid).collect::<Vec<_>>(), [7, 0]);
        assert_eq!(notes.iter().map(|n| is_user(&n.values)).collect::<Vec<_>>(), [true, false]);
    }

    /// A code segment of user mode does not make a kernel address one of a program's.
    #[test]
    fn a_kernel_address_is_nobody_s() {
        let notes = crash_notes(&note(7, 0xffff_ffff_8100_0000, 0x33));
        assert!(!is_user(&notes[0].values));
    }
}
