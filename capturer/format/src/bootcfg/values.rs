//! Values of a boot configuration's lines, to text and back.

use heapless::String;

use super::{Action, Escrow, MAX_ESCROW, MemorySource, Order, Policy};

/// A text buffer that can be read back, so that the checksum covers what was written.
pub trait TextSink: core::fmt::Write {
    /// What was written so far.
    fn text(&self) -> &str;
}

impl<const N: usize> TextSink for String<N> {
    fn text(&self) -> &str {
        self
    }
}

pub(super) fn action_name(a: Action) -> &'static str {
    match a {
        Action::Reboot => "reboot",
        Action::Poweroff => "poweroff",
        Action::Halt => "halt",
    }
}

pub(super) fn yes_no(v: bool) -> &'static str {
    if v { "yes" } else { "no" }
}

pub(super) fn action(v: &str) -> Result<Action, &'static str> {
    match v {
        "reboot" => Ok(Action::Reboot),
        "poweroff" => Ok(Action::Poweroff),
        "halt" => Ok(Action::Halt),
        _ => Err("an action is reboot, poweroff or halt"),
    }
}

pub(super) fn flag(v: &str) -> Result<bool, &'static str> {
    match v {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("a flag is yes or no"),
    }
}

pub(super) fn number(v: &str) -> Result<u32, &'static str> {
    v.parse().map_err(|_| "not a whole number")
}

pub(super) fn fixed<const N: usize>(v: &str) -> Result<String<N>, &'static str> {
    if v.chars().any(char::is_control) {
        return Err("a value holds control characters");
    }
    String::try_from(v).map_err(|_| "a value is too long")
}

pub(super) fn seed(v: &str) -> Result<[u8; 32], &'static str> {
    hex::<32>(v)
        .and_then(|bytes| bytes.as_slice().try_into().ok())
        .ok_or("seed is 64 hexadecimal digits")
}

pub(super) fn source_name(source: MemorySource) -> &'static str {
    match source {
        MemorySource::Auto => "auto",
        MemorySource::Oldmem => "oldmem",
        MemorySource::Vmcore => "vmcore",
    }
}

pub(super) fn source(v: &str) -> Result<MemorySource, &'static str> {
    match v {
        "auto" => Ok(MemorySource::Auto),
        "oldmem" => Ok(MemorySource::Oldmem),
        "vmcore" => Ok(MemorySource::Vmcore),
        _ => Err("source is auto, oldmem or vmcore"),
    }
}

pub(super) fn policy(v: &str) -> Result<Policy, &'static str> {
    match v {
        "keep-first" => Ok(Policy::KeepFirst),
        "keep-latest" => Ok(Policy::KeepLatest),
        "drop-pulled" => Ok(Policy::DropPulled),
        _ => Err("policy is keep-first, keep-latest or drop-pulled"),
    }
}

pub(super) fn order(v: &str) -> Result<Order, &'static str> {
    match v {
        "worth" => Ok(Order::Worth),
        "address" => Ok(Order::Address),
        _ => Err("order is worth or address"),
    }
}

/// `escrow FINGERPRINT[,FINGERPRINT…] AGEFILE`, both in hexadecimal.
pub(super) fn write_escrow(out: &mut impl TextSink, escrow: &Escrow) -> core::fmt::Result {
    write!(out, "escrow ")?;
    for (n, print) in escrow.fingerprints.iter().enumerate() {
        if n > 0 {
            write!(out, ",")?;
        }
        hex_out(out, print)?;
    }
    write!(out, " ")?;
    hex_out(out, &escrow.wrapped)?;
    writeln!(out)
}

fn hex_out(out: &mut impl TextSink, bytes: &[u8]) -> core::fmt::Result {
    bytes.iter().try_for_each(|b| write!(out, "{b:02x}"))
}

pub(super) fn escrow(v: &str) -> Result<Escrow, &'static str> {
    const BAD: &str = "escrow is `FINGERPRINT[,…] AGEFILE` in hexadecimal";
    let (prints, wrapped) = v.split_once(' ').ok_or(BAD)?;
    let mut escrow = Escrow { fingerprints: heapless::Vec::new(), wrapped: heapless::Vec::new() };
    for print in prints.split(',') {
        let bytes = hex::<8>(print).filter(|b| b.len() == 8).ok_or(BAD)?;
        let print = bytes.first_chunk::<8>().copied().ok_or(BAD)?;
        escrow.fingerprints.push(print).map_err(|_| "escrow has more than 8 recipients")?;
    }
    escrow.wrapped = hex::<MAX_ESCROW>(wrapped).ok_or(BAD)?;
    if escrow.wrapped.is_empty() {
        return Err(BAD);
    }
    Ok(escrow)
}

/// Bytes from hexadecimal digits; `None` for anything else, or too many.
fn hex<const N: usize>(v: &str) -> Option<heapless::Vec<u8, N>> {
    let (pairs, rest) = v.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let mut out = heapless::Vec::new();
    for pair in pairs {
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let byte = core::str::from_utf8(pair).ok()?;
        out.push(u8::from_str_radix(byte, 16).ok()?).ok()?;
    }
    Some(out)
}
