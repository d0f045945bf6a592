//! The victim program's known bytes, as `tests/guest/victim.c` makes them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::error::{Context as _, Res};

const PAGE: usize = 4096;

/// The output function of splitmix64.
#[must_use]
pub fn mix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What the victim printed about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its process number.
    pub pid: u32,
    /// First address of the heap.
    pub heap: u64,
    /// Pages of the heap.
    pub pages: u64,
    /// Its seed.
    pub seed: u64,
    /// kB of the heap in swap, by `/proc/self/smaps`.
    pub swapped_kb: u64,
    /// Frames of the known call chain.
    pub depth: u64,
}

impl Facts {
    /// Reads the victim's line of facts.
    ///
    /// # Errors
    /// When a fact is missing.
    pub fn parse(text: &str) -> Res<Self> {
        let line = text.lines().find(|l| l.contains("LB victim ")).ctx("the victim's facts")?;
        let number = |key: &str| {
            let value = line
                .split(' ')
                .filter_map(|w| w.split_once('='))
                .find(|(k, _)| *k == key)
                .map(|(_, v)| v.trim())?;
            match value.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => value.parse().ok(),
            }
        };
        let fact = |key: &str| number(key).ctx(format_args!("{key} in `{line}`"));
        Ok(Self {
            pid: u32::try_from(fact("pid")?).unwrap_or(0),
            heap: fact("heap")?,
            pages: fact("pages")?,
            seed: fact("seed")?,
            swapped_kb: fact("swapped_kb")?,
            depth: fact("depth")?,
        })
    }

    fn page(&self, number: u64) -> [u8; PAGE] {
        let mut page = [0u8; PAGE];
        let start = self.heap + number * PAGE as u64;
        for (at, word) in (start..).step_by(8).zip(page.chunks_exact_mut(8)) {
            word.copy_from_slice(&mix(self.seed ^ at).to_le_bytes());
        }
        page
    }

    /// Looks for every page of the heap, whole, at page boundaries of a file
    /// (those of a vmcore's segments are page-aligned); marks the found ones.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn find(&self, path: &Path, found: &mut [bool]) -> Res<u64> {
        let known: HashMap<[u8; 8], u64> = (0..self.pages)
            .map(|n| (mix(self.seed ^ (self.heap + n * PAGE as u64)).to_le_bytes(), n))
            .collect();
        let mut file = File::open(path).ctx(path.display())?;
        let mut buf = vec![0u8; 256 * PAGE];
        let mut count = 0;
        loop {
            let n = fill(&mut file, &mut buf).ctx(path.display())?;
            for page in buf.get(..n).unwrap_or_default().chunks_exact(PAGE) {
                let Some(&number) = page.first_chunk().and_then(|w| known.get(w)) else { continue };
                if page == self.page(number) {
                    count += 1;
                    if let Some(mark) = usize::try_from(number).ok().and_then(|n| found.get_mut(n))
                    {
                        *mark = true;
                    }
                }
            }
            if n < buf.len() {
                return Ok(count);
            }
        }
    }
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn fill(file: &mut File, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut have = 0;
    while let Some(rest) = buf.get_mut(have..).filter(|r| !r.is_empty()) {
        match file.read(rest)? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_pages_are_found_and_a_changed_one_is_not() {
        let facts = Facts::parse(
            "x\nLB victim pid=7 heap=0x7f0000000000 pages=3 seed=0x5 swapped_kb=8 depth=12\n",
        )
        .unwrap();
        assert_eq!((facts.pid, facts.pages, facts.swapped_kb), (7, 3, 8));
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bad = facts.page(1);
        bad[4000] ^= 1;
        let bytes = [[0u8; PAGE], facts.page(2), bad, facts.page(0)].concat();
        std::fs::write(file.path(), bytes).unwrap();
        let mut found = [false; 3];
        assert_eq!(facts.find(file.path(), &mut found).unwrap(), 2);
        assert_eq!(found, [true, false, true]);
    }
}
