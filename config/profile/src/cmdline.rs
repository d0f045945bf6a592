//! Words of the crash kernel's command line that would undo us.

use crate::defect::Defect;
use crate::source::Tree;

/// What the kernel takes (2048), less what kexec and arming add.
const MAX_LEN: usize = 1800;

/// A parameter that has no place in a profile: name, disaster, way out.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    (
        "crashkernel",
        "a crash kernel that reserves memory again has none left to run in",
        "set reservation.crashkernel_mib; the production kernel's command line takes it from there",
    ),
    ("root", "there is no root file system: PID 1 lives in the initramfs", "remove it"),
    ("rootfstype", "there is no root file system: PID 1 lives in the initramfs", "remove it"),
    ("init", "PID 1 is /init of the initramfs", "remove it"),
    ("rdinit", "another PID 1 would not capture anything", "remove it"),
    ("noinitrd", "the initramfs is the capturer: without it nothing is captured", "remove it"),
    ("initrd", "the initramfs is handed over by kexec", "remove it"),
    (
        "elfcorehdr",
        "it is an address that kexec chooses; a wrong one loses the memory map",
        "remove it",
    ),
    (
        "memmap",
        "it is made by kexec; a wrong one lets the crash kernel overwrite what it should save",
        "remove it",
    ),
    ("mem", "the crash kernel's memory is its reservation", "set reservation.crashkernel_mib"),
    ("disable_cpu_apicid", "it names a CPU of one host, and is wrong on the next", "remove it"),
    ("nr_cpus", "it would contradict kernel.cpus", "set kernel.cpus"),
    ("maxcpus", "it would contradict kernel.cpus", "set kernel.cpus"),
    ("nosmp", "it would contradict kernel.cpus", "set kernel.cpus = 1"),
    ("console", "it would contradict [console]", "set console.devices"),
    ("loglevel", "it would contradict [console]", "set console.loglevel"),
    (
        "quiet",
        "it would hide the one line per phase that tells why a capture failed",
        "set console.loglevel",
    ),
    ("resume", "resuming from the swap device would overwrite what is to be captured", "remove it"),
];

/// Checks the words of `kernel.cmdline` and `kernel.cmdline_append`, given as key path and word.
pub(crate) fn check(tree: &Tree, words: &[(String, String)], deadline_s: u32) -> Vec<Defect> {
    let mut out = Vec::new();
    let mut panics = 0;
    for (n, (key, word)) in words.iter().enumerate() {
        let bad = |message: &str, hint: &str| tree.defect(key, message, hint);
        let plain = word.bytes().all(|b| b.is_ascii_graphic());
        if !plain || word.is_empty() || word.contains('"') || word.contains('\'') {
            out.push(bad(
                "a command line word has a space, a quote or no printable character in it; the kernel would split it elsewhere",
                "one item a word: cmdline = [\"irqpoll\", \"panic=10\"]",
            ));
            continue;
        }
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if let Some((_, disaster, way_out)) = FORBIDDEN.iter().find(|(f, _, _)| *f == name) {
            out.push(bad(&format!("`{name}` has no place here: {disaster}"), way_out));
        }
        if name == "panic" {
            panics += 1;
            out.extend(
                panic_value(value, deadline_s)
                    .map(|why| bad(&why, "panic=10 waits ten seconds and restarts the machine")),
            );
        }
        let before = words.get(..n).unwrap_or_default();
        if before.iter().any(|(_, w)| w.split_once('=').map_or(&**w, |(k, _)| k) == name) {
            out.push(bad(
                &format!("`{name}` is given twice; which one wins depends on the kernel"),
                "keep one of them",
            ));
        }
    }
    if panics == 0 && !words.is_empty() {
        out.push(tree.defect(
            "kernel.cmdline",
            "no `panic=` on the command line: if the crash kernel itself panics, the machine stays down for ever",
            "add \"panic=10\"",
        ));
    }
    let length: usize = words.iter().map(|(_, w)| w.len() + 1).sum();
    if length > MAX_LEN {
        out.push(tree.defect(
            "kernel.cmdline",
            format!("the command line has {length} characters; the kernel would cut it, and with it the address of the crashed machine's memory map"),
            "at most 1800 characters",
        ));
    }
    out
}

fn panic_value(value: &str, deadline_s: u32) -> Option<String> {
    match value.parse::<i64>() {
        Ok(0) => Some(
            "`panic=0` waits for ever: if the crash kernel itself panics, the machine stays down"
                .to_owned(),
        ),
        Ok(n) if n > i64::from(deadline_s) => {
            Some(format!("`panic={n}` waits longer than after.deadline_s = {deadline_s}"))
        }
        Ok(_) => None,
        Err(_) => Some(format!("`panic={value}` is not a number of seconds")),
    }
}
