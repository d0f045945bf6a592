//! Hardware watchdogs (`Documentation/watchdog/watchdog-api.rst`).
//!
//! Opening one starts it. Dropping [`Watchdog`] without [`Watchdog::disarm`]
//! leaves it running: then the hardware resets the machine, which is what a
//! dying PID 1 wants.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

#[allow(missing_docs, reason = "the macro makes public functions of a private module")]
mod ioctl {
    nix::ioctl_readwrite!(settimeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(gettimeout, b'W', 7, libc::c_int);
}

/// A running watchdog.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    timeout_s: u32,
}

impl Watchdog {
    /// Opens (and so starts) a watchdog and asks for `timeout_s` seconds; the
    /// driver may grant another, see [`Watchdog::timeout_s`].
    ///
    /// # Errors
    /// Opening the device: `ENOENT`, `EBUSY` when somebody else holds it.
    pub fn start(path: &Path, timeout_s: u32) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path)?;
        let mut granted = libc::c_int::try_from(timeout_s).unwrap_or(libc::c_int::MAX);
        // SAFETY: the ioctl reads and writes one int at the given address.
        if unsafe { ioctl::settimeout(file.as_raw_fd(), &raw mut granted) }.is_err() {
            // A driver with a fixed timeout: ask which.
            // SAFETY: the ioctl writes one int at the given address.
            let _ = unsafe { ioctl::gettimeout(file.as_raw_fd(), &raw mut granted) };
        }
        Ok(Self { file, timeout_s: u32::try_from(granted).unwrap_or(timeout_s) })
    }

    /// Seconds after which it fires when it is not fed.
    #[must_use]
    pub fn timeout_s(&self) -> u32 {
        self.timeout_s
    }

    /// Feeds it.
    ///
    /// # Errors
    /// The write's.
    pub fn feed(&self) -> io::Result<()> {
        (&self.file).write_all(b"\0")
    }

    /// Stops it (the magic close), where the driver allows that.
    ///
    /// # Errors
    /// The write's.
    pub fn disarm(self) -> io::Result<()> {
        (&self.file).write_all(b"V")
    }
}
