//! Swap that dm-crypt encrypted (`drivers/md/dm-crypt.c`), where the dump has both the device
//! and the key: the dead kernel keeps it in `struct crypt_config` as long as it is in use.
//!
//! Read is what `cryptsetup` makes today, `aes-xts-plain64` with sectors of 512 to 4096 bytes
//! and one key. The key is taken only if the swap header comes out with it. It is never
//! printed, and wiped when it is not needed any more.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use lifeboat_format::PAGE;
use zeroize::Zeroizing;

use crate::kernel::{Kernel, KernelError};
use crate::machine::{Hole, Machine};

use super::device::{Devices, Under};
use super::{text, why};

/// Longest description of a cipher that is read, bytes.
const CIPHER: usize = 64;
/// Bytes of a block of AES.
const BLOCK: usize = 16;
/// Bytes of a sector, as the block layer counts, and sectors of a page.
const SECTOR: usize = 512;
const SECTORS: u64 = (PAGE / SECTOR) as u64;
/// How a user may have written the one cipher that is read.
const NAMES: [&str; 2] = ["aes-xts-plain64", "capi:xts(aes)-plain64"];

/// Why an encrypted area stays closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    /// The module's types are not known.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Its structures cannot be read.
    #[error("its key or table: {0}")]
    Lost(Hole),
    /// The device under it was not captured.
    #[error("the device under it, {0}, was not captured")]
    Device(String),
    /// It encrypts in another way.
    #[error("{0} is not read")]
    Cipher(String),
}

/// What encrypts and decrypts one device.
pub(super) struct Crypt {
    keys: Keys,
    /// The captured device beneath.
    device: usize,
    /// Sectors of the mapping before the first encrypted one, and how many there are.
    begin: u64,
    len: u64,
    /// Sectors of the device before the first encrypted one.
    start: u64,
    /// Added to a sector's number for its tweak.
    iv_offset: u64,
    /// Bytes that are encrypted together.
    sector: usize,
    /// Whether tweaks count those, not 512 bytes.
    large: bool,
}

impl std::fmt::Debug for Crypt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crypt").field("device", &self.device).finish_non_exhaustive()
    }
}

/// The two keys of XTS: of the data, and of the tweak.
enum Keys {
    Short(Box<(Aes128, Aes128)>),
    Long(Box<(Aes256, Aes256)>),
}

impl Keys {
    /// Both halves of a key, the data's first (`xts_setkey()`); `None` for another length.
    fn new(key: &[u8]) -> Option<Self> {
        let (data, tweak) = key.split_at_checked(key.len() / 2)?;
        match key.len() {
            32 => Some(Self::Short(Box::new((
                Aes128::new_from_slice(data).ok()?,
                Aes128::new_from_slice(tweak).ok()?,
            )))),
            64 => Some(Self::Long(Box::new((
                Aes256::new_from_slice(data).ok()?,
                Aes256::new_from_slice(tweak).ok()?,
            )))),
            _ => None,
        }
    }

    fn tweak(&self, number: u64) -> u128 {
        let mut block = Array::from(u128::from(number).to_le_bytes());
        match self {
            Self::Short(keys) => keys.1.encrypt_block(&mut block),
            Self::Long(keys) => keys.1.encrypt_block(&mut block),
        }
        u128::from_le_bytes(block.into())
    }

    fn block(&self, block: u128) -> u128 {
        let mut block = Array::from(block.to_le_bytes());
        match self {
            Self::Short(keys) => keys.0.decrypt_block(&mut block),
            Self::Long(keys) => keys.0.decrypt_block(&mut block),
        }
        u128::from_le_bytes(block.into())
    }

    /// XTS of whole blocks (IEEE 1619): each is masked by the tweak before and after, and the
    /// tweak is doubled in GF(2^128) from one to the next.
    fn decrypt(&self, number: u64, data: &mut [u8]) {
        let mut tweak = self.tweak(number);
        let (blocks, _) = data.as_chunks_mut::<BLOCK>();
        for bytes in blocks {
            let plain = self.block(u128::from_le_bytes(*bytes) ^ tweak) ^ tweak;
            *bytes = plain.to_le_bytes();
            tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
        }
    }
}

impl Crypt {
    /// By the mapping whose `struct block_device` is at `bdev`.
    ///
    /// # Errors
    /// [`Closed`].
    pub(super) fn open(kernel: &Kernel<'_>, devices: &Devices, bdev: u64) -> Result<Self, Closed> {
        let lost = |fault| Closed::Lost(why(fault));
        let targets = devices.targets(kernel, bdev).map_err(lost)?;
        let [target] = targets.as_slice() else {
            return Err(Closed::Cipher("a mapping of several parts".to_owned()));
        };
        let config = target.private;
        let get = |path| {
            let field = kernel.field("crypt_config", path)?;
            kernel.get(config, field).map_err(lost)
        };
        let cipher = text(kernel, get("cipher_string")?, CIPHER).map_err(lost)?;
        let sector = usize::try_from(get("sector_size")?).unwrap_or(0);
        let flag = |name: &'static str| {
            let bit = kernel.enumerator(name).and_then(|b| u32::try_from(b).ok());
            let bit = bit.and_then(|b| 1u64.checked_shl(b));
            bit.ok_or(KernelError::Odd { what: name, value: u64::MAX })
        };
        let flags = get("cipher_flags")?;
        let odd = flags & (flag("CRYPT_MODE_INTEGRITY_AEAD")? | flag("CRYPT_ENCRYPT_PREPROCESS")?);
        let plain = NAMES.contains(&cipher.as_str())
            && odd == 0
            && (get("key_parts")?, get("key_extra_size")?) == (1, 0)
            && (SECTOR..=PAGE).contains(&sector)
            && sector.is_power_of_two();
        if !plain {
            return Err(Closed::Cipher(cipher));
        }
        let under = kernel.field("dm_dev", "bdev")?;
        let under = kernel.get(get("dev")?, under).map_err(lost)?;
        let under = devices.describe(kernel, under, None);
        let Under::Captured(device) = under.under else { return Err(Closed::Device(under.name)) };
        // An area that is refused is not asked for its key.
        let key = key(kernel, config, get("key_size")?)?;
        Ok(Self {
            keys: Keys::new(&key).ok_or_else(|| Closed::Cipher(cipher.clone()))?,
            device,
            begin: target.begin,
            len: target.len,
            start: get("start")?,
            iv_offset: get("iv_offset")?,
            sector,
            large: flags & flag("CRYPT_IV_LARGE_SECTORS")? != 0,
        })
    }

    /// The captured device beneath, an index into [`Machine::swaps`].
    pub(super) fn device(&self) -> usize {
        self.device
    }

    /// Fills `out` with page `page` of the mapping, in the clear.
    ///
    /// # Errors
    /// The [`Hole`] in its place.
    pub(super) fn page(
        &self,
        machine: &dyn Machine,
        page: u64,
        out: &mut [u8; PAGE],
    ) -> Result<(), Hole> {
        // `dm_target_offset()`, and `crypt_map()`: where it lies on the device.
        let first = page.checked_mul(SECTORS).ok_or(Hole::Malformed)?;
        let inside = first.checked_sub(self.begin).ok_or(Hole::Malformed)?;
        if self.len.checked_sub(SECTORS).is_none_or(|last| inside > last) {
            return Err(Hole::Malformed);
        }
        let place = self.start.checked_add(inside).ok_or(Hole::Malformed)?;
        if !place.is_multiple_of(SECTORS) {
            return Err(Hole::Unsupported);
        }
        machine.swap(self.device, place / SECTORS, out)?;
        let step = (self.sector / SECTOR) as u64;
        let mut number = inside.wrapping_add(self.iv_offset);
        for part in out.chunks_exact_mut(self.sector) {
            let tweak = if self.large { number >> step.trailing_zeros() } else { number };
            self.keys.decrypt(tweak, part);
            number = number.wrapping_add(step);
        }
        Ok(())
    }
}

fn key(kernel: &Kernel<'_>, config: u64, len: u64) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let field = kernel.field("crypt_config", "key")?;
    // The longest that is read is 64; a longer one is of another cipher.
    let len = usize::try_from(len).ok().filter(|len| *len <= 64);
    let len = len.ok_or(Closed::Lost(Hole::Malformed))?;
    let at = config.checked_add(field.offset).ok_or(Closed::Lost(Hole::Malformed))?;
    let mut key = Zeroizing::new(vec![0; len]);
    kernel.read(at, &mut key).map_err(|fault| Closed::Lost(why(fault)))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    /// Vectors 1 and 2 of IEEE 1619-2007, annex B, AES-128; and the first two blocks of
    /// vector 10, AES-256.
    #[test]
    fn vectors_of_the_standard() {
        let two = "4444444444444444444444444444444444444444444444444444444444444444";
        let vectors = [
            (
                "00".repeat(32),
                0,
                "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e",
                "00".repeat(32),
            ),
            (
                format!("{}{}", "11".repeat(16), "22".repeat(16)),
                0x33_3333_3333,
                "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0",
                two.to_owned(),
            ),
            (
                "27182818284590452353602874713526624977572470936999595749669676273141592653589793\
                 238462643383279502884197169399375105820974944592"
                    .to_owned(),
                0xff,
                "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
                (0..32).map(|n| format!("{n:02x}")).collect(),
            ),
        ];
        for (key, number, cipher, plain) in vectors {
            let mut data = hex(cipher);
            Keys::new(&hex(&key)).unwrap().decrypt(number, &mut data);
            assert_eq!(data, hex(&plain), "{number:#x}");
        }
        assert!(Keys::new(&[0; 48]).is_none());
    }
}
