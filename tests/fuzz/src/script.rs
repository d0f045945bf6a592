//! A dump in short form, so that a fuzzer's bytes become a dump whose checksums,
//! lengths, places and seals are right unless the bytes say otherwise.
//!
//! ```text
//! op := tag u8, flags u8, len u16, body[len]       a length beyond the end takes the rest
//! tag 0  header     the first bytes of block 0
//! tag 1  keys       the first bytes of the key area
//! tag 2  chunk      92 bytes of chunk header, then the plaintext
//! tag 3  commit     the first bytes of the commit record
//! tag 4  raw        bytes between chunks, padded to 512
//! ```
//! The tag is in the low three bits of its byte, modulo 5. In the others a chunk says how
//! often its plaintext is repeated, as a power of two: a few bytes make a bomb.
//!
//! Each flag of an op leaves something wrong that would be made right: see [`chunk`],
//! [`commit`], [`header`]. Header and keys stand at both ends, the commit record at the
//! end, wherever their ops are.

use lifeboat_crypt::{DataKey, Identities, Sealer, header_digest};
use lifeboat_format::chunk::{AAD_LEN, HEADER_LEN as CHUNK_HEAD, INDEX_HEAD_LEN};
use lifeboat_format::header::{HEADER_LEN, KEY_AREA_LEN};
use lifeboat_format::{BLOCK, CHUNK_ALIGN, ChunkHeader, ChunkKind, Cipher, Codec, CommitRecord};

use crate::blocks::{padded, reseal};

/// An identity for tests: it opens the sealed dumps of the corpus, and nothing else.
pub const IDENTITY: &str =
    "AGE-SECRET-KEY-1Z7EVYY8ZYSEF0HJS0CJ6TM2NJVR9UQRWTRYECH837KPWAUATFTQSQ3QA4G";
/// Its recipient.
pub const RECIPIENT: &str = "age1c9526te6c3h4dxpej463rkrwp5y8egx9czswly9ss975dpffjfwqrvcghh";
/// What the data key of every sealed dump of the corpus is made of.
pub const KEY_PARTS: &[&[u8]] = &[b"a test's key"];

/// How much of a script is put together.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most chunks.
    pub chunks: usize,
    /// Most bytes that repeating may add to plaintexts.
    pub repeated: usize,
}

impl Limits {
    /// What leaves a fuzzer many runs in a second.
    pub const FUZZ: Self = Self { chunks: 256, repeated: 48 << 20 };
}

/// The data key of sealed dumps here.
#[must_use]
pub fn data_key() -> DataKey {
    DataKey::mix(KEY_PARTS)
}

/// The identity that opens them.
///
/// # Panics
/// Never: it is a constant.
#[must_use]
pub fn identities() -> Identities {
    Identities::parse(IDENTITY).expect("a constant")
}

/// `bytes` cut or filled with zeros to `len`, which is at most a stored chunk's.
pub(crate) fn resized(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut out = bytes.get(..len).unwrap_or(bytes).to_vec();
    out.resize(len, 0);
    out
}

/// Places in a chunk header, bytes.
mod at {
    pub(super) const DUMP_ID: usize = 8;
    pub(super) const SEQ: usize = 24;
    pub(super) const KIND: usize = 32;
    pub(super) const CODEC: usize = 33;
    pub(super) const CIPHER: usize = 34;
    pub(super) const LAYER: usize = 35;
    pub(super) const DEVICE: usize = 36;
    pub(super) const FIRST: usize = 40;
    pub(super) const PAGES: usize = 48;
    pub(super) const RAW_LEN: usize = 56;
    pub(super) const STORED_LEN: usize = 60;
    pub(super) const OFFSET: usize = 64;
    pub(super) const PAYLOAD_CRC: usize = 80;
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// What [`frame`] makes right.
#[derive(Debug, Clone, Copy)]
pub struct Fix {
    /// Both checksums.
    pub crc: bool,
    /// `stored_len`, and `raw_len` where it is known.
    pub lengths: bool,
    /// The payload is a plaintext: compress it as the codec says.
    pub compress: bool,
    /// The cipher, and with AES the seal.
    pub cipher: Option<Cipher>,
}

impl Fix {
    /// Nothing.
    pub const NOTHING: Self = Self { crc: false, lengths: false, compress: false, cipher: None };
    /// Everything, for a dump in the clear.
    pub const ALL_CLEAR: Self =
        Self { crc: true, lengths: true, compress: true, cipher: Some(Cipher::None) };
}

/// A chunk's header and its payload as stored.
///
/// # Panics
/// Never: compressing and sealing memory cannot fail.
#[must_use]
pub fn frame(head: &[u8], payload: &[u8], fix: &Fix) -> (Vec<u8>, Vec<u8>) {
    let mut head = resized(head, CHUNK_HEAD);
    let mut stored = payload.to_vec();
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    if fix.lengths && (fix.compress || head[at::CODEC] == Codec::Store as u8) {
        put(&mut head, at::RAW_LEN, &narrow(payload.len()));
    }
    match head[at::CODEC] {
        codec if !fix.compress || codec == Codec::Store as u8 => {}
        codec if codec == Codec::Zstd as u8 => {
            stored = zstd::bulk::compress(payload, 1).expect("memory");
        }
        codec if codec == Codec::Lz4 as u8 => stored = lz4_flex::block::compress(payload),
        _ => {}
    }
    let mut sealer = None;
    if let Some(cipher) = fix.cipher {
        head[at::CIPHER] = cipher as u8;
        if cipher == Cipher::Aes256Gcm {
            sealer = Some(Sealer::new(Some(&data_key())));
        }
    }
    if fix.lengths {
        let tag = if sealer.is_some() { lifeboat_crypt::TAG_LEN } else { 0 };
        put(&mut head, at::STORED_LEN, &narrow(stored.len() + tag));
    }
    if let Some(sealer) = sealer {
        let seq = u64::from_le_bytes(padded(&head[at::SEQ..at::SEQ + 8]));
        let tag = sealer.seal(seq, &head[..AAD_LEN], &mut stored).expect("a short payload");
        stored.extend(tag.unwrap_or_default());
    }
    if fix.crc {
        let crc = lifeboat_format::crc32(&stored).to_le_bytes();
        put(&mut head, at::PAYLOAD_CRC, &crc);
        reseal(&mut head);
    }
    (head, stored)
}

/// One op of a script.
#[derive(Debug, Clone, Copy)]
pub struct Op<'a> {
    /// What it is.
    pub tag: u8,
    /// How often the plaintext of a chunk is repeated, as a power of two.
    pub repeat: u8,
    /// What to leave wrong.
    pub flags: u8,
    /// Its bytes.
    pub body: &'a [u8],
}

impl Op<'_> {
    fn leaves(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Adds an op to a script.
pub fn push(script: &mut Vec<u8>, tag: u8, flags: u8, body: &[u8]) {
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    script.extend([tag, flags]);
    script.extend(len.to_le_bytes());
    script.extend(&body[..usize::from(len)]);
}

/// The ops of a script.
fn ops(mut script: &[u8]) -> Vec<Op<'_>> {
    let mut out = Vec::new();
    while let Some(([tag, flags, low, high], rest)) = script.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(len);
        out.push(Op { tag: (tag & 7) % 5, repeat: tag >> 3, flags: *flags, body });
        script = rest;
    }
    out
}

/// What is known while a dump is put together.
struct Build {
    out: Vec<u8>,
    block0: [u8; BLOCK],
    /// The bare header and its length of each chunk since the last index.
    listed: Vec<Vec<u8>>,
    index: u64,
    seq: u64,
    /// Bytes that repeating may still add.
    room: usize,
}

/// Flags of header and keys: the checksum of the first copy, or of the second, is left wrong.
pub mod header {
    /// First copy.
    pub const BAD_FIRST: u8 = 1;
    /// Second copy.
    pub const BAD_SECOND: u8 = 2;
}

/// Flags of a chunk.
pub mod chunk {
    /// Offset, sequence number and dump are those of the body.
    pub const KEEP_PLACE: u8 = 1;
    /// Lengths are those of the body.
    pub const KEEP_LENGTHS: u8 = 2;
    /// The payload is not compressed.
    pub const AS_STORED: u8 = 4;
    /// The payload's checksum is wrong.
    pub const BAD_PAYLOAD: u8 = 8;
    /// The header's checksum is that of the body.
    pub const BAD_HEADER: u8 = 16;
    /// Entries of an index, and the digest in a meta chunk, are those of the body.
    pub const KEEP_CONTENTS: u8 = 32;
    /// An empty sector comes first.
    pub const GAP: u8 = 64;
    /// The cipher is that of the body, and nothing is sealed.
    pub const KEEP_CIPHER: u8 = 128;
}

/// Flags of a commit record.
pub mod commit {
    /// Length and place of the second header are those of the body.
    pub const KEEP_LENGTH: u8 = 1;
    /// The place of the index is that of the body.
    pub const KEEP_INDEX: u8 = 2;
    /// The count of chunks is that of the body.
    pub const KEEP_CHUNKS: u8 = 4;
    /// The checksum is wrong.
    pub const BAD_CRC: u8 = 8;
    /// The tag is that of the body.
    pub const KEEP_TAG: u8 = 16;
    /// A block of zeros follows.
    pub const APPENDED: u8 = 32;
}

/// The dump that a script describes, within [`Limits::FUZZ`].
#[must_use]
pub fn assemble(script: &[u8]) -> Vec<u8> {
    assemble_within(script, Limits::FUZZ)
}

/// The dump that a script describes, as far as `limits` go.
#[must_use]
pub fn assemble_within(script: &[u8], limits: Limits) -> Vec<u8> {
    let ops = ops(script);
    let last = |tag| ops.iter().rfind(|op| op.tag == tag);
    let mut block0: [u8; BLOCK] = padded(last(0).map_or(&[][..], |op| op.body));
    let mut keys: [u8; KEY_AREA_LEN] = padded(last(1).map_or(&[][..], |op| op.body));
    reseal(&mut block0);
    reseal(&mut keys);
    let ends = |flag: u8| {
        let mut out = [&block0[..], &keys[..]].concat();
        for (tag, end) in [(0, BLOCK), (1, HEADER_LEN)] {
            if last(tag).is_some_and(|op| op.leaves(flag)) {
                out[end - 1] ^= 0x55;
            }
        }
        out
    };
    let mut build = Build {
        out: ends(header::BAD_FIRST),
        block0,
        listed: Vec::new(),
        index: 0,
        seq: 0,
        room: limits.repeated,
    };
    for op in ops.iter().filter(|op| op.tag == 2 || op.tag == 4).take(limits.chunks) {
        if op.tag == 2 {
            build.chunk(op);
        } else {
            build.out.extend_from_slice(op.body);
        }
        let len = build.out.len().next_multiple_of(CHUNK_ALIGN);
        build.out.resize(len, 0);
    }
    if let Some(op) = last(3) {
        let len = build.out.len().next_multiple_of(BLOCK);
        build.out.resize(len, 0);
        build.out.extend(ends(header::BAD_SECOND));
        build.commit(op);
    }
    build.out
}

impl Build {
    fn chunk(&mut self, op: &Op<'_>) {
        if op.leaves(chunk::GAP) {
            self.out.extend([0; CHUNK_ALIGN]);
        }
        let split = op.body.len().min(CHUNK_HEAD - 4);
        let (head, plain) = op.body.split_at(split);
        let mut head = resized(head, CHUNK_HEAD);
        let mut plain = self.repeated(plain, op.repeat);
        let offset = self.out.len() as u64;
        if !op.leaves(chunk::KEEP_PLACE) {
            put(&mut head, 0, &lifeboat_format::chunk::MAGIC);
            put(&mut head, at::DUMP_ID, &self.block0[16..32]);
            put(&mut head, at::SEQ, &self.seq.to_le_bytes());
            put(&mut head, at::OFFSET, &offset.to_le_bytes());
        }
        let is_index = head[at::KIND] == ChunkKind::Index as u8;
        if !op.leaves(chunk::KEEP_CONTENTS) {
            if is_index {
                plain = self.index_payload(&mut head);
            } else if head[at::KIND] == ChunkKind::Meta as u8
                && plain.starts_with(&[1, 0, 0, 0, 32, 0, 0, 0])
                && plain.len() >= 40
            {
                put(&mut plain, 8, &header_digest(&self.block0));
            }
        }
        // As the dump's header says, whatever that is.
        let cipher = if self.block0[64] == 0 { Cipher::None } else { Cipher::Aes256Gcm };
        let fix = Fix {
            crc: !op.leaves(chunk::BAD_HEADER),
            lengths: !op.leaves(chunk::KEEP_LENGTHS),
            compress: !op.leaves(chunk::AS_STORED),
            cipher: (!op.leaves(chunk::KEEP_CIPHER)).then_some(cipher),
        };
        let (head, mut stored) = frame(&head, &plain, &fix);
        if op.leaves(chunk::BAD_PAYLOAD)
            && let Some(byte) = stored.last_mut()
        {
            *byte ^= 1;
        }
        self.out.extend_from_slice(&head);
        self.out.extend_from_slice(&stored);
        self.seq += 1;
        if is_index {
            self.index = offset;
        } else {
            self.listed.push(head);
        }
    }

    /// `plain`, 2^`shift` times, as far as the largest payload and the script's room go.
    fn repeated(&mut self, plain: &[u8], shift: u8) -> Vec<u8> {
        let most = (lifeboat_format::chunk::MAX_RAW / plain.len().max(1)).max(1);
        let times = (1usize << shift).min(most).min(1 + self.room / plain.len().max(1));
        self.room -= (times - 1) * plain.len();
        plain.repeat(times)
    }

    /// Lists the chunks since the last index.
    fn index_payload(&mut self, head: &mut [u8]) -> Vec<u8> {
        let first_seq = self.seq - self.listed.len() as u64;
        let count = self.listed.len() as u64;
        let mut out = Vec::with_capacity(INDEX_HEAD_LEN);
        out.extend(self.index.to_le_bytes());
        out.extend(first_seq.to_le_bytes());
        out.extend(count.to_le_bytes());
        for h in self.listed.drain(..) {
            for range in [at::OFFSET..at::OFFSET + 8, at::FIRST..at::FIRST + 16] {
                out.extend(&h[range]);
            }
            out.extend(&h[at::STORED_LEN..at::STORED_LEN + 4]);
            out.extend([h[at::KIND], h[at::LAYER], h[at::DEVICE], h[at::DEVICE + 1]]);
        }
        put(head, at::FIRST, &first_seq.to_le_bytes());
        put(head, at::PAGES, &count.to_le_bytes());
        out
    }

    fn commit(&mut self, op: &Op<'_>) {
        let mut block: [u8; BLOCK] = padded(op.body);
        let copy = (self.out.len() - HEADER_LEN) as u64;
        let total = (self.out.len() + BLOCK) as u64;
        put(&mut block, 16, &self.block0[16..32]);
        let fields = [
            (commit::KEEP_LENGTH, 32, total),
            (commit::KEEP_CHUNKS, 40, self.seq),
            (commit::KEEP_INDEX, 48, self.index),
            (commit::KEEP_LENGTH, 56, copy),
        ];
        for (flag, at, value) in fields {
            if !op.leaves(flag) {
                put(&mut block, at, &value.to_le_bytes());
            }
        }
        reseal(&mut block);
        if self.block0[64] != 0
            && !op.leaves(commit::KEEP_TAG)
            && let Ok(mut record) = CommitRecord::decode(&block)
        {
            record.tag = Sealer::new(Some(&data_key())).commit_tag(&record).expect("no plaintext");
            block = record.encode();
        }
        if op.leaves(commit::BAD_CRC) {
            block[BLOCK - 1] ^= 1;
        }
        self.out.extend_from_slice(&block);
        if op.leaves(commit::APPENDED) {
            self.out.extend([0; BLOCK]);
        }
    }
}

/// `bytes` without the zeros at its end.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    &bytes[..len]
}

/// The script of a sound dump whose key, if it has one, is [`data_key`]; `None` when a
/// chunk cannot be opened or is too long for an op.
#[must_use]
pub fn disassemble(dump: &[u8]) -> Option<Vec<u8>> {
    let mut script = Vec::new();
    push(&mut script, 0, 0, trimmed(dump.get(..BLOCK - 4)?));
    push(&mut script, 1, 0, trimmed(dump.get(BLOCK..HEADER_LEN - 4)?));
    let mut at = HEADER_LEN;
    let mut decoder = lifeboat_field::dump::Decoder::new();
    while let Some(Ok(header)) = dump.get(at..).map(ChunkHeader::decode) {
        let from = at + CHUNK_HEAD;
        let mut stored = dump.get(from..from + header.stored_len as usize)?.to_vec();
        let key = (header.cipher == Cipher::Aes256Gcm).then(data_key);
        let opener = lifeboat_crypt::Opener::new(header.cipher, key.as_ref()).ok()?;
        let chunk = decoder.decode(&opener, header, &mut stored).ok()?;
        let body = [&dump[at..at + CHUNK_HEAD - 4], chunk.plain()].concat();
        if body.len() > usize::from(u16::MAX) {
            return None;
        }
        push(&mut script, 2, 0, &body);
        at += usize::try_from(header.frame_len()).ok()?;
    }
    let end = dump.last_chunk::<BLOCK>()?;
    if CommitRecord::decode(end).is_ok() {
        push(&mut script, 3, 0, trimmed(&end[..BLOCK - 4]));
    }
    Some(script)
}

/// The same dump with every zstd payload in `codec` instead.
#[must_use]
pub fn recoded(script: &[u8], codec: Codec) -> Vec<u8> {
    let mut out = Vec::new();
    for op in ops(script) {
        let mut body = op.body.to_vec();
        if op.tag == 2 && body.get(at::CODEC) == Some(&(Codec::Zstd as u8)) {
            body[at::CODEC] = codec as u8;
        }
        push(&mut out, op.tag | op.repeat << 3, op.flags, &body);
    }
    out
}

/// The body of a chunk op: zero pages `[first, first + pages)` of memory.
#[must_use]
pub fn zero_pages(first: u64, pages: u64) -> Vec<u8> {
    let mut head = vec![0u8; CHUNK_HEAD - 4];
    head[at::KIND] = ChunkKind::Memory as u8;
    put(&mut head, at::FIRST, &first.to_le_bytes());
    put(&mut head, at::PAGES, &pages.to_le_bytes());
    head.extend(1u32.to_le_bytes());
    head.extend((1u64 << 56 | pages).to_le_bytes());
    head
}

/// The body of an op for an index chunk; `raw` takes first, pages and lengths from the
/// payload's first bytes.
pub(crate) fn index_chunk(payload: &[u8], raw: bool) -> Vec<u8> {
    let mut head = vec![0u8; CHUNK_HEAD - 4];
    head[at::KIND] = ChunkKind::Index as u8;
    if raw {
        put(&mut head, at::RAW_LEN, &padded::<8>(payload));
        put(&mut head, at::PAGES, &padded::<4>(payload.get(8..).unwrap_or_default()));
    }
    head.extend_from_slice(payload);
    head
}
