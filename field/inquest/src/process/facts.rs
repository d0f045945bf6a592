//! Numbers and marks of a process for the notes of its core file.
//!
//! None of them is needed to look into it: one that cannot be had is 0, as it is of a
//! process that has none.

use crate::elfcore::notes::{Info, SIGINFO_LEN, Status};
use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::tasks::{self, Task};

/// Most bytes of `mm_struct.saved_auxv`.
const MAX_AUXV: u64 = 4096;
/// Bytes of `struct kernel_siginfo`, which are the first of `siginfo_t`.
const KERNEL_SIGINFO: usize = 48;
/// Priority of nice value 0 (`DEFAULT_PRIO`).
const NICE_0: i64 = 120;

/// Where the members are.
#[derive(Debug)]
pub(super) struct Facts {
    auxv: Field,
    signal: Field,
    group: Option<Field>,
    session: Option<Field>,
    number: Field,
    pending: Option<Field>,
    blocked: Option<Field>,
    user: Field,
    system: Field,
    children_user: Field,
    children_system: Field,
    last_siginfo: Field,
    cred: Field,
    uid: Field,
    gid: Field,
    prio: Field,
    flags: Field,
}

impl Facts {
    pub(super) fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let task = |path| kernel.field("task_struct", path);
        let signal = |path| kernel.field("signal_struct", path);
        let ids = |kind| {
            let n = kernel.enumerator(kind).filter(|n| (0..16).contains(n))?;
            kernel.field("signal_struct", &format!("pids[{n}]")).ok()
        };
        Ok(Self {
            auxv: kernel.field("mm_struct", "saved_auxv")?,
            signal: task("signal")?,
            group: ids("PIDTYPE_PGID"),
            session: ids("PIDTYPE_SID"),
            number: kernel.field("pid", "numbers[0].nr")?,
            pending: task("pending.signal.sig[0]").ok(),
            blocked: task("blocked.sig[0]").ok(),
            user: task("utime")?,
            system: task("stime")?,
            children_user: signal("cutime")?,
            children_system: signal("cstime")?,
            last_siginfo: task("last_siginfo")?,
            cred: task("real_cred")?,
            uid: kernel.field("cred", "uid.val")?,
            gid: kernel.field("cred", "gid.val")?,
            prio: task("static_prio")?,
            flags: task("flags")?,
        })
    }

    /// The auxiliary vector, its closing entry included.
    pub(super) fn auxv(&self, kernel: &Kernel<'_>, mm: u64) -> Result<Vec<u8>, Fault> {
        let len = usize::try_from(self.auxv.bytes.min(MAX_AUXV)).unwrap_or(0);
        let mut raw = vec![0; len];
        let at = mm.checked_add(self.auxv.offset).ok_or(Fault::malformed(mm))?;
        kernel.read(at, &mut raw)?;
        // Pairs; AT_NULL is 0.
        let (pairs, _) = raw.as_chunks::<16>();
        let end = pairs.iter().position(|p| p.starts_with(&[0; 8])).map_or(pairs.len(), |n| n + 1);
        raw.truncate(end * 16);
        Ok(raw)
    }

    /// `siginfo_t` of a thread that was stopped for its tracer (`task_struct.last_siginfo`).
    pub(super) fn siginfo(&self, kernel: &Kernel<'_>, task: u64) -> Option<[u8; SIGINFO_LEN]> {
        let at = kernel.get(task, self.last_siginfo).ok().filter(|at| *at != 0)?;
        let mut info = [0; SIGINFO_LEN];
        kernel.read(at, info.get_mut(..KERNEL_SIGINFO)?).ok()?;
        Some(info)
    }

    /// Numbers and times of a thread (`fill_prstatus()`).
    pub(super) fn status(&self, kernel: &Kernel<'_>, task: &Task, of: &tasks::Process) -> Status {
        let get =
            |field: Option<Field>| field.and_then(|f| kernel.get(task.addr, f).ok()).unwrap_or(0);
        let signal = |field| kernel.get(task.signal, field).unwrap_or(0);
        Status {
            signal: 0,
            pending: get(self.pending),
            held: get(self.blocked),
            pid: task.pid,
            ppid: of.ppid.unwrap_or(0),
            pgrp: self.number(kernel, task.addr, self.group),
            sid: self.number(kernel, task.addr, self.session),
            user_ns: get(Some(self.user)),
            system_ns: get(Some(self.system)),
            children_user_ns: signal(self.children_user),
            children_system_ns: signal(self.children_system),
            registers: Default::default(),
        }
    }

    /// The number of a process group or session.
    fn number(&self, kernel: &Kernel<'_>, task: u64, which: Option<Field>) -> u32 {
        let number = || {
            let signal = kernel.get(task, self.signal).ok()?;
            let pid = kernel.get(signal, which?).ok()?;
            u32::try_from(kernel.get(pid, self.number).ok()?).ok()
        };
        number().unwrap_or(0)
    }

    /// What is said of a process (`fill_psinfo()`).
    pub(super) fn info(&self, kernel: &Kernel<'_>, of: &tasks::Process) -> Info {
        let task = &of.leader;
        let cred = kernel.get(task.addr, self.cred).ok();
        let id = |field| {
            let id = cred.and_then(|cred| kernel.get(cred, field).ok());
            id.and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX)
        };
        let nice = kernel.get_signed(task.addr, self.prio).unwrap_or(NICE_0) - NICE_0;
        let state = "RSDTZW".find(task.state).unwrap_or(6);
        let words = of.command.iter().flat_map(|c| &c.args);
        let args = words.flat_map(|w| w.bytes().chain([0])).take(80).collect();
        Info {
            state: u8::try_from(state).unwrap_or(6),
            nice: i8::try_from(nice).unwrap_or(0),
            flags: kernel.get(task.addr, self.flags).unwrap_or(0),
            uid: id(self.uid),
            gid: id(self.gid),
            pid: task.tgid,
            ppid: of.ppid.unwrap_or(0),
            pgrp: self.number(kernel, task.addr, self.group),
            sid: self.number(kernel, task.addr, self.session),
            name: task.comm.clone().into_bytes(),
            args,
        }
    }
}
