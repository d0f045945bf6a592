//! One dump over any number of extents: further gaps of its volume, dumps that the
//! volume's policy gives up, and the next targets when one is full or fails.
//!
//! The dump has logical offsets that are continuous over its parts (see
//! [`lifeboat_format::part`]). When a device fails, everything that is not known to
//! be on it is still in memory and is written to the next one, so a failing disk
//! costs nothing but what it had acknowledged and cannot give back.

use std::io;

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::commit::IoMode;
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::{BLOCK, Id, SlotState};
use lifeboat_sys::text::copy;

use crate::targets::{LaneOf, MAX_PARTS, Part, Targets};
use crate::{BlockDev, Drops, ExtentWriter, MIN_DUMP, MIN_PART, Output, Plan, Volume, VolumeError};

/// What the chain needs of its surroundings.
pub trait Host {
    /// How a target's writes are made.
    type Out: Output;
    /// A queue of writes to target `target`; it addresses the volume's bytes.
    ///
    /// # Errors
    /// The device's.
    fn queue(&mut self, target: usize) -> io::Result<Self::Out>;
    /// The way to target `target` for the queue `out`, which is another target's now: for
    /// when the dump goes on there.
    ///
    /// # Errors
    /// The device's.
    fn lane(&mut self, target: usize, out: &Self::Out) -> io::Result<<Self::Out as Output>::Lane>;
    /// Something that an operator wants to know.
    fn tell(&mut self, event: Event);
}

/// What happened to a dump on its way.
#[allow(clippy::large_enum_variant, reason = "an event is rare, and a box would allocate")]
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Old dumps of a target were dropped by its policy.
    Dropped {
        /// Which target.
        target: usize,
        /// Slots that were cleared.
        slots: Drops,
    },
    /// Room for a further part was set aside.
    More {
        /// Which target.
        target: usize,
        /// Bytes.
        len: u64,
    },
    /// A target gives no more room.
    NoRoom {
        /// Which target.
        target: usize,
        /// Why.
        why: VolumeError,
    },
    /// A target failed.
    Failed {
        /// Which target.
        target: usize,
        /// Logical offset in the dump up to which it has the bytes.
        at: u64,
        /// Its error.
        why: io::Error,
    },
    /// A slot could not be brought up to date; the dump itself says the same.
    Slot {
        /// Which target.
        target: usize,
        /// Why.
        why: VolumeError,
    },
}

/// A target that passed its guard.
#[derive(Debug)]
pub struct Candidate<D> {
    /// The volume.
    pub volume: Volume<D>,
    /// It failed, or was found to have no room: not asked again.
    pub spent: bool,
}

/// What a dump begins with and every part repeats.
pub struct Head {
    /// The dump.
    pub dump_id: Id,
    /// Header and key area.
    pub bytes: Box<[u8; HEADER_LEN]>,
    /// Seconds since 1970.
    pub now: u64,
}

/// Writes one dump.
pub struct Chain<D, H: Host> {
    targets: Targets<D, H>,
    parts: Vec<Part>,
    /// The next part: its slot is taken, its head not yet written.
    pending: Option<Part>,
    writer: ExtentWriter<H::Out>,
    moved: bool,
}

impl<D: BlockDev, H: Host> Chain<D, H> {
    /// Begins a dump on target `first`, into `plan`, or on another target if that one
    /// fails already now. A slot is taken; nothing of the dump itself is written. The other
    /// targets are made ready: once the dump has begun, the chain allocates nothing.
    ///
    /// # Errors
    /// [`VolumeError`] of the first target, when no other takes the dump.
    pub fn begin(
        host: H,
        targets: Vec<Candidate<D>>,
        first: usize,
        plan: &Plan,
        policy: Policy,
        head: Head,
    ) -> Result<Self, VolumeError> {
        let mut targets = Targets::new(host, head, policy, targets);
        let (part, out) = targets.begin(first, plan, MIN_DUMP)?;
        targets.prepare(part.target, &out);
        let writer = ExtentWriter::new(out, part.start, part.limit);
        let mut parts = Vec::with_capacity(MAX_PARTS);
        parts.push(part);
        let mut chain = Self { targets, parts, pending: None, writer, moved: false };
        chain.be_patient_with_the_last();
        Ok(chain)
    }

    fn current(&self) -> Option<&Part> {
        self.parts.last()
    }

    fn base(&self) -> u64 {
        self.current().map_or(0, |p| p.base)
    }

    /// Logical offset of what comes next.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.base() + self.writer.position()
    }

    /// Bytes that are left, those of a part that is set aside included.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.writer.remaining() + self.pending.map_or(0, |p| p.limit)
    }

    /// Number of the part that is written now.
    #[must_use]
    pub fn part(&self) -> u8 {
        self.current().map_or(0, |p| u8::try_from(p.number).unwrap_or(u8::MAX))
    }

    /// Whether the dump went on to another volume since the last call.
    pub fn moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// How far the device that is written now is behind, see [`Output::busy`].
    #[must_use]
    pub fn busy(&self) -> (usize, usize) {
        self.writer.busy()
    }

    /// How writes are made, and how many there were.
    #[must_use]
    pub fn io(&self) -> (IoMode, u64) {
        self.writer.io()
    }

    /// The targets.
    #[must_use]
    pub fn targets(&self) -> &[Candidate<D>] {
        &self.targets.list
    }

    /// Sets a further part aside so that at least `need` bytes are left. Gives
    /// whether there are.
    pub fn more(&mut self, need: u64) -> bool {
        if self.pending.is_none() && self.remaining() < need {
            let from = self.current().map_or(0, |p| p.target);
            let base = self.base() + self.current().map_or(0, |p| p.limit);
            self.pending = self.targets.set_aside(from, base, need - self.remaining());
            self.be_patient_with_the_last();
        }
        self.remaining() >= need
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `StorageFull` when they would pass what is left and no target has more (nothing is
    /// then written), or the error of the last device that failed.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if !self.more(bytes.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        while !bytes.is_empty() {
            if self.writer.remaining() == 0 {
                self.go_on()?;
                continue;
            }
            let room = usize::try_from(self.writer.remaining()).unwrap_or(usize::MAX);
            let before = self.position();
            let part = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
            if let Err(why) = self.writer.append(part) {
                self.fail_over(why)?;
            }
            // What a failed write held counts as appended: it went to the next device.
            let taken = usize::try_from(self.position() - before).unwrap_or(0);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Appends zeros up to a multiple of `to` (at most 4096).
    ///
    /// # Errors
    /// As [`Chain::append`].
    pub fn pad_to(&mut self, to: usize) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let over = usize::try_from(self.position() % to as u64).unwrap_or(0);
        let need = if over == 0 { 0 } else { to - over };
        self.append(ZEROS.get(..need).unwrap_or_default())
    }

    /// Runs `step` on the extent, on the next device after each failure.
    fn persist(
        &mut self,
        step: impl Fn(&mut ExtentWriter<H::Out>) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Err(why) = step(&mut self.writer) {
            self.fail_over(why)?;
        }
        Ok(())
    }

    /// Makes durable what was appended so far.
    ///
    /// # Errors
    /// As [`Chain::append`].
    pub fn checkpoint(&mut self) -> io::Result<()> {
        self.persist(ExtentWriter::checkpoint)
    }

    /// Pads to a block and makes everything durable.
    ///
    /// # Errors
    /// As [`Chain::append`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.pad_to(BLOCK)?;
        self.persist(ExtentWriter::flush)
    }

    /// Leaves a full extent for the one that is set aside. A target that fails here is
    /// left out; the caller tries again until there is room or none is left.
    fn go_on(&mut self) -> io::Result<()> {
        if let Err(why) = self.writer.flush() {
            return self.fail_over(why);
        }
        // A failure may have used up what was set aside.
        if !self.more(1) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (Some(next), Some(left)) = (self.pending.take(), self.parts.last_mut()) else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        left.used = self.writer.position();
        let left = *left;
        let entered = if next.target == left.target {
            self.targets.write_head(&next).map(|()| None)
        } else {
            self.targets.enter(&next).map(Some)
        };
        let lane = match entered {
            Ok(lane) => lane,
            Err(why) => {
                self.targets.spend(next.target, next.base, why);
                return Ok(());
            }
        };
        self.targets.note_continued(&left, next.target);
        self.parts.push(next);
        match lane {
            None => self.writer.restart(next.start, next.limit),
            Some(lane) => {
                self.moved = true;
                self.be_patient_with_the_last();
                if let Err(why) = self.writer.switch(lane, next.start, next.limit) {
                    return self.fail_over(why);
                }
            }
        }
        Ok(())
    }

    /// Leaves a device that failed; what it may not have goes to the next one.
    fn fail_over(&mut self, mut why: io::Error) -> io::Result<()> {
        loop {
            let Some(failed) = self.current().copied() else { return Err(why) };
            let kept = self.writer.kept();
            let base = failed.base + kept;
            // For what is written again, the rest of the frame and the dump's end.
            let need = self.writer.position() - kept + MIN_PART;
            let cause = copy(&why);
            self.targets.spend(failed.target, base, why);
            let Some((next, lane)) = self.next_after(&failed, base, need) else {
                return Err(cause);
            };
            if let Some(part) = self.parts.last_mut() {
                (part.used, part.failed) = (kept, true);
            }
            self.parts.push(next);
            self.moved = true;
            self.be_patient_with_the_last();
            match self.writer.switch(lane, next.start, next.limit) {
                Ok(()) => return Ok(()),
                Err(again) => why = again,
            }
        }
    }

    /// A device that is silent is left for another. Where none is left it may come back, and
    /// giving up would only cost the dump: its driver and the caller's deadline end the wait.
    fn be_patient_with_the_last(&mut self) {
        let current = self.current().map(|p| p.target);
        let mut others = self.targets.list.iter().enumerate().filter(|(n, _)| Some(*n) != current);
        if others.all(|(_, candidate)| candidate.spent) {
            self.writer.lift_limit();
        }
    }

    /// Enters a part of at least `need` bytes on another target than that of `failed`.
    fn next_after(&mut self, failed: &Part, base: u64, need: u64) -> Option<(Part, LaneOf<H>)> {
        loop {
            let fits = |p: &Part| p.target != failed.target && p.limit >= need;
            let next = match self.pending.take() {
                Some(pending) if fits(&pending) => Some(pending),
                unfit => {
                    if let Some(pending) = unfit.filter(|p| p.target != failed.target) {
                        self.targets.give_back(&pending);
                    }
                    self.targets.set_aside(failed.target, base, need)
                }
            };
            let next = Part { base, ..next? };
            match self.targets.enter(&next) {
                Ok(lane) => return Some((next, lane)),
                Err(again) => self.targets.spend(next.target, base, again),
            }
        }
    }

    /// Brings all slots up to date, once the commit record is durable: the dump is
    /// whole already, and says so itself.
    ///
    /// # Errors
    /// Of the last part's slot.
    pub fn close(&mut self, state: SlotState) -> Result<(), VolumeError> {
        let used = self.writer.position();
        let parts = std::mem::take(&mut self.parts);
        let Some((last, before)) = parts.split_last() else { return Ok(()) };
        let mut result = Ok(());
        if let Some(candidate) = self.targets.list.get_mut(last.target) {
            result = candidate.volume.update(last.slot, |r| {
                r.state = state;
                r.used_len = last.head + used;
            });
        }
        if let Some(unused) = self.pending.take() {
            self.targets.give_back(&unused);
        }
        // A device that failed may fail again, or hang: it comes last.
        for (at, part) in before.iter().enumerate().filter(|(_, p)| p.failed) {
            let next = parts.get(at + 1).map_or(last.target, |p| p.target);
            self.targets.note_continued(part, next);
        }
        result
    }
}
