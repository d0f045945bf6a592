//! Little-endian numbers out of a slice, `None` where the slice is too short.

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// 16 bits at byte `at`.
#[must_use]
pub fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// 32 bits at byte `at`.
#[must_use]
pub fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// 64 bits at byte `at`.
#[must_use]
pub fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// 16 bytes at `at`.
pub(crate) fn id16(bytes: &[u8], at: usize) -> Option<[u8; 16]> {
    array(bytes, at)
}

/// A GUID as GPT stores it (first three groups little-endian), as lower-case text.
pub(crate) fn guid_text(raw: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = raw;
    uuid_text([[d, c, b, a, f, e, h, g], rest])
}

/// A UUID in the order of its bytes, as lower-case text.
pub(crate) fn uuid_text(raw: [[u8; 8]; 2]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(36);
    for (i, byte) in raw.iter().flatten().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}
