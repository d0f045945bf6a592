//! Finds the targets on this host, as the crash kernel will, and tries their
//! guard: a bad target is found when arming, not at the crash.

use lifeboat_format::bootcfg::{Policy, Selector, SwapPlan};
use lifeboat_sink::Volume;
use lifeboat_sources::blockdev::{self, Block};
use serde_json::{Value, json};

use crate::device::{self, Window};
use crate::ui::{Context as _, Failure, bytes, warn};

/// What became of one target selector.
pub(crate) struct Target {
    /// As configured.
    pub(crate) selector: String,
    /// The partition, where there is exactly one.
    pub(crate) device: Option<String>,
    /// Why nothing could be written there now; `None` when all is well.
    pub(crate) fault: Option<String>,
    /// Dumps that nobody has pulled.
    pub(crate) unpulled: Vec<u64>,
    /// Largest room for a dump, in bytes.
    pub(crate) room: u64,
}

impl Target {
    /// Looks for every selector on this machine.
    pub(crate) fn look_all(selectors: &[Selector], policy: Policy) -> Result<Vec<Self>, Failure> {
        if selectors.is_empty() {
            return Ok(Vec::new());
        }
        let blocks = blockdev::enumerate().context("/sys/class/block")?;
        Ok(selectors.iter().map(|s| Self::look(&blocks, s, policy)).collect())
    }

    fn look(blocks: &[Block], selector: &Selector, policy: Policy) -> Self {
        let mut target = Self {
            selector: selector.to_string(),
            device: None,
            fault: None,
            unpulled: Vec::new(),
            room: 0,
        };
        match blockdev::find(blocks, selector) {
            Err(e) => target.fault = Some(Failure::of(&e).text().to_owned()),
            Ok(block) => {
                target.device = Some(block.path.display().to_string());
                let inspected =
                    device::block_device(&block.path).and_then(|w| target.inspect(&w, policy));
                if let Err(failure) = inspected {
                    target.fault = Some(failure.text().to_owned());
                }
            }
        }
        target
    }

    fn inspect(&mut self, window: &Window, policy: Policy) -> Result<(), Failure> {
        let volume =
            Volume::open(window.dev()?, window.placement()).map_err(|e| Failure::of(&e))?;
        self.unpulled =
            volume.dumps().iter().filter(|(_, r)| !r.pulled).map(|(_, r)| r.number).collect();
        volume.guard().map_err(|e| Failure::of(&e))?;
        self.room = volume.plan(policy).map_err(|e| Failure::of(&e))?.len;
        Ok(())
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let device = self.device.as_deref().map(|d| format!(" = {d}")).unwrap_or_default();
        match &self.fault {
            Some(fault) => format!("{}{device}: NOT USABLE: {fault}", self.selector),
            None => {
                let kept = if self.unpulled.is_empty() {
                    String::new()
                } else {
                    let list: Vec<String> = self.unpulled.iter().map(u64::to_string).collect();
                    format!(", unpulled dumps: {}", list.join(" "))
                };
                format!(
                    "{}{device}, guard good, room for {}{kept}",
                    self.selector,
                    bytes(self.room)
                )
            }
        }
    }

    /// For scripts.
    pub(crate) fn json(&self) -> Value {
        json!({
            "selector": self.selector, "device": self.device, "guard": self.fault.is_none(),
            "fault": self.fault, "unpulled": self.unpulled, "room_bytes": self.room,
        })
    }
}

/// Warns of swap devices that are named but not here now. It is no reason to
/// refuse: they may be made later, and memory is captured without them.
pub(crate) fn warn_of_missing_swap(plan: &SwapPlan) -> Result<(), Failure> {
    let SwapPlan::List(list) = plan else { return Ok(()) };
    let blocks = blockdev::enumerate().context("/sys/class/block")?;
    for selector in list {
        if let Err(e) = blockdev::find(&blocks, selector) {
            warn(format!("swap {}", Failure::of(&e).text()));
        }
    }
    Ok(())
}
