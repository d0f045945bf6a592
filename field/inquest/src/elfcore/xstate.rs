//! From the XSAVE area that a kernel keeps to the one that debuggers read.
//!
//! XSAVES and XSAVEC write the *compacted* format: only components whose bit is in
//! `XCOMP_BV`, one behind the other, some aligned to 64 bytes (Intel SDM volume 1, 13.4.3).
//! NT_X86_XSTATE is always of the *standard* format, each component at the place that CPUID
//! leaf 0xD names. This does what `__copy_xstate_to_uabi_buf()` in
//! `arch/x86/kernel/fpu/xstate.c` does; places and sizes are the dead kernel's own
//! (`xstate_offsets`, `xstate_sizes`), as CPUs of one kind differ in them.
//!
//! A component whose bit in `XSTATE_BV` is not set has its initial state, and its bytes in
//! the area mean nothing: x87 and SSE get what the kernel keeps as initial, others zeros.

use lifeboat_sources::bytes::le64;

/// Bytes of the legacy region.
pub const LEGACY: usize = 512;
/// Bytes of legacy region and header: where components begin in the compacted format.
pub const HEAD: usize = 576;
/// Where the kernel puts XCR0 for debuggers: `sw_reserved` of the legacy region
/// (`XSTATE_FX_SW_BYTES`, 48 bytes).
const SOFTWARE: std::ops::Range<usize> = 464..512;
/// Most bytes of an area; with AMX it has some 11,000.
pub const MAX_LEN: usize = 64 << 10;
/// `XCOMP_BV_COMPACTED_FORMAT`
const COMPACTED: u64 = 1 << 63;
const FP: u64 = 1;
const SSE: u64 = 2;
const YMM: u64 = 4;
/// Number of the component with the protection keys: `XFEATURE_PKRU`.
const PKRU: usize = 9;
/// Components of an area; bit 63 of `XCOMP_BV` is none.
const COMPONENTS: usize = 63;

/// Why an area cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XstateError {
    /// It is shorter than what its header says is in it.
    #[error(
        "the XSAVE area of {len} bytes has no component {component}\nhint: the dead kernel's memory is damaged there; the other registers are good"
    )]
    Short {
        /// Its length in bytes.
        len: usize,
        /// Which component is not in it.
        component: usize,
    },
    /// A place or size of a component that cannot be.
    #[error(
        "XSAVE component {component} is said to lie at {offset:#x}, {size:#x} bytes, which cannot be\nhint: the dead kernel's memory is damaged there; the other registers are good"
    )]
    Layout {
        /// Which component.
        component: usize,
        /// Where, in bytes.
        offset: u32,
        /// How many bytes.
        size: u32,
    },
}

/// A component of the area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Where it lies in the standard format, in bytes; `u32::MAX` for those of the kernel only.
    pub offset: u32,
    /// Its size in bytes; `u32::MAX` where the CPU has no such component.
    pub size: u32,
    /// Whether it begins at a multiple of 64 bytes in the compacted format.
    pub aligned: bool,
}

/// What the dead kernel knows of its CPUs' XSAVE areas.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Components by their number; 0 and 1 are x87 and SSE, of which nothing is asked here.
    pub components: Vec<Component>,
    /// Components that user space may see (`fpstate.user_xfeatures`).
    pub user: u64,
    /// Bytes of the standard format (`fpu_user_cfg.max_size`).
    pub len: usize,
    /// The 48 bytes for debuggers, XCR0 first (`xstate_fx_sw_bytes`).
    pub software: [u8; 48],
    /// The legacy region in its initial state (`init_fpstate`).
    pub initial: Vec<u8>,
}

impl Layout {
    fn component(&self, n: usize) -> Option<Component> {
        self.components.get(n).copied().filter(|c| c.size != u32::MAX)
    }

    /// A component, if its place in the standard format can be.
    fn standard(&self, n: usize) -> Result<(Component, std::ops::Range<usize>), XstateError> {
        let none = Component { offset: u32::MAX, size: u32::MAX, aligned: false };
        let c = self.component(n).unwrap_or(none);
        let bad = XstateError::Layout { component: n, offset: c.offset, size: c.size };
        let (at, size) = (usize::try_from(c.offset), usize::try_from(c.size));
        let (Ok(at), Ok(size)) = (at, size) else { return Err(bad) };
        let end = at.checked_add(size).filter(|end| at >= HEAD && *end <= self.len.min(MAX_LEN));
        end.map(|end| (c, at..end)).ok_or(bad)
    }

    /// Where component `n` lies in an area with this `XCOMP_BV`.
    fn place(&self, n: usize, held: u64) -> Option<usize> {
        if held & COMPACTED == 0 {
            return usize::try_from(self.component(n)?.offset).ok();
        }
        let mut at = HEAD;
        for i in (2..COMPONENTS).filter(|i| held >> i & 1 == 1) {
            let c = self.component(i)?;
            if c.aligned {
                at = at.next_multiple_of(64);
            }
            if i == n {
                return Some(at);
            }
            // At most 63 sizes of 32 bits.
            at += usize::try_from(c.size).ok()?;
        }
        None
    }
}

/// Copies `range` of `from` to the same place of `to`, as far as both have it.
fn copy(to: &mut [u8], from: &[u8], range: std::ops::Range<usize>) {
    if let (Some(to), Some(from)) = (to.get_mut(range.clone()), from.get(range)) {
        to.copy_from_slice(from);
    }
}

/// The legacy region as a debugger sees it (NT_FPREGSET), of an area `raw` of either format;
/// `None` if it is too short.
#[must_use]
pub fn legacy(raw: &[u8], layout: &Layout) -> Option<Vec<u8>> {
    let held = le64(raw, LEGACY)? & layout.user;
    let mut out = vec![0; LEGACY];
    let pick = |bits: u64| if held & bits == 0 { layout.initial.as_slice() } else { raw };
    // Control words; MXCSR and its mask, which SSE and AVX share; x87 registers; XMM.
    copy(&mut out, pick(FP), 0..24);
    copy(&mut out, pick(SSE | YMM), 24..32);
    copy(&mut out, pick(FP), 32..160);
    copy(&mut out, pick(SSE), 160..416);
    Some(out)
}

/// The standard format of an area `raw` of either format. `pkru` is the thread's protection
/// keys, which the kernel keeps outside of the area.
///
/// # Errors
/// [`XstateError`].
pub fn standard(raw: &[u8], layout: &Layout, pkru: u32) -> Result<Vec<u8>, XstateError> {
    let short = |component| XstateError::Short { len: raw.len(), component };
    let mut out = legacy(raw, layout).ok_or(short(0))?;
    out.resize(layout.len.clamp(HEAD, MAX_LEN), 0);
    copy(&mut out, &[&[0; 464][..], &layout.software].concat(), SOFTWARE);
    let here = le64(raw, LEGACY).ok_or(short(0))? & layout.user;
    let held = le64(raw, LEGACY + 8).ok_or(short(0))?;
    copy(&mut out, &[&[0; LEGACY][..], &here.to_le_bytes()].concat(), LEGACY..LEGACY + 8);
    for n in (2..COMPONENTS).filter(|n| here >> n & 1 == 1) {
        let (c, range) = layout.standard(n)?;
        let from = layout.place(n, held).ok_or(short(n))?;
        let size = usize::try_from(c.size).map_err(|_| short(n))?;
        let bytes = from.checked_add(size).and_then(|end| raw.get(from..end)).ok_or(short(n))?;
        if let Some(to) = out.get_mut(range) {
            to.copy_from_slice(bytes);
        }
    }
    if layout.user >> PKRU & 1 == 1 {
        // `copy_xstate_to_uabi_buf()` takes it from `thread.pkru` and not from the area.
        let (_, range) = layout.standard(PKRU)?;
        let keys = u64::from(pkru).to_le_bytes();
        for (to, from) in out.get_mut(range).unwrap_or_default().iter_mut().zip(keys) {
            *to = from;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: Component = Component { offset: u32::MAX, size: u32::MAX, aligned: false };

    /// The places of an Intel server: AVX, the three of AVX-512, PKRU, a kernel's own, AMX.
    fn server() -> Layout {
        let mut components = vec![NONE; 19];
        let one = |offset, size, aligned| Component { offset, size, aligned };
        components[2] = one(576, 256, false);
        components[5] = one(1088, 64, false);
        components[6] = one(1152, 512, false);
        components[7] = one(1664, 1024, false);
        components[9] = one(2688, 8, false);
        components[11] = one(u32::MAX, 16, false);
        components[17] = one(2752, 64, true);
        components[18] = one(2816, 8192, true);
        let mut software = [0; 48];
        software[..8].copy_from_slice(&0x602e7u64.to_le_bytes());
        let mut initial = vec![0; 512];
        initial[..2].copy_from_slice(&[0x7f, 3]);
        initial[24..26].copy_from_slice(&[0x80, 0x1f]);
        Layout { components, user: 0x602e7, len: 11008, software, initial }
    }

    /// A compacted area: each component is full of its own number.
    fn compacted(here: u64, held: u64, layout: &Layout) -> Vec<u8> {
        let mut raw = vec![0xee; HEAD];
        raw[..LEGACY].fill(1);
        raw[512..520].copy_from_slice(&here.to_le_bytes());
        raw[520..528].copy_from_slice(&(held | COMPACTED).to_le_bytes());
        for n in (2..19).filter(|n| held >> n & 1 == 1) {
            let c = layout.components[n];
            if c.aligned {
                raw.resize(raw.len().next_multiple_of(64), 0xee);
            }
            raw.resize(raw.len() + c.size as usize, u8::try_from(n).unwrap());
        }
        raw
    }

    #[test]
    fn components_move_to_their_places() {
        let layout = server();
        let held = 0x60ae7 | 1 << 11;
        let raw = compacted(0x60ae7 | 1 << 11, held, &layout);
        let out = standard(&raw, &layout, 0x5555_5554).unwrap();
        assert_eq!(out.len(), 11008);
        assert_eq!(out[464..472], 0x602e7u64.to_le_bytes());
        // What only the kernel may see is in neither bitmap nor area.
        assert_eq!(out[512..528], [&0x602e7u64.to_le_bytes()[..], &[0; 8]].concat());
        let mut want = vec![0u8; 11008];
        for n in [2, 5, 6, 7, 17, 18] {
            let c = layout.components[n];
            want[c.offset as usize..(c.offset + c.size) as usize].fill(u8::try_from(n).unwrap());
        }
        want[2688..2692].copy_from_slice(&0x5555_5554u32.to_le_bytes());
        assert_eq!(out[576..], want[576..]);
        assert_eq!((out[0], out[24], out[32], out[160], out[415], out[416]), (1, 1, 1, 1, 1, 0));
    }

    /// XSAVES leaves out what is in its initial state: what lies there is old.
    #[test]
    fn what_is_in_its_initial_state_is_not_copied() {
        let layout = server();
        let raw = compacted(0, 0x602e7, &layout);
        let out = standard(&raw, &layout, 0).unwrap();
        assert_eq!((&out[..2], &out[24..26]), (&[0x7f, 3][..], &[0x80, 0x1f][..]));
        assert!(out[26..464].iter().all(|b| *b == 0));
        assert!(out[512..].iter().all(|b| *b == 0));
    }

    /// AVX without SSE: MXCSR counts all the same.
    #[test]
    fn mxcsr_is_shared() {
        let layout = server();
        let out = legacy(&compacted(YMM, 0x602e7, &layout), &layout).unwrap();
        assert_eq!((out[0], out[24], out[31], out[160]), (0x7f, 1, 1, 0));
    }

    #[test]
    fn the_standard_format_stays_as_it_is() {
        let layout = server();
        let once = standard(&compacted(0x602e7, 0x602e7, &layout), &layout, 4).unwrap();
        assert_eq!(standard(&once, &layout, 4).unwrap(), once);
    }

    #[test]
    fn a_short_area_is_told() {
        let layout = server();
        let raw = compacted(0x602e7, 0x602e7, &layout);
        assert_eq!(
            standard(&raw[..raw.len() - 1], &layout, 0),
            Err(XstateError::Short { len: raw.len() - 1, component: 18 })
        );
        assert_eq!(
            standard(&raw[..500], &layout, 0),
            Err(XstateError::Short { len: 500, component: 0 })
        );
    }

    proptest! {
        #[test]
        fn nothing_hostile_panics(
            raw in proptest::collection::vec(any::<u8>(), 0..1500),
            parts in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 0..70),
            small in any::<bool>(), user in any::<u64>(), len in any::<usize>(),
        ) {
            let part = |(offset, size, aligned): (u32, u32, bool)| {
                let cut = if small { 0x7ff } else { u32::MAX };
                Component { offset: offset & cut, size: size & cut, aligned }
            };
            let components = parts.into_iter().map(part).collect();
            let layout = Layout { components, user, len, software: [0; 48], initial: vec![] };
            if let Ok(out) = standard(&raw, &layout, 0) {
                prop_assert!(out.len() <= MAX_LEN);
            }
        }
    }
}
