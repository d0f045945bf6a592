//! VMCOREINFO: the lines `KEY=value` that a kernel leaves for whoever reads its memory.
//!
//! Written by `kernel/vmcore_info.c` and `arch/x86/kernel/vmcore_info_64.c`:
//! `SYMBOL` and `KERNELOFFSET` are hexadecimal without `0x`, `SIZE`, `OFFSET`,
//! `LENGTH` and `NUMBER` decimal (`NUMBER(phys_base)` is printed with `%ld` and may
//! be negative; arm64 writes some with `0x`). Where a key is there twice, the first
//! counts: the kernel writes each once, and a later one could only be an addition.

/// Most bytes that are looked at; the kernel's own limit is one page
/// (`VMCOREINFO_BYTES`), later kernels two.
pub const MAX_LEN: usize = 1 << 20;

/// The text, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct VmcoreInfo<'a> {
    text: &'a [u8],
}

impl<'a> VmcoreInfo<'a> {
    /// The description of the VMCOREINFO note, see [`crate::notes::vmcoreinfo`].
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        let text = text.get(..MAX_LEN).unwrap_or(text);
        // A hostile or older writer may pad with NULs.
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        Self { text: text.get(..end).unwrap_or_default() }
    }

    /// The value of the line `key=value`; `None` where it is not there or not UTF-8.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.lookup("", key)
    }

    /// The value of `prefix(name)=value`, or of `name=value` without prefix.
    fn lookup(&self, prefix: &str, name: &str) -> Option<&'a str> {
        let value = self.text.split(|b| *b == b'\n').find_map(|line| {
            let rest = if prefix.is_empty() {
                line.strip_prefix(name.as_bytes())?
            } else {
                line.strip_prefix(prefix.as_bytes())?
                    .strip_prefix(b"(")?
                    .strip_prefix(name.as_bytes())?
                    .strip_prefix(b")")?
            };
            rest.strip_prefix(b"=")
        })?;
        std::str::from_utf8(value).ok()
    }

    /// Release of the kernel, `uname -r`.
    #[must_use]
    pub fn osrelease(&self) -> Option<&'a str> {
        self.get("OSRELEASE")
    }

    /// Build id of the kernel, hexadecimal (since 5.9).
    #[must_use]
    pub fn build_id(&self) -> Option<&'a str> {
        self.get("BUILD-ID")
    }

    /// Page size in bytes.
    #[must_use]
    pub fn page_size(&self) -> Option<u64> {
        self.get("PAGESIZE").and_then(|v| v.parse().ok())
    }

    /// Wall clock when the kernel crashed, seconds since 1970.
    #[must_use]
    pub fn crash_time(&self) -> Option<u64> {
        self.get("CRASHTIME").and_then(|v| v.parse().ok())
    }

    /// How far KASLR moved the kernel's text, bytes.
    #[must_use]
    pub fn kernel_offset(&self) -> Option<u64> {
        self.get("KERNELOFFSET").and_then(hex)
    }

    /// Virtual address of a symbol.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.lookup("SYMBOL", name).and_then(hex)
    }

    /// Size of a type, bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        self.lookup("SIZE", name).and_then(|v| v.parse().ok())
    }

    /// Offset of a member, bytes; `name` is `type.member`.
    #[must_use]
    pub fn offset(&self, name: &str) -> Option<u64> {
        self.lookup("OFFSET", name).and_then(|v| v.parse().ok())
    }

    /// Length of an array, elements.
    #[must_use]
    pub fn length(&self, name: &str) -> Option<u64> {
        self.lookup("LENGTH", name).and_then(|v| v.parse().ok())
    }

    /// A number, signed; an unsigned one of over 63 bits comes as its two's complement.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        let value = self.lookup("NUMBER", name)?;
        if value.starts_with("0x") {
            return hex(value).map(u64::cast_signed);
        }
        value.parse::<i64>().ok().or_else(|| value.parse::<u64>().ok().map(u64::cast_signed))
    }

    /// Whether the line `CONFIG_name=y` is there.
    #[must_use]
    pub fn config(&self, name: &str) -> bool {
        self.text.split(|b| *b == b'\n').any(|line| {
            line.strip_prefix(b"CONFIG_").and_then(|l| l.strip_prefix(name.as_bytes()))
                == Some(b"=y")
        })
    }
}

fn hex(value: &str) -> Option<u64> {
    u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b"OSRELEASE=6.1.0-56-cloud-amd64\nBUILD-ID=00ff\nPAGESIZE=4096\n\
        SYMBOL(prb)=ffffffff9b45a3c0\nSYMBOL(prb)=1\nOFFSET(printk_ringbuffer.desc_ring)=0\n\
        SIZE(prb_desc)=24\nLENGTH(printk_info_device)=48\nNUMBER(phys_base)=-1048576\n\
        NUMBER(sme_mask)=0\nNUMBER(kimage)=0xffff800000000000\nNUMBER(big)=18446744073709551615\n\
        KERNELOFFSET=19600000\nCRASHTIME=1700000000\nCONFIG_X86_PAE=y\nEMPTY=\n";

    #[test]
    fn looks_up_each_kind() {
        let info = VmcoreInfo::new(TEXT);
        assert_eq!(info.osrelease(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(info.build_id(), Some("00ff"));
        assert_eq!(info.page_size(), Some(4096));
        assert_eq!(info.symbol("prb"), Some(0xffff_ffff_9b45_a3c0));
        assert_eq!(info.offset("printk_ringbuffer.desc_ring"), Some(0));
        assert_eq!(info.size("prb_desc"), Some(24));
        assert_eq!(info.length("printk_info_device"), Some(48));
        assert_eq!(info.number("phys_base"), Some(-0x10_0000));
        assert_eq!(info.number("kimage"), Some(0xffff_8000_0000_0000_u64.cast_signed()));
        assert_eq!(info.number("big"), Some(-1));
        assert_eq!(info.kernel_offset(), Some(0x1960_0000));
        assert_eq!(info.crash_time(), Some(1_700_000_000));
        assert_eq!(info.get("EMPTY"), Some(""));
        assert!(info.config("X86_PAE") && !info.config("X86"));
        assert_eq!(info.symbol("pr"), None);
        assert_eq!(info.size("prb"), None);
        assert_eq!(info.get("OSREL"), None);
    }

    #[test]
    fn nothing_behind_a_nul() {
        assert_eq!(VmcoreInfo::new(b"A=1\n\0B=2\n").get("B"), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..300), key in "[A-Z(]{0,3}") {
            let info = VmcoreInfo::new(&text);
            let _ = (info.get(&key), info.symbol(&key), info.number(&key), info.config(&key));
        }

        #[test]
        fn numbers_round_trip(n in any::<i64>(), s in any::<u64>()) {
            let text = format!("X=1\nNUMBER(n)={n}\nSYMBOL(s)={s:x}\n");
            let info = VmcoreInfo::new(text.as_bytes());
            prop_assert_eq!(info.number("n"), Some(n));
            prop_assert_eq!(info.symbol("s"), Some(s));
        }
    }
}
