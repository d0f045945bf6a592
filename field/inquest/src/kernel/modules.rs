//! Symbols and types of the dead kernel's modules.
//!
//! Symbols are those of `mod->kallsyms` (`struct mod_kallsyms`: an ELF symbol table, its
//! strings, their number), of every `struct module` in the list `modules`. Types are in the
//! list `btf_modules`, whose entries own a copy of each module's BTF (`kernel/bpf/btf.c`,
//! `btf_module_notify()`). All that cannot be read is told in `faults`, and the rest serves.

use std::sync::{Mutex, OnceLock, PoisonError};

use lifeboat_sources::btf::BtfError;

use crate::walk;

use super::symbols::{Symbols, hash};
use super::types::{Blob, Field, Miss, Types};
use super::{Fault, Kernel, KernelError};

/// Most modules; distributions load some 200.
const MAX_MODULES: usize = 4096;
/// Most symbols of one module.
const MAX_SYMBOLS: u64 = 1 << 18;
/// Most symbols of all modules; some 200,000 with 200 of them. One table that every damaged
/// module leads to would be a billion.
const MAX_ALL_SYMBOLS: u64 = 1 << 20;
/// Most bytes of a symbol's name, `KSYM_NAME_LEN`.
const MAX_NAME: usize = 512;
/// Most bytes of one module's BTF, and of all.
const MAX_BTF: u64 = 16 << 20;
const MAX_ALL_BTF: u64 = 128 << 20;
/// Bytes of an `Elf64_Sym`, and where its members lie.
const SYM: u64 = 24;

/// All modules.
#[derive(Debug, Default)]
pub(super) struct Modules {
    pub(super) symbols: Symbols,
    types: Vec<ModuleTypes>,
    pub(super) faults: Vec<String>,
}

/// Types of one module, opened when they are needed.
#[derive(Debug)]
struct ModuleTypes {
    blob: Blob,
    types: OnceLock<Result<Mutex<Types>, BtfError>>,
}

impl ModuleTypes {
    fn ask<T>(
        &self,
        base: &Blob,
        question: impl Fn(&mut Types) -> Result<T, Miss>,
    ) -> Result<T, Miss> {
        let open = || Types::new(&[base, &self.blob]).map(Mutex::new);
        match self.types.get_or_init(open) {
            Ok(types) => question(&mut types.lock().unwrap_or_else(PoisonError::into_inner)),
            Err(why) => Err(Miss::Btf(*why)),
        }
    }
}

impl Modules {
    /// Reads both lists. What fails is told, and costs only itself.
    pub(super) fn read(kernel: &Kernel<'_>) -> Self {
        let mut this = Self::default();
        let mut list = Vec::new();
        if let Err(why) = this.read_symbols(kernel, &mut list) {
            this.faults.push(format!("modules' symbols: {why}"));
        }
        this.symbols = Symbols::new(list);
        if let Err(why) = this.read_types(kernel) {
            this.faults.push(format!("modules' types: {why}"));
        }
        this
    }

    fn read_symbols(
        &mut self,
        kernel: &Kernel<'_>,
        out: &mut Vec<(u64, u64)>,
    ) -> Result<(), KernelError> {
        let head = kernel.symbols.need("modules")?;
        let field = |path| kernel.own_field("module", path);
        let (link, table) = (field("list")?, field("kallsyms")?);
        let inside = |path| kernel.own_field("mod_kallsyms", path);
        let fields = [inside("symtab")?, inside("num_symtab")?, inside("strtab")?];
        let found = walk::list(kernel, head, MAX_MODULES);
        self.faults.extend(found.damage.iter().map(|d| format!("list of modules: {d}")));
        for node in found.items {
            let module = node.wrapping_sub(link.offset);
            let read = kernel.get(module, table).and_then(|t| elf_symbols(kernel, t, fields, out));
            if let Err(fault) = read {
                self.faults.push(format!("symbols of the module at {module:#x}: {fault}"));
            }
        }
        Ok(())
    }

    fn read_types(&mut self, kernel: &Kernel<'_>) -> Result<(), KernelError> {
        let head = kernel.symbols.need("btf_modules")?;
        let link = kernel.own_field("btf_module", "list")?;
        let btf = kernel.own_field("btf_module", "btf")?;
        let data = kernel.own_field("btf", "data")?;
        let size = kernel.own_field("btf", "data_size")?;
        let found = walk::list(kernel, head, MAX_MODULES);
        self.faults.extend(found.damage.iter().map(|d| format!("list of modules' types: {d}")));
        let mut all = 0u64;
        for node in found.items {
            let entry = node.wrapping_sub(link.offset);
            let read = || -> Result<Vec<u8>, Fault> {
                let of = kernel.get(entry, btf)?;
                let (from, len) = (kernel.get(of, data)?, kernel.get(of, size)?);
                let sane = len <= MAX_BTF && all + len <= MAX_ALL_BTF;
                let len = usize::try_from(len).ok().filter(|_| sane);
                let mut raw = vec![0; len.ok_or(Fault::malformed(of))?];
                kernel.read(from, &mut raw)?;
                Ok(raw)
            };
            match read().map(|raw| (raw.len(), Blob::new(&raw))) {
                Ok((len, Ok(blob))) => {
                    all += len as u64;
                    self.types.push(ModuleTypes { blob, types: OnceLock::new() });
                }
                Ok((_, Err(why))) => {
                    self.faults.push(format!("types of the module at {entry:#x}: {why}"));
                }
                Err(fault) => {
                    self.faults.push(format!("types of the module at {entry:#x}: {fault}"));
                }
            }
        }
        Ok(())
    }

    /// Where a member of a module's record lies.
    pub(super) fn field(&self, base: &Blob, record: &str, path: &str) -> Result<Field, Miss> {
        self.ask(base, record, |types| types.field(record, path))
    }

    /// Bytes of a module's record.
    pub(super) fn size(&self, base: &Blob, record: &str) -> Result<u64, Miss> {
        self.ask(base, record, |types| types.size(record))
    }

    /// The value of a module's enumerator.
    pub(super) fn enumerator(&self, base: &Blob, name: &str) -> Option<i64> {
        let ask = |types: &mut Types| types.enumerator(name)?.ok_or(Miss::Record);
        self.ask(base, name, ask).ok()
    }

    /// Asks the modules that have the record. Where several do, they must agree.
    fn ask<T: PartialEq>(
        &self,
        base: &Blob,
        record: &str,
        question: impl Fn(&mut Types) -> Result<T, Miss>,
    ) -> Result<T, Miss> {
        let mut answer = Err(Miss::Record);
        // A module's names are only those that vmlinux lacks: one that vmlinux uses for
        // something else may be a record's name in any module.
        let shared = base.offset_of(record);
        let has = |blob: &Blob| {
            blob.mentions(record) || shared.is_some_and(|offset| blob.declares(offset))
        };
        for module in self.types.iter().filter(|m| has(&m.blob)) {
            match (module.ask(base, &question), &answer) {
                (Ok(one), Ok(other)) if one != *other => return Err(Miss::Field),
                (Ok(one), _) => answer = Ok(one),
                (Err(miss), Err(Miss::Record)) => answer = Err(miss),
                (Err(_), _) => {}
            }
        }
        answer
    }
}

/// Symbols of an ELF table that are defined.
fn elf_symbols(
    kernel: &Kernel<'_>,
    table: u64,
    [symtab, count, strtab]: [Field; 3],
    out: &mut Vec<(u64, u64)>,
) -> Result<(), Fault> {
    let (at, names) = (kernel.get(table, symtab)?, kernel.get(table, strtab)?);
    let count = kernel.get(table, count)?;
    let room = MAX_ALL_SYMBOLS.saturating_sub(out.len() as u64).min(MAX_SYMBOLS);
    let len = count.checked_mul(SYM).and_then(|len| usize::try_from(len).ok());
    let len = len.filter(|_| count <= room);
    let mut raw = vec![0; len.ok_or(Fault::malformed(table))?];
    kernel.read(at, &mut raw)?;
    let (symbols, _) = raw.as_chunks::<24>();
    for [n0, n1, n2, n3, _, _, s0, s1, value @ ..] in symbols {
        let name = u64::from(u32::from_le_bytes([*n0, *n1, *n2, *n3]));
        let [v0, v1, v2, v3, v4, v5, v6, v7, ..] = *value;
        let value = u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
        // SHN_UNDEF: another's.
        if (*s0, *s1) == (0, 0) || name == 0 {
            continue;
        }
        let text =
            kernel.string(names.checked_add(name).ok_or(Fault::malformed(names))?, MAX_NAME)?;
        out.push((hash(&text), value));
    }
    Ok(())
}
