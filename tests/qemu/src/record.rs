//! What the guest said of its processes right before it died: `tests/guest/record.c`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::disk::Part;
use crate::error::{Context as _, Res, ensure};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Where a page was, as `/proc/PID/pagemap` and mincore(2) tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Mapped.
    Present,
    /// Behind a swap entry.
    Swapped,
    /// Not mapped, but in the page cache of its file or shared memory.
    Cached,
    /// None of these.
    Away,
}

/// What a page held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Bytes with this hash, see [`hash`].
    Known(u64),
    /// It was not there to be read when contents were looked at.
    Unknown,
    /// It cannot be read, by the process neither.
    Unreadable,
}

/// A page that there is something to say of.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Its address.
    pub at: u64,
    /// Where it was.
    pub state: State,
    /// Its word of `/proc/PID/pagemap`
    /// (Documentation/admin-guide/mm/pagemap.rst).
    pub entry: u64,
    /// What it held.
    pub contents: Contents,
}

impl Page {
    /// Number of its swap device, where it is behind a swap entry: bits 0 to 4.
    #[must_use]
    pub fn swap_type(&self) -> Option<usize> {
        let kind = usize::try_from(self.entry & 31).ok()?;
        (self.state == State::Swapped).then_some(kind)
    }
}

/// A line of `/proc/PID/maps`, and its pages.
#[derive(Debug, Clone, Default)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// The one behind its last.
    pub end: u64,
    /// Such as `rw-p`.
    pub perms: String,
    /// Place in the file, in bytes.
    pub offset: u64,
    /// Major and minor number of the file system, in hexadecimal.
    pub dev: String,
    /// Inode, 0 where there is no file.
    pub inode: u64,
    /// Path or name.
    pub name: String,
    /// Pages that there is something to say of, ascending.
    pub pages: Vec<Page>,
}

impl Area {
    /// Whether its pages are a tmpfs's: file systems without a device have major 0.
    #[must_use]
    pub fn is_shared_memory(&self) -> bool {
        self.inode != 0 && self.dev.starts_with("00:")
    }

    /// Whether its pages come from a file on a disk.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.inode != 0 && !self.is_shared_memory()
    }

    /// Whether a core has nothing of it: the kernel's own pages for its vDSO, and the
    /// page of old system calls.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        ["[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(&self.name.as_str())
    }
}

/// A process.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// `/proc/PID/stat`.
    pub stat: String,
    /// `/proc/PID/smaps_rollup`: key and kB.
    pub smaps: Vec<(String, u64)>,
    /// Its memory.
    pub areas: Vec<Area>,
}

impl Process {
    /// A sum over all areas, in kB; 0 where the kernel has no such key.
    #[must_use]
    pub fn kb(&self, key: &str) -> u64 {
        self.smaps.iter().find(|(k, _)| k == key).map_or(0, |(_, kb)| *kb)
    }

    /// Name, state letter and parent of its line of `stat` (proc(5)).
    ///
    /// # Errors
    /// When the line is not of that form.
    pub fn facts(&self) -> Res<(String, String, u32)> {
        let parse = || {
            let (head, tail) = self.stat.rsplit_once(") ")?;
            let (_, name) = head.split_once(" (")?;
            let mut words = tail.split(' ');
            let state = words.next()?.to_owned();
            Some((name.to_owned(), state, words.next()?.parse().ok()?))
        };
        parse().ctx(format_args!("name, state and parent in `{}`", self.stat))
    }
}

/// The whole record.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Files of the swap devices, by their type number.
    pub swaps: Vec<String>,
    /// The processes.
    pub processes: Vec<Process>,
}

impl Record {
    /// Reads the record from a partition of a disk image.
    ///
    /// # Errors
    /// When it is not there, or not whole.
    pub fn read(disk: &Path, part: Part) -> Res<Self> {
        let mut file = File::open(disk).ctx(disk.display())?;
        file.seek(SeekFrom::Start(part.start)).ctx(disk.display())?;
        let mut lines = BufReader::new(file.take(part.len));
        let mut record = Self::default();
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            lines.read_until(b'\n', &mut bytes).ctx(disk.display())?;
            ensure(bytes.last() == Some(&b'\n'), "the record has no end")?;
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end_matches('\n');
            if line == "end" {
                return Ok(record);
            }
            record.add(line).ctx(format_args!("a line of the record: {line}"))?;
        }
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        let mut words = rest.split(' ').filter(|w| !w.is_empty());
        match kind {
            // The first line is the table's head.
            "swap" if rest.starts_with("Filename") => {}
            "swap" => self.swaps.push(words.next()?.split('\t').next()?.to_owned()),
            "process" => {
                self.processes.push(Process { pid: rest.parse().ok()?, ..Process::default() });
            }
            "stat" => self.processes.last_mut()?.stat = rest.to_owned(),
            "smaps" => {
                // The first line is an address range.
                if let Some((key, kb)) = rest.split_once(':')
                    && let Some(kb) = kb.split_whitespace().next().and_then(|n| n.parse().ok())
                {
                    self.processes.last_mut()?.smaps.push((key.to_owned(), kb));
                }
            }
            "area" => {
                let (start, end) = (hex(words.next()?)?, hex(words.next()?)?);
                let perms = words.next()?.to_owned();
                let offset = hex(words.next()?)?;
                let dev = words.next()?.to_owned();
                let inode = hex(words.next()?)?;
                // A path may hold spaces.
                let name = rest.splitn(7, ' ').nth(6).unwrap_or_default().to_owned();
                let pages = Vec::new();
                let area = Area { start, end, perms, offset, dev, inode, name, pages };
                self.processes.last_mut()?.areas.push(area);
            }
            "page" => {
                let at = hex(words.next()?)?;
                let state = match words.next()? {
                    "P" => State::Present,
                    "S" => State::Swapped,
                    "C" => State::Cached,
                    "N" => State::Away,
                    _ => return None,
                };
                let entry = hex(words.next()?)?;
                let contents = match words.next()? {
                    "-" => Contents::Unknown,
                    "!" => Contents::Unreadable,
                    known => Contents::Known(hex(known)?),
                };
                let page = Page { at, state, entry, contents };
                self.processes.last_mut()?.areas.last_mut()?.pages.push(page);
            }
            _ => return None,
        }
        Some(())
    }

    /// What was recorded of a process.
    ///
    /// # Errors
    /// When it is not in the record.
    pub fn process(&self, pid: u32) -> Res<&Process> {
        self.processes.iter().find(|p| p.pid == pid).ctx(format_args!("process {pid}, recorded"))
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The hash that the guest made of a page: its words of 8 bytes, mixed in turn.
#[must_use]
pub fn hash(page: &[u8]) -> u64 {
    page.chunks_exact(8).fold(0, |h, word| {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        crate::pattern::mix(h ^ word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const TEXT: &str = "swap Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
        swap /dev/vda1                               partition\t131068\t\t16384\t\t-2\n\
        swap /swapfile\tfile\t1\t1\t70\n\
        process 77\n\
        stat 77 (a (b) c) T 1 77 0 0 -1\n\
        smaps 55d0-7fff ---p 00000000 00:00 0 [rollup]\n\
        smaps Rss:                1234 kB\n\
        area 1000 4000 rw-p 0 00:00 0 \n\
        page 1000 P 8600000000012345 00000000000000ff\n\
        page 3000 S 4000000000000021 -\n\
        area 7000 8000 r--s 1000 fe:11 2a /a path\n\
        page 7000 N 0 !\n\
        end\n";

    fn read(text: &str) -> Res<Record> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"before").unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Record::read(file.path(), Part { start: 6, len: 4096 })
    }

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        let record = read(TEXT).unwrap();
        assert_eq!(record.swaps, ["/dev/vda1", "/swapfile"]);
        let process = record.process(77).unwrap();
        assert_eq!(process.facts().unwrap(), ("a (b) c".to_owned(), "T".to_owned(), 1));
        assert_eq!(process.kb("Rss"), 1234);
        let [anonymous, file] = &process.areas[..] else { panic!("{process:?}") };
        assert_eq!(anonymous.pages[0].contents, Contents::Known(255));
        assert_eq!(anonymous.pages[1].swap_type(), Some(1));
        assert_eq!((file.name.as_str(), file.inode, file.is_file()), ("/a path", 42, true));
        assert_eq!(file.pages[0].contents, Contents::Unreadable);
        read(TEXT.strip_suffix("end\n").unwrap()).unwrap_err();
        read(&TEXT.replace("page 7000 N", "page 7000 X")).unwrap_err();
        record.process(78).unwrap_err();
    }

    #[test]
    fn the_hash_sees_every_word_and_its_place() {
        let mut page = [0u8; 4096];
        let zero = hash(&page);
        page[4095] = 1;
        let last = hash(&page);
        page[4095] = 0;
        page[0] = 1;
        assert!(zero != last && hash(&page) != last && hash(&page) != zero);
    }
}
