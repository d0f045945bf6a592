//! The targets of a dump: where its next part may go, entering it, and what its slots say.
//!
//! This file decides where the dump goes on and writes slots and heads of parts. It
//! refuses to ask a target again that failed or gave no room, so that however many
//! fail, the search ends.

use std::io;

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{BLOCK, Id, PartBlock, SlotState};

use crate::{BlockDev, Candidate, Event, Head, Host, NewPart, Output, Plan, VolumeError};

const HEAD: u64 = PART_HEAD as u64;
/// Parts that a dump can have.
pub(crate) const MAX_PARTS: usize = 64;

/// An extent of the dump.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// From 0, rising. One that failed before it was entered leaves its number unused.
    pub(crate) number: u16,
    pub(crate) target: usize,
    pub(crate) slot: u32,
    /// Logical offset of its first byte behind the head.
    pub(crate) base: u64,
    /// Byte of the volume where that lies.
    pub(crate) start: u64,
    /// Bytes of the dump that it may take.
    pub(crate) limit: u64,
    /// Bytes of the dump that it holds; known once it is left.
    pub(crate) used: u64,
    /// Bytes of its head, which lies in front of `start`.
    pub(crate) head: u64,
    pub(crate) failed: bool,
}

pub(crate) type LaneOf<H> = <<H as Host>::Out as Output>::Lane;

/// The targets and what is common to all parts.
pub(crate) struct Targets<D, H: Host> {
    pub(crate) host: H,
    pub(crate) head: Head,
    policy: Policy,
    pub(crate) list: Vec<Candidate<D>>,
    /// The ways to the targets that the dump may go on to, by their number. A target that
    /// is left is never entered again, so each is used once.
    lanes: Vec<Option<io::Result<LaneOf<H>>>>,
    /// Highest number that a part was given.
    last_number: u16,
}

impl<D: BlockDev, H: Host> Targets<D, H> {
    pub(crate) fn new(host: H, head: Head, policy: Policy, list: Vec<Candidate<D>>) -> Self {
        Self { host, head, policy, list, lanes: Vec::new(), last_number: 0 }
    }

    /// Enters part 0, as `plan` says; if target `first` fails already here, a part 1 on
    /// another one. (Not a part 0: the slot of the first may have reached its medium.)
    pub(crate) fn begin(
        &mut self,
        first: usize,
        plan: &Plan,
        need: u64,
    ) -> Result<(Part, H::Out), VolumeError> {
        let why = match self.begin_on(first, plan) {
            Ok(begun) => return Ok(begun),
            Err(why) => why,
        };
        if let Some(candidate) = self.list.get_mut(first) {
            candidate.spent = true;
        }
        while let Some(part) = self.set_aside(first, 0, need) {
            let entered = self.write_head(&part).and_then(|()| self.host.queue(part.target));
            match entered {
                Ok(out) => {
                    self.host.tell(Event::NoRoom { target: first, why });
                    return Ok((part, out));
                }
                Err(failed) => self.spend(part.target, 0, failed),
            }
        }
        Err(why)
    }

    fn begin_on(&mut self, first: usize, plan: &Plan) -> Result<(Part, H::Out), VolumeError> {
        let candidate = self.list.get_mut(first).ok_or(VolumeError::NotOurs)?;
        let opening = VolumeError::io("opening the target for writing");
        let out = self.host.queue(first).map_err(opening)?;
        let new = NewPart { dump_id: self.head.dump_id, part: 0, base: 0, now: self.head.now };
        candidate.volume.begin(plan, &new)?;
        if !plan.drops.is_empty() {
            self.host.tell(Event::Dropped { target: first, slots: plan.drops.clone() });
        }
        let part = Part {
            number: 0,
            target: first,
            slot: plan.slot,
            base: 0,
            start: plan.start.0,
            limit: plan.len,
            used: 0,
            head: 0,
            failed: false,
        };
        Ok((part, out))
    }

    /// Makes the ways to all further targets, so that later nothing is opened or allocated.
    /// One that cannot be made counts when it is needed.
    pub(crate) fn prepare(&mut self, current: usize, out: &H::Out) {
        let host = &mut self.host;
        let lane = |(target, candidate): (usize, &Candidate<D>)| {
            (target != current && !candidate.spent).then(|| host.lane(target, out))
        };
        self.lanes = self.list.iter().enumerate().map(lane).collect();
    }

    /// Takes a slot for the next part, of at least `need` bytes, which begins at logical
    /// offset `base`: on target `from`, or on those behind it in the list, or else on
    /// those in front of it.
    pub(crate) fn set_aside(&mut self, from: usize, base: u64, need: u64) -> Option<Part> {
        if usize::from(self.last_number) + 1 >= MAX_PARTS {
            return None;
        }
        let order = (from..self.list.len()).chain(0..from.min(self.list.len()));
        for target in order {
            let Some(candidate) = self.list.get_mut(target).filter(|c| !c.spent) else {
                continue;
            };
            let number = self.last_number.saturating_add(1);
            let dump_id = self.head.dump_id;
            let new = NewPart { dump_id, part: number, base, now: self.head.now };
            let volume = &mut candidate.volume;
            let planned = volume
                .plan_part(self.policy, &dump_id, need)
                .and_then(|plan| volume.begin(&plan, &new).map(|()| plan));
            match planned {
                Ok(plan) => {
                    let limit = plan.len.saturating_sub(HEAD);
                    if !plan.drops.is_empty() {
                        self.host.tell(Event::Dropped { target, slots: plan.drops });
                    }
                    self.host.tell(Event::More { target, len: limit });
                    self.last_number = number;
                    return Some(Part {
                        number,
                        target,
                        slot: plan.slot,
                        base,
                        start: plan.start.0 + HEAD,
                        limit,
                        used: 0,
                        head: HEAD,
                        failed: false,
                    });
                }
                Err(why) => {
                    candidate.spent = true;
                    self.host.tell(Event::NoRoom { target, why });
                }
            }
        }
        None
    }

    /// Makes a part that was set aside count: its slot gets its base, then its head is
    /// written. Gives the way to its device.
    pub(crate) fn enter(&mut self, part: &Part) -> io::Result<LaneOf<H>> {
        self.write_head(part)?;
        let lane = self.lanes.get_mut(part.target).and_then(Option::take);
        lane.unwrap_or(Err(io::ErrorKind::NotFound.into()))
    }

    pub(crate) fn write_head(&mut self, part: &Part) -> io::Result<()> {
        let Some(candidate) = self.list.get_mut(part.target) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let block = PartBlock {
            dump_id: self.head.dump_id,
            volume_id: candidate.volume.superblock().volume_id,
            part: part.number,
            base: part.base,
        };
        candidate.volume.update(part.slot, |r| r.base = part.base).map_err(VolumeError::into_io)?;
        let dev = candidate.volume.dev();
        let at = part.start - HEAD;
        dev.write_at(at, &block.encode())?;
        dev.write_at(at + BLOCK as u64, &*self.head.bytes)?;
        dev.flush()
    }

    /// Does not ask `target` again.
    pub(crate) fn spend(&mut self, target: usize, at: u64, why: io::Error) {
        if let Some(candidate) = self.list.get_mut(target) {
            candidate.spent = true;
        }
        self.host.tell(Event::Failed { target, at, why });
    }

    fn volume_of(&self, target: usize) -> Id {
        self.list.get(target).map_or([0; 16], |c| c.volume.superblock().volume_id)
    }

    /// Records that a part is whole and where the dump goes on.
    pub(crate) fn note_continued(&mut self, part: &Part, next: usize) {
        let next_volume = self.volume_of(next);
        self.note(part, |r| {
            r.state = SlotState::Continued;
            r.used_len = part.head + part.used;
            r.next_volume = next_volume;
        });
    }

    /// Gives back a part that was never entered.
    pub(crate) fn give_back(&mut self, part: &Part) {
        self.note(part, |r| r.state = SlotState::Cleared);
    }

    fn note(&mut self, part: &Part, change: impl FnOnce(&mut lifeboat_format::SlotRecord)) {
        let Some(candidate) = self.list.get_mut(part.target) else { return };
        if let Err(why) = candidate.volume.update(part.slot, change) {
            self.host.tell(Event::Slot { target: part.target, why });
        }
    }
}
