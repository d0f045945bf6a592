//! `lifeboat ps`: the dead machine's processes, as ps(1) would have shown them.

use std::fmt::Write as _;

use lifeboat_format::PAGE;
use lifeboat_inquest::tasks::{Process, Task};
use serde_json::{Value, json};

use super::{json_number, text_number};
use crate::cli::inquest::Ps;
use crate::ui::{Ended, put, safe};

/// KiB of a page.
const PAGE_KIB: u64 = PAGE as u64 / 1024;

/// Lists them. Exit code 3 when something was damaged.
pub(crate) fn run(args: &Ps) -> Ended {
    super::ask(args, |kernel| {
        let (processes, damage) = super::processes(kernel)?;
        if args.json {
            let all: Vec<Value> = processes.iter().map(json).collect();
            crate::cmd::print_json(&json!({ "processes": all, "damage": damage }))?;
        } else {
            put(table(&processes, args.threads));
        }
        Ok(super::outcome(&damage))
    })
}

fn json(p: &Process) -> Value {
    let pages = p.pages.as_ref().and_then(|pages| pages.as_ref().ok());
    json!({
        "pid": p.leader.tgid,
        "ppid": json_number(p.ppid),
        "uid": json_number(p.uid),
        "euid": json_number(p.euid),
        "state": p.leader.state.to_string(),
        "cpu": p.leader.cpu,
        "running": p.leader.on_cpu,
        "kernel": p.leader.kernel,
        "comm": p.leader.comm,
        "start_ns": json_number(p.start_ns),
        "task": p.leader.addr,
        "mm": p.mm,
        "pages": pages.map(|n| json!({
            "anon": n.anon, "file": n.file, "shmem": n.shmem, "swap": n.swap,
            "resident": n.resident(),
        })),
        "args": p.command.as_ref().map(|c| &c.args),
        "args_lost": p.command.as_ref().and_then(|c| c.lost).map(|why| why.to_string()),
        "threads": p.threads.iter().map(thread).collect::<Vec<_>>(),
    })
}

fn thread(task: &Task) -> Value {
    json!({
        "tid": task.pid,
        "comm": task.comm,
        "state": task.state.to_string(),
        "cpu": task.cpu,
        "running": task.on_cpu,
        "task": task.addr,
    })
}

fn table(processes: &[Process], threads: bool) -> String {
    let mut out = String::new();
    let tid = if threads { format!("{:>7} ", "TID") } else { String::new() };
    let _ = writeln!(
        out,
        "{:>7} {tid}{:>7} S {:>3} {:>6} {:>9} {:>9} {:>10} COMMAND",
        "PID", "PPID", "CPU", "UID", "RSS-KIB", "SWAP-KIB", "START-S"
    );
    for p in processes {
        let all = if threads { p.threads.as_slice() } else { std::slice::from_ref(&p.leader) };
        for task in all {
            let _ = writeln!(out, "{}", line(p, task, threads));
        }
    }
    out
}

fn line(p: &Process, task: &Task, threads: bool) -> String {
    let kib = |pages: Result<u64, _>| text_number(pages.map(|n: u64| n.saturating_mul(PAGE_KIB)));
    let (resident, swap) = match &p.pages {
        Some(pages) => (kib(pages.map(|n| n.resident())), kib(pages.map(|n| n.swap))),
        None => ("0".to_owned(), "0".to_owned()),
    };
    let tid = if threads { format!("{:>7} ", task.pid) } else { String::new() };
    // Hundredths of a second since the machine was booted.
    let start = p.start_ns.map(|ns| format!("{}.{:02}", ns / 1_000_000_000, ns / 10_000_000 % 100));
    format!(
        "{:>7} {tid}{:>7} {} {:>3} {:>6} {resident:>9} {swap:>9} {:>10} {}",
        p.leader.tgid,
        text_number(p.ppid),
        task.state,
        task.cpu,
        text_number(p.euid),
        text_number(start),
        safe(&command(p, task)),
    )
}

/// The command line; the name in brackets for what has none, as ps(1) puts it.
fn command(p: &Process, task: &Task) -> String {
    let name = &task.comm;
    match &p.command {
        _ if !task.is_leader() => format!("[{name}]"),
        Some(c) if !c.args.is_empty() => c.to_string(),
        Some(c) => match c.lost {
            Some(why) => format!("[{name}] <{why}>"),
            None => format!("[{name}]"),
        },
        None if task.state == 'Z' => format!("[{name}] <defunct>"),
        None => format!("[{name}]"),
    }
}
