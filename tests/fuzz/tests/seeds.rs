//! The kept dumps are real ones: taken by the engine, cipher and sink, brought into the
//! short form of [`lifeboat_fuzz::script`], and sound when put together again.
//!
//! `LIFEBOAT_WRITE_SEEDS=1 cargo nextest run -p lifeboat-fuzz --test seeds` writes them,
//! and seeds of the other targets, into `corpus/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

use std::path::Path;
use std::process::Command;

use lifeboat_crypt::{fingerprint, wrap};
use lifeboat_field::dump::{Page, PageSource};
use lifeboat_format::bootcfg::{BootConfig, Selector};
use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::{
    BLOCK, ByteOff, Codec, KeyArea, KeyEntry, KeyKind, PAGE, PageRange, Pfn, SlotRecord, SlotState,
    Superblock, text_field,
};
use lifeboat_fuzz::script::{self, IDENTITY, RECIPIENT};

#[path = "../../../field/tests/support/mod.rs"]
mod support;
use support::{Machine, Setup, Taken};
#[path = "../../../capturer/sources/tests/machine/btf.rs"]
mod tables;
use tables::{CONST, PTR, STRUCT, Symbols, TYPEDEF, Types, UNION};

/// A machine of few pages: every fifth has text, some cannot be read, the rest is zero.
struct Small;

impl Machine for Small {
    fn page(&self, device: Option<u16>, page: u64, out: &mut [u8]) -> bool {
        out.fill(0);
        if page.is_multiple_of(5) {
            let word = format!("page {page} of {device:?}, ");
            for (to, from) in out.iter_mut().zip(word.bytes().cycle()) {
                *to = from;
            }
        }
        page % 7 != 3
    }
}

/// Pages of one word, and few others that come again and again.
struct Copies;

impl Machine for Copies {
    fn page(&self, _: Option<u16>, page: u64, out: &mut [u8]) -> bool {
        let word = (page % 3 + 1).to_le_bytes();
        for (n, (to, from)) in out.iter_mut().zip(word.iter().cycle()).enumerate() {
            // Every other page has something more.
            *to = if page.is_multiple_of(2) && n == 100 { 7 } else { *from };
        }
        page % 7 != 3
    }
}

/// A dump in short form, and the script made of it.
fn seed(setup: &Setup<'_>) -> (Taken, Vec<u8>) {
    let mut taken = support::take(setup);
    let mut keys = [0u8; KEY_AREA_LEN];
    if setup.encrypt {
        // The key is a constant; who may unwrap it is not. Make it the corpus's identity.
        let wrapped = wrap(&script::data_key(), &[RECIPIENT]).unwrap();
        let fingerprints = &[fingerprint(RECIPIENT)];
        let entry = KeyEntry { kind: KeyKind::Data, fingerprints, wrapped: &wrapped };
        KeyArea::encode(&mut keys, 0, &[entry]).unwrap();
        let second = usize::try_from(taken.record.header_copy.0).unwrap();
        for at in [BLOCK, second + BLOCK] {
            taken.bytes[at..at + KEY_AREA_LEN].copy_from_slice(&keys);
        }
        taken.identity = Some(lifeboat_crypt::Identities::parse(IDENTITY).unwrap());
    }
    let script = script::disassemble(&taken.bytes).expect("a sound and small dump");
    (taken, script)
}

fn small(encrypt: bool, level: Option<i32>) -> Setup<'static> {
    let ranges = vec![
        PageRange::new(1, 9),
        PageRange::new(0x100, 0x110),
        PageRange::new(1 << 20, (1 << 20) + 4),
    ];
    let loads: Vec<_> = ranges
        .iter()
        .map(|r| (r.start.0 * 4096, r.pages() * 4096, 0xffff_8880_0000_0000 + r.start.0 * 4096))
        .collect();
    Setup {
        ranges,
        elfcorehdr: support::elfcorehdr(&loads),
        swap: vec![5 * 4096, 4096 + 512],
        log: b"[    1.000000] a line of the log\n".repeat(8),
        encrypt,
        level,
        workers: 1,
        chunk_pages: 2,
        ..support::standard(&Small)
    }
}

#[test]
fn a_real_dump_survives_its_short_form() {
    let cases = [
        ("clear", false, Some(1)),
        ("stored", false, None),
        ("sealed", true, Some(1)),
        ("lz4", false, Some(1)),
        ("copies", false, Some(1)),
        ("layered", false, Some(1)),
    ];
    for (name, encrypt, level) in cases {
        let mut setup = small(encrypt, level);
        if name == "layered" {
            // Wide enough that several layers meet in it.
            setup.layered = true;
            setup.ranges.insert(1, PageRange::new(20, 50));
        }
        if name == "copies" {
            (setup.machine, setup.dedup) = (&Copies, true);
        }
        let (taken, mut script) = seed(&setup);
        if name == "lz4" {
            script = script::recoded(&script, Codec::Lz4);
        }
        let memory = taken.record.memory;
        assert_eq!(name == "copies", memory.same > 0 && memory.fill > 0, "{name}: {memory:?}");
        assert!(script.len() < 64 << 10, "{name}: {} bytes", script.len());
        let bytes = script::assemble(&script);
        if name == "lz4" || name == "copies" {
            assert_eq!(by_python(&bytes), by_python(&taken.bytes));
        }
        assert_eq!(bytes[..BLOCK], taken.bytes[..BLOCK], "{name}");
        let dump = support::open(bytes.clone(), taken.identity.as_ref()).unwrap();
        assert_eq!(dump.warnings(), &[] as &[String], "{name}");
        let opener = dump.file().opener(taken.identity.as_ref()).unwrap();
        let verdict = dump.file().verify(Some(&opener), &|_| ());
        assert!(verdict.is_sound() && verdict.is_complete(), "{name}: {verdict:?}");
        assert_eq!(dump.log().unwrap(), setup.log);
        let mut want = [0u8; PAGE];
        for range in &setup.ranges {
            for pfn in range.start.0..range.end.0 {
                let there = setup.machine.page(None, pfn, &mut want);
                match dump.memory().page(Pfn(pfn)).unwrap() {
                    Page::Data(page) => assert_eq!(*page, want),
                    Page::Zero => assert_eq!([0; PAGE], want),
                    Page::Fill(word) => assert_eq!(word.to_le_bytes().repeat(PAGE / 8), want),
                    Page::Unreadable => assert!(!there),
                    other => panic!("{name}: page {pfn} is {other:?}"),
                }
            }
        }
        keep("dump", &format!("real-{name}"), &script);
        if name == "clear" {
            let (chunks, _) = script.split_at(script.len() / 2);
            keep("dump", "real-cut", chunks);
            keep("header", "real-header", &taken.bytes[..400]);
            keep("header", "real-commit", &taken.bytes[taken.bytes.len() - BLOCK..][..400]);
            seed_chunks(&taken.bytes, "");
        } else if name == "lz4" {
            seed_chunks(&bytes, "lz4-");
        } else if name == "copies" {
            seed_chunks(&taken.bytes, "copies-");
        } else if name == "sealed" {
            keep("header", "real-keys", &taken.bytes[BLOCK..BLOCK + 800]);
            keep("age", "real-file", &wrap(&script::data_key(), &[RECIPIENT]).unwrap());
        }
    }
}

/// Writes a seed if asked to.
fn keep(target: &str, name: &str, bytes: &[u8]) {
    if std::env::var_os("LIFEBOAT_WRITE_SEEDS").is_some() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

/// What the reader in Python says of a dump in the clear: digests of every space and text.
fn by_python(dump: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/../checkers/lifeboat_reader.py");
    let out = Command::new("/usr/bin/python3").arg(reader).arg(file.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "no note");
    String::from_utf8(out.stdout).unwrap()
}

/// One of each kind of chunk that is new in this dump, stored and plain.
fn seed_chunks(dump: &[u8], prefix: &str) {
    let mut at = 4 * BLOCK;
    let mut decoder = lifeboat_field::dump::Decoder::new();
    let opener = lifeboat_crypt::Opener::new(lifeboat_format::Cipher::None, None).unwrap();
    while let Ok(header) = lifeboat_format::ChunkHeader::decode(&dump[at..]) {
        let from = at + lifeboat_format::chunk::HEADER_LEN;
        let mut stored = dump[from..from + header.stored_len as usize].to_vec();
        let name = header.kind.name();
        let chunk = decoder.decode(&opener, header, &mut stored).unwrap();
        let wanted = match prefix {
            "lz4-" => header.codec == Codec::Lz4,
            "copies-" => header.kind.is_pages(),
            _ => true,
        };
        if wanted {
            let all = at..from + header.stored_len as usize;
            keep("chunk", &format!("real-{prefix}{name}"), &dump[all]);
            let plain = [&dump[at..from], chunk.plain()].concat();
            keep("chunk", &format!("plain-{prefix}{name}"), &plain);
        }
        if name == "index" && prefix.is_empty() {
            let plain = chunk.plain();
            let len = u16::try_from(plain.len()).unwrap().to_le_bytes();
            for flags in 0..4u8 {
                let one = [&[flags, len[0], len[1]], plain].concat();
                keep("index", &format!("real-{flags}"), &[one.clone(), one].concat());
            }
            keep("index", "real-alone", plain);
        }
        at += usize::try_from(header.frame_len()).unwrap();
    }
}

#[test]
fn seeds_of_the_other_targets() {
    let superblock = Superblock {
        volume_id: [7; 16],
        part_start: ByteOff(1 << 20),
        part_len: 64 << 20,
        max_dumps: 4,
        created: 1_700_000_000,
        label: text_field("fuzz"),
    };
    keep("superblock", "real", &superblock.encode()[..200]);
    let record = |number: u64, start: u64, len: u64, state| SlotRecord {
        volume_id: [7; 16],
        dump_id: [9; 16],
        generation: number,
        number,
        state,
        pulled: number == 1,
        start: ByteOff(start << 20),
        reserved_len: len << 20,
        used_len: if state == SlotState::Capturing { 0 } else { len << 20 },
        created: 3,
        part: 0,
        base: 0,
        next_volume: [0; 16],
    };
    let mut slots = Vec::new();
    for (n, state) in [
        (1, SlotState::Complete),
        (2, SlotState::Partial),
        (3, SlotState::Cleared),
        (4, SlotState::Capturing),
    ] {
        slots.extend([n as u8, 0, 128]);
        slots.extend_from_slice(&record(n, 2 * n, 2, state).encode()[..128]);
    }
    keep("slots", "real", &slots);
    let mut cfg = BootConfig {
        seed: Some([5; 32]),
        hostname: "db7".try_into().unwrap(),
        ..BootConfig::default()
    };
    cfg.targets.push(Selector::parse("partlabel=lifeboat").unwrap()).unwrap();
    cfg.recipients.push(RECIPIENT.try_into().unwrap()).unwrap();
    let mut text = heapless::String::<4096>::new();
    cfg.write(&mut text, true).unwrap();
    keep("bootconf", "real", text.as_bytes());
    keep("elfcorehdr", "real", &support::elfcorehdr(&support::loads()));
    keep("notes", "real", &support::notes());
    keep("notes", "vmcoreinfo", b"OSRELEASE=6.1.0-56-cloud-amd64\nBUILD-ID=00ff\nPAGESIZE=4096\n\
        SYMBOL(init_top_pgt)=ffffffff9b45a000\nOFFSET(printk_ringbuffer.desc_ring)=0\nSIZE(prb_desc)=24\n\
        LENGTH(printk_info_device)=48\nNUMBER(phys_base)=-1048576\nNUMBER(pgtable_l5_enabled)=0\n\
        NUMBER(sme_mask)=0\nKERNELOFFSET=19600000\nCRASHTIME=1700000000\nCONFIG_X86_PAE=y\n");
    keep("age", "payload", &[&[0u8, 0, 0][..], &[8; 32]].concat());
    keep(
        "age",
        "grease",
        b"\x01\x1c\x00-> ssh-ed25519 abcd\nAAAA\n-> g\n\n01234567890123456789012345678901",
    );
    disks();
}

/// A struct with everything in it, and some symbols.
#[test]
fn seeds_of_symbols_and_types() {
    let mut t = Types::new();
    let long = t.int("long", 8);
    let pointer = t.plain(PTR, "", 0);
    let inner = t.record(STRUCT, "", 16, &[("deep", long, 64), ("shared", long, 0)]);
    let name = t.plain(TYPEDEF, "inner_t", inner);
    let read_only = t.plain(CONST, "", name);
    let array = t.array(long, 3);
    let union = t.record(UNION, "", 16, &[("one", long, 0), ("", read_only, 0)]);
    t.record(STRUCT, "page", 64, &[("flags", long, 0), ("", union, 64), ("next", pointer, 192)]);
    t.record(STRUCT, "zone", 64, &[("free_area", array, 0)]);
    t.bits("bits", 8, &[("low", long, 0, 3), ("high", long, 3, 5)]);
    t.enumeration("pageflags", false, &[("PG_lru", 4), ("__NR_PAGEFLAGS", 25)]);
    t.enumeration64("wide", &[("BIG", 1 << 40)]);
    let whole = t.build();
    let word = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().unwrap());
    let names = u16::try_from(word(20)).unwrap().to_le_bytes();
    lifeboat_fuzz::types::btf(&whole);
    lifeboat_fuzz::types::btf(&[&names, &whole[24..]].concat());
    keep("btf", "whole", &whole);
    keep("btf", "body", &[&names, &whole[24..]].concat());
    let long = "x".repeat(200);
    let list = [(8, "a"), (16, "__stop_BTF"), (24, "x"), (32, long.as_str()), (40, "x")];
    let tables = Symbols::new(tables::Form::Relative, 0, &list);
    lifeboat_fuzz::types::kallsyms(&tables.names);
    keep("kallsyms", "names", &tables.names);
    let mut table = tables.tokens;
    table.resize(1024, 0);
    keep("kallsyms", "all", &[tables.index, table, tables.names].concat());
}

/// What mkswap and sgdisk write.
fn disks() {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap());
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).env("PATH", &path).output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = file.path().to_str().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    run("mkswap", &["-q", "-L", "my swap", name]);
    let bytes = std::fs::read(name).unwrap();
    let signature = lifeboat_sources::swap::detect(&bytes[..65536]);
    assert!(matches!(signature, Some(lifeboat_sources::swap::Signature::Swap(_))), "{signature:?}");
    keep("swap", "real", &bytes[..4096]);
    keep("swap", "body", &[&[0][..], &bytes[1024..1100]].concat());
    std::fs::write(name, vec![0u8; 2 << 20]).unwrap();
    run("sgdisk", &["-o", "-a", "1", "-n", "1:40:60", "-t", "1:8200", "-c", "1:swap", name]);
    // A GPT says where it lies and how long the disk is: the target makes both right.
    keep("gpt", "real", &std::fs::read(name).unwrap()[..5120]);
}
