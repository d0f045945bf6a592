//! The boot configuration.

use std::fmt;

use lifeboat_format::bootcfg::{BootConfig, MAX_LEN, TextSink};
use lifeboat_format::crc32;

/// Text that grows, for [`BootConfig::write`].
#[derive(Default)]
struct Text(String);

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.push_str(s);
        Ok(())
    }
}

impl TextSink for Text {
    fn text(&self) -> &str {
        &self.0
    }
}

/// As it is, and with the first line and the checksum that it needs.
pub fn bootconf(data: &[u8]) {
    check(data);
    // A seed is a whole file: take its checksum off before putting the right one on.
    let body = match data.iter().rposition(|b| *b == b'c') {
        Some(at) if data[at..].starts_with(b"crc32 ") => &data[..at],
        _ => data,
    };
    let mut text = body.to_vec();
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    for head in [&b""[..], b"lifeboat-boot 1\n"] {
        let mut whole = [head, &text].concat();
        let sum = format!("crc32 {:08x}\n", crc32(&whole));
        whole.extend_from_slice(sum.as_bytes());
        check(&whole);
    }
}

fn check(bytes: &[u8]) {
    let Ok(cfg) = BootConfig::parse(bytes) else { return };
    assert!(bytes.len() <= MAX_LEN);
    cfg.check().expect("parse() has checked it");
    let mut text = Text::default();
    cfg.write(&mut text, true).expect("a String has room");
    // Written out in full, a configuration at the limit may pass it.
    if text.0.len() <= MAX_LEN {
        assert_eq!(BootConfig::parse(text.0.as_bytes()).as_ref(), Ok(&cfg));
    }
    let mut public = Text::default();
    cfg.write(&mut public, false).expect("a String has room");
    assert!(!public.0.contains("\nseed "), "the seed is secret");
}
