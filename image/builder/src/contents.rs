//! The list of the initramfs' contents, and the archive it makes.

use std::collections::BTreeMap;

use crate::cpio::{Archive, Kind};
use crate::failure::Failure;

/// Window of the compressed initramfs, as a power of two: what the kernel
/// allocates to unpack it.
const WINDOW_LOG: u32 = 17;
const LEVEL: i32 = 19;

/// Things that the builder made, by the name they have in the list.
pub(crate) type Made = BTreeMap<&'static str, Vec<u8>>;

/// The archive that `list` describes, uncompressed.
pub(crate) fn archive(list: &str, made: &Made) -> Result<Vec<u8>, Failure> {
    let mut out = Archive::new();
    let mut paths: Vec<&str> = Vec::new();
    for (n, line) in list.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let bad = |why: &str| {
            Failure::new(format!("initramfs/contents.list:{}: {why}\n  | {line}", n + 1))
                .hint("a line is `dir PATH MODE`, `nod PATH MODE c MAJOR MINOR` or `file PATH MODE @NAME [optional]`")
        };
        let Some((path, mode, kind)) = entry(&words, made).map_err(|why| bad(&why))? else {
            continue;
        };
        let parent = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        if !parent.is_empty() && !paths.contains(&parent) {
            return Err(bad("its directory is not in the list above it"));
        }
        if paths.contains(&path) {
            return Err(bad("the same path twice"));
        }
        paths.push(path);
        out.add(path, mode, &kind).map_err(bad)?;
    }
    out.finish().map_err(Failure::new)
}

type Entry<'l> = (&'l str, u32, Kind);

/// One line of the list; `None` for an optional file that there is not.
fn entry<'l>(words: &[&'l str], made: &Made) -> Result<Option<Entry<'l>>, String> {
    let (Some(kind), Some(path), Some(mode)) = (words.first(), words.get(1), words.get(2)) else {
        return Err("too few words".to_owned());
    };
    let rest = words.get(3..).unwrap_or_default();
    let path = path.strip_prefix('/').ok_or("a path starts with a slash")?;
    if path.is_empty() || path.split('/').any(|p| p.is_empty() || p == "." || p == "..") {
        return Err("not a plain absolute path".to_owned());
    }
    let mode = u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o7777);
    let mode = mode.ok_or("the mode is not an octal number up to 7777")?;
    let kind = match (*kind, rest) {
        ("dir", []) => Kind::Dir,
        ("nod", ["c", major, minor]) => {
            let number = |t: &str| t.parse::<u32>().map_err(|_| "a device number is not a number");
            Kind::Char { major: number(major)?, minor: number(minor)? }
        }
        ("file", [source, end @ ..]) => {
            let name = source.strip_prefix('@').ok_or("a file comes from @NAME")?;
            match (made.get(name), end) {
                (Some(data), [] | ["optional"]) => Kind::File(data.clone()),
                (None, ["optional"]) => return Ok(None),
                (None, []) => return Err(format!("the builder makes no `{name}`")),
                _ => return Err("a word too many".to_owned()),
            }
        }
        _ => return Err("not a known kind of line".to_owned()),
    };
    Ok(Some((path, mode, kind)))
}

/// Compresses an archive so that the kernel can unpack it with little memory.
pub(crate) fn compress(archive: &[u8]) -> Result<Vec<u8>, Failure> {
    use std::io::Write as _;
    let pack = || -> std::io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        // A frame that states its size may use all of it as its window.
        encoder.include_contentsize(false)?;
        encoder.write_all(archive)?;
        encoder.finish()
    };
    pack().map_err(|e| Failure::new(format!("cannot compress the initramfs: {e}")))
}
