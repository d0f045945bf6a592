//! The power goes while a dump is written: after every sector of a small one, with any
//! of what the disk's cache held on the medium, in any order, and writes torn. What
//! arrived is recovered, nothing false is, and older dumps are unharmed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod cuts;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Mutex;

use cuts::check::{Left, Screen, Truth};
use cuts::sim::{Bytes, Disk, Failure, Request};
use cuts::{Setup, Story, format, volume};
use lifeboat_crypt::{Identities, generate_identity};
use lifeboat_format::bootcfg::Policy;
use lifeboat_format::{SlotRecord, SlotState};
use lifeboat_sink::{BlockDev, NewPart};

const SMALL: Setup = Setup {
    id: 9,
    pages: (64, 32),
    layered: false,
    policy: Policy::KeepFirst,
    // The dump, and what the engine keeps free for its end.
    limit: 1800 << 10,
    buf_len: 16 << 10,
};
/// An older dump, which stays.
const OLD: Setup = Setup { id: 1, pages: (40, 8), ..SMALL };

/// Who may open the dumps.
struct Owner {
    recipient: String,
    identity: Identities,
}

impl Owner {
    fn new() -> Self {
        let new = generate_identity();
        let identity = Identities::parse(&new.secret).unwrap();
        Self { recipient: new.recipient.to_string(), identity }
    }
}

/// Cuts a story: the sectors `chosen`, each in `variants`; `others` looks at the older
/// dumps in some of them.
fn cut(
    name: &str,
    story: &Story,
    truth: &Truth<'_>,
    others: &(impl Fn(&Screen) + Sync),
    (variants, exact): (u64, bool),
    chosen: impl Fn(usize) -> bool + Sync,
) -> Left {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let total = Mutex::new(Left::default());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (total, chosen) = (&total, &chosen);
            scope.spawn(move || {
                let mut screen = Screen::new(&story.start);
                let mut left = Left::default();
                let mine = |n: usize| chosen(n) && n % threads == thread;
                story.cuts(variants, mine, |n, variant, images: Vec<Bytes>| {
                    screen.show(images);
                    let at = Place(name, n, variant);
                    left.add(&truth.check(&screen, variant % 4 == 0, exact));
                    if variant == 3 && n % 16 < threads {
                        others(&screen);
                    }
                    std::mem::forget(at);
                    ControlFlow::Continue(())
                });
                total.lock().unwrap().add(&left);
            });
        }
    });
    let left = total.into_inner().unwrap();
    println!(
        "{name}: {} cuts in {} sectors, {} variants each: {} chunks and {} pages recovered, {} times complete, {} times nothing yet",
        left.cuts,
        story.sectors(),
        variants,
        left.chunks,
        left.pages,
        left.complete,
        left.nothing
    );
    left
}

/// Says where a check failed.
struct Place<'a>(&'a str, usize, u64);
impl Drop for Place<'_> {
    fn drop(&mut self) {
        eprintln!("{}: cut behind sector {}, variant {}", self.0, self.1, self.2);
    }
}

/// These dumps are there, complete and true.
fn whole<'a>(olds: &'a [&'a Truth<'a>]) -> impl Fn(&Screen) + Sync + 'a {
    move |screen| olds.iter().for_each(|o| assert_eq!(o.check(screen, true, true).complete, 1))
}

/// Nothing is written outside the slot table and what is not `held` by older dumps.
fn spares(story: &Story, olds: &[&Truth<'_>]) {
    let mut screen = Screen::new(&story.end);
    screen.show(story.end.clone());
    let volumes = screen.volumes();
    for old in olds {
        for (disk, r) in screen.parts(&volumes, &old.id) {
            let held = r.extent();
            for (_, request) in story.log.iter().filter(|(d, _)| *d == disk) {
                let Request::Write { at, bytes } = request else { continue };
                let end = at + bytes.len() as u64;
                assert!(end <= held.start || *at >= held.end, "{at} is the older dump's");
            }
        }
    }
}

/// A volume that held a dump since cleared, so that what lies where the next one goes
/// looks like one, and that holds an older one.
fn used(owner: &Owner, number: u8) -> Disk {
    let disk = format(16 << 20, number);
    OLD.capture(std::slice::from_ref(&disk), &owner.recipient);
    Setup { id: 2, pages: (300, 40), limit: 4 << 20, ..SMALL }
        .capture(std::slice::from_ref(&disk), &owner.recipient);
    let mut volume = volume(&disk);
    let (slot, _) = volume.dumps()[1];
    volume.update(slot, |r| r.state = SlotState::Cleared).unwrap();
    disk
}

fn small(name: &str, setup: &Setup, variants: u64, step: usize) -> u64 {
    let owner = Owner::new();
    let disks = [used(&owner, 1)];
    let story = Story::of(&disks, || setup.capture(&disks, &owner.recipient));
    let truth = Truth::of(setup, &owner.identity, &story.end);
    let old = Truth::of(&OLD, &owner.identity, &story.end);
    spares(&story, &[&old]);
    let left =
        cut(name, &story, &truth, &whole(&[&old]), (variants, true), |n| n.is_multiple_of(step));
    assert!(left.complete > 0 && left.nothing > 0 && left.chunks > left.cuts);
    left.cuts
}

#[test]
fn a_small_dump_is_cut_at_every_sector() {
    assert!(small("small", &SMALL, 24, 1) > 10_000);
}

#[test]
fn a_layered_dump_is_cut_at_every_sector() {
    let setup = Setup { layered: true, ..SMALL };
    assert!(small("layered", &setup, 16, 1) > 6_000);
}

/// 64 MiB of pages, at a sample of moments.
#[test]
fn a_large_dump_is_cut_at_a_sample_of_sectors() {
    let setup = Setup { pages: (16_384, 256), limit: 96 << 20, buf_len: 512 << 10, ..SMALL };
    let owner = Owner::new();
    let disks = [format(112 << 20, 1)];
    OLD.capture(&disks, &owner.recipient);
    let story = Story::of(&disks, || setup.capture(&disks, &owner.recipient));
    let truth = Truth::of(&setup, &owner.identity, &story.end);
    let old = Truth::of(&OLD, &owner.identity, &story.end);
    spares(&story, &[&old]);
    let step = story.sectors() / 20;
    let last = story.sectors() - 3;
    let chosen = |n: usize| n.is_multiple_of(step) || n >= last;
    let left = cut("large", &story, &truth, &whole(&[&old]), (4, true), chosen);
    assert!(left.cuts >= 80 && left.chunks > left.cuts);
}

/// A dump that fills one volume and goes on on another.
#[test]
fn a_dump_of_two_volumes_is_cut_at_a_sample_of_sectors() {
    let setup = Setup { pages: (6_400, 64), limit: 64 << 20, buf_len: 64 << 10, ..SMALL };
    let owner = Owner::new();
    let disks = [format(16 << 20, 1), format(16 << 20, 2)];
    OLD.capture(&disks, &owner.recipient);
    let story = Story::of(&disks, || setup.capture(&disks, &owner.recipient));
    let truth = Truth::of(&setup, &owner.identity, &story.end);
    let old = Truth::of(&OLD, &owner.identity, &story.end);
    spares(&story, &[&old]);
    assert!(story.log.iter().any(|(disk, _)| *disk == 1), "the second volume was not used");
    let step = story.sectors() / 40;
    let left =
        cut("two volumes", &story, &truth, &whole(&[&old]), (6, true), |n| n.is_multiple_of(step));
    assert!(left.cuts >= 240 && left.chunks > left.cuts);
}

const FILLER: u8 = 0xf1;

/// Takes the gap's bytes from `from` on, `len` of them, for a dump that nobody reads.
fn fill(disk: &Disk, from: u64, len: u64) {
    let mut volume = volume(disk);
    let mut plan = volume.plan(Policy::KeepFirst).unwrap();
    (plan.start.0, plan.len) = (plan.start.0 + from, len);
    let new = NewPart { dump_id: [FILLER; 16], part: 0, base: 0, now: 1 };
    volume.begin(&plan, &new).unwrap();
    disk.write_at(plan.start.0, &vec![FILLER; len as usize]).unwrap();
    let done = |r: &mut SlotRecord| (r.state, r.used_len) = (SlotState::Complete, len);
    volume.update(plan.slot, done).unwrap();
}

/// The numbers of the sectors that belong to slots and heads of parts.
fn turns(story: &Story) -> HashSet<usize> {
    let (mut out, mut at) = (HashSet::new(), 0);
    for (_, request) in &story.log {
        let Request::Write { at: place, bytes } = request else { continue };
        let sectors = bytes.len() / 512;
        if *place < 1 << 20 || bytes.starts_with(b"LBPART") {
            out.extend(at..at + sectors);
        }
        at += sectors;
    }
    out
}

/// Over two gaps of one volume and on to another one.
#[test]
fn a_dump_in_parts_is_cut() {
    let owner = Owner::new();
    let disks = [format(16 << 20, 1), format(16 << 20, 2)];
    OLD.capture(&disks[..1], &owner.recipient);
    fill(&disks[0], 4400 << 10, 8 << 20);
    fill(&disks[1], 4400 << 10, 9 << 20);
    let setup = Setup { pages: (1900, 100), limit: 400 << 10, buf_len: 128 << 10, ..SMALL };
    let story = Story::of(&disks, || setup.capture(&disks, &owner.recipient));
    let truth = Truth::of(&setup, &owner.identity, &story.end);
    assert_eq!(truth.disks(), [0, 0, 1]);
    let old = Truth::of(&OLD, &owner.identity, &story.end);
    spares(&story, &[&old]);
    let turns = turns(&story);
    let left = cut("parts", &story, &truth, &whole(&[&old]), (4, true), |n| {
        n.is_multiple_of(197) || turns.contains(&n)
    });
    assert!(left.complete > 0 && left.cuts > 500);
}

/// The first disk fails on the way, and then the power goes as well.
#[test]
fn a_dump_that_changed_disks_is_cut() {
    let mut cuts = 0;
    for (after, how) in [(22, Failure::Dead), (18, Failure::Hang), (16, Failure::Once)] {
        let owner = Owner::new();
        let disks = [used(&owner, 1), used(&owner, 2)];
        fill(&disks[1], 5 << 20, 6 << 20);
        disks[0].fail_after(after, how, after);
        let story = Story::of(&disks, || SMALL.capture(&disks, &owner.recipient));
        let truth = Truth::of(&SMALL, &owner.identity, &story.end);
        assert_eq!(truth.disks(), [0, 1], "{how:?} {after}");
        let old = Truth::of(&OLD, &owner.identity, &story.end);
        spares(&story, &[&old]);
        let left = cut("two disks", &story, &truth, &|_| {}, (4, false), |n| n.is_multiple_of(5));
        assert!(left.complete > 0);
        cuts += left.cuts;
    }
    assert!(cuts > 1000);
}

/// A dump that the policy gives up is whole, or cleared: never a ruin with a slot. Then
/// an old dump is cleared by hand, and so is that.
#[test]
fn dropping_and_clearing_are_cut() {
    let owner = Owner::new();
    let disks = [format(16 << 20, 1)];
    fill(&disks[0], 0, 5 << 20);
    OLD.capture(&disks, &owner.recipient);
    fill(&disks[0], 1 << 20, 7 << 20);
    let setup = Setup { policy: Policy::KeepLatest, ..SMALL };
    let story = Story::of(&disks, || setup.capture(&disks, &owner.recipient));
    let truth = Truth::of(&setup, &owner.identity, &story.end);
    let old = Truth::of(&OLD, &owner.identity, &story.end);
    spares(&story, &[&old]);
    let turns = turns(&story);
    let dropped = Mutex::new([0, 0]);
    let left = cut(
        "drop",
        &story,
        &truth,
        &|screen: &Screen| {
            whole(&[&old])(screen);
            let volumes = screen.volumes();
            let filler = volumes[0].dumps().into_iter().find(|(_, r)| r.number == 1);
            dropped.lock().unwrap()[usize::from(filler.is_none())] += 1;
            if let Some((_, r)) = filler {
                let mut bytes = vec![0; r.used_len as usize];
                volumes[0].dev().read_at(r.start.0, &mut bytes).unwrap();
                assert!(bytes.iter().all(|b| *b == FILLER), "a ruin with a slot");
            }
        },
        (8, true),
        |n| n.is_multiple_of(9) || turns.contains(&n),
    );
    assert!(left.complete > 0 && dropped.lock().unwrap().iter().all(|n| *n > 0));
    let story = Story::of(&disks, || {
        let mut volume = volume(&disks[0]);
        let (slot, _) = volume.dumps().into_iter().find(|(_, r)| r.dump_id == old.id).unwrap();
        volume.update(slot, |r| r.state = SlotState::Cleared).unwrap();
    });
    let left = cut(
        "clear",
        &story,
        &truth,
        &|screen: &Screen| {
            let there = !screen.parts(&screen.volumes(), &old.id).is_empty();
            assert!(!there || old.check(screen, true, true).complete == 1);
        },
        (64, true),
        |_| true,
    );
    assert_eq!(left.complete, left.cuts);
}
