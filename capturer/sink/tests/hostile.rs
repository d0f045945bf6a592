//! Slot tables that somebody made up: overlapping extents, numbers and lengths near 2^64,
//! all slots taken, one id in many slots. No plan goes over a slot that it does not drop.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

mod sim;

use lifeboat_format::bootcfg::Policy;
use lifeboat_format::{ByteOff, SlotRecord, SlotState};
use lifeboat_sink::{BlockDev, NewPart, Placement, Volume, VolumeError};
use sim::{Disk, Rng};

const LEN: u64 = 32 << 20;
const TABLES: u64 = 4000;

/// A number that is small, that is near a limit, or that is anything.
fn odd(rng: &mut Rng) -> u64 {
    let limit = [0, LEN, 1 << 20, u64::MAX][rng.below(4) as usize];
    match rng.below(4) {
        0 => limit.wrapping_add(rng.below(3)).wrapping_sub(1),
        1 => rng.next(),
        _ => rng.below(LEN / 4096) * 4096,
    }
}

fn record(rng: &mut Rng) -> SlotRecord {
    let state = [
        SlotState::Capturing,
        SlotState::Complete,
        SlotState::Partial,
        SlotState::Cleared,
        SlotState::Continued,
    ];
    let small = |rng: &mut Rng| rng.below(8 << 8) * 4096;
    let reserved_len = if rng.below(8) == 0 { odd(rng) } else { small(rng) };
    SlotRecord {
        volume_id: [3; 16],
        dump_id: [rng.below(20) as u8; 16],
        generation: if rng.below(6) == 0 { u64::MAX - rng.below(2) } else { rng.below(9) },
        number: if rng.below(12) == 0 { u64::MAX - rng.below(2) } else { 1 + rng.below(40) },
        state: state[rng.below(5) as usize],
        pulled: rng.below(2) == 0,
        start: ByteOff(if rng.below(8) == 0 { odd(rng) } else { (1 << 20) + small(rng) * 3 }),
        reserved_len,
        used_len: reserved_len.min(if rng.below(8) == 0 { odd(rng) } else { small(rng) }),
        created: rng.next(),
        part: if rng.below(2) == 0 { 0 } else { rng.below(1 << 16) as u16 },
        base: if rng.below(3) == 0 { odd(rng) } else { 0 },
        next_volume: [rng.below(3) as u8 * 3; 16],
    }
}

#[test]
fn no_table_leads_to_a_plan_over_a_dump_that_is_kept() {
    let (mut rng, mut plans, mut refused) = (Rng(1), 0, 0);
    let at = Placement { start: 0, len: LEN };
    for _ in 0..TABLES {
        let disk = Disk::new(LEN);
        let max = 1 + rng.below(64) as u32;
        Volume::format(disk.clone(), at, max, "", [3; 16], 1).unwrap();
        let slots = [1, 6, 40, 64][rng.below(4) as usize];
        for slot in 0..slots {
            // Mostly such as are believed: one that is not stops everything.
            let mut r = record(&mut rng);
            let sound =
                |r: &SlotRecord| SlotRecord::decode(&r.encode(), &[3; 16], LEN - (1 << 20)).is_ok();
            while rng.below(400) != 0 && !sound(&r) {
                r = record(&mut rng);
            }
            disk.write_at(SlotRecord::offset(slot, rng.below(2) as u32).0, &r.encode()).unwrap();
        }
        for policy in [Policy::KeepFirst, Policy::DropPulled, Policy::KeepLatest] {
            let own = [rng.below(20) as u8; 16];
            let mut volume = Volume::open(disk.clone(), at).unwrap();
            volume.guard().unwrap();
            for plan in [volume.plan(policy), volume.plan_part(policy, &own, odd(&mut rng))] {
                let Ok(plan) = plan else {
                    refused += 1;
                    continue;
                };
                plans += 1;
                let (start, end) = (plan.start.0, plan.start.0 + plan.len);
                assert!(start >= 1 << 20 && end <= LEN - (1 << 20) && plan.len > 0);
                for (slot, r) in volume.dumps() {
                    let (e, dropped) = (r.extent(), plan.drops.contains(&slot));
                    assert!(dropped || e.is_empty() || e.end <= start || e.start >= end, "{r:?}");
                    assert!(!dropped || policy != Policy::KeepFirst);
                    assert!(dropped || plan.slot != slot);
                }
            }
            if let Ok(plan) = volume.plan(policy) {
                let new = NewPart { dump_id: [0xee; 16], part: 0, base: 0, now: 1 };
                match volume.begin(&plan, &new) {
                    Ok(()) => {
                        // What was begun is what a reader finds.
                        let again = Volume::open(disk.clone(), at).unwrap();
                        let found = again.slots()[plan.slot as usize].unwrap().unwrap();
                        assert_eq!((found.dump_id, found.start), ([0xee; 16], plan.start));
                    }
                    Err(e) => assert!(matches!(e, VolumeError::Worn), "{e}"),
                }
            }
        }
    }
    println!("{TABLES} tables, {plans} plans, {refused} refusals");
    assert!(plans > 1000 && refused > 1000);
}
