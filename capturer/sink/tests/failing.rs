//! Disks that fail while a dump is written: at every request, once, for good or without
//! an answer, with writes that finish in any order. As long as one disk is left with
//! room, every byte that was appended can be read back, in its place.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

mod sim;

use std::io;
use std::sync::{Arc, Mutex};

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::header::HEADER_LEN;
use lifeboat_format::part::PART_HEAD;
use lifeboat_format::{BLOCK, Id, PartBlock, SlotState};
use lifeboat_sink::{
    BlockDev, Candidate, Chain, Event, ExtentWriter, Head, Host, NewPart, Placement, Volume,
    VolumeError,
};
use sim::{Disk, Failure, Queue, Rng};

const LEN: u64 = 16 << 20;
const ID: Id = [0xd0; 16];
const OLD: Id = [0x01; 16];

/// The disks of a capture, and what was told of them.
struct Disks {
    disks: Vec<Disk>,
    buf_len: usize,
    seed: u64,
    told: Arc<Mutex<Vec<String>>>,
}

impl Host for Disks {
    type Out = Queue;

    fn queue(&mut self, target: usize) -> io::Result<Queue> {
        self.disks[target].open()?;
        Ok(Queue::new(&self.disks[target], 4, self.buf_len, self.seed))
    }

    fn lane(&mut self, target: usize, _: &Queue) -> io::Result<Disk> {
        self.disks[target].open()?;
        Ok(self.disks[target].clone())
    }

    fn tell(&mut self, event: Event) {
        self.told.lock().unwrap().push(format!("{event:?}"));
    }
}

fn volume(disk: &Disk) -> Volume<Disk> {
    Volume::open(disk.clone(), Placement { start: 0, len: disk.len() }).unwrap()
}

/// A volume that holds an old dump of `old` bytes, `at` bytes behind its first gap's start.
fn disk(number: u8, at: u64, old: u64) -> Disk {
    let disk = Disk::new(LEN);
    let place = Placement { start: 0, len: LEN };
    let mut volume = Volume::format(disk.clone(), place, 8, "", [number; 16], 1).unwrap();
    let mut plan = volume.plan(Policy::KeepFirst).unwrap();
    plan.start.0 += at;
    plan.len = old;
    let new = NewPart { dump_id: OLD, part: 0, base: 0, now: 1 };
    volume.begin(&plan, &new).unwrap();
    disk.write_at(plan.start.0, &vec![number; old as usize]).unwrap();
    let done = |r: &mut lifeboat_format::SlotRecord| {
        (r.state, r.used_len) = (SlotState::Complete, old);
    };
    volume.update(plan.slot, done).unwrap();
    disk
}

fn old_is_unharmed(disk: &Disk) {
    let volume = volume(disk);
    volume.guard().unwrap();
    let (_, old) = volume.dumps().into_iter().find(|(_, r)| r.dump_id == OLD).unwrap();
    assert_eq!(old.state, SlotState::Complete);
    let mut bytes = vec![0; old.used_len as usize];
    disk.read_at(old.start.0, &mut bytes).unwrap();
    let number = volume.superblock().volume_id[0];
    assert!(bytes.iter().all(|b| *b == number), "an old dump was overwritten");
}

/// What was to be captured, and how far it got.
struct Run {
    truth: Vec<u8>,
    result: io::Result<()>,
    /// Whether the last slot was written.
    closed: bool,
    told: Vec<String>,
}

struct Capture {
    chain: Chain<Disk, Disks>,
    truth: Vec<u8>,
    rng: Rng,
}

impl Capture {
    fn append(&mut self, len: usize) -> io::Result<()> {
        let from = self.truth.len();
        let rng = &mut self.rng;
        self.truth.extend(std::iter::repeat_with(|| rng.next().to_le_bytes()).flatten().take(len));
        self.chain.append(&self.truth[from..])?;
        assert_eq!(self.chain.position(), self.truth.len() as u64);
        Ok(())
    }

    fn pad_to(&mut self, to: usize) -> io::Result<()> {
        self.truth.resize(self.truth.len().next_multiple_of(to), 0);
        self.chain.pad_to(to)?;
        assert_eq!(self.chain.position(), self.truth.len() as u64);
        Ok(())
    }

    /// Writes as the engine does: head, checkpoint, frames, and the two ends.
    fn all(&mut self, total: usize) -> io::Result<()> {
        self.append(HEADER_LEN)?;
        self.append(1000)?;
        self.pad_to(512)?;
        self.chain.checkpoint()?;
        while self.truth.len() < total {
            let len = 96 + self.rng.below(70_000) as usize;
            let need = (len + 512 + (1 << 20)) as u64;
            if self.chain.remaining() < need && !self.chain.more(need) {
                break;
            }
            self.append(96)?;
            self.append(len - 96)?;
            self.pad_to(512)?;
            self.chain.moved();
            if self.rng.below(16) == 0 {
                self.chain.checkpoint()?;
            }
        }
        self.pad_to(BLOCK)?;
        self.append(HEADER_LEN)?;
        self.chain.flush()?;
        self.append(BLOCK)?;
        self.chain.flush()
    }
}

/// Captures `total` bytes onto `disks`. `Err`: it could not even begin.
fn run(disks: &[Disk], first: usize, total: usize, seed: u64) -> Result<Run, VolumeError> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let buf_len = if total > SMALL { 64 << 10 } else { 8 << 10 };
    let host = Disks { disks: disks.to_vec(), buf_len, seed, told: Arc::clone(&told) };
    let targets: Vec<_> =
        disks.iter().map(|d| Candidate { volume: volume(d), spent: false }).collect();
    let plan = targets[first].volume.plan(Policy::KeepFirst)?;
    let head = Head { dump_id: ID, bytes: Box::new([0x48; HEADER_LEN]), now: 2 };
    let chain = Chain::begin(host, targets, first, &plan, Policy::KeepFirst, head)?;
    let mut capture = Capture { chain, truth: Vec::new(), rng: Rng(seed) };
    let result = capture.all(total);
    let closed = result.is_ok() && capture.chain.close(SlotState::Complete).is_ok();
    let told = told.lock().unwrap().clone();
    Ok(Run { truth: capture.truth, result, closed, told })
}

/// Puts the dump together from what lies on the disks, by the rules of FORMAT.md.
fn assemble(disks: &[Disk], len: usize) -> Vec<u8> {
    let mut parts = Vec::new();
    for disk in disks {
        disk.repair();
        let volume = volume(disk);
        for (_, r) in volume.dumps().into_iter().filter(|(_, r)| r.dump_id == ID) {
            let extent = r.extent();
            if r.part == 0 {
                parts.push((0, 0, disk, extent));
                continue;
            }
            let mut block = [0; BLOCK];
            disk.read_at(extent.start, &mut block).unwrap();
            let Ok(head) = PartBlock::decode(&block) else { continue };
            let ours = head.dump_id == ID
                && head.volume_id == volume.superblock().volume_id
                && head.part == r.part;
            if ours {
                assert_eq!(head.base, r.base);
                let data = extent.start + PART_HEAD as u64..extent.end;
                parts.push((r.part, head.base, disk, data));
            }
        }
    }
    parts.sort_by_key(|(part, ..)| *part);
    let mut whole = Vec::new();
    for (at, (part, base, disk, bytes)) in parts.iter().enumerate() {
        let part = *part;
        assert_eq!(whole.len() as u64, *base, "part {part} does not begin where the last ends");
        let next = parts.get(at + 1).map_or(len as u64, |(_, base, ..)| *base);
        let take = (next - base).min(bytes.end - bytes.start) as usize;
        if part > 0 && take > 0 {
            let mut copy = vec![0; HEADER_LEN];
            disk.read_at(bytes.start - HEADER_LEN as u64, &mut copy).unwrap();
            assert!(copy.iter().all(|b| *b == 0x48), "part {part} without its head");
        }
        let from = whole.len();
        whole.resize(from + take, 0);
        disk.read_at(bytes.start, &mut whole[from..]).unwrap();
    }
    whole
}

fn is_whole(run: &Run, disks: &[Disk], case: &str) {
    let whole = assemble(disks, run.truth.len());
    let same = whole.iter().zip(&run.truth).take_while(|(a, b)| a == b).count();
    assert!(
        whole == run.truth,
        "{case}: {} of {} bytes, equal up to {same}; {:#?}",
        whole.len(),
        run.truth.len(),
        run.told
    );
    disks.iter().for_each(old_is_unharmed);
}

/// A dump that takes both gaps of the first disk and goes on to the second.
const SPREAD: usize = 12 << 20;
/// A dump that fits the first gap.
const SMALL: usize = 300 << 10;

fn three() -> Vec<Disk> {
    vec![disk(1, 6 << 20, 1 << 20), disk(2, 5 << 20, 2 << 20), disk(3, 0, 1 << 20)]
}

#[test]
fn a_full_extent_goes_on_in_the_next_gap_and_then_on_the_next_target() {
    for seed in 0..8 {
        let disks = three();
        let run = run(&disks, 0, 18 << 20, seed).unwrap();
        run.result.as_ref().unwrap();
        assert!(run.closed && run.truth.len() >= 18 << 20);
        is_whole(&run, &disks, "full");
        for (disk, parts) in disks.iter().zip([2, 1, 0]) {
            let volume = volume(disk);
            let ours: Vec<_> =
                volume.dumps().into_iter().filter(|(_, r)| r.dump_id == ID).collect();
            assert_eq!(ours.len(), parts, "{ours:#?}");
            for (_, r) in ours {
                let last = r.part == 2;
                let want = if last { SlotState::Complete } else { SlotState::Continued };
                assert_eq!((r.state, r.next_volume == [0; 16]), (want, last));
            }
        }
    }
}

/// Wherever an extent begins and however it is filled: no write crosses a multiple of the
/// buffers' length, and none is small but the first, the last and those at a checkpoint.
#[test]
fn writes_lie_within_stripes() {
    for (at, checkpoint) in [(0, 0), (4096, 3), (5 * 4096, 0), (63 * 4096, 7)] {
        let disk = Disk::new(LEN);
        let queue = Queue::new(&disk, 4, 64 << 10, 1);
        let mut writer = ExtentWriter::new(queue, at, 8 << 20);
        let (mut rng, mut checkpoints) = (Rng(at), 0);
        for n in 1..400 {
            writer.append(&vec![1; 96 + rng.below(10_000) as usize]).unwrap();
            if checkpoint > 0 && n % (checkpoint * 40) == 0 {
                writer.checkpoint().unwrap();
                checkpoints += 1;
            }
        }
        writer.flush().unwrap();
        let touched = disk.touched();
        let crosses = |r: &std::ops::Range<u64>| r.start >> 16 != (r.end - 1) >> 16;
        assert!(!touched.iter().any(crosses), "{at}: {touched:?}");
        let small = touched.iter().filter(|r| r.end - r.start < 64 << 10).count();
        assert!(
            small <= 2 + 2 * checkpoints,
            "{at}: {small} of {} writes are small",
            touched.len()
        );
    }
}

/// All targets full: the dump ends with what fits, and its end is written.
#[test]
fn with_all_targets_full_the_end_still_fits() {
    let disks = [disk(1, 6 << 20, 1 << 20), disk(2, 0, 9 << 20)];
    let run = run(&disks, 0, 64 << 20, 1).unwrap();
    run.result.as_ref().unwrap();
    assert!(run.closed && (16 << 20..18 << 20).contains(&run.truth.len()), "{}", run.truth.len());
    is_whole(&run, &disks, "all full");
}

/// Every request of the first disk is the one that fails, in each way.
#[test]
fn a_failing_disk_costs_nothing() {
    let mut tried = 0;
    for (total, step) in [(SMALL, 1), (SPREAD, 7)] {
        let dry = three();
        let before = dry[0].requests();
        is_whole(&run(&dry, 0, total, 5).unwrap(), &dry, "no failure");
        let requests = dry[0].requests() - before;
        assert!(requests > 30, "{requests}");
        for at in (0..requests).step_by(step) {
            for (n, how) in [Failure::Dead, Failure::Once, Failure::Hang].into_iter().enumerate() {
                let seed = at * 3 + n as u64;
                let disks = three();
                disks[0].fail_after(at, how, seed);
                let case = format!("{how:?} at request {at} of {requests}, {total} bytes");
                let run = run(&disks, 0, total, seed).unwrap_or_else(|e| panic!("{case}: {e}"));
                if let Err(e) = &run.result {
                    panic!("{case}: {e}; {:#?}", run.told);
                }
                is_whole(&run, &disks, &case);
                tried += 1;
            }
        }
    }
    println!("{tried} captures with a failing disk, all bytes found in each");
    assert!(tried > 200);
}

/// A disk that is silent for a while is left as long as there is another, and waited for
/// once there is none.
#[test]
fn the_last_disk_is_waited_for() {
    let mut waited = 0;
    for seed in 0..120 {
        let disks = [disk(1, 6 << 20, 1 << 20), disk(2, 5 << 20, 2 << 20)];
        disks[0].fail_after(10 + seed % 20, Failure::Late, seed);
        disks[1].fail_after(seed / 2, Failure::Late, seed + 1);
        let case = format!("seed {seed}");
        let run = run(&disks, 0, SMALL, seed).unwrap_or_else(|e| panic!("{case}: {e}"));
        if let Err(e) = &run.result {
            panic!("{case}: {e}; {:#?}", run.told);
        }
        is_whole(&run, &disks, &case);
        waited += usize::from(run.told.iter().any(|t| t.contains("TimedOut")));
    }
    println!("{waited} captures left the first disk");
    assert!(waited > 30);
}

/// Two disks fail, whichever the dump begins on, and the third takes it all.
#[test]
fn two_failing_disks_cost_nothing() {
    let (mut tried, mut rng) = (0, Rng(11));
    for seed in 0..400 {
        let disks = three();
        let total = if seed % 8 == 0 { SPREAD } else { SMALL };
        let good = rng.below(3) as usize;
        for (n, disk) in disks.iter().enumerate().filter(|(n, _)| *n != good) {
            let how = [Failure::Dead, Failure::Once, Failure::Hang][rng.below(3) as usize];
            disk.fail_after(rng.below(50), how, seed + n as u64);
        }
        // Not all of a large dump fits the one that is left.
        let total = total.min(4 << 20);
        let first = rng.below(3) as usize;
        let case = format!("seed {seed}, {good} is good, {first} comes first");
        let run = run(&disks, first, total, seed).unwrap_or_else(|e| panic!("{case}: {e}"));
        if let Err(e) = &run.result {
            panic!("{case}: {e}; {:#?}", run.told);
        }
        is_whole(&run, &disks, &case);
        tried += 1;
    }
    println!("{tried} captures with two failing disks, all bytes found in each");
}

/// Nothing is left: an error, soon, and no old dump is touched.
#[test]
fn when_all_disks_fail_there_is_an_error() {
    let (mut rng, mut failed) = (Rng(12), 0);
    for seed in 0..200 {
        let disks = three();
        for (n, disk) in disks.iter().enumerate() {
            let how = [Failure::Dead, Failure::Hang][rng.below(2) as usize];
            disk.fail_after(rng.below(40), how, seed + n as u64);
        }
        match run(&disks, 0, 2 << 20, seed) {
            Ok(run) if run.result.is_ok() => is_whole(&run, &disks, "in time"),
            _ => failed += 1,
        }
        disks.iter().for_each(Disk::repair);
        disks.iter().for_each(old_is_unharmed);
    }
    println!("{failed} captures failed as they must");
    assert!(failed > 100);
}
