//! One run of one program: wall time, CPU time, peak resident memory, output size.
//!
//! A program is started by a small process of its own, which asks the kernel for the
//! usage of its children (getrusage(2), `RUSAGE_CHILDREN`): it has only that one. The
//! peak that the kernel tells for a child is never below what the starter itself
//! holds, some 3 MiB.
//!
//! Before each run the page cache is emptied: on a machine whose memory is full of cache a
//! write to tmpfs has to free a page first and was three times slower (measured), for
//! whoever came first. Then memory is touched and given back: a virtual machine's host may
//! have taken what was free, and a write to a page that it has to find again took three
//! times as long (2.6 s and 0.9 s for 2 GiB), in some runs and not in others. And each run
//! is followed by as much rest as it took, up to [`REST`]: two CPUs of a shared machine that
//! had worked without a pause took 7.0 s for what they did in 5.8 s after 8 s of rest
//! (medians of 4 and 3), so whoever came behind a run of two threads was slower.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use lifeboat_qemu::error::{Context as _, Failure, Res, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::shm::available;

/// Bytes that are touched before a contender's first run: no output is larger.
const TOUCHED: u64 = 4 << 30;
const PAGE: usize = 4096;
/// Most rest between two runs.
const REST: Duration = Duration::from_secs(8);

/// The word that makes this program the starter.
pub(crate) const STARTER: &str = "measured";

/// What one run took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run {
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of CPU, user and system.
    pub cpu: f64,
    /// Most memory that was resident, in bytes; 0: not measured.
    pub peak: u64,
    /// Size of the output file, in bytes.
    pub out: u64,
    /// What it printed.
    pub said: String,
}

/// A program with its arguments and the file that it writes.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    /// The program, and arguments.
    pub command: Vec<OsString>,
    /// Its output.
    pub output: PathBuf,
}

impl Task {
    /// A program that writes `output`.
    #[must_use]
    pub(crate) fn new(program: impl AsRef<OsStr>, output: &Path) -> Self {
        Self { command: vec![program.as_ref().to_owned()], output: output.to_path_buf() }
    }

    /// Adds arguments.
    #[must_use]
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Runs it; the output stays.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub(crate) fn keep(&self) -> Res<Run> {
        let _ = fs::remove_file(&self.output);
        let report = self.output.with_extension("usage");
        let me = std::env::current_exe().ctx("this program's own path")?;
        let name = format!("{:?}", self.command);
        warm(&self.command);
        let output = Command::new(me)
            .arg(STARTER)
            .arg(&report)
            .args(&self.command)
            .stdin(Stdio::null())
            .output()
            .ctx(&name)?;
        let said = lifeboat_qemu::error::both(&output);
        ensure(output.status.success(), format_args!("{name}: {}\n{said}", output.status))?;
        let text = fs::read_to_string(&report).ctx(report.display())?;
        let _ = fs::remove_file(&report);
        let mut numbers = text.split_whitespace();
        let mut next = || numbers.next().ctx("the starter's report");
        let seconds = |text: &str| text.parse::<f64>().ok().ctx("seconds");
        let (wall, cpu) = (seconds(next()?)?, seconds(next()?)?);
        let kib: u64 = next()?.parse().ok().ctx("the peak")?;
        let out = fs::metadata(&self.output).map_or(0, |m| m.len());
        Ok(Run { wall, cpu, peak: kib << 10, out, said })
    }

    /// Runs it and removes the output.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub(crate) fn run(&self) -> Res<Run> {
        let run = self.keep();
        let _ = fs::remove_file(&self.output);
        run
    }
}

/// The starter: runs `args` (after the report's path) and writes the report. Gives
/// the exit code to end with.
///
/// # Errors
/// When the program cannot be started or the report not be written.
pub(crate) fn starter(args: &[OsString]) -> Res<i32> {
    let (report, rest) = args.split_first().ctx("the report's path")?;
    let (program, arguments) = rest.split_first().ctx("a program")?;
    let start = Instant::now();
    let status = Command::new(program).args(arguments).status().ctx("the program")?;
    let wall = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)
        .map_err(|e| Failure::check(format_args!("getrusage: {e}")))?;
    let cpu = (usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
        as f64
        / 1e6;
    let mut text = String::new();
    let _ = write!(text, "{wall:.6} {cpu:.6} {}", usage.max_rss());
    fs::write(report, text).ctx("the report")?;
    if let Some(signal) = status.signal() {
        eprintln!("the program was killed by signal {signal}");
    }
    Ok(status.code().unwrap_or(1))
}

/// All runs of one contender.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series {
    /// Its name in the table.
    pub name: String,
    /// Its runs, in order.
    pub runs: Vec<Run>,
}

impl Series {
    /// The median of the wall times, in seconds.
    #[must_use]
    pub(crate) fn wall(&self) -> f64 {
        median(self.runs.iter().map(|r| r.wall))
    }

    /// How many times as fast as `base` this is: the median of the rounds' ratios. Within a
    /// round the two run close together, so a machine that others slow down for minutes
    /// does so for both.
    #[must_use]
    pub(crate) fn speed_to(&self, base: &Self) -> f64 {
        let rounds = self.runs.iter().zip(&base.runs);
        median(rounds.map(|(own, base)| base.wall / own.wall.max(1e-9)))
    }

    /// The median of the CPU times, in seconds.
    #[must_use]
    pub(crate) fn cpu(&self) -> f64 {
        median(self.runs.iter().map(|r| r.cpu))
    }

    /// The median size of the output, in bytes.
    #[must_use]
    pub(crate) fn out(&self) -> f64 {
        median(self.runs.iter().map(|r| r.out as f64))
    }

    /// The largest peak, in bytes.
    #[must_use]
    pub(crate) fn peak(&self) -> u64 {
        self.runs.iter().map(|r| r.peak).max().unwrap_or(0)
    }

    /// Shortest and longest wall time, in seconds.
    #[must_use]
    pub(crate) fn span(&self) -> (f64, f64) {
        let walls = || self.runs.iter().map(|r| r.wall);
        (walls().fold(f64::INFINITY, f64::min), walls().fold(0.0, f64::max))
    }
}

/// The middle of a list; the mean of two middles. 0 for an empty one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    let at = |n: usize| all.get(n).copied().unwrap_or(0.0);
    let half = all.len() / 2;
    if all.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.wrapping_sub(1)), at(half)) }
}

/// How one contender makes one run.
pub(crate) type Go<'a> = Box<dyn FnMut() -> Res<Run> + 'a>;

/// Runs all contenders in turn, `rounds` times, so that a machine that grows slower
/// does so for all; each begins with an empty page cache and memory that is there.
///
/// # Errors
/// At the first run that fails.
pub(crate) fn compete(rounds: u32, contenders: Vec<(String, Go<'_>)>) -> Res<Vec<Series>> {
    in_turn(rounds, contenders, |last| {
        empty_page_cache();
        touch_memory(last.map_or(TOUCHED, |run| run.out));
    })
}

/// [`compete`], with what is done `before` each run, which gets the contender's last one.
fn in_turn(
    rounds: u32,
    contenders: Vec<(String, Go<'_>)>,
    before: impl Fn(Option<&Run>),
) -> Res<Vec<Series>> {
    let mut contenders = contenders;
    let mut all: Vec<Series> = contenders
        .iter()
        .map(|(name, _)| Series { name: name.clone(), runs: Vec::new() })
        .collect();
    for round in 1..=rounds {
        for ((name, go), series) in contenders.iter_mut().zip(&mut all) {
            progress(&format!("round {round}/{rounds}: {name}"));
            before(series.runs.last());
            let start = Instant::now();
            series.runs.push(go()?);
            thread::sleep(start.elapsed().min(REST));
        }
    }
    progress("");
    Ok(all)
}

/// Writes dirty pages out and drops the page cache; what lies in tmpfs stays.
fn empty_page_cache() {
    static TOLD: Once = Once::new();
    rustix::fs::sync();
    if let Err(why) = fs::write("/proc/sys/vm/drop_caches", "1") {
        TOLD.call_once(|| {
            println!("NOTE: the page cache is not emptied before runs, which needs root: {why}");
        });
    }
}

/// Takes `bytes` of memory, as an output will need, and gives them back.
fn touch_memory(bytes: u64) {
    let Some(len) = usize::try_from(bytes).ok().filter(|_| available() / 2 > bytes) else {
        return;
    };
    let mut memory = vec![0u8; len];
    memory.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    black_box(memory);
}

/// Reads the program that a command starts and its libraries once, so that no run waits
/// for the disk that they lie on.
fn warm(command: &[OsString]) {
    /// Bytes: larger files are inputs.
    const LARGEST: u64 = 64 << 20;
    for word in command.iter().map(Path::new).filter(|w| w.is_absolute()) {
        let files = fs::read_dir(word).map_or_else(
            |_| vec![word.to_path_buf()],
            |dir| dir.filter_map(Result::ok).map(|e| e.path()).collect(),
        );
        for file in files {
            if fs::metadata(&file).is_ok_and(|m| m.is_file() && m.len() <= LARGEST) {
                let _ = fs::read(&file);
            }
        }
    }
}

/// Tells a person at a terminal what runs now.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}

/// A contender that runs a program and removes its output.
#[must_use]
pub(crate) fn program<'a>(name: impl Into<String>, task: Task) -> (String, Go<'a>) {
    (name.into(), Box::new(move || task.run()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
        assert!(median(std::iter::empty()).abs() < 1e-9);
    }

    #[test]
    fn a_slow_round_slows_both_and_leaves_the_ratio() {
        let walls = |walls: [f64; 3]| Series {
            runs: walls.map(|wall| Run { wall, ..Run::default() }).to_vec(),
            ..Series::default()
        };
        let (own, base) = (walls([1.0, 4.0, 2.0]), walls([2.0, 8.0, 4.0]));
        assert!((own.speed_to(&base) - 2.0).abs() < 1e-9);
        assert!((base.speed_to(&own) - 0.5).abs() < 1e-9);
        assert!(Series::default().speed_to(&base).abs() < 1e-9);
    }

    #[test]
    fn contenders_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let turn = |letter: char| -> (String, Go<'_>) {
            let order = &order;
            let go = move || {
                order.borrow_mut().push(letter);
                Ok(Run::default())
            };
            (letter.to_string(), Box::new(go))
        };
        let before = |last: Option<&Run>| {
            order.borrow_mut().push(if last.is_some() { ',' } else { '.' });
        };
        let all = in_turn(2, vec![turn('a'), turn('b')], before).unwrap();
        assert_eq!(*order.borrow(), ".a.b,a,b");
        assert_eq!(all[1].runs.len(), 2);
    }
}
