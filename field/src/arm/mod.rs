//! `lifeboat arm`, `disarm` and `status`: the crash kernel in its reservation,
//! and whether a panic now would end in a dump.
//!
//! Everything that could make a capture fail and can be known now is looked at
//! now: the reservation, the image's checksums, the boot configuration, the
//! targets and their guard. Nothing is loaded until all of it is in order.

mod cpio;
mod escrow;
mod image;
mod initrd;
mod orders;
mod state;
mod swapped;
mod target;

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd as _;

use lifeboat_format::bootcfg::{BootConfig, SwapPlan, TextSink};
use serde_json::{Value, json};
use zeroize::{Zeroize as _, Zeroizing};

use crate::cli;
use crate::ui::{Context as _, Ended, Failure, Outcome, bytes, hex, safe, warn, when};
use image::Image;
use orders::Orders;
use target::Target;

/// Loads the crash kernel with this host's boot configuration.
pub(crate) fn arm(args: &cli::Arm) -> Ended {
    let image = Image::open(&args.image)?;
    let mut orders = Orders::of(args, &image)?;
    let reserved = check_reservation(&orders, args.dangerously_ignore_size)?;
    let targets = Target::look_all(&orders.config.targets, orders.config.policy)?;
    check_targets(&targets, args.force)?;
    target::warn_of_missing_swap(&orders.config.swap)?;
    if !orders.config.encrypt {
        warn(
            "encrypt = \"none\": the dump will hold this machine's whole memory IN THE CLEAR; anybody who gets the disk can read it",
        );
    }
    seed(&mut orders.config)?;
    let conf = text_of(&orders.config)?;
    let archive = cpio::archive(conf.as_bytes())
        .ok_or_else(|| Failure::new("the boot configuration does not fit a cpio archive"))?;
    let initrd = initrd::build(&image.initramfs, &archive).context("the initramfs in memory")?;
    lifeboat_sys::kexec::load_crash(image.kernel.as_fd(), initrd.as_fd(), &orders.cmdline)
        .map_err(|e| load_failure(&e))?;
    let note = note(&orders, &image, reserved, &targets);
    if let Some(old) = &mut orders.config.seed {
        old.zeroize();
    }
    crate::ui::put(summary(&note, &targets));
    if let Err(e) = state::write(&note) {
        warn("armed, but no note of it could be kept, so `lifeboat status` will not know it:");
        e.report();
    }
    Ok(Outcome::Good)
}

/// Unloads the crash kernel and forgets the note.
pub(crate) fn disarm() -> Ended {
    if state::loaded() == Some(false) {
        state::remove()?;
        crate::ui::say!("not armed: no crash kernel was loaded");
        return Ok(Outcome::Good);
    }
    lifeboat_sys::kexec::unload_crash().map_err(|e| {
        Failure::of(&e)
            .context("unloading the crash kernel")
            .hint("kexec_file_load needs root (CAP_SYS_BOOT) and a kernel with CONFIG_KEXEC_FILE")
    })?;
    state::remove()?;
    crate::ui::say!("disarmed: a panic now leaves no dump");
    Ok(Outcome::Good)
}

/// Says whether a panic now would end in a dump. Exit code 0 armed, 1 not armed.
pub(crate) fn status(args: &cli::Status) -> Ended {
    let loaded = state::loaded().unwrap_or(false);
    let reserved = state::reservation();
    let note = state::read()?;
    let armed = loaded && note.is_some();
    let selectors: Vec<_> = note.iter().flat_map(orders::targets_of).collect();
    let targets =
        Target::look_all(&selectors, note.as_ref().map(orders::policy_of).unwrap_or_default())?;
    if args.json {
        crate::cmd::print_json(&json!({
            "armed": armed, "loaded": loaded, "reservation_bytes": reserved, "note": note,
            "targets": targets.iter().map(Target::json).collect::<Vec<_>>(),
        }))?;
    } else {
        crate::ui::put(status_text(loaded, reserved, note.as_ref(), &targets));
    }
    Ok(if armed { Outcome::Good } else { Outcome::Failed })
}

fn status_text(
    loaded: bool,
    reserved: Option<u64>,
    note: Option<&Value>,
    targets: &[Target],
) -> String {
    let reserved = match reserved {
        None => "this kernel has no kexec".to_owned(),
        Some(0) => "nothing is reserved: boot with crashkernel=".to_owned(),
        Some(n) => bytes(n),
    };
    match (loaded, note) {
        (true, Some(note)) => summary(note, targets),
        (true, None) => format!(
            "NOT ARMED by lifeboat: some other crash kernel is loaded\n  reservation  {reserved}\n"
        ),
        (false, _) => format!("NOT ARMED: no crash kernel is loaded\n  reservation  {reserved}\n"),
    }
}

fn check_reservation(orders: &Orders, ignore: bool) -> Result<u64, Failure> {
    let need = u64::from(orders.crashkernel_mib) << 20;
    let want = format!("boot this kernel with crashkernel={}M", orders.crashkernel_mib);
    let Some(reserved) = state::reservation() else {
        return Err(Failure::new(
            "this kernel has no kexec: /sys/kernel/kexec_crash_size is missing",
        )
        .hint("it needs CONFIG_KEXEC_FILE and CONFIG_CRASH_DUMP, and /sys mounted"));
    };
    if reserved == 0 {
        return Err(Failure::new("no memory is reserved for a crash kernel").hint(want));
    }
    if reserved < need {
        if !ignore {
            return Err(Failure::new(format!(
                "{} are reserved for the crash kernel, this image needs {}",
                bytes(reserved),
                bytes(need)
            ))
            .hint(want));
        }
        warn(format!(
            "only {} are reserved of {}: the capture may run out of memory",
            bytes(reserved),
            bytes(need)
        ));
    }
    Ok(reserved)
}

/// All targets must be usable: they are a list of fallbacks, and a fallback
/// that fails is found out at the crash only.
fn check_targets(targets: &[Target], force: bool) -> Result<(), Failure> {
    let bad: Vec<String> = targets.iter().filter(|t| t.fault.is_some()).map(Target::line).collect();
    if bad.is_empty() {
        return Ok(());
    }
    if force {
        bad.iter().for_each(|line| warn(format!("target {line}")));
        return Ok(());
    }
    Err(Failure::new(format!("target {}", bad.join("\ntarget "))).hint(
        "prepare the partition with `lifeboat format`, make room with `lifeboat pull` and `clear`, or arm anyway with --force",
    ))
}

/// Random bytes that the crash kernel mixes into the data key: its own generator
/// may not be seeded yet.
fn seed(config: &mut BootConfig) -> Result<(), Failure> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| Failure::new(format!("no random numbers for the seed: {e}")))?;
    config.seed = Some(seed);
    seed.zeroize();
    Ok(())
}

/// A text that is wiped on drop. Its room is taken at once: growing would leave copies.
struct Text(Zeroizing<String>);

impl std::fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        if self.0.len() + s.len() > self.0.capacity() {
            return Err(std::fmt::Error);
        }
        self.0.push_str(s);
        Ok(())
    }
}

impl TextSink for Text {
    fn text(&self) -> &str {
        &self.0
    }
}

fn text_of(config: &BootConfig) -> Result<Zeroizing<String>, Failure> {
    config.check().map_err(Failure::new)?;
    let mut text = Text(Zeroizing::new(String::with_capacity(lifeboat_format::bootcfg::MAX_LEN)));
    config
        .write(&mut text, true)
        .map_err(|_| Failure::new("the boot configuration is longer than 64 KiB"))?;
    // The crash kernel refuses what it cannot read; find out here.
    BootConfig::parse(text.0.as_bytes()).context("the boot configuration as written")?;
    Ok(text.0)
}

fn load_failure(e: &io::Error) -> Failure {
    use rustix::io::Errno;
    let code = e.raw_os_error().unwrap_or(0);
    let is = |n: Errno| n.raw_os_error() == code;
    let hint = if is(Errno::PERM) {
        "run as root; under lockdown the crash kernel must be signed"
    } else if is(Errno::ADDRNOTAVAIL) || is(Errno::NOMEM) {
        "kernel and initramfs do not fit the reservation: boot with a larger crashkernel="
    } else if is(Errno::KEYREJECTED) || is(Errno::NOKEY) {
        "Secure Boot is on and the crash kernel's vmlinuz is not signed by a key that this kernel trusts"
    } else if is(Errno::NOEXEC) {
        "this kernel cannot load that vmlinuz; is the image for this architecture?"
    } else if is(Errno::BUSY) {
        "another kexec_file_load is running; try again"
    } else {
        "the production kernel needs CONFIG_KEXEC_FILE; `dmesg` may say more"
    };
    Failure::of(e).context("kexec_file_load").hint(hint)
}

/// The note that `status` reads: no seed, no key.
fn note(orders: &Orders, image: &Image, reserved: u64, targets: &[Target]) -> Value {
    let c = &orders.config;
    let swap = match &c.swap {
        SwapPlan::None => vec!["none".to_owned()],
        SwapPlan::Auto => {
            let on = c.swap_on.iter().flatten().map(|s| format!("{s} (on now)"));
            std::iter::once("auto".to_owned()).chain(on).collect()
        }
        SwapPlan::List(list) => list.iter().map(ToString::to_string).collect(),
    };
    let one = |r: &str, way: &str| json!({ "recipient": r, "fingerprint": hex(&lifeboat_crypt::fingerprint(r)), "way": way });
    let plugins = orders.one_boot.as_ref().map_or(&[][..], |o| &o.plugins);
    let recipients: Vec<Value> = c
        .recipients
        .iter()
        .map(|r| match &orders.one_boot {
            Some(o) if o.recipient == r.as_str() => one(r, "this boot only"),
            _ => one(r, "direct"),
        })
        .chain(plugins.iter().map(|r| one(r, "through the one of this boot")))
        .collect();
    json!({
        "armed_at": c.armed_at,
        "board": c.board.as_str(),
        "image": c.image.as_str(),
        "image_dir": image.dir.display().to_string(),
        "kernel_sha256": image.kernel_sha256,
        "hostname": c.hostname.as_str(),
        "encrypt": c.encrypt,
        "recipients": recipients,
        "targets": targets.iter().map(Target::json).collect::<Vec<_>>(),
        "swap": swap,
        "policy": c.policy.name(),
        "memory": c.memory,
        "cmdline": orders.cmdline,
        "deadline_s": c.deadline_s,
        "reservation_bytes": reserved,
        "needs_mib": orders.crashkernel_mib,
        "fault": c.fault.as_str(),
    })
}

/// What is armed, for people.
fn summary(note: &Value, targets: &[Target]) -> String {
    let text = |key: &str| safe(note.get(key).and_then(Value::as_str).unwrap_or("?"));
    let number = |key: &str| note.get(key).and_then(Value::as_u64).unwrap_or(0);
    let mut out = format!(
        "armed: a panic now ends in a dump (image {}, board {})\n",
        text("image"),
        text("board")
    );
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<12} {value}");
    };
    line("since", &when(number("armed_at")));
    for t in targets {
        line("target", &t.line());
    }
    let swap: Vec<&str> = note
        .get("swap")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    line("swap", &safe(&swap.join(", ")));
    if note.get("encrypt").and_then(Value::as_bool) == Some(true) {
        for r in note.get("recipients").and_then(Value::as_array).into_iter().flatten() {
            let part = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or("?");
            let way = match part("way") {
                "direct" | "?" => String::new(),
                way => format!(", {way}"),
            };
            let text = format!("{} ({}){way}", part("recipient"), part("fingerprint"));
            line("recipient", &safe(&text));
        }
    } else {
        line("security", "*** UNENCRYPTED: the dump will be readable by anybody ***");
    }
    line(
        "reservation",
        &format!("{}, needs {} MiB", bytes(number("reservation_bytes")), number("needs_mib")),
    );
    line("deadline", &format!("{} s", number("deadline_s")));
    line("cmdline", &text("cmdline"));
    if !text("fault").is_empty() {
        line("FAULT", &format!("{} (injected for a test)", text("fault")));
    }
    out
}
