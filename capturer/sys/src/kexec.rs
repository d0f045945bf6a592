//! `kexec_file_load(2)` for the crash kernel, and its unloading.
//!
//! The flag values are the kernel's `include/uapi/linux/kexec.h`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `KEXEC_FILE_UNLOAD`
const UNLOAD: libc::c_ulong = 0x1;
/// `KEXEC_FILE_ON_CRASH`
const ON_CRASH: libc::c_ulong = 0x2;

/// Loads `kernel` and `initrd` into the `crashkernel=` reservation; replaces
/// what was loaded there before.
///
/// The kernel reads both descriptors from offset 0 and refuses files that
/// anybody holds open for writing (`ETXTBSY`).
///
/// # Errors
/// The system call's: `EPERM` without `CAP_SYS_BOOT`, `EADDRNOTAVAIL` when it does
/// not fit or nothing is reserved, `ENOEXEC` for a kernel that it cannot load,
/// `EKEYREJECTED`/`ENOKEY` for an unsigned one under lockdown; `EINVAL` for a
/// command line with a NUL.
pub fn load_crash(kernel: BorrowedFd<'_>, initrd: BorrowedFd<'_>, cmdline: &str) -> io::Result<()> {
    let cmdline = CString::new(cmdline).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let bytes = cmdline.as_bytes_with_nul();
    // SAFETY: both descriptors are open for the call's length, and the pointer
    // and length describe a NUL-terminated string that outlives it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            bytes.len(),
            bytes.as_ptr(),
            ON_CRASH,
        )
    };
    check(result)
}

/// Unloads the crash kernel.
///
/// # Errors
/// The system call's, `EPERM` above all.
pub fn unload_crash() -> io::Result<()> {
    // SAFETY: with KEXEC_FILE_UNLOAD the kernel looks at no other argument.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            -1,
            -1,
            0usize,
            std::ptr::null::<u8>(),
            UNLOAD | ON_CRASH,
        )
    };
    check(result)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
