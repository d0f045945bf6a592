//! Process cores, read here without the project's own code, and held page by page
//! against what the guest recorded of the process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

use crate::error::{Context as _, Res, ensure};
use crate::record::{Area, Contents, PAGE, Page, Process, Record, State, hash};

/// Bytes of a page, for arrays.
pub const SIZE: usize = 4096;
/// Hash of a page of zeros.
static ZEROS: LazyLock<u64> = LazyLock::new(|| hash(&[0; SIZE]));
/// Most program headers that are read.
const MOST: u64 = 1 << 20;

/// A PT_LOAD: addresses that the file holds, and where.
#[derive(Debug, Clone)]
struct Load {
    at: Range<u64>,
    offset: u64,
}

/// A note of a core.
#[derive(Debug, Clone)]
pub struct Note {
    /// Its type, such as 1 for NT_PRSTATUS.
    pub kind: u32,
    /// What it holds.
    pub data: Vec<u8>,
}

/// A process's core.
#[derive(Debug)]
pub struct UserCore {
    file: File,
    loads: Vec<Load>,
    /// All notes, in their order.
    pub notes: Vec<Note>,
}

impl UserCore {
    /// Opens a core and reads its headers.
    ///
    /// # Errors
    /// When it is no 64-bit ELF core.
    pub fn open(path: &Path) -> Res<Self> {
        let file = File::open(path).ctx(path.display())?;
        let mut head = [0u8; 64];
        file.read_exact_at(&mut head, 0).ctx(path.display())?;
        ensure(head.starts_with(b"\x7fELF\x02\x01"), "the core is no 64-bit ELF file")?;
        ensure(number(&head, 16, 2) == 4, "the core's type is not ET_CORE")?;
        let mut count = number(&head, 56, 2);
        if count == 0xffff {
            // PN_XNUM: the count is `sh_info` of section header 0 (elf(5)).
            let mut section = [0u8; 64];
            file.read_exact_at(&mut section, number(&head, 40, 8)).ctx("section header 0")?;
            count = number(&section, 44, 4);
        }
        ensure(count <= MOST, format_args!("{count} program headers"))?;
        let mut headers = vec![0u8; usize::try_from(count * 56).unwrap_or(0)];
        file.read_exact_at(&mut headers, number(&head, 32, 8)).ctx("the program headers")?;
        let mut core = Self { file, loads: Vec::new(), notes: Vec::new() };
        for ph in headers.chunks_exact(56) {
            let (offset, at, size) = (number(ph, 8, 8), number(ph, 16, 8), number(ph, 32, 8));
            match number(ph, 0, 4) {
                1 => core.loads.push(Load { at: at..at.saturating_add(size), offset }),
                4 => core.read_notes(offset, size)?,
                _ => {}
            }
        }
        core.loads.sort_by_key(|l| l.at.start);
        let apart = core.loads.windows(2).all(|w| matches!(w, [a, b] if a.at.end <= b.at.start));
        ensure(apart, "the core's segments overlap")?;
        Ok(core)
    }

    fn read_notes(&mut self, offset: u64, size: u64) -> Res<()> {
        ensure(size <= 1 << 28, format_args!("notes of {size} bytes"))?;
        let mut bytes = vec![0u8; usize::try_from(size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset).ctx("the notes")?;
        let mut rest = bytes.as_slice();
        while rest.len() >= 12 {
            let [name, data, kind] = [0, 4, 8].map(|at| number(rest, at, 4));
            let from = usize::try_from(12 + name.next_multiple_of(4)).unwrap_or(usize::MAX);
            let len = usize::try_from(data).unwrap_or(usize::MAX);
            let held = rest.get(from..).and_then(|r| r.get(..len)).ctx("a note that is cut")?;
            self.notes.push(Note { kind: u32::try_from(kind).unwrap_or(0), data: held.to_vec() });
            let next = from.saturating_add(len.next_multiple_of(4));
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads a page; `false`: the file does not hold it.
    ///
    /// # Errors
    /// When the file is cut.
    pub fn page(&self, at: u64, out: &mut [u8; SIZE]) -> Res<bool> {
        let behind = self.loads.partition_point(|l| l.at.start <= at);
        let load = behind.checked_sub(1).and_then(|n| self.loads.get(n));
        let Some(load) = load.filter(|l| l.at.end.saturating_sub(at) >= PAGE) else {
            return Ok(false);
        };
        let from = load.offset + (at - load.at.start);
        self.file.read_exact_at(out, from).ctx(format_args!("page {at:#x} of the core"))?;
        Ok(true)
    }

    /// Addresses of all pages that the file holds.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.loads.iter().flat_map(|l| (l.at.start..l.at.end).step_by(4096))
    }

    /// General registers of each thread, as NT_PRSTATUS has them: number of the thread and
    /// the 27 words of `user_regs_struct`.
    #[must_use]
    pub fn threads(&self) -> Vec<(u64, Vec<u64>)> {
        let status = self.notes.iter().filter(|n| n.kind == 1);
        status
            .map(|n| {
                let regs = (0..27).map(|r| number(&n.data, 112 + r * 8, 8)).collect();
                (number(&n.data, 32, 4), regs)
            })
            .collect()
    }
}

/// A little-endian number of `len` bytes; 0 where there are none.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let part = bytes.get(at..at + len).unwrap_or_default();
    part.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// What `lifeboat core --report` says.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Pages by kind.
    pub pages: BTreeMap<String, u64>,
    /// Whether all mappings were found: of others, no hole tells.
    pub all_mappings: bool,
    /// What else is missing, in words.
    pub problems: Vec<String>,
    holes: Vec<(Range<u64>, String)>,
}

impl Report {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not of the form that README.md tells.
    pub fn read(path: &Path) -> Res<Self> {
        let text = std::fs::read_to_string(path).ctx(path.display())?;
        let json: Value = serde_json::from_str(&text).ctx(path.display())?;
        let mut out = Self::default();
        for (kind, n) in json.get("pages").and_then(Value::as_object).ctx("`pages`")? {
            out.pages.insert(kind.clone(), n.as_u64().ctx(kind)?);
        }
        let all = json.get("all_mappings").and_then(Value::as_bool);
        out.all_mappings = all.ctx("`all_mappings`")?;
        let problems = json.get("problems").and_then(Value::as_array).ctx("`problems`")?;
        out.problems = problems.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        for hole in json.get("holes").and_then(Value::as_array).ctx("`holes`")? {
            let get = |key: &str| hole.get(key).and_then(Value::as_u64).ctx(key);
            let (at, pages) = (get("address")?, get("pages")?);
            let reason = hole.get("reason").and_then(Value::as_str).ctx("`reason`")?;
            out.holes.push((at..at.saturating_add(pages * PAGE), reason.to_owned()));
        }
        out.holes.sort_by_key(|(r, _)| r.start);
        Ok(out)
    }

    /// Why a page is not there, where the report says so.
    #[must_use]
    pub fn why(&self, at: u64) -> Option<&str> {
        let behind = self.holes.partition_point(|(r, _)| r.start <= at);
        let hole = behind.checked_sub(1).and_then(|n| self.holes.get(n));
        let lost = (!self.all_mappings).then_some("in a mapping that was not found");
        hole.filter(|(range, _)| range.contains(&at)).map(|(_, why)| why.as_str()).or(lost)
    }
}

/// What a comparison counted, for pages of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// In the core as the process had them.
    pub equal: u64,
    /// Not in the core, and reported.
    pub holes: u64,
    /// In the core, but other bytes.
    pub different: u64,
    /// Not in the core, and nobody said so.
    pub silent: u64,
    /// Nobody knows what they held.
    pub unknown: u64,
}

/// A comparison of a core with the record of its process.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// By where the guest had the pages.
    pub kinds: BTreeMap<String, Tally>,
    /// Reasons of the holes, with their number.
    pub reasons: BTreeMap<String, u64>,
    /// Holes, by the kind of the page, that nothing excuses.
    pub unexcused: Vec<(u64, String)>,
    /// The first pages that differ or are silently missing.
    pub wrong: Vec<(u64, String)>,
}

/// What is known of the machine that died beside the record of one process.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The whole record.
    pub record: &'a Record,
    /// Path of a swap file whose file system was not captured: its pages may be missing.
    pub lost_swap: &'a str,
    /// A page that went on changing.
    pub moving: Option<u64>,
}

impl Verdict {
    /// No page differs, none is missing silently, and none is missing without an excuse.
    ///
    /// # Errors
    /// With the first pages of which that is not so.
    pub fn check(&self) -> Res<()> {
        ensure(self.equal("") > 0, "no page was compared")?;
        self.honest()?;
        ensure(
            self.unexcused.is_empty(),
            format_args!("{} pages missing: {:#?}", self.unexcused.len(), few(&self.unexcused)),
        )
    }

    /// No page differs, and none is missing silently: what must hold of any dump, however
    /// damaged.
    ///
    /// # Errors
    /// With the first pages of which that is not so.
    pub fn honest(&self) -> Res<()> {
        ensure(self.wrong.is_empty(), format_args!("false pages: {:#?}", few(&self.wrong)))
    }

    /// The counts as a table, and the reasons of the holes.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        for (kind, t) in &self.kinds {
            let _ = writeln!(
                out,
                "  {kind:24} {:6} equal {:6} holes {:3} different {:3} silent {:4} unknown",
                t.equal, t.holes, t.different, t.silent, t.unknown
            );
        }
        for (reason, n) in &self.reasons {
            let _ = writeln!(out, "  {n:6} holes: {reason}");
        }
        out
    }

    /// Pages of the kinds whose name begins so that are equal.
    #[must_use]
    pub fn equal(&self, kind: &str) -> u64 {
        self.kinds.iter().filter(|(k, _)| k.starts_with(kind)).map(|(_, t)| t.equal).sum()
    }
}

fn few(all: &[(u64, String)]) -> Vec<String> {
    all.iter().take(12).map(|(at, what)| format!("{at:#x} {what}")).collect()
}

/// Where the guest had a page, in a word or two.
fn kind(area: &Area, page: &Page, terms: &Terms<'_>) -> String {
    let what = if area.is_shared_memory() {
        "shared"
    } else if area.is_file() && (page.entry >> 61 & 1 == 1 || page.entry >> 62 == 0) {
        // Bit 61: the page is a file's, not a copy of it. One that is not mapped is too.
        "file"
    } else {
        "private"
    };
    let swap = || {
        let name = page.swap_type().and_then(|t| terms.record.swaps.get(t));
        name.map_or("unknown swap", String::as_str)
    };
    match page.state {
        State::Present => format!("{what}, present"),
        State::Swapped => format!("{what}, in {}", swap()),
        State::Cached => format!("{what}, in the cache"),
        State::Away => format!("{what}, away"),
    }
}

/// Whether a page may be missing: of a file whose page is in no cache, or in a swap file
/// that was not captured.
fn excused(area: &Area, page: &Page, terms: &Terms<'_>) -> bool {
    let lost = page.swap_type().and_then(|t| terms.record.swaps.get(t));
    let file_away = area.is_file() && page.state == State::Away;
    file_away || lost.is_some_and(|name| name == terms.lost_swap)
}

/// Compares every page of a process with its core.
///
/// # Errors
/// When the core cannot be read.
pub fn compare(
    core: &UserCore,
    process: &Process,
    report: &Report,
    terms: &Terms<'_>,
) -> Res<Verdict> {
    let mut out = Verdict::default();
    for area in process.areas.iter().filter(|a| !a.is_kernels()) {
        let mut pages = area.pages.iter().peekable();
        for at in (area.start..area.end).step_by(4096) {
            let page = pages.next_if(|p| p.at == at);
            if terms.moving != Some(at) {
                out.look(core, area, at, page, report, terms)?;
            }
        }
        ensure(pages.next().is_none(), format_args!("pages outside of {:#x}", area.start))?;
    }
    Ok(out)
}

impl Verdict {
    fn look(
        &mut self,
        core: &UserCore,
        area: &Area,
        at: u64,
        page: Option<&Page>,
        report: &Report,
        terms: &Terms<'_>,
    ) -> Res<()> {
        let mut bytes = [0u8; SIZE];
        let held = core.page(at, &mut bytes)?;
        if !held && page.is_none() && area.pages.is_empty() && report.why(at).is_none() {
            // The kernel's own cores leave out what was reserved and never touched.
            self.kinds.entry("never touched".to_owned()).or_default().unknown += 1;
            return Ok(());
        }
        let (name, wanted) = match page {
            // A page that came after all was looked at: khugepaged filled a hole of a huge page.
            Some(p) if p.contents == Contents::Unknown && area.inode == 0 => {
                (kind(area, p, terms), Contents::Known(*ZEROS))
            }
            Some(p) => (kind(area, p, terms), p.contents),
            // Private memory that nobody touched reads as zeros; of a file, nobody knows.
            None if area.inode == 0 => ("untouched".to_owned(), Contents::Known(*ZEROS)),
            None => ("file or shared, untouched".to_owned(), Contents::Unknown),
        };
        let tally = self.kinds.entry(name.clone()).or_default();
        match (held, wanted) {
            (_, Contents::Unknown | Contents::Unreadable) => tally.unknown += 1,
            (true, Contents::Known(known)) if known == hash(&bytes) => tally.equal += 1,
            (true, Contents::Known(_)) => {
                tally.different += 1;
                let shown = String::from_utf8_lossy(bytes.get(..32).unwrap_or_default());
                self.wrong.push((at, format!("{name}, differs, begins with {shown:?}")));
            }
            (false, Contents::Known(_)) => {
                let Some(why) = report.why(at) else {
                    tally.silent += 1;
                    self.wrong.push((at, format!("{name}, silently missing")));
                    return Ok(());
                };
                tally.holes += 1;
                *self.reasons.entry(why.to_owned()).or_default() += 1;
                if !page.is_some_and(|p| excused(area, p, terms)) {
                    self.unexcused.push((at, format!("{name}: {why}")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core with the pages `A` at 0x1000 and `B` at 0x3000.
    fn core(dir: &Path, b: u8) -> UserCore {
        let mut bytes = vec![0u8; 0x1000];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 4;
        bytes[32] = 64;
        bytes[56] = 2;
        for (n, at) in [0x1000u64, 0x3000].into_iter().enumerate() {
            let ph = 64 + n * 56;
            bytes[ph] = 1;
            bytes[ph + 8..ph + 16].copy_from_slice(&(0x1000 + n as u64 * 0x1000).to_le_bytes());
            bytes[ph + 16..ph + 24].copy_from_slice(&at.to_le_bytes());
            bytes[ph + 32..ph + 40].copy_from_slice(&0x1000u64.to_le_bytes());
        }
        bytes.extend([b'A'; 4096]);
        bytes.extend([b; 4096]);
        let path = dir.join("core");
        std::fs::write(&path, bytes).unwrap();
        UserCore::open(&path).unwrap()
    }

    fn page(at: u64, state: State, entry: u64, byte: u8) -> Page {
        Page { at, state, entry, contents: Contents::Known(hash(&[byte; 4096])) }
    }

    /// A report as `lifeboat core` writes it.
    fn report(dir: &Path, all: bool, holes: &str) -> Report {
        let path = dir.join("report");
        let text = format!(
            "{{\"pages\":{{}},\"all_mappings\":{all},\"problems\":[\"a thread\"],\"holes\":[{holes}]}}"
        );
        std::fs::write(&path, text).unwrap();
        Report::read(&path).unwrap()
    }

    fn judged(b: u8, all: bool, holes: &str, lost: &str) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let report = report(dir.path(), all, holes);
        let pages = vec![
            page(0x1000, State::Present, 1 << 63, b'A'),
            page(0x2000, State::Swapped, 1 << 62 | 1, b'X'),
            page(0x3000, State::Swapped, 1 << 62, b'B'),
        ];
        let area = Area { start: 0x1000, end: 0x4000, pages, ..Area::default() };
        let process = Process { areas: vec![area], ..Process::default() };
        let swaps = vec!["/dev/a".to_owned(), "/file".to_owned()];
        let record = Record { swaps, processes: Vec::new() };
        let terms = Terms { record: &record, lost_swap: lost, moving: None };
        compare(&core(dir.path(), b), &process, &report, &terms).unwrap()
    }

    const HOLE: &str = "{\"address\":8192,\"pages\":1,\"reason\":\"swap file\"}";

    #[test]
    fn a_hole_is_right_when_it_is_told_and_excused() {
        let good = judged(b'B', true, HOLE, "/file");
        good.check().unwrap();
        assert_eq!(good.kinds["private, in /file"].holes, 1);
        assert_eq!(good.equal("private, in /dev/a"), 1);
        assert_eq!(good.reasons["swap file"], 1);
        // Not told, not excused, and other bytes.
        judged(b'B', true, "", "/file").check().unwrap_err();
        judged(b'B', true, HOLE, "/other").check().unwrap_err();
        judged(b'C', true, HOLE, "/file").check().unwrap_err();
    }

    #[test]
    fn a_lost_mapping_must_be_told_and_excuses_no_other_bytes() {
        let lost = judged(b'B', false, "", "/file");
        lost.check().unwrap();
        assert_eq!(lost.reasons["in a mapping that was not found"], 1);
        judged(b'C', false, "", "/file").honest().unwrap_err();
        // A report that does not say whether all were found is none.
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(report(dir.path(), true, "").problems, ["a thread"]);
        let path = dir.path().join("report");
        std::fs::write(&path, "{\"pages\":{},\"problems\":[],\"holes\":[]}").unwrap();
        Report::read(&path).unwrap_err();
    }

    #[test]
    fn untouched_memory_must_read_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let pages = vec![page(0x3000, State::Present, 1 << 63, b'B')];
        let area = Area { start: 0x1000, end: 0x4000, pages, ..Area::default() };
        let process = Process { areas: vec![area], ..Process::default() };
        let terms = Terms { record: &Record::default(), lost_swap: "", moving: None };
        let found = compare(&core(dir.path(), b'B'), &process, &Report::default(), &terms);
        found.unwrap().check().unwrap_err();
    }
}
