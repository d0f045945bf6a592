//! A pretended machine: its memory, in layers, and its swap device; and the dump's key.
#![allow(dead_code, reason = "the capture and who judges it use their parts")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use lifeboat_crypt::DataKey;
use lifeboat_engine::{Place, PlaceRead};
use lifeboat_format::{Layer, PAGE, PageRange, Pfn};

pub(crate) const MEMORY: PageRange = PageRange { start: Pfn(256), end: Pfn(22_256) };
pub(crate) const SWAP: PageRange = PageRange { start: Pfn(0), end: Pfn(3000) };

/// The dump's id.
pub(crate) const ID: [u8; 16] = [9; 16];

pub(crate) fn key() -> DataKey {
    DataKey::mix(&[b"sealed"])
}

fn mix(swap: bool, pfn: u64) -> u64 {
    ((pfn << 1) | u64::from(swap)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24
}

/// What lies in a page: a third zeros, some text, and noise.
pub(crate) fn page_of(swap: bool, pfn: u64, out: &mut [u8]) {
    let mut x = mix(swap, pfn) | 1;
    match x % 3 {
        _ if x % 32 < 12 => out.fill(0),
        0 => {
            let text = b"certain consistent complete safe";
            for (n, b) in out.iter_mut().enumerate() {
                *b = text[(n + x as usize) % 32];
            }
        }
        _ => {
            for b in out {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *b = x as u8;
            }
        }
    }
}

pub(crate) fn write_swap(file: &File) {
    let mut page = vec![0; PAGE];
    for pfn in SWAP.start.0..SWAP.end.0 {
        page_of(true, pfn, &mut page);
        file.write_all_at(&page, pfn * 4096).unwrap();
    }
}

/// Layers in patches.
pub(crate) struct Layers;

impl PlaceRead for Layers {
    fn places(&mut self, first: Pfn, out: &mut [Place]) {
        for (pfn, place) in (first.0..).zip(out) {
            *place = Place::In(Layer::BY_WORTH[(mix(false, pfn / 9) % 4) as usize]);
        }
    }
}
