//! What a process mapped where: `struct vm_area_struct`.
//!
//! Since 6.1 they hang in a maple tree, `mm->mm_mt`; before, in a list from `mm->mmap` on
//! (commit 763ecb035029). Which of the two it is, BTF tells.

use std::collections::HashSet;

use lifeboat_format::PAGE;

use crate::kernel::{Field, Kernel, KernelError};
use crate::walk::{self, Damage, Found};

use super::Mm;

/// Most nodes of a tree, and most mappings; `vm.max_map_count` is 65530, and 2^20 where it
/// was raised for a game.
const MAX_NODES: usize = 1 << 18;
const MAX_VMAS: usize = 1 << 20;
/// Most bytes of a name.
const MAX_NAME: usize = 256;

/// `vm_flags`. The bits are macros of `include/linux/mm.h` that have been the same since
/// Linux was in git.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VmaFlags(pub u64);

impl VmaFlags {
    /// `VM_READ`.
    #[must_use]
    pub fn read(self) -> bool {
        self.0 & 1 != 0
    }

    /// `VM_WRITE`.
    #[must_use]
    pub fn write(self) -> bool {
        self.0 & 2 != 0
    }

    /// `VM_EXEC`.
    #[must_use]
    pub fn exec(self) -> bool {
        self.0 & 4 != 0
    }

    /// `VM_MAYSHARE`: what `/proc/PID/maps` shows as `s`.
    #[must_use]
    pub fn shared(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// `VM_IO`: a device's memory; reading it may do something.
    #[must_use]
    pub fn io(self) -> bool {
        self.0 & 0x4000 != 0
    }

    /// As `/proc/PID/maps` shows them, such as `r-xp`.
    #[must_use]
    pub fn text(self) -> String {
        let pick = |set, letter| if set { letter } else { '-' };
        [
            pick(self.read(), 'r'),
            pick(self.write(), 'w'),
            pick(self.exec(), 'x'),
            if self.shared() { 's' } else { 'p' },
        ]
        .iter()
        .collect()
    }
}

/// A mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vma {
    /// Where the `struct vm_area_struct` is, in the kernel.
    pub addr: u64,
    /// First address.
    pub start: u64,
    /// Behind the last one.
    pub end: u64,
    /// Its rights and kind.
    pub flags: VmaFlags,
    /// Where it begins in the file, in bytes; for what is in no file it is of no meaning.
    pub offset: u64,
    /// `struct file`, in the kernel; `None` where it is in none.
    pub file: Option<u64>,
    /// `struct anon_vma` (with low bits), in the kernel; 0 where the process never wrote to
    /// a page of its own there.
    pub anon_vma: u64,
    /// Whether its pages are zeros until they are touched: nobody fills it, no file and no part
    /// of the kernel (`vma_is_anonymous()`, `include/linux/mm.h`). A private mapping of
    /// `/dev/zero` has a file all the same.
    pub anonymous: bool,
    /// What is in no file: `[heap]`, `[stack]`, `[vdso]`, `[anon:…]`. `None` for others.
    pub name: Option<String>,
}

/// Where the members are.
struct Layout {
    start: Field,
    end: Field,
    flags: Field,
    pgoff: Field,
    file: Field,
    anon_vma: Field,
    ops: Field,
    private: Field,
    /// `anon_name`, and whether it shares its place with what a file's mapping needs
    /// (before 6.2, commit d09e8ca6cb93).
    anon_name: Option<(Field, bool)>,
    special: Option<Field>,
    special_ops: Vec<u64>,
}

impl Layout {
    fn new(kernel: &Kernel<'_>) -> Result<Self, KernelError> {
        let field = |path| kernel.field("vm_area_struct", path);
        let anon_name = field("anon_name").ok();
        let shared = field("shared").ok();
        Ok(Self {
            start: field("vm_start")?,
            end: field("vm_end")?,
            flags: field("vm_flags")?,
            pgoff: field("vm_pgoff")?,
            file: field("vm_file")?,
            anon_vma: field("anon_vma")?,
            ops: field("vm_ops")?,
            private: field("vm_private_data")?,
            anon_name: anon_name
                .map(|name| (name, shared.is_some_and(|s| s.offset == name.offset))),
            special: kernel.field("vm_special_mapping", "name").ok(),
            special_ops: kernel.symbols("special_mapping_vmops"),
        })
    }

    /// Reads one mapping.
    fn read(&self, kernel: &Kernel<'_>, mm: &Mm, addr: u64) -> Result<Vma, Damage> {
        if !addr.is_multiple_of(8) {
            return Err(Damage::Odd(addr));
        }
        let (start, end) = (kernel.get(addr, self.start)?, kernel.get(addr, self.end)?);
        let page = PAGE as u64;
        if start >= end || !start.is_multiple_of(page) || !end.is_multiple_of(page) {
            return Err(Damage::Odd(addr));
        }
        let file = Some(kernel.get(addr, self.file)?).filter(|file| *file != 0);
        let offset = kernel.get(addr, self.pgoff)?;
        let ops = kernel.get(addr, self.ops)?;
        let mut vma = Vma {
            addr,
            start,
            end,
            flags: VmaFlags(kernel.get(addr, self.flags)?),
            // A wild one is shown as it is, only not beyond 64 bits.
            offset: offset.wrapping_mul(page),
            file,
            anon_vma: kernel.get(addr, self.anon_vma)?,
            anonymous: ops == 0,
            name: None,
        };
        vma.name = self.name(kernel, mm, &vma, ops);
        Ok(vma)
    }

    /// As `get_vma_name()` of `fs/proc/task_mmu.c` puts it. What cannot be read has no name:
    /// its pages are there all the same.
    fn name(&self, kernel: &Kernel<'_>, mm: &Mm, vma: &Vma, ops: u64) -> Option<String> {
        let given = || {
            let (field, shares) = self.anon_name?;
            if shares && vma.file.is_some() {
                return None;
            }
            let at = kernel.get(vma.addr, field).ok().filter(|at| *at != 0)?;
            let name = kernel.field("anon_vma_name", "name").ok()?;
            let text = kernel.string(at.checked_add(name.offset)?, MAX_NAME).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        if vma.file.is_some() {
            return given().map(|name| format!("[anon_shmem:{name}]"));
        }
        if self.special_ops.contains(&ops)
            && let Some(name) = self.special_name(kernel, vma)
        {
            return Some(name);
        }
        // `vma_is_initial_heap()`, `vma_is_initial_stack()`.
        if vma.start < mm.brk && vma.end > mm.start_brk {
            return Some("[heap]".to_owned());
        }
        if vma.start <= mm.start_stack && vma.end >= mm.start_stack {
            return Some("[stack]".to_owned());
        }
        given().map(|name| format!("[anon:{name}]"))
    }

    /// `struct vm_special_mapping`: `[vdso]`, `[vvar]`, `[uprobes]`.
    fn special_name(&self, kernel: &Kernel<'_>, vma: &Vma) -> Option<String> {
        let mapping = kernel.get(vma.addr, self.private).ok()?;
        let name = kernel.get(mapping, self.special?).ok().filter(|name| *name != 0)?;
        let text = kernel.string(name, MAX_NAME).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The mappings of the process whose `struct mm_struct` is at `mm`, ascending. What is
/// damaged is left out and told.
#[must_use]
pub fn vmas(kernel: &Kernel<'_>, mm: u64) -> Found<Vma> {
    let (layout, marks) = match Layout::new(kernel)
        .map_err(Damage::from)
        .and_then(|layout| Ok((layout, Mm::open(kernel, mm)?)))
    {
        Ok(both) => both,
        Err(damage) => return Found::broken(damage),
    };
    let mut found = Found::default();
    let objects = objects(kernel, mm, &mut found);
    let mut seen = HashSet::new();
    for (addr, span) in objects {
        // A damaged tree may have one object in all of its slots.
        if !seen.insert(addr) {
            found.spoil(Damage::Circle(addr));
            continue;
        }
        if found.items.len() >= MAX_VMAS {
            found.spoil(Damage::Endless(MAX_VMAS));
            break;
        }
        match layout.read(kernel, &marks, addr) {
            Ok(vma) => {
                // Changed at the moment of the panic, or overwritten.
                if span.is_some_and(|(first, last)| (first, last) != (vma.start, vma.end - 1)) {
                    found.spoil(Damage::Odd(addr));
                }
                found.items.push(vma);
            }
            Err(damage) => found.spoil(damage),
        }
    }
    found.items.sort_by_key(|vma| vma.start);
    found
}

/// Addresses of the objects, and what range the tree has them at.
type Objects = Vec<(u64, Option<(u64, u64)>)>;

fn objects(kernel: &Kernel<'_>, mm: u64, found: &mut Found<Vma>) -> Objects {
    if let Ok(tree) = kernel.field("mm_struct", "mm_mt") {
        let spans = found.heed(walk::maple(kernel, mm.wrapping_add(tree.offset), MAX_NODES));
        return spans.iter().map(|s| (s.entry, Some((s.first, s.last)))).collect();
    }
    let fields = kernel
        .field("mm_struct", "mmap")
        .and_then(|first| Ok((first, kernel.field("vm_area_struct", "vm_next")?)));
    let (first, next) = match fields {
        Ok(fields) => fields,
        Err(why) => {
            found.spoil(why.into());
            return Vec::new();
        }
    };
    let (mut list, mut seen) = (Vec::new(), HashSet::new());
    let mut now = kernel.get(mm, first);
    loop {
        match now {
            Ok(0) => return list,
            Ok(at) if !seen.insert(at) => found.spoil(Damage::Circle(at)),
            Ok(_) if list.len() >= MAX_VMAS => found.spoil(Damage::Endless(MAX_VMAS)),
            Ok(at) => {
                list.push((at, None));
                now = kernel.get(at, next);
                continue;
            }
            Err(fault) => found.spoil(fault.into()),
        }
        return list;
    }
}
