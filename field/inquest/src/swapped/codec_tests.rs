#![allow(clippy::cast_possible_truncation, reason = "patterns are of bytes")]

use super::*;

/// A page that compresses as memory does: words, pointers, text and zeros.
fn page() -> [u8; PAGE] {
    let mut page = [0; PAGE];
    for (n, chunk) in page.chunks_exact_mut(16).enumerate().filter(|(n, _)| n % 5 != 0) {
        chunk[..8].copy_from_slice(&(0xffff_8880_0000_0000 + n as u64 * 0x1c0).to_le_bytes());
        chunk[8..].copy_from_slice(if n % 3 == 0 { b"lifeboat" } else { b"\0\0\0\0\x01\0\0\0" });
    }
    page
}

#[test]
fn names_of_the_kernel_and_of_its_drivers() {
    let known = [
        ("lzo", Codec::Lzo),
        ("lzo-rle", Codec::Lzo),
        ("lzo-generic", Codec::Lzo),
        ("lzo-rle-scomp", Codec::Lzo),
        ("lz4", Codec::Lz4),
        ("lz4hc", Codec::Lz4),
        ("zstd", Codec::Zstd),
        ("zstd-scomp", Codec::Zstd),
    ];
    for (name, codec) in known {
        assert_eq!(Codec::by_name(name), Some(codec), "{name}");
    }
    for name in ["deflate", "842", "", "lzo2", "zstd-other"] {
        assert_eq!(Codec::by_name(name), None, "{name}");
    }
}

#[test]
fn a_page_of_lz4_and_of_zstd() {
    let page = page();
    let mut out = [1; PAGE];
    let packed = lz4_flex::block::compress(&page);
    assert!(packed.len() < PAGE / 2);
    Codec::Lz4.decompress(&packed, &mut out).unwrap();
    assert_eq!(out, page);
    let packed = zstd::bulk::compress(&page, 3).unwrap();
    for _ in 0..2 {
        out.fill(1);
        Codec::Zstd.decompress(&packed, &mut out).unwrap();
        assert_eq!(out, page);
    }
}

#[test]
fn less_or_more_than_a_page_is_damage() {
    let mut out = [0; PAGE];
    for len in [PAGE - 1, PAGE + 1] {
        let raw = vec![7; len];
        let lz4 = lz4_flex::block::compress(&raw);
        assert!(Codec::Lz4.decompress(&lz4, &mut out).is_err(), "{len}");
        let zstd = zstd::bulk::compress(&raw, 1).unwrap();
        assert!(Codec::Zstd.decompress(&zstd, &mut out).is_err(), "{len}");
    }
    // "abcd" and the end.
    let lzo = [21, b'a', b'b', b'c', b'd', 0x11, 0, 0];
    assert_eq!(Codec::Lzo.decompress(&lzo, &mut out), Err(CodecError::Short(4)));
    for codec in [Codec::Lzo, Codec::Lz4, Codec::Zstd] {
        assert!(codec.decompress(&[], &mut out).is_err(), "{codec:?}");
    }
}

/// The pages of the golden blocks, by the formulas of the program that made them.
fn golden_page(kind: u8) -> [u8; PAGE] {
    let mut state = 0x9e37_79b9_7f4a_7c15u64 + u64::from(kind);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut page = [0; PAGE];
    match kind {
        0 => {
            let text = b"the lifeboat is launched when the kernel sinks; ";
            page.iter_mut().zip(text.iter().cycle()).for_each(|(to, from)| *to = *from);
            (0..PAGE).step_by(97).for_each(|i| page[i] = (i / 97) as u8);
        }
        1 => {
            for word in page.chunks_exact_mut(8).step_by(5) {
                let pointer = 0xffff_8880_0000_0000 + (next() & 0xff_ffc0);
                word.copy_from_slice(&pointer.to_le_bytes());
            }
        }
        2 | 3 => {
            let words = if kind == 2 { PAGE / 8 } else { PAGE / 16 };
            for word in page.chunks_exact_mut(8).take(words) {
                word.copy_from_slice(&next().to_le_bytes());
            }
        }
        4 => page[PAGE - 1] = 1,
        5 => (0..PAGE).for_each(|i| page[i] = (i % 37 * 7) as u8),
        6 => page.iter_mut().for_each(|b| *b = (next() & 3) as u8),
        7 => {
            let mut at = 0;
            while at < PAGE {
                let run = (next() % 300) as usize;
                let byte = next() as u8;
                let byte = if next() & 1 == 1 { 0 } else { byte };
                let end = (at + run).min(PAGE);
                page[at..end].fill(byte);
                at = end;
                let end = (at + usize::from(byte & 7)).min(PAGE);
                page[at..end].iter_mut().for_each(|b| *b = next() as u8);
                at = end;
            }
        }
        8 => {
            page.iter_mut().for_each(|b| *b = next() as u8);
            page.copy_within(100..1000, 3000);
            page.copy_within(50..90, 2200);
        }
        // Memory of a process: a page of its data, and one of its stack.
        _ => {
            let raw = include_bytes!("golden/memory.bin");
            let from = usize::from(kind - 9) * PAGE;
            page.copy_from_slice(&raw[from..from + PAGE]);
        }
    }
    page
}

/// Blocks that the kernel's own compressor wrote: `lzo1x_1_compress()` and
/// `lzorle1x_1_compress()` of Debian's linux-source-6.12 (6.12.117), compiled for x86-64 as a
/// program of user space. Each has its kind of page, 0 for lzo or 1 for lzo-rle, and its
/// length before it.
#[test]
fn blocks_of_the_kernels_own_compressor() {
    let mut rest = include_bytes!("golden/lzo.bin").as_slice();
    let (mut seen, mut with_runs) = (0, 0);
    while let [kind, rle, l0, l1, more @ ..] = rest {
        let (packed, after) = more.split_at(usize::from(u16::from_le_bytes([*l0, *l1])));
        let mut out = [0xee; PAGE];
        Codec::Lzo.decompress(packed, &mut out).unwrap();
        assert!(out == golden_page(*kind), "kind {kind}, rle {rle}");
        // Cut short or longer by a byte, it is damage.
        let longer = [packed, &[0]].concat();
        for wrong in [&packed[..packed.len() - 1], &longer] {
            assert!(Codec::Lzo.decompress(wrong, &mut out).is_err(), "kind {kind}, rle {rle}");
        }
        with_runs += usize::from(packed.starts_with(&[17, 1]));
        (seen, rest) = (seen + 1, after);
    }
    assert_eq!((seen, with_runs), (22, 11));
}
