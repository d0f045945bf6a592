//! The build id of an ELF file: by it, the very file can be fetched that the dead machine ran.
//!
//! It is a note (`NT_GNU_BUILD_ID`) that the linker puts near the start of a file, so that
//! the first page of it is mostly enough.

use lifeboat_sources::bytes::{le16, le32, le64};

/// Most program headers that are looked at.
const MAX_HEADERS: u16 = 256;
/// Most bytes of a segment of notes that are looked at.
const MAX_NOTES: u64 = 64 << 10;
/// Most bytes of a build id; SHA-1's has 20.
const MAX_ID: usize = 64;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// What the start of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// An ELF file with this build id.
    BuildId(Vec<u8>),
    /// An ELF file without one.
    NoBuildId,
    /// An ELF file, of which the part that would tell is not there.
    Unknown,
    /// Not an ELF file of 64 bits, little-endian.
    NotElf,
}

impl Identity {
    /// The build id in hexadecimal.
    #[must_use]
    pub fn hex(&self) -> Option<String> {
        use std::fmt::Write as _;
        let Self::BuildId(id) = self else { return None };
        let mut out = String::with_capacity(id.len() * 2);
        for byte in id {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
        }
        Some(out)
    }
}

/// Reads the identity of a file. `read` fills a buffer with what lies at an offset of the
/// file, in bytes, and says whether all of it is there.
#[must_use]
pub fn of(mut read: impl FnMut(u64, &mut [u8]) -> bool) -> Identity {
    let mut head = [0; 64];
    if !read(0, &mut head) {
        return Identity::Unknown;
    }
    // ELFCLASS64, ELFDATA2LSB.
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Identity::NotElf;
    }
    let places = (|| {
        let half = |at| le16(&head, at);
        Some((le64(&head, 32)?, half(54)?, half(56)?))
    })();
    let Some((at, size, count)) = places.filter(|(_, size, _)| *size >= 56) else {
        return Identity::NotElf;
    };
    let mut missing = count > MAX_HEADERS;
    for n in 0..count.min(MAX_HEADERS) {
        let mut header = [0; 56];
        // 16 bits each.
        let place = at.checked_add(u64::from(n) * u64::from(size));
        if !place.is_some_and(|place| read(place, &mut header)) {
            missing = true;
            continue;
        }
        let found = le32(&header, 0).zip(le64(&header, 8)).zip(le64(&header, 32));
        let Some(((PT_NOTE, offset), len)) = found else { continue };
        let mut notes = vec![0; usize::try_from(len.min(MAX_NOTES)).unwrap_or(0)];
        if !read(offset, &mut notes) {
            missing = true;
            continue;
        }
        if let Some(id) = build_id(&notes) {
            return Identity::BuildId(id);
        }
    }
    if missing { Identity::Unknown } else { Identity::NoBuildId }
}

/// The build id among notes.
fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = notes;
    loop {
        let name_len = usize::try_from(le32(rest, 0)?).ok()?;
        let desc_len = usize::try_from(le32(rest, 4)?).ok()?;
        let kind = le32(rest, 8)?;
        // From 32 bits: no sum of these overflows.
        let desc_at = 12 + name_len.next_multiple_of(4);
        let name = rest.get(12..12 + name_len)?;
        let desc = rest.get(desc_at..desc_at + desc_len)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (1..=MAX_ID).contains(&desc_len) {
            return Some(desc.to_vec());
        }
        rest = rest.get(desc_at + desc_len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(file: &[u8]) -> Identity {
        of(|at, buf| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let end = at.saturating_add(buf.len());
            file.get(at..end).is_some_and(|from| {
                buf.copy_from_slice(from);
                true
            })
        })
    }

    /// This very program; `readelf` is the other opinion.
    #[test]
    fn a_program_s_own_id_is_what_readelf_says() {
        let dir = tempfile::tempdir().unwrap();
        let (source, program) = (dir.path().join("x.c"), dir.path().join("x"));
        std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let gcc = |id: &str| {
            let args = [source.as_os_str(), "-o".as_ref(), program.as_os_str(), id.as_ref()];
            assert!(std::process::Command::new("gcc").args(args).status().unwrap().success());
            std::fs::read(&program).unwrap()
        };
        let with = gcc("-Wl,--build-id=sha1");
        let said = std::process::Command::new("readelf").arg("-n").arg(&program).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let id = said.lines().find_map(|l| l.trim().strip_prefix("Build ID: ")).unwrap().to_owned();
        assert_eq!(identity(&with).hex().as_deref(), Some(id.as_str()));
        assert_eq!(identity(&with[..64]), Identity::Unknown);
        assert_eq!(identity(&gcc("-Wl,--build-id=none")), Identity::NoBuildId);
        assert_eq!(identity(&[0; 4096]), Identity::NotElf);
        assert_eq!(identity(&[]), Identity::Unknown);
    }

    proptest! {
        #[test]
        fn nothing_hostile_panics(
            mut file in proptest::collection::vec(any::<u8>(), 64..600), at in 0u8..128,
        ) {
            file[..6].copy_from_slice(b"\x7fELF\x02\x01");
            file[32..40].copy_from_slice(&u64::from(at).to_le_bytes());
            file[54..56].copy_from_slice(&56u16.to_le_bytes());
            let _ = identity(&file);
        }
    }
}
