//! From a file to its path, as `d_path()` in `fs/d_path.c` tells it.
//!
//! A dentry knows its name and parent; the root of a mount hangs on a dentry of another one.
//! Files that have no directory (memfd, System V shared memory, shared anonymous memory,
//! anon inodes, sockets) have a `d_dname()`, whose words depend on the file system's type:
//! `simple_dname()` for memory, and `TYPE:NAME` for all others.

use crate::kernel::{Fault, Field, Kernel, KernelError};

use super::{MAX_NAME, MAX_PATH, TypeFields, type_name};

/// Dentries and mounts that one path may lead through.
const MAX_STEPS: usize = 8192;

/// A directory: a mount and a dentry in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Address of its `struct vfsmount`.
    pub mnt: u64,
    /// Address of its `struct dentry`.
    pub dentry: u64,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// As `/proc/PID/maps` would have it; with ` (deleted)` if the file was.
    pub bytes: Vec<u8>,
    /// Whether the file had been deleted, or never had a name.
    pub deleted: bool,
    /// Whether it leads up to the root that was asked for; if not, only the end of the path
    /// is known, or it is of another mount namespace.
    pub whole: bool,
}

impl Path {
    /// For people: with what is no UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// What must be known once to tell any path.
#[derive(Debug)]
pub struct Paths<'k, 'm> {
    kernel: &'k Kernel<'m>,
    f_mnt: Field,
    f_dentry: Field,
    pub(super) d: Dentry,
    pub(super) m: Mount,
    types: TypeFields,
}

/// Members of `struct dentry`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dentry {
    parent: Field,
    pub(super) name: Field,
    pub(super) name_len: Field,
    /// Null if the dentry is in no hash table: the file has no name any more.
    pprev: Field,
    op: Field,
    dname: Field,
    sb: Field,
    pub(super) inode: Field,
}

/// Members of `struct mount`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mount {
    /// Where a `struct vfsmount` lies in it.
    pub(super) mnt: u64,
    pub(super) root: Field,
    pub(super) parent: Field,
    pub(super) mountpoint: Field,
}

impl<'k, 'm> Paths<'k, 'm> {
    /// Looks the members up that a path leads through.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn new(kernel: &'k Kernel<'m>) -> Result<Self, KernelError> {
        let d = |path| kernel.field("dentry", path);
        let m = |path| kernel.field("mount", path);
        Ok(Self {
            kernel,
            f_mnt: kernel.field("file", "f_path.mnt")?,
            f_dentry: kernel.field("file", "f_path.dentry")?,
            d: Dentry {
                parent: d("d_parent")?,
                name: d("d_name.name")?,
                name_len: d("d_name.len")?,
                pprev: d("d_hash.pprev")?,
                op: d("d_op")?,
                dname: kernel.field("dentry_operations", "d_dname")?,
                sb: d("d_sb")?,
                inode: d("d_inode")?,
            },
            m: Mount {
                mnt: m("mnt")?.offset,
                root: m("mnt.mnt_root")?,
                parent: m("mnt_parent")?,
                mountpoint: m("mnt_mountpoint")?,
            },
            types: TypeFields::new(kernel)?,
        })
    }

    /// The root directory of a task: paths are told as it saw them.
    ///
    /// # Errors
    /// [`KernelError`] for what is not known of the kernel, or cannot be read.
    pub fn root_of(&self, task: u64) -> Result<Root, KernelError> {
        let fs = self.kernel.field("task_struct", "fs")?;
        let mnt = self.kernel.field("fs_struct", "root.mnt")?;
        let dentry = self.kernel.field("fs_struct", "root.dentry")?;
        let lost = |fault| KernelError::Memory { what: "the task's root directory", fault };
        let fs = self.kernel.get(task, fs).map_err(lost)?;
        let mnt = self.kernel.get(fs, mnt).map_err(lost)?;
        let dentry = self.kernel.get(fs, dentry).map_err(lost)?;
        Ok(Root { mnt, dentry })
    }

    /// The path of `file`, the address of a `struct file`.
    ///
    /// # Errors
    /// [`Fault`] where not even its name can be read.
    pub fn of_file(&self, file: u64, root: Option<Root>) -> Result<Path, Fault> {
        let mnt = self.kernel.get(file, self.f_mnt)?;
        let dentry = self.kernel.get(file, self.f_dentry)?;
        self.of(Root { mnt, dentry }, root)
    }

    /// The path of a dentry in a mount, seen from `root`.
    ///
    /// # Errors
    /// [`Fault`] where not even its name can be read.
    pub fn of(&self, at: Root, root: Option<Root>) -> Result<Path, Fault> {
        if let Some(bytes) = self.made_up(at)? {
            let deleted = bytes.ends_with(b" (deleted)");
            return Ok(Path { bytes, deleted, whole: true });
        }
        let is_root = self.kernel.get(at.dentry, self.d.parent)? == at.dentry;
        let deleted = self.kernel.get(at.dentry, self.d.pprev)? == 0 && !is_root;
        let (mut names, whole) = self.climb(at, root)?;
        names.reverse();
        let mut bytes = Vec::new();
        for name in &names {
            bytes.push(b'/');
            bytes.extend_from_slice(name);
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        if deleted {
            bytes.extend_from_slice(b" (deleted)");
        }
        Ok(Path { bytes, deleted, whole })
    }

    /// Names from a dentry up to the root; and whether that was reached. What is read before
    /// something is wrong counts, but for the first name.
    fn climb(&self, at: Root, root: Option<Root>) -> Result<(Vec<Vec<u8>>, bool), Fault> {
        let mut names = Vec::new();
        let mut len = 0;
        let (mut dentry, mut mnt) = (at.dentry, at.mnt);
        for _ in 0..MAX_STEPS {
            if root.is_some_and(|r| r.dentry == dentry && r.mnt == mnt) {
                return Ok((names, true));
            }
            let next = self.up(dentry, mnt);
            let step = match next {
                Ok(step) => step,
                Err(fault) if names.is_empty() => return Err(fault),
                Err(_) => break,
            };
            match step {
                Step::Name(name, parent) => {
                    len += name.len() + 1;
                    if len > MAX_PATH {
                        break;
                    }
                    names.push(name);
                    dentry = parent;
                }
                Step::Mount(on) => (dentry, mnt) = (on.dentry, on.mnt),
                Step::Top => return Ok((names, root.is_none())),
            }
        }
        Ok((names, false))
    }

    fn up(&self, dentry: u64, mnt: u64) -> Result<Step, Fault> {
        let k = self.kernel;
        let mount = mnt.checked_sub(self.m.mnt).ok_or(Fault::malformed(mnt))?;
        let parent = k.get(dentry, self.d.parent)?;
        if k.get(mount, self.m.root)? == dentry {
            let above = k.get(mount, self.m.parent)?;
            if above == mount {
                return Ok(Step::Top);
            }
            let on = k.get(mount, self.m.mountpoint)?;
            let mnt = above.checked_add(self.m.mnt).ok_or(Fault::malformed(above))?;
            return Ok(Step::Mount(Root { mnt, dentry: on }));
        }
        if parent == dentry {
            return Ok(Step::Top);
        }
        Ok(Step::Name(self.name(dentry)?, parent))
    }

    /// The last part of a path.
    pub(super) fn name(&self, dentry: u64) -> Result<Vec<u8>, Fault> {
        let len = self.kernel.get(dentry, self.d.name_len)?;
        let at = self.kernel.get(dentry, self.d.name)?;
        // Names that the kernel makes up itself may be longer than a file's.
        let len = usize::try_from(len.min(4 * MAX_NAME)).unwrap_or(0);
        let name = self.kernel.string(at, len)?;
        // A slash within a name would make another path of it.
        Ok(name.into_iter().map(|b| if b == b'/' { b'?' } else { b }).collect())
    }

    /// The words for a file without a directory.
    fn made_up(&self, at: Root) -> Result<Option<Vec<u8>>, Fault> {
        let k = self.kernel;
        let op = k.get(at.dentry, self.d.op)?;
        if op == 0 || k.get(op, self.d.dname)? == 0 {
            return Ok(None);
        }
        let mount = at.mnt.checked_sub(self.m.mnt).ok_or(Fault::malformed(at.mnt))?;
        let is_root = k.get(at.dentry, self.d.parent)? == at.dentry;
        if is_root && k.get(mount, self.m.root)? == at.dentry {
            return Ok(None);
        }
        let kind = type_name(k, &self.types, k.get(at.dentry, self.d.sb)?)?;
        let len = usize::try_from(k.get(at.dentry, self.d.name_len)?.min(4 * MAX_NAME));
        // Not `name()`: such a name may well be `dev/zero`.
        let name = k.string(k.get(at.dentry, self.d.name)?, len.unwrap_or(0))?;
        Ok(Some(match kind.as_slice() {
            b"tmpfs" | b"devtmpfs" | b"hugetlbfs" | b"ramfs" => {
                [b"/".as_slice(), &name, b" (deleted)"].concat()
            }
            // anon_inodefs_dname()
            b"anon_inodefs" => [b"anon_inode:".as_slice(), &name].concat(),
            kind => [kind, b":".as_slice(), &name].concat(),
        }))
    }
}

/// A step towards the root.
enum Step {
    /// This name, and in which directory.
    Name(Vec<u8>, u64),
    /// The root of a mount, and where that hangs.
    Mount(Root),
    /// There is nothing above.
    Top,
}
