//! What is wrong with a volume, and what to do about it.

use std::io;

use lifeboat_format::FormatError;
use lifeboat_sys::Plain;

/// Why a volume is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// I/O failed.
    #[error("{what}: {}", Plain(.source))]
    Io {
        /// What was being done.
        what: &'static str,
        /// The device's error.
        source: io::Error,
    },
    /// There is no superblock of ours.
    #[error(
        "no Lifeboat superblock: this is not a dump volume\nhint: `lifeboat format` makes one, and destroys what is there"
    )]
    NotOurs,
    /// The superblock is damaged or of another version.
    #[error(
        "{0}\nhint: the volume was overwritten or damaged; read what is left with `lifeboat list`, then format it anew"
    )]
    Superblock(FormatError),
    /// The two superblocks differ.
    #[error(
        "the two superblocks differ: something wrote to this volume\nhint: if its dumps are pulled, run `lifeboat format` again"
    )]
    Backup,
    /// The partition is not where the superblock says.
    #[error(
        "the superblock was made for a partition of {want_len} bytes at byte {want_start}, but this one has {len} bytes at byte {start}\nhint: the partition was moved, resized or copied; run `lifeboat format` on it again"
    )]
    Moved {
        /// Recorded start, bytes.
        want_start: u64,
        /// Recorded length, bytes.
        want_len: u64,
        /// Start found, bytes.
        start: u64,
        /// Length found, bytes.
        len: u64,
    },
    /// A guard area is not zero.
    #[error(
        "foreign data at byte {at} of the volume: something else uses this partition\nhint: find out what wrote there; if the partition is ours, run `lifeboat format` again"
    )]
    Foreign {
        /// First byte that is not zero.
        at: u64,
    },
    /// Too small.
    #[error(
        "{len} bytes are too few for a dump volume, it needs at least {need}\nhint: give it a larger partition"
    )]
    TooSmall {
        /// Length found, bytes.
        len: u64,
        /// Least length, bytes.
        need: u64,
    },
    /// No room for a further dump.
    #[error(
        "no room for another dump: {dumps} of {max} dumps kept, largest gap {gap} bytes, and the policy is {policy}\nhint: pull the old dumps and clear them with `lifeboat clear`"
    )]
    Full {
        /// Dumps kept.
        dumps: u32,
        /// Most that may be kept.
        max: u32,
        /// Largest free gap, bytes.
        gap: u64,
        /// Name of the policy that gave up no more dumps.
        policy: &'static str,
    },
    /// Numbers of dumps, or of writes to a slot, are used up: only a forged slot has such
    /// a number.
    #[error(
        "a slot holds the highest number there is, of a dump or of its writes\nhint: nobody made so many; the volume was tampered with: save it with dd, then format it anew"
    )]
    Worn,
    /// A slot cannot be read: what it protects is unknown.
    #[error(
        "slot {slot} is damaged ({why}): what it protects is not known, so nothing is written\nhint: save the volume with dd, then format it anew"
    )]
    Slot {
        /// Number of the slot.
        slot: u32,
        /// What is wrong.
        why: FormatError,
    },
    /// A caller named a slot that holds no dump.
    #[error("slot {slot} holds no dump")]
    NoDump {
        /// Number of the slot.
        slot: u32,
    },
}

impl VolumeError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// The device's error, or that the slot cannot be used.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            _ => io::ErrorKind::InvalidData.into(),
        }
    }
}
