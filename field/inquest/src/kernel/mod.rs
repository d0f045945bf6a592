//! The dead kernel, known from its dump alone: its symbols, its types, its addresses.
//!
//! [`Kernel::open`] finds, in this order: VMCOREINFO in the notes; by it the kernel's page
//! tables and its symbol table; by the symbols its BTF, and where it sees all of physical
//! memory. Whatever of this contradicts another is refused. Symbols and types of modules are
//! read when something is asked for that vmlinux lacks.
//!
//! A [`Kernel`] is shared by threads. Reading keeps the last pages (16 MiB); types and
//! symbols take some 15 MiB.

mod error;
mod modules;
mod open;
mod pages;
mod symbols;
mod types;
mod vmlinux;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use lifeboat_format::{PAGE, Pfn, PhysAddr};
use lifeboat_sources::paging::AddressSpace;
use lifeboat_sources::vmcoreinfo::VmcoreInfo;

use crate::machine::{Hole, Machine};

pub use error::{Fault, KernelError};
pub use types::Field;
pub use vmlinux::{Aids, VmlinuxError};

use modules::Modules;
use pages::Pages;
use symbols::Symbols;
use types::{Blob, Miss, Types};

/// Most bytes of a string that is read at once before it is looked at.
const STRING_STEP: usize = 64;
/// Most CPUs that are believed in; `CONFIG_NR_CPUS` of `MAXSMP` is 8192.
pub const MAX_CPUS: u32 = 8192;

/// What was resolved already, by `record.path`.
type Fields = HashMap<String, Result<Field, KernelError>>;

/// The dead kernel.
pub struct Kernel<'m> {
    pages: Pages<'m>,
    notes: Vec<u8>,
    symbols: Symbols,
    blob: Blob,
    types: Mutex<Types>,
    fields: RwLock<Fields>,
    modules: OnceLock<Modules>,
    /// Address of `struct page` number 0, and bytes of each.
    vmemmap: u64,
    page_size: u64,
    per_cpu_offset: Option<u64>,
}

impl std::fmt::Debug for Kernel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("symbols", &self.symbols.len()).finish_non_exhaustive()
    }
}

impl<'m> Kernel<'m> {
    /// The dump behind it.
    #[must_use]
    pub fn machine(&self) -> &'m dyn Machine {
        self.pages.machine
    }

    /// The notes of the dump, verbatim: registers of each CPU, VMCOREINFO.
    #[must_use]
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// What the kernel left for its debugger.
    #[must_use]
    pub fn vmcoreinfo(&self) -> VmcoreInfo<'_> {
        VmcoreInfo::new(lifeboat_sources::notes::vmcoreinfo(&self.notes).unwrap_or_default())
    }

    /// The kernel's own page tables; processes have as many levels, and the same mask.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.pages.space
    }

    /// The address of a symbol: of vmlinux, or else of a module. `None` where there is none,
    /// or where several are called so, since any of them would be a guess.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        if self.symbols.has(name) {
            return self.symbols.only(name);
        }
        self.modules().symbols.only(name)
    }

    /// As [`Kernel::symbol`].
    ///
    /// # Errors
    /// [`KernelError::Symbol`], [`KernelError::LostSymbol`].
    pub fn need(&self, name: &str) -> Result<u64, KernelError> {
        self.known(name)?.ok_or_else(|| KernelError::Symbol(name.to_owned()))
    }

    /// As [`Kernel::symbol`], where it matters that there is none: a symbol that may be lost
    /// is an error.
    ///
    /// # Errors
    /// [`KernelError::LostSymbol`].
    pub fn known(&self, name: &str) -> Result<Option<u64>, KernelError> {
        let found = self.symbol(name);
        match self.symbols.lost(name).filter(|_| found.is_none()) {
            Some(lost) => Err(lost),
            None => Ok(found),
        }
    }

    /// What is lost of the kernel's symbols, for a report.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        self.symbols.damage().into_iter().collect()
    }

    /// Every symbol of a name: those of vmlinux, then those of modules.
    #[must_use]
    pub fn symbols(&self, name: &str) -> Vec<u64> {
        self.symbols.all(name).chain(self.modules().symbols.all(name)).collect()
    }

    /// What could not be read of the modules, for a report.
    #[must_use]
    pub fn module_faults(&self) -> &[String] {
        &self.modules().faults
    }

    fn modules(&self) -> &Modules {
        self.modules.get_or_init(|| Modules::read(self))
    }

    fn types(&self) -> std::sync::MutexGuard<'_, Types> {
        // Types have no half-done state: what a panic left is as good as before.
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a member lies. `path` is as in C, with members of anonymous records as the
    /// record's own: `i_pages.xa_head`, `cpu_context[2].sp`. Looked for in vmlinux, then in
    /// modules; every answer is kept.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn field(&self, record: &str, path: &str) -> Result<Field, KernelError> {
        let key = format!("{record}.{path}");
        let fields = self.fields.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = fields.get(&key) {
            return known.clone();
        }
        drop(fields);
        let mut found = self.types().field(record, path);
        if found == Err(Miss::Record) {
            found = self.modules().field(&self.blob, record, path);
        }
        let found = found.map_err(|miss| no_field(miss, record, path));
        let mut fields = self.fields.write().unwrap_or_else(PoisonError::into_inner);
        fields.insert(key, found.clone());
        found
    }

    /// As [`Kernel::field`], of vmlinux only.
    fn own_field(&self, record: &str, path: &str) -> Result<Field, KernelError> {
        self.types().field(record, path).map_err(|miss| no_field(miss, record, path))
    }

    /// The first of several paths that the record has: names change, meanings stay.
    ///
    /// # Errors
    /// [`KernelError`], of the last path.
    pub fn field_of(&self, record: &str, paths: &[&str]) -> Result<Field, KernelError> {
        let mut last = Err(KernelError::NoRecord(record.to_owned()));
        for path in paths {
            last = self.field(record, path);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Bytes of a struct, union or type.
    ///
    /// # Errors
    /// [`KernelError::NoRecord`] and others.
    pub fn size(&self, record: &str) -> Result<u64, KernelError> {
        let mut found = self.types().size(record);
        if found == Err(Miss::Record) {
            found = self.modules().size(&self.blob, record);
        }
        found.map_err(|miss| no_field(miss, record, "sizeof"))
    }

    /// The value of an enumerator, of vmlinux or else of a module; `None` where there is
    /// none, or where two of the name differ.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        // The lock is let go first: reading modules needs it.
        let own = self.types().enumerator(name).ok().flatten();
        own.or_else(|| self.modules().enumerator(&self.blob, name))
    }

    /// Fills `buf` with what lies at a kernel address.
    ///
    /// # Errors
    /// [`Fault`], with the first address that failed; `buf` is then of no meaning.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.pages.virt(addr, buf)
    }

    /// Fills `buf` with physical memory.
    ///
    /// # Errors
    /// [`Fault`], with the first physical address that failed.
    pub fn read_phys(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), Fault> {
        self.pages.phys(addr, buf)
    }

    fn bytes<const N: usize>(&self, addr: u64) -> Result<[u8; N], Fault> {
        let mut raw = [0; N];
        self.read(addr, &mut raw)?;
        Ok(raw)
    }

    /// A byte at a kernel address.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn u8(&self, addr: u64) -> Result<u8, Fault> {
        self.bytes(addr).map(u8::from_le_bytes)
    }

    /// 16 bits at a kernel address.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn u16(&self, addr: u64) -> Result<u16, Fault> {
        self.bytes(addr).map(u16::from_le_bytes)
    }

    /// 32 bits at a kernel address.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn u32(&self, addr: u64) -> Result<u32, Fault> {
        self.bytes(addr).map(u32::from_le_bytes)
    }

    /// 64 bits at a kernel address.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn u64(&self, addr: u64) -> Result<u64, Fault> {
        self.bytes(addr).map(u64::from_le_bytes)
    }

    /// The member of an object: a number, pointer or bit field of at most 8 bytes, without
    /// its sign.
    ///
    /// # Errors
    /// [`Fault`]; [`Hole::Malformed`] for a field that is larger, and for a wild object.
    pub fn get(&self, object: u64, field: Field) -> Result<u64, Fault> {
        let addr = object.checked_add(field.offset).ok_or(Fault::malformed(object))?;
        let mut raw = [0; 8];
        let low = raw.get_mut(..usize::from(field.size)).filter(|low| !low.is_empty());
        self.read(addr, low.ok_or(Fault::malformed(addr))?)?;
        Ok(field.value(u64::from_le_bytes(raw)))
    }

    /// As [`Kernel::get`], of a number with a sign.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn get_signed(&self, object: u64, field: Field) -> Result<i64, Fault> {
        self.get(object, field).map(|value| field.extend(value))
    }

    /// Bytes up to a NUL, at most `most` of them; those there are where none follows.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn string(&self, addr: u64, most: usize) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        while out.len() < most {
            let at = addr.checked_add(out.len() as u64).ok_or(Fault::malformed(addr))?;
            let left = PAGE - usize::try_from(at % PAGE as u64).unwrap_or(0);
            let mut raw = [0; STRING_STEP];
            let count = STRING_STEP.min(left).min(most - out.len());
            let piece = raw.get_mut(..count).ok_or(Fault::malformed(at))?;
            self.read(at, piece)?;
            let text = piece.split(|b| *b == 0).next().unwrap_or_default();
            out.extend_from_slice(text);
            if text.len() < piece.len() {
                break;
            }
        }
        Ok(out)
    }

    /// The physical address of a kernel address.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn phys(&self, addr: u64) -> Result<PhysAddr, Fault> {
        self.pages.translate(addr)
    }

    /// Address of a page's `struct page`. One beyond memory is not mapped there.
    #[must_use]
    pub fn page_struct(&self, pfn: Pfn) -> u64 {
        self.vmemmap.wrapping_add(pfn.0.wrapping_mul(self.page_size))
    }

    /// The page whose `struct page` begins at an address; `None` where none does.
    #[must_use]
    pub fn pfn_of(&self, page_struct: u64) -> Option<Pfn> {
        let bytes = page_struct.checked_sub(self.vmemmap)?;
        let pfn = bytes.checked_div(self.page_size)?;
        // Physical addresses have at most 52 bits.
        (pfn * self.page_size == bytes && pfn >> 40 == 0).then_some(Pfn(pfn))
    }

    /// Where the kernel sees a physical address.
    #[must_use]
    pub fn direct(&self, phys: PhysAddr) -> u64 {
        let from = self.pages.direct.map_or(0, |d| d.from);
        from.wrapping_add(phys.0)
    }

    /// Where a CPU has its own copy of a per-CPU variable; `addr` is the symbol's address
    /// or the pointer that `alloc_percpu()` gave.
    ///
    /// # Errors
    /// [`Fault`]; [`Hole::Malformed`] for a CPU that cannot be.
    pub fn per_cpu(&self, addr: u64, cpu: u32) -> Result<u64, Fault> {
        let table = self.per_cpu_offset.filter(|_| cpu < MAX_CPUS);
        let table = table.ok_or(Fault { addr, why: Hole::Malformed })?;
        Ok(addr.wrapping_add(self.u64(table.wrapping_add(u64::from(cpu) * 8))?))
    }

    /// How many CPUs there may be (`nr_cpu_ids`); their numbers are below.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn cpus(&self) -> Result<u32, KernelError> {
        let addr = self.need("nr_cpu_ids")?;
        let what = "nr_cpu_ids";
        let count = self.u32(addr).map_err(|fault| KernelError::Memory { what, fault })?;
        let odd = KernelError::Odd { what, value: u64::from(count) };
        (1..=MAX_CPUS).contains(&count).then_some(count).ok_or(odd)
    }

    /// The CPUs that there may be (`cpu_possible_mask`), ascending: those that have copies of
    /// per-CPU variables.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn possible_cpus(&self) -> Result<Vec<u32>, KernelError> {
        let (mask, count) = (self.need("__cpu_possible_mask")?, self.cpus()?);
        let lost = |fault| KernelError::Memory { what: "__cpu_possible_mask", fault };
        let mut list = Vec::new();
        let mut word = 0;
        for cpu in 0..count {
            if cpu % 64 == 0 {
                word = self.u64(mask.wrapping_add(u64::from(cpu / 8))).map_err(lost)?;
            }
            if word >> (cpu % 64) & 1 != 0 {
                list.push(cpu);
            }
        }
        Ok(list)
    }
}

impl Field {
    /// The member within the bytes that were read for it.
    #[must_use]
    pub fn value(self, raw: u64) -> u64 {
        match self.bits {
            Some((shift, width)) => {
                let mask = u64::MAX.checked_shr(64u32.saturating_sub(u32::from(width)));
                raw.checked_shr(u32::from(shift)).unwrap_or(0) & mask.unwrap_or(0)
            }
            None => raw,
        }
    }

    /// The value as a number with a sign, whatever the type says.
    #[must_use]
    pub fn extend(self, value: u64) -> i64 {
        let width = self.bits.map_or(u32::from(self.size) * 8, |(_, width)| u32::from(width));
        let unused = 64u32.saturating_sub(width);
        let up = value.checked_shl(unused).unwrap_or(0).cast_signed();
        up.checked_shr(unused).unwrap_or(0)
    }
}

fn no_field(miss: Miss, record: &str, path: &str) -> KernelError {
    match miss {
        Miss::Record => KernelError::NoRecord(record.to_owned()),
        Miss::Field => KernelError::NoField { record: record.to_owned(), path: path.to_owned() },
        Miss::Btf(source) => KernelError::Types(source),
    }
}
