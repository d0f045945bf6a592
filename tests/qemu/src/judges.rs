//! Other people's tools, as judges of what was exported: drgn, crash and gdb.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Context as _, Failure, Res, both, ensure, run};
use crate::paths::workspace;
use crate::pattern::Facts;
use crate::provision;
use crate::vmcore::{Core, file_offset};

/// A task: its number and its name.
pub type Task = (u64, String);

/// What a judge says of a vmcore.
#[derive(Debug)]
pub struct Verdict {
    /// All tasks but the idle ones.
    pub tasks: BTreeSet<Task>,
    /// The crashed thread's stack, innermost frame first, as text.
    pub stack: String,
    /// The dead kernel's log.
    pub log: String,
    /// Lines worth showing to a person.
    pub excerpt: Vec<String>,
}

impl Verdict {
    /// The stack has the sysrq call chain and the log has the crash's own line.
    ///
    /// # Errors
    /// When something is missing.
    pub fn check(&self) -> Res<()> {
        for name in ["sysrq_handle_crash", "write_sysrq_trigger", "vfs_write"] {
            ensure(self.stack.contains(name), format_args!("no {name} in:\n{}", self.stack))?;
        }
        ensure(self.log.contains("sysrq: Trigger a crash"), "the log lacks the crash")?;
        ensure(self.log.contains("Linux version"), "the log lacks its beginning")?;
        ensure(
            self.tasks.iter().any(|(_, name)| name == "lb-crasher"),
            "the crashed process is not among the tasks",
        )
    }
}

fn checker(name: &str) -> PathBuf {
    workspace().join("tests/checkers").join(name)
}

fn drgn(vmcore: &Path, vmlinux: &Path, script: &str) -> Res<Command> {
    let mut command = Command::new(provision::drgn()?);
    command.env("DEBUGINFOD_URLS", "").args(["-q", "-c"]).arg(vmcore).arg("-s").arg(vmlinux);
    command.arg(checker(script));
    Ok(command)
}

/// What drgn says. The victim's heap must be one of its memory areas.
///
/// # Errors
/// When drgn fails or the areas are wrong.
pub fn by_drgn(vmcore: &Path, vmlinux: &Path, facts: &Facts) -> Res<Verdict> {
    let said = run(drgn(vmcore, vmlinux, "look.py")?.arg(facts.pid.to_string()))?;
    let seen: Value = serde_json::from_str(&said).ctx("drgn's answer")?;
    let list = |key: &str| seen.get(key).and_then(Value::as_array).ctx(key);
    let pair = |v: &Value| Some((v.get(0)?.clone(), v.get(1)?.clone()));
    let tasks: BTreeSet<Task> = list("tasks")?
        .iter()
        .filter_map(pair)
        .filter_map(|(pid, name)| Some((pid.as_u64()?, name.as_str()?.to_owned())))
        .filter(|(pid, _)| *pid != 0)
        .collect();
    let texts = |v: &[Value]| {
        v.iter().filter_map(Value::as_str).map(|l| format!("{l}\n")).collect::<String>()
    };
    let crashed = seen.get("crashed").ctx("the crashed thread")?;
    let stack = texts(crashed.get("stack").and_then(Value::as_array).ctx("its stack")?);
    let heap = facts.heap..facts.heap + facts.pages * 4096;
    let areas: Vec<(u64, u64)> = list("vmas")?
        .iter()
        .filter_map(pair)
        .filter_map(|(a, b)| Some((a.as_u64()?, b.as_u64()?)))
        .collect();
    let holds = |(a, b): &(u64, u64)| *a <= heap.start && heap.end <= *b;
    ensure(
        areas.iter().any(holds),
        format_args!("no area of the victim holds its heap {heap:x?}"),
    )?;
    let mut excerpt = vec![format!(
        "{} tasks; crashed: {} (pid {}); the victim has {} memory areas",
        tasks.len(),
        crashed.get("comm").and_then(Value::as_str).unwrap_or("?"),
        crashed.get("pid").and_then(Value::as_u64).unwrap_or(0),
        areas.len()
    )];
    excerpt.extend(stack.lines().take(12).enumerate().map(|(n, l)| format!("#{n:<2} {l}")));
    let log = texts(list("log")?);
    excerpt.extend(log.lines().filter(|l| l.contains("sysrq")).map(str::to_owned));
    excerpt.extend(areas.iter().take(4).map(|(a, b)| format!("area {a:#x} to {b:#x}")));
    Ok(Verdict { tasks, stack, log, excerpt })
}

/// Reads every page of `ranges` through drgn (and its libkdumpfile) and compares
/// it with the copy of RAM; gives (compared, equal).
///
/// # Errors
/// When drgn fails.
pub fn compare_by_drgn(
    vmcore: &Path,
    vmlinux: &Path,
    ram: &Path,
    ranges: &[Range<u64>],
) -> Res<(u64, u64)> {
    let bytes = fs::metadata(ram).ctx(ram.display())?.len();
    let mut command = drgn(vmcore, vmlinux, "compare.py")?;
    command.arg(ram);
    for r in ranges {
        command.arg(format!("{:x}:{:x}:{:x}", r.start, r.end, file_offset(r.start, bytes)));
    }
    let said = run(&mut command)?;
    let mut numbers = said.split_whitespace().filter_map(|n| n.parse().ok());
    Ok((numbers.next().ctx("drgn's count")?, numbers.next().ctx("drgn's count")?))
}

/// What each page is, as drgn says from DWARF: a digit for each pfn from 0 on, see
/// `tests/checkers/worth.py`.
///
/// # Errors
/// When drgn fails.
pub fn classes_by_drgn(vmcore: &Path, vmlinux: &Path, work: &Path) -> Res<Vec<u8>> {
    let map = work.join("classes.map");
    print!("{}", run(drgn(vmcore, vmlinux, "worth.py")?.arg(&map))?);
    fs::read(&map).ctx(map.display())
}

/// All tasks, and the memory maps of `pids`, as drgn sees them with the debug kernel: see
/// `tests/checkers/userland.py`.
///
/// # Errors
/// When drgn fails.
pub fn userland_by_drgn(vmcore: &Path, vmlinux: &Path, pids: &[u32]) -> Res<Value> {
    let mut command = drgn(vmcore, vmlinux, "userland.py")?;
    let said = run(command.args(pids.iter().map(u32::to_string)))?;
    serde_json::from_str(&said).ctx("drgn's answer")
}

/// What crash says when it is to read one page of physical memory.
///
/// # Errors
/// When it does not start.
pub fn read_by_crash(vmcore: &Path, vmlinux: &Path, page: u64, work: &Path) -> Res<String> {
    let script = work.join("read.cmd");
    fs::write(&script, format!("rd -p {page:x} 2 > crash.read\nquit\n")).ctx("read.cmd")?;
    let output = provision::crash()?
        .command()
        .args(["-s", "--no_scroll", "-i"])
        .arg(&script)
        .arg(vmlinux)
        .arg(vmcore)
        .current_dir(work)
        .stdin(Stdio::null())
        .output()
        .ctx("crash")?;
    let read = fs::read_to_string(work.join("crash.read")).ctx("crash.read")?;
    Ok(format!("{read}{}", both(&output)).trim().to_owned())
}

/// What drgn says then.
///
/// # Errors
/// When it does not start.
pub fn read_by_drgn(vmcore: &Path, vmlinux: &Path, page: u64) -> Res<String> {
    let mut command = drgn(vmcore, vmlinux, "read.py")?;
    let output = command.arg(format!("{page:#x}")).stdin(Stdio::null()).output().ctx("drgn")?;
    Ok(both(&output).trim().to_owned())
}

/// What crash 8.0.6 says: `sys`, `bt`, `ps`, `log` and `vm` of the victim.
///
/// # Errors
/// When crash fails or the victim's heap is not in `vm`.
pub fn by_crash(vmcore: &Path, vmlinux: &Path, facts: &Facts, work: &Path) -> Res<Verdict> {
    let template = fs::read_to_string(checker("crash.cmd")).ctx("crash.cmd")?;
    let script = work.join("crash.cmd");
    fs::write(&script, template.replace("@PID@", &facts.pid.to_string())).ctx("crash.cmd")?;
    let output = provision::crash()?
        .command()
        .args(["-s", "--no_scroll", "-i"])
        .arg(&script)
        .arg(vmlinux)
        .arg(vmcore)
        .current_dir(work)
        .stdin(Stdio::null())
        .output()
        .ctx("crash")?;
    ensure(output.status.success(), format_args!("crash failed:\n{}", both(&output)))?;
    let read = |name: &str| {
        let path = work.join(format!("crash.{name}"));
        fs::read(&path).ctx(path.display()).map(|b| String::from_utf8_lossy(&b).into_owned())
    };
    let (sys, stack, log, vm) = (read("sys")?, read("bt")?, read("log")?, read("vm")?);
    ensure(sys.contains("sysrq"), format_args!("`sys` does not name the panic:\n{sys}"))?;
    let heap = facts.heap..facts.heap + facts.pages * 4096;
    let holds = |line: &str| {
        let mut words = line.split_whitespace().skip(1).map(|w| u64::from_str_radix(w, 16));
        matches!((words.next(), words.next()), (Some(Ok(a)), Some(Ok(b)))
            if a <= heap.start && heap.end <= b)
    };
    ensure(vm.lines().any(holds), format_args!("`vm` has no area for {heap:x?}:\n{vm}"))?;
    let ps = read("ps")?;
    let tasks = ps.lines().filter_map(ps_line).collect();
    let ours = |l: &&str| ["PID", "init", "victim", "lb-crasher"].iter().any(|n| l.contains(n));
    let mut excerpt = Vec::new();
    let mut show = |command: &str, lines: Vec<&str>| {
        excerpt.push(format!("crash> {command}"));
        excerpt.extend(lines.into_iter().map(str::to_owned));
    };
    show("sys", sys.lines().collect());
    show("bt", stack.lines().take(12).collect());
    show("ps", ps.lines().filter(ours).collect());
    show("log", log.lines().filter(|l| l.contains("sysrq") || l.contains("Call Trace")).collect());
    show(&format!("vm {}", facts.pid), vm.lines().collect());
    Ok(Verdict { tasks, stack, log, excerpt })
}

/// `> PID PPID CPU TASK ST %MEM VSZ RSS COMM`; kernel threads stand in brackets.
fn ps_line(line: &str) -> Option<Task> {
    let mut words = line.trim_start().trim_start_matches('>').split_whitespace();
    let pid = words.next()?.parse().ok().filter(|p| *p != 0)?;
    let name = words.skip(7).collect::<Vec<_>>().join(" ");
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(&name);
    Some((pid, bare.to_owned()))
}

/// What gdb sees: the threads of the notes, and the kernel's banner by its symbol,
/// moved by the KASLR offset that VMCOREINFO tells.
///
/// # Errors
/// When gdb cannot open the vmcore or the banner is not the victim's.
pub fn by_gdb(vmcore: &Path, vmlinux: &Path, release: &str) -> Res<Vec<String>> {
    let offset = Core::open(vmcore)?.vmcoreinfo("KERNELOFFSET")?;
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-ex", "set pagination off", "-ex"]);
    command.arg(format!("core-file {}", vmcore.display())).arg("-ex");
    command.arg(format!("add-symbol-file {} -o 0x{}", vmlinux.display(), offset.trim()));
    command.args(["-ex", "info threads", "-ex", "x/s linux_banner"]);
    let output = command.stdin(Stdio::null()).output().ctx("gdb")?;
    let said = both(&output);
    let banner = format!("Linux version {release}");
    ensure(said.contains(&banner), format_args!("gdb does not find `{banner}`:\n{said}"))?;
    ensure(said.contains("Thread") || said.contains("LWP"), format_args!("no threads:\n{said}"))?;
    let shown = |l: &&str| l.contains("LWP") || l.contains("Thread") || l.contains("Linux version");
    Ok(said.lines().filter(shown).map(str::to_owned).collect())
}

/// Both judges must name the very same tasks.
///
/// # Errors
/// With the difference.
pub fn same_tasks(a: &Verdict, b: &Verdict) -> Res<usize> {
    let only: Vec<&Task> = a.tasks.symmetric_difference(&b.tasks).collect();
    if only.is_empty() && !a.tasks.is_empty() {
        return Ok(a.tasks.len());
    }
    Err(Failure::check(format_args!("drgn and crash disagree on tasks: {only:?}")))
}

/// Whether a file starts with these bytes.
///
/// # Errors
/// When it cannot be read.
pub fn starts_with(path: &Path, bytes: &[u8]) -> Res<bool> {
    use std::io::Read as _;
    let mut head = Vec::new();
    let file = File::open(path).ctx(path.display())?;
    file.take(bytes.len() as u64).read_to_end(&mut head).ctx(path.display())?;
    Ok(head == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ps_are_read() {
        let line =
            ">     112       1   0  ffff8a2d02a7cc80  RU   0.0     1234       56  lb-crasher";
        assert_eq!(ps_line(line), Some((112, "lb-crasher".to_owned())));
        let thread =
            "       2       0   1  ffff8a2d02a7cc80  IN   0.0        0        0  [kthreadd]";
        assert_eq!(ps_line(thread), Some((2, "kthreadd".to_owned())));
        assert_eq!(ps_line("      PID    PPID  CPU       TASK        ST"), None);
        assert_eq!(ps_line(">       0       0   0  ffff  RU   0.0  0  0  [swapper/0]"), None);
    }
}
