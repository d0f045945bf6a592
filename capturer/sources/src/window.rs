//! A window on a table in somebody else's memory: walked from front to back it reads in
//! long pieces, jumped about in it reads short ones.

use lifeboat_format::PAGE;

use crate::paging::{PagingError, ReadVirt};

/// Most bytes that are held, and the most that can be asked for at once.
pub(crate) const WINDOW: usize = 64 << 10;
/// Bytes that are read after a jump.
const FIRST: usize = PAGE;

/// Some bytes of a table.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    /// Address of the first byte, and how many of `bytes` are of use.
    at: u64,
    len: usize,
    /// Bytes of the next read, if it goes on where this one ended.
    step: usize,
}

impl Window {
    /// Allocates [`WINDOW`] bytes; nothing later.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; WINDOW], at: 0, len: 0, step: FIRST }
    }

    /// `count` bytes at `addr`; `None` where they reach over `end`, or over what a window
    /// holds. Reads nothing at or behind `end`.
    #[inline]
    pub(crate) fn get(
        &mut self,
        reader: &mut impl ReadVirt,
        addr: u64,
        count: usize,
        end: u64,
    ) -> Result<Option<&[u8]>, PagingError> {
        let offset = usize::try_from(addr.wrapping_sub(self.at)).unwrap_or(usize::MAX);
        let held = offset.checked_add(count).is_some_and(|to| to <= self.len);
        let inside = end.checked_sub(addr).is_some_and(|left| count as u64 <= left);
        if !inside || count > WINDOW {
            return Ok(None);
        }
        if !held {
            self.go(reader, addr, count, end)?;
            return Ok(self.bytes.get(..count));
        }
        Ok(self.bytes.get(offset..offset + count))
    }

    /// Moves to `addr`.
    fn go(
        &mut self,
        reader: &mut impl ReadVirt,
        addr: u64,
        count: usize,
        end: u64,
    ) -> Result<(), PagingError> {
        let left = usize::try_from(end.saturating_sub(addr)).unwrap_or(usize::MAX);
        let from = addr.checked_sub(self.at);
        let goes_on = self.len > 0 && from.is_some_and(|from| from <= self.len as u64);
        self.step = if goes_on { (self.step * 2).min(WINDOW) } else { FIRST };
        self.fill(reader, addr, count, self.step.max(count).min(left))
    }

    /// Reads `most` bytes at `addr`, or to the end of the page, at least `least`: what lies
    /// behind a table need not be there.
    fn fill(
        &mut self,
        reader: &mut impl ReadVirt,
        addr: u64,
        least: usize,
        most: usize,
    ) -> Result<(), PagingError> {
        self.len = 0;
        let inside = usize::try_from(addr % PAGE as u64).unwrap_or_default();
        let lost = PagingError::NotCanonical(addr);
        let buf = self.bytes.get_mut(..most).ok_or(lost)?;
        let mut len = most;
        if let Err(failed) = reader.read_virt(addr, buf) {
            len = (PAGE - inside).max(least).min(most);
            if len == most {
                return Err(failed);
            }
            reader.read_virt(addr, buf.get_mut(..len).ok_or(lost)?)?;
            self.step = FIRST;
        }
        (self.at, self.len) = (addr, len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paging::Image;

    /// Counts reads, and their bytes.
    struct Counted<'a>(Image<'a>, Vec<usize>);

    impl ReadVirt for Counted<'_> {
        fn read_virt(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), PagingError> {
            self.1.push(buf.len());
            self.0.read_virt(addr, buf)
        }
    }

    fn bytes() -> Vec<u8> {
        (0..300_000u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
    }

    #[test]
    fn front_to_back_in_long_pieces() {
        let bytes = bytes();
        let end = 0x1000 + bytes.len() as u64;
        let mut from = Counted(Image { base: 0x1000, bytes: &bytes }, Vec::new());
        let mut window = Window::new();
        for at in (0..bytes.len() - 12).step_by(12) {
            let got = window.get(&mut from, 0x1000 + at as u64, 12, end).unwrap();
            assert_eq!(got, Some(&bytes[at..at + 12]));
        }
        assert!(from.1.len() < 12, "{:?}", from.1);
        assert!(from.1.iter().all(|n| *n <= WINDOW));
        // A jump reads little.
        from.1.clear();
        window.get(&mut from, 0x1004, 8, end).unwrap().unwrap();
        assert_eq!(from.1, [FIRST]);
    }

    #[test]
    fn nothing_over_the_end_and_nothing_that_is_not_asked_for_fails() {
        let bytes = bytes();
        let mut from = Image { base: 0x1000, bytes: &bytes[..2 * PAGE] };
        let mut window = Window::new();
        assert_eq!(window.get(&mut from, 0x1000, 9, 0x1008), Ok(None));
        assert_eq!(window.get(&mut from, 0x1009, 0, 0x1008), Ok(None));
        assert_eq!(window.get(&mut from, 0x1000, WINDOW + 1, u64::MAX), Ok(None));
        // The table's end is not known, and memory ends within what is read ahead.
        for at in (0..2 * PAGE as u64).step_by(8) {
            let got = window.get(&mut from, 0x1000 + at, 8, u64::MAX).unwrap().unwrap();
            let at = usize::try_from(at).unwrap();
            assert_eq!(got, &bytes[at..at + 8]);
        }
        assert!(window.get(&mut from, 0x1000 + 8188, 8, u64::MAX).is_err());
        assert!(window.get(&mut from, u64::MAX, 1, u64::MAX).is_ok_and(|o| o.is_none()));
    }
}
