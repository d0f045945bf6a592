//! What a capture takes of its reservation, as PID 1 tells it, what the manifest says
//! that it may take, and the smallest reservation in which one still works.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::console::Line;
use crate::cycle::{BOOT, Crash, Lab, Plan, host, text};
use crate::error::{Context as _, Res, ensure};
use crate::paths::image;

/// Memory that a capture took at its highest, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peak {
    /// Of PID 1, resident.
    pub init: u64,
    /// Of the whole crash kernel: what was not available.
    pub machine: u64,
    /// What it had: the reservation without what the kernel takes before it counts.
    pub total: u64,
    /// What PID 1 took for good before the first page.
    pub fixed: u64,
    /// Threads that compress.
    pub workers: u64,
}

impl Peak {
    /// From the lines of PID 1.
    ///
    /// # Errors
    /// When one is missing or reads otherwise.
    pub fn of(lines: &[Line]) -> Res<Self> {
        let find = |mark: &str| {
            let line = lines.iter().rev().find(|l| l.text.contains(mark));
            line.map(|l| numbers(&l.text, mark)).ctx(format_args!("a line with `{mark}`"))
        };
        let peak = find("memory: peak PID ")?;
        let fixed = find("lifeboat: memory: ")
            .and_then(|_| fixed_line(lines).ctx("the line of what is fixed"))?;
        match (&*peak, &*fixed) {
            // The first number is that of "PID 1".
            ([1, init, machine, total], [fixed, workers]) => Ok(Self {
                init: *init,
                machine: *machine,
                total: *total,
                fixed: *fixed,
                workers: *workers,
            }),
            _ => None.ctx(format_args!("the figures in {peak:?} and {fixed:?}")),
        }
    }

    /// Of a reservation of so many MiB, what the kernel had taken before it counted, in KiB.
    #[must_use]
    pub fn uncounted(&self, reservation_mib: u64) -> u64 {
        (reservation_mib << 10).saturating_sub(self.total)
    }
}

impl std::fmt::Display for Peak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PID 1 {} KiB ({} of them fixed, {} workers), machine {} of {} KiB",
            self.init, self.fixed, self.workers, self.machine, self.total
        )
    }
}

/// What the image's manifest says that a capture by so many workers takes at most, in KiB:
/// what PID 1 holds for good, and all of the reservation. `kernel.cpus` of the board counts.
///
/// # Errors
/// When there is no manifest, or it lacks a part.
pub fn stated(workers: u64) -> Res<(u64, u64)> {
    let path = image()?.join("manifest.json");
    let text = fs::read_to_string(&path).ctx(path.display())?;
    let manifest: Value = serde_json::from_str(&text).ctx(path.display())?;
    let needs = manifest.pointer("/reservation/needs").ctx("reservation.needs")?;
    sum(needs, workers)
}

fn sum(needs: &Value, workers: u64) -> Res<(u64, u64)> {
    let part = |name: &str| {
        let kib = needs.get(name).and_then(Value::as_u64);
        kib.ctx(format_args!("reservation.needs.{name}"))
    };
    let worker = workers * part("worker_kib")?;
    let fixed = worker + part("dedup_kib")? + part("buffers_kib")? + part("init_other_kib")?;
    let kernel = part("kernel_kib")? + part("cpus_kib")? + part("initramfs_unpacked_kib")?;
    Ok((fixed, kernel + fixed))
}

/// What a console says when memory does not suffice: the kernel (its last resort, a page,
/// the initramfs), and PID 1 (the C library's words for ENOMEM, Rust's, a thread's stack).
const SHORTAGE: [&str; 6] = [
    "ut of memory",
    "page allocation failure",
    "Initramfs unpacking failed",
    "Cannot allocate memory",
    "memory allocation of ",
    "starting the workers: ",
];

/// The first line that says so.
fn shortage(lines: &[Line]) -> Option<&str> {
    let mut texts = lines.iter().map(|l| l.text.as_str());
    texts.find(|text| SHORTAGE.iter().any(|mark| text.contains(mark)))
}

fn fixed_line(lines: &[Line]) -> Option<Vec<u64>> {
    let line = lines.iter().find(|l| l.text.contains(" KiB fixed for "))?;
    Some(numbers(&line.text, "memory: "))
}

/// The numbers of a line from `mark` on.
fn numbers(line: &str, mark: &str) -> Vec<u64> {
    let (_, rest) = line.split_once(mark).unwrap_or_default();
    rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// Where a search begins, in MiB: what surely fails, since not even the kernel fits, and
/// what must work.
pub const SEARCH: (u64, u64) = (20, 48);

/// A machine of `memory_mib` MiB, only touched pages of which count for the host, with a
/// reservation of 48 MiB and two workers in it.
#[must_use]
pub fn plan(name: &'static str, memory_mib: u64) -> Plan {
    Plan {
        memory_mib,
        sparse: true,
        // One more than the workers: the boot CPU stays out of a crash kernel.
        cpus: 3,
        crashkernel: format!("{}M", SEARCH.1),
        profile: &[("workers", "2")],
        whole: false,
        ..Plan::named(name)
    }
}

/// What came of a capture.
#[derive(Debug)]
pub struct Captured {
    /// The machine behind it, booted again.
    pub lab: Lab,
    /// The crash.
    pub crash: Crash,
    /// What it took.
    pub peak: Peak,
}

/// Panics a machine of `plan`, armed with `more` arguments, and waits until it is back; the
/// dump must be complete, made by two workers, and every byte of it good. The inner error is
/// the console line which says that the reservation is too small.
///
/// # Errors
/// When the capture fails within `limit` for another reason, or the machine does.
pub fn capture(plan: &Plan, more: &str, limit: Duration) -> Res<Result<Captured, String>> {
    let mut lab = Lab::new(plan)?;
    lab.arm(more)?;
    let crash = lab.crash()?;
    let back = lab.wait_restart(&crash, limit);
    let lines = lab.init_lines(&crash);
    for line in &lines {
        println!("[{:8.3}] {}", line.at.as_secs_f64(), line.text);
    }
    let done = lines.iter().any(|l| l.text.contains("lifeboat: done after"));
    let console = lab.machine.console.since(crash.console);
    if let Some(line) = shortage(&console).filter(|_| !done) {
        return Ok(Err(line.to_owned()));
    }
    back?;
    ensure(done, "the crash kernel did not come to its end")?;
    let peak = Peak::of(&lines)?;
    ensure(peak.workers == 2, format_args!("not two workers: {peak}"))?;
    lab.wait_reboot(&crash, BOOT)?;
    lab.power_off()?;
    let key = text(&lab.identity);
    let said = host(&["verify", &lab.volume(), "-i", &key])?.good()?;
    print!("{said}");
    Ok(Ok(Captured { lab, crash, peak }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

    use super::*;

    #[test]
    fn the_peak_is_read_from_the_console() {
        let line = |text: &str| Line { at: Duration::ZERO, text: text.to_owned() };
        let mut lines = vec![
            line("lifeboat: memory: 9012 KiB fixed for 2 workers"),
            line("lifeboat: memory, kernel pages: complete: 7 with data"),
            line("lifeboat: memory: peak PID 1 6012 KiB, machine 21000 of 50000 KiB"),
        ];
        let peak = Peak::of(&lines).unwrap();
        let want = Peak { init: 6012, machine: 21000, total: 50000, fixed: 9012, workers: 2 };
        assert_eq!(peak, want);
        assert_eq!(peak.uncounted(64), 65536 - 50000);
        lines.pop();
        assert!(Peak::of(&lines).is_err());
    }

    #[test]
    fn the_manifest_is_summed_part_by_part() {
        let needs = serde_json::json!({
            "kernel_kib": 1000, "cpus_kib": 300, "initramfs_unpacked_kib": 50, "workers": 3,
            "worker_kib": 7, "dedup_kib": 4, "buffers_kib": 5, "init_other_kib": 6,
        });
        assert_eq!(sum(&needs, 2).unwrap(), (29, 1379));
        assert!(sum(&serde_json::json!({ "worker_kib": 7 }), 2).is_err());
    }

    #[test]
    fn only_what_the_console_says_is_a_shortage() {
        let line = |text: &str| Line { at: Duration::ZERO, text: text.to_owned() };
        let mut lines = vec![line("lifeboat: FAILED in phase devices: no target appeared")];
        assert_eq!(shortage(&lines), None);
        let panic = "Kernel panic - not syncing: Out of memory: compulsory panic_on_oom";
        lines.push(line(panic));
        assert_eq!(shortage(&lines), Some(panic));
    }
}
