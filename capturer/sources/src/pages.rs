//! Reading whole pages from a device that may fail at some of them.
//!
//! A large read that fails is tried again in halves, down to one page; exactly the
//! page that cannot be read is reported and its bytes in the buffer are zeroed, and
//! reading goes on behind it. Nothing here allocates, and every loop makes progress
//! or ends: at most two system calls for each page, and [`MAX_RETRIES`] for each
//! interruption.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use lifeboat_format::PAGE;
use rustix::io::Errno;

/// How often a read that a signal interrupted is tried again.
pub const MAX_RETRIES: u32 = 64;

/// Why reading pages ended. Pages that could not be read are not among these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The buffer is not whole pages, or not aligned to a page as direct I/O demands.
    #[error(
        "the page buffer is {len} bytes, or not aligned to 4096\nhint: this is a defect of Lifeboat; please report it"
    )]
    Buffer {
        /// Its length, bytes.
        len: usize,
    },
    /// The source as a whole does not answer any more.
    #[error(
        "the source is gone (error {errno}) at byte {offset}\nhint: the device vanished or its driver failed; the console of the crash kernel says more"
    )]
    Gone {
        /// The error number.
        errno: i32,
        /// Where, a byte offset in the source.
        offset: u64,
    },
}

impl ReadError {
    /// The same as an error of the system, which costs no allocation.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Buffer { .. } => Errno::INVAL.raw_os_error(),
            Self::Gone { errno, .. } => *errno,
        }
    }
}

/// A positioned read, so that tests can put faults below the page reader.
pub trait ReadAt {
    /// As `pread(2)`: bytes read, 0 at the end.
    ///
    /// # Errors
    /// The device's error, with its error number.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }
}

/// Fills `buf` from `offset` on, or fails.
pub(crate) fn read_exact(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(buf, offset)
}

/// What an error says of the source.
enum Fault {
    /// This page, or one of these pages, cannot be read.
    Page,
    /// Nothing can be read any more.
    Gone(i32),
}

/// Errors that no retry on another page can cure. All others are taken for trouble
/// with the page: a capture that skips too much beats one that gives up.
const GONE: &[Errno] = &[
    Errno::BADF,
    Errno::NODEV,
    Errno::INVAL,
    Errno::PERM,
    Errno::ACCESS,
    Errno::NOSYS,
    Errno::SPIPE,
    Errno::ISDIR,
    Errno::NOMEDIUM,
    Errno::SHUTDOWN,
    Errno::STALE,
];

/// Reads once, through interruptions.
fn read_once(src: &impl ReadAt, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
    for _ in 0..MAX_RETRIES {
        match src.read_at(offset, buf) {
            // More than was asked for cannot be; do not believe it.
            Ok(n) => return Ok(n.min(buf.len())),
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                if errno == Errno::INTR.raw_os_error() || errno == Errno::AGAIN.raw_os_error() {
                    continue;
                }
                return Err(if GONE.iter().any(|g| g.raw_os_error() == errno) {
                    Fault::Gone(errno)
                } else {
                    Fault::Page
                });
            }
        }
    }
    Err(Fault::Page)
}

/// Reads one page. `true` when all of it came.
fn read_page(src: &impl ReadAt, offset: u64, page: &mut [u8]) -> Result<bool, Fault> {
    let done = match read_once(src, offset, page) {
        Ok(done) => done,
        Err(Fault::Page) => return Ok(false),
        Err(gone) => return Err(gone),
    };
    match page.get_mut(done..) {
        Some([]) => Ok(true),
        // A second try for the rest; what it says of the source as a whole does not
        // count, since direct I/O refuses an odd offset with EINVAL.
        Some(rest) if done > 0 => {
            Ok(read_once(src, offset + done as u64, rest).is_ok_and(|n| n == rest.len()))
        }
        _ => Ok(false),
    }
}

/// Reads a piece of a page; `false` when it cannot be read.
pub(crate) fn read_piece(
    src: &impl ReadAt,
    offset: u64,
    buf: &mut [u8],
) -> Result<bool, ReadError> {
    read_page(src, offset, buf).map_err(|fault| match fault {
        Fault::Gone(errno) => ReadError::Gone { errno, offset },
        Fault::Page => ReadError::Gone { errno: Errno::IO.raw_os_error(), offset },
    })
}

/// Reads whole pages that lie one behind the other from `offset` on. `bad` gets the
/// number of each page in `buf` that could not be read, ascending; its bytes are zeros.
///
/// # Errors
/// [`ReadError`]; what of `buf` was not reached is undefined then.
pub fn read_run(
    src: &impl ReadAt,
    offset: u64,
    buf: &mut [u8],
    bad: &mut dyn FnMut(usize),
) -> Result<(), ReadError> {
    if !buf.len().is_multiple_of(PAGE) || offset.checked_add(buf.len() as u64).is_none() {
        return Err(ReadError::Buffer { len: buf.len() });
    }
    let total = buf.len() / PAGE;
    let mut page = 0;
    let mut step = total;
    while page < total {
        let count = step.clamp(1, total - page);
        let at = offset + (page * PAGE) as u64;
        let Some(part) = buf.get_mut(page * PAGE..(page + count) * PAGE) else {
            return Err(ReadError::Buffer { len: buf.len() });
        };
        let gone = |errno| ReadError::Gone { errno, offset: at };
        if count == 1 {
            match read_page(src, at, part) {
                Ok(true) => step = 2,
                Ok(false) => {
                    part.fill(0);
                    bad(page);
                }
                Err(Fault::Gone(errno)) => return Err(gone(errno)),
                Err(Fault::Page) => return Err(gone(Errno::IO.raw_os_error())),
            }
            page += 1;
            continue;
        }
        match read_once(src, at, part) {
            Ok(n) if n / PAGE == count => {
                page += count;
                step = count.saturating_mul(2);
            }
            // It stopped at the page that is in trouble: look at that one alone.
            Ok(n) => {
                page += n / PAGE;
                step = 1;
            }
            Err(Fault::Page) => step = count / 2,
            Err(Fault::Gone(errno)) => return Err(gone(errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeSet;

    /// How a source behaves when a read meets a bad page.
    #[derive(Debug, Clone, Copy)]
    enum Style {
        /// Gives what is before it, then the error (`/dev/oldmem`).
        Short,
        /// Fails the whole read (a disk).
        Whole,
        /// Gives an odd number of bytes (a sector within the page is bad).
        Torn,
        /// Gives nothing, without an error (the end of a file).
        End,
    }

    struct Faulty {
        bad: BTreeSet<u64>,
        style: Style,
        calls: Cell<usize>,
        errno: Errno,
    }

    fn byte(page: u64) -> u8 {
        u8::try_from(page % 251).unwrap() + 1
    }

    impl ReadAt for Faulty {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.calls.set(self.calls.get() + 1);
            if self.calls.get().is_multiple_of(7) {
                return Err(Errno::INTR.into());
            }
            let last = offset + buf.len() as u64;
            let hit = self.bad.range(offset / 4096..last.div_ceil(4096)).next();
            let whole = |to: &mut [u8]| {
                for (i, b) in to.iter_mut().enumerate() {
                    *b = byte((offset + i as u64) / 4096);
                }
                Ok(to.len())
            };
            let Some(hit) = hit else { return whole(buf) };
            let good = usize::try_from((hit * 4096).saturating_sub(offset)).unwrap();
            match self.style {
                Style::Torn if offset.is_multiple_of(4096) => whole(&mut buf[..good + 512]),
                Style::Short | Style::End | Style::Torn if good > 0 => whole(&mut buf[..good]),
                Style::End => Ok(0),
                _ => Err(self.errno.into()),
            }
        }
    }

    fn run(bad: &BTreeSet<u64>, style: Style, pages: usize) -> (Vec<u8>, BTreeSet<u64>, usize) {
        let src = Faulty { bad: bad.clone(), style, calls: Cell::new(0), errno: Errno::IO };
        let mut buf = vec![0xee; pages * PAGE];
        let mut told = Vec::new();
        read_run(&src, 3 * 4096, &mut buf, &mut |p| told.push(p as u64 + 3)).unwrap();
        assert!(told.is_sorted_by(|a, b| a < b), "ascending, once each");
        (buf, told.into_iter().collect(), src.calls.get())
    }

    proptest! {
        #[test]
        fn exactly_the_bad_pages_are_told(
            bad in proptest::collection::btree_set(0u64..80, 0..20), pages in 1usize..70,
            style in prop_oneof![Just(Style::Short), Just(Style::Whole), Just(Style::Torn),
                                 Just(Style::End)])
        {
            let (buf, told, calls) = run(&bad, style, pages);
            let want: BTreeSet<u64> = bad.range(3..3 + pages as u64).copied().collect();
            prop_assert_eq!(&told, &want);
            for (i, page) in buf.chunks(PAGE).enumerate() {
                let want = if told.contains(&(i as u64 + 3)) { 0 } else { byte(i as u64 + 3) };
                prop_assert!(page.iter().all(|b| *b == want));
            }
            prop_assert!(calls <= 4 * pages + 16, "{} calls for {} pages", calls, pages);
        }
    }

    #[test]
    fn one_good_read_is_one_call() {
        assert_eq!(run(&BTreeSet::new(), Style::Whole, 6).2, 1);
    }

    #[test]
    fn a_source_that_is_gone_is_an_error_and_not_bad_pages() {
        for errno in [Errno::BADF, Errno::NODEV] {
            let src = Faulty { bad: [20].into(), style: Style::Whole, calls: Cell::new(0), errno };
            let mut buf = vec![0; 64 * PAGE];
            let got = read_run(&src, 0, &mut buf, &mut |_| panic!("no page is bad"));
            let errno = errno.raw_os_error();
            assert_eq!(got, Err(ReadError::Gone { errno, offset: 0 }));
        }
    }

    #[test]
    fn endless_interruption_ends() {
        struct Intr;
        impl ReadAt for Intr {
            fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
                Err(Errno::INTR.into())
            }
        }
        let mut told = 0;
        read_run(&Intr, 0, &mut vec![1; 4 * PAGE], &mut |_| told += 1).unwrap();
        assert_eq!(told, 4);
    }

    #[test]
    fn odd_buffers_are_refused() {
        let src = Faulty {
            bad: BTreeSet::new(),
            style: Style::End,
            calls: Cell::new(0),
            errno: Errno::IO,
        };
        assert_eq!(
            read_run(&src, 0, &mut [0; 100], &mut |_| ()),
            Err(ReadError::Buffer { len: 100 })
        );
        assert!(read_run(&src, u64::MAX - 10, &mut [0; PAGE], &mut |_| ()).is_err());
    }
}
