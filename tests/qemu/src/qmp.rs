//! QEMU's control socket: one command, one answer, events skipped.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Context as _, Failure, Res};

/// A connection to one machine's monitor.
#[derive(Debug)]
pub struct Qmp {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves the negotiation behind.
    ///
    /// # Errors
    /// When QEMU does not answer within 20 s.
    pub fn connect(path: &Path) -> Res<Self> {
        let to = connect(path)?;
        to.set_read_timeout(Some(Duration::from_secs(60))).ctx("QMP")?;
        let mut qmp = Self { from: BufReader::new(to.try_clone().ctx("QMP")?), to };
        let mut greeting = String::new();
        qmp.from.read_line(&mut greeting).ctx("QMP's greeting")?;
        qmp.run("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Errors
    /// When QEMU answers with an error or is gone.
    pub fn run(&mut self, command: &str, arguments: Value) -> Res<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        writeln!(self.to, "{order}").ctx(command)?;
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line).ctx(command)? == 0 {
                return Err(Failure::check(format_args!("QEMU is gone at `{command}`")));
            }
            let answer: Value = serde_json::from_str(&line).ctx(command)?;
            if let Some(error) = answer.get("error") {
                return Err(Failure::check(format_args!("QEMU refused `{command}`: {error}")));
            }
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
        }
    }
}

/// Connects to a socket that QEMU is about to make.
///
/// # Errors
/// When it is not there within 20 s.
pub fn connect(path: &Path) -> Res<UnixStream> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(why) if Instant::now() > end => {
                return Err(Failure::Io { what: path.display().to_string(), source: why });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
