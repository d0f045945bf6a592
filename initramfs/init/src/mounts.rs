//! proc, sysfs, devtmpfs: all that the capture needs of a file system.

use std::path::Path;

use rustix::mount::{MountFlags, mount};

use crate::Failure;

/// Mounts them; what the kernel has mounted already is left as it is.
pub(crate) fn mount_all() -> Result<(), Failure> {
    for (what, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        if !Path::new(at).is_dir() {
            std::fs::create_dir(at).map_err(|e| format!("creating {at}: {e}"))?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        match mount(what, at, what, flags, None) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(e) => return Err(format!("mounting {what} on {at}: {e}").into()),
        }
    }
    Ok(())
}
