//! Running the tools of the machine, with their output in a log and their lack explained.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Step as _};

/// Which Debian package brings a tool.
const PACKAGES: &[(&str, &str)] = &[
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("patch", "patch"),
    ("tar", "tar"),
    ("cp", "coreutils"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("dpkg-query", "dpkg"),
    ("dpkg", "dpkg"),
];

/// Lines of a failed tool's log that are shown.
const TAIL: usize = 15;

/// Runs `command` with its output in `log`; shows the log's end if it fails.
pub(crate) fn logged(command: &mut Command, what: &str, log: &Path) -> Result<(), Failure> {
    let out = File::create(log).step(|| format!("log {}", log.display()))?;
    let err = out.try_clone().step(|| format!("log {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let status = command.status().map_err(|e| not_started(command, &e))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(TAIL));
    let shown: String = tail.map(|l| format!("\n  | {l}")).collect();
    Err(Failure::new(format!("{what}: {status}{shown}"))
        .hint(format!("the whole log is {}", log.display())))
}

/// Runs `command` and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| not_started(command, &e))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(Failure::new(format!("{}: {}: {}", name(command), out.status, said.trim())))
}

/// What `command` printed, whatever its status: for tools that answer by both.
pub(crate) fn said(command: &mut Command) -> Result<String, Failure> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| not_started(command, &e))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// First line of `tool --version`.
pub(crate) fn version(tool: &str) -> Result<String, Failure> {
    let text = output(Command::new(tool).arg("--version").env("LC_ALL", "C"))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The same, where a toolchain file of `dir` chooses the tool.
pub(crate) fn version_in(tool: &str, dir: &Path) -> Result<String, Failure> {
    let text = output(Command::new(tool).arg("--version").current_dir(dir))?;
    Ok(text.trim().to_owned())
}

/// Fails if a tool is not there, naming all that are missing at once.
pub(crate) fn need(tools: &[&str]) -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    let missing: Vec<&str> = tools.iter().copied().filter(|t| !there(t)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|t| package(t)).collect();
    Err(Failure::new(format!("these tools are missing: {}", missing.join(", ")))
        .hint(format!("apt-get install {}", packages.join(" "))))
}

fn package(tool: &str) -> &str {
    PACKAGES.iter().find(|(t, _)| *t == tool).map_or(tool, |(_, p)| p)
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn not_started(command: &Command, why: &std::io::Error) -> Failure {
    let tool = name(command);
    let failure = Failure::new(format!("cannot run {tool}: {why}"));
    match why.kind() {
        std::io::ErrorKind::NotFound => failure.hint(format!("apt-get install {}", package(&tool))),
        _ => failure.hint("check that the tool can be executed"),
    }
}
