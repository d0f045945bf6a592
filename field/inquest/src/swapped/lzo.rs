//! LZO1X and LZO-RLE, as the kernel's `lzo` and `lzo-rle` compressors write them.
//!
//! The stream is described by `Documentation/staging/lzo.rst` of the kernel's source, and its
//! reader is `lib/lzo/lzo1x_decompress_safe.c` there. Both names share one reader: a stream
//! of version 1 (kernel commit 5ee4014af99f, "lib/lzo: implement run-length encoding", 5.1) opens
//! with the byte 17 and its version, and adds an instruction for runs of zeros.
//!
//! Every instruction copies literals of the input, or bytes of the output again. What was
//! written can only be trusted as far as it goes: each length and distance is checked against
//! both buffers, so that a damaged stream ends in an error and never in a write elsewhere.

/// Furthest that a match of 3 bytes after a long literal starts at, less one (`M2_MAX_OFFSET`).
const M2_MAX_OFFSET: usize = 0x800;
/// What the shortest distance of the 16-to-48-KiB instruction is more than.
const M4_BASE: usize = 0x4000;
/// Shortest run of zeros that is encoded as such (`MIN_ZERO_RUN_LENGTH`).
const MIN_ZERO_RUN: usize = 4;
/// First byte of a stream that states its version.
const VERSIONED: u8 = 17;
/// Shortest stream that can state its version, bytes.
const VERSIONED_LEN: usize = 5;

/// Why a stream cannot be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LzoError {
    /// It ends amid an instruction or without the mark of its end.
    #[error("the stream ends too early")]
    InputOverrun,
    /// It holds more than there is room for.
    #[error("the stream holds more than a page")]
    OutputOverrun,
    /// It refers to bytes before the first.
    #[error("the stream refers to bytes before its beginning")]
    LookBehind,
    /// There are bytes behind the mark of its end.
    #[error("the stream ends before its last byte")]
    NotConsumed,
    /// The mark of its end is not as compressors write it.
    #[error("the mark of the stream's end is damaged")]
    BadEnd,
    /// A version that is not known.
    #[error("bitstream version {0} is not known")]
    Version(u8),
}

/// What the last instruction copied after its own work, which gives the next one its meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No literals.
    None,
    /// One to three literals.
    Few,
    /// A long run of literals.
    Run,
}

/// Decompresses `input` to the front of `out` and says how many bytes that are.
///
/// # Errors
/// [`LzoError`]; `out` is then of no meaning.
pub(super) fn decompress(input: &[u8], out: &mut [u8]) -> Result<usize, LzoError> {
    let mut stream = Stream { input, at: 0, out, len: 0, rle: false };
    stream.run()
}

struct Stream<'a> {
    input: &'a [u8],
    at: usize,
    out: &'a mut [u8],
    len: usize,
    /// Whether runs of zeros have an instruction of their own.
    rle: bool,
}

impl Stream<'_> {
    fn run(&mut self) -> Result<usize, LzoError> {
        let mut state = self.first()?;
        loop {
            let op = usize::from(self.byte()?);
            let next = match op {
                0..16 => match state {
                    State::None => {
                        let count = 3 + self.length(op, 15)?;
                        self.literals(count)?;
                        state = State::Run;
                        continue;
                    }
                    State::Few => self.near(op, 1, 2)?,
                    State::Run => self.near(op, 1 + M2_MAX_OFFSET, 3)?,
                },
                16..32 => match self.far(op)? {
                    Some(next) => next,
                    None => return self.finish(op),
                },
                32..64 => {
                    let count = 2 + self.length(op & 31, 31)?;
                    let word = self.word()?;
                    self.again((word >> 2) + 1, count)?;
                    word & 3
                }
                _ => {
                    let high = usize::from(self.byte()?) << 3;
                    self.again(high + ((op >> 2) & 7) + 1, (op >> 5) + 1)?;
                    op & 3
                }
            };
            self.literals(next)?;
            state = if next == 0 { State::None } else { State::Few };
        }
    }

    /// The version, and the literals that a stream may open with.
    fn first(&mut self) -> Result<State, LzoError> {
        if self.input.len() >= VERSIONED_LEN && self.input.first() == Some(&VERSIONED) {
            self.at = 1;
            self.rle = match self.byte()? {
                0 => false,
                1 => true,
                other => return Err(LzoError::Version(other)),
            };
        }
        let opens = self.input.get(self.at).copied().ok_or(LzoError::InputOverrun)?;
        let Some(count @ 1..) = opens.checked_sub(17) else { return Ok(State::None) };
        self.at += 1;
        self.literals(usize::from(count))?;
        Ok(if count < 4 { State::Few } else { State::Run })
    }

    /// A match that the instruction and one byte encode.
    fn near(&mut self, op: usize, base: usize, count: usize) -> Result<usize, LzoError> {
        let high = usize::from(self.byte()?) << 2;
        self.again(high + (op >> 2) + base, count)?;
        Ok(op & 3)
    }

    /// A match 16 to 48 KiB back, a run of zeros, or (`None`) the end.
    fn far(&mut self, op: usize) -> Result<Option<usize>, LzoError> {
        let before = self.at;
        if self.rle && op & 8 != 0 {
            // A run of zeros takes the place of the furthest distance.
            let word = self.word()?;
            if word & 0xfffc == 0xfffc {
                let high = usize::from(self.byte()?) << 3;
                self.zeros((high | (op & 7)) + MIN_ZERO_RUN)?;
                return Ok(Some(word & 3));
            }
            self.at = before;
        }
        let count = 2 + self.length(op & 7, 7)?;
        let word = self.word()?;
        let distance = ((op & 8) << 11) + (word >> 2);
        if distance == 0 {
            return Ok(None);
        }
        self.again(M4_BASE + distance, count)?;
        Ok(Some(word & 3))
    }

    /// At the end: it copies "three bytes", and nothing comes after it.
    fn finish(&self, op: usize) -> Result<usize, LzoError> {
        if op & 7 != 1 {
            return Err(LzoError::BadEnd);
        }
        if self.at != self.input.len() {
            return Err(LzoError::NotConsumed);
        }
        Ok(self.len)
    }

    /// A length: `short` itself, or if that is 0, `base` and what the next bytes add.
    fn length(&mut self, short: usize, base: usize) -> Result<usize, LzoError> {
        if short != 0 {
            return Ok(short);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                // No more than 255 for each byte of the input: this cannot overflow.
                0 => length += 255,
                last => return Ok(length + usize::from(last)),
            }
        }
    }

    fn byte(&mut self) -> Result<u8, LzoError> {
        let byte = self.input.get(self.at).copied().ok_or(LzoError::InputOverrun)?;
        self.at += 1;
        Ok(byte)
    }

    fn word(&mut self) -> Result<usize, LzoError> {
        let low = usize::from(self.byte()?);
        Ok(low | usize::from(self.byte()?) << 8)
    }

    /// Room for `count` more bytes of output.
    fn room(&mut self, count: usize) -> Result<&mut [u8], LzoError> {
        let end = self.len.checked_add(count).ok_or(LzoError::OutputOverrun)?;
        let room = self.out.get_mut(self.len..end).ok_or(LzoError::OutputOverrun)?;
        self.len = end;
        Ok(room)
    }

    fn literals(&mut self, count: usize) -> Result<(), LzoError> {
        let end = self.at.checked_add(count).ok_or(LzoError::InputOverrun)?;
        let from = self.input.get(self.at..end).ok_or(LzoError::InputOverrun)?;
        self.room(count)?.copy_from_slice(from);
        self.at = end;
        Ok(())
    }

    fn zeros(&mut self, count: usize) -> Result<(), LzoError> {
        self.room(count)?.fill(0);
        Ok(())
    }

    /// Writes `count` bytes again that lie `distance` back; the two may overlap, which
    /// repeats them.
    fn again(&mut self, distance: usize, count: usize) -> Result<(), LzoError> {
        let from = self.len.checked_sub(distance).ok_or(LzoError::LookBehind)?;
        let to = self.len;
        self.room(count)?;
        if distance >= count {
            self.out.copy_within(from..from + count, to);
            return Ok(());
        }
        // What is copied grows by what was copied: each round at least doubles it.
        let mut done = 0;
        while done < count {
            let now = (distance + done).min(count - done);
            self.out.copy_within(from..from + now, to + done);
            done += now;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "lzo_tests.rs"]
mod tests;
