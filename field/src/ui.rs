//! What the user sees: failures with one hint and an exit code, warnings, progress.
//!
//! Results go to stdout; everything here goes to stderr. Progress is drawn only
//! where stderr is a terminal, so that a log never fills with it.

use std::error::Error;
use std::fmt;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How a command ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Good,
    /// It failed, or damage was found.
    Failed,
    /// A dump is there, but it is incomplete or partial.
    Partial,
}

impl Outcome {
    /// Exit code: 0, 1 or 3.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Good => 0,
            Self::Failed => 1,
            Self::Partial => 3,
        })
    }
}

/// What every command gives back.
pub(crate) type Ended = Result<Outcome, Failure>;

/// A failure as the user reads it: the whole chain of causes, then one hint.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    hint: Option<String>,
    usage: bool,
}

impl Failure {
    /// A failure in words.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::split(&text.into())
    }

    /// A contradiction in what the user asked for: exit code 2.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { usage: true, ..Self::split(&text.into()) }
    }

    /// Library errors carry their hint as a last line: keep it apart, so that
    /// the chain ends in exactly one. A list of complaints, each with its own
    /// hint (a profile's), stays as it is.
    fn split(text: &str) -> Self {
        if text.matches("hint:").count() > 1 {
            return Self { text: text.trim_end().to_owned(), hint: None, usage: false };
        }
        let mut body: Vec<&str> = Vec::new();
        let mut hint = None;
        for line in text.lines() {
            match line.trim_start().strip_prefix("hint:") {
                Some(words) => hint = Some(words.trim().to_owned()),
                None => body.push(line),
            }
        }
        Self { text: body.join("\n"), hint, usage: false }
    }

    /// Adds a hint where there is none yet.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// The chain without the hint.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Puts words in front of the chain.
    pub(crate) fn context(mut self, what: impl fmt::Display) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }

    /// From an error and all its sources, each named once.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::split(&error.to_string());
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            failure = failure.io_hint(io);
        }
        let mut source = error.source();
        while let Some(cause) = source {
            let inner = Self::split(&cause.to_string());
            if !failure.text.contains(&inner.text) {
                failure.text = format!("{}: {}", failure.text, inner.text);
            }
            if let Some(hint) = inner.hint {
                failure = failure.hint(hint);
            }
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                failure = failure.io_hint(io);
            }
            source = cause.source();
        }
        failure
    }

    /// The advice that goes with an error of the operating system.
    fn io_hint(self, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::NotFound => {
                self.hint("check the path; `lsblk -o NAME,SIZE,PARTLABEL` lists partitions")
            }
            K::PermissionDenied => self.hint("run as root, or with read access to this file"),
            K::StorageFull => self.hint("free space at the destination, or write elsewhere"),
            K::ResourceBusy => {
                self.hint("something holds it open for itself; unmount it or stop that user first")
            }
            K::ReadOnlyFilesystem => self.hint("it is on a read-only file system or device"),
            _ => self,
        }
    }

    /// Prints it and gives the exit code: 2 for usage, otherwise 1.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("lifeboat: error: {}", self.text);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(if self.usage { 2 } else { 1 })
    }
}

/// Turns any error into a [`Failure`] with words in front.
pub(crate) trait Context<T> {
    /// `what` says what was being done, e.g. a path.
    fn context(self, what: impl fmt::Display) -> Result<T, Failure>;
    /// The error alone, which names its place itself.
    fn plain(self) -> Result<T, Failure>;
}

impl<T, E: Error + 'static> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|e| Failure::of(&e).context(what))
    }

    fn plain(self) -> Result<T, Failure> {
        self.map_err(|e| Failure::of(&e))
    }
}

/// Writes to stdout. A reader that went away (`lifeboat list | head`) is no
/// failure; `println!` would panic there.
pub(crate) fn put(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = write!(out, "{text}").and_then(|()| out.flush())
        && e.kind() != std::io::ErrorKind::BrokenPipe
    {
        warn(format!("standard output: {e}"));
    }
}

/// A line on stdout, see [`put`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::ui::put(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(crate) use say;

/// A warning on stderr, seen even when stdout is piped away.
pub(crate) fn warn(text: impl fmt::Display) {
    eprintln!("lifeboat: warning: {text}");
}

/// A bar for `len` bytes of work; hidden unless stderr is a terminal.
pub(crate) fn progress(len: u64, what: &'static str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(8)
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(len), target);
    let template = "{msg:10} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what)
}

/// `1536` → `1.5 KiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scale = 1u64;
    let mut unit = "B";
    for name in UNITS {
        unit = name;
        if n / scale < 1024 || name == "PiB" {
            break;
        }
        scale <<= 10;
    }
    if scale == 1 {
        return format!("{n} B");
    }
    let tenths = u128::from(n) * 10 / u128::from(scale);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Seconds since 1970 as `2026-11-23T20:13:05Z`.
pub(crate) fn when(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a day count, in eras of 400 years that begin on 1 March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Now, in seconds since 1970; 0 where the clock is before that.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Text from a dump or disk, with control characters made visible: it was
/// written by a dead kernel and must not drive the reader's terminal.
pub(crate) fn safe(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let shown: Box<dyn Iterator<Item = char>> = if c.is_control() {
                Box::new(c.escape_default())
            } else {
                Box::new(std::iter::once(c))
            };
            shown
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges() {
        assert_eq!(when(0), "1970-01-01T00:00:00Z");
        assert_eq!(when(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(when(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(when(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(when(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn sizes_are_cut_not_rounded_up() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes((1 << 30) - 1), "1023.9 MiB");
        assert_eq!(bytes(u64::MAX), "16383.9 PiB");
    }

    #[test]
    fn a_chain_ends_in_one_hint() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer failed\nhint: outer advice")]
        struct Outer(#[source] std::io::Error);
        let f = Failure::of(&Outer(std::io::Error::from_raw_os_error(13)));
        assert_eq!(f.text, "outer failed: Permission denied (os error 13)");
        assert_eq!(f.hint.as_deref(), Some("outer advice"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(safe("a\x1b[2Jb\u{e4}"), "a\\u{1b}[2Jb\u{e4}");
    }
}
