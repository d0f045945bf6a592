//! Swapped-out pages and files of dead kernels whose memory somebody overwrote: an older and a
//! newer kernel of each.

use std::sync::{LazyLock, Mutex};

use lifeboat_inquest::files::{Cache, Paths, Root, buildid, extract, lookup};
use lifeboat_inquest::swapped::{SwapEntry, Swapped};
use lifeboat_inquest::{Kernel, PAGE};

use crate::edits::{Nowhere, Places};

#[path = "../../../field/inquest/tests/dead/mod.rs"]
mod dead;

use dead::types::Age;
use dead::world::{DEVICE, DIRTY, SWAPCACHE, UPTODATE, World, pattern};
use dead::{DIRECT, Dead, tree};

const PAGES: u64 = 300;

/// A dead kernel, and what is asked of it.
struct Whole {
    dead: Dead,
    notes: Vec<u8>,
    places: Places,
    what: What,
}

enum What {
    /// Pages of these entries.
    Swap(Vec<SwapEntry>),
    /// Paths of these files; files by their paths from this root; this inode's pages.
    Files { files: [u64; 2], root: Root, inode: u64 },
}

static WHOLE: LazyLock<[Mutex<Whole>; 4]> = LazyLock::new(|| {
    let all = [swap(Age::Old), swap(Age::New), files(tree::Age::Old), files(tree::Age::New)];
    all.map(Mutex::new)
});

fn entry(area: u8, offset: u64) -> SwapEntry {
    SwapEntry { area, offset }
}

fn buried(dead: Dead, notes: Vec<u8>, aims: Vec<u64>, what: What) -> Whole {
    let parts =
        [0x80_0000..0x100_0000, 0x60_0000..0x80_0000, 0x20_0000..0x60_0000, 0x10_0000..0x10_5000];
    let places = Places::new(&dead.ram, parts, aims, DIRECT);
    Whole { dead, notes, places, what }
}

/// A disk with a swap cache and zswap before it, in zsmalloc, zbud and z3fold; and zram.
fn swap(age: Age) -> Whole {
    let mut w = World::new(age);
    let uuid = "0badcafe-0002-4000-8000-00c0ffee0001";
    let device = w.captured("vdb2", PAGES, Some(uuid));
    let disk = w.disk("vda");
    let bdev = w.bdev(disk, "vda2", PAGES, Some(uuid));
    let info = w.area(0, DEVICE, PAGES, bdev, &[(0, 100, 0), (100, 150, 150), (250, 50, 100)]);
    w.write(device, 7, &pattern(7));
    w.cache(entry(0, 9), UPTODATE | SWAPCACHE | DIRTY, &pattern(9));
    let (pool, packed) = (w.pool(), lz4_flex::block::compress(&pattern(1)));
    let zspage = w.zspage(pool, 77, 1360, 4);
    let handle = w.object(&zspage, 3, &packed);
    let zpool = w.zswap_pool("zsmalloc", "lz4", pool.0, false);
    let first = w.zswap(entry(0, 20), zpool, handle, packed.len());
    for (kind, offset) in [("zbud", 21), ("z3fold", 22)] {
        let zpool = w.zswap_pool(kind, "lz4", 0, false);
        let header = DIRECT + w.dead.page().0 * PAGE as u64;
        let (at, handle) =
            if kind == "zbud" { (64, header + 64) } else { (128, w.dead.room(8, 8)) };
        if kind == "zbud" {
            w.dead.set(header, "zbud_header.first_chunks", packed.len().div_ceil(64) as u64);
        } else {
            w.dead.put(handle, header | 1);
        }
        w.dead.bytes(header + at, &packed);
        w.zswap(entry(0, offset), zpool, handle, packed.len());
    }
    let codec = if age == Age::Old { "lz4" } else { "zstd" };
    let (zram, table) = w.zram(pool, 256, &[codec]);
    let bdev = w.bdev(zram, "zram0", 256, None);
    w.area(1, DEVICE, 256, bdev, &[(0, 256, 0)]);
    let zstd = zstd::bulk::compress(&pattern(2), 3).expect("a page");
    let packed = if age == Age::Old { packed } else { zstd };
    let handle = w.object(&zspage, 5, &packed);
    w.slot(table, 30, handle, packed.len() as u64);
    let mut asked: Vec<SwapEntry> =
        [1, 7, 9, 20, 21, 22, 120, 260, 299].map(|n| entry(0, n)).into();
    asked.extend([entry(1, 30), entry(1, 31), entry(2, 1)]);
    let notes = w.bury();
    buried(w.dead, notes, vec![info, first, table, zpool, pool.0, handle], What::Swap(asked))
}

/// `/etc/app.conf`, a link to it, and `/run/log` of a tmpfs.
fn files(age: tree::Age) -> Whole {
    let mut t = tree::tree(age);
    let (conf, log) = (t.conf_inode, t.log_inode);
    let pages = [0, 1, 4].map(|n| (n, Dead::struct_page(t.world.page(conf, n, 1))));
    t.world.pages(conf, &[pages.as_slice(), &[(3, 0x1234 << 1 | 1)]].concat());
    let page = Dead::struct_page(t.world.page(log, 2, 2));
    t.world.pages(log, &[(1, entry(0, 5).val() << 1 | 1), (2, page)]);
    let files = [t.world.open(t.log), t.world.open(Root { dentry: t.conf, ..t.root })];
    let notes = t.world.dead.bury();
    let aims = vec![t.etc, t.conf, t.root.dentry, t.root.mnt, conf, log, pages[0].1];
    buried(t.world.dead, notes, aims, What::Files { files, root: t.root, inode: conf })
}

/// The first byte says which kernel; every 11 bytes behind it overwrite a word.
pub fn overwritten(data: &[u8]) {
    let Some((which, edits)) = data.split_first() else { return };
    let whole = &mut *WHOLE[usize::from(which % 4)].lock().expect("no input failed before");
    let before = whole.places.overwrite(&mut whole.dead.ram, edits);
    if let Ok(kernel) = Kernel::open(&whole.dead, &whole.notes) {
        match &whole.what {
            What::Swap(entries) => ask_swap(&kernel, entries),
            What::Files { files, root, inode } => ask_files(&kernel, *files, *root, *inode),
        }
    }
    Places::restore(&mut whole.dead.ram, before);
}

fn ask_swap(kernel: &Kernel<'_>, entries: &[SwapEntry]) {
    let Ok(swapped) = Swapped::open(kernel) else { return };
    let mut out = [0; PAGE];
    for entry in entries {
        let _ = swapped.page(*entry, &mut out);
    }
}

fn ask_files(kernel: &Kernel<'_>, files: [u64; 2], root: Root, inode: u64) {
    let (Ok(paths), Ok(cache)) = (Paths::new(kernel), Cache::new(kernel)) else { return };
    for file in files {
        if let Ok(path) = paths.of_file(file, Some(root)) {
            assert!(path.bytes.len() < 3 * 4096);
        }
    }
    for path in ["/etc/link", "/run/log", "/etc/nothing", "/etc/../run/./log"] {
        if let Ok(target) = lookup::find(kernel, &paths, &cache, root, path.as_bytes()) {
            let _ = cache.of_inode(target.inode);
        }
    }
    let mapping = cache.of_inode(inode);
    for of in files.map(|file| cache.of_file(file)).into_iter().chain([mapping]).flatten() {
        assert!(cache.held(&of) <= of.size.div_ceil(PAGE as u64));
        let mut page = [0; PAGE];
        let _ = buildid::of(|at, buf| {
            let inside = usize::try_from(at % PAGE as u64).expect("less than a page");
            let found = cache.read(&of, at / PAGE as u64, &mut page);
            match page.get(inside..inside + buf.len()).filter(|_| found.is_ok()) {
                Some(from) => buf.copy_from_slice(from),
                None => return false,
            }
            true
        });
        // Of a file of terabytes, page after page may be there: that is long, not endless.
        if of.size < 64 << 20
            && let Ok(report) = extract(&cache, None, &of, Nowhere)
        {
            assert_eq!(report.pages + report.missing(), of.size.div_ceil(PAGE as u64));
        }
    }
}
