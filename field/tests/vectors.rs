//! A golden dump of every version of the format ever written opens, whole.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code, helpers included"
)]

mod common;
#[path = "golden/words.rs"]
mod words;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use common::{cmd, names};
use lifeboat_crypt::Identities;
use lifeboat_field::dump::{DumpFile, OpenDump, Page, PageSource};
use lifeboat_format::{PageRange, Pfn};
use sha2::{Digest, Sha256};
use words::{hex, sha256, space_line, text_line};

/// Every file there and its SHA-256. A vector is never rewritten: add a line for a new
/// one, and change none.
const PINNED: &[(&str, &str)] = &[
    ("v1-clear.lbdump", "22bf28e2b286618f98f201269fe66281ca59cf7cd6a527d9043a910467aedd97"),
    ("v1-clear.truth", "b4cdcc2749510a3eeab98e8dd180c9d5a57d97fa2a3bdb1a61e633dbefb54355"),
    ("v1-sealed.key", "24e0482da5a112824056425623bd814de02ff015a60b16b374150e2c726cf07f"),
    ("v1-sealed.lbdump", "1ac2a3e509328a6dde2a3cd48f34d84e731b836d8d5536f57cf0609aea3c1819"),
    ("v1-sealed.truth", "422f73fbf524795721477d29718552fcd11241b98c2c4fea2824ec70020590e2"),
    ("v1-volume.img.zst", "c5b4c766b6b7959e2e1ac68beb9d072ffb123fbc7d8afda31bf59900e7f81730"),
    ("v2-clear.lbdump", "9660d3d95dde362d9949056267c4525ee2467b17016050a3a235c8c7543e2ea0"),
    ("v2-clear.truth", "eb7fec9b6ce6133a6b9bc5907cd339a5d2e8bf03323d191cc8415301ae82e17e"),
    ("v2-sealed.age.key", "f6b9fd9e8cb6a6160c21028ad8416e29f721cf774db382930e13ec4b9bdb7742"),
    ("v2-sealed.lbdump", "32a0488dd74940f07c580cb46ef6243ee1dbecce18dcd7224e486672e9a39a59"),
    ("v2-sealed.oneboot.key", "91d43eb2ba1b12dbc1ee55f42f5114cda7529e8124de0d8dc8b3868e39f82bc0"),
    ("v2-sealed.rekeyed.key", "83356f8540d97f2902a6068e56cacbd55116224ecbd19df9638eadd840749ae8"),
    ("v2-sealed.ssh.key", "36bb6fa20c9ee965a8c8cd72dc81200ffd616ab3033cc9cc281f41519ad065fb"),
    ("v2-sealed.truth", "4a332c5cf8a8a98fcb36630af3d1994657fbd7cb6c9241507e4fa5b9570d0788"),
    ("v2-volume.img.zst", "cea01ed6253c1b5ae60f3f99e44064ca395385da467522284fad7df42ef14a7b"),
    ("v2-volume.truth", "e4f68c71a3212143ba68bd8212b73f22d9a8fe0f445a20937db3e723be6f7bbb"),
    ("v3-clear.lbdump", "6e75f7e94aedcb4ad814a95c63dd5477134049fa75f82d0bb32efd08b5699e28"),
    ("v3-clear.truth", "c104579805e571504bd6ec879c3f2dedd55ecfb4e52929ec4a2d420aa618f571"),
    ("v3-sealed.age.key", "acaef174c22c3f8fc966eb5be668b975b071baddbaef821fe57c0a59096d9dc0"),
    ("v3-sealed.lbdump", "d63e18a0e1f1e6542a7ca152a066ed799ac71b878f13db31f69522be21fcf369"),
    ("v3-sealed.oneboot.key", "8c5b5320927e3e31759f27c3cf92de4ec44addb43ebbe2e50b4d7e12094dadf7"),
    ("v3-sealed.rekeyed.key", "431d02c52cd12a127eb47d855530ab6cc0bcfb28115cc1a4b317f59d98f78124"),
    ("v3-sealed.ssh.key", "a421a3bc574907d1c5c6ff56ea3fd0585ac1bfeb3481a7fd1996c9212cd09f7d"),
    ("v3-sealed.truth", "33509916a80a66abd491407a5dfe908047d229e3e363e7652d639f4bed29ea33"),
    ("v3-volume.img.zst", "57a22342585f3ddae2e9498ddd7f05e4d6e4de91a0c1b22361cd96e2e54a45a8"),
    ("v3-volume.truth", "2ac3d3f5c6b2358832e1dc740d3450b0de9bf0695158dd44c6830515721d0e64"),
];

/// Dumps, the version that wrote them, and every key that opens them alone.
const DUMPS: &[(&str, u32, &[&str])] = &[
    ("v1-sealed", 1, &["v1-sealed.key"]),
    ("v1-clear", 1, &[]),
    (
        "v2-sealed",
        2,
        &[
            "v2-sealed.age.key",
            "v2-sealed.ssh.key",
            "v2-sealed.oneboot.key",
            "v2-sealed.rekeyed.key",
        ],
    ),
    ("v2-clear", 2, &[]),
    (
        "v3-sealed",
        3,
        &[
            "v3-sealed.age.key",
            "v3-sealed.ssh.key",
            "v3-sealed.oneboot.key",
            "v3-sealed.rekeyed.key",
        ],
    ),
    ("v3-clear", 3, &[]),
];

fn dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors"))
}

fn identity(name: &str) -> Identities {
    Identities::parse(&fs::read_to_string(dir().join(name)).unwrap()).unwrap()
}

/// What a dump holds, in the words of a `.truth` file.
fn told(dump: &OpenDump) -> String {
    let mut out = String::new();
    let mut space = |name: &str, space: &dyn PageSource, ranges: &[PageRange]| {
        let (mut hash, mut n) = (Sha256::new(), [0u64; 4]);
        for page in ranges.iter().flat_map(|r| r.start.0..r.end.0) {
            let (class, bytes) = match space.page(Pfn(page)).unwrap() {
                Page::Data(bytes) => (0u8, Some(bytes.to_vec())),
                Page::Fill(word) => (0, Some(word.to_le_bytes().repeat(512))),
                Page::Zero => (1, None),
                Page::Unreadable => (2, None),
                Page::Excluded => (3, None),
                Page::NotCaptured => continue,
            };
            hash.update(page.to_le_bytes());
            hash.update([class]);
            if let Some(bytes) = bytes {
                hash.update(&bytes[..]);
            }
            n[usize::from(class)] += 1;
        }
        out += &space_line(name, &hex(&hash.finalize()), n);
    };
    space("memory", &dump.memory(), &dump.meta().ranges);
    for dev in &dump.meta().swap {
        let range = [PageRange::new(0, dev.bytes.div_ceil(4096))];
        space(&format!("swap{}", dev.index), &dump.swap(dev.index).unwrap(), &range);
    }
    out += &text_line("log", &dump.log().unwrap());
    out += &text_line("notes", &dump.notes().unwrap());
    out + &text_line("trailer", &dump.trailer().unwrap())
}

fn truth(name: &str) -> String {
    fs::read_to_string(dir().join(format!("{name}.truth"))).unwrap()
}

#[test]
fn vectors_are_never_rewritten() {
    let here: Vec<(String, String)> = names(&dir())
        .into_iter()
        .filter(|n| n != "README.md")
        .map(|n| (n.clone(), sha256(&fs::read(dir().join(n)).unwrap())))
        .collect();
    let pinned: Vec<(String, String)> =
        PINNED.iter().map(|(n, d)| ((*n).to_owned(), (*d).to_owned())).collect();
    assert_eq!(here, pinned);
    let readme = fs::read_to_string(dir().join("README.md")).unwrap();
    for (name, _) in PINNED {
        let stem = name.split('.').next().unwrap();
        assert!(readme.contains(stem), "README.md does not tell how {stem} was made");
    }
}

#[test]
fn every_golden_dump_opens() {
    for (name, version, keys) in DUMPS {
        let bytes = fs::read(dir().join(format!("{name}.lbdump"))).unwrap();
        let ids: Vec<Option<Identities>> = if keys.is_empty() {
            vec![None]
        } else {
            keys.iter().map(|k| Some(identity(k))).collect()
        };
        for id in &ids {
            let file = DumpFile::open(Arc::new(bytes.clone())).unwrap();
            assert_eq!(file.header().version, *version, "{name}");
            assert_eq!(file.header().key_id == [0; 32], *version == 1 || id.is_none());
            for opener in [None, Some(file.opener(id.as_ref()).unwrap())] {
                let v = file.verify(opener.as_ref(), &|_| {});
                assert!(v.is_sound() && v.is_complete(), "{name}: {:?}", v.findings);
                assert_eq!(v.sha256.as_deref(), Some(&*sha256(&bytes)));
                assert!(v.good_chunks > 8 && v.memory.excluded > 0 && v.memory.unreadable > 0);
            }
            let dump = OpenDump::unlock(file, id.as_ref()).unwrap();
            assert_eq!(dump.warnings(), [""; 0]);
            assert_eq!(told(&dump), truth(name), "{name}");
            assert_eq!(dump.meta().hostname.as_deref(), Some("golden"));
        }
        println!("{name}: {} bytes, opened by {} keys", bytes.len(), keys.len());
    }
}

/// Unpacks `NAME.img.zst` into a scratch directory.
fn unpacked(name: &str) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let packed = fs::File::open(dir().join(format!("{name}.img.zst"))).unwrap();
    let image = fs::File::create(scratch.path().join("volume")).unwrap();
    zstd::stream::copy_decode(packed, image).unwrap();
    scratch
}

/// As f51ca9f left it: dump 1 pulled, dump 2 cleared and its slot used again by dump 3,
/// whose capture the power cut off.
#[test]
fn a_volume_of_version_1_is_read() {
    let scratch = unpacked("v1-volume");
    let d = scratch.path();
    let list = cmd(d, "list @/volume").out;
    for words in ["golden v1", "dump 1", "dump 3", "pulled", "6.1.0-56-amd64"] {
        assert!(list.contains(words), "no `{words}` in\n{list}");
    }
    assert!(!list.contains("dump 2"), "{list}");
    cmd(d, "pull @/volume --dump 1 -o @/one").exits(0);
    assert_eq!(
        sha256(&fs::read(d.join("one")).unwrap()),
        PINNED.iter().find(|p| p.0 == "v1-sealed.lbdump").unwrap().1
    );
    // The half that is there is the first half of v1-clear, to the last whole chunk.
    cmd(d, "pull @/volume --dump 3 -o @/three").exits(3);
    let whole = fs::read(dir().join("v1-clear.lbdump")).unwrap();
    let half = fs::read(d.join("three")).unwrap();
    assert!(half.len() > 16384 + 4096 && whole.starts_with(&half), "{} bytes", half.len());
}

/// Dump 2 of this volume lies in two parts, around dump 1.
fn reads_two_parts(volume: &str, version: u32, digest: &str) {
    let scratch = unpacked(volume);
    let d = scratch.path();
    let list = cmd(d, "list @/volume").exits(0).out;
    for words in ["dump 1", "dump 2", "pulled"] {
        assert!(list.contains(words), "no `{words}` in\n{list}");
    }
    cmd(d, "pull @/volume --dump 2 -o @/two").exits(0);
    let bytes = fs::read(d.join("two")).unwrap();
    assert_eq!(sha256(&bytes), digest);
    let file = DumpFile::open(Arc::new(bytes)).unwrap();
    assert_eq!(file.header().version, version);
    let v = file.verify(None, &|_| {});
    assert!(v.is_sound() && v.is_complete(), "{:?}", v.findings);
    assert_eq!(file.committed().unwrap().last_part, 1);
    assert_eq!(told(&OpenDump::unlock(file, None).unwrap()), truth(volume));
}

#[test]
fn a_volume_of_version_2_is_read() {
    let digest = "61f12d454c9670d7bdc69001e3e8693a9d6caf83ae3df8c63138be50e64a1298";
    reads_two_parts("v2-volume", 2, digest);
}

#[test]
fn a_volume_of_version_3_is_read() {
    let digest = "7c272a01e8dbbf1b849ac27e6aed5542bda1f7cdad457b813519f38dee9f7916";
    reads_two_parts("v3-volume", 3, digest);
}
