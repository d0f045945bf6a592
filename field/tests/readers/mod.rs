//! Readers of exported files that share no code with their writers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code"
)]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]

use std::io::Read as _;

pub fn u16_at(b: &[u8], at: usize) -> u64 {
    u16::from_le_bytes(b[at..at + 2].try_into().unwrap()).into()
}
pub fn u32_at(b: &[u8], at: usize) -> u64 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap()).into()
}
pub fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

/// `p_type, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz`.
pub type Phdr = [u64; 6];

pub fn phdrs(b: &[u8]) -> Vec<Phdr> {
    assert_eq!(&b[..7], b"\x7fELF\x02\x01\x01");
    let count = match u16_at(b, 56) {
        0xffff => u32_at(b, u64_at(b, 40) as usize + 44),
        n => n,
    };
    let at = u64_at(b, 32) as usize;
    assert_eq!(at, 64);
    (0..count as usize)
        .map(|i| {
            let p = at + i * 56;
            [
                u32_at(b, p),
                u64_at(b, p + 8),
                u64_at(b, p + 16),
                u64_at(b, p + 24),
                u64_at(b, p + 32),
                u64_at(b, p + 40),
            ]
        })
        .collect()
}

/// Physical bytes by an ELF vmcore: the first PT_LOAD that has them.
pub fn elf_read(b: &[u8], heads: &[Phdr], phys: u64, len: usize) -> Option<Vec<u8>> {
    let p = heads.iter().find(|p| p[0] == 1 && p[3] <= phys && phys + len as u64 <= p[3] + p[4])?;
    let at = (p[1] + phys - p[3]) as usize;
    Some(b[at..at + len].to_vec())
}

/// A kdump-compressed file as makedumpfile's readers see it.
pub struct Kdump {
    pub bytes: Vec<u8>,
    pub bitmap1: Vec<u8>,
    pub bitmap2: Vec<u8>,
    pub descs: usize,
    /// Bits of bitmap 2 before each of its bytes.
    before: Vec<u32>,
}

impl Kdump {
    pub fn open(bytes: Vec<u8>) -> Self {
        assert_eq!(&bytes[..8], b"KDUMP   ");
        assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 428)), (6, 4096));
        let sub = u32_at(&bytes, 432) as usize;
        let blocks = u32_at(&bytes, 436) as usize;
        let at = (1 + sub) * 4096;
        let half = blocks / 2 * 4096;
        let bitmap1 = bytes[at..at + half].to_vec();
        let bitmap2 = bytes[at + half..at + 2 * half].to_vec();
        let mut sum = 0;
        let count = |b: &u8| {
            sum += b.count_ones();
            sum - b.count_ones()
        };
        let before = bitmap2.iter().map(count).collect();
        Self { bytes, bitmap1, bitmap2, descs: at + 2 * half, before }
    }
    pub fn bit(map: &[u8], pfn: u64) -> bool {
        map.get((pfn / 8) as usize).is_some_and(|b| b >> (pfn % 8) & 1 == 1)
    }
    pub fn page(&self, pfn: u64) -> Option<Vec<u8>> {
        if !Self::bit(&self.bitmap2, pfn) {
            return None;
        }
        let byte = (pfn / 8) as usize;
        let below = self.bitmap2[byte] & ((1u16 << (pfn % 8)) - 1) as u8;
        let rank = self.before[byte] + below.count_ones();
        let desc = self.descs + rank as usize * 24;
        let (at, size, flags) = (
            u64_at(&self.bytes, desc) as usize,
            u32_at(&self.bytes, desc + 8) as usize,
            u32_at(&self.bytes, desc + 12),
        );
        let raw = &self.bytes[at..at + size];
        Some(match flags {
            0 => raw.to_vec(),
            1 => {
                let mut out = Vec::new();
                flate2::read::ZlibDecoder::new(raw).read_to_end(&mut out).unwrap();
                out
            }
            0x20 => zstd::bulk::decompress(raw, 4096).unwrap(),
            other => panic!("flags {other:#x}"),
        })
    }
}
