//! A writer of “newc” cpio archives that knows no clock, no owner and no file system.
//!
//! Layout: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`.

const TRAILER: &str = "TRAILER!!!";
const DIR: u32 = 0o040_000;
const CHAR: u32 = 0o020_000;
const FILE: u32 = 0o100_000;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    Char { major: u32, minor: u32 },
    File(Vec<u8>),
}

/// An archive being written. Paths have no leading slash.
pub(crate) struct Archive {
    out: Vec<u8>,
    next_inode: u32,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { out: Vec::new(), next_inode: 1 }
    }

    /// Appends an entry; fails for a file or name that the format cannot hold.
    pub(crate) fn add(&mut self, path: &str, mode: u32, kind: &Kind) -> Result<(), &'static str> {
        let inode = self.next_inode;
        self.next_inode += 1;
        let (kind_bits, links, device, data): (u32, u32, (u32, u32), &[u8]) = match kind {
            Kind::Dir => (DIR, 2, (0, 0), &[]),
            Kind::Char { major, minor } => (CHAR, 1, (*major, *minor), &[]),
            Kind::File(data) => (FILE, 1, (0, 0), data),
        };
        self.entry(path, [inode, kind_bits | mode, links], device, data)
    }

    /// The archive with its trailer.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, &'static str> {
        self.entry(TRAILER, [0, 0, 1], (0, 0), &[])?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        [inode, mode, links]: [u32; 3],
        (major, minor): (u32, u32),
        data: &[u8],
    ) -> Result<(), &'static str> {
        let size = u32::try_from(data.len()).map_err(|_| "a file of 4 GiB and more")?;
        let name_len = u32::try_from(path.len() + 1).map_err(|_| "a name that is too long")?;
        if name_len > 4096 || path.bytes().any(|b| b == 0) {
            return Err("a name that no kernel takes");
        }
        // ino, mode, uid, gid, nlink, mtime, size, device, device node, name size, check
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_len, 0];
        self.out.extend_from_slice(b"070701");
        for field in fields {
            self.out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.out.extend_from_slice(path.as_bytes());
        self.out.push(0);
        self.pad();
        self.out.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}
