//! Registers of a dead kernel's threads: from the tops of their stacks, whatever padding the
//! kernel has there, and from crash notes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]

mod dead;

use dead::{Dead, Is, P, U2, U4};
use lifeboat_inquest::elfcore::notes::REGISTERS;
use lifeboat_inquest::regs::{Fpu, Lost, Regs, RegsError, Source};
use lifeboat_inquest::{Hole, Kernel, KernelError};

const STACK: u64 = 16 << 10;
const REGS: u64 = 168;
const NAMES: [&str; 21] = [
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
];
const CPUS: u64 = 2;
const PER_CPU: u64 = 256;

struct World {
    dead: Dead,
    padding: u64,
    /// Places of CPU 0.
    current: u64,
    top: u64,
}

impl World {
    /// A kernel whose stacks have so much padding at their top.
    fn new(padding: u64, hot: bool) -> Self {
        let mut dead = Dead::new();
        declare(&mut dead);
        let offsets = dead.variable("__per_cpu_offset", 8 * CPUS);
        let count = dead.variable("nr_cpu_ids", 4);
        dead.bytes(count, &2u32.to_le_bytes());
        dead.put(offsets + 8, PER_CPU);
        let (current, top) = if hot {
            let at = dead.variable("pcpu_hot", PER_CPU * CPUS);
            (at, at + 24)
        } else {
            let top = "cpu_current_top_of_stack";
            let current = dead.variable("current_task", PER_CPU * CPUS);
            (current, dead.variable(top, PER_CPU * CPUS))
        };
        Self { dead, padding, current, top }
    }

    /// A thread with its number in every register.
    fn thread(&mut self, pid: u64, cs: u64) -> u64 {
        let task = self.dead.object("task_struct");
        let stack = self.dead.room(STACK, STACK);
        self.dead.set(task, "task_struct.stack", stack);
        self.dead.set(task, "task_struct.pid", pid);
        let at = stack + STACK - self.padding - REGS;
        for (n, name) in NAMES.iter().enumerate() {
            let value = match *name {
                "cs" => cs,
                "ss" => 0x2b,
                _ => pid << 16 | n as u64,
            };
            self.dead.set(at, &format!("pt_regs.{name}"), value);
        }
        let thread = self.dead.at(task, "task_struct.thread");
        for (name, value) in
            [("fsbase", 0x7000 + pid), ("gsbase", 0x8000 + pid), ("ds", 1), ("es", 2)]
        {
            self.dead.set(thread, &format!("thread_struct.{name}"), value);
        }
        task
    }

    fn stack(&self, task: u64) -> u64 {
        self.dead.get(self.dead.at(task, "task_struct.stack"))
    }

    /// What a CPU runs.
    fn runs(&mut self, cpu: u64, task: u64) {
        let stack = self.stack(task);
        self.dead.put(self.current + cpu * PER_CPU, task);
        self.dead.put(self.top + cpu * PER_CPU, stack + STACK - self.padding);
    }
}

fn declare(dead: &mut Dead) {
    let mut members: Vec<(&str, Is, u32)> = NAMES
        .iter()
        .enumerate()
        .map(|(n, name)| (*name, P, u32::try_from(n).unwrap() * 8))
        .collect();
    members.sort_by_key(|m| m.2);
    dead.record("pt_regs", u32::try_from(REGS).unwrap(), &members);
    dead.record("pcpu_hot", 64, &[("current_task", P, 0), ("top_of_stack", P, 24)]);
    dead.record("x86_hw_tss", 104, &[("sp0", P, 4)]);
    dead.record("tss_struct", 128, &[("x86_tss", Is::Record("x86_hw_tss"), 0)]);
    dead.record("entry_stack", 4096, &[]);
    dead.record("fxregs_state", 512, &[("cwd", U2, 0)]);
    dead.record(
        "fpstate",
        4096,
        &[("size", U4, 0), ("user_xfeatures", P, 16), ("regs", Is::Record("fxregs_state"), 64)],
    );
    dead.record("fpu", 64, &[("fpstate", P, 16)]);
    dead.record("fpu_state_config", 32, &[("max_size", U4, 0), ("max_features", P, 8)]);
    dead.record(
        "thread_struct",
        256,
        &[
            ("es", U2, 0),
            ("ds", U2, 2),
            ("fsindex", U2, 4),
            ("gsindex", U2, 6),
            ("fsbase", P, 8),
            ("gsbase", P, 16),
            ("pkru", U4, 24),
            ("fpu", Is::Record("fpu"), 64),
        ],
    );
    dead.record(
        "task_struct",
        1024,
        &[
            ("stack", P, 32),
            ("on_cpu", U4, 52),
            ("pid", U4, 100),
            ("thread", Is::Record("thread_struct"), 512),
        ],
    );
    dead.enumeration("xfeature", &[("XFEATURE_FP", 0), ("XFEATURE_YMM", 2), ("XFEATURE_MAX", 19)]);
}

/// A CPU's crash note.
fn note(pid: u32, cs: u64, ip: u64) -> Vec<u8> {
    note_at(pid, cs, ip, 0xabc0 + 19)
}

/// One with a stack pointer.
fn note_at(pid: u32, cs: u64, ip: u64, sp: u64) -> Vec<u8> {
    let mut desc = vec![0; 336];
    desc[32..36].copy_from_slice(&pid.to_le_bytes());
    for n in 0..REGISTERS {
        let value = match n {
            16 => ip,
            17 => cs,
            19 => sp,
            n => 0xabc0 + n as u64,
        };
        desc[112 + n * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let mut out = [5u32, 336, 1].map(u32::to_le_bytes).concat();
    out.extend(b"CORE\0\0\0\0");
    out.extend(desc);
    out
}

/// Both ways to say where the stacks of running threads end, with FRED and without.
#[test]
fn registers_lie_below_the_padding() {
    for (padding, hot) in [(0, false), (16, false), (0, true), (16, true)] {
        let mut world = World::new(padding, hot);
        let (sleeps, runs, idle) =
            (world.thread(7, 0x33), world.thread(8, 0x33), world.thread(0, 0x10));
        world.runs(0, runs);
        world.runs(1, idle);
        let notes = world.dead.bury();
        let kernel = Kernel::open(&world.dead, &notes).unwrap();
        let regs = Regs::new(&kernel).unwrap();
        for (task, pid) in [(sleeps, 7), (runs, 8)] {
            let of = regs.of(task).unwrap();
            assert_eq!(of.source, Source::Stack);
            let mut want: Vec<u64> = (0..21).map(|n| pid << 16 | n).collect();
            (want[17], want[20]) = (0x33, 0x2b);
            want.extend([0x7000 + pid, 0x8000 + pid, 1, 2, 0, 0]);
            assert_eq!(of.values.to_vec(), want, "{padding} {hot}");
        }
        assert!(matches!(regs.of(idle), Err(RegsError::NotUser { cs: 0x10, .. })));
    }
}

#[test]
fn whoever_ran_has_a_note() {
    let mut world = World::new(0, true);
    let (user, kernel_mode, other) =
        (world.thread(7, 0x33), world.thread(8, 0x33), world.thread(9, 0x33));
    world.runs(0, user);
    world.runs(1, kernel_mode);
    // As deep as a stack can be when all of its thread's registers are on it.
    let sp = world.stack(kernel_mode) + STACK - REGS;
    let mut notes =
        [note(7, 0x33, 0x40_1000), note_at(8, 0x10, 0xffff_ffff_8100_0000, sp)].concat();
    notes.extend(world.dead.bury());
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    let regs = Regs::new(&kernel).unwrap();
    let of = regs.of(user).unwrap();
    assert_eq!((of.source, of.values[16], of.values[0]), (Source::Note, 0x40_1000, 0xabc0));
    // In the kernel: its stack has what it had in user mode, its note the bases.
    let of = regs.of(kernel_mode).unwrap();
    assert_eq!((of.source, of.values[16]), (Source::Stack, 8 << 16 | 16));
    assert_eq!(of.values[21..23], [0xabc0 + 21, 0xabc0 + 22]);
    assert_eq!(regs.of(other).unwrap().values[21], 0x7009);
}

/// At the border of user mode the CPU alone has the registers; the stack has those of an
/// earlier call.
#[test]
fn registers_that_were_not_stored_yet_are_lost() {
    for padding in [0, 16] {
        let mut world = World::new(padding, true);
        let (task, idle) = (world.thread(7, 0x33), world.thread(0, 0x10));
        world.runs(0, idle);
        world.runs(1, task);
        let entry = world.dead.room(4096, 4096);
        let tss = world.dead.variable("cpu_tss_rw", PER_CPU * CPUS);
        for cpu in 0..CPUS {
            let sp0 = world.dead.at(tss, "tss_struct.x86_tss") + 4 + cpu * PER_CPU;
            world.dead.put(sp0, entry + 4096);
        }
        let top = world.stack(task) + STACK - padding;
        let info = world.dead.bury();
        let kernel_ip = 0xffff_ffff_8100_0000;
        let ask = |dead: &Dead, sp: u64| {
            let notes = [note_at(7, 0x10, kernel_ip, sp), info.clone()].concat();
            let kernel = Kernel::open(dead, &notes).unwrap();
            Regs::new(&kernel).unwrap().of(task).map(|r| r.values[16])
        };
        let stored = Ok(7 << 16 | 16);
        for sp in [top - REGS, top - REGS - 8, top - 5000, entry - 8, entry + 4104] {
            assert_eq!(ask(&world.dead, sp), stored, "{sp:#x} {padding}");
        }
        for sp in [0x7fff_0000_1000, entry, entry + 2048, entry + 4096, top, top - REGS + 8] {
            assert_eq!(ask(&world.dead, sp), Err(RegsError::Entering { sp }), "{padding}");
        }
        // Xen lets threads enter on their own stack.
        let sp0 = world.dead.at(tss, "tss_struct.x86_tss") + 4 + PER_CPU;
        world.dead.put(sp0, top);
        assert_eq!(ask(&world.dead, top - REGS - 8), stored);
    }
}

#[test]
fn what_is_no_thread_of_ours_is_told() {
    let mut world = World::new(0, true);
    let (user, compat, wild) =
        (world.thread(7, 0x33), world.thread(8, 0x23), world.thread(9, 0x33));
    world.runs(0, user);
    world.dead.set(wild, "task_struct.stack", 0xffff_c900_0000_0000);
    let notes = world.dead.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    let regs = Regs::new(&kernel).unwrap();
    assert_eq!(regs.of(compat), Err(RegsError::Compat));
    assert!(matches!(regs.of(wild), Err(RegsError::Lost(f)) if f.why == Hole::NotMapped));
}

/// Without one word of where stacks end, no registers are made up.
#[test]
fn tops_of_stacks_must_agree() {
    let mut world = World::new(0, true);
    let (one, two) = (world.thread(7, 0x33), world.thread(8, 0x33));
    world.runs(0, one);
    world.padding = 16;
    world.runs(1, two);
    let notes = world.dead.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    assert!(matches!(Regs::new(&kernel), Err(KernelError::Odd { .. })));
    let mut world = World::new(0, true);
    let notes = world.dead.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    assert!(matches!(Regs::new(&kernel), Err(KernelError::Memory { .. })));
}

/// A CPU with x87, SSE and AVX, which saves in the compacted format.
fn vectors(world: &mut World, task: u64) {
    let fpstate = world.dead.object("fpstate");
    let thread = world.dead.at(task, "task_struct.thread");
    let fpu = world.dead.at(thread, "thread_struct.fpu");
    world.dead.set(fpu, "fpu.fpstate", fpstate);
    world.dead.set(fpstate, "fpstate.size", 832);
    world.dead.set(fpstate, "fpstate.user_xfeatures", 7);
    let regs = world.dead.at(fpstate, "fpstate.regs");
    world.dead.bytes(regs, &[0x11; 512]);
    world.dead.put(regs + 512, 7);
    world.dead.put(regs + 520, 7 | 1 << 63);
    world.dead.bytes(regs + 576, &[0x22; 256]);
    let config = world.dead.variable("fpu_user_cfg", 32);
    world.dead.set(config, "fpu_state_config.max_size", 832);
    world.dead.set(config, "fpu_state_config.max_features", 7);
    world.dead.variable("init_fpstate", 4096);
    let software = world.dead.variable("xstate_fx_sw_bytes", 48);
    world.dead.put(software, 7);
    for (name, ymm) in [("xstate_offsets", 576u32), ("xstate_sizes", 256), ("xstate_flags", 0)] {
        let at = world.dead.variable(name, 19 * 4);
        let empty = if name == "xstate_flags" { 0 } else { u32::MAX };
        let table: Vec<u8> =
            (0..19).flat_map(|n| if n == 2 { ymm } else { empty }.to_le_bytes()).collect();
        world.dead.bytes(at, &table);
    }
}

#[test]
fn vectors_come_in_the_format_of_debuggers() {
    let mut world = World::new(0, true);
    let task = world.thread(7, 0x33);
    world.runs(0, task);
    vectors(&mut world, task);
    let notes = world.dead.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    let of = Fpu::new(&kernel).unwrap().of(task).unwrap();
    let state = of.xstate.unwrap();
    assert_eq!((of.fp.len(), state.len()), (512, 832));
    assert_eq!((of.fp[0], of.fp[160], of.fp[464]), (0x11, 0x11, 0));
    assert_eq!((state[464], state[512], state[520], state[576], state[831]), (7, 7, 0, 0x22, 0x22));
}

/// What was in a CPU is not what is in memory.
#[test]
fn vectors_of_whoever_ran_are_lost() {
    let mut world = World::new(0, true);
    let task = world.thread(7, 0x33);
    world.runs(0, task);
    vectors(&mut world, task);
    world.dead.set(task, "task_struct.on_cpu", 1);
    let notes = world.dead.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    assert_eq!(Fpu::new(&kernel).unwrap().of(task), Err(Lost::InCpu));
}

#[test]
fn damaged_vectors_are_told() {
    let mut world = World::new(0, true);
    let task = world.thread(7, 0x33);
    world.runs(0, task);
    vectors(&mut world, task);
    let thread = world.dead.at(task, "task_struct.thread");
    let fpu = world.dead.at(thread, "thread_struct.fpu");
    let fpstate = world.dead.get(world.dead.at(fpu, "fpu.fpstate"));
    world.dead.set(fpstate, "fpstate.size", u64::from(u32::MAX));
    let notes = world.dead.bury();
    let kernel = Kernel::open(&world.dead, &notes).unwrap();
    assert!(matches!(Fpu::new(&kernel).unwrap().of(task), Err(Lost::Fault(_))));
}
