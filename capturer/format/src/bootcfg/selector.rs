//! How a boot configuration names devices.

use heapless::String;

/// Most characters of a device selector.
pub const SELECTOR_LEN: usize = 160;

/// How to find a partition or disk. Never by a name that depends on probe order alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Name of the GPT partition.
    PartLabel(String<SELECTOR_LEN>),
    /// GUID of the GPT partition (or `diskid-NN` of an MSDOS one), lower case.
    PartUuid(String<SELECTOR_LEN>),
    /// GPT type GUID, lower case.
    PartType(String<SELECTOR_LEN>),
    /// Label in a swap header.
    Label(String<SELECTOR_LEN>),
    /// UUID in a swap header.
    Uuid(String<SELECTOR_LEN>),
    /// A dump volume by its own id, as `lifeboat format` prints it: a partition or a
    /// whole disk, wherever it is plugged in. 32 hexadecimal digits, lower case.
    Volume(String<SELECTOR_LEN>),
    /// A device path such as `/dev/nvme0n1p3`; for swap only.
    Path(String<SELECTOR_LEN>),
}

impl Selector {
    /// Reads `partlabel=…`, `partuuid=…`, `parttype=…`, `volume=…`,
    /// `label=…`, `uuid=…` or `path=/dev/…`.
    ///
    /// # Errors
    /// A static text that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (key, value) = text.split_once('=').ok_or("a device is named as key=value")?;
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err("a device selector is empty or holds control characters");
        }
        let mut value =
            String::try_from(value).map_err(|_| "a device selector has over 160 characters")?;
        match key {
            "partlabel" => Ok(Self::PartLabel(value)),
            "partuuid" => {
                value.make_ascii_lowercase();
                Ok(Self::PartUuid(value))
            }
            "parttype" => {
                value.make_ascii_lowercase();
                Ok(Self::PartType(value))
            }
            "label" => Ok(Self::Label(value)),
            "uuid" => {
                value.make_ascii_lowercase();
                Ok(Self::Uuid(value))
            }
            "volume" => {
                value.make_ascii_lowercase();
                if value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit()) {
                    Ok(Self::Volume(value))
                } else {
                    Err(
                        "a volume is named by the 32 hexadecimal digits that `lifeboat format` prints",
                    )
                }
            }
            "path" if value.starts_with("/dev/") => Ok(Self::Path(value)),
            "path" => Err("a device path starts with /dev/"),
            _ => Err(
                "a device is named by partlabel, partuuid, parttype, volume, label, uuid or path",
            ),
        }
    }
}

impl core::fmt::Display for Selector {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::PartLabel(v) => write!(f, "partlabel={v}"),
            Self::PartUuid(v) => write!(f, "partuuid={v}"),
            Self::PartType(v) => write!(f, "parttype={v}"),
            Self::Label(v) => write!(f, "label={v}"),
            Self::Uuid(v) => write!(f, "uuid={v}"),
            Self::Volume(v) => write!(f, "volume={v}"),
            Self::Path(v) => write!(f, "path={v}"),
        }
    }
}
