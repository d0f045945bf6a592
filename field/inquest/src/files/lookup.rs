//! From a path to the file that it names, by the dentries that the dead kernel had.
//!
//! It knew only names that somebody had used lately: a path may exist on the disk and not be
//! found here. Symbolic links are followed where their text is in memory, and mounts are
//! entered, as `link_path_walk()` in `fs/namei.c` does.

use crate::PAGE;
use crate::kernel::{Fault, Field, Kernel, KernelError};
use crate::walk::{hlist, list};

use super::{Cache, Cached, MAX_PATH, Paths, Root};

/// Names that a directory is looked for in, and those of all directories on the way.
const MAX_CHILDREN: usize = 1 << 20;
const MAX_NAMES: usize = 1 << 22;
/// Mounts beneath one.
const MAX_MOUNTS: usize = 1 << 16;
/// Symbolic links of one path (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;
/// Parts of a path, those of links included.
const MAX_PARTS: usize = 4096;
/// `S_IFMT`, `S_IFLNK`, `S_IFDIR` of `stat(2)`.
const TYPE: u64 = 0o17_0000;
const LINK: u64 = 0o12_0000;
const DIRECTORY: u64 = 0o4_0000;

/// Why a path leads to no file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The dead kernel did not know this name.
    #[error(
        "the dead kernel did not have `{0}` in memory\nhint: it may be on its disk all the same; only files that were in use are here"
    )]
    Unknown(String),
    /// The dead kernel knew that there is no such file.
    #[error(
        "there was no `{0}` on the dead machine\nhint: check the path; `lifeboat libs` shows those of a process"
    )]
    NoFile(String),
    /// Something on the way is no directory, or the end is one.
    #[error("`{0}` is {1}\nhint: check the path")]
    Kind(String, &'static str),
    /// Links lead in a circle, or there are too many of them.
    #[error(
        "`{0}` leads over too many symbolic links\nhint: they lead in a circle, or the dump is damaged"
    )]
    Links(String),
    /// Something on the way cannot be read.
    #[error("`{path}`: {fault}\nhint: the dead machine's memory is damaged or missing there")]
    Lost {
        /// Up to where.
        path: String,
        /// What.
        fault: Fault,
    },
    /// Something is not known of the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub at: Root,
    /// Address of its `struct inode`.
    pub inode: u64,
}

/// How a directory's names hang together.
#[derive(Debug, Clone, Copy)]
enum Children {
    /// `d_subdirs` and `d_child`.
    List(Field, Field),
    /// `d_children` and `d_sib`, since commit da549bdd15c2.
    Hlist(Field, Field),
}

struct Lookup<'a, 'k, 'm> {
    kernel: &'k Kernel<'m>,
    paths: &'a Paths<'k, 'm>,
    cache: &'a Cache<'k, 'm>,
    children: Children,
    mounts: Field,
    child: Field,
    mode: Field,
    link: Field,
    root: Root,
    /// Directories from the root to where we are.
    stack: Vec<Root>,
    links: usize,
    /// Names that may still be looked at.
    left: usize,
}

/// Finds the regular file that `path` names, seen from `root`.
///
/// # Errors
/// [`LookupError`].
pub fn find<'k, 'm>(
    kernel: &'k Kernel<'m>,
    paths: &Paths<'k, 'm>,
    cache: &Cache<'k, 'm>,
    root: Root,
    path: &[u8],
) -> Result<Target, LookupError> {
    let children = match (kernel.field("dentry", "d_children"), kernel.field("dentry", "d_sib")) {
        (Ok(head), Ok(node)) => Children::Hlist(head, node),
        _ => {
            Children::List(kernel.field("dentry", "d_subdirs")?, kernel.field("dentry", "d_child")?)
        }
    };
    let mut lookup = Lookup {
        kernel,
        paths,
        cache,
        children,
        mounts: kernel.field("mount", "mnt_mounts")?,
        child: kernel.field("mount", "mnt_child")?,
        mode: kernel.field("inode", "i_mode")?,
        link: kernel.field("inode", "i_link")?,
        root,
        stack: vec![root],
        links: 0,
        left: MAX_NAMES,
    };
    lookup.walk(path)
}

/// Parts of a path, the first one last.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
    parts.map(<[u8]>::to_vec).rev().collect()
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Lookup<'_, '_, '_> {
    fn walk(&mut self, path: &[u8]) -> Result<Target, LookupError> {
        let lost = |so_far: &[u8], fault| LookupError::Lost { path: text(so_far), fault };
        let mut left = parts(path);
        let mut so_far = Vec::new();
        let mut target = None;
        while let Some(part) = left.pop() {
            if left.len() > MAX_PARTS {
                return Err(LookupError::Links(text(path)));
            }
            if part == b".." {
                if self.stack.len() > 1 {
                    self.stack.pop();
                }
                target = None;
                continue;
            }
            so_far.push(b'/');
            so_far.extend_from_slice(&part);
            let here = self.stack.last().copied().unwrap_or(self.root);
            let found = self.child(here, &part).map_err(|f| lost(&so_far, f))?;
            let dentry = found.ok_or_else(|| LookupError::Unknown(text(&so_far)))?;
            let at = self.enter(Root { dentry, ..here }).map_err(|f| lost(&so_far, f))?;
            let inode = self.kernel.get(at.dentry, self.paths.d.inode);
            let inode = inode.map_err(|f| lost(&so_far, f))?;
            if inode == 0 {
                return Err(LookupError::NoFile(text(&so_far)));
            }
            let mode = self.kernel.get(inode, self.mode).map_err(|f| lost(&so_far, f))?;
            match mode & TYPE {
                LINK => {
                    self.links += 1;
                    if self.links > MAX_LINKS {
                        return Err(LookupError::Links(text(path)));
                    }
                    let to = self.read_link(inode).map_err(|f| lost(&so_far, f))?;
                    if to.starts_with(b"/") {
                        self.stack = vec![self.root];
                        so_far.clear();
                    } else {
                        so_far.truncate(so_far.len() - part.len() - 1);
                    }
                    left.extend(parts(&to));
                }
                DIRECTORY => {
                    self.stack.push(at);
                    target = None;
                }
                _ if left.is_empty() => target = Some(Target { at, inode }),
                _ => return Err(LookupError::Kind(text(&so_far), "no directory")),
            }
        }
        target.ok_or_else(|| LookupError::Kind(text(path), "a directory"))
    }

    /// The dentry of a name in a directory.
    fn child(&mut self, here: Root, name: &[u8]) -> Result<Option<u64>, Fault> {
        let k = self.kernel;
        let head =
            |f: Field| here.dentry.checked_add(f.offset).ok_or(Fault::malformed(here.dentry));
        let most = self.left.min(MAX_CHILDREN);
        let (found, node) = match self.children {
            Children::List(from, node) => (list(k, head(from)?, most), node),
            Children::Hlist(from, node) => (hlist(k, head(from)?, most), node),
        };
        self.left = self.left.saturating_sub(found.items.len());
        let mut known_absent = None;
        for at in &found.items {
            let Some(dentry) = at.checked_sub(node.offset) else { continue };
            // One that cannot be read is not the one, as far as anybody can tell.
            if !self.paths.name(dentry).is_ok_and(|n| n == name) {
                continue;
            }
            match k.get(dentry, self.paths.d.inode) {
                Ok(0) => known_absent = Some(dentry),
                Ok(_) => return Ok(Some(dentry)),
                Err(_) => {}
            }
        }
        if known_absent.is_none() && !found.is_whole() {
            return Err(Fault::malformed(here.dentry));
        }
        Ok(known_absent)
    }

    /// The root of what is mounted on a dentry, the last mount of several.
    fn enter(&mut self, mut at: Root) -> Result<Root, Fault> {
        let (k, m) = (self.kernel, &self.paths.m);
        'mounts: for _ in 0..MAX_LINKS {
            let mount = at.mnt.checked_sub(m.mnt).ok_or(Fault::malformed(at.mnt))?;
            let head = mount.checked_add(self.mounts.offset).ok_or(Fault::malformed(mount))?;
            let mounts = list(k, head, self.left.min(MAX_MOUNTS)).items;
            self.left = self.left.saturating_sub(mounts.len());
            for node in mounts {
                let Some(on) = node.checked_sub(self.child.offset) else { continue };
                if k.get(on, m.mountpoint)? == at.dentry {
                    let mnt = on.checked_add(m.mnt).ok_or(Fault::malformed(on))?;
                    at = Root { mnt, dentry: k.get(on, m.root)? };
                    continue 'mounts;
                }
            }
            break;
        }
        Ok(at)
    }

    /// The text of a symbolic link.
    fn read_link(&self, inode: u64) -> Result<Vec<u8>, Fault> {
        let text = self.kernel.get(inode, self.link)?;
        if text != 0 {
            return self.kernel.string(text, MAX_PATH);
        }
        // `page_get_link()`: the first page of the link holds it.
        let mapping = self.cache.of_inode(inode)?;
        let mut page = [0; PAGE];
        let fault = |why| Fault { addr: mapping.addr, why };
        match self.cache.read(&mapping, 0, &mut page).map_err(fault)? {
            Cached::Page(_) => {
                let len = usize::try_from(mapping.size).unwrap_or(PAGE).min(PAGE - 1);
                let text = page.get(..len).unwrap_or_default();
                Ok(text.split(|b| *b == 0).next().unwrap_or_default().to_vec())
            }
            _ => Err(Fault::malformed(inode)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_parts() {
        let back = |path: &[u8]| parts(path).into_iter().rev().collect::<Vec<_>>().join(&b'|');
        assert_eq!(back(b"//usr/./lib/../bin/"), b"usr|lib|..|bin");
        assert_eq!(back(b"/"), b"");
    }
}
