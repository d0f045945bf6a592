//! `[capture]`: how chunks are packed, by how many workers, in how much memory.

use lifeboat_format::bootcfg::{
    BUFFERS_KIB, DEDUP_KIB, LEVELS, Ladder, MAX_BUFFERS_KIB, MAX_DEDUP_KIB, MIN_BUFFERS_KIB, Method,
};

use crate::check::Checker;
use crate::raw;

/// What was asked for, checked.
pub(crate) struct Packing {
    pub(crate) codec: Ladder,
    pub(crate) dedup_kib: u32,
    pub(crate) chunk_pages: u32,
    pub(crate) workers: u32,
    pub(crate) buffers_kib: u32,
}

pub(crate) fn check(c: &mut Checker<'_>, raw: &raw::Capture, cpus: u32, crash: u32) -> Packing {
    let buffers_kib = buffers(c, raw.buffers_kib, crash);
    let codec = codec(c, raw);
    let chunk_pages = c.range(
        "capture.chunk_pages",
        raw.chunk_pages.unwrap_or(64),
        1,
        lifeboat_format::chunk::MAX_CHUNK_PAGES,
        "readers refuse larger chunks",
    );
    let workers = c.range(
        "capture.workers",
        raw.workers.unwrap_or(0),
        0,
        64,
        "each worker has buffers of its own",
    );
    let dedup_kib = c.range(
        "capture.dedup_kib",
        raw.dedup_kib.unwrap_or(DEDUP_KIB),
        0,
        MAX_DEDUP_KIB,
        "the table lies in the reservation",
    );
    // Each worker holds a chunk as read, as compressed and as it is written, and a codec.
    let threads = u64::from(if workers == 0 { cpus } else { workers });
    let need = threads * (u64::from(chunk_pages) * 4096 * 4 + (1 << 20));
    let need_mib = (need + ((u64::from(dedup_kib) + u64::from(buffers_kib)) << 10)) >> 20;
    if need_mib * 2 > u64::from(crash) {
        c.bad("capture.chunk_pages",
            format!("{threads} workers with chunks of {chunk_pages} pages, a table of {dedup_kib} KiB and buffers of {buffers_kib} KiB need about {need_mib} MiB of a reservation of {crash} MiB: the capture would run out of memory"),
            "smaller chunks, fewer workers, a smaller capture.dedup_kib or capture.buffers_kib, or a larger reservation.crashkernel_mib");
    }
    Packing { codec, dedup_kib, chunk_pages, workers, buffers_kib }
}

fn buffers(c: &mut Checker<'_>, raw: Option<u32>, crash: u32) -> u32 {
    let kib = c.range(
        "capture.buffers_kib",
        raw.unwrap_or(BUFFERS_KIB),
        MIN_BUFFERS_KIB,
        MAX_BUFFERS_KIB,
        "a disk would wait for bytes, or memory for nothing",
    );
    if kib / 1024 > crash / 4 {
        c.bad("capture.buffers_kib",
            format!("{kib} KiB in front of the disks of a reservation of {crash} MiB: the capture would run out of memory"),
            "at most a quarter of reservation.crashkernel_mib; 4096 keeps any one disk busy");
    }
    kib
}

fn codec(c: &mut Checker<'_>, raw: &raw::Capture) -> Ladder {
    let kind = raw.codec.unwrap_or(raw::Codec::Adaptive);
    if kind != raw::Codec::Zstd && raw.level.is_some() {
        c.bad(
            "capture.level",
            "a level, but codec is not zstd: nothing would use it",
            "remove one of them; an adaptive codec has its levels in capture.ladder",
        );
    }
    if kind != raw::Codec::Adaptive && raw.ladder.is_some() {
        c.bad(
            "capture.ladder",
            "a ladder, but codec is not adaptive: there is nothing to choose",
            "remove one of them",
        );
    }
    let level = raw.level.unwrap_or(1);
    if !LEVELS.contains(&level) {
        c.bad(
            "capture.level",
            format!("zstd level {level} does not exist here"),
            "-50 to 19; 1 is a good choice, each step up costs time with the machine down",
        );
    }
    let methods = match (kind, &raw.ladder) {
        (raw::Codec::Store, _) => vec![Method::Store],
        (raw::Codec::Lz4, _) => vec![Method::Lz4],
        (raw::Codec::Zstd, _) => vec![Method::Zstd(level)],
        (raw::Codec::Adaptive, None) => return Ladder::default(),
        (raw::Codec::Adaptive, Some(ladder)) => ladder.iter().filter_map(|m| rung(c, m)).collect(),
    };
    match Ladder::new(&methods) {
        Ok(ladder) => ladder,
        // Said already, under the key that it stands under.
        Err(_) if kind == raw::Codec::Zstd => Ladder::default(),
        Err(why) => {
            c.bad("capture.ladder", why, LADDER_HINT);
            Ladder::default()
        }
    }
}

const LADDER_HINT: &str =
    "a list such as [\"store\", \"lz4\", \"zstd 1\", \"zstd 3\"], the fastest first";

fn rung(c: &mut Checker<'_>, text: &str) -> Option<Method> {
    let method = Method::parse(text).ok();
    if method.is_none() {
        c.bad("capture.ladder", format!("`{text}` is no way to pack a chunk"), LADDER_HINT);
    }
    method
}
