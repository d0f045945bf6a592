//! A small dump on a formatted volume, written by the real engine, sink and cipher.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_crypt::{DataKey, Sealer, fingerprint, header_digest, wrap};
use lifeboat_engine::{CommitFacts, EngineError, Method, Monitor, PageRead, ReadFault, Shared};
use lifeboat_format::commit::{IoMode, MAX_PHASES, Outcome, SourceKind};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::meta::{MetaWriter, SwapDevice, Tag};
use lifeboat_format::{
    ChunkKind, Cipher, DumpHeader, FORMAT_VERSION, KeyArea, KeyEntry, KeyKind, Layer, PAGE,
    PageRange, Pfn, PhaseId, SlotState, text_field,
};

#[path = "../support/rig.rs"]
pub(crate) mod rig;
use rig::{CryptSeal, Place};

/// The log of the dead kernel.
pub(crate) const LOG: &str = "[    9.123456] sysrq: Trigger a crash\n[    9.123460] Kernel panic - not syncing: sysrq triggered crash\n";
/// The notes; not ELF, only bytes.
pub(crate) const NOTES: &[u8] = b"the notes, verbatim";
/// Pages of memory captured.
pub(crate) const PAGES: u64 = 3000;

/// How a capture goes.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Who may open it; empty: in the clear.
    pub(crate) recipients: Vec<String>,
    /// Pages until the deadline strikes.
    pub(crate) ticks: u64,
    /// The power goes before the commit record, and before the slot says more than “capturing”.
    pub(crate) dies: bool,
    pub(crate) id: u8,
    /// Memory in the order of its worth.
    pub(crate) layered: bool,
    /// Pages of memory.
    pub(crate) pages: u64,
    /// The power goes behind the commit record, before the slot says more than “capturing”.
    pub(crate) dies_late: bool,
}

impl Plan {
    pub(crate) fn sealed(recipient: &str) -> Self {
        Self {
            recipients: vec![recipient.trim().to_owned()],
            ticks: u64::MAX,
            dies: false,
            id: 9,
            layered: false,
            pages: PAGES,
            dies_late: false,
        }
    }
}

/// One page in three is zero, one in 101 cannot be read, the others differ.
struct Machine(u64);
impl PageRead for Machine {
    fn read(
        &mut self,
        first: Pfn,
        buf: &mut [u8],
        bad: &mut dyn FnMut(usize),
    ) -> Result<(), ReadFault> {
        for (i, page) in buf.chunks_mut(PAGE).enumerate() {
            let pfn = first.0 + i as u64;
            page.fill(0);
            if pfn % 101 == 100 {
                bad(i);
            } else if !pfn.is_multiple_of(3) {
                let mut s = (pfn + self.0 * 1_000_003).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for b in page {
                    s ^= s << 13;
                    s ^= s >> 7;
                    s ^= s << 17;
                    *b = s.to_le_bytes()[0] & 0x1f;
                }
            }
        }
        Ok(())
    }
}

struct Ticks(AtomicU64);
impl Monitor for Ticks {
    fn tick(&self, pages: u64) -> bool {
        let left = self.0.load(Ordering::Relaxed).saturating_sub(pages);
        self.0.store(left, Ordering::Relaxed);
        left > 0
    }
}

/// Captures onto the volume in `path` at `base..base + len`, as PID 1 does.
pub(crate) fn plant(path: &Path, base: u64, len: u64, plan: &Plan) -> u64 {
    plant_on(vec![Place::of(path, base, len)], plan)
}

/// Captures onto the first of the volumes, and goes on to the others.
pub(crate) fn plant_on(places: Vec<Place>, plan: &Plan) -> u64 {
    let id = [plan.id; 16];
    let key = (!plan.recipients.is_empty()).then(|| DataKey::mix(&[b"test", &[plan.id]]));
    let cipher = if key.is_some() { Cipher::Aes256Gcm } else { Cipher::None };
    let mut kept = None;
    let make = |volume_id, number| {
        *kept.insert(DumpHeader {
            version: FORMAT_VERSION,
            dump_id: id,
            volume_id,
            number,
            created: 1_764_000_000,
            cipher,
            chunk_pages: 64,
            release: text_field("6.1.0-99-amd64"),
            reason: text_field("sysrq triggered crash"),
            image: text_field("lifeboat test"),
            key_id: key.as_ref().map(DataKey::id).unwrap_or_default(),
        })
    };
    let keys = key_area(plan, key.as_ref());
    let seal = CryptSeal(Sealer::new(key.as_ref()));
    let (mut frames, number) = rig::begin(places, seal, make, &keys);
    let header = kept.unwrap();
    let mut worker = rig::worker(Method::Zstd(1), 64);
    let ranges = [PageRange::new(16, 16 + plan.pages)];
    frames.lasting_text(ChunkKind::Meta, &meta(&header, &ranges), worker.scratch()).unwrap();
    frames.lasting_text(ChunkKind::Log, LOG.as_bytes(), worker.scratch()).unwrap();
    frames.lasting_text(ChunkKind::Notes, NOTES, worker.scratch()).unwrap();

    let frames = Shared::new(frames);
    let ticks = Ticks(AtomicU64::new(plan.ticks));
    let swap_ranges = [PageRange::new(0, 500)];
    let reader = || Machine(plan.id.into());
    let mut workers = [worker];
    let capture = rig::Capture::plain(&frames, &ticks);
    let mut stop = capture.memory(&mut workers, &ranges, plan.layered, reader);
    let what = (ChunkKind::Swap, 0, Layer::Address);
    stop = stop.or_else(|| capture.pages(&mut workers, what, &swap_ranges, &reader));
    let [mut worker] = workers;
    let mut frames = frames.into_inner().unwrap();
    frames.open_reserve();
    frames.text(ChunkKind::Trailer, b"phase memory ok\n", worker.scratch()).unwrap();
    if plan.dies {
        return number;
    }
    let outcome = match stop {
        None => Outcome::Complete,
        Some(EngineError::Full) => Outcome::Full,
        Some(EngineError::Stopped) => Outcome::Deadline,
        Some(other) => panic!("{other}"),
    };
    let record = frames.finish(&facts(outcome, plan.pages)).unwrap();
    let state = if outcome == Outcome::Complete { SlotState::Complete } else { SlotState::Partial };
    let _ = record;
    if plan.dies_late {
        return number;
    }
    frames.sink_mut().0.close(state).unwrap();
    number
}

fn key_area(plan: &Plan, key: Option<&DataKey>) -> [u8; KEY_AREA_LEN] {
    let names: Vec<&str> = plan.recipients.iter().map(String::as_str).collect();
    let prints: Vec<[u8; 8]> = names.iter().map(|r| fingerprint(r)).collect();
    let wrapped = key.map(|k| wrap(k, &names).unwrap()).unwrap_or_default();
    let mut keys = [0u8; KEY_AREA_LEN];
    let entry = KeyEntry { kind: KeyKind::Data, fingerprints: &prints, wrapped: &wrapped };
    let entries = if key.is_some() { vec![entry] } else { Vec::new() };
    KeyArea::encode(&mut keys, 0, &entries).unwrap();
    keys
}

fn meta(header: &DumpHeader, ranges: &[PageRange]) -> Vec<u8> {
    let mut meta = vec![0u8; 65536];
    let mut w = MetaWriter::new(&mut meta);
    let digest = header_digest(&header.encode());
    w.record(Tag::HeaderDigest, [digest.as_slice()].into_iter()).unwrap();
    w.ranges(ranges).unwrap();
    let text = "path /dev/vda1\n";
    w.swap_device(&SwapDevice { index: 0, page_size: 4096, bytes: 500 * 4096, text }).unwrap();
    w.record(Tag::Hostname, [b"rack-7".as_slice()].into_iter()).unwrap();
    let len = w.finish();
    meta.truncate(len);
    meta
}

fn facts(outcome: Outcome, pages: u64) -> CommitFacts {
    let mut phases = [(0, 0); MAX_PHASES];
    phases[0] = (PhaseId::Kernel as u8, 1500);
    phases[1] = (PhaseId::Memory as u8, 12_345);
    CommitFacts {
        outcome,
        source: SourceKind::Oldmem,
        io: IoMode::Polled,
        writes: 42,
        now: 1_764_000_060,
        asked: (pages, 500),
        read_errors: 30,
        phases,
    }
}
