//! Files of a dead kernel: paths, pages and whole files out of its memory, and what becomes
//! of them where its structures are damaged.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests too")]

mod dead;

use std::io::Cursor;

use dead::Dead;
use dead::tree::{Age, FILE, LINK, Tree, tree};
use lifeboat_inquest::elfcore::{Ahead, Origin, Pages as _};
use lifeboat_inquest::files::extract::Gap;
use lifeboat_inquest::files::{Cache, Cached, LookupError, Mapping, Paths, Root, extract, lookup};
use lifeboat_inquest::mm::{Tables, Vma, VmaFlags};
use lifeboat_inquest::process::Memory;
use lifeboat_inquest::{Hole, Kernel, PAGE, Pfn, PhysAddr};
use proptest::prelude::*;

const AGES: [Age; 2] = [Age::Old, Age::New];

#[test]
fn paths_lead_through_mounts() {
    for age in AGES {
        let mut t = tree(age);
        let file = t.world.open(t.log);
        let conf = t.world.open(Root { dentry: t.conf, ..t.root });
        let notes = t.world.dead.bury();
        let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
        let paths = Paths::new(&kernel).unwrap();
        let of = |file, root| {
            let path = paths.of_file(file, root).unwrap();
            (path.text(), path.deleted, path.whole)
        };
        assert_eq!(of(file, None), ("/run/log".into(), false, true));
        assert_eq!(of(file, Some(t.root)), ("/run/log".into(), false, true));
        assert_eq!(of(conf, Some(t.root)), ("/etc/app.conf".into(), false, true));
        // In a chroot.
        let etc = Root { dentry: t.etc, ..t.root };
        assert_eq!(of(conf, Some(etc)), ("/app.conf".into(), false, true));
        // From a root that it is not below.
        assert_eq!(of(file, Some(etc)), ("/run/log".into(), false, false));
        let top = paths.of(t.root, None).unwrap();
        assert_eq!((top.text(), top.deleted), ("/".into(), false));
    }
}

#[test]
fn files_without_a_name_have_the_kernel_s_words() {
    let mut t = tree(Age::New);
    let hash = t.world.dead.at(t.conf, "dentry.d_hash");
    t.world.dead.put(hash + 8, 0);
    let ops = t.world.dead.object("dentry_operations");
    t.world.dead.set(ops, "dentry_operations.d_dname", 0xffff_ffff_8100_0000);
    let mut made_up = Vec::new();
    for (kind, name) in [
        ("tmpfs", "memfd:x"),
        ("tmpfs", "dev/zero"),
        ("anon_inodefs", "[io_uring]"),
        ("pipefs", ""),
    ] {
        let sb = t.world.sb(kind);
        let inode = t.world.inode(sb, FILE, 0);
        let root = t.world.dentry(0, "/", sb, inode);
        let mnt = t.world.mount(root, None);
        let dentry = t.world.dentry(0, name, sb, inode);
        t.world.dead.set(dentry, "dentry.d_op", ops);
        made_up.push(t.world.open(Root { mnt, dentry }));
    }
    let conf = t.world.open(Root { dentry: t.conf, ..t.root });
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let paths = Paths::new(&kernel).unwrap();
    let of = |file| {
        let path = paths.of_file(file, Some(t.root)).unwrap();
        (path.text(), path.deleted)
    };
    assert_eq!(of(conf), ("/etc/app.conf (deleted)".into(), true));
    assert_eq!(of(made_up[0]), ("/memfd:x (deleted)".into(), true));
    assert_eq!(of(made_up[1]), ("/dev/zero (deleted)".into(), true));
    assert_eq!(of(made_up[2]), ("anon_inode:[io_uring]".into(), false));
    assert_eq!(of(made_up[3]), ("pipefs:".into(), false));
}

/// Pages that no table has are zeros only where nobody fills them.
#[test]
fn what_was_never_touched() {
    const END: u64 = 0x40_8000;
    let mut t = tree(Age::New);
    let file = t.world.open(Root { dentry: t.conf, ..t.root });
    let top = t.world.dead.page();
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let cache = Cache::new(&kernel).unwrap();
    let look = |anonymous, file, name: Option<&str>| {
        let vma = Vma {
            addr: 0,
            start: 0x40_0000,
            end: END,
            flags: VmaFlags(0x75),
            offset: 1 << 20,
            file,
            anon_vma: 0,
            anonymous,
            name: name.map(str::to_owned),
        };
        let tables = Tables::at(&kernel, PhysAddr(top.0 * PAGE as u64)).unwrap();
        let memory = Memory::new(0, tables, &cache, None, vec![vma]).unwrap();
        let mut page = [0xee; PAGE];
        let found = memory.page(0x40_1000, &mut page).map(|origin| (origin, page));
        (found, memory.ahead(0x40_0000, END))
    };
    let zeros = (Ok((Origin::Untouched, [0; PAGE])), (END, Ahead::Untouched));
    assert_eq!(look(true, None, None), zeros);
    // `/dev/zero`, mapped in private.
    assert_eq!(look(true, Some(file), None), zeros);
    let hole = |why| (Err(why), (END, Ahead::Hole(why)));
    // Behind the end of a file.
    assert_eq!(look(false, Some(file), None), hole(Hole::NotMapped));
    // The vDSO, whose name was lost with the memory that it lay in; another part of the kernel.
    assert_eq!(look(false, None, None), hole(Hole::Unsupported));
    assert_eq!(look(false, None, Some("[uprobes]")), hole(Hole::Unsupported));
    // The vDSO, whose pages were lost.
    let vdso = look(false, None, Some("[vdso]"));
    assert_eq!(vdso, (Err(Hole::Unsupported), (END, Ahead::Look)));
}

#[test]
fn damaged_paths_end() {
    // Directories that contain each other.
    let mut t = tree(Age::New);
    t.world.dead.set(t.etc, "dentry.d_parent", t.conf);
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let paths = Paths::new(&kernel).unwrap();
    let path = paths.of(Root { dentry: t.conf, ..t.root }, Some(t.root)).unwrap();
    assert!(!path.whole && path.bytes.len() <= 4096 + 256, "{path:?}");
    // A name that is nowhere.
    let mut t = tree(Age::New);
    let name = t.world.dead.at(t.etc, "dentry.d_name") + 8;
    t.world.dead.put(name, 0xdead_0000_0000_0100);
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let paths = Paths::new(&kernel).unwrap();
    let path = paths.of(Root { dentry: t.conf, ..t.root }, Some(t.root)).unwrap();
    assert_eq!((path.text(), path.whole), ("/app.conf".into(), false));
    paths.of(Root { dentry: t.etc, ..t.root }, Some(t.root)).unwrap_err();
}

#[test]
fn a_path_leads_to_its_file() {
    for age in AGES {
        let mut t = tree(age);
        let ext4 = t.world.dead.get(t.world.dead.at(t.conf, "dentry.d_sb"));
        t.world.dentry(t.etc, "gone", ext4, 0);
        let circle = t.world.inode(ext4, LINK, 4);
        let to = t.world.dead.text("/etc/circle");
        t.world.dead.set(circle, "inode.i_link", to);
        t.world.dentry(t.etc, "circle", ext4, circle);
        let notes = t.world.dead.bury();
        let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
        let (paths, cache) = (Paths::new(&kernel).unwrap(), Cache::new(&kernel).unwrap());
        let find = |path: &str| {
            lookup::find(&kernel, &paths, &cache, t.root, path.as_bytes()).map(|t| t.inode)
        };
        for path in ["/etc/app.conf", "etc/./app.conf", "/etc/link", "/run/../../etc/link"] {
            assert_eq!(find(path), Ok(t.conf_inode), "{path}");
        }
        assert_eq!(find("/run/log"), Ok(t.log_inode));
        assert_eq!(find("/etc/nothing"), Err(LookupError::Unknown("/etc/nothing".into())));
        assert_eq!(find("/etc/gone"), Err(LookupError::NoFile("/etc/gone".into())));
        assert!(matches!(find("/etc"), Err(LookupError::Kind(..))));
        assert!(matches!(find("/etc/app.conf/x"), Err(LookupError::Kind(..))));
        assert!(matches!(find("/etc/circle"), Err(LookupError::Links(_))));
    }
}

/// Pages of `/etc/app.conf`: one, a folio of two, one evicted, one of somebody else's.
fn cached(t: &mut Tree) -> [Pfn; 3] {
    let first = t.world.page(t.conf_inode, 0, 1);
    let folio = t.world.page(t.conf_inode, 1, 2);
    let tail = t.world.page(t.conf_inode, 0, 3);
    assert_eq!(tail.0, folio.0 + 1);
    let (head, second) = (Dead::struct_page(folio), Dead::struct_page(tail));
    t.world.dead.set(second, "page.mapping", 0);
    t.world.dead.set(second, "page.compound_head", head | 1);
    let strange = t.world.page(t.log_inode, 4, 9);
    let (first_page, strange) = (Dead::struct_page(first), Dead::struct_page(strange));
    let pages = [(0, first_page), (1, head), (2, head), (3, 0x1234 << 1 | 1), (4, strange)];
    t.world.pages(t.conf_inode, &pages);
    [first, folio, tail]
}

#[test]
fn pages_are_where_the_page_cache_has_them() {
    let mut t = tree(Age::New);
    let [first, folio, tail] = cached(&mut t);
    let file = t.world.open(Root { dentry: t.conf, ..t.root });
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let cache = Cache::new(&kernel).unwrap();
    let conf = cache.of_file(file).unwrap();
    assert_eq!((conf.number, conf.size), (77, 5 * PAGE as u64 + 10));
    let found: Vec<_> = (0..8).map(|n| cache.find(&conf, n)).collect();
    let page = |pfn| Ok(Cached::Page(pfn));
    assert_eq!(
        found,
        [
            page(first),
            page(folio),
            page(tail),
            Err(Hole::FileOnly),
            Err(Hole::Malformed),
            Err(Hole::FileOnly),
            Err(Hole::NotMapped),
            Err(Hole::NotMapped),
        ]
    );
    assert_eq!(cache.gap(&conf, 0), None);
    assert_eq!(cache.gap(&conf, 3), Some((1, Err(Hole::FileOnly))));
    assert_eq!(cache.gap(&conf, 5), Some((1, Err(Hole::FileOnly))));
    assert_eq!(cache.held(&conf), 4);
}

/// A page that is being read holds nothing yet; a tail that its folio does not know is not
/// of it.
#[test]
fn a_page_is_asked_whose_it_is() {
    let mut t = tree(Age::New);
    let [first, _, tail] = cached(&mut t);
    t.world.dead.set(Dead::struct_page(first), "page.flags", 0);
    t.world.dead.set(Dead::struct_page(tail), "page.compound_head", 0);
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let cache = Cache::new(&kernel).unwrap();
    let conf = cache.of_inode(t.conf_inode).unwrap();
    assert_eq!(cache.find(&conf, 0), Err(Hole::FileOnly));
    assert_eq!(cache.find(&conf, 2), Err(Hole::Malformed));
}

#[test]
fn shared_memory_is_zeros_where_nobody_was() {
    let mut t = tree(Age::Old);
    let pfn = t.world.page(t.log_inode, 1, 7);
    let swap = 3u64 << 58 | 99;
    t.world.pages(t.log_inode, &[(1, Dead::struct_page(pfn)), (2, swap << 1 | 1)]);
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let cache = Cache::new(&kernel).unwrap();
    let log = cache.of_inode(t.log_inode).unwrap();
    let found: Vec<_> = (0..5).map(|n| cache.find(&log, n)).collect();
    let want = [
        Ok(Cached::Untouched),
        Ok(Cached::Page(pfn)),
        Ok(Cached::Swap(swap & (u64::MAX >> 1))),
        Ok(Cached::Untouched),
        Err(Hole::NotMapped),
    ];
    assert_eq!(found, want);
}

#[test]
fn a_file_comes_back_as_far_as_it_is_there() {
    let mut t = tree(Age::New);
    cached(&mut t);
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let cache = Cache::new(&kernel).unwrap();
    let conf: Mapping = cache.of_inode(t.conf_inode).unwrap();
    let mut out = Cursor::new(Vec::new());
    let report = extract(&cache, None, &conf, &mut out).unwrap();
    let bytes = out.into_inner();
    assert_eq!(bytes.len(), 5 * PAGE + 10);
    for (page, fill) in [(0, 1), (1, 2), (2, 3)] {
        assert!(bytes[page * PAGE..][..PAGE].iter().all(|b| *b == fill), "{page}");
    }
    assert_eq!((report.pages, report.missing()), (3, 3));
    let gap = |page, why| Gap { page, pages: 1, why };
    assert_eq!(
        report.gaps,
        [gap(3, Hole::FileOnly), gap(4, Hole::Malformed), gap(5, Hole::FileOnly)]
    );
    // The last page that is there is cut at the end of the file.
    let mut t = tree(Age::New);
    let last = t.world.page(t.conf_inode, 5, 8);
    t.world.pages(t.conf_inode, &[(5, Dead::struct_page(last))]);
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let cache = Cache::new(&kernel).unwrap();
    let conf = cache.of_inode(t.conf_inode).unwrap();
    let mut out = Cursor::new(Vec::new());
    extract(&cache, None, &conf, &mut out).unwrap();
    assert_eq!(out.into_inner()[5 * PAGE..], [8; 10]);
}

/// A file whose inode says that it fills the address space is told, not looked at for ever.
#[test]
fn a_wild_size_ends() {
    let mut t = tree(Age::New);
    t.world.dead.set(t.conf_inode, "inode.i_size", u64::MAX);
    let notes = t.world.dead.bury();
    let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
    let cache = Cache::new(&kernel).unwrap();
    let conf = cache.of_inode(t.conf_inode).unwrap();
    extract(&cache, None, &conf, Cursor::new(Vec::new())).unwrap_err();
}

/// A file that keeps nothing: a damaged one may be terabytes.
struct Nowhere;

impl std::io::Write for Nowhere {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for Nowhere {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        match to {
            std::io::SeekFrom::Start(at) => Ok(at),
            _ => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Where the objects of the machine lie.
const OBJECTS: u64 = dead::DIRECT + 0x80_0000;
/// Words of them.
const WORDS: u64 = 0x2800;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is overwritten, with wild numbers or with pointers to other objects, all
    /// questions get an answer, and soon.
    #[test]
    fn damage_ends(edits in proptest::collection::vec(
        (0..WORDS, prop_oneof![
            any::<u64>(),
            (0..WORDS).prop_map(|n| OBJECTS + n * 8),
            (0..WORDS).prop_map(|n| (OBJECTS + n * 8) | 2),
            0u64..1 << 46,
        ]), 1..120), old in any::<bool>()) {
        let mut t = tree(if old { Age::Old } else { Age::New });
        cached(&mut t);
        let files = [t.world.open(t.log), t.world.open(Root { dentry: t.conf, ..t.root })];
        let notes = t.world.dead.bury();
        for (word, value) in edits {
            t.world.dead.put(OBJECTS + word * 8, value);
        }
        let begun = std::time::Instant::now();
        let kernel = Kernel::open(&t.world.dead, &notes).unwrap();
        let (paths, cache) = (Paths::new(&kernel).unwrap(), Cache::new(&kernel).unwrap());
        for file in files {
            if let Ok(path) = paths.of_file(file, Some(t.root)) {
                prop_assert!(path.bytes.len() < 3 * 4096);
            }
        }
        for path in ["/etc/link", "/run/log", "/etc/nothing"] {
            if let Ok(target) = lookup::find(&kernel, &paths, &cache, t.root, path.as_bytes()) {
                let _ = cache.of_inode(target.inode);
            }
        }
        if let Ok(conf) = cache.of_inode(t.conf_inode)
            && let Ok(report) = extract(&cache, None, &conf, Nowhere)
        {
            prop_assert!(report.pages + report.missing() <= conf.size.div_ceil(PAGE as u64));
        }
        prop_assert!(begun.elapsed().as_secs() < 30);
    }
}
