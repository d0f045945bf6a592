//! The boot configuration: text and back, damage, contradictions.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

use lifeboat_format::bootcfg::{
    Action, BootConfig, Escrow, Led, MemorySource, Order, Policy, Selector, SwapPlan, Watchdog,
};
use lifeboat_format::crc32;
use proptest::prelude::*;

const VOLUME: &str = "00112233445566778899aabbccddeeff";

fn config() -> BootConfig {
    let mut c = BootConfig {
        board: "x".try_into().unwrap(),
        buffers_kib: 8192,
        hostname: "db1".try_into().unwrap(),
        action: Action::Poweroff,
        memory_source: MemorySource::Vmcore,
        policy: Policy::DropPulled,
        order: Order::Address,
        watchdog: Watchdog::Device("/dev/watchdog1".try_into().unwrap()),
        led: Some(Led { chip: "/dev/gpiochip0".try_into().unwrap(), line: 4, active_low: true }),
        seed: Some([0x5a; 32]),
        armed_at: 12,
        zstd_level: Some(-3),
        fault: "hang@memory".try_into().unwrap(),
        ..BootConfig::default()
    };
    c.targets.push(Selector::parse("partlabel=lifeboat dump").unwrap()).unwrap();
    c.targets.push(Selector::parse(&format!("volume={VOLUME}")).unwrap()).unwrap();
    c.recipients.push("age1qqq".try_into().unwrap()).unwrap();
    c.recipients.push("ssh-ed25519 AAAA db admin".try_into().unwrap()).unwrap();
    let mut list = heapless::Vec::new();
    list.push(Selector::parse("uuid=ABC").unwrap()).unwrap();
    list.push(Selector::parse("path=/dev/sda2").unwrap()).unwrap();
    c.swap = SwapPlan::List(list);
    let mut escrow = Escrow { fingerprints: heapless::Vec::new(), wrapped: heapless::Vec::new() };
    escrow.fingerprints.push([0xab; 8]).unwrap();
    escrow.fingerprints.push([0xcd; 8]).unwrap();
    escrow.wrapped.extend_from_slice(b"an age file").unwrap();
    c.escrow = Some(escrow);
    c
}

fn text_of(c: &BootConfig) -> String {
    let mut out = Box::new(heapless::String::<{ 64 << 10 }>::new());
    c.write(&mut *out, true).unwrap();
    out.as_str().to_owned()
}

fn signed(body: &str) -> String {
    format!("{body}crc32 {:08x}\n", crc32(body.as_bytes()))
}

#[test]
fn it_comes_back() {
    assert_eq!(BootConfig::parse(text_of(&config()).as_bytes()).unwrap(), config());
    let mut quiet = Box::new(heapless::String::<{ 64 << 10 }>::new());
    config().write(&mut *quiet, false).unwrap();
    assert!(!quiet.contains("5a5a"), "no seed");
}

#[test]
fn lines_are_as_documented() {
    let text = text_of(&config());
    for line in [
        "lifeboat-boot 1",
        "policy drop-pulled",
        "order address",
        &format!("target volume={VOLUME}"),
        "escrow abababababababab,cdcdcdcdcdcdcdcd 616e206167652066696c65",
        "recipient ssh-ed25519 AAAA db admin",
        "codec zstd -3",
        "led /dev/gpiochip0 4 low",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let head = "lifeboat-boot 1\ntarget partlabel=a\nrecipient r\n";
    let plain = BootConfig::parse(signed(head).as_bytes()).unwrap();
    assert_eq!((plain.policy, plain.order), (Policy::KeepFirst, Order::Worth));
    for (word, policy) in [
        ("keep-first", Policy::KeepFirst),
        ("keep-latest", Policy::KeepLatest),
        ("drop-pulled", Policy::DropPulled),
    ] {
        let c = BootConfig::parse(signed(&format!("{head}policy {word}\n")).as_bytes()).unwrap();
        assert_eq!((c.policy, policy.name()), (policy, word));
    }
}

#[test]
fn a_damaged_one_is_refused() {
    let text = text_of(&config());
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        assert!(BootConfig::parse(&bytes).is_err(), "byte {at}");
        assert!(BootConfig::parse(&text.as_bytes()[..at]).is_err(), "cut at {at}");
    }
    println!("{} flipped bits and cuts, all found", 2 * text.len());
}

#[test]
fn contradictions_and_unknown_words_are_refused() {
    let head = "lifeboat-boot 1\ntarget partlabel=a\nrecipient r\n";
    let clear = "lifeboat-boot 1\ntarget partlabel=a\nencrypt none\n";
    let long = format!("escrow abababababababab {}\n", "00".repeat(4097));
    let prints = format!("escrow {} 00\n", ["ab"; 9].map(|b| b.repeat(8)).join(","));
    for (head, body, want) in [
        (head, "colour red\n", "line 4: unknown key"),
        (head, "policy keep-all\n", "keep-first, keep-latest or drop-pulled"),
        (head, "order random\n", "worth or address"),
        (head, "target volume=0011\n", "32 hexadecimal digits"),
        (head, "target volume=00112233445566778899aabbccddeefg\n", "32 hexadecimal digits"),
        (head, "target path=/dev/sda\n", "partlabel, partuuid, parttype or volume only"),
        (head, "target disk=a\n", "volume"),
        (head, "escrow abab 00\n", "escrow is"),
        (head, "escrow abababababababab\n", "escrow is"),
        (head, "escrow abababababababab \n", "escrow is"),
        (head, "escrow abababababababab 0\n", "escrow is"),
        (head, "escrow abababababababab 0g\n", "escrow is"),
        (head, "escrow abababababababab,cd 00\n", "escrow is"),
        (head, &long, "escrow is"),
        (head, &prints, "more than 8 recipients"),
        (clear, "escrow abababababababab 00\n", "encrypt is none"),
        (clear, "recipient r\n", "encrypt is none"),
        ("lifeboat-boot 1\n", "recipient r\n", "no target"),
        ("lifeboat-boot 1\n", "target partlabel=a\n", "no recipient"),
        (head, "chunk-pages 0\n", "chunk-pages"),
        (head, "device-wait 3600\n", "device-wait"),
        (head, "workers 65\n", "workers"),
        (head, "buffers 511\n", "buffers"),
    ] {
        let got = BootConfig::parse(signed(&format!("{head}{body}")).as_bytes()).unwrap_err();
        assert!(got.to_string().contains(want), "{body}: {got}");
    }
    let e = BootConfig::parse(signed("lifeboat-boot 2\ntarget partlabel=a\n").as_bytes());
    assert!(e.is_err(), "a later version");
}

/// The largest that a profile can say still fits the text's bound.
#[test]
fn the_longest_recipients_fit() {
    let mut c = config();
    c.recipients.clear();
    for n in 0..32u8 {
        let key = format!("ssh-rsa {}", char::from(b'A' + n % 26).to_string().repeat(1400));
        c.recipients.push(key.as_str().try_into().unwrap()).unwrap();
    }
    let wrapped = &mut c.escrow.as_mut().unwrap().wrapped;
    wrapped.resize(4096, 0x77).unwrap();
    let text = text_of(&c);
    assert_eq!(BootConfig::parse(text.as_bytes()).unwrap(), c);
}

proptest! {
    #[test]
    fn hostile_lines_never_panic(lines in "([a-z-]{1,16} [ -~]{0,40}\n){0,12}") {
        let _ = BootConfig::parse(signed(&format!("lifeboat-boot 1\n{lines}")).as_bytes());
    }

    /// Lines with keys that are known and values that are not.
    #[test]
    fn hostile_values_never_panic(
        lines in proptest::collection::vec((0usize..12, "[ -~]{0,60}"), 0..12)
    ) {
        const KEYS: [&str; 12] = [
            "policy", "order", "escrow", "target", "swap", "recipient", "codec", "led", "seed",
            "watchdog", "armed-at", "deadline",
        ];
        let body: String = lines.iter().map(|(k, v)| format!("{} {v}\n", KEYS[*k])).collect();
        let text = signed(&format!("lifeboat-boot 1\ntarget partlabel=a\nrecipient r\n{body}"));
        if let Ok(config) = BootConfig::parse(text.as_bytes()) {
            prop_assert_eq!(BootConfig::parse(text_of(&config).as_bytes()), Ok(config));
        }
    }
}
