//! Partition tables made by `sgdisk`, MSDOS ones as sfdisk writes them, and broken ones.

use super::*;
use crate::mbr::MAX_LOGICAL;
use proptest::prelude::*;
use std::process::{Command, Stdio};

fn tool(name: &str, args: &[&str], stdin: &str) {
    use std::io::Write as _;
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap());
    let mut child = Command::new(name)
        .args(args)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
}

const MIB: u64 = 1 << 20;

/// An image of 16 MiB with a swap partition and a dump partition.
pub(crate) fn gpt_image() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(16 * MIB).unwrap();
    let path = file.path().to_str().unwrap();
    let args = [
        "-n1:2048:+4M",
        "-t1:8200",
        "-c1:swap",
        "-u1:11111111-2222-3333-4444-555555555555",
        "-n3:10M:+2M",
        "-t3:8300",
        "-c3:Rettung\u{df}boot \u{1f6a4}",
        "-u3:AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE",
        "-U",
        "DDDDDDDD-0000-1111-2222-333333333333",
        path,
    ];
    tool("sgdisk", &args, "");
    std::fs::read(path).unwrap()
}

/// The same table as for a disk of 4096-byte blocks, made from the entries of the first.
fn moved_to_4k(image: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; image.len()];
    out[..512].copy_from_slice(&image[..512]);
    out[4096..4608].copy_from_slice(&image[512..1024]);
    let mut entries = image[1024..1024 + 16384].to_vec();
    for e in entries.chunks_mut(128) {
        for at in [32, 40] {
            let lba = u64::from_le_bytes(e[at..at + 8].try_into().unwrap());
            let lba = if at == 32 { lba / 8 } else { (lba + 1) / 8 };
            let lba = if at == 40 { lba.saturating_sub(1) } else { lba };
            e[at..at + 8].copy_from_slice(&lba.to_le_bytes());
        }
    }
    out[8192..8192 + 16384].copy_from_slice(&entries);
    reseal(&mut out, 4096, &crc32(&entries).to_le_bytes());
    out
}

fn reseal(image: &mut [u8], at: usize, entries_crc: &[u8]) {
    image[at + 88..at + 92].copy_from_slice(entries_crc);
    image[at + 16..at + 20].fill(0);
    let crc = crc32(&image[at..at + 92]).to_le_bytes();
    image[at + 16..at + 20].copy_from_slice(&crc);
}

pub(crate) fn parse_image(image: &[u8], block: Option<u32>) -> Result<Option<Table>, TableError> {
    let mut read = |at: u64, buf: &mut [u8]| {
        let at = usize::try_from(at).unwrap();
        let from = image.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    };
    parse(&mut read, image.len() as u64, block)
}

fn check(table: &Table) {
    let [swap, dump] = &table.partitions[..] else { panic!("{table:?}") };
    assert_eq!(table.disk, "dddddddd-0000-1111-2222-333333333333");
    assert_eq!((swap.number, swap.start, swap.len), (1, MIB, 4 * MIB));
    assert_eq!(swap.label, "swap");
    assert_eq!(swap.type_id, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f");
    assert_eq!(swap.uuid, "11111111-2222-3333-4444-555555555555");
    assert_eq!((dump.number, dump.start, dump.len), (3, 10 * MIB, 2 * MIB));
    assert_eq!(dump.label, "Rettung\u{df}boot \u{1f6a4}");
    assert_eq!(dump.uuid, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
}

#[test]
fn reads_what_sgdisk_wrote_and_falls_back_to_the_backup() {
    let good = gpt_image();
    for block in [None, Some(512)] {
        let table = parse_image(&good, block).unwrap().unwrap();
        assert_eq!((table.kind, table.block), (TableKind::Gpt, 512));
        check(&table);
    }
    for (at, what) in [(512, "signature"), (600, "header"), (1024 + 60, "entries")] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let table = parse_image(&bad, None).unwrap().unwrap();
        assert_eq!(table.kind, TableKind::GptBackup, "{what}");
        check(&table);
    }
    let mut both = good.clone();
    both[512 + 30] ^= 1;
    let last = both.len() - 512;
    both[last] ^= 1;
    match parse_image(&both, None) {
        Err(TableError::Damaged { primary, backup }) => {
            assert_eq!(primary, "checksum of the header");
            assert_eq!(backup, "no signature");
        }
        other => panic!("{other:?}"),
    }
    // Without the protective record it is no GPT, for the kernel neither.
    let mut plain = good.clone();
    plain[446 + 4] = 0;
    plain[446 + 12..446 + 16].fill(0);
    assert_eq!(parse_image(&plain, None).unwrap().unwrap().partitions, []);
    assert_eq!(parse_image(&vec![0; 8192], None).unwrap(), None);
    assert!(parse_image(&good, Some(520)).is_err());
}

#[test]
fn reads_4096_byte_blocks() {
    let image = moved_to_4k(&gpt_image());
    for block in [None, Some(4096)] {
        let table = parse_image(&image, block).unwrap().unwrap();
        assert_eq!((table.kind, table.block), (TableKind::Gpt, 4096));
        check(&table);
    }
    assert!(parse_image(&image, Some(512)).is_err());
}

#[test]
fn sizes_in_a_sealed_header_are_not_believed() {
    let good = gpt_image();
    for (at, value, why) in [
        (80usize, u32::MAX, "number of entries"),
        (84, 96, "size of an entry"),
        (84, 1 << 20, "size of an entry"),
        (72 + 4, u32::MAX, "place of the entries"),
        (24, 7, "header is for another place"),
        (12, 91, "header size"),
        (12, u32::MAX, "header size"),
    ] {
        let mut bad = good.clone();
        bad[512 + at..516 + at].copy_from_slice(&value.to_le_bytes());
        let crc = bad[512 + 88..512 + 92].to_vec();
        reseal(&mut bad, 512, &crc);
        let last = bad.len() - 512;
        bad[last] = 0;
        match parse_image(&bad, Some(512)) {
            Err(TableError::Damaged { primary, .. }) => assert_eq!(primary, why),
            other => panic!("{other:?}"),
        }
    }
}

/// Type, start and length of an entry in a boot record.
type Raw = (u8, u32, u32);

/// An image with boot records at these sectors.
fn msdos_image(len: usize, records: &[(usize, &[Raw])]) -> Vec<u8> {
    let mut image = vec![0u8; len];
    for (sector, entries) in records {
        let record = &mut image[sector * 512..(sector + 1) * 512];
        record[440..444].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
        record[510..].copy_from_slice(&[0x55, 0xaa]);
        for (raw, (kind, start, len)) in record[446..510].chunks_mut(16).zip(*entries) {
            raw[4] = *kind;
            raw[8..12].copy_from_slice(&start.to_le_bytes());
            raw[12..].copy_from_slice(&len.to_le_bytes());
        }
    }
    image
}

#[test]
fn reads_msdos_with_logical_partitions() {
    // These are the entries that sfdisk 2.38 writes for partitions at sectors 2048,
    // 6144, 10240 and 14336, the last two of them logical.
    let image = msdos_image(
        16 << 20,
        &[
            (0, &[(0x83, 2048, 2048), (0x82, 6144, 2048), (0x05, 8192, 16384)]),
            (8192, &[(0x82, 2048, 2048), (0x05, 4096, 6144)]),
            (12288, &[(0x83, 2048, 4096)]),
        ],
    );
    let table = parse_image(&image, None).unwrap().unwrap();
    assert_eq!((table.kind, &*table.disk), (TableKind::Msdos, "deadbeef"));
    let found: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.number, p.start / 512, p.len / 512, &*p.type_id, &*p.uuid))
        .collect();
    assert_eq!(
        found,
        [
            (1, 2048, 2048, "0x83", "deadbeef-01"),
            (2, 6144, 2048, "0x82", "deadbeef-02"),
            (5, 10240, 2048, "0x82", "deadbeef-05"),
            (6, 14336, 4096, "0x83", "deadbeef-06"),
        ]
    );
}

#[test]
fn a_chain_of_logical_partitions_that_bites_its_tail_ends() {
    let image =
        msdos_image(1 << 20, &[(0, &[(5, 100, 1000)]), (100, &[(0x82, 10, 20), (5, 0, 1000)])]);
    let table = parse_image(&image, None).unwrap().unwrap();
    assert_eq!(table.partitions.len(), MAX_LOGICAL as usize);
}

proptest! {
    #[test]
    fn hostile_disks_never_panic(edits in proptest::collection::vec((0usize..2048, any::<u8>()), 1..60),
                                 seal in any::<bool>(), block in prop_oneof![Just(None), Just(Some(512u32))]) {
        // A small GPT by hand, so that a case takes no process.
        let mut image = vec![0u8; 64 << 10];
        image[446 + 4] = 0xee;
        image[446 + 8] = 1;
        image[446 + 12] = 100;
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        image[512..520].copy_from_slice(b"EFI PART");
        image[524] = 92;
        image[536] = 1;
        image[512 + 72] = 2;
        image[512 + 80] = 4;
        image[512 + 84] = 128;
        for i in 0..4 {
            image[1024 + i * 128] = 1;
            image[1024 + i * 128 + 32] = u8::try_from(10 + i).unwrap();
            image[1024 + i * 128 + 40] = u8::try_from(20 + i).unwrap();
        }
        for (at, v) in edits {
            image[at] = v;
        }
        if seal {
            let crc = crc32(&image[1024..1024 + 512]).to_le_bytes();
            reseal(&mut image, 512, &crc);
        }
        if let Ok(Some(table)) = parse_image(&image, block) {
            for p in table.partitions {
                prop_assert!(p.len > 0 && p.start + p.len <= image.len() as u64);
            }
        }
    }
}
