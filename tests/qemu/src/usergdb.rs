//! gdb as the judge of process cores: call chains, threads, locals, registers, and a core
//! that gdb itself took of the same process while it lived.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context as _, Res, both, ensure};
use crate::live::Program;
use crate::pattern::mix;
use crate::record::{PAGE, Process, State};
use crate::usercore::{Report, SIZE, UserCore};

/// A core, the program it is of, and the folder that has its libraries.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The core.
    pub core: PathBuf,
    /// Root of the file system that the program lived in.
    pub root: PathBuf,
    /// The program in it, such as `bin/single`.
    pub program: &'static str,
}

/// A frame whose locals are known: where they lie, and which frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Number in the backtrace.
    pub number: u64,
    /// Depth that the program gave it.
    pub depth: u64,
    /// Address of its locals.
    pub at: u64,
}

impl Opened {
    /// Gives gdb these commands, and what it said on both outputs.
    ///
    /// # Errors
    /// When gdb does not start.
    pub fn ask(&self, commands: &[String]) -> Res<String> {
        let mut gdb = Command::new("gdb");
        gdb.env("DEBUGINFOD_URLS", "").args(["-nx", "-batch"]);
        for setting in [
            "set pagination off".to_owned(),
            "set width 0".to_owned(),
            "set confirm off".to_owned(),
            format!("set sysroot {}", self.root.display()),
            format!("file {}", self.root.join(self.program).display()),
            format!("core-file {}", self.core.display()),
        ] {
            gdb.arg("-ex").arg(setting);
        }
        for command in commands {
            gdb.arg("-ex").arg(command);
        }
        Ok(both(&gdb.stdin(Stdio::null()).output().ctx("gdb")?))
    }

    /// The words behind `LB` of each line that a `printf` of the commands wrote.
    pub(crate) fn told(&self, commands: &[String]) -> Res<Vec<Vec<u64>>> {
        let said = self.ask(commands)?;
        let lines = said.lines().filter_map(|l| l.strip_prefix("LB "));
        let words = |l: &str| -> Option<Vec<u64>> {
            l.trim().split(' ').map(|w| u64::from_str_radix(w, 16).ok()).collect()
        };
        let all: Option<Vec<Vec<u64>>> = lines.map(words).collect();
        all.filter(|a| !a.is_empty()).ctx(format_args!("what gdb was asked for in:\n{said}"))
    }

    /// Numbers of the frames of the known chain, which must be `depth` many.
    pub(crate) fn chain(&self, depth: u64) -> Res<Vec<u64>> {
        let frames = self.frames_of("descend")?;
        let many = frames.len();
        let all = u64::try_from(many).ok() == Some(depth);
        ensure(all, format_args!("{many} frames of descend, {depth} expected"))?;
        Ok(frames)
    }

    /// Numbers of the frames of `function` in the backtrace of the thread that gdb chooses.
    fn frames_of(&self, function: &str) -> Res<Vec<u64>> {
        let said = self.ask(&["bt".to_owned()])?;
        let all = backtrace(&said);
        // Opening a core shows its frame 0 as well.
        let start = all.iter().rposition(|(number, _)| *number == 0).unwrap_or(0);
        let frames = all.get(start..).unwrap_or_default();
        ensure(
            frames.iter().any(|(_, f)| f == "main"),
            format_args!("the backtrace does not reach main:\n{said}"),
        )?;
        Ok(frames.iter().filter(|(_, f)| f == function).map(|(n, _)| *n).collect())
    }
}

/// Known locals of each frame of the chain.
pub(crate) const LOCALS: u64 = 8;

/// Their expressions, for gdb.
pub(crate) fn locals() -> String {
    let all: Vec<String> = (0..LOCALS).map(|n| format!("local[{n}]")).collect();
    all.join(", ")
}

/// The locals of the frame at `depth` must be what the program put there.
pub(crate) fn check_locals(seed: u64, depth: u64, locals: &[u64]) -> Res<()> {
    let known: Vec<u64> = (0..LOCALS).map(|i| mix(seed ^ (depth << 8 | i))).collect();
    ensure(locals == known, format_args!("locals at depth {depth}: {locals:x?}, not {known:x?}"))
}

/// Numbers and functions of a backtrace's lines: `#3  0x… in f (…) at …` or `#0  f (…)`.
fn backtrace(said: &str) -> Vec<(u64, String)> {
    let parse = |line: &str| {
        let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
        let rest = rest.trim_start();
        let named = rest.split_once(" in ").filter(|_| rest.starts_with("0x"));
        let name = named.map_or(rest, |(_, n)| n).split(' ').next()?;
        Some((number.parse().ok()?, name.to_owned()))
    };
    said.lines().filter_map(parse).collect()
}

/// The deep chain of `single`: every frame, all of its locals, a global and a text.
///
/// # Errors
/// With what differs.
pub fn check_single(opened: &Opened, program: &Program) -> Res<Vec<Frame>> {
    let (seed, depth) = (program.fact("seed")?, program.fact("depth")?);
    let frames = opened.chain(depth)?;
    let locals = locals();
    let mut commands = Vec::new();
    for number in &frames {
        commands.push(format!("frame {number}"));
        commands.push(format!(
            "printf \"LB %lx %x %lx %lx %lx %lx %lx %lx %lx %lx %lx\\n\", {number}UL, mine, \
             (unsigned long)&local[0], {locals}"
        ));
    }
    let told = opened.told(&commands)?;
    ensure(told.len() == frames.len(), "gdb cannot read the locals of every frame")?;
    let mut out = Vec::new();
    for (n, words) in (1..).zip(&told) {
        let [number, mine, at, locals @ ..] = words.as_slice() else {
            return None.ctx("the locals of a frame");
        };
        ensure(*mine == depth - n, format_args!("frame {number} has depth {mine}"))?;
        check_locals(seed, *mine, locals)?;
        out.push(Frame { number: *number, depth: *mine, at: *at });
    }
    let word = opened.told(&["printf \"LB %lx\\n\", known_word".to_owned()])?;
    ensure(word == [[program.fact("word")?]], format_args!("known_word is {word:x?}"))?;
    let text = opened.ask(&["printf \"%s\\n\", known_text".to_owned()])?;
    ensure(text.contains("known text of single"), format_args!("no known text:\n{text}"))?;
    Ok(out)
}

/// How many of the frames have their locals on pages that were swapped out.
#[must_use]
pub fn swapped_frames(frames: &[Frame], process: &Process) -> usize {
    let swapped = |frame: &&Frame| {
        let page = frame.at / PAGE * PAGE;
        let mut pages = process.areas.iter().flat_map(|a| &a.pages);
        pages.any(|p| p.at == page && p.state == State::Swapped)
    };
    frames.iter().filter(swapped).count()
}

/// The threads of `multi`: their number, each one's chain, a local of it, and the vector
/// registers. Gives how many were checked.
///
/// # Errors
/// With what differs.
pub fn check_multi(opened: &Opened, program: &Program) -> Res<usize> {
    let (seed, depth) = (program.fact("seed")?, program.fact("depth")?);
    let (threads, avx) = (program.fact("threads")?, program.fact("avx")? == 1);
    let said = opened.ask(&["info threads".to_owned()])?;
    // `* 1    Thread 0x… (LWP 77) …`; others say that an LWP is new.
    let line = |l: &&str| {
        let behind = l.trim_start_matches('*').trim_start();
        l.contains("LWP") && behind.starts_with(|c: char| c.is_ascii_digit())
    };
    let listed = said.lines().filter(line).count();
    ensure(
        u64::try_from(listed).ok() == Some(threads),
        format_args!("{listed} threads, {threads} expected:\n{said}"),
    )?;
    let mut seen = Vec::new();
    for thread in 1..=threads {
        let said = opened.ask(&[format!("thread {thread}"), "bt".to_owned()])?;
        let frames = backtrace(&said);
        let layers = frames.iter().filter(|(_, f)| f == "layer").count();
        ensure(
            frames.first().is_some_and(|(_, f)| f == "rest"),
            format_args!("thread {thread} does not rest:\n{said}"),
        )?;
        let words = registers(opened, thread, avx)?;
        let [word, rest @ ..] = words.as_slice() else { return None.ctx("XMM8") };
        ensure(rest.iter().all(|w| w == word), format_args!("thread {thread}: {words:x?}"))?;
        let number = (0..threads).find(|n| mix(seed ^ n) == *word);
        let number = number.ctx(format_args!("the thread that has {word:#x} in XMM8"))?;
        seen.push(number);
        // The first thread rests in main.
        let expected = if number == 0 { 0 } else { depth };
        ensure(
            u64::try_from(layers).ok() == Some(expected),
            format_args!("{layers} layers in thread {thread}:\n{said}"),
        )?;
        if number != 0 {
            check_layer(opened, thread, number, seed)?;
        }
    }
    seen.sort_unstable();
    seen.dedup();
    ensure(seen.len() == listed, "two threads have the same registers")?;
    Ok(listed)
}

/// XMM8, and YMM9 where there is AVX: all words of them.
fn registers(opened: &Opened, thread: u64, avx: bool) -> Res<Vec<u64>> {
    let mut values: Vec<String> = (0..2).map(|n| format!("$xmm8.v2_int64[{n}]")).collect();
    if avx {
        values.extend((0..4).map(|n| format!("$ymm9.v4_int64[{n}]")));
    }
    let format = vec!["%lx"; values.len()].join(" ");
    let print = format!("printf \"LB {format}\\n\", {}", values.join(", "));
    let told = opened.told(&[format!("thread {thread}"), print])?;
    told.into_iter().next().ctx("vector registers")
}

fn check_layer(opened: &Opened, thread: u64, number: u64, seed: u64) -> Res<()> {
    let print = "printf \"LB %x %lx %lx\\n\", mine, local[0], local[3]".to_owned();
    let mut commands = vec![format!("thread {thread}")];
    // Frame 0 rests, those above it are the layers.
    for frame in 1..=5 {
        commands.push(format!("frame {frame}"));
        commands.push(print.clone());
    }
    for words in opened.told(&commands)? {
        let [depth, first, last] = words.as_slice() else { return None.ctx("locals") };
        let known = |i: u64| mix(seed ^ (number << 16 | depth << 8 | i));
        ensure(
            *first == known(0) && *last == known(3),
            format_args!("locals of thread {number} at depth {depth}: {words:x?}"),
        )?;
    }
    Ok(())
}

/// The program that ran when the machine died: it stands in its loop, and a register has
/// what it should.
///
/// # Errors
/// With what differs.
pub fn check_spin(opened: &Opened, program: &Program) -> Res<()> {
    let frames = opened.frames_of("spin")?;
    ensure(frames == [0], format_args!("frames of spin: {frames:?}"))?;
    let told = opened.told(&["printf \"LB %lx\\n\", $r12".to_owned()])?;
    ensure(told == [[program.fact("word")?]], format_args!("r12 is {told:x?}"))
}

/// What a core has in common with one that gdb took of the living process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Common {
    /// Pages that are equal.
    pub equal: u64,
    /// Pages that differ in few bytes: the kernel writes a thread's CPU number into its
    /// memory when the thread goes on (rseq(2)).
    pub touched: u64,
    /// Pages that only gdb's core has; the report says why.
    pub missing: u64,
    /// Threads with the same registers.
    pub threads: u64,
}

/// Most bytes that the kernel changes in a page: `cpu_id_start`, `cpu_id`, `node_id` and
/// `mm_cid` of `struct rseq` (include/uapi/linux/rseq.h).
const RSEQ: usize = 24;

/// Compares a core with gdb's own of the same process: memory, registers, backtraces. A page
/// may be missing if `report` says so.
///
/// # Errors
/// With the first difference.
pub fn same_as_gcore(ours: &Opened, theirs: &Opened, report: &Report) -> Res<Common> {
    let (a, b) = (UserCore::open(&ours.core)?, UserCore::open(&theirs.core)?);
    let mut out = Common::default();
    let (mut x, mut y) = ([0u8; SIZE], [0u8; SIZE]);
    for at in b.pages() {
        if !b.page(at, &mut y)? {
            continue;
        }
        if !a.page(at, &mut x)? {
            ensure(report.why(at).is_some(), format_args!("{at:#x} is silently missing"))?;
            out.missing += 1;
            continue;
        }
        match x.iter().zip(&y).filter(|(p, q)| p != q).count() {
            0 => out.equal += 1,
            1..=RSEQ => out.touched += 1,
            n => return ensure(false, format_args!("{n} bytes differ at {at:#x}")).map(|()| out),
        }
    }
    ensure(out.equal > 0, "the two cores have no page in common")?;
    let (mine, gdbs) = (a.threads(), b.threads());
    ensure(mine.len() == gdbs.len(), "not the same number of threads")?;
    for (tid, regs) in &gdbs {
        let same = mine.iter().find(|(t, _)| t == tid).ctx(format_args!("thread {tid}"))?;
        same_registers(*tid, &same.1, regs)?;
        out.threads += 1;
    }
    let order = ["thread apply all bt".to_owned()];
    let (mine, gdbs) = (backtrace(&ours.ask(&order)?), backtrace(&theirs.ask(&order)?));
    ensure(mine == gdbs, format_args!("backtraces differ: {mine:?}\n{gdbs:?}"))?;
    Ok(out)
}

/// What a thread that sits in a system call keeps: all that the callee saves, its stack,
/// its base of thread-local memory. It may stand before or behind the instruction, which is
/// of two bytes, as it is made to begin again.
fn same_registers(tid: u64, a: &[u64], b: &[u64]) -> Res<()> {
    // user_regs_struct: r15 r14 r13 r12 rbp rbx, …, rip, …, rsp, ss, fs_base.
    const KEPT: [usize; 8] = [0, 1, 2, 3, 4, 5, 19, 21];
    const RIP: usize = 16;
    for n in KEPT {
        ensure(a.get(n) == b.get(n), format_args!("thread {tid}, word {n}: {a:x?}\n{b:x?}"))?;
    }
    let near = a.get(RIP).zip(b.get(RIP)).is_some_and(|(p, q)| [0, 2].contains(&p.abs_diff(*q)));
    ensure(near, format_args!("thread {tid} stands elsewhere: {a:x?}\n{b:x?}"))
}

/// Where a program's file is in the tree, as gdb is told.
#[must_use]
pub fn opened(core: &Path, root: &Path, program: &'static str) -> Opened {
    Opened { core: core.into(), root: root.into(), program }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backtraces_are_read() {
        let said = "[New LWP 7]\n#0  0x00007f in __GI_pause () from /lib/libc.so.6\n\
                    #1  0x0000555 in descend (depth=23) at single.c:40\n#2  main () at x.c:1\n";
        let frames = backtrace(said);
        let names: Vec<&str> = frames.iter().map(|(_, f)| f.as_str()).collect();
        assert_eq!(names, ["__GI_pause", "descend", "main"]);
        assert_eq!(frames[2].0, 2);
    }
}
