//! What the engine needs of the world, so that tests can give it faults.

use std::io;

use lifeboat_format::{ByteOff, Cipher, CommitRecord, Layer, PageRange, Pfn};

/// A source that is gone as a whole; single bad pages are not an error.
#[derive(Debug)]
pub struct ReadFault(pub io::Error);

/// Pages of memory or of a swap device. One reader a worker.
pub trait PageRead {
    /// Fills `buf`, whole pages from `first`; `buf` starts at a multiple of 4096 of
    /// our own memory. A page that cannot be read is told
    /// to `bad` by its index in `buf`; its bytes are then of no meaning.
    ///
    /// # Errors
    /// [`ReadFault`] when nothing more can be read from this source.
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault>;

    /// Tells that all of `span` will be read next, from its start to its end, unless the
    /// capture stops: a reader may begin with it. Nothing by default.
    fn ahead(&mut self, _span: PageRange) {}
}

/// Sealing failed; the cause is the cipher's and holds nothing to report.
#[derive(Debug)]
pub struct SealFault;

/// Seals payloads in place.
pub trait Seal {
    /// The cipher that headers name.
    fn cipher(&self) -> Cipher;

    /// Encrypts `payload` in place; the tag, if the cipher has one.
    ///
    /// # Errors
    /// [`SealFault`].
    fn seal(&self, seq: u64, aad: &[u8], payload: &mut [u8])
    -> Result<Option<[u8; 16]>, SealFault>;

    /// The commit record's tag; zeros without a cipher.
    ///
    /// # Errors
    /// [`SealFault`].
    fn commit_tag(&self, record: &CommitRecord) -> Result<[u8; 16], SealFault>;
}

/// Where frames go, in order.
pub trait FrameSink {
    /// Bytes of the dump so far.
    fn position(&self) -> ByteOff;
    /// Bytes that are left.
    fn remaining(&self) -> u64;
    /// Appends bytes.
    ///
    /// # Errors
    /// The device's.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Appends zeros up to a multiple of `to`, at most 4096.
    ///
    /// # Errors
    /// The device's.
    fn pad_to(&mut self, to: usize) -> io::Result<()>;
    /// Makes durable what was appended so far.
    ///
    /// # Errors
    /// The device's.
    fn checkpoint(&mut self) -> io::Result<()>;
    /// Pads to a block and makes everything durable.
    ///
    /// # Errors
    /// The device's.
    fn flush(&mut self) -> io::Result<()>;
    /// Looks for further room, so that at least `need` bytes are left. Gives whether
    /// there are.
    fn more(&mut self, need: u64) -> bool {
        self.remaining() >= need
    }
    /// Whether the dump went on to another device since the last call.
    fn moved(&mut self) -> bool {
        false
    }
    /// Number of the part that is written now.
    fn part(&self) -> u8 {
        0
    }
    /// Buffers that hold bytes on their way to the device, and all buffers: a cheap hint
    /// at how far the device is behind. All free says that it is not, or cannot be known.
    fn busy(&self) -> (usize, usize) {
        (0, 1)
    }
}

/// What becomes of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is captured in this layer, never [`Layer::Address`].
    In(Layer),
    /// The profile leaves it out.
    Out,
}

/// Where pages go. One a worker.
pub trait PlaceRead {
    /// Tells the places of the pages from `first` on. The same page always gets the
    /// same answer.
    fn places(&mut self, first: Pfn, out: &mut [Place]);
}

/// The capturer's eye on time.
pub trait Monitor: Sync {
    /// Called after every few pages with how many were done; false stops the capture.
    fn tick(&self, pages: u64) -> bool;
    /// Nanoseconds of a clock that goes on; only differences matter, and of them only
    /// ratios. Without a clock 0.
    fn nanos(&self) -> u64 {
        0
    }
}
