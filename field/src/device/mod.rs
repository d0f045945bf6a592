//! What DEV means: a block device, a file, or a partition inside a whole-disk
//! image, as a window of bytes that holds a volume or a dump.
//!
//! It decides by what lies there, never by the file's name, and says what it
//! saw when that is not ours. It refuses to guess between several partitions.

pub(crate) mod inuse;
pub(crate) mod signature;
mod table;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_format::{BLOCK, Superblock, header, superblock};
use lifeboat_sink::{FileDev, Placement};

use crate::ui::{Context as _, Failure, bytes, safe};
pub(crate) use table::Partition;

/// How a window may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only read.
    Read,
    /// Read and written.
    Write,
    /// Read and written, with nobody else on the block device (`O_EXCL`).
    Exclusive,
}

/// A stretch of an open file or device.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// The open file.
    pub(crate) file: Arc<File>,
    /// Its path.
    pub(crate) path: PathBuf,
    /// For messages: the path, and the partition where there is one.
    pub(crate) name: String,
    /// Where the window starts in the file, in bytes.
    pub(crate) base: u64,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Where it starts on its disk, in bytes; 0 for a whole disk or a plain file.
    pub(crate) start: u64,
    /// The device number, when the file is a block device.
    pub(crate) rdev: Option<u64>,
}

impl Window {
    /// Reads at an offset within the window.
    pub(crate) fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = at.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buf, self.base + at)
    }

    fn block(&self, at: u64) -> Option<[u8; BLOCK]> {
        let mut block = [0u8; BLOCK];
        self.read_at(at, &mut block).ok().map(|()| block)
    }

    /// Whether a superblock of ours begins the window, or its copy ends it.
    fn is_volume(&self) -> bool {
        let ours = |b: [u8; BLOCK]| b.starts_with(&superblock::MAGIC);
        let copy = Superblock::backup_at(self.len & !(BLOCK as u64 - 1)).0;
        self.block(0).is_some_and(ours)
            || self
                .block(copy)
                .is_some_and(|b| Superblock::decode(&b).is_ok_and(|s| s.part_len == self.len))
    }

    fn is_dump(&self) -> bool {
        self.block(0).is_some_and(|b| b.starts_with(&header::MAGIC))
    }

    /// The window as the sink's device.
    pub(crate) fn dev(&self) -> Result<FileDev, Failure> {
        let file = self.file.try_clone().context(&self.name)?;
        Ok(FileDev::new(file, self.base, self.len))
    }

    /// Where it lies, for the superblock.
    pub(crate) fn placement(&self) -> Placement {
        Placement { start: self.start, len: self.len }
    }

    /// The same bytes, opened in another way.
    pub(crate) fn reopen(&self, access: Access) -> Result<Self, Failure> {
        Ok(Self { file: Arc::new(open(&self.path, access)?), ..self.clone() })
    }
}

/// What DEV turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    /// A formatted volume.
    Volume(Window),
    /// A pulled dump.
    Dump(Window),
}

impl Found {
    /// The bytes.
    pub(crate) fn window(&self) -> &Window {
        match self {
            Self::Volume(w) | Self::Dump(w) => w,
        }
    }
}

fn open(path: &Path, access: Access) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.read(true).write(access != Access::Read);
    if access == Access::Exclusive {
        options.custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed());
    }
    options.open(path).context(path.display())
}

/// Splits DEV into a path and the partition named behind the last colon, where
/// the whole is not itself a path (`/dev/disk/by-path/` names hold colons).
fn split(dev: &str, partition: Option<&str>) -> Result<(PathBuf, Option<String>), Failure> {
    if Path::new(dev).exists() {
        return Ok((dev.into(), partition.map(str::to_owned)));
    }
    match dev.rsplit_once(':') {
        Some((path, name)) if Path::new(path).exists() => {
            if partition.is_some_and(|p| p != name) {
                return Err(Failure::usage(format!(
                    "`{dev}` and --partition name different partitions"
                )));
            }
            Ok((path.into(), Some(name.to_owned())))
        }
        _ => Ok((dev.into(), partition.map(str::to_owned))),
    }
}

/// The whole file or device.
fn whole(path: &Path, access: Access) -> Result<Window, Failure> {
    let meta = fs::metadata(path).context(path.display())?;
    let kind = meta.file_type();
    let rdev = kind.is_block_device().then(|| meta.rdev());
    if !kind.is_file() && rdev.is_none() {
        return Err(Failure::new(format!(
            "{} is neither a file nor a block device",
            path.display()
        ))
        .hint("name a partition such as /dev/nvme0n1p3, or an image file"));
    }
    let file = open(path, access)?;
    let (start, len) = match rdev {
        None => (0, meta.len()),
        Some(rdev) => {
            let sys = inuse::sys(rdev);
            let start =
                if sys.join("partition").exists() { sysfs_bytes(&sys.join("start"))? } else { 0 };
            (start, sysfs_bytes(&sys.join("size"))?)
        }
    };
    let name = path.display().to_string();
    Ok(Window { file: Arc::new(file), path: path.into(), name, base: 0, len, start, rdev })
}

/// A sysfs file that counts 512-byte sectors (Documentation/ABI/stable/sysfs-block).
fn sysfs_bytes(path: &Path) -> Result<u64, Failure> {
    let text = fs::read_to_string(path).context(path.display())?;
    text.trim()
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(512))
        .ok_or_else(|| Failure::new(format!("{} holds `{}`", path.display(), safe(text.trim()))))
}

/// A partition of a disk as a window. On a block device the partition's own
/// node is taken where the kernel has one: the disk's page cache is another.
fn part_window(disk: &Window, part: &Partition, access: Access) -> Result<Window, Failure> {
    if let Some(rdev) = disk.rdev {
        let sys = inuse::sys(rdev);
        for name in inuse::partitions(rdev) {
            let number = fs::read_to_string(sys.join(&name).join("partition")).unwrap_or_default();
            if number.trim().parse() == Ok(part.number) {
                return whole(&Path::new("/dev").join(name), access);
            }
        }
        if access != Access::Read {
            return Err(Failure::new(format!("the kernel has no device for partition {} of {}", part.number, disk.name))
                .hint("let the kernel read the partition table again: `partprobe` or `blockdev --rereadpt`"));
        }
    }
    let in_disk = part.start.checked_add(part.len).is_some_and(|end| end <= disk.len);
    if !in_disk {
        return Err(Failure::new(format!(
            "partition {} of {} ends behind the disk",
            part.number, disk.name
        ))
        .hint("the image was cut short, or its partition table is of another disk"));
    }
    Ok(Window {
        name: format!(
            "{}:{}",
            disk.name,
            if part.label.is_empty() { part.number.to_string() } else { safe(&part.label) }
        ),
        base: part.start,
        len: part.len,
        start: part.start,
        ..disk.reopen(access)?
    })
}

fn select(disk: &Window, wanted: &str, access: Access) -> Result<Window, Failure> {
    let parts = table::read(disk)?.ok_or_else(|| {
        Failure::new(format!(
            "{} has no partition table, so it has no partition `{wanted}`",
            disk.name
        ))
        .hint("leave out the partition to take the whole file")
    })?;
    let hits: Vec<&Partition> =
        parts.iter().filter(|p| p.label == wanted || wanted.parse() == Ok(p.number)).collect();
    match hits.as_slice() {
        [one] => part_window(disk, one, access),
        [] => Err(Failure::new(format!("{} has no partition `{wanted}`", disk.name))
            .hint(listing(&parts))),
        several => Err(Failure::new(format!(
            "{} partitions of {} are named `{wanted}`",
            several.len(),
            disk.name
        ))
        .hint(listing(&parts))),
    }
}

fn listing(parts: &[Partition]) -> String {
    let list: Vec<String> = parts
        .iter()
        .map(|p| format!("{} `{}` ({})", p.number, safe(&p.label), bytes(p.len)))
        .collect();
    if list.is_empty() {
        "its partition table is empty".to_owned()
    } else {
        format!("its partitions are {}", list.join(", "))
    }
}

/// The window to format: what was named and nothing else.
pub(crate) fn for_format(dev: &str, partition: Option<&str>) -> Result<Window, Failure> {
    let (path, part) = split(dev, partition)?;
    let disk = whole(&path, Access::Read)?;
    match part {
        None => Ok(disk),
        Some(name) => select(&disk, &name, Access::Write),
    }
}

/// A block device of this machine, as [`for_format`] gives it.
pub(crate) fn block_device(path: &Path) -> Result<Window, Failure> {
    whole(path, Access::Read)
}

/// Everything of ours that DEV holds: itself, or the volumes in its partitions.
///
/// # Errors
/// When DEV cannot be read, or holds nothing of ours: then with what it holds instead.
pub(crate) fn find_all(dev: &str, partition: Option<&str>) -> Result<Vec<Found>, Failure> {
    let (path, part) = split(dev, partition)?;
    let disk = whole(&path, Access::Read)?;
    if let Some(name) = part {
        return classify(select(&disk, &name, Access::Read)?).map(|f| vec![f]);
    }
    if disk.is_volume() || disk.is_dump() {
        return classify(disk).map(|f| vec![f]);
    }
    let Some(parts) = table::read(&disk)? else { return classify(disk).map(|f| vec![f]) };
    let mut found = Vec::new();
    for part in &parts {
        // A partition that lies outside the image is reported only when asked for.
        if let Ok(window) = part_window(&disk, part, Access::Read)
            && window.is_volume()
        {
            found.push(Found::Volume(window));
        }
    }
    if found.is_empty() {
        return Err(Failure::new(format!("{}: no partition holds a Lifeboat volume", disk.name))
            .hint(format!("{}; prepare one with `lifeboat format`", listing(&parts))));
    }
    Ok(found)
}

/// The one volume or dump that DEV holds.
///
/// # Errors
/// As [`find_all`], and when there are several.
pub(crate) fn find(dev: &str, partition: Option<&str>) -> Result<Found, Failure> {
    let mut all = find_all(dev, partition)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        (last, _) => {
            let names: Vec<&str> =
                all.iter().chain(last.iter()).map(|f| f.window().name.as_str()).collect();
            Err(Failure::usage(format!("{dev} holds {} Lifeboat volumes", names.len()))
                .hint(format!("choose one with --partition: {}", names.join(", "))))
        }
    }
}

/// The one volume that DEV holds.
///
/// # Errors
/// As [`find`], and for a pulled dump, which has no slots.
pub(crate) fn find_volume(dev: &str, partition: Option<&str>) -> Result<Window, Failure> {
    match find(dev, partition)? {
        Found::Volume(w) => Ok(w),
        Found::Dump(w) => Err(Failure::new(format!("{} is a pulled dump, not a volume", w.name))
            .hint("this command works on the dump partition or an image of it")),
    }
}

fn classify(window: Window) -> Result<Found, Failure> {
    if window.is_volume() {
        return Ok(Found::Volume(window));
    }
    if window.is_dump() {
        return Ok(Found::Dump(window));
    }
    let mut first = [0u8; 1];
    if window.len > 0 {
        window.read_at(0, &mut first).context(&window.name)?;
    }
    let seen = signature::find(&window).unwrap_or_default();
    if seen.is_empty() {
        return Err(Failure::new(format!("{}: no Lifeboat superblock and no dump found here", window.name))
            .hint("prepare a partition with `lifeboat format`; for a pulled dump name the file that `pull` wrote"));
    }
    Err(Failure::new(format!(
        "{}: no Lifeboat superblock; it holds {}",
        window.name,
        seen.join(", ")
    ))
    .hint("name the partition or file that `lifeboat format` or `lifeboat pull` wrote"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A window over an unlinked file of zeros with `bytes` put in.
    pub(crate) fn window_of(len: u64, put: &[(u64, &[u8])]) -> Window {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in put {
            file.write_all_at(bytes, *at).unwrap();
        }
        Window {
            file: Arc::new(file),
            path: "test".into(),
            name: "test".to_owned(),
            base: 0,
            len,
            start: 0,
            rdev: None,
        }
    }

    #[test]
    fn a_window_does_not_read_behind_its_end() {
        let w = Window { base: 4096, len: 4096, ..window_of(16384, &[(4096, b"inside")]) };
        let mut six = [0u8; 6];
        w.read_at(0, &mut six).unwrap();
        assert_eq!(&six, b"inside");
        assert!(w.read_at(4091, &mut six).is_err());
        assert!(w.read_at(u64::MAX, &mut six).is_err());
    }
}
