//! Words of a dead machine's memory, overwritten and put back: memory is 16 MiB, and copying
//! it for each input would take longer than what is asked of it.

use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;

/// Bytes that one edit takes in an input: how and where, and what.
const EDIT: usize = 11;
/// Weighed places: an edit goes into one of eight.
const PLACES: usize = 8;

/// Where edits go, and which addresses they put there.
#[derive(Debug, Clone)]
pub struct Places {
    /// Physical stretches, of whole words, by weight.
    spans: [Range<u64>; PLACES],
    /// Addresses that mean something: of objects, of nodes.
    aims: Vec<u64>,
    /// Where the kernel sees physical address 0.
    direct: u64,
}

impl Places {
    /// Half of all edits go into `objects`, a quarter into `pages` (of `struct page`), the
    /// others into `image` (symbols, types) and `tables` (page tables). Of each, only what
    /// is used.
    #[must_use]
    pub fn new(memory: &[u8], parts: [Range<u64>; 4], aims: Vec<u64>, direct: u64) -> Self {
        let [objects, pages, image, tables] = parts.map(|part| used(memory, part));
        let o = || objects.clone();
        let spans = [o(), o(), o(), o(), pages.clone(), pages, image, tables];
        Self { spans, aims, direct }
    }

    /// Overwrites words, each by 11 bytes of the input: wild, with an address within the
    /// objects, with one that means something, or its low byte only. Gives what was there.
    pub fn overwrite(&self, memory: &mut [u8], data: &[u8]) -> Vec<(usize, [u8; 8])> {
        let mut before = Vec::new();
        let objects = &self.spans[0];
        for edit in data.chunks_exact(EDIT) {
            let value = u64::from_le_bytes(edit[3..].try_into().expect("eight bytes"));
            let span = &self.spans[usize::from(edit[0] >> 2) % PLACES];
            let place = u64::from(u16::from_le_bytes([edit[1], edit[2]]));
            let at = span.start + place % ((span.end - span.start) / 8) * 8;
            let at = usize::try_from(at).expect("within memory");
            let word = &mut memory[at..at + 8];
            let old: [u8; 8] = word.try_into().expect("eight bytes");
            let value = match edit[0] % 4 {
                0 => value,
                1 => self.direct + objects.start + value % (objects.end - objects.start),
                2 => {
                    let aim = self.aims[usize::from(edit[0] >> 5) % self.aims.len()];
                    aim.wrapping_add(value % 512)
                }
                _ => u64::from_le_bytes(old) ^ value & 0xff,
            };
            word.copy_from_slice(&value.to_le_bytes());
            before.push((at, old));
        }
        before
    }

    /// Puts back what was there, the last first.
    pub fn restore(memory: &mut [u8], before: Vec<(usize, [u8; 8])>) {
        for (at, old) in before.into_iter().rev() {
            memory[at..at + 8].copy_from_slice(&old);
        }
    }
}

/// A stretch up to the last word of it that is not zero.
fn used(memory: &[u8], part: Range<u64>) -> Range<u64> {
    let place = |at: u64| usize::try_from(at).expect("within memory");
    let bytes = &memory[place(part.start)..place(part.end)];
    let len = bytes.iter().rposition(|b| *b != 0).map_or(8, |last| last + 1);
    part.start..part.start + len.next_multiple_of(8) as u64
}

/// A file that keeps nothing: one of a damaged machine may be terabytes.
#[derive(Debug)]
pub struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Nowhere {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        Ok(if let SeekFrom::Start(at) = to { at } else { 0 })
    }
}
