//! Questions to the dead machine: from a dump to its kernel, and what they share.

pub(crate) mod core;
pub(crate) mod extract;
pub(crate) mod libs;
pub(crate) mod maps;
pub(crate) mod ps;

use lifeboat_field::machine::DumpMachine;
use lifeboat_inquest::kernel::Aids;
use lifeboat_inquest::mm::SwapIn;
use lifeboat_inquest::swapped::Swapped;
use lifeboat_inquest::tasks::{self, Process};
use lifeboat_inquest::walk::Found;
use lifeboat_inquest::{Hole, Kernel};

use crate::cli::inquest::Question;
use crate::ui::{Context as _, Ended, Failure, Outcome, safe, warn};

/// Most bytes of a BTF file.
const MAX_BTF: u64 = 64 << 20;

/// The files about the dead kernel that the user named.
fn aids(asked: &dyn Question) -> Result<Aids, Failure> {
    let mut aids = match asked.vmlinux() {
        Some(path) => {
            let mut file = std::fs::File::open(path).context(path.display())?;
            Aids::of_vmlinux(&mut file).context(path.display())?
        }
        None => Aids::none(),
    };
    if let Some(path) = asked.btf() {
        let len = std::fs::metadata(path).context(path.display())?.len();
        if len > MAX_BTF {
            return Err(Failure::new(format!("{}: too long for BTF", path.display()))
                .hint("it is the file /sys/kernel/btf/vmlinux of a machine that runs it"));
        }
        aids.btf = Some(std::fs::read(path).context(path.display())?);
    }
    Ok(aids)
}

/// Opens the dump, gets to know its kernel, and asks.
pub(crate) fn ask(asked: &dyn Question, question: impl FnOnce(&Kernel<'_>) -> Ended) -> Ended {
    let aids = aids(asked)?;
    let source = asked.source();
    let dump = source.unlock(asked.keys())?;
    let notes = dump.notes().context(source.dev)?;
    let machine = DumpMachine::new(&dump);
    let kernel = Kernel::open_with(&machine, &notes, &aids).context(source.dev)?;
    question(&kernel)
}

/// All processes; what is damaged is told on stderr.
pub(crate) fn processes(kernel: &Kernel<'_>) -> Result<(Vec<Process>, Vec<String>), Failure> {
    let found = tasks::tasks(kernel);
    let mut damage = kernel.damage();
    damage.iter().for_each(warn);
    damage.extend(told("tasks", &found));
    if found.items.is_empty() {
        let first = damage.last().cloned().unwrap_or_default();
        return Err(Failure::new(format!("no task can be found: {first}"))
            .hint("the dump lacks the kernel's memory; `lifeboat verify` says what is missing"));
    }
    // Command lines may be swapped out; where nothing is known of swap, they tell so.
    let swapped = Swapped::open(kernel).ok();
    let swap = swapped.as_ref().map(|swapped| -> &dyn SwapIn { swapped });
    let processes = tasks::processes(kernel, &found.items, swap).plain()?;
    Ok((processes, damage))
}

/// The process that a number means: its own, or that of one of its threads.
pub(crate) fn process(processes: &[Process], pid: u32) -> Result<&Process, Failure> {
    let has = |p: &&Process| p.leader.tgid == pid || p.threads.iter().any(|t| t.pid == pid);
    processes.iter().find(has).ok_or_else(|| {
        Failure::new(format!("the dead machine had no process {pid}"))
            .hint("`lifeboat ps` lists those it had")
    })
}

/// What was wrong with a walk, in words; told on stderr too.
pub(crate) fn told<T>(what: &str, found: &Found<T>) -> Vec<String> {
    let words = |d: &_| safe(format!("{what}: {d}").lines().next().unwrap_or_default());
    let all: Vec<String> = found.damage.iter().map(words).collect();
    for words in &all {
        warn(words);
    }
    all
}

/// 3 where something was damaged, so that a script does not take it for all there was.
pub(crate) fn outcome(damage: &[String]) -> Outcome {
    if damage.is_empty() { Outcome::Good } else { Outcome::Partial }
}

/// A number, or nothing for what cannot be had.
pub(crate) fn json_number<T: Into<u64> + Copy>(value: Result<T, Hole>) -> serde_json::Value {
    value.map_or(serde_json::Value::Null, |n| n.into().into())
}

/// A number, or `?`.
pub(crate) fn text_number<T: ToString>(value: Result<T, Hole>) -> String {
    value.map_or_else(|_| "?".to_owned(), |n| n.to_string())
}
