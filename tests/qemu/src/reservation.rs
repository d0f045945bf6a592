//! What a capture takes of its reservation, as PID 1 tells it, and the smallest
//! reservation in which one still works.

use crate::console::Line;
use crate::cycle::{BOOT, Crash, Lab, Plan, host, text};
use crate::error::{Context as _, Res, ensure};

use std::time::Duration;

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
        // What is left out is left to the board, as anywhere but in these tests.
        profile: &[("workers", "2"), ("exclude", "[\"free\", \"offline\", \"hwpoison\"]")],
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

/// Panics a machine of `plan` and waits until it is back; the dump must be complete and
/// every byte of it good.
///
/// # Errors
/// When any of that is not so within `limit`.
pub fn capture(plan: &Plan, limit: Duration) -> Res<Captured> {
    let mut lab = Lab::new(plan)?;
    lab.arm("--dangerously-ignore-size")?;
    let crash = lab.crash()?;
    let back = lab.wait_restart(&crash, limit);
    let lines = lab.init_lines(&crash);
    for line in &lines {
        println!("[{:8.3}] {}", line.at.as_secs_f64(), line.text);
    }
    back?;
    let done = lines.iter().any(|l| l.text.contains("lifeboat: done after"));
    ensure(done, "the crash kernel did not come to its end")?;
    let peak = Peak::of(&lines)?;
    lab.wait_reboot(&crash, BOOT)?;
    lab.power_off()?;
    let key = text(&lab.identity);
    let said = host(&["verify", &lab.volume(), "-i", &key])?.good()?;
    print!("{said}");
    Ok(Captured { lab, crash, peak })
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
}
