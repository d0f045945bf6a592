//! One dump over several extents: logical offsets to places on devices.
//!
//! What lies in a part that is not here is an error to read and a hole to ask for
//! ([`ReadAt::hole`]), never zeros. Where the first part is not here, or its first
//! sectors cannot be read, another part's head gives header and key area.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use lifeboat_format::header::HEADER_LEN;

use super::ReadAt;
use super::read_at::fetch_early;

const HEADER: u64 = HEADER_LEN as u64;

/// The bytes of a dump in one extent.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Logical offset of the first byte.
    pub base: u64,
    /// Bytes of the dump that it may hold.
    pub len: u64,
    /// The device or file.
    pub file: Arc<File>,
    /// Where the first byte lies in `file`.
    pub at: u64,
    /// Where `file` holds a copy of header and key area; parts behind the first.
    pub head: Option<u64>,
}

/// Several extents as one dump.
#[derive(Debug)]
pub struct Parts {
    /// By base; each ends where the next one begins.
    extents: Vec<Extent>,
}

impl Parts {
    /// Puts extents together. Where one reaches into the next, the next one holds: the
    /// device of the first failed there.
    #[must_use]
    pub fn new(mut extents: Vec<Extent>) -> Self {
        extents.sort_by_key(|e| e.base);
        let bases: Vec<u64> = extents.iter().skip(1).map(|e| e.base).collect();
        for (e, next) in extents.iter_mut().zip(bases) {
            e.len = e.len.min(next.saturating_sub(e.base));
        }
        Self { extents }
    }

    /// What is not here, as logical offsets, between byte 0 and the end of the last extent.
    #[must_use]
    pub fn holes(&self) -> Vec<Range<u64>> {
        let (mut at, mut out) = (0, Vec::new());
        for e in &self.extents {
            if e.base > at {
                out.push(at..e.base);
            }
            at = at.max(e.base.saturating_add(e.len));
        }
        out
    }

    /// The extent that holds `off`, or the offset where the next one begins.
    fn find(&self, off: u64) -> Result<&Extent, Option<u64>> {
        let index = self.extents.partition_point(|e| e.base <= off);
        let next = self.extents.get(index).map(|e| e.base);
        let here = index.checked_sub(1).and_then(|i| self.extents.get(i));
        here.filter(|e| off - e.base < e.len).ok_or(next)
    }

    fn read_stretch(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = off + done as u64;
            let e = self.find(at).map_err(|next| match next {
                Some(_) => io::Error::new(
                    io::ErrorKind::NotFound,
                    "this part of the dump is on a volume that was not given",
                ),
                None => io::ErrorKind::UnexpectedEof.into(),
            })?;
            let left = e.len - (at - e.base);
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len() - done);
            let space = buf.get_mut(done..done + take).unwrap_or_default();
            let place = e.at.checked_add(at - e.base).ok_or(io::ErrorKind::InvalidInput)?;
            e.file.read_exact_at(space, place)?;
            done += take;
        }
        Ok(())
    }

    /// Header and key area from another part's head.
    fn read_head(&self, off: u64, buf: &mut [u8]) -> Option<()> {
        let end = off.checked_add(buf.len() as u64)?;
        if end > HEADER {
            return None;
        }
        self.extents.iter().find_map(|e| {
            let at = e.head?.checked_add(off)?;
            e.file.read_exact_at(buf, at).ok()
        })
    }
}

impl ReadAt for Parts {
    fn len(&self) -> u64 {
        self.extents.last().map_or(0, |e| e.base.saturating_add(e.len))
    }

    fn read_exact_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let inside = off.checked_add(buf.len() as u64).is_some_and(|end| end <= self.len());
        if !inside {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The part of it that is the header may come from elsewhere.
        let head = usize::try_from(HEADER.saturating_sub(off)).unwrap_or(0).min(buf.len());
        let (front, rest) = buf.split_at_mut(head);
        if let Err(e) = self.read_stretch(off, front) {
            self.read_head(off, front).ok_or(e)?;
        }
        self.read_stretch(off + head as u64, rest)
    }

    fn will_read(&self, off: u64, len: u64) {
        // What lies behind the extent's end is left to the read itself.
        if let Ok(e) = self.find(off)
            && let Some(at) = e.at.checked_add(off - e.base)
        {
            fetch_early(&e.file, at, len.min(e.len - (off - e.base)));
        }
    }

    fn hole(&self, off: u64) -> Option<u64> {
        self.find(off).err().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        Arc::new(file)
    }

    fn pattern(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|i| ((i * 7 + i / 251 + seed) % 256).try_into().unwrap()).collect()
    }

    #[test]
    fn parts_read_as_one_and_holes_do_not_read() {
        let whole = pattern(100_000, 1);
        let a = file(&[&pattern(100, 9), &whole[..40_000]].concat());
        // The second one's device holds a header copy in front.
        let b = file(&[&whole[..16384], &whole[30_000..60_000]].concat());
        let c = file(&whole[80_000..]);
        let extent = |base: usize, len: usize, file: &Arc<File>, at, head| Extent {
            base: base as u64,
            len: len as u64,
            file: Arc::clone(file),
            at,
            head,
        };
        let second = extent(30_000, 30_000, &b, 16384, Some(0));
        let third = extent(80_000, 20_000, &c, 0, None);
        let all = Parts::new(vec![third.clone(), extent(0, 40_000, &a, 100, None), second.clone()]);
        assert_eq!(all.len(), 100_000);
        assert_eq!(all.holes(), vec![60_000..80_000; 1]);
        assert_eq!(
            (all.hole(59_999), all.hole(60_000), all.hole(80_000)),
            (None, Some(80_000), None)
        );
        let mut buf = vec![0; 60_000];
        all.read_exact_at(0, &mut buf).unwrap();
        assert!(buf == whole[..60_000]);
        let mut one = [0; 2];
        assert_eq!(
            all.read_exact_at(59_999, &mut one).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            all.read_exact_at(99_999, &mut one).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        // Without the first part: the header, and nothing more up to the second.
        let rest = Parts::new(vec![second, third]);
        assert_eq!(rest.holes(), [0..30_000, 60_000..80_000]);
        let mut head = vec![0; 16384];
        rest.read_exact_at(0, &mut head).unwrap();
        assert!(head == whole[..16384]);
        assert!(rest.read_exact_at(16384, &mut one).is_err());
        assert!(rest.read_exact_at(16383, &mut one).is_err());
    }
}
