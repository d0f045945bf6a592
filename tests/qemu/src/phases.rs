//! How long each phase took from the panic to the reboot, by the host's clock: every
//! phase of PID 1 ends with a console line, which is stamped when it arrives.
//!
//! It measures and prints; what is too long is for who looks at the table.

use std::fmt::Write as _;
use std::time::Duration;

use crate::console::Line;
use crate::cycle::{Crash, Lab};

/// A phase and how long it took.
#[derive(Debug, Clone)]
pub struct Phase {
    /// What happened in it.
    pub name: String,
    /// How long.
    pub took: Duration,
}

/// Phases by what the line says that ends them, in their order. Layers of memory and swap
/// have a line each, and come where the fixed ones leave room.
const ENDS: [(&str, &str); 9] = [
    ("the crash kernel, to PID 1", "lifeboat: Lifeboat "),
    ("PID 1: mounts, configuration", "lifeboat: mounts: "),
    ("devices", "lifeboat: devices: "),
    ("sources", " swap devices with "),
    ("guard", "lifeboat: guard: "),
    ("head", "lifeboat: head: "),
    ("workers", " KiB fixed for "),
    ("commit", "lifeboat: commit: "),
    ("reboot", "Restarting system"),
];

/// The phases between a panic and the reboot. The first starts at the order to panic; the
/// machine stood still for `paused` behind the crash kernel's first line.
fn of(lines: &[Line], crash: &Crash, paused: Duration) -> Vec<Phase> {
    let mut all = vec![Phase {
        name: "the dead kernel, to the crash kernel's first line".to_owned(),
        took: crash.first.saturating_sub(crash.panicked),
    }];
    let mut last = crash.first + paused;
    let mut ends = ENDS.iter().peekable();
    for line in lines {
        let layer = layer(&line.text);
        // A line may be missing: the ones behind it count all the same.
        let fixed = ends.clone().position(|(_, end)| line.text.contains(end));
        let name = match (layer, fixed) {
            (Some(layer), _) => layer.to_owned(),
            (None, Some(at)) => {
                ends.nth(at).map(|(name, _)| (*name).to_owned()).unwrap_or_default()
            }
            (None, None) => continue,
        };
        all.push(Phase { name, took: line.at.saturating_sub(last) });
        last = line.at;
    }
    all
}

/// `memory, kernel pages` of the line that ends a layer.
fn layer(text: &str) -> Option<&str> {
    let (_, said) = text.split_once("lifeboat: ")?;
    let (name, rest) = said.split_once(':')?;
    (name.ends_with(" pages") && rest.contains(" with data")).then_some(name)
}

/// The phases of a run that came back.
#[must_use]
pub fn of_lab(lab: &Lab, crash: &Crash, paused: Duration) -> Vec<Phase> {
    of(&lab.machine.console.since(crash.console), crash, paused)
}

/// The table for people, with the sum.
#[must_use]
pub fn table(phases: &[Phase]) -> String {
    let mut out = format!("{:<52} {:>9}\n", "from panic to reboot (QEMU without KVM)", "seconds");
    let mut line = |name: &str, took: Duration| {
        let _ = writeln!(out, "{name:<52} {:>9.3}", took.as_secs_f64());
    };
    for phase in phases {
        line(&phase.name, phase.took);
    }
    line("all of it", phases.iter().map(|p| p.took).sum());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

    use super::*;

    fn line(ms: u64, text: &str) -> Line {
        Line { at: Duration::from_millis(ms), text: text.to_owned() }
    }

    #[test]
    fn every_phase_ends_with_its_line() {
        let lines = [
            line(1000, "[    0.0] Linux version 6.12 lifeboat"),
            line(3500, "lifeboat: Lifeboat 0.1.0 in the crash kernel"),
            line(3520, "lifeboat: mounts: board x"),
            line(3700, "lifeboat: devices: 5 block devices"),
            line(4000, "lifeboat: memory, kernel pages: complete: 5 with data, 0 zero"),
            line(4100, "lifeboat: memory: peak PID 1 6012 KiB"),
            line(4300, "lifeboat: commit: dump 1 on /dev/vda1 is complete"),
            line(4400, "[    9.0] reboot: Restarting system"),
        ];
        let ms = Duration::from_millis;
        let crash = Crash { console: 0, control: 0, panicked: ms(900), first: ms(1000) };
        let all = of(&lines, &crash, ms(2000));
        let told: Vec<(&str, u64)> = all
            .iter()
            .map(|p| (p.name.as_str(), u64::try_from(p.took.as_millis()).unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                ("the dead kernel, to the crash kernel's first line", 100),
                ("the crash kernel, to PID 1", 500),
                ("PID 1: mounts, configuration", 20),
                ("devices", 180),
                ("memory, kernel pages", 300),
                ("commit", 300),
                ("reboot", 100),
            ]
        );
        assert!(table(&all).contains("all of it"), "{}", table(&all));
        assert!(table(&all).trim_end().ends_with("1.500"), "{}", table(&all));
    }
}
