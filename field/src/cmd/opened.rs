//! From DEV, number and key files to a dump that can be read.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_crypt::Identities;
use lifeboat_field::dump::{DumpFile, FileWindow, OpenDump};
use zeroize::Zeroizing;

use super::summary;
use crate::cli::Which;
use crate::device::{self, Found, Window};
use crate::ui::{Context as _, Failure, safe, warn};

/// Largest identity file, in bytes.
const MAX_IDENTITY: u64 = 1 << 20;

/// Where a dump is.
pub(crate) struct Source<'a> {
    /// DEV as given.
    pub(crate) dev: &'a str,
    /// `--partition`.
    pub(crate) partition: Option<&'a str>,
    /// `--dump`.
    pub(crate) which: Which,
}

impl Source<'_> {
    /// The dump's bytes.
    ///
    /// # Errors
    /// When there is no such dump.
    pub(crate) fn window(&self) -> Result<Window, Failure> {
        match device::find(self.dev, self.partition)? {
            Found::Volume(volume) => {
                let (_, dumps) = summary::of_volume(&volume)?;
                Ok(super::choose(&volume.name, &dumps, self.which)?.window.clone())
            }
            Found::Dump(window) => {
                let one = [summary::Summary::read(window, None)];
                Ok(super::choose(self.dev, &one, self.which)?.window.clone())
            }
        }
    }

    /// The dump, not unlocked.
    ///
    /// # Errors
    /// When it is damaged beyond reading.
    pub(crate) fn file(&self) -> Result<(DumpFile, String), Failure> {
        let window = self.window()?;
        let name = window.name.clone();
        let file = window.file.try_clone().context(&name)?;
        let bytes = FileWindow::new(file, window.base, window.len);
        Ok((DumpFile::open(Arc::new(bytes)).context(&name)?, name))
    }

    /// The dump, unlocked; what had to be worked around is told on stderr.
    ///
    /// # Errors
    /// Those of [`Source::file`], and a missing or wrong key.
    pub(crate) fn unlock(&self, keys: &[PathBuf]) -> Result<OpenDump, Failure> {
        let (file, name) = self.file()?;
        let ids = identities(keys)?;
        let dump = OpenDump::unlock(file, ids.as_ref()).context(&name)?;
        for words in dump.warnings() {
            warn(safe(words));
        }
        Ok(dump)
    }
}

/// All identities of all key files; `None` when no file was named.
///
/// # Errors
/// A file that cannot be read or holds no identity.
pub(crate) fn identities(keys: &[PathBuf]) -> Result<Option<Identities>, Failure> {
    if keys.is_empty() {
        return Ok(None);
    }
    let mut all = Zeroizing::new(String::new());
    for path in keys {
        let file = File::open(path).map_err(|e| {
            let hint = if e.kind() == std::io::ErrorKind::PermissionDenied {
                "identity files have mode 0600: run as the file's owner"
            } else {
                "name the file that `lifeboat keygen` wrote"
            };
            Failure::new(format!("key file {}: {e}", path.display())).hint(hint)
        })?;
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_IDENTITY).read_to_string(&mut text).map_err(|e| {
            Failure::new(format!("key file {}: {e}", path.display()))
                .hint("an identity file is text with a line AGE-SECRET-KEY-1…")
        })?;
        // Each on its own, so that the message names the file.
        Identities::parse(&text).context(format!("key file {}", path.display()))?;
        all.push_str(&text);
        all.push('\n');
    }
    Identities::parse(&all).context("the key files").map(Some)
}
