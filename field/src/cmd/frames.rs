//! Checks a dump's chunks while its bytes stream by: no key, no seeking, a few
//! hundred bytes of state. It finds chunks as a reader without an index would,
//! at multiples of 512, and picks up again behind damage.

use lifeboat_format::chunk::HEADER_LEN;
use lifeboat_format::{CHUNK_ALIGN, ChunkHeader, Id, is_zero};

/// Findings that are kept in words; further ones are only counted.
const KEPT: usize = 8;

/// The state of a stream of chunks.
#[derive(Debug)]
pub(crate) struct FrameCheck {
    dump_id: Id,
    /// Offset in the dump of the next byte.
    pos: u64,
    frame: Option<Frame>,
    next_seq: u64,
    /// Start of a stretch that is not a chunk, and whether it is all zero so far.
    gap: Option<(u64, bool)>,
    report: Report,
}

#[derive(Debug)]
struct Frame {
    start: u64,
    seq: u64,
    payload: u64,
    padding: u64,
    crc: u32,
    hash: crc32fast::Hasher,
}

/// What a stream held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Chunks whose checksums hold.
    pub(crate) good: u64,
    /// Findings: damaged or missing chunks, foreign bytes.
    pub(crate) bad: u64,
    /// The first few of them, in words.
    pub(crate) words: Vec<String>,
    /// End of the last good chunk, as an offset in the dump.
    pub(crate) end: u64,
    /// Findings behind it.
    behind: u64,
}

impl Report {
    fn add(&mut self, what: String) {
        self.bad += 1;
        self.behind += 1;
        if self.words.len() < KEPT {
            self.words.push(what);
        }
    }
}

impl FrameCheck {
    /// A check of dump `dump_id` whose chunks begin at byte `pos`, a multiple of 512.
    pub(crate) fn new(dump_id: Id, pos: u64) -> Self {
        let report = Report { end: pos, ..Report::default() };
        Self { dump_id, pos, frame: None, next_seq: 0, gap: None, report }
    }

    /// Takes the next bytes. All but the last call give a multiple of 512.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = match self.frame.take() {
                None => self.begin(bytes),
                Some(frame) => self.go_on(frame, bytes),
            };
            self.pos += used as u64;
            bytes = bytes.get(used..).unwrap_or_default();
        }
    }

    /// End of the last good chunk so far.
    pub(crate) fn end(&self) -> u64 {
        self.report.end
    }

    fn begin(&mut self, bytes: &[u8]) -> usize {
        let header = ChunkHeader::decode(bytes)
            .ok()
            .filter(|h| h.dump_id == self.dump_id && h.offset.0 == self.pos);
        let Some(h) = header else {
            let sector = bytes.get(..CHUNK_ALIGN).unwrap_or(bytes);
            let zero = is_zero(sector);
            let (at, all_zero) = self.gap.unwrap_or((self.pos, true));
            self.gap = Some((at, all_zero && zero));
            return sector.len();
        };
        self.close_gap(false);
        if h.seq != self.next_seq {
            self.report.add(format!(
                "chunks {} to {} are missing before byte {}",
                self.next_seq,
                h.seq.wrapping_sub(1),
                self.pos
            ));
        }
        self.next_seq = h.seq.wrapping_add(1);
        let payload = u64::from(h.stored_len);
        self.frame = Some(Frame {
            start: self.pos,
            seq: h.seq,
            payload,
            padding: h.frame_len().saturating_sub(HEADER_LEN as u64 + payload),
            crc: h.payload_crc,
            hash: crc32fast::Hasher::new(),
        });
        HEADER_LEN.min(bytes.len())
    }

    fn go_on(&mut self, mut frame: Frame, bytes: &[u8]) -> usize {
        let take = |want: u64, have: usize| usize::try_from(want).unwrap_or(have).min(have);
        let payload = take(frame.payload, bytes.len());
        if let Some(part) = bytes.get(..payload) {
            frame.hash.update(part);
        }
        frame.payload -= payload as u64;
        let padding =
            if frame.payload == 0 { take(frame.padding, bytes.len() - payload) } else { 0 };
        frame.padding -= padding as u64;
        if frame.payload > 0 || frame.padding > 0 {
            self.frame = Some(frame);
            return payload + padding;
        }
        if frame.hash.finalize() == frame.crc {
            self.report.good += 1;
            self.report.behind = 0;
            self.report.end = self.pos + (payload + padding) as u64;
        } else {
            self.report
                .add(format!("chunk {} at byte {} fails its checksum", frame.seq, frame.start));
        }
        payload + padding
    }

    fn close_gap(&mut self, at_end: bool) {
        if let Some((at, zero)) = self.gap.take()
            && !(at_end && zero)
        {
            self.report.add(format!("no chunk in bytes {at} to {}", self.pos));
        }
    }

    /// The findings, once all bytes were fed. `chunks` is what the commit record
    /// counts. Zeros behind the last chunk are padding.
    pub(crate) fn finish(mut self, chunks: Option<u64>) -> Report {
        self.close_gap(true);
        if let Some(frame) = &self.frame {
            self.report.add(format!("chunk {} at byte {} is cut short", frame.seq, frame.start));
        }
        if let Some(n) = chunks
            && n != self.next_seq
        {
            self.report.add(format!(
                "the commit record counts {n} chunks, the last one found has number {}",
                self.next_seq.wrapping_sub(1)
            ));
        }
        self.report
    }

    /// The findings of a dump that was never committed: what follows the last
    /// good chunk is not part of it.
    pub(crate) fn finish_open(mut self) -> Report {
        self.gap = None;
        self.report.bad -= self.report.behind;
        self.report.words.truncate(usize::try_from(self.report.bad).unwrap_or(KEPT));
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_format::{ByteOff, ChunkKind, Cipher, Codec, Pfn};

    const ID: Id = [7; 16];

    fn stream(lens: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        for (seq, len) in lens.iter().enumerate() {
            let payload: Vec<u8> =
                (0..*len).map(|i| ((i * 31 + seq) % 256).try_into().unwrap()).collect();
            let len32 = u32::try_from(*len).unwrap();
            let header = ChunkHeader {
                dump_id: ID,
                seq: seq as u64,
                kind: ChunkKind::Log,
                codec: Codec::Store,
                cipher: Cipher::None,
                device: 0,
                layer: lifeboat_format::Layer::Address,
                first: Pfn(0),
                pages: 0,
                raw_len: len32,
                stored_len: len32,
                offset: ByteOff(out.len() as u64),
                data_pages: 0,
                missing_pages: 0,
                payload_crc: lifeboat_format::crc32(&payload),
            };
            out.extend(header.encode());
            out.extend(payload);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out
    }

    fn check(bytes: &[u8], step: usize, chunks: u64) -> Report {
        let mut c = FrameCheck::new(ID, 0);
        bytes.chunks(step).for_each(|part| c.feed(part));
        c.finish(Some(chunks))
    }

    #[test]
    fn a_sound_stream_is_sound_at_any_step() {
        let mut bytes = stream(&[0, 1, 416, 417, 5000]);
        let end = bytes.len() as u64;
        bytes.resize(bytes.len() + 2048, 0);
        for step in [512, 1024, 4096, 1 << 20] {
            let r = check(&bytes, step, 5);
            assert_eq!((r.good, r.bad, r.end), (5, 0, end), "{step}: {:?}", r.words);
        }
    }

    #[test]
    fn every_flipped_bit_of_header_or_payload_shows() {
        let bytes = stream(&[100, 900, 30]);
        for at in (0..196).chain(512..512 + 996) {
            let mut hurt = bytes.clone();
            hurt[at] ^= 0x10;
            let r = check(&hurt, 512, 3);
            assert!(r.bad > 0 && r.good == 2, "byte {at}: {r:?}");
        }
    }

    #[test]
    fn a_missing_or_cut_chunk_shows() {
        let bytes = stream(&[100, 900, 30]);
        assert!(check(&bytes[512..], 512, 3).bad > 0);
        assert!(check(&bytes[..1024], 512, 3).bad > 0);
        assert!(check(&bytes[..512 + 1024], 512, 3).bad > 0);
    }
}
