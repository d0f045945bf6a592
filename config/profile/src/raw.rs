//! The schema: every key that a profile or a site file may hold, and its type.
//!
//! All keys are optional here; which ones are needed is for the checks to say.
//! Unknown keys are refused, so that a misspelt key cannot silently mean “default”.

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// A whole board profile.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Board {
    pub(crate) inherits: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) kernel: Kernel,
    #[serde(default)]
    pub(crate) reservation: Reservation,
    #[serde(default)]
    pub(crate) memory: Memory,
    #[serde(default)]
    pub(crate) capture: Capture,
    #[serde(default)]
    pub(crate) target: Vec<Target>,
    #[serde(default)]
    pub(crate) volume: Volume,
    #[serde(default)]
    pub(crate) keys: Keys,
    #[serde(default)]
    pub(crate) after: After,
    #[serde(default)]
    pub(crate) watchdog: Watchdog,
    pub(crate) led: Option<Led>,
    #[serde(default)]
    pub(crate) console: Console,
}

/// `[kernel]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    pub(crate) package: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) tarball: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) fragments: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) fragments_append: Vec<String>,
    pub(crate) cmdline: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) cmdline_append: Vec<String>,
    pub(crate) cpus: Option<u32>,
}

/// `[reservation]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reservation {
    pub(crate) crashkernel_mib: Option<u32>,
    pub(crate) image_budget_mib: Option<u32>,
}

/// `[memory]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) capture: Option<bool>,
    pub(crate) source: Option<Source>,
}

/// `memory.source`
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    Auto,
    Oldmem,
    Vmcore,
}

/// `[capture]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capture {
    pub(crate) buffers_kib: Option<u32>,
    pub(crate) swap: Option<Swap>,
    pub(crate) codec: Option<Codec>,
    pub(crate) level: Option<i32>,
    pub(crate) ladder: Option<Vec<String>>,
    pub(crate) dedup_kib: Option<u32>,
    pub(crate) chunk_pages: Option<u32>,
    pub(crate) workers: Option<u32>,
    pub(crate) order: Option<Order>,
    pub(crate) exclude: Option<Vec<Exclude>>,
}

/// A word of `capture.exclude`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exclude {
    Zero,
    Free,
    Cache,
    CachePrivate,
    User,
    Offline,
    Hwpoison,
}

/// `capture.order`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    Worth,
    Address,
}

/// `[volume]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Volume {
    pub(crate) policy: Option<Policy>,
}

/// `volume.policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    KeepFirst,
    KeepLatest,
    DropPulled,
}

/// `capture.codec`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Codec {
    Adaptive,
    Zstd,
    Lz4,
    Store,
}

/// `capture.swap`: a word or a list of selectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Swap {
    Word(String),
    List(Vec<String>),
}

impl<'de> Deserialize<'de> for Swap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct WordOrList;
        impl<'de> Visitor<'de> for WordOrList {
            type Value = Swap;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\", \"none\" or a list such as [\"partlabel=swap\"]")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Swap, E> {
                match word {
                    "auto" | "none" => Ok(Swap::Word(word.to_owned())),
                    other => Err(E::unknown_variant(other, &["auto", "none"])),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Swap, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Swap::List(list))
            }
        }
        from.deserialize_any(WordOrList)
    }
}

/// `[[target]]`
#[derive(Debug, Default, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) partlabel: Option<String>,
    pub(crate) partuuid: Option<String>,
    pub(crate) parttype: Option<String>,
    pub(crate) volume: Option<String>,
    /// Known only so that the refusal can say why.
    pub(crate) path: Option<String>,
}

/// `[keys]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    pub(crate) encrypt: Option<Encrypt>,
    #[serde(default)]
    pub(crate) recipients: Vec<String>,
}

/// `keys.encrypt`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encrypt {
    Age,
    None,
}

/// `[after]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct After {
    pub(crate) action: Option<Action>,
    pub(crate) failure: Option<Action>,
    pub(crate) deadline_s: Option<u32>,
    pub(crate) device_wait_s: Option<u32>,
}

/// `after.action`, `after.failure`
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Reboot,
    Poweroff,
    Halt,
}

/// `[watchdog]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Watchdog {
    pub(crate) device: Option<String>,
    pub(crate) timeout_s: Option<u32>,
}

/// `[led]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Led {
    pub(crate) chip: Option<String>,
    pub(crate) line: Option<u32>,
    #[serde(default)]
    pub(crate) active_low: bool,
}

/// `[console]`
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Console {
    pub(crate) devices: Option<Vec<String>>,
    pub(crate) loglevel: Option<u32>,
}

/// A site file: what a host says about itself when it arms.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteFile {
    pub(crate) hostname: Option<String>,
    pub(crate) swap: Option<Swap>,
    #[serde(default)]
    pub(crate) target: Vec<Target>,
    #[serde(default)]
    pub(crate) keys: Keys,
}
