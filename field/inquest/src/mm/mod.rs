//! Address spaces of the dead machine's processes: what was mapped where ([`vmas`]), and
//! which page each address had ([`Tables`]).

mod count;
mod tables;
mod vma;

use lifeboat_format::PAGE;

use crate::kernel::{Fault, Kernel, KernelError};
use crate::machine::Hole;
use crate::walk::Damage;

pub use count::{Counts, count};
pub use tables::{Look, Spot, SwapEntry, Tables};
pub use vma::{Vma, VmaFlags, vmas};

/// Marks of an address space, `struct mm_struct`: addresses in the process, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mm {
    /// Where the structure itself is, in the kernel.
    pub addr: u64,
    /// The heap, from, to.
    pub start_brk: u64,
    /// Its end.
    pub brk: u64,
    /// Where the main thread's stack began.
    pub start_stack: u64,
    /// The arguments' first byte.
    pub arg_start: u64,
    /// Behind their last one.
    pub arg_end: u64,
    /// The environment's first byte.
    pub env_start: u64,
    /// Behind its last one.
    pub env_end: u64,
    /// `struct file` of the program, in the kernel.
    pub exe_file: u64,
}

impl Mm {
    /// Reads the marks of the `struct mm_struct` at `addr`.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn open(kernel: &Kernel<'_>, addr: u64) -> Result<Self, Damage> {
        let get = |path: &str| -> Result<u64, Damage> {
            Ok(kernel.get(addr, kernel.field("mm_struct", path)?)?)
        };
        Ok(Self {
            addr,
            start_brk: get("start_brk")?,
            brk: get("brk")?,
            start_stack: get("start_stack")?,
            arg_start: get("arg_start")?,
            arg_end: get("arg_end")?,
            env_start: get("env_start")?,
            env_end: get("env_end")?,
            exe_file: get("exe_file")?,
        })
    }
}

/// Brings back a page that was swapped out; see [`read`].
pub trait SwapIn: Sync {
    /// Fills `out` with the page at a swap entry.
    ///
    /// # Errors
    /// The [`Hole`] in its place.
    fn swap_in(&self, entry: SwapEntry, out: &mut [u8; PAGE]) -> Result<(), Hole>;
}

/// The page at `addr` of the process whose `struct mm_struct` is at `mm`. Whoever asks for
/// many should make [`Tables`] once.
///
/// # Errors
/// [`Damage`].
pub fn page(kernel: &Kernel<'_>, mm: u64, addr: u64) -> Result<Spot, Damage> {
    Ok(Tables::open(kernel, mm)?.look(addr).spot?)
}

/// Fills `buf` with the process's bytes at `addr`. Pages that are swapped out are asked of
/// `swap`; without it they are [`Hole::Swapped`].
///
/// # Errors
/// [`Fault`], with the first address that failed; `buf` is then of no meaning.
pub fn read(
    tables: &Tables<'_, '_>,
    swap: Option<&dyn SwapIn>,
    addr: u64,
    buf: &mut [u8],
) -> Result<(), Fault> {
    let mut at = addr;
    let mut rest = buf;
    while !rest.is_empty() {
        let inside = usize::try_from(at % PAGE as u64).unwrap_or(0);
        let count = rest.len().min(PAGE - inside);
        let (now, later) = rest.split_at_mut(count);
        let lost = |why| Fault { addr: at, why };
        match tables.look(at).spot? {
            Spot::Present { phys, .. } | Spot::Migration { phys } => {
                tables.kernel().read_phys(phys, now).map_err(|fault| lost(fault.why))?;
            }
            Spot::Swap(entry) => {
                let mut page = [0; PAGE];
                let swap = swap.ok_or(lost(Hole::Swapped))?;
                swap.swap_in(entry, &mut page).map_err(lost)?;
                let from = page.get(inside..inside + count).ok_or(lost(Hole::Malformed))?;
                now.copy_from_slice(from);
            }
            other => return Err(lost(other.hole().unwrap_or(Hole::NotMapped))),
        }
        rest = later;
        at = at.checked_add(count as u64).ok_or(Fault::malformed(at))?;
    }
    Ok(())
}

/// How many swap devices and files the kernel has known; a swap entry's type is below.
///
/// # Errors
/// [`KernelError`].
pub fn swapfiles(kernel: &Kernel<'_>) -> Result<u32, KernelError> {
    let addr = kernel.need("nr_swapfiles")?;
    let what = "nr_swapfiles";
    let count = kernel.u32(addr).map_err(|fault| KernelError::Memory { what, fault })?;
    // MAX_SWAPFILES_SHIFT is 5.
    let odd = KernelError::Odd { what, value: u64::from(count) };
    (count <= 32).then_some(count).ok_or(odd)
}
