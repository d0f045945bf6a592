//! Fingerprints of pages, to store identical ones once.
//!
//! UMASH (Khuong, Backtrace, 2020) is an almost universal hash with a proof: two given
//! pages that differ have the same 128-bit fingerprint under a random key with a chance
//! of less than 2^-70. A capture of 16 TiB compares less than 2^35 pairs, so the chance
//! that one page of such a dump is wrong is below 2^-35, one in 34 thousand million
//! dumps. The key is random for each dump and never leaves memory, so nobody who fills
//! memory can prepare pages that collide. This refuses processors without carry-less
//! multiplication, which UMASH needs.

use umash::Params;

/// Prints pages under the key of one dump.
pub struct PagePrint(Box<Params>);

impl PagePrint {
    /// Prints under `key`, which is random and used for this one dump. `None` on a
    /// processor that cannot.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Option<Self> {
        can_multiply().then(|| Self(Box::new(Params::derive(0, key))))
    }

    /// The print of a page. Allocates nothing.
    #[must_use]
    pub fn print(&self, page: &[u8]) -> u128 {
        let mut hasher = self.0.fingerprinter(0);
        hasher.write(page);
        let print = hasher.digest();
        (u128::from(print.hash()) << 64) | u128::from(print.secondary())
    }
}

#[cfg(target_arch = "x86_64")]
fn can_multiply() -> bool {
    std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(not(target_arch = "x86_64"))]
fn can_multiply() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_or_another_key_changes_a_print() {
        let prints = PagePrint::new(&[7; 32]).unwrap();
        let mut page: Vec<u8> = (0..4096u32).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
        let first = prints.print(&page);
        assert_eq!(first, prints.print(&page));
        assert_ne!(first, PagePrint::new(&[8; 32]).unwrap().print(&page));
        let mut seen = std::collections::BTreeSet::from([first]);
        for bit in 0..4096 * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(prints.print(&page)), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
