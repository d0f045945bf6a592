//! What can go wrong in the harness, always with what was being done.

use std::fmt::Display;
use std::io;
use std::process::Output;

/// A failed step of a test, the provisioning or the demo.
#[derive(thiserror::Error)]
pub enum Failure {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What it answered.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` ended with {status}\n{output}")]
    Command {
        /// Its command line.
        command: String,
        /// Exit status as text.
        status: String,
        /// Its stdout and stderr.
        output: String,
    },
    /// Something did not happen in time.
    #[error("waited {seconds} s for {what}\n{log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// The end of the log that was watched.
        log: String,
    },
    /// A check did not hold.
    #[error("{0}")]
    Check(String),
}

/// What a test prints when it ends with a failure: the plain text, its lines whole.
impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Result of a harness step.
pub type Res<T> = Result<T, Failure>;

impl Failure {
    /// A check that did not hold.
    pub fn check(text: impl Display) -> Self {
        Self::Check(text.to_string())
    }
}

/// Adds what was being done to an I/O error.
pub trait Context<T> {
    /// Names the step.
    ///
    /// # Errors
    /// The same error, with its context.
    fn ctx(self, what: impl Display) -> Res<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn ctx(self, what: impl Display) -> Res<T> {
        self.map_err(|e| Failure::Io { what: what.to_string(), source: e.into() })
    }
}

impl<T> Context<T> for Option<T> {
    fn ctx(self, what: impl Display) -> Res<T> {
        self.ok_or_else(|| Failure::Check(format!("not found: {what}")))
    }
}

/// Fails with `text` unless `holds`.
///
/// # Errors
/// [`Failure::Check`] when it does not hold.
pub fn ensure(holds: bool, text: impl Display) -> Res<()> {
    if holds { Ok(()) } else { Err(Failure::check(text)) }
}

/// Stdout and stderr of a finished program, as text.
#[must_use]
pub fn both(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a program to its end and gives its stdout.
///
/// # Errors
/// When it cannot be started or ends with an error; the text holds its output.
pub fn run(command: &mut std::process::Command) -> Res<String> {
    let name = format!("{command:?}");
    let output = command.stdin(std::process::Stdio::null()).output().ctx(&name)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::Command {
        command: name,
        status: output.status.to_string(),
        output: both(&output),
    })
}
