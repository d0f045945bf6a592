//! The one-block structures: superblock, part block, dump header, commit record, and the
//! key area.

use lifeboat_format::header::KEY_AREA_LEN;
use lifeboat_format::superblock::{EDGE, MIN_VOLUME, SLOTS};
use lifeboat_format::{
    BLOCK, CommitRecord, DumpHeader, KeyArea, KeyEntry, PartBlock, Superblock, crc32,
};

/// `data` in front of zeros; what does not fit is cut.
pub(crate) fn padded<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut out = [0u8; N];
    let len = data.len().min(N);
    out[..len].copy_from_slice(&data[..len]);
    out
}

/// Makes the CRC-32 in the last four bytes right.
pub(crate) fn reseal(bytes: &mut [u8]) {
    if let Some((body, tail)) = bytes.split_last_chunk_mut::<4>() {
        *tail = crc32(body).to_le_bytes();
    }
}

/// As it is, and with its checksum made right.
fn both<const N: usize>(data: &[u8]) -> [[u8; N]; 2] {
    let raw = padded::<N>(data);
    let mut sealed = raw;
    reseal(&mut sealed);
    [raw, sealed]
}

/// Superblock and part block.
pub fn superblock(data: &[u8]) {
    for block in both::<BLOCK>(data) {
        if let Ok(sb) = Superblock::decode(&block) {
            assert_eq!(Superblock::decode(&sb.encode()), Ok(sb));
            assert!(sb.part_len >= MIN_VOLUME && (1..=SLOTS).contains(&sb.max_dumps));
            assert!(sb.data_start().0 < sb.data_end().0 && sb.data_end().0 < sb.part_len);
            let backup = Superblock::backup_at(sb.part_len).0;
            assert_eq!(backup + BLOCK as u64, sb.part_len);
            let mut at = 0;
            for area in sb.guard_areas() {
                assert!(at <= area.start && area.start <= area.end && area.end <= backup);
                at = area.end;
            }
            assert!(sb.data_start().0 >= EDGE);
        }
        if let Ok(part) = PartBlock::decode(&block) {
            assert_eq!(PartBlock::decode(&part.encode()), Ok(part));
            assert!(part.part > 0 && part.base.is_multiple_of(BLOCK as u64));
        }
    }
}

/// Dump header with key area, and commit record.
pub fn header(data: &[u8]) {
    for block in both::<BLOCK>(data) {
        if let Ok(header) = DumpHeader::decode(&block) {
            assert_eq!(DumpHeader::decode(&header.encode()), Ok(header));
            let _ = (header.release_text().len(), header.reason_text().len());
        }
        if let Ok(commit) = CommitRecord::decode(&block) {
            assert_eq!(CommitRecord::decode(&commit.encode()), Ok(commit));
            assert!(commit.total_len.is_multiple_of(BLOCK as u64));
            let _ = commit.memory.seen();
        }
    }
    // The key area alone, and behind a header.
    key_area(data);
    key_area(data.get(BLOCK..).unwrap_or_default());
}

fn key_area(data: &[u8]) {
    for bytes in both::<KEY_AREA_LEN>(data) {
        let salvaged: Vec<KeyEntry<'_>> = KeyArea::salvage(&bytes).collect();
        assert!(salvaged.len() <= lifeboat_format::keys::MAX_ENTRIES);
        let held: usize = salvaged.iter().map(|e| e.wrapped.len() + 8 * e.fingerprints.len()).sum();
        assert!(held <= KEY_AREA_LEN);
        let Ok(area) = KeyArea::decode(&bytes) else { continue };
        let entries: Vec<KeyEntry<'_>> = area.entries().collect();
        let prints: usize = entries.iter().map(|e| e.fingerprints.len()).sum();
        let wrapped: usize = entries.iter().map(|e| e.wrapped.len()).sum();
        assert!(prints <= lifeboat_format::keys::MAX_RECIPIENTS);
        assert!(wrapped + 8 * prints <= KEY_AREA_LEN);
        assert_eq!(area.fingerprints().count(), prints);
        if bytes.starts_with(&lifeboat_format::keys::MAGIC) {
            assert!(salvaged.starts_with(&entries), "what is sound is salvaged whole");
        }
        let mut again = [0u8; KEY_AREA_LEN];
        // An area of version 1 may hold a few bytes more than one of version 2.
        if KeyArea::encode(&mut again, area.generation, &entries).is_ok() {
            let area = KeyArea::decode(&again).expect("what was just encoded");
            assert!(area.entries().eq(entries.iter().copied()));
        } else {
            assert!(bytes.starts_with(&lifeboat_format::keys::MAGIC_V1));
        }
    }
}
