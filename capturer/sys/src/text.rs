//! Errors as text, without allocating: behind the seal, the capture still says what failed.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// An I/O error for a message. Printing an [`io::Error`] of the system itself asks the C
/// library for its text and copies that to the heap; here the text is a static one.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'e>(pub &'e io::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(number) => write!(f, "{} (error {number})", Errno::from_raw(number).desc()),
            // A kind has a static text, and what was made up was allocated before.
            None => fmt::Display::fmt(self.0, f),
        }
    }
}

/// The same error once more, without what was made up for it.
#[must_use]
pub fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => error.kind().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_the_c_library() {
        let of = |e: io::Error| Plain(&e).to_string();
        assert_eq!(of(io::Error::from_raw_os_error(5)), "I/O error (error 5)");
        assert_eq!(of(io::Error::from_raw_os_error(77777)), "Unknown errno (error 77777)");
        assert_eq!(of(io::ErrorKind::StorageFull.into()), "no storage space");
        assert_eq!(of(io::Error::other("made up")), "made up");
        assert_eq!(copy(&io::Error::from_raw_os_error(28)).raw_os_error(), Some(28));
    }
}
