//! The pretended machine, its disk and its clock.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]
#![allow(unused_imports, unreachable_pub, missing_docs, reason = "part of one test program")]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_crypt::{DataKey, Opener, Sealer};
use lifeboat_engine::{
    CommitFacts, Cursor, EngineError, Fingerprint, Frames, Input, Job, Method, Monitor, PageRead,
    Place, PlaceRead, ReadFault, Shared, Tuner, Twins, Worker, capture,
};
use lifeboat_format::bootcfg::{Ladder, Policy};
use lifeboat_format::chunk::PagePayload;
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{
    BLOCK, ChunkHeader, ChunkKind, Cipher, Codec, CommitRecord, DumpHeader, FORMAT_VERSION,
    IndexEntry, IndexHead, KeyArea, KeyEntry, KeyKind, Layer, PAGE, PageClass, PageRange, Pfn,
};
use lifeboat_sink::{BlockDev, Candidate, Chain, Event, FileDev, Head, Host, Placement, Volume};
use lifeboat_sys::{Lane, QueueMode, WriteQueue};
use proptest::prelude::*;

use join::{CryptSeal, Disk};
use lifeboat_join as join;

/// A worker that packs by a zstd level, or stores.
pub fn worker(level: Option<i32>, chunk_pages: u32) -> Worker {
    let ladder = Ladder::new(&[level.map_or(Method::Store, Method::Zstd)]).unwrap();
    join::worker(&ladder, chunk_pages).unwrap()
}

/// What a page of the pretended machine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    Zero,
    Text(u64),
    Noise(u64),
    Word(u64),
    Bad,
}

pub fn page_of(seed: u64, pfn: u64) -> Page {
    let x = (pfn ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    match x % 16 {
        0..=4 => Page::Zero,
        5 => Page::Word(x | 1),
        6 if x.is_multiple_of(5) => Page::Bad,
        6..=9 => Page::Noise(x),
        // Long zero stretches too.
        _ if (pfn / 500).is_multiple_of(3) => Page::Zero,
        _ => Page::Text(x),
    }
}

pub fn fill(page: Page, out: &mut [u8]) {
    match page {
        Page::Zero | Page::Bad => out.fill(0),
        Page::Text(x) => {
            for (i, b) in out.iter_mut().enumerate() {
                *b = b"certain consistent complete safe"[(i + x as usize) % 32];
            }
        }
        Page::Word(x) => {
            for word in out.chunks_mut(8) {
                word.copy_from_slice(&x.to_le_bytes());
            }
        }
        Page::Noise(x) => {
            let mut s = x | 1;
            for b in out {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                *b = s as u8;
            }
        }
    }
}

pub struct Machine {
    pub seed: u64,
    pub dies_at: Option<u64>,
}

impl PageRead for Machine {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        for (i, page) in buf.chunks_mut(PAGE).enumerate() {
            let pfn = first.0 + i as u64;
            if self.dies_at.is_some_and(|d| pfn >= d) {
                return Err(ReadFault(io::Error::from_raw_os_error(5)));
            }
            let kind = page_of(self.seed, pfn);
            if kind == Page::Bad {
                bad(i);
            }
            fill(kind, page);
        }
        Ok(())
    }
}

/// Layers in patches of a few pages, and long stretches of one.
pub fn layer_of(seed: u64, pfn: u64) -> Layer {
    let patch = if (pfn / 3000).is_multiple_of(2) { pfn / 7 } else { pfn / 2500 };
    let x = (patch ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    Layer::BY_WORTH[(x % 4) as usize]
}

pub struct Sorted(pub u64);
impl PlaceRead for Sorted {
    fn places(&mut self, first: Pfn, out: &mut [Place]) {
        for (n, layer) in out.iter_mut().enumerate() {
            *layer = Place::In(layer_of(self.0, first.0 + n as u64));
        }
    }
}

/// One file that is written to.
pub struct Target(pub std::fs::File, pub QueueMode);
impl Host for Target {
    type Out = WriteQueue;
    fn queue(&mut self, _: usize) -> io::Result<WriteQueue> {
        Ok(WriteQueue::new(self.0.try_clone()?, self.1, 4, 64 << 10))
    }
    fn lane(&mut self, _: usize, _: &WriteQueue) -> io::Result<Lane> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn tell(&mut self, event: Event) {
        assert!(matches!(event, Event::NoRoom { .. }), "{event:?}");
    }
}

pub fn dump_header(key: Option<&DataKey>, number: u64, chunk_pages: u32) -> DumpHeader {
    DumpHeader {
        version: FORMAT_VERSION,
        dump_id: [9; 16],
        volume_id: [7; 16],
        number,
        created: 2,
        cipher: if key.is_some() { Cipher::Aes256Gcm } else { Cipher::None },
        chunk_pages,
        release: lifeboat_format::text_field("6.1.0-test"),
        reason: lifeboat_format::text_field("sysrq"),
        image: lifeboat_format::text_field("test"),
        key_id: key.map(DataKey::id).unwrap_or_default(),
    }
}

pub fn disk(
    file: &std::fs::File,
    len: u64,
    mode: QueueMode,
    header: impl FnOnce(u64) -> (DumpHeader, [u8; KEY_AREA_LEN]),
) -> (Disk<FileDev, Target>, DumpHeader, [u8; KEY_AREA_LEN]) {
    let at = Placement { start: 0, len };
    let dev = FileDev::new(file.try_clone().unwrap(), 0, len);
    let volume = Volume::format(dev, at, 8, "test", [7; 16], 1).unwrap();
    volume.guard().unwrap();
    let plan = volume.plan(Policy::KeepFirst).unwrap();
    let (header, keys) = header(plan.number);
    let mut bytes = Box::new([0; HEADER_LEN]);
    bytes[..BLOCK].copy_from_slice(&header.encode());
    bytes[BLOCK..].copy_from_slice(&keys);
    let head = Head { dump_id: header.dump_id, bytes, now: 2 };
    let targets = vec![Candidate { volume, spent: false }];
    let host = Target(file.try_clone().unwrap(), mode);
    let chain = Chain::begin(host, targets, 0, &plan, Policy::KeepFirst, head).unwrap();
    (Disk(chain), header, keys)
}

pub struct Ticks(pub AtomicU64);
impl Monitor for Ticks {
    fn tick(&self, pages: u64) -> bool {
        self.0.fetch_sub(pages.min(self.0.load(Ordering::Relaxed)), Ordering::Relaxed) > pages
    }
}
