//! Newtypes for addresses and offsets, so that a pfn is never taken for a byte.

/// Size of a page in bytes on x86-64; also the unit in which swap devices are captured.
pub const PAGE: usize = 4096;
/// [`PAGE`] as a shift.
pub const PAGE_SHIFT: u32 = 12;

/// A physical address of the crashed machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysAddr(pub u64);

/// A page frame number of the crashed machine, or the number of a page on a swap device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(pub u64);

/// A byte offset within a volume or within a dump; the holder says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteOff(pub u64);

impl PhysAddr {
    /// The frame that holds this address.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl Pfn {
    /// The address of the frame's first byte; `None` when it would pass 2^64.
    #[must_use]
    pub fn addr(self) -> Option<PhysAddr> {
        self.0.checked_mul(PAGE as u64).map(PhysAddr)
    }
}

/// Pages `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PageRange {
    /// First page.
    pub start: Pfn,
    /// First page behind the range.
    pub end: Pfn,
}

impl PageRange {
    /// Pages `[start, end)`; an `end` before `start` gives an empty range.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Self {
        Self { start: Pfn(start), end: Pfn(end.max(start)) }
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }
}
