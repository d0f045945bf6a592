//! FORMAT.md's chunks, runs and index against what reads and writes them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

mod common;

use common::{chunk_header, edited, le16, le32, le64};
use lifeboat_format::chunk::{self, MAX_CHUNK_PAGES, MAX_RAW, MAX_RUNS, MAX_STORED, PagePayload};
use lifeboat_format::*;

const LAYERS: [Layer; 5] = [Layer::Address, Layer::Kernel, Layer::User, Layer::Cache, Layer::Free];
const KINDS: [ChunkKind; 7] = [
    ChunkKind::Log,
    ChunkKind::Notes,
    ChunkKind::Meta,
    ChunkKind::Memory,
    ChunkKind::Swap,
    ChunkKind::Trailer,
    ChunkKind::Index,
];

#[test]
fn chunk_header_lies_as_documented() {
    let b = chunk_header().encode();
    assert_eq!((&b[..8], &b[8..24], le64(&b, 24)), (&b"LBCHUNK\x01"[..], &[1; 16][..], 5));
    assert_eq!((&b[32..36], le16(&b, 36)), (&[4, 1, 1, 3][..], 0));
    assert_eq!((le64(&b, 40), le64(&b, 48), le32(&b, 56), le32(&b, 60)), (0x100, 3, 8204, 600));
    assert_eq!((le64(&b, 64), le32(&b, 72), le32(&b, 76)), (16384, 2, 1));
    assert_eq!((le32(&b, 80), le32(&b, 92)), (0xdead_beef, crc32(&b[..92])));
    assert_eq!(chunk_header().aad(), b[..80]);
    assert_eq!(ChunkHeader::decode(&b).unwrap(), chunk_header());
    assert_eq!(chunk_header().frame_len(), 1024);
    assert_eq!((MAX_RAW, MAX_STORED), (4_227_076, 4_261_124));
    for bit in 0..96 * 8 {
        let mut f = b;
        f[bit / 8] ^= 1 << (bit % 8);
        assert!(ChunkHeader::decode(&f).is_err(), "bit {bit}");
    }
}

/// Memory has layers, everything else has layer 0; in headers and in the index.
#[test]
fn layers_are_of_memory_only() {
    for kind in KINDS {
        for (number, layer) in LAYERS.into_iter().enumerate() {
            let h = ChunkHeader { kind, layer, ..chunk_header() };
            let b = h.encode();
            assert_eq!((b[32], b[35]), (kind as u8, number as u8));
            let entry = IndexEntry::of(&h);
            let fits = kind == ChunkKind::Memory || layer == Layer::Address;
            assert_eq!(ChunkHeader::decode(&b).ok(), fits.then_some(h), "{kind:?} {layer:?}");
            let read = IndexEntry::decode(&entry.encode()).ok();
            assert_eq!(read, fits.then_some(entry), "{kind:?} {layer:?}");
        }
    }
    let unknown = edited(&chunk_header().encode(), 35, &[5]);
    let e = ChunkHeader::decode(&unknown).unwrap_err();
    assert_eq!(e, FormatError::Field { what: "chunk", field: "layer", value: 5 });
}

#[test]
fn a_chunk_that_cannot_be_is_refused() {
    let b = chunk_header().encode();
    for (at, new) in [
        (32, vec![0]),
        (32, vec![8]),
        (33, vec![3]),
        (34, vec![2]),
        (38, vec![1]),
        (39, vec![1]),
        (84, vec![1]),
        (91, vec![1]),
        (56, (MAX_RAW as u32 + 1).to_le_bytes().to_vec()),
        (60, (MAX_STORED as u32 + 1).to_le_bytes().to_vec()),
        (60, 15u32.to_le_bytes().to_vec()),
        (64, 16385u64.to_le_bytes().to_vec()),
        (72, 4u32.to_le_bytes().to_vec()),
        (40, (1u64 << 52).to_le_bytes().to_vec()),
        (48, u64::MAX.to_le_bytes().to_vec()),
    ] {
        assert!(ChunkHeader::decode(&edited(&b, at, &new)).is_err(), "{at}: {new:?}");
    }
    let many = ChunkHeader { pages: 1 << 20, data_pages: MAX_CHUNK_PAGES + 1, ..chunk_header() };
    assert!(ChunkHeader::decode(&many.encode()).is_err());
    assert!(ChunkHeader::decode(&b[..95]).is_err());
}

fn payload(runs: &[(u64, u64)], data: usize) -> Vec<u8> {
    let mut plain = (runs.len() as u32).to_le_bytes().to_vec();
    plain.extend(runs.iter().flat_map(|(class, n)| ((class << 56) | n).to_le_bytes()));
    plain.resize(plain.len() + data, 7);
    plain
}

#[test]
fn runs_lie_as_documented() {
    let classes = [
        PageClass::Data,
        PageClass::Zero,
        PageClass::Unreadable,
        PageClass::Excluded,
        PageClass::Elsewhere,
    ];
    let behind = 77u64.to_le_bytes();
    for (number, class) in classes.into_iter().enumerate() {
        let run = Run { class, count: 0x0012_3456_789a_bcde };
        assert_eq!(run.encode(), (((number as u64) << 56) | run.count).to_le_bytes());
        assert_eq!(Run::decode(&[run.encode(), behind]), Ok((run, &[behind][..])));
        assert!(Run::decode(&[((number as u64) << 56).to_le_bytes()]).is_err(), "no pages");
    }
    assert!(Run::decode(&[]).is_err());
    assert!(Run::decode(&[((7u64 << 56) | 1).to_le_bytes(), behind]).is_err());
}

#[test]
fn runs_with_a_word_take_two_entries() {
    let behind = 77u64.to_le_bytes();
    for class in [PageClass::Fill(0x1122_3344_5566_7788), PageClass::Same(Pfn(0x1234))] {
        let run = Run { class, count: 9 };
        let entries = [run.encode(), class.word().unwrap().to_le_bytes(), behind];
        assert_eq!(class.entries(), 2);
        assert_eq!(run.encode()[7], class.number());
        assert_eq!(Run::decode(&entries), Ok((run, &[behind][..])));
        assert!(Run::decode(&entries[..1]).is_err(), "the table ends before the word");
    }
    let entries = |number: u64, count: u64, word: u64| {
        [((number << 56) | count).to_le_bytes(), word.to_le_bytes()]
    };
    assert!(Run::decode(&entries(5, 1, 0)).is_err(), "a fill of zeros is class zero");
    assert!(Run::decode(&entries(6, 2, (1 << 52) - 2)).is_ok());
    assert!(Run::decode(&entries(6, 3, (1 << 52) - 2)).is_err(), "behind all memory");
    assert!(Run::decode(&entries(6, 1, u64::MAX)).is_err());
    assert_eq!(PageClass::Same(Pfn(5)).ahead(3), PageClass::Same(Pfn(8)));
    assert_eq!(PageClass::Fill(5).ahead(3), PageClass::Fill(5));
}

#[test]
fn page_payload_must_add_up() {
    let h = chunk_header();
    let plain = payload(&[(0, 2), (2, 1)], 8192);
    let parsed = PagePayload::parse(&plain, &h).unwrap();
    assert_eq!((parsed.runs().count(), parsed.data().len()), (2, 8192));
    let wrong = |h: ChunkHeader| PagePayload::parse(&plain, &h).is_err();
    assert!(wrong(ChunkHeader { pages: 4, ..h }));
    assert!(wrong(ChunkHeader { data_pages: 1, ..h }));
    let most = (1 << 56) - 1;
    for (runs, data) in [
        (&[(0, 2), (2, 1)][..], 8191),
        (&[(0, 2), (2, 1)], 8193),
        (&[(0, 2), (2, 2)], 8192),
        (&[(0, 2)], 8192),
        (&[(0, most), (1, most)], 8192),
        (&[(0, most); 256], 8192),
        (&[(0, 2), (5, 1)], 8192),
        (&[(0, 2), (1, 0)], 8192),
        (&[], 8192),
    ] {
        assert!(PagePayload::parse(&payload(runs, data), &h).is_err(), "{runs:?} {data}");
    }
    let many = ChunkHeader { pages: MAX_RUNS as u64 + 1, data_pages: 0, ..h };
    assert!(PagePayload::parse(&payload(&vec![(1, 1); MAX_RUNS + 1], 0), &many).is_err());
    let most = ChunkHeader { pages: MAX_RUNS as u64, ..many };
    assert!(PagePayload::parse(&payload(&vec![(1, 1); MAX_RUNS], 0), &most).is_ok());
}

/// A chunk in order of address covers its pages alone: nothing of it is elsewhere.
#[test]
fn elsewhere_is_of_layers_only() {
    let plain = payload(&[(0, 2), (4, 1)], 8192);
    for layer in LAYERS {
        let parsed = PagePayload::parse(&plain, &ChunkHeader { layer, ..chunk_header() });
        assert_eq!(parsed.is_ok(), layer != Layer::Address, "{layer:?}");
    }
    let swap = ChunkHeader { kind: ChunkKind::Swap, layer: Layer::Address, ..chunk_header() };
    assert!(PagePayload::parse(&plain, &swap).is_err());
}

#[test]
fn index_lies_as_documented() {
    let h = chunk_header();
    let entry = IndexEntry::of(&ChunkHeader {
        device: 0x0304,
        kind: ChunkKind::Swap,
        layer: Layer::Address,
        ..h
    });
    let b = entry.encode();
    assert_eq!((le64(&b, 0), le64(&b, 8), le64(&b, 16), le32(&b, 24)), (16384, 0x100, 3, 600));
    assert_eq!((b[28], b[29], le16(&b, 30)), (5, 0, 0x0304));
    assert_eq!(IndexEntry::decode(&b), Ok(entry));
    let memory = IndexEntry::of(&h).encode();
    assert_eq!((memory[28], memory[29]), (4, 3));
    for (at, new) in [(28, 0), (28, 8), (29, 5), (0, 1)] {
        let mut hurt = memory;
        hurt[at] = new;
        assert!(IndexEntry::decode(&hurt).is_err(), "{at}");
    }
    for (first, pages, good) in
        [((1 << 52) - 3, 3, true), ((1 << 52) - 2, 3, false), (2, u64::MAX, false)]
    {
        let far = IndexEntry { first: Pfn(first), pages, ..entry };
        assert_eq!(IndexEntry::decode(&far.encode()).is_ok(), good, "{first} and {pages} more");
    }
    let head = IndexHead { prev: ByteOff(512), first_seq: 9, count: 2 };
    let mut payload = head.encode().to_vec();
    assert_eq!((le64(&payload, 0), le64(&payload, 8)), (512, 9));
    assert_eq!((le32(&payload, 16), le32(&payload, 20), payload.len()), (2, 0, 24));
    payload.extend(b);
    payload.extend(memory);
    let (read, entries) = IndexHead::decode(&payload).unwrap();
    assert_eq!((read, entries), (head, &[b, memory][..]));
    assert!(IndexHead::decode(&payload[..87]).is_err());
    for (at, new) in [(16, 1), (16, 3), (19, 1), (20, 1)] {
        let mut hurt = payload.clone();
        hurt[at] = new;
        assert!(IndexHead::decode(&hurt).is_err(), "{at}");
    }
    let most = IndexHead { count: chunk::MAX_INDEX_ENTRIES as u32 + 1, ..head };
    let mut long = most.encode().to_vec();
    long.resize(24 + 32 * (chunk::MAX_INDEX_ENTRIES + 1), 0);
    assert!(IndexHead::decode(&long).is_err());
}
