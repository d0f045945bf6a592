//! The programs and libraries that a process ran: their paths and build ids, so that the
//! very files can be fetched, and how much of them the dump has.

use std::collections::HashMap;

use crate::PAGE;
use crate::files::buildid::{self, Identity};
use crate::files::{Cached, Path};

use super::Dead;

const PAGE64: u64 = PAGE as u64;

/// A file of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its path.
    pub path: Path,
    /// Where its first mapping begins.
    pub start: u64,
    /// Behind its last mapping.
    pub end: u64,
    /// Whether any of it may be executed.
    pub executable: bool,
    /// What it says of itself.
    pub identity: Identity,
    /// Pages of the file.
    pub pages: u64,
    /// How many of them are in the page cache.
    pub cached: u64,
}

/// The files that a process mapped, in order of address. Those that are no ELF files are
/// among them, with [`Identity::NotElf`].
#[must_use]
pub fn libraries(tools: &super::Tools<'_, '_>, dead: &Dead<'_, '_, '_>) -> Vec<Library> {
    let paths: HashMap<u64, &Path> = dead.paths.iter().map(|(start, p)| (*start, p)).collect();
    let mut out: Vec<Library> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for map in dead.memory.maps() {
        let (Some(Ok(file)), Some(path)) = (map.file, paths.get(&map.vma.start)) else { continue };
        let known = places.get(&file.addr).and_then(|n| out.get_mut(*n));
        if let Some(one) = known {
            one.end = map.vma.end;
            one.executable |= map.vma.flags.exec();
            continue;
        }
        places.insert(file.addr, out.len());
        let from_start = (map.vma.offset == 0).then_some((map.vma.start, map.vma.end));
        let read = |at: u64, buf: &mut [u8]| read_file(tools, dead, &file, from_start, at, buf);
        let pages = file.size.div_ceil(PAGE64);
        out.push(Library {
            path: (*path).clone(),
            start: map.vma.start,
            end: map.vma.end,
            executable: map.vma.flags.exec(),
            identity: buildid::of(read),
            pages,
            cached: tools.cache().held(&file).min(pages),
        });
    }
    out
}

/// Bytes of a file: out of the page cache, else as the process had them mapped.
fn read_file(
    tools: &super::Tools<'_, '_>,
    dead: &Dead<'_, '_, '_>,
    file: &crate::files::Mapping,
    mapped: Option<(u64, u64)>,
    at: u64,
    buf: &mut [u8],
) -> bool {
    let (mut place, mut rest) = (at, &mut *buf);
    while !rest.is_empty() {
        let inside = usize::try_from(place % PAGE64).unwrap_or(0);
        let (now, later) = rest.split_at_mut(rest.len().min(PAGE - inside));
        let mut page = [0; PAGE];
        let cached = tools.cache().read(file, place / PAGE64, &mut page);
        let from = page.get(inside..inside + now.len());
        match (cached, from) {
            (Ok(Cached::Page(_)), Some(from)) => now.copy_from_slice(from),
            _ => {
                // Where the process mapped it from its start on.
                let addr = mapped.and_then(|(start, end)| {
                    let addr = start.checked_add(place)?;
                    (addr.checked_add(now.len() as u64)? <= end).then_some(addr)
                });
                if addr.is_none_or(|addr| dead.memory.read(addr, now).is_err()) {
                    return false;
                }
            }
        }
        place = match place.checked_add(now.len() as u64) {
            Some(next) => next,
            None => return false,
        };
        rest = later;
    }
    true
}
