//! The notes of a core file: `<sys/procfs.h>` and `<linux/elfcore.h>` of x86-64.
//!
//! Sizes and places are the ABI between kernel and debuggers, and never changed:
//! `struct elf_prstatus` 336 bytes, `struct elf_prpsinfo` 136, `siginfo_t` 128,
//! `struct user_i387_struct` 512. The order is that of `fill_note_info()` and
//! `write_note_info()` in `fs/binfmt_elf.c`: registers of the first thread, what is said of
//! the process, further registers of the first thread, and then the other threads.

use crate::PAGE;

/// Registers in `pr_reg`, in the order of `struct user_regs_struct`.
pub const REGISTERS: usize = 27;
/// Bytes of `struct user_i387_struct`.
pub const FP_LEN: usize = 512;
/// Bytes of `siginfo_t`.
pub const SIGINFO_LEN: usize = 128;

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
/// "SIGI"
const NT_SIGINFO: u32 = 0x5349_4749;
/// "FILE"
const NT_FILE: u32 = 0x4649_4c45;
const NT_X86_XSTATE: u32 = 0x202;

/// Most bytes of NT_FILE, as of the kernel's (`MAX_FILE_NOTE_SIZE`): 4 MiB.
const MAX_FILE_NOTE: usize = 4 << 20;
/// Most bytes of any other description that is believed in.
const MAX_DESC: usize = 1 << 20;

/// What NT_PRSTATUS says of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// The signal that it was handling; 0 for none.
    pub signal: u16,
    /// Pending signals, signal `n` at bit `n - 1`.
    pub pending: u64,
    /// Blocked signals, likewise.
    pub held: u64,
    /// Number of the thread.
    pub pid: u32,
    /// Of its parent.
    pub ppid: u32,
    /// Of its process group.
    pub pgrp: u32,
    /// Of its session.
    pub sid: u32,
    /// Time in user mode, in ns.
    pub user_ns: u64,
    /// Time in the kernel, in ns.
    pub system_ns: u64,
    /// Time of its dead children in user mode, in ns.
    pub children_user_ns: u64,
    /// Time of its dead children in the kernel, in ns.
    pub children_system_ns: u64,
    /// Registers, in the order of `struct user_regs_struct`.
    pub registers: [u64; REGISTERS],
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thread {
    /// Its numbers and registers.
    pub status: Status,
    /// FXSAVE image (NT_FPREGSET), [`FP_LEN`] bytes; none if it is not known.
    pub fp: Option<Vec<u8>>,
    /// XSAVE image in standard format (NT_X86_XSTATE), see [`super::xstate`].
    pub xstate: Option<Vec<u8>>,
    /// `siginfo_t` of the signal that stopped it, if one did.
    pub siginfo: Option<[u8; SIGINFO_LEN]>,
}

/// What NT_PRPSINFO says of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Info {
    /// Number of its lowest state bit and one; 0: it runs (`fill_psinfo()`).
    pub state: u8,
    /// Nice value, -20 to 19.
    pub nice: i8,
    /// `task_struct.flags`.
    pub flags: u64,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Number of the process.
    pub pid: u32,
    /// Of its parent.
    pub ppid: u32,
    /// Of its process group.
    pub pgrp: u32,
    /// Of its session.
    pub sid: u32,
    /// Its name (`comm`), at most 15 bytes of it.
    pub name: Vec<u8>,
    /// Its command line, words ended by NUL; at most 79 bytes of it.
    pub args: Vec<u8>,
}

/// A mapping of a file, for NT_FILE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMapping {
    /// Address of its first byte.
    pub start: u64,
    /// Address behind its last byte.
    pub end: u64,
    /// Place of its first byte in the file, in pages.
    pub page: u64,
    /// Path of the file, as the process saw it.
    pub path: Vec<u8>,
}

/// One note: header, name, description, each padded to four bytes.
fn put(out: &mut Vec<u8>, name: &[u8], kind: u32, desc: &[u8]) {
    let len = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&len(name.len()));
    out.extend_from_slice(&len(desc.len()));
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(name);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(desc);
    out.resize(out.len().next_multiple_of(4), 0);
}

const CORE: &[u8] = b"CORE\0";
const LINUX: &[u8] = b"LINUX\0";

/// All notes of a process. What is longer than it can be is left out.
#[must_use]
pub fn encode(process: &super::Process) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, thread) in process.threads.iter().enumerate() {
        put(&mut out, CORE, NT_PRSTATUS, &thread.status.encode(thread.fp.is_some()));
        if n == 0 {
            of_process(&mut out, process, thread);
        }
        if let Some(fp) = thread.fp.as_deref().filter(|fp| fp.len() == FP_LEN) {
            put(&mut out, CORE, NT_PRFPREG, fp);
        }
        if let Some(state) = thread.xstate.as_deref().filter(|x| x.len() <= MAX_DESC) {
            put(&mut out, LINUX, NT_X86_XSTATE, state);
        }
    }
    if process.threads.is_empty() {
        of_process(&mut out, process, &Thread::default());
    }
    out
}

fn of_process(out: &mut Vec<u8>, process: &super::Process, first: &Thread) {
    put(out, CORE, NT_PRPSINFO, &process.info.encode());
    if let Some(info) = &first.siginfo {
        put(out, CORE, NT_SIGINFO, info);
    }
    if !process.auxv.is_empty() && process.auxv.len() <= MAX_DESC {
        put(out, CORE, NT_AUXV, &process.auxv);
    }
    if !process.files.is_empty() {
        put(out, CORE, NT_FILE, &files(&process.files));
    }
}

/// `struct timeval` of a time in ns.
fn time(out: &mut Vec<u8>, ns: u64) {
    out.extend_from_slice(&(ns / 1_000_000_000).to_le_bytes());
    out.extend_from_slice(&(ns % 1_000_000_000 / 1000).to_le_bytes());
}

impl Status {
    /// `struct elf_prstatus`.
    fn encode(&self, fp_valid: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(336);
        // si_signo, si_code, si_errno; pr_cursig and two bytes of padding.
        out.extend_from_slice(&u32::from(self.signal).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&u32::from(self.signal).to_le_bytes());
        out.extend_from_slice(&self.pending.to_le_bytes());
        out.extend_from_slice(&self.held.to_le_bytes());
        for id in [self.pid, self.ppid, self.pgrp, self.sid] {
            out.extend_from_slice(&id.to_le_bytes());
        }
        for ns in [self.user_ns, self.system_ns, self.children_user_ns, self.children_system_ns] {
            time(&mut out, ns);
        }
        for register in self.registers {
            out.extend_from_slice(&register.to_le_bytes());
        }
        out.extend_from_slice(&u64::from(fp_valid).to_le_bytes());
        out
    }
}

impl Info {
    /// `struct elf_prpsinfo`.
    fn encode(&self) -> Vec<u8> {
        let letter = b"RSDTZW".get(usize::from(self.state)).copied().unwrap_or(b'.');
        let mut out = Vec::with_capacity(136);
        out.extend_from_slice(&[self.state, letter, u8::from(letter == b'Z')]);
        out.extend_from_slice(&self.nice.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.flags.to_le_bytes());
        for id in [self.uid, self.gid, self.pid, self.ppid, self.pgrp, self.sid] {
            out.extend_from_slice(&id.to_le_bytes());
        }
        text(&mut out, &self.name, 16);
        // The kernel makes one line of the words, and so of the last one's NUL.
        let args: Vec<u8> = self.args.iter().map(|b| if *b == 0 { b' ' } else { *b }).collect();
        text(&mut out, &args, 80);
        out
    }
}

/// Text in a field of `len` bytes, ended by NUL.
fn text(out: &mut Vec<u8>, text: &[u8], len: usize) {
    let end = out.len() + len;
    out.extend_from_slice(text.get(..len - 1).unwrap_or(text));
    out.resize(end, 0);
}

/// NT_FILE: how many, the unit of offsets, three numbers each, and then the paths.
fn files(files: &[FileMapping]) -> Vec<u8> {
    let mut size = 16;
    let fit = |f: &&FileMapping| {
        size += 24 + f.path.len() + 1;
        size <= MAX_FILE_NOTE
    };
    let files: Vec<&FileMapping> = files.iter().take_while(fit).collect();
    let mut out = Vec::new();
    for word in [files.len() as u64, PAGE as u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for file in &files {
        for word in [file.start, file.end, file.page] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    for file in files {
        out.extend(file.path.iter().copied().filter(|b| *b != 0));
        out.push(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elfcore::Process;
    use lifeboat_sources::notes::Notes;

    #[test]
    fn sizes_are_those_of_the_abi() {
        assert_eq!(Status::default().encode(false).len(), 336);
        assert_eq!(Info::default().encode().len(), 136);
    }

    #[test]
    fn fields_lie_where_debuggers_look() {
        let status = Status {
            signal: 11,
            pid: 0x1234,
            user_ns: 3_000_002_000,
            registers: std::array::from_fn(|n| n as u64 + 1),
            ..Status::default()
        };
        let raw = status.encode(true);
        assert_eq!((raw[0], raw[12], &raw[32..36]), (11, 11, &[0x34, 0x12, 0, 0][..]));
        assert_eq!((raw[48], raw[56]), (3, 2));
        assert_eq!((raw[112], raw[112 + 26 * 8], raw[328]), (1, 27, 1));
        let info = Info {
            state: 1,
            nice: -5,
            pid: 7,
            name: b"a name that is far too long".to_vec(),
            args: b"one\0two\0".to_vec(),
            ..Info::default()
        };
        let raw = info.encode();
        assert_eq!((raw[0], raw[1], raw[2], raw[3]), (1, b'S', 0, 0xfb));
        assert_eq!((raw[24], &raw[40..56]), (7, &b"a name that is \0"[..]));
        assert_eq!(&raw[56..65], b"one two \0");
    }

    #[test]
    fn notes_come_in_the_order_of_the_kernel() {
        let thread =
            Thread { fp: Some(vec![0; 512]), xstate: Some(vec![0; 832]), ..Thread::default() };
        let first = Thread { siginfo: Some([0; 128]), ..thread.clone() };
        let files = vec![FileMapping { start: 0x1000, end: 0x3000, page: 2, path: b"/x".to_vec() }];
        let process = Process {
            threads: vec![first, thread],
            auxv: vec![0; 16],
            files,
            ..Process::default()
        };
        let raw = encode(&process);
        let notes: Vec<_> = Notes::new(&raw).collect();
        let kinds: Vec<u32> = notes.iter().map(|n| n.kind).collect();
        assert_eq!(kinds, [1, 3, NT_SIGINFO, 6, NT_FILE, 2, 0x202, 1, 2, 0x202]);
        assert!(
            notes.iter().all(|n| n.name == if n.kind == 0x202 { &b"LINUX"[..] } else { b"CORE" })
        );
        let words: Vec<u64> = notes[4]
            .desc
            .chunks(8)
            .take(5)
            .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!((words, &notes[4].desc[40..]), (vec![1, 4096, 0x1000, 0x3000, 2], &b"/x\0"[..]));
    }

    /// A hostile number of long paths does not make a note that nobody reads.
    #[test]
    fn a_note_of_files_has_a_limit() {
        let one = FileMapping { start: 0, end: 4096, page: 0, path: vec![b'x'; 4096] };
        let raw = files(&vec![one; 3000]);
        let count = u64::from_le_bytes(raw[..8].try_into().unwrap());
        assert_eq!(count, (MAX_FILE_NOTE as u64 - 16) / (24 + 4097));
        assert!(raw.len() <= MAX_FILE_NOTE);
    }
}
