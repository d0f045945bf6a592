//! The checked profile.

use std::path::{Path, PathBuf};

use lifeboat_format::Exclude;
use lifeboat_format::bootcfg::{
    Action, Ladder, Led, MemorySource, Order, Policy, Selector, SwapPlan, Watchdog,
};

use crate::check;
use crate::defect::{Defect, Defects};
use crate::raw;
use crate::recipient;
use crate::source::Tree;

/// Where the crash kernel's source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// A Debian source package such as `linux-source-6.12`; apt verifies it.
    Package(String),
    /// A tree on this machine, used as it is.
    Path(PathBuf),
    /// A tarball on this machine, with its SHA-256 as 64 hexadecimal digits.
    Tarball {
        /// Where it is.
        path: PathBuf,
        /// What it must hash to, lower case.
        sha256: String,
    },
}

/// The crash kernel's consoles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// Values of `console=`, in order; the last one is `/dev/console`.
    pub devices: Vec<String>,
    /// The kernel's `loglevel=`, 0 to 8.
    pub loglevel: u32,
}

/// A board profile that has passed every check.
///
/// It may lack a target or recipients, if a host is to name them when arming:
/// see [`Profile::missing`].
#[derive(Debug, Clone)]
pub struct Profile {
    /// The board's name: its directory, unless the profile says otherwise.
    pub name: String,
    /// One line for people; may be empty.
    pub description: String,
    /// The crash kernel's source.
    pub kernel: KernelSource,
    /// Kernel configuration fragments, in order. A bare name `x` stands for
    /// `config/kernel/x.config` of the workspace; a name with a slash is a path
    /// beside the profile that names it, already joined here.
    pub fragments: Vec<PathBuf>,
    /// The words of the command line that the profile gives.
    pub cmdline_words: Vec<String>,
    /// CPUs that the crash kernel brings up.
    pub cpus: u32,
    /// `crashkernel=` of the production kernel, in MiB.
    pub crashkernel_mib: u32,
    /// Most MiB that kernel and initramfs may have together.
    pub image_budget_mib: u32,
    /// Whether memory is captured.
    pub memory: bool,
    /// Where memory is read from.
    pub memory_source: MemorySource,
    /// Which swap devices are captured.
    pub swap: SwapPlan,
    /// How chunks are packed.
    pub codec: Ladder,
    /// Memory for the table of pages that were stored already, in KiB.
    pub dedup_kib: u32,
    /// Data pages in a chunk.
    pub chunk_pages: u32,
    /// Compressing threads; 0 means one a CPU.
    pub workers: u32,
    /// Memory that bytes wait in between workers and disks, in KiB.
    pub buffers_kib: u32,
    /// Where to write, in order of preference.
    pub targets: Vec<Selector>,
    /// What may go from a volume to make room for a new dump.
    pub policy: Policy,
    /// In which order memory is captured.
    pub order: Order,
    /// Which pages of memory are left out.
    pub exclude: Exclude,
    /// Whether dumps are encrypted.
    pub encrypt: bool,
    /// Who may open a dump.
    pub recipients: Vec<String>,
    /// After a dump.
    pub action: Action,
    /// After a failure.
    pub failure: Action,
    /// From PID 1's start to the action, in seconds.
    pub deadline_s: u32,
    /// How long to wait for the target, in seconds.
    pub device_wait_s: u32,
    /// The hardware watchdog.
    pub watchdog: Watchdog,
    /// Its timeout in seconds.
    pub watchdog_timeout_s: u32,
    /// The status LED.
    pub led: Option<Led>,
    /// The consoles.
    pub console: Console,
    pub(crate) flattened: String,
}

impl Profile {
    /// Reads and checks the profile at `path`: a board's directory, or a file such
    /// as the flattened `board.toml` of an image.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Defects> {
        let tree = Tree::load::<raw::Board>(path)?;
        let raw = tree.raw::<raw::Board>()?;
        let name = board_name(&tree, raw.name.as_deref(), path)?;
        let flattened = tree.flattened(&name)?;
        check::profile(&tree, raw, name, flattened).map_err(Defects)
    }

    /// The profile with everything inherited written out, as TOML.
    #[must_use]
    pub fn flattened(&self) -> &str {
        &self.flattened
    }

    /// What a host must still name before this profile can be armed; empty if
    /// the image can stand alone.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let mut out = Vec::new();
        if self.targets.is_empty() {
            out.push("target");
        }
        if self.encrypt && self.recipients.is_empty() {
            out.push("recipients");
        }
        if self.recipients.iter().any(|r| recipient::needs_plugin(r)) {
            out.push("a recipient for that boot, in place of those of plugins");
        }
        out
    }

    /// The crash kernel's whole command line. Kexec adds `elfcorehdr=` itself.
    #[must_use]
    pub fn cmdline(&self) -> String {
        let mut words = self.cmdline_words.clone();
        words.push(format!("nr_cpus={}", self.cpus));
        words.push(format!("loglevel={}", self.console.loglevel));
        words.extend(self.console.devices.iter().map(|d| format!("console={d}")));
        words.join(" ")
    }

    /// What the production kernel's command line needs: `crashkernel=64M`.
    #[must_use]
    pub fn crashkernel(&self) -> String {
        format!("crashkernel={}M", self.crashkernel_mib)
    }
}

/// A board is called as its directory, unless it says otherwise.
fn board_name(tree: &Tree, given: Option<&str>, path: &Path) -> Result<String, Defects> {
    let from_dir = || {
        let dir = if path.is_file() { path.parent() } else { Some(path) };
        let real = dir.and_then(|d| d.canonicalize().ok());
        real.and_then(|d| d.file_name().map(|n| n.to_string_lossy().into_owned()))
    };
    let name = given.map(str::to_owned).or_else(from_dir).unwrap_or_default();
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 63 || name.starts_with('.') || !name.bytes().all(good) {
        let defect: Defect = tree.defect(
            "name",
            format!("`{name}` cannot be a board's name: it becomes a directory and a field of every dump"),
            "letters, digits, `-`, `_` and `.`, at most 63",
        );
        return Err(defect.into());
    }
    Ok(name)
}
