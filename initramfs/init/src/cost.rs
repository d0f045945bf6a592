//! What the capture costs: memory at its highest, and interrupts of its disks.
//!
//! Both are read from /proc into fixed buffers by files that were opened before the seal.
//! It only looks; what the figures mean is for who reads the trailer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec as Fixed;

/// All of them in KiB; the lowest that was seen of what is free.
static TOTAL: AtomicU64 = AtomicU64::new(0);
static LOWEST: AtomicU64 = AtomicU64::new(u64::MAX);
static FILES: OnceLock<(File, File)> = OnceLock::new();

/// Opens what is read later.
pub(crate) fn prepare() {
    if let (Ok(meminfo), Ok(status)) =
        (File::open("/proc/meminfo"), File::open("/proc/self/status"))
    {
        let _ = FILES.set((meminfo, status));
    }
}

/// Looks at the machine's memory once.
pub(crate) fn look() {
    let mut buf = [0u8; 512];
    let Some(text) = FILES.get().and_then(|(meminfo, _)| read(meminfo, &mut buf)) else { return };
    if let Some(total) = field(text, b"MemTotal:") {
        TOTAL.store(total, Ordering::Relaxed);
    }
    if let Some(available) = field(text, b"MemAvailable:") {
        LOWEST.fetch_min(available, Ordering::Relaxed);
    }
}

/// Most memory so far, in KiB: of PID 1, and of the machine (what was not available), and
/// what the machine has.
pub(crate) fn peak() -> (u64, u64, u64) {
    look();
    let mut buf = [0u8; 2048];
    let status = FILES.get().and_then(|(_, status)| read(status, &mut buf));
    let own = status.and_then(|text| field(text, b"VmHWM:")).unwrap_or(0);
    let total = TOTAL.load(Ordering::Relaxed);
    (own, total.saturating_sub(LOWEST.load(Ordering::Relaxed)), total)
}

fn read<'b>(file: &File, buf: &'b mut [u8]) -> Option<&'b [u8]> {
    let len = file.read_at(buf, 0).ok()?;
    buf.get(..len)
}

/// The number behind `name` at the start of a line.
fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    let line = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(name))?;
    Some(number(line.trim_ascii_start()).0)
}

/// The number that `text` begins with, and what follows it.
fn number(text: &[u8]) -> (u64, &[u8]) {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = text.split_at_checked(digits).unwrap_or_default();
    let value = number
        .iter()
        .fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b.saturating_sub(b'0'))));
    (value, rest)
}

/// Interrupts of the queues of some disks.
pub(crate) struct Interrupts {
    file: Option<File>,
    /// Their numbers.
    lines: Fixed<u32, 256>,
    /// How many there were in all stretches that were looked at.
    sum: AtomicU64,
}

impl Interrupts {
    /// Those of `disks`, by the kernel's names: the interrupts of the device that each
    /// hangs on.
    pub(crate) fn of<'d>(disks: impl Iterator<Item = &'d str>) -> Self {
        let mut lines = Fixed::new();
        for disk in disks {
            let Ok(path) = Path::new("/sys/class/block").join(disk).canonicalize() else {
                continue;
            };
            for line in path.ancestors().find_map(interrupts_of).unwrap_or_default() {
                if !lines.contains(&line) {
                    let _ = lines.push(line);
                }
            }
        }
        let file = File::open("/proc/interrupts").ok();
        Self { file, lines, sum: AtomicU64::new(0) }
    }

    /// Counts those that come while `work` is done.
    pub(crate) fn during(&self, work: impl FnOnce()) {
        let before = self.count().unwrap_or(0);
        work();
        let since = self.count().unwrap_or(0).saturating_sub(before);
        self.sum.fetch_add(since, Ordering::Relaxed);
    }

    /// All that were counted; `None` where nothing could be.
    pub(crate) fn total(&self) -> Option<u64> {
        (!self.lines.is_empty() && self.file.is_some()).then(|| self.sum.load(Ordering::Relaxed))
    }

    /// How many there were so far; `None` where that cannot be told. Interrupts that report
    /// no requests are left out: of NVMe's admin queue and virtio's configuration.
    fn count(&self) -> Option<u64> {
        let file = self.file.as_ref().filter(|_| !self.lines.is_empty())?;
        let mut buf = [0u8; 4096];
        let (mut at, mut kept, mut sum) = (0u64, 0usize, 0u64);
        loop {
            let got = file.read_at(buf.get_mut(kept..)?, at).ok()?;
            at += got as u64;
            let text = buf.get(..kept + got)?;
            let end = if got == 0 { text.len() } else { last_line(text) };
            for line in text.get(..end)?.split(|b| *b == b'\n') {
                sum += self.of_line(line);
            }
            if got == 0 {
                return Some(sum);
            }
            // A line that does not fit is none of a machine with so few CPUs.
            kept = if end == 0 { 0 } else { kept + got - end };
            buf.copy_within(end..end + kept, 0);
        }
    }

    fn of_line(&self, line: &[u8]) -> u64 {
        let (irq, rest) = number(line.trim_ascii_start());
        let Some(rest) = rest.strip_prefix(b":") else { return 0 };
        let name = rest.trim_ascii_end().rsplit(|b| *b == b' ').next().unwrap_or_default();
        let idle = name.ends_with(b"-config") || name.starts_with(b"nvme") && name.ends_with(b"q0");
        if idle || !self.lines.iter().any(|l| u64::from(*l) == irq) {
            return 0;
        }
        let words = rest.split(|b| *b == b' ').filter(|w| !w.is_empty());
        let counts = words.take_while(|w| w.iter().all(u8::is_ascii_digit));
        counts.map(|w| number(w).0).fold(0, u64::saturating_add)
    }
}

/// Up to which byte there are whole lines.
fn last_line(text: &[u8]) -> usize {
    text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1)
}

/// The numbers of a device's interrupts: MSI's in a folder, or the one in a file.
fn interrupts_of(device: &Path) -> Option<Vec<u32>> {
    if let Ok(dir) = std::fs::read_dir(device.join("msi_irqs")) {
        let names = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        return Some(names.collect());
    }
    let irq = std::fs::read_to_string(device.join("irq")).ok()?;
    Some(irq.trim().parse().ok().filter(|n| *n > 0).into_iter().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails shall panic")]

    use super::*;

    const TABLE: &[u8] = b"            CPU0       CPU1       \n\
  8:          1          0  IO-APIC   8-edge      rtc0\n\
 24:          0          7  PCI-MSIX-0000:00:03.0   0-edge      virtio0-config\n\
 25:         40          2  PCI-MSIX-0000:00:03.0   1-edge      virtio0-req.0\n\
 26:          9          0  PCI-MSIX-0000:00:04.0   0-edge      nvme0q0\n\
 27:        100          0  PCI-MSIX-0000:00:04.0   1-edge      nvme0q1\n\
NMI:          5          5   Non-maskable interrupts\n";

    fn of(lines: &[u32], table: &[u8]) -> Option<u64> {
        use std::io::Write;
        let path = std::env::temp_dir().join(format!("lifeboat-irq-{lines:?}-{}", table.len()));
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path);
        file.as_mut().unwrap().write_all(table).unwrap();
        std::fs::remove_file(path).unwrap();
        let all = Interrupts {
            file: file.ok(),
            lines: lines.iter().copied().collect(),
            sum: AtomicU64::new(0),
        };
        all.during(|| {});
        assert_eq!(all.total(), all.count().map(|_| 0));
        all.count()
    }

    #[test]
    fn interrupts_of_requests_are_counted() {
        assert_eq!(of(&[24, 25], TABLE), Some(42));
        assert_eq!(of(&[26, 27, 8], TABLE), Some(101));
        assert_eq!(of(&[5], TABLE), Some(0));
        assert_eq!(of(&[], TABLE), None);
        // Longer than the buffer, with lines across its edges.
        let long = TABLE.repeat(40);
        assert_eq!(of(&[25, 27], &long), Some(142 * 40));
    }

    #[test]
    fn memory_is_read_from_proc() {
        assert_eq!(field(b"MemTotal:  123 kB\nMemFree: 7 kB\n", b"MemFree:"), Some(7));
        assert_eq!(field(b"MemTotal:  123 kB\n", b"MemFree:"), None);
        prepare();
        let (own, used, total) = peak();
        assert!(own > 100 && used > 0 && used < total, "{own} {used} {total}");
    }
}
