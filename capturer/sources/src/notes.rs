//! ELF notes in a buffer, and the joining of many PT_NOTE segments into one stream.
//!
//! A note is `namesz: u32, descsz: u32, type: u32`, the name and the description,
//! each padded to 4 bytes. A note with `namesz` 0 ends a segment: the kernel leaves
//! zeros where a CPU saved nothing, and `/proc/vmcore` stops there too
//! (`update_note_header_size_elf64()` in `fs/proc/vmcore.c`).

use crate::bytes::le32;

/// Bytes of an `Elf64_Nhdr`.
const HEAD: usize = 12;
/// Most bytes of one PT_NOTE segment that are looked at. A CPU's note takes about
/// 360 bytes, VMCOREINFO up to 4 KiB; a merged segment holds one for each CPU.
pub const MAX_SEGMENT: usize = 4 << 20;
/// Most bytes of all notes together.
pub const MAX_TOTAL: usize = 4 << 20;
/// `n_type` of a CPU's registers.
pub const NT_PRSTATUS: u32 = 1;

/// One note, borrowed from its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note<'a> {
    /// The name without its closing NUL, such as `CORE` or `VMCOREINFO`.
    pub name: &'a [u8],
    /// `n_type`.
    pub kind: u32,
    /// The description.
    pub desc: &'a [u8],
}

/// Iterator over notes. Ends at the first note that is empty or does not fit.
#[derive(Debug, Clone)]
pub struct Notes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Notes<'a> {
    /// The notes in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes of the notes given so far; behind the last one, the length of the valid stream.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.at
    }

    fn take(&mut self) -> Option<Note<'a>> {
        let rest = self.bytes.get(self.at..)?;
        let name_len = usize::try_from(le32(rest, 0)?).ok()?;
        let desc_len = usize::try_from(le32(rest, 4)?).ok()?;
        let kind = le32(rest, 8)?;
        if name_len == 0 {
            return None;
        }
        // Both come from 32 bits: no sum here overflows 64.
        let desc_at = HEAD + name_len.next_multiple_of(4);
        let end = desc_at + desc_len.next_multiple_of(4);
        let name = rest.get(HEAD..HEAD + name_len)?;
        let desc = rest.get(desc_at..desc_at + desc_len)?;
        rest.get(..end)?;
        self.at += end;
        Some(Note { name: name.strip_suffix(b"\0").unwrap_or(name), kind, desc })
    }
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let note = self.take();
        if note.is_none() {
            // Nothing can follow; do not look again.
            self.bytes = self.bytes.get(..self.at).unwrap_or_default();
        }
        note
    }
}

/// The text of VMCOREINFO in a stream of notes.
#[must_use]
pub fn vmcoreinfo(notes: &[u8]) -> Option<&[u8]> {
    Notes::new(notes).find(|n| n.name == b"VMCOREINFO").map(|n| n.desc)
}

/// Bytes of `segment` up to the end of its last whole note.
#[must_use]
pub fn valid_len(segment: &[u8]) -> usize {
    let mut notes = Notes::new(segment);
    while notes.next().is_some() {}
    notes.consumed()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u32::try_from(name.len() + 1).unwrap().to_le_bytes());
        out.extend(u32::try_from(desc.len()).unwrap().to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(name.as_bytes());
        out.resize((out.len() + 1).next_multiple_of(4), 0);
        out.extend(desc);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn reads_notes_until_the_empty_one() {
        let mut all = note("CORE", NT_PRSTATUS, &[7; 336]);
        all.extend(note("VMCOREINFO", 0, b"OSRELEASE=6.1.0\n"));
        let valid = all.len();
        all.extend([0; 64]);
        all.extend(note("CORE", NT_PRSTATUS, &[8; 8]));
        let found: Vec<_> = Notes::new(&all).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name, found[0].kind, found[0].desc.len()), (&b"CORE"[..], 1, 336));
        assert_eq!(valid_len(&all), valid);
        assert_eq!(vmcoreinfo(&all), Some(&b"OSRELEASE=6.1.0\n"[..]));
    }

    #[test]
    fn a_note_that_does_not_fit_ends_the_stream() {
        let mut all = note("CORE", 1, &[7; 8]);
        let valid = all.len();
        all.extend([5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, b'C', 0, 0, 0]);
        assert_eq!(valid_len(&all), valid);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let n = Notes::new(&bytes).count();
            prop_assert!(n <= bytes.len() / HEAD);
            prop_assert!(valid_len(&bytes) <= bytes.len());
        }

        #[test]
        fn round_trip(parts in proptest::collection::vec(
            ("[A-Z]{1,9}", any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..9)) {
            let all: Vec<u8> =
                parts.iter().flat_map(|(n, k, d)| note(n, *k, d)).collect();
            let back: Vec<_> = Notes::new(&all)
                .map(|n| (String::from_utf8(n.name.to_vec()).unwrap(), n.kind, n.desc.to_vec()))
                .collect();
            prop_assert_eq!(back, parts);
            prop_assert_eq!(valid_len(&all), all.len());
        }
    }
}
