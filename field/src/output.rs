//! Files that we write for the user: whole under their name, or not there at all.
//!
//! The bytes go to an unnamed file in the destination's directory (`O_TMPFILE`),
//! which gets its name after `fsync`: even a killed command leaves nothing half
//! written. File systems without `O_TMPFILE` get a hidden file that is renamed,
//! and removed on failure. Nothing is overwritten without `--force`. Mode 0600:
//! everything that we write holds a dead machine's memory or a key.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags};

use crate::ui::{Context as _, Failure};

/// A file on its way.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    path: PathBuf,
    /// The hidden name, where there is one to remove.
    hidden: Option<PathBuf>,
    force: bool,
}

impl Output {
    /// Begins a file that will be `path`.
    ///
    /// # Errors
    /// When `path` exists and `force` is not given, is not a regular file, or
    /// its directory cannot be written.
    pub(crate) fn create(path: &Path, force: bool) -> Result<Self, Failure> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.is_file() => {
                return Err(Failure::new(format!(
                    "{} exists and is not a regular file",
                    path.display()
                ))
                .hint("name a new file"));
            }
            Ok(_) if !force => return Err(exists(path)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context(path.display()),
        }
        let dir = dir_of(path);
        if path.file_name().is_none() {
            return Err(Failure::usage(format!("`{}` names no file", path.display())));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let unnamed = options.clone().custom_flags(OFlags::TMPFILE.bits().cast_signed()).open(dir);
        let (file, hidden) = match unnamed {
            Ok(file) => (file, None),
            Err(e) if no_tmpfile(&e) => {
                let hidden = hidden_name(path);
                let file = options.create_new(true).open(&hidden).context(hidden.display())?;
                (file, Some(hidden))
            }
            Err(e) => {
                return Err(e).context(format!("a file in {}", dir.display()));
            }
        };
        Ok(Self { file, path: path.into(), hidden, force })
    }

    /// The name that it will have.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Makes the bytes durable and gives them their name.
    ///
    /// # Errors
    /// When that fails, or `path` appeared meanwhile without `force`; nothing is left then.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.file.sync_all().context(self.path.display())?;
        let hidden = match self.hidden.clone() {
            Some(hidden) => hidden,
            None if !self.force => {
                return match self.link(&self.path) {
                    Ok(()) => sync_dir(&self.path),
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(exists(&self.path)),
                    Err(e) => Err(e).context(self.path.display()),
                };
            }
            None => {
                let hidden = hidden_name(&self.path);
                self.link(&hidden).context(hidden.display())?;
                self.hidden = Some(hidden.clone());
                hidden
            }
        };
        if !self.force && self.path.exists() {
            return Err(exists(&self.path));
        }
        std::fs::rename(&hidden, &self.path).context(self.path.display())?;
        self.hidden = None;
        sync_dir(&self.path)
    }

    /// Names the unnamed file (open(2), `O_TMPFILE`).
    fn link(&self, to: &Path) -> io::Result<()> {
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, from, CWD, to, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // Nothing to be done about a failure: the command is failing already.
            let _ = std::fs::remove_file(hidden);
        }
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(format!("{} exists", path.display()))
        .hint("name another file, or overwrite it with --force")
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn hidden_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    dir_of(path).join(format!(".{name}.lifeboat-{}", std::process::id()))
}

/// File systems and kernels without `O_TMPFILE` answer with one of these.
fn no_tmpfile(e: &io::Error) -> bool {
    let code = e.raw_os_error();
    [rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::ISDIR, rustix::io::Errno::INVAL]
        .iter()
        .any(|n| code == Some(n.raw_os_error()))
}

fn sync_dir(path: &Path) -> Result<(), Failure> {
    let dir = dir_of(path);
    File::open(dir).and_then(|d| d.sync_all()).context(dir.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn nothing_is_left_of_an_unfinished_file() {
        let dir = tempfile::tempdir().unwrap();
        let out = Output::create(&dir.path().join("x"), false).unwrap();
        out.file().write_all(b"half").unwrap();
        drop(out);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn force_replaces_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let out = Output::create(&path, false).unwrap();
        out.file().write_all(b"one").unwrap();
        out.finish().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        Output::create(&path, false).unwrap_err();
        let out = Output::create(&path, true).unwrap();
        out.file().write_all(b"two").unwrap();
        out.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// A file that appears while we work is not overwritten.
    #[test]
    fn a_late_rival_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let out = Output::create(&path, false).unwrap();
        std::fs::write(&path, b"rival").unwrap();
        out.finish().unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"rival");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
