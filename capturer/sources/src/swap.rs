//! Swap devices: their header, and which of them to capture.
//!
//! The header is `union swap_header` of `include/linux/swap.h`: ten bytes of magic at
//! the end of the first page, version, last page and count of bad pages at byte 1024.
//! A device that hibernation has written to carries another magic, and is not swap
//! until it is resumed. [`crate::swapread`] reads their pages, with direct I/O, so that
//! the crash kernel's little memory is not spent on a cache.

use std::io;

use lifeboat_format::PAGE;
use lifeboat_format::bootcfg::{Selector, SwapPlan};

use crate::blockdev::{self, Block, FindError};
use crate::bytes::{id16, le32, uuid_text};

/// Bytes at the start of a device that a header can take: the largest page of Linux.
pub const PROBE_LEN: usize = 64 << 10;
/// Most bad pages in a header of 4 KiB pages (`MAX_SWAP_BADPAGES`).
pub const MAX_BAD_PAGES: u32 = 637;
/// Most swap devices that are captured: a chunk names its device in 16 bits, and the
/// kernel has at most 32 (`MAX_SWAPFILES`).
pub const MAX_DEVICES: usize = 32;

/// A swap header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapHeader {
    /// Page size in bytes, found by the place of the magic.
    pub page_size: u32,
    /// Last page that may be used, in pages of `page_size`.
    pub last_page: u32,
    /// Pages that may not be used.
    pub bad_pages: u32,
    /// UUID in lower case.
    pub uuid: String,
    /// Label; may be empty.
    pub label: String,
}

/// What the start of a device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// A swap header of version 1 (`SWAPSPACE2`).
    Swap(SwapHeader),
    /// The header of Linux before 2.2 (`SWAP-SPACE`); no kernel uses it any more.
    Ancient,
    /// A swap header whose numbers no `mkswap` writes; the kernel would refuse it too.
    Damaged(&'static str),
    /// The image of a hibernated system.
    Hibernated(&'static str),
}

/// Magics of hibernation: swsusp, its old versions, uswsusp, TuxOnIce.
const HIBERNATED: &[(&[u8], &str)] = &[
    (b"S1SUSPEND\0", "S1SUSPEND"),
    (b"S2SUSPEND\0", "S2SUSPEND"),
    (b"ULSUSPEND\0", "ULSUSPEND"),
    (b"LINHIB0001", "LINHIB0001"),
    (b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c", "TuxOnIce"),
];

/// Looks for a swap signature in the first bytes of a device, [`PROBE_LEN`] of them
/// where it is that long. 4 KiB pages are tried first.
#[must_use]
pub fn detect(first: &[u8]) -> Option<Signature> {
    [4096usize, 8192, 16384, 32768, 65536].into_iter().find_map(|page| {
        let magic = first.get(page - 10..page)?;
        let hibernated = HIBERNATED.iter().find(|(m, _)| magic.starts_with(m));
        if let Some((_, name)) = hibernated {
            return Some(Signature::Hibernated(name));
        }
        match magic {
            b"SWAP-SPACE" => Some(Signature::Ancient),
            b"SWAPSPACE2" => Some(read_header(first, page)),
            _ => None,
        }
    })
}

fn read_header(first: &[u8], page: usize) -> Signature {
    let damaged = Signature::Damaged;
    let field = |at| le32(first, at);
    let (Some(version), Some(last_page), Some(bad_pages)) = (field(1024), field(1028), field(1032))
    else {
        return damaged("cut short");
    };
    // Of the other byte order: the kernel reads it all the same, and so could we; but
    // a capture of memory of another byte order does not come here.
    if version == 1u32.swap_bytes() {
        return damaged("the other byte order");
    }
    if version != 1 {
        return damaged("version");
    }
    if last_page == 0 {
        return damaged("no pages");
    }
    if bad_pages > MAX_BAD_PAGES.saturating_mul(16) || bad_pages >= last_page {
        return damaged("number of bad pages");
    }
    let label = first.get(1052..1068).unwrap_or_default();
    let label = label.split(|b| *b == 0).next().unwrap_or_default();
    let label = String::from_utf8_lossy(label).replace(char::is_control, "\u{fffd}");
    let uuid = id16(first, 1036).unwrap_or_default();
    let (halves, _) = uuid.as_chunks::<8>();
    let uuid = match halves {
        [a, b] => uuid_text([*a, *b]),
        _ => String::new(),
    };
    Signature::Swap(SwapHeader {
        page_size: u32::try_from(page).unwrap_or(0),
        last_page,
        bad_pages,
        uuid,
        label,
    })
}

/// Looks for a swap signature on a device.
///
/// # Errors
/// The device cannot be opened or read.
pub fn probe(block: &Block) -> io::Result<Option<Signature>> {
    let mut disk = blockdev::DiskReader::open(&block.path)?;
    let len = usize::try_from(block.len).unwrap_or(PROBE_LEN).min(PROBE_LEN);
    let mut first = vec![0u8; len];
    disk.read_at(0, &mut first)?;
    Ok(detect(&first))
}

/// A swap device to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapDevice {
    /// The block device.
    pub block: Block,
    /// Its header.
    pub header: SwapHeader,
}

impl SwapDevice {
    /// Pages of 4096 bytes, the last of which may be cut short by the end of the device.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.block.len.div_ceil(PAGE as u64)
    }

    /// What is known of it, one `key value` a line, for the dump's meta record.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("path {}\n", self.block.path.display());
        for (key, value) in [
            ("partuuid", self.block.partuuid.as_deref()),
            ("partlabel", self.block.partlabel.as_deref()),
            ("uuid", Some(&*self.header.uuid)),
            ("label", Some(&*self.header.label)),
        ] {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                out.push_str(key);
                out.push(' ');
                // No value may start a line of its own.
                out.extend(value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
                out.push('\n');
            }
        }
        out
    }
}

/// A swap device that was asked for, or looks like one, and is not captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapProblem {
    /// A selector finds none, or several.
    #[error("swap: {0}")]
    Find(#[from] FindError),
    /// Opening or reading failed.
    #[error("swap: {name}: {source}")]
    Io {
        /// Name of the device.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// Not a swap device of today.
    #[error("swap: {name} is not captured: {why}")]
    NotSwap {
        /// Name of the device.
        name: String,
        /// What it is.
        why: String,
    },
    /// It is the dump's own target.
    #[error("swap: {name} is the dump's target and not captured")]
    Target {
        /// Name of the device.
        name: String,
    },
    /// More than [`MAX_DEVICES`].
    #[error("swap: more than 32 devices; {name} and what follows is not captured")]
    TooMany {
        /// Name of the first one left out.
        name: String,
    },
}

impl SwapProblem {
    /// Name of the device, where one was found.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Find(_) => None,
            Self::Io { name, .. }
            | Self::NotSwap { name, .. }
            | Self::Target { name }
            | Self::TooMany { name } => Some(name),
        }
    }
}

/// What to capture, and what not and why.
#[derive(Debug, Default)]
pub struct Plan {
    /// The devices, in the order of their index in the dump.
    pub devices: Vec<SwapDevice>,
    /// What is left out. A dump is incomplete for each of these.
    pub problems: Vec<SwapProblem>,
}

/// Which swap devices to capture: those of the list, or every partition and every
/// disk without partitions that has a swap header. With the latter, those of `on`, which
/// were in use when the host was armed, must be among them. Never `target`, by name.
#[must_use]
pub fn plan(blocks: &[Block], want: &SwapPlan, on: &[Selector], target: Option<&str>) -> Plan {
    let mut out = Plan::default();
    match want {
        SwapPlan::None => {}
        SwapPlan::Auto => {
            for block in blocks {
                // A partition table lies where a header would; see Block::has_partitions.
                if !block.has_partitions && Some(&*block.name) != target {
                    out.add(block, false);
                }
            }
            for selector in on {
                out.add_selected(blocks, selector, target);
            }
        }
        SwapPlan::List(list) => {
            for selector in list {
                out.add_selected(blocks, selector, target);
            }
        }
    }
    out
}

impl Plan {
    fn add_selected(&mut self, blocks: &[Block], selector: &Selector, target: Option<&str>) {
        match blockdev::find(blocks, selector) {
            Ok(block) if Some(&*block.name) == target => {
                self.problems.push(SwapProblem::Target { name: block.name.clone() });
            }
            Ok(block) => self.add(block, true),
            Err(e) => self.problems.push(e.into()),
        }
    }

    /// Adds a device that has a header; `named` when its absence is a problem. One that is
    /// captured, or told of, already is not looked at again.
    fn add(&mut self, block: &Block, named: bool) {
        let told = |p: &SwapProblem| p.name() == Some(&*block.name);
        if self.devices.iter().any(|d| d.block.name == block.name) || self.problems.iter().any(told)
        {
            return;
        }
        let name = block.name.clone();
        let not_swap = |why: &str| SwapProblem::NotSwap { name: name.clone(), why: why.to_owned() };
        let problem = match probe(block) {
            Ok(Some(Signature::Swap(header))) if self.devices.len() < MAX_DEVICES => {
                self.devices.push(SwapDevice { block: block.clone(), header });
                return;
            }
            Ok(Some(Signature::Swap(_))) => SwapProblem::TooMany { name },
            Ok(Some(Signature::Ancient)) => not_swap("a swap header of before Linux 2.2"),
            Ok(Some(Signature::Damaged(what))) => {
                not_swap(&format!("its swap header is damaged ({what})"))
            }
            Ok(Some(Signature::Hibernated(what))) => {
                not_swap(&format!("it holds a hibernated system ({what})"))
            }
            Ok(None) if named => not_swap("it has no swap header"),
            Ok(None) => return,
            // An empty drive cannot be read, and nobody asked for it.
            Err(_) if !named && block.partition.is_none() => return,
            Err(source) => SwapProblem::Io { name, source },
        };
        self.problems.push(problem);
    }
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
