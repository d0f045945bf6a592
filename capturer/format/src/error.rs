//! What can be wrong with bytes that claim to be ours.

/// A defect in an on-disk structure or in a boot configuration.
///
/// Every variant names the structure; callers add where it lay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than the structure has.
    #[error("{what}: cut short")]
    Short {
        /// The structure.
        what: &'static str,
    },
    /// The magic bytes are not ours.
    #[error("{what}: magic bytes not found")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// A version that this build does not know.
    #[error("{what}: format version {found} is not known to this build (it knows 1 and 2)")]
    Version {
        /// The structure.
        what: &'static str,
        /// The version that was found.
        found: u32,
    },
    /// The CRC-32 does not match.
    #[error("{what}: checksum does not match its bytes")]
    Checksum {
        /// The structure.
        what: &'static str,
    },
    /// A field holds a value that no writer gives.
    #[error("{what}: field `{field}` holds {value}, which is not allowed")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A line of a boot configuration is wrong.
    #[error("boot configuration line {line}: {why}")]
    Boot {
        /// Line number, from 1.
        line: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A fixed buffer is too small for what was asked.
    #[error("{what}: does not fit its space")]
    NoSpace {
        /// The structure.
        what: &'static str,
    },
}
