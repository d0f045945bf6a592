//! From raw TOML to a checked profile. Every refusal names the disaster it prevents.

use std::path::PathBuf;

use lifeboat_format::bootcfg::{
    self, Action, Led, MemorySource, Order, Policy, Selector, SwapPlan, Watchdog,
};
use lifeboat_format::exclude::{Exclude, Kind};

use crate::cmdline;
use crate::defect::Defect;
use crate::packing;
use crate::profile::{Console, KernelSource, Profile};
use crate::raw;
use crate::recipient;
use crate::source::Tree;

/// Collects complaints about one tree.
pub(crate) struct Checker<'t> {
    tree: &'t Tree,
    found: Vec<Defect>,
}

impl<'t> Checker<'t> {
    pub(crate) fn new(tree: &'t Tree) -> Self {
        Self { tree, found: Vec::new() }
    }

    /// Complains about the value at `key`.
    pub(crate) fn bad(&mut self, key: &str, message: impl Into<String>, hint: &str) {
        self.found.push(self.tree.defect(key, message, hint));
    }

    /// A number of a key, checked against what is allowed.
    pub(crate) fn range(
        &mut self,
        key: &str,
        found: u32,
        low: u32,
        high: u32,
        disaster: &str,
    ) -> u32 {
        if found < low || found > high {
            self.bad(
                key,
                format!("{found} is out of range: {disaster}"),
                &format!("allowed is {low} to {high}"),
            );
        }
        found
    }

    pub(crate) fn done<T>(self, value: T) -> Result<T, Vec<Defect>> {
        if self.found.is_empty() { Ok(value) } else { Err(self.found) }
    }
}

/// The checked profile of a raw one.
pub(crate) fn profile(
    tree: &Tree,
    raw: raw::Board,
    name: String,
    flattened: String,
) -> Result<Profile, Vec<Defect>> {
    let mut c = Checker::new(tree);
    let swap = swap(&mut c, "capture.swap", raw.capture.swap.as_ref()).unwrap_or_default();
    let targets = targets(&mut c, &raw.target);
    target_is_not_swap(&mut c, &targets, &swap);
    let encrypt = raw.keys.encrypt != Some(raw::Encrypt::None);
    recipient::check(&mut c, encrypt, &raw.keys.recipients);
    let memory = memory(&mut c, &raw.memory, &swap);
    let deadline_s = c.range(
        "after.deadline_s",
        raw.after.deadline_s.unwrap_or(3600),
        10,
        604_800,
        "a machine would be given up before a dump is through, or stay down for more than a week",
    );
    let device_wait_s = raw.after.device_wait_s.unwrap_or(60);
    if device_wait_s >= deadline_s {
        c.bad("after.device_wait_s",
            format!("waiting {device_wait_s} s for the target leaves nothing of the deadline of {deadline_s} s: a slow disk would always end in a reboot without a dump"),
            "make device_wait_s much smaller than deadline_s");
    }
    let (watchdog, watchdog_timeout_s) = watchdog(&mut c, &raw.watchdog, deadline_s);
    let kernel = kernel_source(&mut c, &raw.kernel);
    let cpus = c.range(
        "kernel.cpus",
        raw.kernel.cpus.unwrap_or(1),
        1,
        64,
        "the crash kernel would not start a CPU, or spend its reservation on per-CPU memory",
    );
    let cmdline_words = words(&mut c, &raw.kernel, deadline_s);
    let (crashkernel_mib, image_budget_mib) = reservation(&mut c, &raw.reservation);
    let exclude = exclude(&mut c, raw.capture.exclude.as_deref());
    let packing = packing::check(&mut c, &raw.capture, cpus, crashkernel_mib);
    let console = console(&mut c, raw.console);
    let led = raw.led.and_then(|led| self::led(&mut c, &led));
    let fragments = fragments(&mut c, &raw.kernel);
    c.done(Profile {
        name,
        description: raw.description.unwrap_or_default(),
        kernel,
        fragments,
        cmdline_words,
        cpus,
        crashkernel_mib,
        image_budget_mib,
        memory,
        memory_source: memory_source(raw.memory.source),
        swap,
        policy: policy(raw.volume.policy),
        order: order(raw.capture.order),
        exclude,
        codec: packing.codec,
        dedup_kib: packing.dedup_kib,
        chunk_pages: packing.chunk_pages,
        workers: packing.workers,
        targets,
        buffers_kib: packing.buffers_kib,
        encrypt,
        recipients: raw.keys.recipients,
        action: action(raw.after.action),
        failure: action(raw.after.failure),
        deadline_s,
        device_wait_s,
        watchdog,
        watchdog_timeout_s,
        led,
        console,
        flattened,
    })
}

fn memory(c: &mut Checker<'_>, raw: &raw::Memory, swap: &SwapPlan) -> bool {
    let memory = raw.capture.unwrap_or(true);
    if !memory && *swap == SwapPlan::None {
        c.bad(
            "memory.capture",
            "neither memory nor swap is captured: every dump would be empty",
            "set memory.capture = true, or name swap devices in capture.swap",
        );
    }
    memory
}

fn memory_source(raw: Option<raw::Source>) -> MemorySource {
    match raw {
        None | Some(raw::Source::Auto) => MemorySource::Auto,
        Some(raw::Source::Oldmem) => MemorySource::Oldmem,
        Some(raw::Source::Vmcore) => MemorySource::Vmcore,
    }
}

fn policy(raw: Option<raw::Policy>) -> Policy {
    match raw {
        None | Some(raw::Policy::KeepFirst) => Policy::KeepFirst,
        Some(raw::Policy::KeepLatest) => Policy::KeepLatest,
        Some(raw::Policy::DropPulled) => Policy::DropPulled,
    }
}

fn order(raw: Option<raw::Order>) -> Order {
    match raw {
        None | Some(raw::Order::Worth) => Order::Worth,
        Some(raw::Order::Address) => Order::Address,
    }
}

/// What is left out; an empty list leaves out zero pages only.
fn exclude(c: &mut Checker<'_>, raw: Option<&[raw::Exclude]>) -> Exclude {
    use raw::Exclude as Word;
    let Some(words) = raw else { return Exclude::DEFAULT };
    let mut out = Exclude::NOTHING;
    for (n, word) in words.iter().enumerate() {
        if words.iter().take(n).any(|before| before == word) {
            c.bad(&format!("capture.exclude.{n}"), "the same word twice", "remove one of them");
        }
        out = out.with(match word {
            Word::Zero => Kind::Zero,
            Word::Free => Kind::Free,
            Word::Cache => Kind::Cache,
            Word::CachePrivate => Kind::CachePrivate,
            Word::User => Kind::User,
            Word::Offline => Kind::Offline,
            Word::Hwpoison => Kind::Hwpoison,
        });
    }
    out
}

fn action(raw: Option<raw::Action>) -> Action {
    match raw {
        None | Some(raw::Action::Reboot) => Action::Reboot,
        Some(raw::Action::Poweroff) => Action::Poweroff,
        Some(raw::Action::Halt) => Action::Halt,
    }
}

fn kernel_source(c: &mut Checker<'_>, raw: &raw::Kernel) -> KernelSource {
    let fallback = KernelSource::Package("linux-source-6.12".to_owned());
    let given = [raw.package.is_some(), raw.path.is_some(), raw.tarball.is_some()];
    if given.iter().filter(|g| **g).count() > 1 {
        c.bad(
            "kernel",
            "more than one of package, path and tarball: which kernel is meant?",
            "keep one; a profile that inherits `package` cannot add another source",
        );
        return fallback;
    }
    if raw.sha256.is_some() && raw.tarball.is_none() {
        c.bad(
            "kernel.sha256",
            "a sha256 without a tarball: it would protect nothing",
            "packages are verified by apt's signatures; use sha256 with `tarball`",
        );
    }
    if let Some(path) = &raw.path {
        return KernelSource::Path(c.tree.dir_of("kernel.path").join(path));
    }
    if let Some(tarball) = &raw.tarball {
        let sha256 = raw.sha256.clone().unwrap_or_default().to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            c.bad("kernel.sha256", "a tarball needs its sha256 (64 hexadecimal digits): another file under the same name would become your crash kernel",
                "take it from the publisher's signed list, not from the file you downloaded");
        }
        return KernelSource::Tarball {
            path: c.tree.dir_of("kernel.tarball").join(tarball),
            sha256,
        };
    }
    let Some(package) = &raw.package else { return fallback };
    let version = package.strip_prefix("linux-source-").and_then(|v| v.split_once('.'));
    let version = version.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match version {
        Some(v) if v >= (6u32, 12u32) => {}
        Some(_) => c.bad("kernel.package",
            format!("`{package}` is too old: before 6.9 a crash kernel has no poll queues, and io_uring could not write with interrupts dead"),
            "linux-source-6.12 or newer"),
        None => c.bad("kernel.package", format!("`{package}` is not a kernel source package"),
            "a Debian package name such as linux-source-6.12"),
    }
    KernelSource::Package(package.clone())
}

fn words(c: &mut Checker<'_>, raw: &raw::Kernel, deadline_s: u32) -> Vec<String> {
    let base = raw.cmdline.iter().flatten().enumerate();
    let base = base.map(|(n, w)| (format!("kernel.cmdline.{n}"), w.clone()));
    let more = raw.cmdline_append.iter().enumerate();
    let more = more.map(|(n, w)| (format!("kernel.cmdline_append.{n}"), w.clone()));
    let mut words: Vec<(String, String)> = base.chain(more).collect();
    if raw.cmdline.is_none() {
        words.insert(0, ("kernel.cmdline".to_owned(), "panic=10".to_owned()));
    }
    c.found.extend(cmdline::check(c.tree, &words, deadline_s));
    words.into_iter().map(|(_, w)| w).collect()
}

fn fragments(c: &mut Checker<'_>, raw: &raw::Kernel) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let lists = [
        ("kernel.fragments", raw.fragments.as_deref().unwrap_or_default()),
        ("kernel.fragments_append", &raw.fragments_append),
    ];
    for (list, names) in lists {
        for (n, name) in names.iter().enumerate() {
            let key = format!("{list}.{n}");
            if name.is_empty() || name.starts_with('.') && !name.contains('/') {
                c.bad(
                    &key,
                    "not the name of a fragment",
                    "a name in config/kernel, or a path with a slash",
                );
            }
            let joined = if name.contains('/') {
                c.tree.dir_of(&key).join(name)
            } else {
                PathBuf::from(name)
            };
            out.push(joined);
        }
    }
    if out.is_empty() {
        c.bad("kernel.fragments", "no kernel configuration fragments: the kernel would have no drivers, not even /proc/vmcore",
            "name fragments of config/kernel, as board/x86_64-generic does");
    }
    out
}

fn reservation(c: &mut Checker<'_>, raw: &raw::Reservation) -> (u32, u32) {
    let crash = c.range("reservation.crashkernel_mib", raw.crashkernel_mib.unwrap_or(64), 32, 4096,
        "below 32 MiB the crash kernel deadlocks on memory while it writes; over 4 GiB the loader may not find the room");
    let budget = raw.image_budget_mib.unwrap_or(12);
    if budget == 0 || budget > crash / 2 {
        c.bad("reservation.image_budget_mib",
            format!("an image of {budget} MiB in a reservation of {crash} MiB: kernel, initramfs and its unpacked copy lie there together, and the capture would run out of memory"),
            "at most half of crashkernel_mib");
    }
    (crash, budget)
}

fn watchdog(c: &mut Checker<'_>, raw: &raw::Watchdog, deadline_s: u32) -> (Watchdog, u32) {
    let plan = match raw.device.as_deref() {
        None | Some("auto") => Watchdog::Auto,
        Some("none") => Watchdog::None,
        Some(path) => {
            match heapless::String::try_from(path) {
                Ok(fixed) if path.starts_with("/dev/watchdog") => Watchdog::Device(fixed),
                _ => {
                    c.bad("watchdog.device", format!("`{path}` is not a watchdog: opening it would do something else, or nothing"),
                    "\"auto\", \"none\" or a path such as \"/dev/watchdog1\"");
                    Watchdog::Auto
                }
            }
        }
    };
    if plan == Watchdog::None && raw.timeout_s.is_some() {
        c.bad("watchdog.timeout_s", "a timeout, but device is none", "remove one of them");
    }
    let timeout = raw.timeout_s.unwrap_or(60);
    if plan != Watchdog::None {
        c.range(
            "watchdog.timeout_s",
            timeout,
            5,
            3600,
            "a disk that pauses for a moment would be taken for a hang, or a hang never be noticed",
        );
        if timeout >= deadline_s {
            c.bad(if raw.timeout_s.is_some() { "watchdog.timeout_s" } else { "after.deadline_s" },
                format!("the watchdog ({timeout} s) would bite only after the deadline of {deadline_s} s: a kernel that hangs is not restarted in time"),
                "make watchdog.timeout_s smaller than after.deadline_s");
        }
    }
    (plan, timeout)
}

fn console(c: &mut Checker<'_>, raw: raw::Console) -> Console {
    let devices = raw.devices.unwrap_or_default();
    for (n, device) in devices.iter().enumerate() {
        let good = |b: u8| b.is_ascii_alphanumeric() || b",.:".contains(&b);
        if device.is_empty() || device.len() > 60 || !device.bytes().all(good) {
            c.bad(
                &format!("console.devices.{n}"),
                format!("`{device}` is not a console: nobody would see why a capture failed"),
                "as the kernel's console= takes it, such as \"ttyS0,115200n8\" or \"tty0\"",
            );
        }
    }
    let loglevel = c.range(
        "console.loglevel",
        raw.loglevel.unwrap_or(4),
        0,
        8,
        "the kernel knows no such level",
    );
    Console { devices, loglevel }
}

fn led(c: &mut Checker<'_>, raw: &raw::Led) -> Option<Led> {
    let (Some(chip), Some(line)) = (raw.chip.as_deref(), raw.line) else {
        c.bad("led", "an LED needs both chip and line", "chip = \"/dev/gpiochip0\" and line = 17");
        return None;
    };
    let number = chip.strip_prefix("/dev/gpiochip");
    let good = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match heapless::String::try_from(chip) {
        Ok(chip) if good => Some(Led { chip, line, active_low: raw.active_low }),
        _ => {
            c.bad(
                "led.chip",
                format!("`{chip}` is not a GPIO chip"),
                "a path such as \"/dev/gpiochip0\"",
            );
            None
        }
    }
}

/// The targets, in order. An empty list is good: the site names them.
pub(crate) fn targets(c: &mut Checker<'_>, raw: &[raw::Target]) -> Vec<Selector> {
    let mut out: Vec<Selector> = Vec::new();
    if raw.len() > bootcfg::MAX_DEVICES {
        c.bad("target", format!("more than {} targets", bootcfg::MAX_DEVICES), "name fewer");
    }
    for (n, target) in raw.iter().enumerate() {
        let key = format!("target.{n}");
        if target.path.is_some() {
            c.bad(&format!("{key}.path"), "a target named by device path: names follow probe order, and after the next disk swap the dump would go to another disk",
                "partlabel, partuuid, parttype or volume; `lsblk -o NAME,PARTLABEL,PARTUUID` shows them");
            continue;
        }
        let ways = [
            ("partlabel", &target.partlabel),
            ("partuuid", &target.partuuid),
            ("parttype", &target.parttype),
            ("volume", &target.volume),
        ];
        let mut given = ways.iter().filter_map(|(way, v)| v.as_ref().map(|v| (*way, v)));
        let (Some((way, value)), None) = (given.next(), given.next()) else {
            c.bad(
                &key,
                "a target is named in exactly one way",
                "one of partlabel, partuuid, parttype, volume",
            );
            continue;
        };
        let key = format!("{key}.{way}");
        if let Some(selector) = selector(c, &key, &format!("{way}={value}")) {
            if out.contains(&selector) {
                c.bad(&key, "the same target twice", "remove one of them");
            }
            out.push(selector);
        }
    }
    out
}

/// Reads a selector and checks what the boot configuration alone would let pass.
fn selector(c: &mut Checker<'_>, key: &str, text: &str) -> Option<Selector> {
    let parsed = match Selector::parse(text) {
        Ok(parsed) => parsed,
        Err(why) => {
            c.bad(
                key,
                format!("{why}: nothing would be found"),
                "such as \"partlabel=swap\" or \"uuid=1b4e28ba-2fa1-11d2-883f-0016d3cca427\"",
            );
            return None;
        }
    };
    let (wrong, hint) = match &parsed {
        Selector::PartLabel(v) => {
            (v.encode_utf16().count() > 36, "a GPT partition name has at most 36 characters")
        }
        Selector::PartType(v) | Selector::Uuid(v) => {
            (!is_guid(v), "a GUID such as 0657fd6d-a4ab-43c4-84e5-0933c84b4f4f")
        }
        Selector::PartUuid(v) => (
            !is_guid(v) && !is_msdos_id(v),
            "a GUID, or 8 hexadecimal digits, `-` and 2 digits for an MSDOS partition; `blkid` shows it",
        ),
        Selector::Label(v) => (v.len() > 16, "a swap label has at most 16 bytes"),
        // Selector::parse() has checked it.
        Selector::Path(_) | Selector::Volume(_) => (false, ""),
    };
    if wrong {
        c.bad(key, format!("`{text}` matches no partition that can exist"), hint);
    }
    Some(parsed)
}

fn is_guid(v: &str) -> bool {
    let mut parts = v.split('-');
    let hex = |p: &str| p.bytes().all(|b| b.is_ascii_hexdigit());
    [8usize, 4, 4, 4, 12].iter().all(|n| parts.next().is_some_and(|p| p.len() == *n && hex(p)))
        && parts.next().is_none()
}

fn is_msdos_id(v: &str) -> bool {
    v.split_once('-').is_some_and(|(disk, part)| {
        disk.len() == 8
            && part.len() == 2
            && (disk.bytes().chain(part.bytes())).all(|b| b.is_ascii_hexdigit())
    })
}

/// The swap plan; `None` if nothing is said.
pub(crate) fn swap(c: &mut Checker<'_>, at: &str, raw: Option<&raw::Swap>) -> Option<SwapPlan> {
    let list = match raw? {
        raw::Swap::Word(word) if word == "none" => return Some(SwapPlan::None),
        raw::Swap::Word(_) => return Some(SwapPlan::Auto),
        raw::Swap::List(list) => list,
    };
    if list.is_empty() {
        c.bad(at, "an empty list of swap devices", "swap = \"none\" captures none");
    }
    let mut out = heapless::Vec::new();
    for (n, text) in list.iter().enumerate() {
        let key = format!("{at}.{n}");
        let Some(selector) = selector(c, &key, text) else { continue };
        if out.contains(&selector) {
            c.bad(
                &key,
                "the same swap device twice: it would be captured twice",
                "remove one of them",
            );
        }
        if out.push(selector).is_err() {
            c.bad(
                &key,
                format!("more than {} swap devices", bootcfg::MAX_DEVICES),
                "swap = \"auto\" finds any number",
            );
            break;
        }
    }
    Some(SwapPlan::List(out))
}

/// Refuses a swap device that is also a target.
pub(crate) fn target_is_not_swap(c: &mut Checker<'_>, targets: &[Selector], swap: &SwapPlan) {
    let SwapPlan::List(list) = swap else { return };
    for (n, device) in list.iter().enumerate() {
        if targets.contains(device) {
            c.bad(&format!("capture.swap.{n}"),
                format!("`{device}` is the dump's target too: the dump would overwrite the swap it is to save"),
                "a target is a partition of its own, prepared by `lifeboat format`");
        }
    }
}
