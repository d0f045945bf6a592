//! Processes out of an encrypted dump: the list of all, and cores of the largest ones.
//!
//! No peer does this from a dump alone; so the rows stand beside an export of the whole
//! memory, which is what other tools need first.

use lifeboat_qemu::error::{Context as _, Res, ensure};
use lifeboat_qemu::paths::Scrap;
use serde_json::Value;

use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{compete, program};
use crate::ours::Mode;
use crate::table;

/// Cores of so many processes.
const CORES: usize = 5;
/// A core of fewer bytes says nothing of a rate.
const LEAST: f64 = 100e6;

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Few)?;
    let dump = lab.work.path.join("dump");
    let _scrap = Scrap(dump.clone());
    lab.ours.capture(&Mode::of("zstd", Some(1)).dedup(), &path, &dump).keep()?;
    let out = lab.out();
    let list = lab.ours.ask("ps", &dump, &out).args(["--json"]);
    let largest = largest(&list.run()?.said)?;
    let export = "export elf, identical pages once";
    let mut contenders =
        vec![program("ps", list), program(export, lab.ours.export("elf", &dump, &out))];
    let mut cores = Vec::new();
    for (pid, comm) in &largest {
        let task = lab.ours.ask("core", &dump, &out).args(["--force", "--pid", pid, "-o"]);
        let name = format!("core of {comm} ({pid})");
        contenders.push(program(name.clone(), task.args([&out])));
        cores.push(name);
    }
    let all = compete(lab.rounds, contenders)?;
    table::title("processes from the dump (zstd 1, identical pages once)");
    println!("(GB/s counts all pages of the dump, asked for or not)");
    table::runs(&all, input.data(), &[("export", named(&all, export)?)]);
    println!();
    table::at_most("ps, seconds", named(&all, "ps")?.wall(), 2.0);
    let mut judged = 0;
    for name in &cores {
        let core = named(&all, name)?;
        if core.out() >= LEAST {
            judged += 1;
            table::at_least(&format!("{name}, MB/s"), core.out() / 1e6 / core.wall(), 200.0);
        }
    }
    ensure(judged > 0, "no process has a core that is large enough to be judged")
}

/// The processes with most memory: number and name.
fn largest(json: &str) -> Res<Vec<(String, String)>> {
    let list: Value = serde_json::from_str(json).ctx("ps --json")?;
    let mut all = Vec::new();
    for process in list.get("processes").and_then(Value::as_array).ctx("`processes`")? {
        let number = |at: &str| process.pointer(at).and_then(Value::as_u64);
        let (pid, rss) = (number("/pid").ctx("`pid`")?, number("/pages/resident").unwrap_or(0));
        let comm = process.get("comm").and_then(Value::as_str).unwrap_or("?");
        all.push((rss, pid.to_string(), comm.to_owned()));
    }
    all.sort_by(|a, b| b.cmp(a));
    Ok(all.into_iter().take(CORES).map(|(_, pid, comm)| (pid, comm)).collect())
}
