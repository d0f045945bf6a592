//! Files of the dead machine: their paths, and as much of them as its memory holds.
//!
//! | part | what it knows |
//! |---|---|
//! | [`path`] | the path of an open or mapped file, through dentries and mounts |
//! | [`lookup`] | the other way: from a path to an inode, without a disk |
//! | [`cache`] | pages of a file in the page cache, or shared memory's on swap |
//! | [`extract`](mod@extract) | a whole file, as far as it is there |
//! | [`buildid`] | what an ELF file says of its own identity |

pub mod buildid;
pub mod cache;
pub mod extract;
pub mod lookup;
pub mod path;

use crate::kernel::{Fault, Field, Kernel, KernelError};

pub use cache::{Cache, Cached, Mapping};
pub use extract::{ExtractError, Extracted, extract};
pub use lookup::{LookupError, Target};
pub use path::{Path, Paths, Root};

/// Most bytes of a path (`PATH_MAX`).
pub const MAX_PATH: usize = 4096;
/// Most bytes of one name (`NAME_MAX`).
pub const MAX_NAME: u64 = 255;

/// The type of a file system, as `/proc/filesystems` names it; at most 32 bytes.
fn type_name(kernel: &Kernel<'_>, fields: &TypeFields, sb: u64) -> Result<Vec<u8>, Fault> {
    let kind = kernel.get(sb, fields.s_type)?;
    kernel.string(kernel.get(kind, fields.name)?, 32)
}

/// Where a super block says what it is of.
#[derive(Debug, Clone, Copy)]
struct TypeFields {
    s_type: Field,
    name: Field,
}

impl TypeFields {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        Ok(Self {
            s_type: kernel.field("super_block", "s_type")?,
            name: kernel.field("file_system_type", "name")?,
        })
    }
}
