//! Pages that are the same as one before: a table of bounded size.
//!
//! [`Twins`] remembers, of the pages stored last, a fingerprint of 128 bits and the page's
//! number. It never looks at contents: two pages with one fingerprint count as equal. So
//! the fingerprint must be a keyed one whose chance of a collision is known, see
//! [`Fingerprint`]. Each page is compared with [`WAYS`] others at most, so the 2^32 pages
//! of 16 TiB compare less than 2^35 pairs.

use std::sync::Mutex;

use lifeboat_format::Pfn;

/// Prints pages so that equal ones are equal, and others differ but for a chance that
/// the implementation states. One a worker.
pub trait Fingerprint {
    /// The print of a page of 4096 bytes.
    fn print(&mut self, page: &[u8]) -> u128;
}

/// Pages of a set: a print is looked for in one set.
const WAYS: usize = 5;

/// What is remembered of a page; in halves, so that nothing is wasted on alignment.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Zero for none: one page in 2^128 is never remembered.
    print: [u64; 2],
    pfn: u64,
}

/// One set; the oldest entry goes first. With its lock it takes two cache lines.
#[derive(Debug, Default)]
struct Set {
    entries: [Entry; WAYS],
    next: u8,
}

/// The table. Shared by all workers.
#[derive(Debug)]
pub struct Twins {
    sets: Box<[Mutex<Set>]>,
}

impl Set {
    fn find(&self, print: [u64; 2]) -> Option<Pfn> {
        let known = self.entries.iter().find(|e| e.print == print && print != [0; 2]);
        known.map(|e| Pfn(e.pfn))
    }
}

impl Twins {
    /// A table of at most `bytes` bytes; `None` for less than one set.
    #[must_use]
    pub fn new(bytes: usize) -> Option<Self> {
        let sets = bytes / size_of::<Mutex<Set>>();
        (sets > 0).then(|| Self { sets: (0..sets).map(|_| Mutex::default()).collect() })
    }

    /// The page that was met with this print, if it is known; else `pfn` is from now on.
    pub(crate) fn meet(&self, print: u128, pfn: Pfn) -> Option<Pfn> {
        let print = halves(print);
        let mut set = self.set(print)?.lock().ok()?;
        let known = set.find(print);
        if known.is_none() {
            let next = usize::from(set.next);
            if let Some(slot) = set.entries.get_mut(next) {
                *slot = Entry { print, pfn: pfn.0 };
            }
            set.next = if next + 1 < WAYS { set.next + 1 } else { 0 };
        }
        known
    }

    /// The page that was met with this print, without remembering another.
    pub(crate) fn find(&self, print: u128) -> Option<Pfn> {
        let print = halves(print);
        self.set(print)?.lock().ok()?.find(print)
    }

    fn set(&self, [high, _]: [u64; 2]) -> Option<&Mutex<Set>> {
        let index = (u128::from(high) * self.sets.len() as u128) >> 64;
        self.sets.get(usize::try_from(index).ok()?)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "these are the two halves")]
fn halves(print: u128) -> [u64; 2] {
    [(print >> 64) as u64, print as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(n: u64) -> u128 {
        let x = u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (x << 64) | u128::from(n.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    #[test]
    fn the_first_of_twins_is_told_until_it_is_forgotten() {
        let twins = Twins::new(64 << 10).unwrap();
        for n in 1..200 {
            assert_eq!(twins.meet(print(n), Pfn(n)), None, "page {n}");
            assert_eq!(twins.meet(print(n), Pfn(n + 1000)), Some(Pfn(n)));
            assert_eq!(twins.find(print(n)), Some(Pfn(n)));
        }
        for n in 200..20_000 {
            twins.meet(print(n), Pfn(n));
        }
        let left = (1..200).filter(|n| twins.find(print(*n)).is_some()).count();
        assert!(left < 20, "{left} of 199 outlived a hundred times as many");
    }

    #[test]
    fn only_the_whole_print_makes_twins() {
        let twins = Twins::new(160).unwrap();
        assert_eq!(twins.meet(print(7), Pfn(7)), None);
        for bit in 0..128 {
            assert_eq!(twins.find(print(7) ^ (1 << bit)), None, "bit {bit}");
        }
        assert_eq!(twins.meet(0, Pfn(9)), None);
        assert_eq!(twins.find(0), None, "zero is the mark of an empty entry");
        assert!(Twins::new(10).is_none());
    }
}
