//! Streams put together by hand after `Documentation/staging/lzo.rst`, one instruction each;
//! whole pages as compressors wrote them are in `codec_tests.rs`.

#![allow(clippy::cast_possible_truncation, reason = "patterns are of bytes")]

use super::*;
use proptest::prelude::*;

const END: [u8; 3] = [0x11, 0, 0];

fn stream(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = parts.concat();
    all.extend_from_slice(&END);
    all
}

fn unpack(input: &[u8]) -> Result<Vec<u8>, LzoError> {
    let mut out = vec![0xee; 1 << 17];
    let len = decompress(input, &mut out)?;
    assert!(out[len..].iter().all(|b| *b == 0xee), "wrote past its length");
    out.truncate(len);
    Ok(out)
}

#[test]
fn literals_of_every_length() {
    assert_eq!(unpack(&stream(&[&[18, b'a']])).unwrap(), b"a");
    assert_eq!(unpack(&stream(&[&[21], b"abcd"])).unwrap(), b"abcd");
    let long: Vec<u8> = (0..238).collect();
    assert_eq!(unpack(&stream(&[&[255], &long])).unwrap(), long);
    // A run by its own instruction: 3 + n, and 18 + 255 a zero byte + the last byte.
    assert_eq!(unpack(&stream(&[&[2], b"abcde"])).unwrap(), b"abcde");
    let run: Vec<u8> = (0..18 + 255 * 2 + 7).map(|i| (i % 251) as u8).collect();
    assert_eq!(unpack(&stream(&[&[0, 0, 0, 7], &run])).unwrap(), run);
}

#[test]
fn matches_of_every_kind() {
    // 3 to 8 bytes within 2 KiB: length 3 + L, distance (H << 3) + D + 1, then S literals.
    let short = unpack(&stream(&[&[22], b"abcde", &[0b0101_0001, 0, b'!']]));
    assert_eq!(short.unwrap(), b"abcdeabc!");
    let eight = unpack(&stream(&[&[22], b"abcde", &[0b1111_0000, 0]]));
    assert_eq!(eight.unwrap(), b"abcdeabcdeabc");
    // The same by the instruction for 16 KiB, whose length may go on: 2 + 31 + 255 + 9.
    let far = unpack(&stream(&[&[22], b"abcde", &[0x20, 0, 9, 4 << 2, 0]])).unwrap();
    let want: Vec<u8> = b"abcde".iter().copied().cycle().take(5 + 2 + 31 + 255 + 9).collect();
    assert_eq!(far, want);
    // After a few literals: two bytes within 1 KiB; after a run: three bytes beyond 2 KiB.
    assert_eq!(unpack(&stream(&[&[20], b"abc", &[0b0000_1000, 0]])).unwrap(), b"abcab");
    let run: Vec<u8> = (0..3000).map(|i| (i % 241) as u8).collect();
    let zeros = vec![0; (3000 - 18) / 255];
    let rest = ((3000 - 18) % 255) as u8;
    let packed = stream(&[&[0], &zeros, &[rest], &run, &[0b0000_0100, 3]]);
    let mut want = run.clone();
    let from = 3000 - (2049 + 1 + (3 << 2));
    want.extend_from_slice(&run[from..from + 3]);
    assert_eq!(unpack(&packed).unwrap(), want);
}

#[test]
fn matches_beyond_16_kib() {
    let run: Vec<u8> = (0..40000u32).map(|i| (i * 7 % 253) as u8).collect();
    let zeros = vec![0; (40000 - 18) / 255];
    let rest = ((40000 - 18) % 255) as u8;
    for (h, d) in [(0usize, 5usize), (1, 900), (0, 0x3fff)] {
        let word = u16::try_from(d << 2).unwrap().to_le_bytes();
        let op = 0x10 | (h << 3) as u8 | 6;
        let packed = stream(&[&[0], &zeros, &[rest], &run, &[op], &word]);
        let from = 40000 - (0x4000 + (h << 14) + d);
        let mut want = run.clone();
        want.extend_from_slice(&run[from..from + 8]);
        assert_eq!(unpack(&packed).unwrap(), want, "{h} {d}");
    }
}

#[test]
fn runs_of_zeros_are_of_version_1_only() {
    // X = 2, L = 5: ((2 << 3) | 5) + 4 zeros, then one literal.
    let run = [0x18 | 5, 0xfd, 0xff, 2, b'z'];
    let mut want = b"abcd".to_vec();
    want.extend_from_slice(&[0; 25]);
    want.push(b'z');
    assert_eq!(unpack(&stream(&[&[17, 1, 21], b"abcd", &run])).unwrap(), want);
    // In version 0 the same bytes are a match, further back than anything there is.
    let old = unpack(&stream(&[&[21], b"abcd", &run]));
    assert_eq!(old.unwrap_err(), LzoError::LookBehind);
    assert_eq!(unpack(&stream(&[&[17, 0, 21], b"abcd", &run])).unwrap_err(), LzoError::LookBehind);
    assert_eq!(unpack(&stream(&[&[17, 2, 21], b"abcd"])).unwrap_err(), LzoError::Version(2));
}

#[test]
fn damage_is_told_by_its_kind() {
    assert_eq!(unpack(&[]).unwrap_err(), LzoError::InputOverrun);
    assert_eq!(unpack(&[21, b'a']).unwrap_err(), LzoError::InputOverrun);
    assert_eq!(unpack(&[21, b'a', b'b', b'c', b'd']).unwrap_err(), LzoError::InputOverrun);
    assert_eq!(unpack(&[21, b'a', b'b', b'c', b'd', 0x12, 0, 0]).unwrap_err(), LzoError::BadEnd);
    let mut more = stream(&[&[21], b"abcd"]);
    more.push(0);
    assert_eq!(unpack(&more).unwrap_err(), LzoError::NotConsumed);
    assert_eq!(
        unpack(&stream(&[&[21], b"abcd", &[0b0101_0000, 0]])).unwrap_err(),
        LzoError::LookBehind
    );
    let mut small = [0; 3];
    assert_eq!(decompress(&stream(&[&[21], b"abcd"]), &mut small), Err(LzoError::OutputOverrun));
    // A length that outgrows the page many times over.
    let mut page = [0; 4096];
    let bomb = [&[21][..], b"abcd", &[0x20], &[0; 4000], &[1, 0, 0]].concat();
    assert_eq!(decompress(&bomb, &mut page), Err(LzoError::OutputOverrun));
}

proptest! {
    #[test]
    fn hostile_streams_never_panic(input in proptest::collection::vec(any::<u8>(), 0..600),
                                   room in 0usize..5000) {
        let mut out = vec![0; room];
        if let Ok(len) = decompress(&input, &mut out) {
            prop_assert!(len <= room);
        }
    }
}
