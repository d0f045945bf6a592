//! Reading the pages of swap devices: far ahead, by io_uring where the kernel has it, and
//! in small pieces where a device fails.
//!
//! A reader belongs to one thread and serves all devices with one set of buffers. It
//! never fills in what it could not read: such pages are told. Reading allocates nothing.

use std::cell::Cell;
use std::fs::File;
use std::io;

use lifeboat_format::{PAGE, PageRange, Pfn};
use lifeboat_sys::reads::Source;
use lifeboat_sys::{QueueMode, ReadQueue};

use crate::blockdev;
use crate::pages::{self, ReadAt, ReadError};
use crate::swap::SwapDevice;

/// How swap devices are read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadAhead {
    /// Reads in flight.
    pub depth: usize,
    /// Bytes of a read, whole pages.
    pub len: usize,
}

/// Reads swap devices for one thread.
pub struct SwapReader {
    queue: ReadQueue,
    devices: Vec<Device>,
    at: usize,
    /// Requests past the queue.
    plain: u64,
}

#[derive(Debug, Clone, Copy)]
struct Device {
    /// Place of its file in the queue; the error number where it could not be opened.
    file: Result<usize, i32>,
    direct: bool,
    /// Bytes.
    len: u64,
}

/// A file that counts its reads.
struct Counted<'f>(&'f File, Cell<u64>);

impl ReadAt for Counted<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.1.set(self.1.get() + 1);
        self.0.read_at(offset, buf)
    }
}

impl SwapReader {
    /// Opens `devices`, each with the way of reading that it is meant to have; one that
    /// cannot be had is exchanged for the next simpler. A device that cannot be opened fails
    /// when it is read. All of the reader's memory is taken here.
    #[must_use]
    pub fn open<'d>(
        devices: impl IntoIterator<Item = (&'d SwapDevice, QueueMode)>,
        ahead: ReadAhead,
    ) -> Self {
        let mut sources = Vec::new();
        let mut list = Vec::new();
        for (device, want) in devices {
            let len = device.block.len;
            match blockdev::open_direct(&device.block.path) {
                Ok((file, direct)) => {
                    list.push(Device { file: Ok(sources.len()), direct, len });
                    // Only direct I/O can be polled.
                    let polled = want == QueueMode::Polled && !direct;
                    sources
                        .push(Source { file, want: if polled { QueueMode::Uring } else { want } });
                }
                Err(e) => {
                    let file = Err(e.raw_os_error().unwrap_or(0));
                    list.push(Device { file, direct: false, len });
                }
            }
        }
        let queue = ReadQueue::new(sources, ahead.depth, ahead.len);
        Self { queue, devices: list, at: 0, plain: 0 }
    }

    /// Reads device `index` from here on. What was read ahead of another one is given up.
    pub fn select(&mut self, index: usize) {
        if self.at != index {
            self.at = index;
            // The queue reads the file that it was last told of.
            self.ahead(PageRange::new(0, 0));
        }
    }

    /// How the selected device is read.
    #[must_use]
    pub fn mode(&self) -> QueueMode {
        let file = self.devices.get(self.at).and_then(|d| d.file.ok());
        self.queue.mode(file.unwrap_or(usize::MAX))
    }

    /// Read requests so far, of all devices.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.queue.requests() + self.plain
    }

    /// All of `span` of the selected device will be read next, ascending.
    pub fn ahead(&mut self, span: PageRange) {
        let Some(device) = self.devices.get(self.at) else { return };
        let whole = device.len - device.len % PAGE as u64;
        let byte = |pfn: Pfn| pfn.addr().map_or(whole, |a| a.0.min(whole));
        if let Ok(file) = device.file {
            self.queue.ahead(file, byte(span.start), byte(span.end));
        }
    }

    /// Fills `buf`, whole pages at an address that is a multiple of 4096, with the
    /// selected device's pages from `first` on. `bad` gets each page that could not be
    /// read, ascending, among them those behind the end; their bytes in `buf` are zeros.
    /// Gives the number of such pages. Of a page that the end of the device cuts
    /// short, the rest is zeros.
    ///
    /// # Errors
    /// [`ReadError`]: then the device as a whole is gone.
    pub fn read_pages(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(Pfn),
    ) -> Result<u64, ReadError> {
        let odd = ReadError::Buffer { len: buf.len() };
        let device = self.devices.get(self.at).copied().ok_or(odd)?;
        if device.direct && !buf.as_ptr().addr().is_multiple_of(PAGE)
            || !buf.len().is_multiple_of(PAGE)
        {
            return Err(odd);
        }
        let start = first.addr().ok_or(odd)?.0;
        let file = device.file.map_err(|errno| ReadError::Gone { errno, offset: start })?;
        let left = usize::try_from(device.len.saturating_sub(start)).unwrap_or(usize::MAX);
        let there = left.min(buf.len());
        let (data, rest) = buf.split_at_mut_checked(there).ok_or(odd)?;
        let (whole, tail) = data.split_at_mut_checked(there / PAGE * PAGE).ok_or(odd)?;
        let mut lost = 0;
        let mut tell = |page: usize| {
            lost += 1;
            bad(Pfn(first.0 + page as u64));
        };
        self.read_whole(file, start, whole, &mut tell)?;
        rest.fill(0);
        let mut page = whole.len() / PAGE;
        if !tail.is_empty() {
            let file = Counted(self.queue.file(file).ok_or(odd)?, Cell::new(0));
            if !pages::read_piece(&file, start + whole.len() as u64, tail)? {
                tail.fill(0);
                tell(page);
            }
            self.plain += file.1.get();
            page += 1;
        }
        (page..(there + rest.len()) / PAGE).for_each(tell);
        Ok(lost)
    }

    /// Whole pages from byte `start` on; where the queue has none, in smaller and smaller
    /// pieces, so that only the pages in trouble are lost.
    fn read_whole(
        &mut self,
        file: usize,
        start: u64,
        buf: &mut [u8],
        tell: &mut dyn FnMut(usize),
    ) -> Result<(), ReadError> {
        let odd = ReadError::Buffer { len: buf.len() };
        let mut done = 0;
        while let Some(part) = buf.get_mut(done..).filter(|part| !part.is_empty()) {
            let at = start + done as u64;
            let missing = match self.queue.read(at, part) {
                Ok(got) => {
                    done += got;
                    continue;
                }
                // Never nothing, never more than is wanted: this loop ends.
                Err(ahead) => ahead.missing.clamp(PAGE, part.len()),
            };
            let missing = missing - missing % PAGE;
            let part = part.get_mut(..missing).ok_or(odd)?;
            let counted = Counted(self.queue.file(file).ok_or(odd)?, Cell::new(0));
            let before = done / PAGE;
            let read = pages::read_run(&counted, at, part, &mut |page| tell(before + page));
            self.plain += counted.1.get();
            read?;
            done += missing;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "swapread_tests.rs"]
mod tests;
