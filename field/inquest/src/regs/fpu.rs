//! Floating-point and vector registers.

use crate::elfcore::notes::FP_LEN;
use crate::elfcore::xstate::{self, Component, LEGACY, Layout, MAX_LEN, XstateError};
use crate::kernel::{Fault, Field, Kernel, KernelError};

/// Most components of an area; there are 19 today.
const MAX_COMPONENTS: u64 = 63;
/// `XSTATE_FLAG_ALIGNED64`, a macro since `xstate_flags` came (commit 6afbb58cc225).
const ALIGNED: u32 = 2;

/// Why these registers are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The thread ran: they were in its CPU, which crash notes do not save.
    #[error("they were in the CPU that it ran on")]
    InCpu,
    /// They cannot be read.
    #[error("their place in the kernel: {0}")]
    Fault(#[from] Fault),
    /// They are damaged.
    #[error(transparent)]
    Area(#[from] XstateError),
}

/// Floating-point and vector registers of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vectors {
    /// For NT_FPREGSET.
    pub fp: Vec<u8>,
    /// For NT_X86_XSTATE; none on a CPU without XSAVE.
    pub xstate: Option<Vec<u8>>,
}

/// What must be known once to find any thread's.
#[derive(Debug)]
pub struct Fpu<'k, 'm> {
    kernel: &'k Kernel<'m>,
    /// None of a kernel for one CPU: whoever ran cannot be told then.
    on_cpu: Option<Field>,
    /// In the task: the address of its `struct fpstate`.
    fpstate: Field,
    size: Field,
    user: Field,
    regs: Field,
    pkru: Option<Field>,
    /// None on a CPU without XSAVE.
    layout: Option<Layout>,
    initial: Vec<u8>,
}

impl<'k, 'm> Fpu<'k, 'm> {
    /// Reads what the dead kernel found out about its CPUs.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn new(kernel: &'k Kernel<'m>) -> Result<Self, KernelError> {
        let regs = kernel.field("fpstate", "regs")?;
        let lost = |fault| KernelError::Memory { what: "the layout of XSAVE areas", fault };
        let mut initial = vec![0; LEGACY];
        let init = kernel.need("init_fpstate")?;
        let at = init.checked_add(regs.offset).ok_or(lost(Fault::malformed(init)))?;
        kernel.read(at, &mut initial).map_err(lost)?;
        Ok(Self {
            kernel,
            on_cpu: kernel.field("task_struct", "on_cpu").ok(),
            fpstate: kernel.field("task_struct", "thread.fpu.fpstate")?,
            size: kernel.field("fpstate", "size")?,
            user: kernel.field("fpstate", "user_xfeatures")?,
            regs,
            pkru: kernel.field("task_struct", "thread.pkru").ok(),
            layout: layout(kernel, &initial)?,
            initial,
        })
    }

    /// Those of the thread `task`, the address of its `struct task_struct`.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn of(&self, task: u64) -> Result<Vectors, Lost> {
        let on_cpu = self.on_cpu.ok_or(Lost::InCpu)?;
        if self.kernel.get(task, on_cpu)? != 0 {
            return Err(Lost::InCpu);
        }
        let state = self.kernel.get(task, self.fpstate)?;
        let len = self.kernel.get(state, self.size)?;
        let len = usize::try_from(len).ok().filter(|n| (FP_LEN..=MAX_LEN).contains(n));
        let mut raw = vec![0; len.ok_or(Fault::malformed(state))?];
        let at = state.checked_add(self.regs.offset).ok_or(Fault::malformed(state))?;
        self.kernel.read(at, &mut raw)?;
        let Some(layout) = &self.layout else {
            // FXSAVE: all of it means something.
            raw.truncate(FP_LEN);
            return Ok(Vectors { fp: raw, xstate: None });
        };
        let user = self.kernel.get(state, self.user)?;
        let layout = Layout { user, ..layout.clone() };
        let pkru = self.pkru.map(|f| self.kernel.get(task, f)).transpose()?.unwrap_or(0);
        let pkru = u32::try_from(pkru).map_err(|_| Fault::malformed(task))?;
        let short = XstateError::Short { len: raw.len(), component: 0 };
        let fp = xstate::legacy(&raw, &layout).ok_or(short)?;
        Ok(Vectors { fp, xstate: Some(xstate::standard(&raw, &layout, pkru)?) })
    }

    /// The legacy region of a thread that never used any of these registers.
    #[must_use]
    pub fn initial(&self) -> &[u8] {
        &self.initial
    }
}

/// The standard format, as the dead kernel's CPUs have it; none without XSAVE.
fn layout(kernel: &Kernel<'_>, initial: &[u8]) -> Result<Option<Layout>, KernelError> {
    let lost = |fault| KernelError::Memory { what: "the layout of XSAVE areas", fault };
    // `update_regset_xstate_info(fpu_user_cfg.max_size, fpu_user_cfg.max_features)`
    let config = kernel.need("fpu_user_cfg")?;
    let size = kernel.field("fpu_state_config", "max_size")?;
    let features = kernel.field("fpu_state_config", "max_features")?;
    let len = kernel.get(config, size).map_err(lost)?;
    let user = kernel.get(config, features).map_err(lost)?;
    let mut software = [0; 48];
    kernel.read(kernel.need("xstate_fx_sw_bytes")?, &mut software).map_err(lost)?;
    if user >> 2 == 0 && software == [0; 48] {
        return Ok(None);
    }
    let odd = KernelError::Odd { what: "the size of XSAVE areas", value: len };
    let len = usize::try_from(len).ok().filter(|n| (xstate::HEAD..=MAX_LEN).contains(n));
    let count = kernel.enumerator("XFEATURE_MAX").and_then(|n| u64::try_from(n).ok());
    let count = count.unwrap_or(0).clamp(1, MAX_COMPONENTS);
    let table = |name: &str| -> Result<Vec<u32>, KernelError> {
        let at = kernel.need(name)?;
        let one = |n: u64| kernel.u32(at.wrapping_add(n * 4)).map_err(lost);
        (0..count).map(one).collect()
    };
    let offsets = table("xstate_offsets")?;
    let sizes = table("xstate_sizes")?;
    let flags = table("xstate_flags")?;
    let all = offsets.into_iter().zip(sizes).zip(flags);
    let components = all
        .map(|((offset, size), flags)| Component { offset, size, aligned: flags & ALIGNED != 0 })
        .collect();
    let initial = initial.to_vec();
    Ok(Some(Layout { components, user, len: len.ok_or(odd)?, software, initial }))
}
