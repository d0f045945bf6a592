//! makedumpfile, the peer: Debian's own build of a version that has zstd, unpacked
//! with its libraries and started through its own dynamic loader. `MAKEDUMPFILE`
//! names another one.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_qemu::error::{Context as _, Failure, Res, both, ensure};
use lifeboat_qemu::peer;

use crate::measure::Task;

/// A makedumpfile that can run here.
#[derive(Debug, Clone)]
pub(crate) struct Makedumpfile {
    /// Program and leading arguments.
    command: Vec<PathBuf>,
    /// Its version.
    pub version: String,
    /// Whether it was built with snappy (`-p` stores uncompressed pages if not).
    pub snappy: bool,
}

impl Makedumpfile {
    /// Fetches it, or finds it in the cache.
    ///
    /// # Errors
    /// When apt cannot give it, it is too old or lacks zstd or lzo.
    pub(crate) fn get() -> Res<Self> {
        let command = match env::var_os("MAKEDUMPFILE").filter(|v| !v.is_empty()) {
            Some(path) => vec![PathBuf::from(path)],
            None => packaged()?,
        };
        let (program, rest) = command.split_first().ctx("makedumpfile")?;
        let output = Command::new(program).args(rest).arg("-v").output().ctx("makedumpfile -v")?;
        let (version, snappy) = judge(&both(&output))?;
        Ok(Self { command, version, snappy })
    }

    /// A run on `from`, into `to`: level and codec as makedumpfile's own options.
    #[must_use]
    pub(crate) fn task(&self, options: &[&str], from: &Path, to: &Path) -> Task {
        let (program, rest) =
            self.command.split_first().map_or((Path::new(""), &[][..]), |s| (s.0.as_path(), s.1));
        Task::new(program, to)
            .args(rest)
            .args(["--message-level", "16"])
            .args(options)
            .args([from, to])
    }
}

/// Version and whether snappy is built in, from what `-v` prints.
fn judge(said: &str) -> Res<(String, bool)> {
    let has = |codec: &str| {
        said.lines().any(|l| l.starts_with(codec) && l.trim_end().ends_with("enabled"))
    };
    let version = peer::version(said);
    ensure(
        version.is_ok() && has("zstd") && has("lzo"),
        format_args!(
            "this makedumpfile is no fair peer (1.7.8 with zstd and lzo is needed):\n{said}\
             hint: MAKEDUMPFILE=/path/of/another"
        ),
    )?;
    Ok((version?, has("snappy")))
}

/// The packaged one, as the tests of the filter use it.
fn packaged() -> Res<Vec<PathBuf>> {
    let tool = peer::packaged().map_err(|why| {
        Failure::check(format_args!("{why}\nhint: MAKEDUMPFILE=/path/of/makedumpfile-1.7.8"))
    })?;
    Ok(tool.words().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: &str, zstd: &str) -> String {
        format!(
            "makedumpfile: version {version} (released on 30 Oct 2025)\nlzo\tenabled\n\
             snappy\tdisabled\nzstd\t{zstd}\n\n"
        )
    }

    #[test]
    fn an_old_one_or_one_without_zstd_is_no_peer() {
        assert_eq!(judge(&said("1.7.8", "enabled")).unwrap(), ("1.7.8".to_owned(), false));
        assert!(judge(&said("1.8.0", "enabled")).is_ok());
        for bad in [said("1.7.6", "enabled"), said("1.7.8", "disabled"), String::new()] {
            assert!(judge(&bad).is_err(), "{bad}");
        }
    }
}
