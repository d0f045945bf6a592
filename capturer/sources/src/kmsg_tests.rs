//! A printk ring buffer built byte by byte, as the kernel of these offsets has it.

use super::*;
use crate::paging::AddressSpace;
use crate::paging::tests::Ram;
use proptest::prelude::*;

const INFO: &str = "PAGESIZE=4096\nNUMBER(phys_base)=0\nSYMBOL(init_top_pgt)=ffffffff80100000\n\
SYMBOL(prb)=ffff888000000010\n\
SIZE(printk_ringbuffer)=80\nOFFSET(printk_ringbuffer.desc_ring)=0\n\
OFFSET(printk_ringbuffer.text_data_ring)=40\nOFFSET(printk_ringbuffer.fail)=72\n\
SIZE(prb_desc_ring)=40\nOFFSET(prb_desc_ring.count_bits)=0\nOFFSET(prb_desc_ring.descs)=8\n\
OFFSET(prb_desc_ring.infos)=16\nOFFSET(prb_desc_ring.head_id)=24\nOFFSET(prb_desc_ring.tail_id)=32\n\
SIZE(prb_desc)=24\nOFFSET(prb_desc.state_var)=0\nOFFSET(prb_desc.text_blk_lpos)=8\n\
SIZE(prb_data_blk_lpos)=16\nOFFSET(prb_data_blk_lpos.begin)=0\nOFFSET(prb_data_blk_lpos.next)=8\n\
SIZE(printk_info)=88\nOFFSET(printk_info.seq)=0\nOFFSET(printk_info.ts_nsec)=8\n\
OFFSET(printk_info.text_len)=16\nOFFSET(printk_info.caller_id)=20\n\
SIZE(prb_data_ring)=32\nOFFSET(prb_data_ring.size_bits)=0\nOFFSET(prb_data_ring.data)=8\n\
OFFSET(prb_data_ring.head_lpos)=16\nOFFSET(prb_data_ring.tail_lpos)=24\n\
SIZE(atomic_long_t)=8\nOFFSET(atomic_long_t.counter)=0\n";

const VA: u64 = 0xffff_8880_0000_0000;
const PA: u64 = 0x40_0000;
const DESCS: u64 = 0x1000;
const INFOS: u64 = 0x2000;
const DATA: u64 = 0x4000;
/// 32 descriptors, 512 bytes of text.
const COUNT_BITS: u32 = 5;
const SIZE_BITS: u32 = 9;

const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;

/// Writes records as `prb_reserve()` and `prb_commit()` do.
struct Log {
    ram: Ram,
    id: u64,
    tail: u64,
    lpos: u64,
}

impl Log {
    fn new(first_id: u64, lpos: u64) -> Self {
        let mut ram = Ram::default();
        let mut pool = 0x20_0000;
        for page in 0..8 {
            ram.map(0x10_0000, 4, VA + page * 4096, PA + page * 4096, &mut pool);
            ram.put(PA + page * 4096, &[0]);
        }
        Self { ram, id: first_id, tail: first_id, lpos }
    }

    fn desc(&mut self, state: u64, begin: u64, next: u64) {
        let at = PA + DESCS + (self.id & 31) * 24;
        for (i, v) in [state << 62 | self.id, begin, next].into_iter().enumerate() {
            self.ram.put(at + i as u64 * 8, &v.to_le_bytes());
        }
    }

    fn add(&mut self, state: u64, ts: u64, text: &[u8]) {
        let size = 1 << SIZE_BITS;
        let len = (8 + text.len() as u64).next_multiple_of(8);
        let begin = self.lpos;
        let mut next = begin + len;
        let mut at = begin % size;
        if next / size != begin / size {
            next = (begin / size + 1) * size + len;
            at = 0;
        }
        self.ram.put(PA + DATA + at, &self.id.to_le_bytes());
        self.ram.put(PA + DATA + at + 8, text);
        self.desc(state, begin, next);
        self.info(ts, text.len());
        self.lpos = next;
        self.bump();
    }

    fn info(&mut self, ts: u64, len: usize) {
        let at = PA + INFOS + (self.id & 31) * 88;
        self.ram.put(at + 8, &ts.to_le_bytes());
        self.ram.put(at + 16, &u16::try_from(len).unwrap().to_le_bytes());
    }

    fn bump(&mut self) {
        self.id = (self.id + 1) & ID_MASK;
        if self.id.wrapping_sub(self.tail) & ID_MASK > 32 {
            self.tail = (self.tail + 1) & ID_MASK;
        }
    }

    fn seal(&mut self) {
        let head = self.id.wrapping_sub(1) & ID_MASK;
        self.ram.put(PA + 0x10, &(VA + 0x100).to_le_bytes());
        let ring = [
            u64::from(COUNT_BITS),
            VA + DESCS,
            VA + INFOS,
            head,
            self.tail,
            u64::from(SIZE_BITS),
            VA + DATA,
            self.lpos,
            0,
            0,
        ];
        for (i, v) in ring.into_iter().enumerate() {
            self.ram.put(PA + 0x100 + i as u64 * 8, &v.to_le_bytes());
        }
    }

    fn render(&mut self, room: usize) -> Result<(String, Rendered), KmsgError> {
        render_with(&mut self.ram, INFO, room)
    }
}

fn render_with(ram: &mut Ram, info: &str, room: usize) -> Result<(String, Rendered), KmsgError> {
    let info = VmcoreInfo::new(info.as_bytes());
    let mut virt = VirtReader::new(AddressSpace::new(&info).unwrap(), ram);
    let mut buf = vec![0xff; room];
    let out = render(&info, &mut virt, &mut buf)?;
    Ok((String::from_utf8(buf[..out.len].to_vec()).unwrap(), out))
}

#[test]
fn renders_states_lines_escapes_and_wrapped_blocks() {
    // Identities wrap at 2^62, positions start near the end of the data ring.
    let mut log = Log::new(ID_MASK - 2, 512 * 7 - 64);
    // The descriptor that the ring starts with: reusable, no record.
    log.desc(3, 1, 1);
    log.bump();
    log.add(FINALIZED, 0, b"Linux version 6.1.0");
    log.add(FINALIZED, 1_234_567_890, b"this one does not fit at the end of the ring");
    log.add(0, 0, b"still being written");
    let id = log.id;
    log.desc(FINALIZED, EMPTY_LINE, EMPTY_LINE);
    log.info(1_300_000_000, 0);
    log.bump();
    assert_eq!(id, 1);
    log.desc(FINALIZED, 1, 1);
    log.bump();
    log.add(FINALIZED, 12_345_000_001_000, b"two\nlines \xff\x1b[0m\tgr\xc3\xbcn\n");
    log.add(COMMITTED, 99_999_000_000_000, b"Kernel panic - not syncing: sysrq triggered crash");
    log.seal();
    let (text, out) = log.render(4096).unwrap();
    assert_eq!(
        text,
        "[    0.000000] Linux version 6.1.0\n\
         [    1.234567] this one does not fit at the end of the ring\n\
         [    1.300000] \n\
         [12345.000001] two\n\
         [12345.000001] lines \\xff\\x1b[0m\tgr\u{fc}n\n\
         [99999.000000] Kernel panic - not syncing: sysrq triggered crash\n"
    );
    assert_eq!((out.records, out.cut, out.skipped), (5, 0, 2));
}

#[test]
fn keeps_the_newest_lines_and_says_what_is_cut() {
    let mut log = Log::new(0, 0);
    for i in 0..10 {
        log.add(FINALIZED, i * 1_000_000_000, format!("line {i}").as_bytes());
    }
    log.seal();
    let line = "[    0.000000] line 0\n".len();
    let (text, out) = log.render(3 * line + 5).unwrap();
    assert!(text.starts_with("[    7.000000] line 7\n") && text.ends_with("line 9\n"));
    assert_eq!((out.records, out.cut), (3, 7));
    assert_eq!(log.render(0).unwrap().1.cut, 10);
}

#[test]
fn text_that_was_overwritten_is_skipped() {
    let mut log = Log::new(100, 0);
    for i in 0..60u64 {
        log.add(FINALIZED, i, format!("record number {i:04}").as_bytes());
    }
    log.seal();
    // 32 bytes each: 15 fit the data ring, since none may end where the ring does; 32
    // descriptors are there.
    let (text, out) = log.render(4096).unwrap();
    assert_eq!((out.records, out.skipped), (15, 17));
    assert!(text.lines().next().unwrap().ends_with("0045"));
}

#[test]
fn a_block_that_ends_where_the_ring_ends() {
    let mut log = Log::new(5, 512 - 32);
    log.ram.put(PA + DATA + 480, &5u64.to_le_bytes());
    log.ram.put(PA + DATA + 488, b"twenty-four bytes text..");
    log.desc(FINALIZED, 480, 512);
    log.info(0, 24);
    log.bump();
    log.seal();
    assert_eq!(log.render(100).unwrap().0, "[    0.000000] twenty-four bytes text..\n");
}

#[test]
fn an_inconsistency_is_named() {
    let mut log = Log::new(0, 0);
    log.add(FINALIZED, 0, b"x");
    log.seal();
    let info = INFO.replace("SYMBOL(prb)", "SYMBOL(log_buf)");
    let missing = KmsgError::Missing { kind: "SYMBOL", name: "prb" };
    assert_eq!(render_with(&mut log.ram, &info, 99).unwrap_err(), missing);
    for line in INFO.lines().filter(|l| l.contains('.') || l.starts_with("SIZE(p")) {
        let without = INFO.replace(line, "X=0");
        let got = render_with(&mut log.ram, &without, 99);
        let unused =
            ["fail", "seq", "caller", "_lpos)", "_lpos.", "SIZE(prb_desc_ring", "SIZE(prb_data"];
        if !unused.iter().any(|u| line.contains(u)) {
            assert!(matches!(got, Err(KmsgError::Missing { .. })), "{line}: {got:?}");
        }
    }
    for (at, value, field) in [
        (0u64, 27u64, "prb_desc_ring.count_bits"),
        (24, 1 << 62, "head_id"),
        (24, 32, "head_id - tail_id"),
        (40, 32, "prb_data_ring.size_bits"),
    ] {
        log.seal();
        log.ram.put(PA + 0x100 + at, &value.to_le_bytes());
        match log.render(99) {
            Err(KmsgError::Field { field: got, .. }) => assert_eq!(got, field),
            other => panic!("{other:?}"),
        }
    }
    log.seal();
    log.ram.put(PA + 0x108, &0x1234_5000_u64.to_le_bytes());
    assert!(matches!(log.render(99), Err(KmsgError::Memory { what: "struct prb_desc", .. })));
}

#[test]
fn the_best_reason_is_found() {
    for (log, want) in [
        (
            "[    1.0] BUG: kernel NULL pointer dereference, address: 0\n\
             [    1.1] Oops: 0002 [#1] PREEMPT SMP\n\
             [    1.2] Kernel panic - not syncing: Fatal exception in interrupt\n",
            "BUG: kernel NULL pointer dereference, address: 0",
        ),
        (
            "[    9.0] sysrq: Trigger a crash\n\
             [    9.1][  T1] Kernel panic - not syncing: sysrq triggered crash\n",
            "[    9.1][  T1] Kernel panic - not syncing: sysrq triggered crash",
        ),
        ("[    9.0] sysrq: Trigger a crash\n[    9.1] CPU: 1\n", "sysrq: Trigger a crash"),
        ("[    9.0] [   T12] Kernel panic - not syncing: x\n", "Kernel panic - not syncing: x"),
        ("[    9.0] all is well\n", ""),
        ("", ""),
    ] {
        let got = panic_reason(log);
        assert!(want.ends_with(got) && got.is_empty() == want.is_empty(), "{got} / {want}");
    }
}

proptest! {
    #[test]
    fn hostile_rings_never_panic_and_end(
        words in proptest::collection::vec((0u64..0x5000, prop_oneof![
            any::<u64>(), 0u64..600, (0u64..40).prop_map(|i| i | 2 << 62)]), 0..200),
        room in 0usize..3000)
    {
        let mut log = Log::new(0, 0);
        for i in 0..40u64 {
            log.add(FINALIZED, i, b"some text");
        }
        log.seal();
        for (at, v) in words {
            // Spare the fields that would make most cases end at once.
            if !(0x100..0x150).contains(&(at & !7)) || at & 1 == 0 {
                log.ram.put(PA + (at & !7), &v.to_le_bytes());
            }
        }
        if let Ok((text, out)) = log.render(room) {
            prop_assert!(text.len() <= room);
            prop_assert!(out.records + out.skipped + out.cut <= 1 << MAX_COUNT_BITS);
        }
    }

    #[test]
    fn hostile_vmcoreinfo_never_panics(line in 0usize..40, value in any::<u64>()) {
        let mut log = Log::new(0, 0);
        log.add(FINALIZED, 0, b"some text");
        log.seal();
        let mut lines: Vec<String> = INFO.lines().map(str::to_owned).collect();
        let at = 3 + line % (lines.len() - 3);
        let key = lines[at].split_once('=').unwrap().0.to_owned();
        lines[at] = format!("{key}={value}");
        let _ = render_with(&mut log.ram, &lines.join("\n"), 500);
        lines[at] = format!("{key}={}", value % 100);
        let _ = render_with(&mut log.ram, &lines.join("\n"), 500);
    }
}
