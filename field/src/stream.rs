//! A large output on its way to the disk: written wherever its bytes belong, while a
//! thread has the kernel begin on what is there already. So the last `fsync` has little
//! left to wait for, and an output takes as long as its making or its disk, not both.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use lifeboat_sys::begin_writeout;

/// Bytes after which the kernel is asked to begin: some hundredths of a second of a fast
/// disk.
const STEP: u64 = 32 << 20;

/// An output that is being written.
#[derive(Debug)]
pub struct Stream<'f> {
    file: &'f File,
    written: AtomicU64,
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

/// What the helping thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Begin,
    End,
}

impl<'f> Stream<'f> {
    /// Runs `work`, which writes to `file` through the stream it is given.
    pub fn run<T>(file: &'f File, work: impl FnOnce(&Self) -> T) -> T {
        let stream = Self {
            file,
            written: AtomicU64::new(0),
            wanted: Mutex::new(Wanted::Nothing),
            changed: Condvar::new(),
        };
        std::thread::scope(|scope| {
            scope.spawn(|| stream.help());
            // Also when `work` panics: the scope waits for the thread.
            let _end = End(&stream);
            work(&stream)
        })
    }

    /// Writes all of `bytes` at byte `at`. Several threads may do so at a time.
    ///
    /// # Errors
    /// The file's.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        let len = bytes.len() as u64;
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before / STEP != (before + len) / STEP {
            self.want(Wanted::Begin);
        }
        Ok(())
    }

    /// The file, for its length and for reading back.
    #[must_use]
    pub fn file(&self) -> &'f File {
        self.file
    }

    fn want(&self, what: Wanted) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.changed.notify_one();
    }

    fn help(&self) {
        loop {
            let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let mut wanted = self
                .changed
                .wait_while(wanted, |w| *w == Wanted::Nothing)
                .unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *wanted, Wanted::Nothing) == Wanted::End {
                return;
            }
            drop(wanted);
            // Only haste: what fails here fails again, and is told, where the file is
            // made durable.
            let _ = begin_writeout(self.file);
        }
    }
}

struct End<'s, 'f>(&'s Stream<'f>);

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        self.0.want(Wanted::End);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_several_threads_arrive_and_the_helper_ends() {
        let file = tempfile::tempfile().unwrap();
        let piece = vec![5u8; 1 << 20];
        let out = Stream::run(&file, |stream| {
            std::thread::scope(|scope| {
                for half in 0..2 {
                    let piece = &piece;
                    scope.spawn(move || {
                        for n in (half..80).step_by(2) {
                            stream.write_at(piece, n << 20).unwrap();
                        }
                    });
                }
            });
            stream.file().metadata().unwrap().len()
        });
        assert_eq!(out, 80 << 20);
        let panicked =
            std::panic::catch_unwind(|| Stream::run(&file, |_| panic!("as a worker may")));
        assert!(panicked.is_err(), "and no thread is waited for in vain");
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let file = File::open("/dev/null").unwrap();
        let e = Stream::run(&file, |stream| stream.write_at(b"x", 0)).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(9), "EBADF");
    }
}
