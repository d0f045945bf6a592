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

use std::ops::ControlFlow;
use std::sync::Mutex;

use cuts::check::{Left, Screen, Truth};
use cuts::sim::{Bytes, Disk, Request};
use cuts::{Setup, Story, format, volume};
use lifeboat_crypt::{Identities, generate_identity};
use lifeboat_format::SlotState;
use lifeboat_format::bootcfg::Policy;

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

/// Cuts a story: the sectors `chosen`, each in `variants`; `old` is unharmed in all.
fn cut(
    name: &str,
    story: &Story,
    truth: &Truth<'_>,
    olds: &[&Truth<'_>],
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
                        olds.iter()
                            .for_each(|old| assert_eq!(old.check(&screen, true, true).complete, 1));
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
    let left = cut(name, &story, &truth, &[&old], (variants, true), |n| n.is_multiple_of(step));
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
