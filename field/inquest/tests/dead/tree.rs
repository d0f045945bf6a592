//! Directories and files of a dead kernel: dentries, mounts, inodes, and their pages.

use lifeboat_inquest::files::Root;
use lifeboat_inquest::{PAGE, Pfn};

use super::{Dead, Is, P, U2, U4};

pub const FILE: u64 = 0o10_0644;
pub const DIRECTORY: u64 = 0o4_0755;
pub const LINK: u64 = 0o12_0777;
/// `PG_uptodate`.
pub const UPTODATE: u64 = 1 << 2;

/// How directories list their names: before and since commit da549bdd15c2.
#[derive(Clone, Copy, PartialEq)]
pub enum Age {
    Old,
    New,
}

pub struct World {
    pub dead: Dead,
    pub age: Age,
    /// `shmem_aops`.
    pub shmem: u64,
}

impl World {
    pub fn new(age: Age) -> Self {
        let mut dead = Dead::new();
        declare(&mut dead, age);
        let shmem = dead.variable("shmem_aops", 8);
        Self { dead, age, shmem }
    }

    /// A super block of a file system's type.
    pub fn sb(&mut self, kind: &str) -> u64 {
        let (sb, of) = (self.dead.object("super_block"), self.dead.object("file_system_type"));
        let name = self.dead.text(kind);
        self.dead.set(of, "file_system_type.name", name);
        self.dead.set(sb, "super_block.s_type", of);
        sb
    }

    pub fn inode(&mut self, sb: u64, mode: u64, size: u64) -> u64 {
        let (inode, space) = (self.dead.object("inode"), self.dead.object("address_space"));
        for (path, value) in [
            ("inode.i_mode", mode),
            ("inode.i_size", size),
            ("inode.i_ino", 77),
            ("inode.i_sb", sb),
            ("inode.i_mapping", space),
        ] {
            self.dead.set(inode, path, value);
        }
        self.dead.set(space, "address_space.host", inode);
        inode
    }

    pub fn list(&mut self, head: u64) {
        self.dead.put(head, head);
        self.dead.put(head + 8, head);
    }

    /// Puts a node in front of a list's others.
    pub fn link(&mut self, head: u64, node: u64) {
        let first = self.dead.get(head);
        self.dead.put(node, first);
        self.dead.put(node + 8, head);
        self.dead.put(first + 8, node);
        self.dead.put(head, node);
    }

    /// A name in a directory; 0 for a root's parent.
    pub fn dentry(&mut self, parent: u64, name: &str, sb: u64, inode: u64) -> u64 {
        let dentry = self.dead.object("dentry");
        let text = self.dead.text(name);
        for (path, value) in [
            ("dentry.d_parent", if parent == 0 { dentry } else { parent }),
            ("dentry.d_sb", sb),
            ("dentry.d_inode", inode),
        ] {
            self.dead.set(dentry, path, value);
        }
        let at = self.dead.at(dentry, "dentry.d_name");
        let (name_at, len_at) = (self.dead.at(at, "qstr.name"), self.dead.at(at, "qstr.len"));
        self.dead.put(name_at, text);
        self.dead.bytes(len_at, &u32::try_from(name.len()).unwrap().to_le_bytes());
        let hash = self.dead.at(dentry, "dentry.d_hash");
        let pprev = self.dead.at(hash, "hlist_bl_node.pprev");
        self.dead.put(pprev, 0xffff_8880_0000_1000);
        if self.age == Age::Old {
            let own = self.dead.at(dentry, "dentry.d_subdirs");
            self.list(own);
        }
        if parent != 0 {
            self.child(parent, dentry);
        }
        dentry
    }

    pub fn child(&mut self, parent: u64, dentry: u64) {
        match self.age {
            Age::Old => {
                let head = self.dead.at(parent, "dentry.d_subdirs");
                let node = self.dead.at(dentry, "dentry.d_child");
                self.link(head, node);
            }
            Age::New => {
                let head = self.dead.at(parent, "dentry.d_children");
                let node = self.dead.at(dentry, "dentry.d_sib");
                let first = self.dead.get(head);
                self.dead.put(node, first);
                self.dead.put(node + 8, head);
                if first != 0 {
                    self.dead.put(first + 8, node);
                }
                self.dead.put(head, node);
            }
        }
    }

    /// Mounts the root dentry of a file system on a place. Gives its `struct vfsmount`.
    pub fn mount(&mut self, root: u64, on: Option<Root>) -> u64 {
        let mount = self.dead.object("mount");
        let mnt = self.dead.at(mount, "mount.mnt");
        let place = self.dead.at(mnt, "vfsmount.mnt_root");
        self.dead.put(place, root);
        let children = self.dead.at(mount, "mount.mnt_mounts");
        self.list(children);
        match on {
            None => self.dead.set(mount, "mount.mnt_parent", mount),
            Some(on) => {
                let above = on.mnt - self.dead.at(0, "mount.mnt");
                self.dead.set(mount, "mount.mnt_parent", above);
                self.dead.set(mount, "mount.mnt_mountpoint", on.dentry);
                let head = self.dead.at(above, "mount.mnt_mounts");
                let node = self.dead.at(mount, "mount.mnt_child");
                self.link(head, node);
            }
        }
        mnt
    }

    /// An open file.
    pub fn open(&mut self, at: Root) -> u64 {
        let file = self.dead.object("file");
        let path = self.dead.at(file, "file.f_path");
        let (mnt, dentry) = (self.dead.at(path, "path.mnt"), self.dead.at(path, "path.dentry"));
        self.dead.put(mnt, at.mnt);
        self.dead.put(dentry, at.dentry);
        let inode = self.dead.get(self.dead.at(at.dentry, "dentry.d_inode"));
        let mapping = self.dead.get(self.dead.at(inode, "inode.i_mapping"));
        self.dead.set(file, "file.f_mapping", mapping);
        file
    }

    pub fn space(&self, inode: u64) -> u64 {
        self.dead.get(self.dead.at(inode, "inode.i_mapping"))
    }

    /// A page of a file, with these contents.
    pub fn page(&mut self, inode: u64, index: u64, fill: u8) -> Pfn {
        let pfn = self.dead.page();
        let page = Dead::struct_page(pfn);
        let space = self.space(inode);
        self.dead.set(page, "page.flags", UPTODATE);
        self.dead.set(page, "page.mapping", space);
        self.dead.set(page, "page.index", index);
        self.dead.bytes(super::DIRECT + pfn.0 * PAGE as u64, &[fill; PAGE]);
        pfn
    }

    pub fn pages(&mut self, inode: u64, entries: &[(u64, u64)]) {
        let array = self.dead.at(self.space(inode), "address_space.i_pages");
        self.dead.xarray(array, entries);
    }
}

pub fn declare(dead: &mut Dead, age: Age) {
    dead.record("list_head", 16, &[("next", P, 0), ("prev", P, 8)]);
    dead.record("hlist_head", 8, &[("first", P, 0)]);
    dead.record("hlist_node", 16, &[("next", P, 0), ("pprev", P, 8)]);
    dead.record("hlist_bl_node", 16, &[("next", P, 0), ("pprev", P, 8)]);
    dead.record("qstr", 16, &[("hash", U4, 0), ("len", U4, 4), ("name", P, 8)]);
    dead.record("path", 16, &[("mnt", P, 0), ("dentry", P, 8)]);
    dead.record("file", 128, &[("f_path", Is::Record("path"), 16), ("f_mapping", P, 64)]);
    dead.record("dentry_operations", 64, &[("d_dname", P, 40)]);
    dead.record("file_system_type", 64, &[("name", P, 0)]);
    dead.record("super_block", 128, &[("s_type", P, 40), ("s_fs_info", P, 80)]);
    dead.record(
        "address_space",
        192,
        &[("host", P, 0), ("i_pages", Is::Record("xarray"), 8), ("a_ops", P, 104)],
    );
    dead.record(
        "inode",
        256,
        &[
            ("i_mode", U2, 0),
            ("i_sb", P, 40),
            ("i_mapping", P, 48),
            ("i_ino", P, 64),
            ("i_size", P, 80),
            ("i_link", P, 200),
        ],
    );
    let mut dentry = vec![
        ("d_hash", Is::Record("hlist_bl_node"), 8),
        ("d_parent", P, 24),
        ("d_name", Is::Record("qstr"), 32),
        ("d_inode", P, 48),
        ("d_op", P, 96),
        ("d_sb", P, 104),
    ];
    dentry.extend(match age {
        Age::Old => {
            [("d_child", Is::Record("list_head"), 144), ("d_subdirs", Is::Record("list_head"), 160)]
        }
        Age::New => [
            ("d_sib", Is::Record("hlist_node"), 144),
            ("d_children", Is::Record("hlist_head"), 160),
        ],
    });
    dead.record("dentry", 192, &dentry);
    dead.record("vfsmount", 32, &[("mnt_root", P, 0)]);
    dead.record(
        "mount",
        256,
        &[
            ("mnt_parent", P, 16),
            ("mnt_mountpoint", P, 24),
            ("mnt", Is::Record("vfsmount"), 32),
            ("mnt_mounts", Is::Record("list_head"), 96),
            ("mnt_child", Is::Record("list_head"), 112),
        ],
    );
    dead.enumeration("pageflags", &[("PG_uptodate", 2)]);
}

/// A machine with `/etc/app.conf`, `/etc/link` to it, and a tmpfs on `/run` with `/run/log`.
pub struct Tree {
    pub world: World,
    pub root: Root,
    pub etc: u64,
    pub conf: u64,
    pub conf_inode: u64,
    pub log: Root,
    pub log_inode: u64,
}

pub fn tree(age: Age) -> Tree {
    let mut w = World::new(age);
    let ext4 = w.sb("ext4");
    let dir = w.inode(ext4, DIRECTORY, 4096);
    let top = w.dentry(0, "/", ext4, dir);
    let mnt = w.mount(top, None);
    let root = Root { mnt, dentry: top };
    let dir = w.inode(ext4, DIRECTORY, 4096);
    let etc = w.dentry(top, "etc", ext4, dir);
    let conf_inode = w.inode(ext4, FILE, 5 * PAGE as u64 + 10);
    let conf = w.dentry(etc, "app.conf", ext4, conf_inode);
    let link = w.inode(ext4, LINK, 8);
    let to = w.dead.text("../etc/app.conf");
    w.dead.set(link, "inode.i_link", to);
    w.dentry(etc, "link", ext4, link);
    let dir = w.inode(ext4, DIRECTORY, 4096);
    let run = w.dentry(top, "run", ext4, dir);
    let tmpfs = w.sb("tmpfs");
    let dir = w.inode(tmpfs, DIRECTORY, 0);
    let inner = w.dentry(0, "/", tmpfs, dir);
    let on = w.mount(inner, Some(Root { mnt, dentry: run }));
    let log_inode = w.inode(tmpfs, FILE, 4 * PAGE as u64);
    let (ops, space) = (w.shmem, w.space(log_inode));
    w.dead.set(space, "address_space.a_ops", ops);
    let log = w.dentry(inner, "log", tmpfs, log_inode);
    Tree { world: w, root, etc, conf, conf_inode, log: Root { mnt: on, dentry: log }, log_inode }
}
