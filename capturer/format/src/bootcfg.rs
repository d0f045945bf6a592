//! The boot configuration: what a board profile and a host's site settings come
//! down to, as text lines that the crash kernel's PID 1 reads from its initramfs.
//!
//! ```text
//! lifeboat-boot 1
//! action reboot
//! target partlabel=lifeboat
//! recipient age1…
//! crc32 1c291ca3
//! ```
//! A line is a key, one space and a value. The last line is the CRC-32 of all
//! bytes before it, as 8 hexadecimal digits. Unknown keys are refused: an image
//! that does not understand its orders must not guess. All space is fixed.

mod codec;
mod selector;
mod values;

use heapless::{String, Vec};

pub use codec::{LEVELS, Ladder, MAX_METHODS, Method};
pub use selector::{SELECTOR_LEN, Selector};
pub use values::TextSink;
use values::{
    action, action_name, escrow, fixed, flag, number, order, policy, seed, source, source_name,
    yes_no,
};

use crate::{Exclude, FormatError, crc32};

/// Largest boot configuration, in bytes.
pub const MAX_LEN: usize = 64 << 10;
/// Most targets, and most entries of an explicit swap list.
pub const MAX_DEVICES: usize = 16;
/// Most recipients.
pub const MAX_RECIPIENTS: usize = crate::keys::MAX_RECIPIENTS;
/// Most characters of a recipient (an ssh-rsa key of 8192 bits has about 1400).
pub const RECIPIENT_LEN: usize = 1536;
/// Largest wrapped one-boot identity, in bytes.
pub const MAX_ESCROW: usize = 4096;
/// Most recipients of a one-boot identity.
pub const MAX_ESCROW_RECIPIENTS: usize = 8;

/// Default of the table of pages that were stored already, in KiB: some 170,000 pages.
pub const DEDUP_KIB: u32 = 4096;
/// The largest such table, in KiB.
pub const MAX_DEDUP_KIB: u32 = 1 << 20;

/// What the machine does when PID 1 has finished, or could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// Restart the machine.
    #[default]
    Reboot,
    /// Switch it off.
    Poweroff,
    /// Stop the CPUs; for a bench, not for a fleet.
    Halt,
}

/// Default of the buffers in front of disks, in KiB: six writes of half a MiB, which keep
/// any one disk busy, and 1 MiB to read ahead in.
pub const BUFFERS_KIB: u32 = 4096;
/// The least that works, in KiB, and the most that does any good.
pub const MIN_BUFFERS_KIB: u32 = 512;
/// See [`MIN_BUFFERS_KIB`].
pub const MAX_BUFFERS_KIB: u32 = 65536;

/// Which interface to read old memory through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemorySource {
    /// `/dev/oldmem`, or `/proc/vmcore` where that fails.
    #[default]
    Auto,
    /// `/dev/oldmem` only.
    Oldmem,
    /// `/proc/vmcore` only.
    Vmcore,
}

/// What may go from a dump volume to make room for a new dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Nothing: the first evidence wins.
    #[default]
    KeepFirst,
    /// The oldest dumps, pulled ones first.
    KeepLatest,
    /// Pulled dumps only, the oldest first.
    DropPulled,
}

impl Policy {
    /// As the profile and the boot configuration say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeepFirst => "keep-first",
            Self::KeepLatest => "keep-latest",
            Self::DropPulled => "drop-pulled",
        }
    }
}

/// In which order memory is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Kernel, user, swap, page cache, free pages, by the dead kernel's `struct page`;
    /// plain addresses where that cannot be trusted.
    #[default]
    Worth,
    /// By address; the dead kernel's structures are not looked at.
    Address,
}

/// The secret of a one-boot recipient, wrapped when arming to recipients whose
/// plugins cannot run in the crash kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escrow {
    /// Fingerprints of those who can open it.
    pub fingerprints: Vec<[u8; 8], MAX_ESCROW_RECIPIENTS>,
    /// A binary age file whose plaintext is one age identity line.
    pub wrapped: Vec<u8, MAX_ESCROW>,
}

/// Which swap devices to capture.
#[allow(clippy::large_enum_variant, reason = "one exists in a program, and a box would allocate")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SwapPlan {
    /// None.
    None,
    /// Every partition with a swap signature.
    #[default]
    Auto,
    /// These.
    List(Vec<Selector, MAX_DEVICES>),
}

/// The hardware watchdog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Watchdog {
    /// Leave it alone.
    None,
    /// `/dev/watchdog0`, if there is one.
    #[default]
    Auto,
    /// This device; a failure to open it is reported, not fatal.
    Device(String<SELECTOR_LEN>),
}

/// The status LED: a line of a GPIO character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Led {
    /// The chip, `/dev/gpiochipN`.
    pub chip: String<64>,
    /// The line's number on the chip.
    pub line: u32,
    /// On means low.
    pub active_low: bool,
}

/// Everything that PID 1 needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootConfig {
    /// Name of the board profile.
    pub board: String<64>,
    /// Version of the image, for the dump header.
    pub image: String<63>,
    /// Name of the host, empty if unknown. Sealed, never in the clear.
    pub hostname: String<255>,
    /// After a dump.
    pub action: Action,
    /// After any failure.
    pub failure: Action,
    /// From PID 1's start to the action, in seconds.
    pub deadline_s: u32,
    /// How long to wait for the target to appear, in seconds.
    pub device_wait_s: u32,
    /// Where memory comes from.
    pub memory_source: MemorySource,
    /// Whether memory is captured.
    pub memory: bool,
    /// Which swap devices are captured.
    pub swap: SwapPlan,
    /// With `swap auto`, the devices that were swapped to when the host was armed: these are
    /// waited for. `None` where nobody looked, as in an image's own configuration.
    pub swap_on: Option<Vec<Selector, MAX_DEVICES>>,
    /// Where to write, in order of preference.
    pub targets: Vec<Selector, MAX_DEVICES>,
    /// What may go to make room.
    pub policy: Policy,
    /// In which order memory is captured.
    pub order: Order,
    /// Which pages of memory are left out.
    pub exclude: Exclude,
    /// How chunks are packed.
    pub codec: Ladder,
    /// Memory for the table of pages that were stored already, in KiB; 0 stores
    /// identical pages every time.
    pub dedup_kib: u32,
    /// Data pages in a chunk.
    pub chunk_pages: u32,
    /// Compressing threads; 0 means one a CPU.
    pub workers: u32,
    /// Memory that bytes wait in between workers and disks, for all of them, in KiB.
    pub buffers_kib: u32,
    /// Whether dumps are encrypted.
    pub encrypt: bool,
    /// Who may open a dump.
    pub recipients: Vec<String<RECIPIENT_LEN>, MAX_RECIPIENTS>,
    /// The secret of the one-boot recipient among them, for plugin recipients.
    pub escrow: Option<Escrow>,
    /// The hardware watchdog.
    pub watchdog: Watchdog,
    /// Its timeout in seconds.
    pub watchdog_timeout_s: u32,
    /// The status LED.
    pub led: Option<Led>,
    /// Random bytes prepared when arming, mixed into the data key.
    pub seed: Option<[u8; 32]>,
    /// When it was armed, seconds since 1970; 0 for an image's own configuration.
    pub armed_at: u64,
    /// A fault to inject, for tests: `panic@PHASE`, `hang@PHASE`, `oom@PHASE`, `unreadable=PHYS`.
    pub fault: String<64>,
}

impl Default for BootConfig {
    fn default() -> Self {
        Self {
            board: String::new(),
            image: String::new(),
            hostname: String::new(),
            action: Action::Reboot,
            failure: Action::Reboot,
            deadline_s: 3600,
            device_wait_s: 60,
            memory_source: MemorySource::Auto,
            memory: true,
            swap: SwapPlan::Auto,
            swap_on: None,
            targets: Vec::new(),
            policy: Policy::KeepFirst,
            order: Order::Worth,
            exclude: Exclude::NOTHING,
            codec: Ladder::default(),
            dedup_kib: DEDUP_KIB,
            chunk_pages: 64,
            workers: 0,
            buffers_kib: BUFFERS_KIB,
            encrypt: true,
            recipients: Vec::new(),
            escrow: None,
            watchdog: Watchdog::Auto,
            watchdog_timeout_s: 60,
            led: None,
            seed: None,
            armed_at: 0,
            fault: String::new(),
        }
    }
}

const MAGIC_LINE: &str = "lifeboat-boot 1";

impl BootConfig {
    /// Writes the configuration as text. `with_seed: false` leaves the seed out,
    /// for copies that end up where others can read them.
    ///
    /// # Errors
    /// [`core::fmt::Error`] when `out` is full.
    pub fn write(&self, out: &mut impl TextSink, with_seed: bool) -> core::fmt::Result {
        self.write_lines(out, with_seed)?;
        let crc = crc32(out.text().as_bytes());
        writeln!(out, "crc32 {crc:08x}")
    }

    fn write_lines(&self, out: &mut impl TextSink, with_seed: bool) -> core::fmt::Result {
        writeln!(out, "{MAGIC_LINE}")?;
        for (key, value) in
            [("board", &*self.board), ("image", &*self.image), ("hostname", &*self.hostname)]
        {
            if !value.is_empty() {
                writeln!(out, "{key} {value}")?;
            }
        }
        writeln!(out, "action {}", action_name(self.action))?;
        writeln!(out, "failure {}", action_name(self.failure))?;
        writeln!(out, "deadline {}", self.deadline_s)?;
        writeln!(out, "device-wait {}", self.device_wait_s)?;
        writeln!(out, "source {}", source_name(self.memory_source))?;
        writeln!(out, "memory {}", yes_no(self.memory))?;
        self.write_swap(out)?;
        for t in &self.targets {
            writeln!(out, "target {t}")?;
        }
        writeln!(out, "policy {}", self.policy.name())?;
        writeln!(out, "order {}", if self.order == Order::Worth { "worth" } else { "address" })?;
        writeln!(out, "exclude {}", self.exclude)?;
        writeln!(out, "codec {}", self.codec)?;
        writeln!(out, "dedup {}", self.dedup_kib)?;
        writeln!(out, "chunk-pages {}", self.chunk_pages)?;
        writeln!(out, "workers {}", self.workers)?;
        writeln!(out, "buffers {}", self.buffers_kib)?;
        writeln!(out, "encrypt {}", if self.encrypt { "age" } else { "none" })?;
        for r in &self.recipients {
            writeln!(out, "recipient {r}")?;
        }
        if let Some(escrow) = &self.escrow {
            values::write_escrow(out, escrow)?;
        }
        match &self.watchdog {
            Watchdog::None => writeln!(out, "watchdog none")?,
            Watchdog::Auto => writeln!(out, "watchdog auto")?,
            Watchdog::Device(path) => writeln!(out, "watchdog {path}")?,
        }
        writeln!(out, "watchdog-timeout {}", self.watchdog_timeout_s)?;
        if let Some(led) = &self.led {
            let low = if led.active_low { " low" } else { "" };
            writeln!(out, "led {} {}{low}", led.chip, led.line)?;
        }
        if self.armed_at != 0 {
            writeln!(out, "armed-at {}", self.armed_at)?;
        }
        if !self.fault.is_empty() {
            writeln!(out, "fault {}", self.fault)?;
        }
        if let (true, Some(seed)) = (with_seed, &self.seed) {
            write!(out, "seed ")?;
            for b in seed {
                write!(out, "{b:02x}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }

    fn write_swap(&self, out: &mut impl TextSink) -> core::fmt::Result {
        match &self.swap {
            SwapPlan::None => writeln!(out, "swap none")?,
            SwapPlan::Auto => writeln!(out, "swap auto")?,
            SwapPlan::List(list) => {
                for s in list {
                    writeln!(out, "swap {s}")?;
                }
            }
        }
        match self.swap_on.as_deref() {
            None => {}
            Some([]) => writeln!(out, "swap-on none")?,
            Some(list) => {
                for s in list {
                    writeln!(out, "swap-on {s}")?;
                }
            }
        }
        Ok(())
    }

    /// Reads a boot configuration and checks that it is whole and consistent.
    ///
    /// # Errors
    /// [`FormatError`], with the line where there is one.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "boot configuration";
        if bytes.len() > MAX_LEN {
            return Err(FormatError::NoSpace { what: WHAT });
        }
        let text = core::str::from_utf8(bytes).map_err(|_| FormatError::Checksum { what: WHAT })?;
        let body_len = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
        let (body, last) =
            text.split_at_checked(body_len).ok_or(FormatError::Short { what: WHAT })?;
        if !body.starts_with(MAGIC_LINE) {
            return Err(FormatError::Magic { what: WHAT });
        }
        let sum = last.strip_prefix("crc32 ").and_then(|s| s.strip_suffix('\n'));
        let sum = sum.ok_or(FormatError::Short { what: WHAT })?;
        let digits = sum.len() == 8 && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !digits || u32::from_str_radix(sum, 16) != Ok(crc32(body.as_bytes())) {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let mut cfg = Self::default();
        let mut number = 1u32;
        for line in body.lines().skip(1) {
            number = number.saturating_add(1);
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            cfg.set(key, value).map_err(|why| FormatError::Boot { line: number, why })?;
        }
        cfg.check().map_err(|why| FormatError::Boot { line: 0, why })?;
        Ok(cfg)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "board" => self.board = fixed(value)?,
            "image" => self.image = fixed(value)?,
            "hostname" => self.hostname = fixed(value)?,
            "action" => self.action = action(value)?,
            "failure" => self.failure = action(value)?,
            "deadline" => self.deadline_s = number(value)?,
            "device-wait" => self.device_wait_s = number(value)?,
            "source" => self.memory_source = source(value)?,
            "memory" => self.memory = flag(value)?,
            "swap" => self.set_swap(value)?,
            "swap-on" => self.add_swap_on(value)?,
            "target" => {
                self.targets.push(Selector::parse(value)?).map_err(|_| "more than 16 targets")?
            }
            "policy" => self.policy = policy(value)?,
            "order" => self.order = order(value)?,
            "exclude" => self.exclude = Exclude::parse(value)?,
            "codec" => self.codec = Ladder::parse(value)?,
            "dedup" => self.dedup_kib = number(value)?,
            "chunk-pages" => self.chunk_pages = number(value)?,
            "workers" => self.workers = number(value)?,
            "buffers" => self.buffers_kib = number(value)?,
            "encrypt" => {
                self.encrypt = match value {
                    "age" => true,
                    "none" => false,
                    _ => return Err("encrypt is age or none"),
                }
            }
            "recipient" => {
                self.recipients.push(fixed(value)?).map_err(|_| "more than 32 recipients")?;
            }
            _ => return self.set_site(key, value),
        }
        Ok(())
    }

    fn set_site(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "watchdog" => {
                self.watchdog = match value {
                    "none" => Watchdog::None,
                    "auto" => Watchdog::Auto,
                    path if path.starts_with("/dev/") => Watchdog::Device(fixed(path)?),
                    _ => return Err("watchdog is none, auto or a /dev/ path"),
                }
            }
            "watchdog-timeout" => self.watchdog_timeout_s = number(value)?,
            "led" => {
                let mut words = value.split(' ');
                let (chip, line) = (words.next(), words.next());
                let (Some(chip), Some(line)) = (chip, line) else {
                    return Err("led is `CHIP LINE [low]`");
                };
                let active_low = match words.next() {
                    None => false,
                    Some("low") => true,
                    Some(_) => return Err("led is `CHIP LINE [low]`"),
                };
                self.led = Some(Led { chip: fixed(chip)?, line: number(line)?, active_low });
            }
            "armed-at" => {
                self.armed_at = value.parse().map_err(|_| "armed-at is not a number")?;
            }
            "escrow" => self.escrow = Some(escrow(value)?),
            "fault" => self.fault = fixed(value)?,
            "seed" => self.seed = Some(seed(value)?),
            _ => return Err("unknown key"),
        }
        Ok(())
    }

    fn set_swap(&mut self, value: &str) -> Result<(), &'static str> {
        match value {
            "none" => self.swap = SwapPlan::None,
            "auto" => self.swap = SwapPlan::Auto,
            other => {
                let selector = Selector::parse(other)?;
                let mut list = match core::mem::take(&mut self.swap) {
                    SwapPlan::List(list) => list,
                    SwapPlan::None | SwapPlan::Auto => Vec::new(),
                };
                list.push(selector).map_err(|_| "more than 16 swap devices")?;
                self.swap = SwapPlan::List(list);
            }
        }
        Ok(())
    }

    fn add_swap_on(&mut self, value: &str) -> Result<(), &'static str> {
        let none = value == "none";
        // An empty list is what `none` left there.
        if self.swap_on.as_ref().is_some_and(|list| list.is_empty() != none) {
            return Err("swap-on is none or devices");
        }
        let list = self.swap_on.get_or_insert_default();
        if none {
            return Ok(());
        }
        list.push(Selector::parse(value)?).map_err(|_| "more than 16 swap devices that are on")
    }

    /// Contradictions that would make a capture fail or expose it.
    ///
    /// # Errors
    /// A static text that says what is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.targets.is_empty() {
            return Err("no target: there is nowhere to write the dump");
        }
        let by_path =
            |s: &Selector| matches!(s, Selector::Path(_) | Selector::Label(_) | Selector::Uuid(_));
        if self.targets.iter().any(by_path) {
            return Err("a target is named by partlabel, partuuid, parttype or volume only");
        }
        if !(MIN_BUFFERS_KIB..=MAX_BUFFERS_KIB).contains(&self.buffers_kib) {
            return Err("buffers is from 512 to 65536 KiB");
        }
        if self.encrypt && self.recipients.is_empty() {
            return Err("no recipient: nobody could open the dump");
        }
        if !self.encrypt && !self.recipients.is_empty() {
            return Err("recipients are named, but encrypt is none");
        }
        if !self.encrypt && self.escrow.is_some() {
            return Err("an escrow is there, but encrypt is none");
        }
        if self.swap_on.is_some() && self.swap != SwapPlan::Auto {
            return Err("swap-on is for swap auto");
        }
        if self.deadline_s == 0 || self.device_wait_s >= self.deadline_s {
            return Err("device-wait must be shorter than deadline, and deadline not 0");
        }
        self.check_packing()
    }

    /// Numbers that no dump can be packed by; the part of [`BootConfig::check`] that holds
    /// where there is neither a target nor a deadline, as for `lifeboat capture`.
    ///
    /// # Errors
    /// A static text that says what is wrong.
    pub fn check_packing(&self) -> Result<(), &'static str> {
        if !(1..=crate::chunk::MAX_CHUNK_PAGES).contains(&self.chunk_pages) {
            return Err("chunk-pages is from 1 to 1024");
        }
        if self.dedup_kib > MAX_DEDUP_KIB {
            return Err("dedup is at most 1048576 KiB");
        }
        if self.workers > 64 {
            return Err("workers is at most 64");
        }
        Ok(())
    }
}
