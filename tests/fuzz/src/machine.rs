//! What a dead machine left: elfcorehdr, notes and VMCOREINFO, swap headers, partition
//! tables.

use lifeboat_format::crc32;
use lifeboat_sources::elfcorehdr::{CoreHeader, EHDR_LEN, ElfHead, MAX_LEN, PHDR_LEN};
use lifeboat_sources::notes::{Notes, valid_len, vmcoreinfo};
use lifeboat_sources::paging::AddressSpace;
use lifeboat_sources::swap::{MAX_BAD_PAGES, PROBE_LEN, Signature, detect};
use lifeboat_sources::vmcoreinfo::VmcoreInfo;
use lifeboat_sources::{elfcorehdr, gpt as table};

/// Core headers: as they are, and with an ELF header that fits the length.
pub fn elfcorehdr(data: &[u8]) {
    core(data);
    let mut whole = crate::script::resized(data, data.len().max(EHDR_LEN));
    whole[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    whole[16..18].copy_from_slice(&[4, 0]);
    whole[54..56].copy_from_slice(&[56, 0]);
    let fit = (whole.len() - EHDR_LEN) / PHDR_LEN;
    whole[56..58].copy_from_slice(&u16::try_from(fit).unwrap_or(u16::MAX).to_le_bytes());
    whole[32..40].copy_from_slice(&64u64.to_le_bytes());
    core(&whole);
}

fn core(bytes: &[u8]) {
    if let Ok(head) = ElfHead::parse(bytes) {
        assert!(head.len() <= MAX_LEN && head.phnum > 0 && head.phoff >= EHDR_LEN);
    }
    let Ok(core) = CoreHeader::parse(bytes) else { return };
    assert_eq!(core.segments().len(), core.head().phnum);
    for s in core.loads() {
        assert_eq!(s.kind, elfcorehdr::SegmentType::Load);
        assert!(s.paddr.checked_add(s.memsz).is_some_and(|end| end <= 1 << 52));
    }
    let mut end = 0;
    let ranges = core.memory_ranges();
    for (n, r) in ranges.iter().enumerate() {
        assert!(r.start < r.end && r.end.0 <= 1 << 40, "{r:?}");
        assert!(n == 0 || r.start.0 > end, "sorted, merged, disjoint");
        end = r.end.0;
    }
    let again = CoreHeader::parse(core.bytes()).expect("what it gives parses again");
    assert_eq!(again.segments(), core.segments());
    assert_eq!(again.memory_ranges(), ranges);
}

/// Notes, VMCOREINFO among them; then the bytes as VMCOREINFO's text.
pub fn notes(data: &[u8]) {
    let mut all = Notes::new(data);
    let mut end = 0;
    while let Some(note) = all.next() {
        assert!(all.consumed() > end && all.consumed() <= data.len());
        assert!(note.name.len() + note.desc.len() <= all.consumed() - end);
        end = all.consumed();
    }
    assert_eq!(valid_len(data), end);
    assert_eq!(valid_len(&data[..end]), end, "the valid part is valid alone");
    if let Some(text) = vmcoreinfo(data) {
        info(text);
    }
    info(data);
}

fn info(text: &[u8]) {
    let info = VmcoreInfo::new(text);
    for line in text.split(|b| *b == b'\n').take(64) {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let Some((key, _)) = line.split_once('=') else { continue };
        let found = info.get(key);
        // A key may hold `=` or follow a NUL; otherwise the first of its name counts.
        assert!(found.is_none_or(|v| v.len() <= text.len()));
        if let Some((_, name)) = key.split_once('(') {
            let name = name.trim_end_matches(')');
            let _ = (info.symbol(name), info.number(name), info.size(name));
            let _ = (info.offset(name), info.length(name));
        }
    }
    let _ = (info.osrelease(), info.build_id(), info.page_size(), info.crash_time());
    let _ = (info.kernel_offset(), info.config("X86_5LEVEL"), AddressSpace::new(&info));
}

/// The first bytes of a device; then a page size, and what stands from byte 1024 on.
pub fn swap(data: &[u8]) {
    signature(data);
    let Some((choice, body)) = data.split_first() else { return };
    let page = 4096usize << (choice % 5);
    let mut first = vec![0u8; PROBE_LEN];
    let len = body.len().min(page - 10 - 1024);
    first[1024..1024 + len].copy_from_slice(&body[..len]);
    first[page - 10..page].copy_from_slice(b"SWAPSPACE2");
    match signature(&first) {
        Some(Signature::Swap(header)) => {
            // Something in the body may look like the magic of a smaller page.
            assert!(header.page_size as usize <= page);
        }
        Some(_) => {}
        None => panic!("the magic is there"),
    }
}

fn signature(first: &[u8]) -> Option<Signature> {
    let found = detect(first);
    if let Some(Signature::Swap(h)) = &found {
        assert!(h.page_size.is_power_of_two() && (4096..=65536).contains(&h.page_size));
        assert!(h.last_page > 0 && h.bad_pages < h.last_page);
        assert!(h.bad_pages <= MAX_BAD_PAGES * 16);
        assert_eq!(h.uuid.len(), 36);
        assert!(!h.label.chars().any(char::is_control) && h.label.len() <= 48);
    }
    found
}

/// A disk: as it is, and with the checksums of its GPT made right.
pub fn gpt(data: &[u8]) {
    partitions(data);
    let mut disk = crate::script::resized(data, data.len().max(4096));
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    partitions(&disk);
    let size = disk.len() as u64;
    for at in [512, 4096, disk.len() - 512] {
        let Some(header) = disk.get(at..at + 92) else { continue };
        let number = |at: usize, len: usize| {
            let mut raw = [0u8; 8];
            raw[..len].copy_from_slice(&header[at..at + len]);
            u64::from_le_bytes(raw)
        };
        let block = if at == 4096 { 4096 } else { 512 };
        let (lba, count, entry) = (number(72, 8), number(80, 4), number(84, 4));
        let from = lba.checked_mul(block).filter(|from| *from < size).unwrap_or(size);
        let len = count.saturating_mul(entry).min(size - from);
        let range = usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap();
        let table_crc = crc32(&disk[range]);
        let header = &mut disk[at..at + 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[16..20].fill(0);
        header[24..32].copy_from_slice(&(at as u64 / block).to_le_bytes());
        header[88..92].copy_from_slice(&table_crc.to_le_bytes());
        let crc = crc32(header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
    }
    partitions(&disk);
}

fn partitions(disk: &[u8]) {
    let len = disk.len() as u64;
    for block in [None, Some(512), Some(4096)] {
        let mut read = |at: u64, buf: &mut [u8]| {
            let from = usize::try_from(at).ok().and_then(|at| disk.get(at..)?.get(..buf.len()));
            buf.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        };
        let Ok(Some(found)) = table::parse(&mut read, len, block) else { continue };
        for p in &found.partitions {
            assert!(p.len > 0 && p.start.checked_add(p.len).is_some_and(|end| end <= len));
            assert!(!p.label.chars().any(char::is_control));
        }
    }
}
