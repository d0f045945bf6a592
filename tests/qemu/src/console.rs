//! What comes out of a machine, line by line, stamped with the host's clock:
//! a crash kernel's own clock may be wrong under emulation.

use std::io::{Read, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Failure, Res};

/// A line and when its end arrived, since the machine was started.
#[derive(Debug, Clone)]
pub struct Line {
    /// When.
    pub at: Duration,
    /// What, without the line's end.
    pub text: String,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    ended: bool,
}

/// All lines so far; a thread adds to them.
#[derive(Debug, Clone)]
pub struct Console {
    name: &'static str,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Console {
    /// Reads `from` until it ends, keeps the lines, and writes them to `log` too.
    pub fn follow(
        name: &'static str,
        start: Instant,
        mut from: impl Read + Send + 'static,
        mut log: std::fs::File,
    ) -> Self {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            let mut partial = Vec::new();
            let mut buf = [0u8; 4096];
            while let Ok(n) = from.read(&mut buf) {
                if n == 0 {
                    break;
                }
                for &byte in buf.get(..n).unwrap_or_default() {
                    if byte != b'\n' {
                        partial.push(byte);
                        continue;
                    }
                    let text = String::from_utf8_lossy(&partial).trim_end().to_owned();
                    partial.clear();
                    let line = Line { at: start.elapsed(), text };
                    let _ = writeln!(log, "[{:9.3}] {}", line.at.as_secs_f64(), line.text);
                    lock(&theirs.0).lines.push(line);
                    theirs.1.notify_all();
                }
            }
            let _ = writeln!(log, "{}", String::from_utf8_lossy(&partial));
            lock(&theirs.0).ended = true;
            theirs.1.notify_all();
        });
        Self { name, shared }
    }

    /// Number of lines so far: a place from which to wait.
    #[must_use]
    pub fn mark(&self) -> usize {
        lock(&self.shared.0).lines.len()
    }

    /// Lines from `mark` on.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<Line> {
        lock(&self.shared.0).lines.iter().skip(mark).cloned().collect()
    }

    /// Waits for the first line from `mark` on for which `wanted` holds; gives
    /// its index and the line.
    ///
    /// # Errors
    /// [`Failure::Timeout`] after `limit`, or when the machine has ended; both
    /// with the last lines.
    pub fn wait(
        &self,
        mark: usize,
        limit: Duration,
        what: &str,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Res<(usize, Line)> {
        let end = Instant::now() + limit;
        let mut at = mark;
        let mut state = lock(&self.shared.0);
        loop {
            while let Some(line) = state.lines.get(at) {
                if wanted(&line.text) {
                    return Ok((at, line.clone()));
                }
                at += 1;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                break;
            }
            state =
                self.shared.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let skip = state.lines.len().saturating_sub(40);
        let tail: Vec<String> = state
            .lines
            .iter()
            .skip(skip)
            .map(|l| format!("  [{:8.3}] {}", l.at.as_secs_f64(), l.text))
            .collect();
        let ended = if state.ended { " (the machine ended)" } else { "" };
        Err(Failure::Timeout {
            what: format!("{what} on the {}{ended}", self.name),
            seconds: limit.as_secs(),
            log: tail.join("\n"),
        })
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
