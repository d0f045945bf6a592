//! From DEV, number and key files to a dump that can be read.

use std::path::PathBuf;

use lifeboat_field::dump::{DumpFile, OpenDump};

use super::summary::{self, Summary};
use super::volumes::{self, Opened};
use crate::cli::Which;
use crate::device::{self, Found};
use crate::ui::{Context as _, Failure, safe, warn};

/// Where a dump is.
pub(crate) struct Source<'a> {
    /// DEV as given.
    pub(crate) dev: &'a str,
    /// `--partition`.
    pub(crate) partition: Option<&'a str>,
    /// `--with`.
    pub(crate) with: &'a [String],
    /// `--dump`.
    pub(crate) which: Which,
}

impl Source<'_> {
    /// The dump as `list` shows it.
    ///
    /// # Errors
    /// When there is no such dump.
    pub(crate) fn summary(&self) -> Result<Summary, Failure> {
        let all = match device::find(self.dev, self.partition)? {
            Found::Volume(window) => {
                let volumes = volumes::beside(Opened::new(window)?, self.with)?;
                summary::of_volumes(&volumes)?
            }
            Found::Dump(_) if !self.with.is_empty() => {
                return Err(Failure::usage(format!(
                    "{} is a pulled dump: --with has no use",
                    self.dev
                ))
                .hint("a pulled dump holds all the parts that `pull` was given"));
            }
            Found::Dump(window) => vec![Summary::of_file(&window)],
        };
        super::choose(self.dev, all, self.which)
    }

    /// The dump, not unlocked. A part that is not here is told on stderr.
    ///
    /// # Errors
    /// When it is damaged beyond reading.
    pub(crate) fn file(&self) -> Result<(DumpFile, String), Failure> {
        let dump = self.summary()?;
        for words in super::absent_words(&dump) {
            warn(words);
        }
        let name = dump.name;
        let told = dump.laid.as_ref().and_then(|laid| laid.parts.first());
        let file = match told {
            Some(part) => DumpFile::open_as(dump.source, &part.record.dump_id),
            None => DumpFile::open(dump.source),
        };
        Ok((file.context(&name)?, name))
    }

    /// The dump, unlocked; what had to be worked around is told on stderr.
    ///
    /// # Errors
    /// Those of [`Source::file`], and a missing or wrong key.
    pub(crate) fn unlock(&self, keys: &[PathBuf]) -> Result<OpenDump, Failure> {
        let (file, name) = self.file()?;
        let ids = crate::keyfile::identities(keys)?;
        let dump = OpenDump::unlock(file, ids.as_ref()).context(&name)?;
        for words in dump.warnings() {
            warn(safe(words));
        }
        Ok(dump)
    }
}
