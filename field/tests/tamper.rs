//! Chunk surgery by someone without the key: whatever is cut, moved, copied or put in
//! another's place, its checksums made to fit, a reader with the key finds it, and says
//! which chunk and which pages it is about.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod golden;
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use golden::{Made, Order, Wrapped, fresh, make};
use lifeboat_crypt::{DataKey, Identities, fingerprint, generate_identity, wrap};
use lifeboat_field::dump::{Decoder, DumpError, DumpFile, FindingKind, OpenDump, Verdict};
use lifeboat_format::header::HEADER_LEN as HEAD;
use lifeboat_format::{
    BLOCK, ByteOff, ChunkHeader, ChunkKind, CommitRecord, DumpHeader, IndexEntry, KeyKind, Layer,
    PageClass, PageRange, crc32, text_field,
};

const CHUNK: usize = lifeboat_format::chunk::HEADER_LEN;

/// Two dumps for the same recipient, of the same shape: the second is what an attacker
/// takes pieces from.
struct Bench {
    made: Made,
    other: Made,
    identity: Identities,
}

fn bench() -> Bench {
    let new = generate_identity();
    let dump = |id: u8| {
        let key = DataKey::mix(&[&[id]]);
        let bytes = wrap(&key, &[&new.recipient]).unwrap();
        let fingerprints = vec![fingerprint(&new.recipient)];
        let order = Order {
            ranges: vec![PageRange::new(0x100, 0x300), PageRange::new(0x10_0000, 0x10_0060)],
            keys: vec![Wrapped { kind: KeyKind::Data, fingerprints, bytes }],
            key: Some(key),
            layered: true,
            // Stored chunks of two dumps of the same shape have the same lengths.
            method: golden::Method::Store,
            ..Order::clear(51, id)
        };
        make(&order, vec![fresh(14 << 20)])
    };
    let identity = Identities::parse(&new.secret).unwrap();
    Bench { made: dump(0x51), other: dump(0x52), identity }
}

/// What a finding must name.
#[derive(Debug, Clone)]
enum Names {
    /// These chunks, and the pages that they cover.
    Chunks(Vec<ChunkHeader>),
    /// These words.
    Words(&'static str),
}

struct Case {
    name: String,
    bytes: Vec<u8>,
    names: Names,
}

impl Bench {
    fn data(&self) -> Vec<(usize, ChunkHeader)> {
        self.made.chunks()
    }
    fn tail(&self) -> usize {
        self.made.record.header_copy.0 as usize
    }
    fn end(&self) -> usize {
        self.made.bytes.len() - BLOCK
    }
}

fn frame(at: usize, h: &ChunkHeader) -> std::ops::Range<usize> {
    at..at + h.frame_len() as usize
}

/// Writes `h` with its checksum made to fit.
fn stamp(bytes: &mut [u8], at: usize, h: &ChunkHeader) {
    let stored = &bytes[at + CHUNK..at + CHUNK + h.stored_len as usize];
    let h = ChunkHeader { payload_crc: crc32(stored), ..*h };
    bytes[at..at + CHUNK].copy_from_slice(&h.encode());
}

/// Puts frames one behind the other, each stamped with its new number and place, and
/// ends them as the dump ended, its record made to fit.
fn assembled(b: &Bench, frames: &[(&[u8], ChunkHeader)], chunks: u64) -> Vec<u8> {
    let mut out = b.made.bytes[..HEAD].to_vec();
    let mut index = ByteOff(0);
    for (seq, (bytes, h)) in (0u64..).zip(frames) {
        let at = out.len();
        out.extend_from_slice(bytes);
        let h = ChunkHeader { seq, offset: ByteOff(at as u64), ..*h };
        stamp(&mut out, at, &h);
        if h.kind == ChunkKind::Index {
            index = h.offset;
        }
    }
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    let header_copy = ByteOff(out.len() as u64);
    out.extend_from_slice(&b.made.bytes[b.tail()..b.end()]);
    let total_len = (out.len() + BLOCK) as u64;
    let record = CommitRecord { total_len, header_copy, index, chunks, ..b.made.record };
    out.extend_from_slice(&record.encode());
    out
}

/// Each chunk wiped, dropped, doubled, swapped with the next, or replaced from elsewhere.
fn surgery(b: &Bench, out: &mut Vec<Case>) {
    let (all, bytes) = (b.data(), &b.made.bytes);
    let others = b.other.chunks();
    let frames: Vec<(&[u8], ChunkHeader)> =
        all.iter().map(|(at, h)| (&bytes[frame(*at, h)], *h)).collect();
    let mut case = |name: String, bytes: Vec<u8>, hurt: &[ChunkHeader]| {
        out.push(Case { name, bytes, names: Names::Chunks(hurt.to_vec()) });
    };
    for (i, (at, h)) in all.iter().enumerate() {
        let (range, seq) = (frame(*at, h), h.seq);
        let mut wiped = bytes.clone();
        wiped[range.clone()].fill(0);
        case(format!("chunk {seq} wiped"), wiped, &[*h]);
        // Left out, all behind it moved up and numbered anew.
        let mut without = frames.clone();
        without.remove(i);
        let n = without.len() as u64;
        case(format!("chunk {seq} dropped"), assembled(b, &without, n), &[*h]);
        let mut twice = frames.clone();
        twice.insert(i, frames[i]);
        let n = twice.len() as u64;
        case(format!("chunk {seq} doubled"), assembled(b, &twice, n), &[*h]);
        // The next chunk of the same length in its place, as it is and stamped.
        if let Some((to, g)) = all.iter().skip(i + 1).find(|(_, g)| g.frame_len() == h.frame_len())
        {
            let second = frame(*to, g);
            let mut swapped = bytes.clone();
            swapped[range.clone()].copy_from_slice(&bytes[second.clone()]);
            swapped[second.clone()].copy_from_slice(&bytes[range.clone()]);
            case(format!("chunks {seq} and {} swapped", g.seq), swapped.clone(), &[*h, *g]);
            stamp(&mut swapped, *at, &ChunkHeader { seq, offset: h.offset, ..*g });
            stamp(&mut swapped, *to, &ChunkHeader { seq: g.seq, offset: g.offset, ..*h });
            case(format!("chunks {seq} and {} swapped, stamped", g.seq), swapped, &[*h, *g]);
            let mut over = bytes.clone();
            over[second.clone()].copy_from_slice(&bytes[range.clone()]);
            stamp(&mut over, *to, &ChunkHeader { seq: g.seq, offset: g.offset, ..*h });
            case(format!("chunk {seq} over {}", g.seq), over, &[*g]);
        }
        // The other dump's chunk of the same place.
        let (from, o) = &others[i];
        assert_eq!((from, o.frame_len()), (at, h.frame_len()), "dumps of one shape");
        let mut spliced = bytes.clone();
        spliced[range.clone()].copy_from_slice(&b.other.bytes[frame(*from, o)]);
        case(format!("chunk {seq} of another dump"), spliced.clone(), &[*h]);
        stamp(&mut spliced, *at, &ChunkHeader { dump_id: h.dump_id, ..*o });
        case(format!("chunk {seq} of another dump, stamped"), spliced, &[*h]);
        // Its payload alone, under its own header.
        let mut inside = bytes.clone();
        let payload = at + CHUNK..at + CHUNK + h.stored_len as usize;
        inside[payload.clone()].copy_from_slice(&b.other.bytes[payload]);
        stamp(&mut inside, *at, h);
        case(format!("payload {seq} of another dump"), inside, &[*h]);
    }
}

/// Each field of each chunk's header changed, its checksum made to fit.
fn headers(b: &Bench, out: &mut Vec<Case>) {
    for (at, h) in b.data() {
        let mut case = |name: &str, new: ChunkHeader| {
            if ChunkHeader::decode(&new.encode()).is_err() || new == h {
                return;
            }
            let mut bytes = b.made.bytes.clone();
            bytes[at..at + CHUNK].copy_from_slice(&new.encode());
            let name = format!("chunk {} with another {name}", h.seq);
            out.push(Case { name, bytes, names: Names::Chunks(vec![h]) });
        };
        case("number", ChunkHeader { seq: h.seq + 100, ..h });
        case("first page", ChunkHeader { first: lifeboat_format::Pfn(h.first.0 + 1), ..h });
        case("count of pages", ChunkHeader { pages: h.pages + 1, ..h });
        case("count of data", ChunkHeader { data_pages: h.data_pages ^ 1, ..h });
        case("count of bad pages", ChunkHeader { missing_pages: h.missing_pages + 1, ..h });
        case("device", ChunkHeader { device: h.device + 1, ..h });
        case("raw length", ChunkHeader { raw_len: h.raw_len - 1, ..h });
        let codec = if h.codec == lifeboat_format::Codec::Zstd {
            lifeboat_format::Codec::Store
        } else {
            lifeboat_format::Codec::Zstd
        };
        case("codec", ChunkHeader { codec, ..h });
        for layer in [Layer::Address, Layer::Kernel, Layer::User, Layer::Cache, Layer::Free] {
            case(&format!("layer ({})", layer.name()), ChunkHeader { layer, ..h });
        }
        for kind in [ChunkKind::Log, ChunkKind::Memory, ChunkKind::Swap] {
            case(&format!("kind ({})", kind.name()), ChunkHeader { kind, ..h });
        }
    }
}

/// Cut at each boundary: as it is, and with the dump's end put behind.
fn cuts(b: &Bench, out: &mut Vec<Case>) {
    let all = b.data();
    for (i, (at, h)) in all.iter().enumerate() {
        let lost: Vec<ChunkHeader> = all[i..].iter().map(|(_, h)| *h).collect();
        let bytes = b.made.bytes[..*at].to_vec();
        let name = format!("cut before chunk {}", h.seq);
        out.push(Case { name, bytes, names: Names::Words("without a commit record") });
        let kept: Vec<(&[u8], ChunkHeader)> =
            all[..i].iter().map(|(at, h)| (&b.made.bytes[frame(*at, h)], *h)).collect();
        for chunks in [i as u64, b.made.record.chunks] {
            let name = format!("cut before chunk {}, ended, {chunks} chunks told", h.seq);
            let bytes = assembled(b, &kept, chunks);
            out.push(Case { name, bytes, names: Names::Chunks(lost.clone()) });
        }
    }
    for (len, words) in
        [(b.tail(), "without a commit record"), (b.end(), "without a commit record")]
    {
        let bytes = b.made.bytes[..len].to_vec();
        out.push(Case { name: format!("cut at {len}"), bytes, names: Names::Words(words) });
    }
}

/// Header, key area, commit record and index of another dump, or changed.
fn ends(b: &Bench, out: &mut Vec<Case>) {
    let (bytes, other) = (&b.made.bytes, &b.other.bytes);
    let (tail, end) = (b.tail(), b.end());
    let mut case = |name: &str, words: &'static str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        edit(&mut bytes);
        out.push(Case { name: name.to_owned(), bytes, names: Names::Words(words) });
    };
    let put = |b: &mut Vec<u8>, at: usize, new: &[u8]| b[at..at + new.len()].copy_from_slice(new);
    let h = b.made.header;
    let edits: [(&str, DumpHeader); 7] = [
        ("reason", DumpHeader { reason: text_field("nothing to see"), ..h }),
        ("release", DumpHeader { release: text_field("5.10.0"), ..h }),
        ("time", DumpHeader { created: h.created + 1, ..h }),
        ("number", DumpHeader { number: 9, ..h }),
        ("volume", DumpHeader { volume_id: [9; 16], ..h }),
        ("image", DumpHeader { image: text_field("another"), ..h }),
        ("chunk size", DumpHeader { chunk_pages: h.chunk_pages + 1, ..h }),
    ];
    for (what, new) in edits {
        let block = new.encode();
        case(&format!("first header, other {what}"), "header", &|b| put(b, 0, &block));
        case(&format!("second header, other {what}"), "header", &|b| put(b, tail, &block));
        case(&format!("both headers, other {what}"), "header", &|b| {
            put(b, 0, &block);
            put(b, tail, &block);
        });
    }
    let forged = DumpHeader { key_id: b.other.header.key_id, ..h }.encode();
    case("both headers, another key's id", "key area", &|b| {
        put(b, 0, &forged);
        put(b, tail, &forged);
    });
    let version_1 = DumpHeader { version: 1, key_id: [0; 32], ..h }.encode();
    case("both headers, as of version 1", "header", &|b| {
        put(b, 0, &version_1);
        put(b, tail, &version_1);
    });
    let others_tail = b.other.record.header_copy.0 as usize;
    let (head, keys) = (&other[..BLOCK], &other[BLOCK..HEAD]);
    case("first header of another dump", "another dump", &|b| put(b, 0, head));
    case("second header of another dump", "header", &|b| {
        put(b, tail, &other[others_tail..others_tail + BLOCK]);
    });
    case("first key area of another dump", "keyarea", &|b| put(b, BLOCK, keys));
    case("second key area of another dump", "keyarea", &|b| put(b, tail + BLOCK, keys));
    case("both key areas of another dump", "key area", &|b| {
        put(b, BLOCK, keys);
        put(b, tail + BLOCK, keys);
    });
    let none = golden::key_area(0, &[]);
    case("no keys at all", "key", &|b| {
        put(b, BLOCK, &none);
        put(b, tail + BLOCK, &none);
    });
    commits(b, &mut case);
    // The commit record of the other dump, with this one's id.
    let record = CommitRecord { dump_id: h.dump_id, ..b.other.record }.encode();
    case("commit record of another dump, stamped", "commit record", &|b| put(b, end, &record));
    let as_is = b.other.record.encode();
    case("commit record of another dump", "another dump", &|b| put(b, end, &as_is));
}

type AddCase<'a> = dyn FnMut(&str, &'static str, &dyn Fn(&mut Vec<u8>)) + 'a;

/// The commit record of another time: each of its fields changed.
fn commits(b: &Bench, case: &mut AddCase<'_>) {
    use lifeboat_format::commit::{IoMode, SourceKind};
    let (r, end) = (b.made.record, b.end());
    let mut memory = r.memory;
    memory.unreadable += 1;
    let mut swap = r.swap;
    swap.asked += 1;
    let mut phases = r.phases;
    phases[0].1 += 1;
    for (what, new) in [
        ("outcome", CommitRecord { outcome: lifeboat_format::Outcome::Deadline, ..r }),
        ("source", CommitRecord { source: SourceKind::Vmcore, ..r }),
        ("I/O", CommitRecord { io: IoMode::Uring, ..r }),
        ("part", CommitRecord { last_part: 1, ..r }),
        ("count of chunks", CommitRecord { chunks: r.chunks + 1, ..r }),
        ("index", CommitRecord { index: ByteOff(HEAD as u64), ..r }),
        ("no index", CommitRecord { index: ByteOff(0), ..r }),
        ("time", CommitRecord { committed: r.committed + 1, ..r }),
        ("memory", CommitRecord { memory, ..r }),
        ("swap", CommitRecord { swap, ..r }),
        ("read errors", CommitRecord { read_errors: 0, ..r }),
        ("writes", CommitRecord { writes: 9, ..r }),
        ("phases", CommitRecord { phases, ..r }),
        ("tag", CommitRecord { tag: [7; 16], ..r }),
        ("version", CommitRecord { version: 1, ..r }),
    ] {
        let block = new.encode();
        case(&format!("commit record, other {what}"), "commit", &|b| {
            b[end..].copy_from_slice(&block);
        });
    }
}

/// What a reader with the key says of a dump that is not whole.
struct Told {
    /// Findings and errors, one a line, each finding with its kind in front.
    text: String,
    verdict: Option<Verdict>,
}

/// `None` if it finds nothing wrong.
fn told(bytes: &[u8], id: &Identities) -> Option<Told> {
    let refused = |e: DumpError| Some(Told { text: e.to_string(), verdict: None });
    let file = match DumpFile::open(Arc::new(bytes.to_vec())) {
        Ok(file) => file,
        Err(e) => return refused(e),
    };
    let opener = match file.opener(Some(id)) {
        Ok(opener) => opener,
        Err(e) => return refused(e),
    };
    let v = file.verify(Some(&opener), &|_| {});
    let mut text = String::new();
    for f in &v.findings {
        writeln!(text, "{:?}: {}", f.kind, f.text).unwrap();
    }
    if let Err(e) = file.committed() {
        writeln!(text, "{e}").unwrap();
    }
    (!v.is_sound() || !v.committed).then_some(Told { text, verdict: Some(v) })
}

/// Whether a verdict names what became of chunk `h`, which lay at byte `at`: for pages,
/// each one that only this chunk answers for (`claims`); for texts and index, the chunk.
fn names(v: &Verdict, at: u64, h: &ChunkHeader, claims: &[(u64, u64)]) -> bool {
    if !h.kind.is_pages() {
        return v.findings.iter().any(|f| {
            let here = f.start < at + h.frame_len() && at < f.end;
            // A copy stands behind, with the next number; an index is told of by who names it.
            let numbered = f.chunk.is_some_and(|seq| seq == h.seq || seq == h.seq + 1);
            here || numbered || matches!(f.kind, FindingKind::Commit | FindingKind::Index)
        });
    }
    let device = (h.kind == ChunkKind::Swap).then_some(h.device);
    let told: Vec<(u64, u64)> = v
        .missing
        .iter()
        .filter(|m| m.space == h.kind.name() && m.device == h.device)
        .map(|m| (m.first, m.end))
        .chain(v.findings.iter().filter(|f| f.device == device).filter_map(|f| f.pages))
        .collect();
    claims
        .iter()
        .flat_map(|(first, end)| *first..*end)
        .all(|page| told.iter().any(|(first, end)| (*first..*end).contains(&page)))
}

/// The pages that each chunk of the sound dump answers for, by number.
fn claims(b: &Bench) -> BTreeMap<u64, Vec<(u64, u64)>> {
    let file = DumpFile::open(Arc::new(b.made.bytes.clone())).unwrap();
    let dump = OpenDump::unlock(file, Some(&b.identity)).unwrap();
    let mut decoder = Decoder::new();
    b.data()
        .iter()
        .filter(|(_, h)| h.kind.is_pages())
        .map(|(_, h)| {
            let chunk = dump.read_chunk(&IndexEntry::of(h), &mut decoder).unwrap();
            let own = chunk.pieces().filter(|p| p.class != PageClass::Elsewhere);
            (h.seq, own.map(|p| (p.first.0, p.first.0 + p.pages)).collect())
        })
        .collect()
}

#[test]
fn all_surgery_is_found_and_named() {
    let b = bench();
    assert!(told(&b.made.bytes, &b.identity).is_none());
    assert!(told(&b.other.bytes, &b.identity).is_none());
    let claims = claims(&b);
    let places: BTreeMap<u64, u64> = b.data().iter().map(|(at, h)| (h.seq, *at as u64)).collect();
    let mut cases = Vec::new();
    surgery(&b, &mut cases);
    headers(&b, &mut cases);
    cuts(&b, &mut cases);
    ends(&b, &mut cases);
    let (mut missed, mut unnamed, mut counts) = (Vec::new(), Vec::new(), BTreeMap::new());
    for c in &cases {
        let words =
            c.name.split_whitespace().filter(|w| !w.starts_with(|c: char| c.is_ascii_digit()));
        *counts.entry(words.collect::<Vec<_>>().join(" ")).or_insert(0u32) += 1;
        assert_ne!(c.bytes, b.made.bytes, "{} changes nothing", c.name);
        let Some(told) = told(&c.bytes, &b.identity) else {
            missed.push(c.name.clone());
            continue;
        };
        let named = match (&c.names, &told.verdict) {
            (Names::Words(words), _) => told.text.to_lowercase().contains(words),
            // Without the tables nobody knows what was to be captured, and that is said.
            (Names::Chunks(list), Some(v)) if list.iter().any(|h| h.kind == ChunkKind::Meta) => {
                v.findings.iter().any(|f| f.kind == FindingKind::Meta || f.carries == Some("meta"))
                    && (v.missing_known || v.missing.is_empty())
            }
            (Names::Chunks(list), Some(v)) => list.iter().all(|h| {
                let own = claims.get(&h.seq).map_or(&[][..], |c| &c[..]);
                names(v, places[&h.seq], h, own)
            }),
            (Names::Chunks(_), None) => false,
        };
        if !named {
            let missing = told.verdict.map(|v| v.missing);
            unnamed.push(format!("{}: {:.1500}{missing:?}", c.name, told.text));
        }
    }
    for (class, n) in &counts {
        println!("{n:5}  {class}");
    }
    println!(
        "{} cases of surgery, {} missed, {} not named",
        cases.len(),
        missed.len(),
        unnamed.len()
    );
    assert!(missed.is_empty(), "missed: {missed:#?}");
    assert!(unnamed.is_empty(), "{} not named: {}", unnamed.len(), unnamed.join("\n\n"));
    assert!(cases.len() > 500);
}
