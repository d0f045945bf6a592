//! The power goes at any moment while key areas are written, and any mixture of the
//! sectors that were under way is on the medium: the dump still opens.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails shall panic")]

use std::cell::RefCell;
use std::collections::BTreeSet;

use lifeboat_crypt::{DataKey, Identities, generate_identity, open, wrap};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{BLOCK, KeyArea, KeyEntry, KeyKind};

use super::*;

const SECTOR: usize = 512;

/// The medium before a flush, and the sectors that the flush made durable.
type State = (Vec<u8>, Vec<(usize, Vec<u8>)>);

/// A medium that remembers each write until it is flushed, and every state between.
#[derive(Default)]
struct Medium {
    durable: RefCell<Vec<u8>>,
    pending: RefCell<Vec<(usize, Vec<u8>)>>,
    /// For each flush: what was durable before it, and the sectors that it made so.
    history: RefCell<Vec<State>>,
    /// Writes from here on fail.
    broken: Option<u64>,
}

impl BlockDev for Medium {
    fn len(&self) -> u64 {
        self.durable.borrow().len() as u64
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> io::Result<()> {
        let off = usize::try_from(off).unwrap();
        let mut now = self.durable.borrow().clone();
        for (at, bytes) in self.pending.borrow().iter() {
            now[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        buf.copy_from_slice(now.get(off..off + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> io::Result<()> {
        if self.broken == Some(off) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let off = usize::try_from(off).unwrap();
        let sectors = buf.chunks(SECTOR).enumerate();
        self.pending.borrow_mut().extend(sectors.map(|(n, b)| (off + n * SECTOR, b.to_vec())));
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        let under_way = std::mem::take(&mut *self.pending.borrow_mut());
        let mut durable = self.durable.borrow_mut();
        self.history.borrow_mut().push((durable.clone(), under_way.clone()));
        for (at, bytes) in under_way {
            durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

struct Bench {
    key: DataKey,
    old: Identities,
    new: Identities,
    /// The key area as captured, and the entry to add.
    area: Box<[u8; KEY_AREA_LEN]>,
    added: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let (a, b) = (generate_identity(), generate_identity());
        let key = DataKey::mix(&[b"the key"]);
        let wrapped = wrap(&key, &[&a.recipient]).unwrap();
        let entry = KeyEntry { kind: KeyKind::Data, fingerprints: &[[1; 8]], wrapped: &wrapped };
        let mut area = Box::new([0; KEY_AREA_LEN]);
        KeyArea::encode(&mut area, 0, &[entry]).unwrap();
        let added = wrap(&key, &[&b.recipient]).unwrap();
        let [old, new] = [a, b].map(|id| Identities::parse(&id.secret).unwrap());
        Self { key, old, new, area, added }
    }

    /// Copies at blocks 1, 5 and 9; those in `damaged` have a flipped bit.
    fn medium(&self, copies: usize, damaged: &[usize]) -> (Medium, Vec<Place>) {
        let mut bytes = vec![0u8; BLOCK * (copies * 4 + 1)];
        let mut places = Vec::new();
        for n in 0..copies {
            let at = BLOCK * (1 + 4 * n);
            bytes[at..at + KEY_AREA_LEN].copy_from_slice(&*self.area);
            if damaged.contains(&n) {
                bytes[at + 5000] ^= 1;
            }
            places.push(Place { name: format!("copy {n}"), dev: 0, at: at as u64 });
        }
        (Medium { durable: bytes.into(), ..Medium::default() }, places)
    }

    fn entry<'a>(&'a self) -> KeyEntry<'a> {
        KeyEntry { kind: KeyKind::Data, fingerprints: &[[2; 8]], wrapped: &self.added }
    }

    /// Whether an identity opens what lies in `bytes`, as a reader would look.
    fn opens(&self, bytes: &[u8], places: &[Place], ids: &Identities) -> bool {
        let medium = Medium { durable: bytes.to_vec().into(), ..Medium::default() };
        let areas = KeyAreas::read(&[medium], None, places.to_vec());
        let newest = areas.newest();
        newest.is_some_and(|n| open(n.entries, ids, Some(&self.key.id())).is_ok())
    }
}

/// Every state of the medium that a power cut during the writes may leave: for each flush,
/// any of 60 mixtures of the sectors under way, none and all of them included.
fn cuts(medium: &Medium) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for (before, under_way) in medium.history.borrow().iter() {
        for mixture in 0..60 {
            let mut state = before.clone();
            for (n, (at, bytes)) in under_way.iter().enumerate() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let kept = match mixture {
                    0 => false,
                    1 => true,
                    // In order, cut after so many.
                    2..27 => n < mixture - 2,
                    _ => random & 1 == 1,
                };
                if kept {
                    state[*at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
            out.push(state);
        }
    }
    out
}

#[test]
fn a_power_cut_at_any_sector_keeps_the_dump_open() {
    let b = Bench::new();
    let mut tried = 0;
    for (copies, damaged) in [(1, vec![]), (2, vec![]), (2, vec![0]), (2, vec![1]), (3, vec![1])] {
        let (medium, places) = b.medium(copies, &damaged);
        let devs = [medium];
        let areas = KeyAreas::read(&devs, None, places.clone());
        assert_eq!(areas.uneven(), !damaged.is_empty());
        let bytes = areas.with(Some(b.entry())).unwrap();
        let written = areas.write(&devs, &bytes).unwrap();
        assert_eq!(written.len(), copies);
        let repaired: Vec<_> = written.iter().filter(|(_, w)| *w == Written::Repaired).collect();
        assert_eq!(repaired.len(), damaged.len());
        let states = cuts(&devs[0]);
        assert_eq!(states.len(), copies * 60, "one flush a copy");
        for state in &states {
            assert!(b.opens(state, &places, &b.old), "{copies} copies, {damaged:?} damaged");
            if copies > 1 {
                let held = places.iter().filter(|p| {
                    let at = usize::try_from(p.at).unwrap();
                    KeyArea::decode(state[at..].first_chunk().unwrap()).is_ok()
                });
                assert!(held.count() > 0, "no sound area is left");
            }
            tried += 1;
        }
        let end = devs[0].durable.borrow().clone();
        assert!(b.opens(&end, &places, &b.old) && b.opens(&end, &places, &b.new));
        assert!(!KeyAreas::read(&devs, None, places).uneven());
    }
    println!("{tried} power cuts");
    assert_eq!(tried, 600);
}

#[test]
fn nothing_but_the_copies_is_written() {
    let b = Bench::new();
    let (medium, places) = b.medium(3, &[]);
    let devs = [medium];
    let before = devs[0].durable.borrow().clone();
    let areas = KeyAreas::read(&devs, None, places.clone());
    areas.write(&devs, &areas.with(Some(b.entry())).unwrap()).unwrap();
    let after = devs[0].durable.borrow().clone();
    let inside: BTreeSet<usize> = places
        .iter()
        .flat_map(|p| usize::try_from(p.at).unwrap()..usize::try_from(p.at).unwrap() + KEY_AREA_LEN)
        .collect();
    assert!((0..before.len()).all(|at| before[at] == after[at] || inside.contains(&at)));
}

#[test]
fn a_medium_that_fails_stops_before_the_last_sound_copy() {
    let b = Bench::new();
    // A sound second copy that cannot be written: the first is not touched.
    let (medium, places) = b.medium(2, &[]);
    let devs = [Medium { broken: Some(places[1].at), ..medium }];
    let before = devs[0].durable.borrow().clone();
    let areas = KeyAreas::read(&devs, None, places.clone());
    let bytes = areas.with(Some(b.entry())).unwrap();
    let (place, _) = areas.write(&devs, &bytes).err().unwrap();
    assert_eq!(place.name, "copy 1");
    assert!(*devs[0].durable.borrow() == before);
    // A damaged one that cannot be written is given up, and the other renewed.
    let (medium, places) = b.medium(2, &[1]);
    let devs = [Medium { broken: Some(places[1].at), ..medium }];
    let areas = KeyAreas::read(&devs, None, places.clone());
    let written = areas.write(&devs, &bytes).unwrap();
    assert!(matches!(written[0].1, Written::Lost(_)) && written[1].1 == Written::Renewed);
    let end = devs[0].durable.borrow().clone();
    assert!(b.opens(&end, &places, &b.new) && b.opens(&end, &places, &b.old));
}

/// A key area of version 1 as it was written then: fingerprints at 32, the age file at 288.
fn version_1(b: &Bench) -> Box<[u8; KEY_AREA_LEN]> {
    let wrapped = KeyArea::decode(&b.area).unwrap().entries().next().unwrap().wrapped.to_vec();
    let mut area = Box::new([0u8; KEY_AREA_LEN]);
    area[..8].copy_from_slice(&keys::MAGIC_V1);
    area[16..20].copy_from_slice(&1u32.to_le_bytes());
    area[20..24].copy_from_slice(&u32::try_from(wrapped.len()).unwrap().to_le_bytes());
    area[32..40].copy_from_slice(&[1; 8]);
    area[288..288 + wrapped.len()].copy_from_slice(&wrapped);
    let crc = lifeboat_format::crc32(&area[..KEY_AREA_LEN - 4]);
    area[KEY_AREA_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    area
}

#[test]
fn version_1_is_moved_only_under_the_eyes_of_another_copy() {
    let mut b = Bench::new();
    b.area = version_1(&b);
    let (medium, places) = b.medium(2, &[]);
    let devs = [medium];
    let areas = KeyAreas::read(&devs, None, places.clone());
    areas.write(&devs, &areas.with(Some(b.entry())).unwrap()).unwrap();
    for state in cuts(&devs[0]) {
        assert!(b.opens(&state, &places, &b.old));
    }
    let end = devs[0].durable.borrow().clone();
    assert!(b.opens(&end, &places, &b.old) && b.opens(&end, &places, &b.new));
    // Alone, it would be torn with nothing left.
    let (medium, places) = b.medium(1, &[]);
    let devs = [medium];
    let before = devs[0].durable.borrow().clone();
    let areas = KeyAreas::read(&devs, None, places);
    let (_, why) = areas.write(&devs, &areas.with(Some(b.entry())).unwrap()).err().unwrap();
    assert!(why.to_string().contains("version 1"), "{why}");
    assert!(*devs[0].durable.borrow() == before);
}
