//! The boot configuration: text and back, damage, contradictions.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails shall panic"
)]

use lifeboat_format::bootcfg::{
    Action, BootConfig, Escrow, Ladder, Led, MemorySource, Method, Order, Policy, Selector,
    SwapPlan, Watchdog,
};
use lifeboat_format::crc32;
use lifeboat_format::exclude::{Exclude, Kind};
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
        exclude: Exclude::NOTHING.with(Kind::CachePrivate).with(Kind::Hwpoison),
        watchdog: Watchdog::Device("/dev/watchdog1".try_into().unwrap()),
        led: Some(Led { chip: "/dev/gpiochip0".try_into().unwrap(), line: 4, active_low: true }),
        seed: Some([0x5a; 32]),
        armed_at: 12,
        codec: Ladder::new(&[Method::Lz4, Method::Zstd(-3), Method::Zstd(6)]).unwrap(),
        dedup_kib: 77,
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

#[test]
fn what_was_swapped_to_comes_back() {
    let mut c = config();
    for names in [&[][..], &["partuuid=ab-1"], &["partuuid=ab-1", "uuid=77"]] {
        c.swap = SwapPlan::Auto;
        c.swap_on = Some(names.iter().map(|n| Selector::parse(n).unwrap()).collect());
        let text = text_of(&c);
        assert_eq!(BootConfig::parse(text.as_bytes()).unwrap(), c);
        let lines = text.lines().filter(|l| l.starts_with("swap-on ")).count();
        assert_eq!(lines, names.len().max(1), "{text}");
    }
    c.swap_on = None;
    assert!(!text_of(&c).contains("swap-on"), "nobody looked");
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
        "exclude zero,cache,cache-private,hwpoison",
        &format!("target volume={VOLUME}"),
        "escrow abababababababab,cdcdcdcdcdcdcdcd 616e206167652066696c65",
        "recipient ssh-ed25519 AAAA db admin",
        "codec lz4 zstd -3 zstd 6",
        "dedup 77",
        "led /dev/gpiochip0 4 low",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let head = "lifeboat-boot 1\ntarget partlabel=a\nrecipient r\n";
    let plain = BootConfig::parse(signed(head).as_bytes()).unwrap();
    assert_eq!((plain.policy, plain.order), (Policy::KeepFirst, Order::Worth));
    // Older orders do not speak of it, and leave nothing out.
    assert_eq!(plain.exclude, Exclude::NOTHING);
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
        (head, "swap none\nswap-on none\n", "swap-on is for swap auto"),
        (head, "swap-on uuid=1\nswap-on none\n", "none or devices"),
        (head, "swap-on none\nswap-on uuid=1\n", "none or devices"),
        (head, "policy keep-all\n", "keep-first, keep-latest or drop-pulled"),
        (head, "order random\n", "worth or address"),
        (head, "exclude slab\n", "some of zero, free, cache, cache-private, user, offline"),
        (head, "exclude \n", "some of zero"),
        (head, "exclude free, user\n", "some of zero"),
        (head, "exclude free,\n", "some of zero"),
        (head, "exclude user,free,user\n", "twice"),
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

/// Any order of the words, with or without `zero`; `cache-private` says `cache` too.
#[test]
fn what_is_left_out_is_a_set_of_words() {
    let parse = |text: &str| Exclude::parse(text).unwrap();
    assert_eq!(Exclude::DEFAULT.to_string(), "zero,free,offline,hwpoison");
    assert_eq!(parse("hwpoison,free,offline"), Exclude::DEFAULT);
    assert_eq!(parse("zero"), Exclude::NOTHING);
    assert!(!parse("zero").needs_records() && parse("offline").needs_records());
    let cache = parse("cache-private");
    assert_eq!(
        (cache.to_string().as_str(), cache),
        ("zero,cache,cache-private", parse("cache-private,cache"))
    );
    assert!(!parse("cache").has(Kind::CachePrivate));
    assert_eq!(format!("{:?}", parse("user")), "Exclude(zero,user)");
}

proptest! {
    /// Every set comes back from its text, alone and as a line of the orders.
    #[test]
    fn exclusions_round_trip(kinds in proptest::collection::vec(0usize..7, 0..8)) {
        let set = kinds.iter().fold(Exclude::NOTHING, |set, k| set.with(Kind::ALL[*k]));
        prop_assert!(kinds.iter().all(|k| set.has(Kind::ALL[*k])));
        prop_assert_eq!(Exclude::parse(&set.to_string()), Ok(set));
        let c = BootConfig { exclude: set, ..config() };
        prop_assert_eq!(BootConfig::parse(text_of(&c).as_bytes()).unwrap().exclude, set);
    }

    #[test]
    fn hostile_exclusions_never_panic(text in "[a-z,\\- ]{0,40}") {
        if let Ok(set) = Exclude::parse(&text) {
            prop_assert_eq!(Exclude::parse(&set.to_string()), Ok(set));
        }
    }

    #[test]
    fn hostile_lines_never_panic(lines in "([a-z-]{1,16} [ -~]{0,40}\n){0,12}") {
        let _ = BootConfig::parse(signed(&format!("lifeboat-boot 1\n{lines}")).as_bytes());
    }

    /// Lines with keys that are known and values that are not.
    #[test]
    fn hostile_values_never_panic(
        lines in proptest::collection::vec((0usize..13, "[ -~]{0,60}"), 0..12)
    ) {
        const KEYS: [&str; 13] = [
            "policy", "order", "escrow", "target", "swap", "recipient", "codec", "led", "seed",
            "watchdog", "armed-at", "deadline", "exclude",
        ];
        let body: String = lines.iter().map(|(k, v)| format!("{} {v}\n", KEYS[*k])).collect();
        let text = signed(&format!("lifeboat-boot 1\ntarget partlabel=a\nrecipient r\n{body}"));
        if let Ok(config) = BootConfig::parse(text.as_bytes()) {
            prop_assert_eq!(BootConfig::parse(text_of(&config).as_bytes()), Ok(config));
        }
    }
}

#[test]
fn a_ladder_is_in_order_and_of_known_methods() {
    let said = |codec: &str| {
        let text = text_of(&config());
        let body = text.split_once("crc32").unwrap().0;
        let body = body.replace("codec lz4 zstd -3 zstd 6", &format!("codec {codec}"));
        BootConfig::parse(signed(&body).as_bytes())
    };
    for good in ["store", "zstd 1", "store lz4 zstd 1 zstd 3 zstd 9 zstd 19", "lz4"] {
        assert_eq!(said(good).unwrap().codec.to_string(), good);
    }
    for bad in [
        "",
        "zstd",
        "zstd x",
        "zstd 20",
        "zstd -51",
        "gzip",
        "zstd 3 zstd 1",
        "lz4 store",
        "zstd 1 zstd 1",
        "store lz4 zstd 1 zstd 2 zstd 3 zstd 4 zstd 5",
    ] {
        assert!(said(bad).is_err(), "codec {bad}");
    }
}
