//! Begin to write a file's cached bytes to its disk, without waiting for them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Has the kernel begin to write all of a file's dirty pages. It comes back when they are
/// queued, not when they are durable: that is what fsync(2) is for. Without this a kernel
/// lets dirty pages lie until they are half a minute old or a tenth of its memory
/// (`vm.dirty_background_ratio`), and the disk idles.
///
/// # Errors
/// Those of sync_file_range(2), `ESPIPE` for what is no file.
pub fn begin_writeout(file: &impl AsFd) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the call takes no pointers, and the descriptor is borrowed for its time. A
    // length of 0 means up to the end of the file.
    let result = unsafe { libc::sync_file_range(fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_it_and_a_pipe_does_not() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 1 << 20]).unwrap();
        begin_writeout(&file).unwrap();
        let (_, pipe) = std::io::pipe().unwrap();
        assert_eq!(begin_writeout(&pipe).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
    }
}
