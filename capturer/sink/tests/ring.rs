//! The ring of dumps against a model: random histories of captures, power cuts, failing
//! disks, pulls, clears, damaged slots and policies. The model is a list of dumps and a
//! map of blocks; it says where each dump must go and which may be given up for it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

mod model;
mod sim;

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::{BLOCK, SlotRecord, SlotState};
use lifeboat_sink::{Candidate, Chain, Event, Head, Host, Placement, Volume, VolumeError};
use model::{Dump, Model, word};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sim::{Disk, Failure, Queue, Rng};

/// Histories of each kind; `LIFEBOAT_HISTORIES` asks for more.
const HISTORIES: u32 = 700;

#[derive(Debug, Clone)]
enum End {
    Complete,
    Partial,
    Cut,
    /// The disk fails from this request on.
    Fails(u64, bool),
}

#[derive(Debug, Clone)]
enum Step {
    Capture {
        policy: Policy,
        len: u64,
        end: End,
        seed: u64,
    },
    /// All slots of a dump, or only its first.
    Pull {
        pick: usize,
        whole: bool,
    },
    /// All slots of a dump, or only the part behind the others.
    Clear {
        pick: usize,
        whole: bool,
    },
    /// Both copies of a slot rot; or one.
    Rot {
        pick: usize,
        copies: u8,
        at: usize,
    },
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::KeepFirst), Just(Policy::KeepLatest), Just(Policy::DropPulled)]
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![5 => 0..2u64 << 20, 3 => 2u64 << 20..8 << 20, 1 => 8u64 << 20..40 << 20];
    let end = prop_oneof![
        4 => Just(End::Complete),
        1 => Just(End::Partial),
        2 => Just(End::Cut),
        2 => (0..120u64, any::<bool>()).prop_map(|(at, once)| End::Fails(at, once)),
    ];
    prop_oneof![
        6 => (policy(), len, end, any::<u64>())
            .prop_map(|(policy, len, end, seed)| Step::Capture { policy, len, end, seed }),
        3 => (any::<usize>(), prop::bool::weighted(0.9))
            .prop_map(|(pick, whole)| Step::Pull { pick, whole }),
        2 => (any::<usize>(), prop::bool::weighted(0.8))
            .prop_map(|(pick, whole)| Step::Clear { pick, whole }),
        1 => (any::<usize>(), 1..4u8, 0..BLOCK)
            .prop_map(|(pick, copies, at)| Step::Rot { pick, copies, at }),
    ]
}

struct OneDisk {
    disk: Disk,
    seed: u64,
    told: Arc<Mutex<Vec<Event>>>,
}

impl Host for OneDisk {
    type Out = Queue;
    fn queue(&mut self, _: usize) -> std::io::Result<Queue> {
        self.disk.open()?;
        Ok(Queue::new(&self.disk, 3, 256 << 10, self.seed))
    }
    fn lane(&mut self, _: usize, _: &Queue) -> std::io::Result<Disk> {
        panic!("there is one disk")
    }
    fn tell(&mut self, event: Event) {
        self.told.lock().unwrap().push(event);
    }
}

/// A volume under test, with its model.
struct World {
    disk: Disk,
    model: Model,
}

impl World {
    fn new(mib: u64, max_dumps: u32) -> Self {
        let disk = Disk::new(mib << 20);
        let at = Placement { start: 0, len: mib << 20 };
        Volume::format(disk.clone(), at, max_dumps, "", [3; 16], 1).unwrap();
        disk.touched();
        Self { disk, model: Model::new(mib << 20, max_dumps) }
    }

    fn open(&self) -> Volume<Disk> {
        let len = lifeboat_sink::BlockDev::len(&self.disk);
        Volume::open(self.disk.clone(), Placement { start: 0, len }).unwrap()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Capture { policy, len, end, seed } => self.capture(*policy, *len, end, *seed),
            Step::Pull { pick, whole } => self.pull(*pick, *whole),
            Step::Clear { pick, whole } => self.clear(*pick, *whole),
            Step::Rot { pick, copies, at } => self.rot(*pick, *copies, *at),
        }
        self.check();
    }

    /// What lies on the disk is what the model says, and nothing else was written.
    fn check(&mut self) {
        let volume = self.open();
        let found: Vec<(u32, SlotRecord)> = volume.dumps();
        self.model.same_slots(&found);
        self.model.no_overlap();
        let touched = self.disk.touched();
        self.model.only_given_up(&touched);
        self.model.bytes_are_there(&self.disk, false);
    }

    fn pull(&mut self, pick: usize, whole: bool) {
        let mut volume = self.open();
        let Some(dump) = self.model.pick(pick) else { return };
        for (slot, record) in dump.slots.iter_mut().take(if whole { 64 } else { 1 }) {
            (record.pulled, record.generation) = (true, record.generation + 1);
            volume.update(*slot, |r| r.pulled = true).unwrap();
        }
    }

    fn clear(&mut self, pick: usize, whole: bool) {
        let mut volume = self.open();
        let Some(dump) = self.model.pick(pick) else { return };
        // Cut off after the last part, or all.
        for _ in 0..if whole { 64 } else { 1 } {
            let Some((slot, _)) = dump.slots.pop_last() else { break };
            volume.update(slot, |r| r.state = SlotState::Cleared).unwrap();
        }
        self.model.forget_empty();
    }

    /// A slot that cannot be read stops all writing; one copy of it costs nothing that
    /// any policy has not given up.
    fn rot(&mut self, pick: usize, copies: u8, at: usize) {
        let used: Vec<u32> = self.model.slots().map(|(slot, _)| slot).collect();
        if used.is_empty() {
            return;
        }
        let slot = used[pick % used.len()];
        let kept: Vec<_> = (0..2).filter(|c| copies & (1 << c) != 0).collect();
        let place = |copy| SlotRecord::offset(slot, copy).0;
        let flip = |copy| self.disk.poke(place(copy), |b| b[at] ^= 0x10, BLOCK);
        kept.iter().for_each(|copy| flip(*copy));
        let volume = self.open();
        if kept.len() == 2 {
            for policy in [Policy::KeepFirst, Policy::KeepLatest, Policy::DropPulled] {
                let refused = volume.plan(policy);
                assert!(matches!(refused, Err(VolumeError::Slot { slot: s, .. }) if s == slot));
            }
        } else {
            let found = volume.dumps();
            for (slot, record) in self.model.slots_with_bytes() {
                // Its other copy may be a torn one: then nothing is written at all.
                if volume.slots()[slot as usize].is_err() {
                    assert!(matches!(
                        volume.plan(Policy::KeepLatest),
                        Err(VolumeError::Slot { .. })
                    ));
                    continue;
                }
                let there = found.iter().find(|(s, _)| *s == slot);
                let (_, there) = there.unwrap_or_else(|| panic!("slot {slot} protects nothing"));
                let (want, got) = (record.extent(), there.extent());
                assert!(
                    got.start == want.start && got.end >= want.end,
                    "slot {slot} protects less"
                );
            }
        }
        kept.iter().for_each(|copy| flip(*copy));
    }

    fn capture(&mut self, policy: Policy, len: u64, end: &End, seed: u64) {
        let volume = self.open();
        let want = self.model.room(policy, None, lifeboat_sink::MIN_DUMP);
        let plan = match (volume.plan(policy), want) {
            (Ok(plan), Some(want)) => {
                assert_eq!((plan.slot, plan.start.0, plan.len), (want.slot, want.start, want.len));
                assert_eq!(plan.drops[..], want.drops, "{policy:?}");
                assert_eq!(plan.number, self.model.highest + 1, "a number is used twice");
                plan
            }
            (Err(VolumeError::Full { .. }), None) => return,
            (got, want) => panic!("{policy:?}: {got:?} instead of {want:?}"),
        };
        let id = self.model.new_id();
        let told = Arc::new(Mutex::new(Vec::new()));
        let host = OneDisk { disk: self.disk.clone(), seed, told: Arc::clone(&told) };
        let head = Head { dump_id: id, bytes: Box::new([0x48; HEADER_LEN]), now: 1 };
        let targets = vec![Candidate { volume, spent: false }];
        if let End::Fails(at, once) = end {
            let how = if *once { Failure::Once } else { Failure::Dead };
            self.disk.fail_after(*at, how, seed);
        }
        let mut run = Run { policy, id, told, written: 0, sound: 0, rng: Rng(seed) };
        if let Ok(mut chain) = Chain::begin(host, targets, 0, &plan, policy, head) {
            if !matches!(end, End::Fails(..)) {
                run.told.lock().unwrap().clear();
                self.model.take_slots(policy, &plan.drops, chain.targets()[0].volume.slots());
            }
            let done = run.write(&mut chain, len, end, &mut self.model);
            if done.is_err() {
                assert!(matches!(end, End::Fails(..)), "{done:?}");
            }
        }
        self.disk.repair();
        self.settle(&run, end);
    }

    /// Takes over what a capture left. The chain is gone as in a power cut; only what the
    /// policy gave up may be missing.
    fn settle(&mut self, run: &Run, end: &End) {
        let volume = self.open();
        for (n, slot) in volume.slots().iter().enumerate() {
            assert!(slot.is_ok(), "slot {n} is damaged: {slot:?}");
        }
        let found = volume.dumps();
        if matches!(end, End::Fails(..)) {
            self.model.lost_to(run.policy, &run.id, &found);
        }
        let ours = found.iter().filter(|(_, r)| r.dump_id == run.id).copied();
        let dump = Dump { id: run.id, slots: ours.collect(), sound: run.sound };
        self.model.replace(dump, volume.slots());
    }
}

/// A capture on its way.
struct Run {
    policy: Policy,
    id: [u8; 16],
    told: Arc<Mutex<Vec<Event>>>,
    written: u64,
    /// Bytes known to be on the disk.
    sound: u64,
    rng: Rng,
}

impl Run {
    fn write(
        &mut self,
        chain: &mut Chain<Disk, OneDisk>,
        len: u64,
        end: &End,
        model: &mut Model,
    ) -> std::io::Result<()> {
        let exact = !matches!(end, End::Fails(..));
        let mut bytes = Vec::new();
        while self.written < len {
            let take = (4096 + self.rng.below(300_000)).next_multiple_of(512);
            let need = take + (1 << 20);
            let short = need.saturating_sub(chain.remaining());
            let enough = chain.more(need);
            if exact && short > 0 {
                self.more(chain, model, short);
            }
            if !enough {
                break;
            }
            bytes.clear();
            let words = (self.written..self.written + take).step_by(8);
            bytes.extend(words.flat_map(|at| word(&self.id, at).to_le_bytes()));
            chain.append(&bytes)?;
            self.written += take;
            assert_eq!(chain.position(), self.written);
            if self.rng.below(8) == 0 {
                chain.checkpoint()?;
                self.sound = self.written;
            }
        }
        if matches!(end, End::Cut) {
            return Ok(());
        }
        chain.flush()?;
        self.sound = self.written;
        let state =
            if matches!(end, End::Partial) { SlotState::Partial } else { SlotState::Complete };
        chain.close(state).map_err(std::io::Error::other)
    }

    /// The chain looked for a further part: it must be the one that the model finds.
    fn more(&mut self, chain: &Chain<Disk, OneDisk>, model: &mut Model, short: u64) {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        if told.is_empty() {
            // A part is set aside already, or the only target is spent.
            return;
        }
        let head = lifeboat_format::part::PART_HEAD as u64;
        let need = (short + head).max(lifeboat_sink::MIN_PART);
        let want = model.room(self.policy, Some(&self.id), need);
        let (mut drops, mut got) = (Vec::new(), None);
        for event in told {
            match event {
                Event::Dropped { slots, .. } => drops.extend(slots),
                Event::More { len, .. } => got = Some(len),
                Event::NoRoom { why: VolumeError::Full { .. }, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        match (want, got) {
            (None, None) => assert!(drops.is_empty()),
            (Some(want), Some(len)) => {
                assert_eq!((want.len - head, &want.drops), (len, &drops));
                model.take_slots(self.policy, &drops, chain.targets()[0].volume.slots());
            }
            (want, got) => panic!("{got:?} instead of {want:?}"),
        }
    }
}

fn histories(mib: std::ops::Range<u64>, dumps: std::ops::Range<u32>) {
    let asked = std::env::var("LIFEBOAT_HISTORIES").ok().and_then(|n| n.parse().ok());
    let cases = asked.unwrap_or(HISTORIES);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let (steps, done) = (Cell::new(0), Cell::new(0));
    let strategy = (mib, dumps, prop::collection::vec(step(), 1..24));
    TestRunner::new(config)
        .run(&strategy, |(mib, max, list)| {
            let mut world = World::new(mib, max);
            list.iter().for_each(|s| world.step(s));
            world.open().guard().unwrap();
            world.model.bytes_are_there(&world.disk, true);
            steps.set(steps.get() + list.len());
            done.set(done.get() + 1);
            Ok(())
        })
        .unwrap();
    println!("{} histories, {} steps", done.get(), steps.get());
}

#[test]
fn small_volumes_follow_the_model() {
    histories(16..24, 1..9);
}

#[test]
fn volumes_follow_the_model() {
    histories(24..65, 1..9);
}

#[test]
fn volumes_for_many_dumps_follow_the_model() {
    histories(24..65, 8..65);
}
