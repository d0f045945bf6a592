//! Is this text an `age1…` recipient?
//!
//! A typing error in a recipient costs every dump of a fleet, so a profile is
//! refused at build time already. Only the text is checked here (BIP-173 bech32
//! and its length): profiles stay free of cryptography. `lifeboat arm` lets the
//! age crate itself judge each recipient again, and a property test compares the
//! two judges.

const CHARSET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// 32 bytes are 52 characters of five bits; the checksum is six more.
const DATA_CHARS: usize = 58;

/// Checks that `text` is an X25519 recipient: `age1`, then 32 bytes and a checksum in bech32.
///
/// # Errors
/// A text that says what is wrong.
pub fn check(text: &str) -> Result<(), String> {
    if text.starts_with("AGE-SECRET-KEY-") {
        return Err("this is a secret key: it would be shipped in every image".to_owned());
    }
    if text.starts_with("ssh-") {
        return Err("ssh keys are not used; only age1… recipients are".to_owned());
    }
    let data = text.strip_prefix("age1").ok_or("a recipient starts with age1")?;
    if data.len() != DATA_CHARS {
        let why = if data.contains('1') { " (plugins cannot run in a crash kernel)" } else { "" };
        return Err(format!("a recipient has 62 characters, this one {}{why}", text.len()));
    }
    let mut sum = 1u32;
    for high in [3, 3, 3, 0, 1, 7, 5] {
        // “age”: the high bits of each letter, a zero, the low bits of each.
        sum = polymod(sum, high);
    }
    let mut last_of_data = 0;
    for (n, c) in data.bytes().enumerate() {
        let value = CHARSET.iter().position(|k| *k == c).and_then(|v| u32::try_from(v).ok());
        let value =
            value.ok_or_else(|| format!("`{}` is not a bech32 character", char::from(c)))?;
        if n + 7 == DATA_CHARS {
            last_of_data = value;
        }
        sum = polymod(sum, value);
    }
    if sum != 1 {
        return Err("its checksum does not match: a character is wrong".to_owned());
    }
    // 52 × 5 bits are 4 more than 32 bytes have; those must be zero.
    if last_of_data & 0xf != 0 {
        return Err("its padding is not zero".to_owned());
    }
    Ok(())
}

/// One step of the bech32 checksum (BIP-173).
fn polymod(sum: u32, value: u32) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let top = sum >> 25;
    let mut next = ((sum & 0x01ff_ffff) << 5) ^ value;
    for (bit, generator) in GENERATOR.iter().enumerate() {
        if (top >> bit) & 1 == 1 {
            next ^= generator;
        }
    }
    next
}
