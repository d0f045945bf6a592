//! Swap areas, caches, pools and devices, put into a dead kernel one by one.

use std::collections::BTreeMap;

use lifeboat_inquest::swapped::SwapEntry;
use lifeboat_inquest::{PAGE, Pfn, SwapDevice};

use super::types::{Age, declare};
use super::{DIRECT, Dead};

pub type Page = [u8; PAGE];

/// Flags of a page.
pub const UPTODATE: u64 = 1 << 2;
pub const DIRTY: u64 = 1 << 4;
pub const SWAPCACHE: u64 = 1 << 10;

/// Flags of a swap area: in use; and a block device.
pub const USED: u64 = 3;
pub const DEVICE: u64 = 3 | 64;

/// A page with a pattern that says which it is.
pub fn pattern(seed: u64) -> Page {
    let mut page = [0; PAGE];
    for (n, word) in page.chunks_exact_mut(8).enumerate().filter(|(n, _)| n % 5 == 0) {
        word.copy_from_slice(&((seed << 20) | (n as u64 / 64)).to_le_bytes());
    }
    page
}

/// A pool of zsmalloc.
#[derive(Clone, Copy)]
pub struct Pool(pub u64);

/// Pages of one zspage.
pub struct Zspage {
    pages: Vec<Pfn>,
    size: u64,
    huge: bool,
}

pub struct World {
    pub dead: Dead,
    pub age: Age,
    /// Of each area's space, what is in its cache.
    cached: BTreeMap<(u8, u64), Vec<(u64, u64)>>,
    /// Of each area's tree, the entries of zswap.
    zswap: BTreeMap<(u8, u64), Vec<(u64, u64)>>,
    pages: BTreeMap<u8, u64>,
}

impl World {
    pub fn new(age: Age) -> Self {
        let mut dead = Dead::new();
        declare(&mut dead, age);
        Self { dead, age, cached: BTreeMap::new(), zswap: BTreeMap::new(), pages: BTreeMap::new() }
    }

    pub fn symbol(&self, name: &str) -> u64 {
        self.dead.symbols.iter().find(|(_, n)| n == name).unwrap().0
    }

    /// A block device; captured ones have the contents in `disk`.
    pub fn bdev(&mut self, disk: u64, name: &str, pages: u64, partuuid: Option<&str>) -> u64 {
        let d = &mut self.dead;
        let bdev = d.object("block_device");
        d.set(bdev, "block_device.bd_nr_sectors", pages * 8);
        d.set(bdev, "block_device.bd_disk", disk);
        let text = d.text(name);
        let device = d.at(bdev, "block_device.bd_device");
        let kobject = d.at(device, "device.kobj");
        d.set(kobject, "kobject.name", text);
        if let Some(uuid) = partuuid {
            let meta = d.object("partition_meta_info");
            d.bytes(meta, uuid.as_bytes());
            d.set(bdev, "block_device.bd_meta_info", meta);
        }
        bdev
    }

    pub fn disk(&mut self, name: &str) -> u64 {
        let disk = self.dead.object("gendisk");
        let at = self.dead.at(disk, "gendisk.disk_name");
        self.dead.bytes(at, name.as_bytes());
        disk
    }

    /// A device that was captured, with a swap header.
    pub fn captured(&mut self, name: &str, pages: u64, partuuid: Option<&str>) -> usize {
        let mut disk = vec![0; usize::try_from(pages).unwrap() * PAGE];
        disk[1024] = 1;
        disk[1028..1032].copy_from_slice(&u32::try_from(pages - 1).unwrap().to_le_bytes());
        disk[PAGE - 10..PAGE].copy_from_slice(b"SWAPSPACE2");
        self.dead.disks.push(disk);
        self.dead.swaps.push(SwapDevice {
            name: name.to_owned(),
            bytes: pages * PAGE as u64,
            uuid: None,
            partuuid: partuuid.map(str::to_owned),
        });
        self.dead.swaps.len() - 1
    }

    pub fn write(&mut self, device: usize, page: u64, contents: &Page) {
        let at = usize::try_from(page).unwrap() * PAGE;
        self.dead.disks[device][at..at + PAGE].copy_from_slice(contents);
    }

    /// A swap area; `extents` are first page, count and block. Gives its address.
    pub fn area(
        &mut self,
        number: u8,
        flags: u64,
        pages: u64,
        bdev: u64,
        extents: &[(u64, u64, u64)],
    ) -> u64 {
        let (table, count) = (self.symbol("swap_info"), self.symbol("nr_swapfiles"));
        let d = &mut self.dead;
        let info = d.object("swap_info_struct");
        d.set(info, "swap_info_struct.flags", flags);
        d.set(info, "swap_info_struct.prio", 0xfffe - u64::from(number));
        d.set(info, "swap_info_struct.max", pages);
        d.set(info, "swap_info_struct.bdev", bdev);
        if self.age == Age::New {
            let bits = d.room(pages.div_ceil(64) * 8, 8);
            d.set(info, "swap_info_struct.zeromap", bits);
        }
        d.put(table + u64::from(number) * 8, info);
        let known = d.get(count) & 0xffff_ffff;
        d.put(count, known.max(u64::from(number) + 1));
        let top = self.extents(extents);
        let root = self.dead.at(info, "swap_info_struct.swap_extent_root");
        self.dead.put(root, top);
        self.pages.insert(number, pages);
        info
    }

    /// A tree of extents that is balanced; the node of its top.
    fn extents(&mut self, list: &[(u64, u64, u64)]) -> u64 {
        let Some((first, count, block)) = list.get(list.len() / 2).copied() else { return 0 };
        let (left, right) = list.split_at(list.len() / 2);
        let (left, right) = (self.extents(left), self.extents(&right[1..]));
        let d = &mut self.dead;
        let extent = d.object("swap_extent");
        d.set(extent, "swap_extent.start_page", first);
        d.set(extent, "swap_extent.nr_pages", count);
        d.set(extent, "swap_extent.start_block", block);
        let node = d.at(extent, "swap_extent.rb_node");
        d.set(node, "rb_node.rb_left", left);
        d.set(node, "rb_node.rb_right", right);
        node
    }

    /// Puts a page into the swap cache. Gives where it is.
    pub fn cache(&mut self, entry: SwapEntry, flags: u64, contents: &Page) -> Pfn {
        let pfn = self.dead.page();
        self.dead.bytes(DIRECT + pfn.0 * PAGE as u64, contents);
        let page = Dead::struct_page(pfn);
        self.dead.set(page, "page.flags", flags);
        self.dead.set(page, "page.private", entry.val());
        self.cache_at(entry, page);
        pfn
    }

    pub fn cache_at(&mut self, entry: SwapEntry, page: u64) {
        let index = if self.age == Age::Old { entry.offset } else { entry.offset & 0x3fff };
        self.cached.entry((entry.area, entry.offset >> 14)).or_default().push((index, page));
    }

    /// An entry of zswap, without its contents; gives its address.
    pub fn zswap(&mut self, entry: SwapEntry, pool: u64, handle: u64, length: usize) -> u64 {
        let d = &mut self.dead;
        let at = d.object("zswap_entry");
        if self.age == Age::Old {
            d.set(at, "zswap_entry.offset", entry.offset);
        } else {
            let swpentry = d.at(at, "zswap_entry.swpentry");
            d.put(swpentry, entry.val());
        }
        d.set(at, "zswap_entry.length", length as u64);
        d.set(at, "zswap_entry.pool", pool);
        d.set(at, "zswap_entry.handle", handle);
        let tree = if self.age == Age::Old { 0 } else { entry.offset >> 14 };
        self.zswap.entry((entry.area, tree)).or_default().push((entry.offset, at));
        at
    }

    /// A pool of zswap over an allocator's pool.
    pub fn zswap_pool(&mut self, kind: &str, codec: &str, inner: u64, evictable: bool) -> u64 {
        let d = &mut self.dead;
        let (pool, zpool, driver) =
            (d.object("zswap_pool"), d.object("zpool"), d.object("zpool_driver"));
        let name = d.text(kind);
        d.set(driver, "zpool_driver.type", name);
        d.set(zpool, "zpool.driver", driver);
        d.set(zpool, "zpool.pool", inner);
        if evictable {
            d.set(zpool, "zpool.evictable", 1);
        }
        d.set(pool, "zswap_pool.zpool", zpool);
        let at = d.at(pool, "zswap_pool.tfm_name");
        d.bytes(at, codec.as_bytes());
        pool
    }

    pub fn pool(&mut self) -> Pool {
        Pool(self.dead.object("zs_pool"))
    }

    /// A zspage of objects of `size` bytes, headers included; a class of its own.
    pub fn zspage(&mut self, pool: Pool, class: u64, size: u64, count: usize) -> Zspage {
        let pages: Vec<Pfn> = (0..count).map(|_| self.dead.page()).collect();
        let huge = size == PAGE as u64;
        let d = &mut self.dead;
        let zspage = d.object("zspage");
        d.set(zspage, "zspage.magic", 0x58);
        d.set(zspage, "zspage.class", class);
        d.set(zspage, "zspage.huge", u64::from(huge));
        let sizes = d.object("size_class");
        d.set(sizes, "size_class.size", size);
        let table = d.at(pool.0, "zs_pool.size_class");
        d.put(table + class * 8, sizes);
        for (n, pfn) in pages.iter().enumerate() {
            let page = Dead::struct_page(*pfn);
            d.set(page, "page.private", zspage);
            if let Some(next) = pages.get(n + 1) {
                d.set(page, "page.index", Dead::struct_page(*next));
            }
        }
        Zspage { pages, size, huge }
    }

    /// Puts bytes into object `number` of a zspage. Gives the handle.
    pub fn object(&mut self, zspage: &Zspage, number: u64, bytes: &[u8]) -> u64 {
        let handle = self.dead.room(8, 8);
        let at = number * zspage.size;
        let pfn = zspage.pages[usize::try_from(at / PAGE as u64).unwrap()];
        let word =
            if self.age == Age::Old { (pfn.0 << 23 | number) << 1 } else { pfn.0 << 24 | number };
        self.dead.put(handle, word);
        let mut all = bytes.to_vec();
        if zspage.huge {
            self.dead.set(Dead::struct_page(pfn), "page.index", handle | 1);
        } else {
            all.splice(0..0, (handle | 1).to_le_bytes());
        }
        assert!(all.len() as u64 <= zspage.size, "{} bytes", all.len());
        for (at, byte) in (at..).zip(all) {
            let pfn = zspage.pages[usize::try_from(at / PAGE as u64).unwrap()];
            self.dead.bytes(DIRECT + pfn.0 * PAGE as u64 + at % PAGE as u64, &[byte]);
        }
        handle
    }

    /// A zram device of so many pages; gives its disk and its table.
    pub fn zram(&mut self, pool: Pool, pages: u64, codecs: &[&str]) -> (u64, u64) {
        let disk = self.disk("zram0");
        let operations = self.symbol("zram_devops");
        let d = &mut self.dead;
        let zram = d.object("zram");
        let table = d.room(pages * 16, 64);
        d.set(disk, "gendisk.fops", operations);
        d.set(disk, "gendisk.private_data", zram);
        d.set(zram, "zram.table", table);
        d.set(zram, "zram.mem_pool", pool.0);
        d.set(zram, "zram.disksize", pages * PAGE as u64);
        for (n, codec) in (0u64..).zip(codecs) {
            if self.age == Age::Old {
                // It has the first one only.
                let at = d.at(zram, "zram.compressor");
                if n == 0 {
                    d.bytes(at, codec.as_bytes());
                }
            } else {
                let name = d.text(codec);
                let at = d.at(zram, "zram.comp_algs");
                d.put(at + n * 8, name);
            }
        }
        (disk, table)
    }

    pub fn slot(&mut self, table: u64, index: u64, handle: u64, flags: u64) {
        self.dead.put(table + index * 16, handle);
        self.dead.set(table + index * 16, "zram_table_entry.flags", flags);
    }

    /// Builds the caches' and zswap's trees. Gives the notes.
    pub fn bury(&mut self) -> Vec<u8> {
        self.caches();
        self.dead.bury()
    }

    /// The same, of a kernel that lacks a symbol.
    pub fn bury_without(&mut self, symbol: &str) -> Vec<u8> {
        self.caches();
        self.dead.symbols.retain(|(_, name)| name != symbol);
        self.dead.bury()
    }

    fn caches(&mut self) {
        let counts = self.symbol("nr_swapper_spaces");
        let spaces = self.symbol("swapper_spaces");
        for (number, pages) in self.pages.clone() {
            let count = pages.div_ceil(1 << 14);
            let array = self.dead.room(count * 192, 64);
            let at = u64::from(number);
            self.dead.put(spaces + at * 8, array);
            self.dead.bytes(counts + at * 4, &u32::try_from(count).unwrap().to_le_bytes());
            for space in 0..count {
                if let Some(list) = self.cached.get(&(number, space)).cloned() {
                    let i_pages = self.dead.at(array + space * 192, "address_space.i_pages");
                    self.dead.xarray(i_pages, &list);
                }
            }
            self.trees(number, count);
        }
    }

    fn trees(&mut self, number: u8, count: u64) {
        let at = self.symbol("zswap_trees") + u64::from(number) * 8;
        if self.age == Age::New {
            let array = self.dead.room(count * 16, 64);
            self.dead.put(at, array);
            let counts = self.symbol("nr_zswap_trees") + u64::from(number) * 4;
            self.dead.bytes(counts, &u32::try_from(count).unwrap().to_le_bytes());
            for tree in 0..count {
                if let Some(list) = self.zswap.get(&(number, tree)).cloned() {
                    self.dead.xarray(array + tree * 16, &list);
                }
            }
            return;
        }
        let Some(mut list) = self.zswap.get(&(number, 0)).cloned() else { return };
        let tree = self.dead.object("zswap_tree");
        self.dead.put(at, tree);
        list.sort_unstable();
        let top = self.balanced(&list);
        self.dead.put(tree, top);
    }

    /// A red-black tree of zswap's entries, which begin with their nodes.
    fn balanced(&mut self, list: &[(u64, u64)]) -> u64 {
        let Some((_, top)) = list.get(list.len() / 2).copied() else { return 0 };
        let (left, right) = list.split_at(list.len() / 2);
        let (left, right) = (self.balanced(left), self.balanced(&right[1..]));
        self.dead.set(top, "rb_node.rb_left", left);
        self.dead.set(top, "rb_node.rb_right", right);
        top
    }
}
