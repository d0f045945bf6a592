//! The dead kernel's log as text, out of its lockless printk ring buffer (5.10 and later).
//!
//! The layout is that of `kernel/printk/printk_ringbuffer.h`, with every offset from
//! VMCOREINFO (`log_buf_vmcoreinfo_setup()`, `kernel/printk/printk.c`). Records are
//! walked from the newest to the oldest, as many as fit the caller's buffer, so the
//! lines before a crash are kept and the work is bounded by that buffer and by the
//! number of descriptors. A record whose descriptor or data block was being
//! overwritten is skipped and counted. This is optional in a dump, and fails open:
//! any inconsistency is an error that names it.

use std::fmt::Write as _;

use crate::bytes::{le16, le32, le64};
use crate::memory::PhysRead;
use crate::paging::{AddressSpace, PagingError, VirtReader};
use crate::vmcoreinfo::VmcoreInfo;

/// Largest log ring of the kernel: 2 GiB (`LOG_BUF_LEN_MAX`).
const MAX_SIZE_BITS: u32 = 31;
/// One descriptor for each 32 bytes of it (`PRB_AVGBITS` is 5).
const MAX_COUNT_BITS: u32 = 26;
/// Largest struct that is read; the largest real one, `printk_info`, has 88 bytes.
const MAX_STRUCT: usize = 1024;
/// Longest text of a record: `text_len` has 16 bits.
const MAX_TEXT: usize = u16::MAX as usize;
/// `DESC_FLAGS_SHIFT`: the two highest bits of `state_var` are the state.
const STATE_SHIFT: u32 = 62;
/// `DESC_ID_MASK`.
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
/// `EMPTY_LINE_LPOS`: a record without text, and not a lost one.
const EMPTY_LINE: u64 = 3;

/// Why there is no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KmsgError {
    /// VMCOREINFO lacks a value, or it is out of all proportion.
    #[error("VMCOREINFO has no usable {kind}({name}): not a kernel from 5.10 on, or damaged")]
    Missing {
        /// `SYMBOL`, `SIZE` or `OFFSET`.
        kind: &'static str,
        /// Of what.
        name: &'static str,
    },
    /// Memory that is needed cannot be read.
    #[error("{what}: {source}")]
    Memory {
        /// What was to be read.
        what: &'static str,
        /// Why not.
        source: PagingError,
    },
    /// A number in the ring buffer that the kernel does not write.
    #[error("printk ring buffer: `{field}` holds {value:#x}, which is not possible")]
    Field {
        /// Name of the member.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// What was rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rendered {
    /// Bytes of text at the start of the buffer; valid UTF-8.
    pub len: usize,
    /// Records rendered.
    pub records: u64,
    /// Older records that did not fit.
    pub cut: u64,
    /// Records that were in the making, overwritten or lost.
    pub skipped: u64,
}

/// The offsets that are needed.
struct Layout {
    desc_size: usize,
    state_var: usize,
    begin: usize,
    next: usize,
    info_size: usize,
    info_ts: usize,
    info_len: usize,
}

/// The ring as it was found.
struct Ring {
    layout: Layout,
    descs: u64,
    infos: u64,
    count_bits: u32,
    data: u64,
    size_bits: u32,
    head: u64,
    tail: u64,
}

/// What a descriptor leads to.
enum Found {
    /// Text of `len` bytes, logged `ts` ns after boot.
    Text { ts: u64, len: usize },
    /// A record in the making, or one that was overwritten or could not be stored.
    Lost,
    /// No record.
    Free,
}

fn value(v: Option<u64>, kind: &'static str, name: &'static str) -> Result<usize, KmsgError> {
    v.and_then(|v| usize::try_from(v).ok())
        .filter(|v| *v <= MAX_STRUCT)
        .ok_or(KmsgError::Missing { kind, name })
}

fn size(info: &VmcoreInfo<'_>, name: &'static str) -> Result<usize, KmsgError> {
    match value(info.size(name), "SIZE", name)? {
        0 => Err(KmsgError::Missing { kind: "SIZE", name }),
        n => Ok(n),
    }
}

fn offset(info: &VmcoreInfo<'_>, name: &'static str) -> Result<usize, KmsgError> {
    value(info.offset(name), "OFFSET", name)
}

impl Layout {
    fn new(info: &VmcoreInfo<'_>) -> Result<Self, KmsgError> {
        let block = offset(info, "prb_desc.text_blk_lpos")?;
        Ok(Self {
            desc_size: size(info, "prb_desc")?,
            state_var: offset(info, "prb_desc.state_var")? + offset(info, "atomic_long_t.counter")?,
            begin: block + offset(info, "prb_data_blk_lpos.begin")?,
            next: block + offset(info, "prb_data_blk_lpos.next")?,
            info_size: size(info, "printk_info")?,
            info_ts: offset(info, "printk_info.ts_nsec")?,
            info_len: offset(info, "printk_info.text_len")?,
        })
    }
}

fn memory(what: &'static str) -> impl Fn(PagingError) -> KmsgError {
    move |source| KmsgError::Memory { what, source }
}

impl Ring {
    fn open(info: &VmcoreInfo<'_>, virt: &mut VirtReader<'_>) -> Result<Self, KmsgError> {
        let layout = Layout::new(info)?;
        let symbol =
            info.symbol("prb").ok_or(KmsgError::Missing { kind: "SYMBOL", name: "prb" })?;
        let mut raw = [0u8; MAX_STRUCT];
        let prb = virt.u64(symbol).map_err(memory("prb"))?;
        let len = size(info, "printk_ringbuffer")?;
        let part = raw.get_mut(..len).unwrap_or_default();
        virt.read(prb, part).map_err(memory("struct printk_ringbuffer"))?;
        let at = |outer, name: &'static str| Ok((name, offset(info, outer)? + offset(info, name)?));
        let word = |(name, at): (&'static str, usize), add: usize| {
            le64(part, at + add).ok_or(KmsgError::Missing { kind: "OFFSET", name })
        };
        let bits = |(name, at): (&'static str, usize), max: u32| {
            let v = le32(part, at).ok_or(KmsgError::Missing { kind: "OFFSET", name })?;
            if (1..=max).contains(&v) {
                Ok(v)
            } else {
                Err(KmsgError::Field { field: name, value: u64::from(v) })
            }
        };
        let (desc, text) = ("printk_ringbuffer.desc_ring", "printk_ringbuffer.text_data_ring");
        let counter = offset(info, "atomic_long_t.counter")?;
        let ring = Self {
            layout,
            descs: word(at(desc, "prb_desc_ring.descs")?, 0)?,
            infos: word(at(desc, "prb_desc_ring.infos")?, 0)?,
            count_bits: bits(at(desc, "prb_desc_ring.count_bits")?, MAX_COUNT_BITS)?,
            data: word(at(text, "prb_data_ring.data")?, 0)?,
            size_bits: bits(at(text, "prb_data_ring.size_bits")?, MAX_SIZE_BITS)?,
            head: word(at(desc, "prb_desc_ring.head_id")?, counter)?,
            tail: word(at(desc, "prb_desc_ring.tail_id")?, counter)?,
        };
        for (field, value) in [("head_id", ring.head), ("tail_id", ring.tail)] {
            if value > ID_MASK {
                return Err(KmsgError::Field { field, value });
            }
        }
        if ring.span() > 1 << ring.count_bits {
            return Err(KmsgError::Field { field: "head_id - tail_id", value: ring.span() });
        }
        Ok(ring)
    }

    /// Number of descriptors from tail to head, both included. Identities wrap.
    fn span(&self) -> u64 {
        (self.head.wrapping_sub(self.tail) & ID_MASK) + 1
    }

    /// The record of descriptor `id`, its text in `buf`.
    fn record(
        &self,
        virt: &mut VirtReader<'_>,
        id: u64,
        buf: &mut [u8],
    ) -> Result<Found, KmsgError> {
        let index = id & ((1 << self.count_bits) - 1);
        let mut raw = [0u8; MAX_STRUCT];
        let l = &self.layout;
        let part = raw.get_mut(..l.desc_size).unwrap_or_default();
        virt.read(self.descs.wrapping_add(index * l.desc_size as u64), part)
            .map_err(memory("struct prb_desc"))?;
        let short = |name| KmsgError::Missing { kind: "OFFSET", name };
        let state = le64(part, l.state_var).ok_or(short("prb_desc.state_var"))?;
        let begin = le64(part, l.begin).ok_or(short("prb_data_blk_lpos.begin"))?;
        let next = le64(part, l.next).ok_or(short("prb_data_blk_lpos.next"))?;
        // desc_committed and desc_finalized
        if !matches!(state >> STATE_SHIFT, 1 | 2) || state & ID_MASK != id {
            // desc_reusable: the descriptor that the ring starts with, never written.
            let free = state >> STATE_SHIFT == 3;
            return Ok(if free { Found::Free } else { Found::Lost });
        }
        let part = raw.get_mut(..l.info_size).unwrap_or_default();
        virt.read(self.infos.wrapping_add(index * l.info_size as u64), part)
            .map_err(memory("struct printk_info"))?;
        let ts = le64(part, l.info_ts).ok_or(short("printk_info.ts_nsec"))?;
        let len = le16(part, l.info_len).ok_or(short("printk_info.text_len"))?;
        if begin == EMPTY_LINE && next == EMPTY_LINE {
            return Ok(Found::Text { ts, len: 0 });
        }
        let Some((at, room)) = self.block(begin, next) else { return Ok(Found::Lost) };
        let block = self.data.wrapping_add(at);
        // A block begins with the identity of its descriptor; another one there means
        // that the text was overwritten.
        if virt.u64(block).map_err(memory("log text"))? != id {
            return Ok(Found::Lost);
        }
        let len = usize::from(len).min(usize::try_from(room).unwrap_or(usize::MAX));
        let text = buf.get_mut(..len).unwrap_or_default();
        virt.read(block.wrapping_add(8), text).map_err(memory("log text"))?;
        Ok(Found::Text { ts, len: text.len() })
    }

    /// Where a data block lies in the ring, and how many bytes of text it can hold.
    /// As `get_data()` in `kernel/printk/printk_ringbuffer.c`.
    fn block(&self, begin: u64, next: u64) -> Option<(u64, u64)> {
        let size = 1u64 << self.size_bits;
        let index = |lpos: u64| lpos & (size - 1);
        let wraps = |lpos: u64| lpos >> self.size_bits;
        if (begin | next) & 7 != 0 {
            return None;
        }
        let (at, len) = if wraps(begin) == wraps(next) && begin < next {
            (index(begin), next - begin)
        } else if wraps(begin.wrapping_add(size)) == wraps(next) {
            if index(next) == 0 {
                // A block that ends where the ring does; kernels from 6.18 on allow it.
                (index(begin), size - index(begin))
            } else {
                (0, index(next))
            }
        } else {
            return None;
        };
        len.checked_sub(8).map(|room| (at, room))
    }
}

/// The log of a machine whose memory this is, at most `max` bytes of its end, and how many
/// of the oldest records did not fit.
///
/// # Errors
/// [`KmsgError`].
pub fn read(
    info: &VmcoreInfo<'_>,
    memory: &mut dyn PhysRead,
    max: usize,
) -> Result<(String, u64), KmsgError> {
    let space = AddressSpace::new(info)
        .map_err(|source| KmsgError::Memory { what: "page tables", source })?;
    let mut buf = vec![0u8; max];
    let rendered = render(info, &mut VirtReader::new(space, memory), &mut buf)?;
    buf.truncate(rendered.len);
    // It is valid, see `Rendered::len`: nothing is replaced.
    Ok((String::from_utf8_lossy(&buf).into_owned(), rendered.cut))
}

/// Renders the log into `buf`: lines `[    1.234567] text`, oldest first. When it does
/// not fit, the oldest records are left out.
///
/// Allocates about 200 KiB at its start; a hostile record of 64 Ki lines takes 1.2 MiB.
///
/// # Errors
/// [`KmsgError`]; the contents of `buf` are undefined then.
pub fn render(
    info: &VmcoreInfo<'_>,
    virt: &mut VirtReader<'_>,
    buf: &mut [u8],
) -> Result<Rendered, KmsgError> {
    let ring = Ring::open(info, virt)?;
    let mut text = vec![0u8; MAX_TEXT];
    let mut lines = String::with_capacity(2 * MAX_TEXT);
    let mut out = Rendered::default();
    // The buffer is filled from its end towards its start.
    let mut start = buf.len();
    let span = ring.span();
    for back in 0..span {
        let id = ring.head.wrapping_sub(back) & ID_MASK;
        let (ts, len) = match ring.record(virt, id, &mut text)? {
            Found::Text { ts, len } => (ts, len),
            Found::Lost => {
                out.skipped += 1;
                continue;
            }
            Found::Free => continue,
        };
        lines.clear();
        format_record(ts, text.get(..len).unwrap_or_default(), &mut lines);
        let Some(at) = start.checked_sub(lines.len()) else {
            out.cut = span - back;
            break;
        };
        if let Some(room) = buf.get_mut(at..start) {
            room.copy_from_slice(lines.as_bytes());
        }
        start = at;
        out.records += 1;
    }
    out.len = buf.len() - start;
    buf.copy_within(start.., 0);
    Ok(out)
}

/// One line for each line of a record, as dmesg does. Control characters and bytes
/// that are not UTF-8 become `\xNN`: a log may hold what a terminal would obey.
fn format_record(ts_nsec: u64, text: &[u8], out: &mut String) {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    for line in text.split(|b| *b == b'\n') {
        let (seconds, micros) = (ts_nsec / 1_000_000_000, ts_nsec % 1_000_000_000 / 1000);
        // Writing to a String cannot fail.
        let _ = write!(out, "[{seconds:5}.{micros:06}] ");
        for chunk in line.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() && c != '\t' {
                    let mut raw = [0u8; 4];
                    escape(c.encode_utf8(&mut raw).as_bytes(), out);
                } else {
                    out.push(c);
                }
            }
            escape(chunk.invalid(), out);
        }
        out.push('\n');
    }
}

fn escape(bytes: &[u8], out: &mut String) {
    for b in bytes {
        let _ = write!(out, "\\x{b:02x}");
    }
}

/// What a log says, from the best to the least telling.
const REASONS: &[&str] = &[
    "Kernel panic - not syncing: ",
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "general protection fault",
    "Unable to handle kernel",
    "sysrq: Trigger a crash",
    "watchdog: ",
];

/// The line that best says why the kernel died, without its time stamp; empty when
/// the log does not say. Of a panic the last one counts, of others too: a log may
/// hold warnings from long ago.
///
/// A panic by sysrq or one that follows an oops says little, so what came before it is
/// preferred there.
#[must_use]
pub fn panic_reason(log: &str) -> &str {
    let find = |what: &str| log.lines().rev().map(message).find(|line| line.starts_with(what));
    let panic = find("Kernel panic - not syncing: ");
    match panic {
        Some(line) if line.ends_with("sysrq triggered crash") => line,
        Some(line) if line.contains("Fatal exception") => {
            REASONS.iter().skip(1).find_map(|r| find(r)).unwrap_or(line)
        }
        Some(line) => line,
        None => REASONS.iter().skip(1).find_map(|r| find(r)).unwrap_or_default(),
    }
}

/// A line without `[ time] ` and, where the kernel writes it, `[ caller] `.
fn message(line: &str) -> &str {
    let mut rest = line;
    for _ in 0..2 {
        if let Some((_, behind)) = rest.strip_prefix('[').and_then(|r| r.split_once("] ")) {
            rest = behind;
        }
    }
    rest
}

#[cfg(test)]
#[path = "kmsg_tests.rs"]
mod tests;
