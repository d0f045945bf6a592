//! makedumpfile, as a judge of what a filter keeps: Debian's own build, and its output
//! read here.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::error::{Context as _, Res, ensure, run};
use crate::provision::{self, Tool};

/// Debian's release to take it from (the stable one's 1.7.6 reads 6.12 wrongly), and the
/// oldest version that is right there.
const SUITE: &str = "forky";
const OLDEST: [u32; 3] = [1, 7, 8];

/// A makedumpfile that can run here.
#[derive(Debug, Clone)]
pub struct Makedumpfile {
    tool: Tool,
    /// Its version.
    pub version: String,
}

/// Fetches the packaged one, or finds it in the cache.
///
/// # Errors
/// When apt cannot give it.
pub fn packaged() -> Res<Tool> {
    provision::packaged("makedumpfile", SUITE, &format!("makedumpfile-{SUITE}"))
}

/// The version that `makedumpfile -v` names in `said`.
///
/// # Errors
/// When it is too old to be right on 6.12.
pub fn version(said: &str) -> Res<String> {
    let version = said.split_whitespace().skip_while(|w| *w != "version").nth(1).unwrap_or("?");
    let numbers: Vec<u32> = version.split('.').filter_map(|n| n.parse().ok()).collect();
    ensure(
        numbers.as_slice() >= OLDEST.as_slice(),
        format_args!("this makedumpfile is too old, 1.7.8 is needed:\n{said}"),
    )?;
    Ok(version.to_owned())
}

impl Makedumpfile {
    /// Fetches it, or finds it in the cache.
    ///
    /// # Errors
    /// When apt cannot give it or it is too old.
    pub fn get() -> Res<Self> {
        let tool = packaged()?;
        let version = version(&run(tool.command().arg("-v"))?)?;
        Ok(Self { tool, version })
    }

    /// Filters a vmcore with dump level `level` into a kdump-compressed file.
    ///
    /// # Errors
    /// When it fails.
    pub fn filter(&self, level: u8, from: &Path, to: &Path) -> Res<()> {
        let mut command = self.tool.command();
        command.args(["--message-level", "4", "-l", "-d", &level.to_string()]);
        run(command.args([from, to])).map(drop)
    }
}

/// What a kdump-compressed file says of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// No memory.
    Nothing,
    /// It was left out.
    Excluded,
    /// It is the one page of zeros that all zero pages share.
    Zero,
    /// Its contents are there.
    Data,
}

/// What a kdump-compressed file holds, for each pfn from 0 on
/// (`struct disk_dump_header` and `page_desc`, makedumpfile's `diskdump_mod.h`).
///
/// # Errors
/// When it is no such file.
pub fn held(path: &Path) -> Res<Vec<Held>> {
    let file = File::open(path).ctx(path.display())?;
    let mut head = [0u8; 464];
    file.read_exact_at(&mut head, 0).ctx(path.display())?;
    ensure(head.starts_with(b"KDUMP   "), format_args!("{} is no kdump file", path.display()))?;
    let word = |at: usize| {
        let bytes = head.get(at..at + 4).and_then(|b| b.try_into().ok());
        u64::from(bytes.map_or(0, u32::from_le_bytes))
    };
    let (block, sub, bitmaps) = (word(428), word(432), word(436));
    let start = (1 + sub) * block;
    let half = usize::try_from(bitmaps / 2 * block).unwrap_or_default();
    let (mut memory, mut there) = (vec![0u8; half], vec![0u8; half]);
    file.read_exact_at(&mut memory, start).ctx("bitmap 1")?;
    file.read_exact_at(&mut there, start + half as u64).ctx("bitmap 2")?;
    let descs = start + bitmaps * block;
    let mut stream = BufReader::with_capacity(1 << 20, &file);
    std::io::Seek::seek(&mut stream, std::io::SeekFrom::Start(descs)).ctx("descriptors")?;
    // All zero pages share the first page behind the descriptors.
    let bit = |map: &[u8], pfn: usize| map.get(pfn / 8).is_some_and(|b| b >> (pfn % 8) & 1 == 1);
    let pages = (0..half * 8).filter(|pfn| bit(&there, *pfn)).count() as u64;
    let zero = descs + pages * 24;
    let mut out = Vec::with_capacity(half * 8);
    for pfn in 0..half * 8 {
        if !bit(&there, pfn) {
            out.push(if bit(&memory, pfn) { Held::Excluded } else { Held::Nothing });
            continue;
        }
        let mut desc = [0u8; 24];
        stream.read_exact(&mut desc).ctx("a descriptor")?;
        let offset = desc.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        out.push(if offset == zero { Held::Zero } else { Held::Data });
    }
    Ok(out)
}
