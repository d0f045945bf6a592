//! What the crash kernel is told: the image's profile, the site file over it,
//! and the command line over both.

use lifeboat_format::bootcfg::{BootConfig, Policy, Selector, SwapPlan};
use lifeboat_profile::{Profile, Site};
use serde_json::Value;

use super::escrow::OneBoot;
use super::image::Image;
use super::swapped;
use crate::cli;
use crate::ui::{Context as _, Failure, now};

/// Longest command line that x86 takes, in bytes (`COMMAND_LINE_SIZE`), less
/// what kexec appends (`elfcorehdr=0x… ` and a NUL).
const MAX_CMDLINE: usize = 2048 - 48;

/// Boot configuration, command line and size.
pub(crate) struct Orders {
    /// For PID 1; without seed yet.
    pub(crate) config: BootConfig,
    /// What stands in for recipients of plugins, if there are any.
    pub(crate) one_boot: Option<OneBoot>,
    /// For the crash kernel.
    pub(crate) cmdline: String,
    /// What `crashkernel=` must reserve, in MiB.
    pub(crate) crashkernel_mib: u32,
}

impl Orders {
    /// Joins profile, site file and arguments.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, or missing from all.
    pub(crate) fn of(args: &cli::Arm, image: &Image) -> Result<Self, Failure> {
        let path = image.dir.join("board.toml");
        let profile = Profile::load(&path).plain()?;
        let mut site = match &args.site {
            Some(path) => Site::load(path).plain()?,
            None => Site::default(),
        };
        overlay(&mut site, args)?;
        let one_boot = OneBoot::make(&profile, &mut site)?;
        let mut config = lifeboat_profile::lower(&profile, &site).plain()?;
        config.escrow = one_boot.as_ref().map(|o| o.escrow.clone());
        lifeboat_crypt::check_room(&config).plain()?;
        config.image = fixed(&image.version(), "the image's version")?;
        if let Some(fault) = &args.dangerously_inject_fault {
            config.fault = fixed(fault, "--dangerously-inject-fault")?;
        }
        if config.swap == SwapPlan::Auto {
            config.swap_on = swapped::on()?;
        }
        config.armed_at = now();
        if config.hostname.is_empty() {
            let uname = rustix::system::uname();
            let name = uname.nodename().to_string_lossy();
            // What the kernel says before anybody named the host.
            if name != "(none)" {
                config.hostname = fixed(&name, "the host's name")?;
            }
        }
        let mut cmdline = profile.cmdline();
        if let Some(more) = &args.cmdline_append {
            cmdline.push(' ');
            cmdline.push_str(more.trim());
        }
        if cmdline.len() > MAX_CMDLINE || cmdline.chars().any(char::is_control) {
            return Err(Failure::new(format!(
                "the crash kernel's command line has {} characters, at most {MAX_CMDLINE} printable ones fit",
                cmdline.len()
            ))
            .hint("shorten kernel.cmdline of the profile or --cmdline-append"));
        }
        Ok(Self { config, one_boot, cmdline, crashkernel_mib: profile.crashkernel_mib })
    }
}

/// Lays the arguments over the site settings. A list on the command line
/// replaces the list of profile and site, it does not add to it.
fn overlay(site: &mut Site, args: &cli::Arm) -> Result<(), Failure> {
    if !args.target.is_empty() {
        site.targets = selectors(&args.target, "--target")?;
    }
    if !args.recipient.is_empty() {
        site.recipients = args.recipient.iter().map(|r| r.trim().to_owned()).collect();
    }
    match args.swap.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {}
        ["none"] => site.swap = Some(SwapPlan::None),
        ["auto"] => site.swap = Some(SwapPlan::Auto),
        list if list.iter().any(|s| matches!(*s, "none" | "auto")) => {
            return Err(Failure::usage("--swap is `none`, `auto`, or one or more selectors"));
        }
        _ => {
            let list = selectors(&args.swap, "--swap")?;
            let list = heapless::Vec::from_slice(&list)
                .map_err(|_| Failure::usage("--swap: too many devices"))?;
            site.swap = Some(SwapPlan::List(list));
        }
    }
    Ok(())
}

fn selectors(list: &[String], option: &str) -> Result<Vec<Selector>, Failure> {
    list.iter()
        .map(|text| {
            Selector::parse(text).map_err(|why| {
                Failure::usage(format!("{option} {text}: {why}"))
                    .hint("for example partlabel=lifeboat")
            })
        })
        .collect()
}

fn fixed<const N: usize>(text: &str, what: &str) -> Result<heapless::String<N>, Failure> {
    if text.chars().any(char::is_control) {
        return Err(Failure::usage(format!("{what} holds control characters")));
    }
    heapless::String::try_from(text)
        .map_err(|_| Failure::usage(format!("{what} is longer than {N} bytes")))
}

/// The targets that a note names.
pub(crate) fn targets_of(note: &Value) -> Vec<Selector> {
    note.get("targets")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|t| Selector::parse(t.get("selector")?.as_str()?).ok())
        .collect()
}

/// The policy that a note names; the default for a note that names none.
pub(crate) fn policy_of(note: &Value) -> Policy {
    let name = note.get("policy").and_then(Value::as_str);
    [Policy::KeepFirst, Policy::KeepLatest, Policy::DropPulled]
        .into_iter()
        .find(|p| name == Some(p.name()))
        .unwrap_or_default()
}
