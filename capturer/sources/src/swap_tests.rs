//! Headers that `mkswap` wrote, devices with faults, and the plan on a whole machine.

use super::*;
use crate::blockdev::tests::{Machine, PARTS};
use crate::gpt::tests::gpt_image;
use proptest::prelude::*;
use std::process::Command;

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn mkswap(len: u64, extra: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap());
    let out = Command::new("mkswap")
        .args(extra)
        .args(["-U", UUID, "-L", "my swap"])
        .arg(file.path())
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::read(file.path()).unwrap()
}

#[test]
fn reads_what_mkswap_wrote() {
    let want = SwapHeader {
        page_size: 4096,
        last_page: 255,
        bad_pages: 0,
        uuid: UUID.to_owned(),
        label: "my swap".to_owned(),
    };
    assert_eq!(detect(&mkswap(1 << 20, &[])), Some(Signature::Swap(want.clone())));
    let big = SwapHeader { page_size: 65536, last_page: 15, ..want };
    assert_eq!(detect(&mkswap(1 << 20, &["-p", "65536"])), Some(Signature::Swap(big)));
}

#[test]
fn tells_what_is_not_swap() {
    let good = mkswap(1 << 20, &[]);
    let with = |at: usize, bytes: &[u8]| {
        let mut v = good.clone();
        v[at..at + bytes.len()].copy_from_slice(bytes);
        detect(&v)
    };
    assert_eq!(with(4086, b"S1SUSPEND\0"), Some(Signature::Hibernated("S1SUSPEND")));
    assert_eq!(with(4086, b"SWAP-SPACE"), Some(Signature::Ancient));
    assert_eq!(with(4086, b"SWAPSPACE3"), None);
    assert_eq!(with(1024, &[0, 0, 0, 1]), Some(Signature::Damaged("the other byte order")));
    assert_eq!(with(1024, &[2]), Some(Signature::Damaged("version")));
    assert_eq!(with(1028, &[0; 4]), Some(Signature::Damaged("no pages")));
    assert_eq!(with(1032, &[0xff; 4]), Some(Signature::Damaged("number of bad pages")));
    assert_eq!(detect(&good[..4095]), None);
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.devices.iter().map(|d| &*d.block.name).collect()
}

fn list(selectors: &[&str]) -> SwapPlan {
    SwapPlan::List(selectors.iter().map(|s| Selector::parse(s).unwrap()).collect())
}

#[test]
fn the_plan_takes_swap_and_never_the_target() {
    let machine = Machine::new();
    let mut image = gpt_image();
    let swap = mkswap(4 << 20, &[]);
    image[1 << 20..5 << 20].copy_from_slice(&swap);
    // What looks like swap over a partition table, and a target that was swap once.
    image[4086..4096].copy_from_slice(b"SWAPSPACE2");
    image[10 << 20..11 << 20].copy_from_slice(&mkswap(1 << 20, &[]));
    machine.disk("sda", "", &image, PARTS);
    machine.disk("sdb", "", &mkswap(1 << 20, &[]), &[]);
    let mut hibernated = mkswap(1 << 20, &[]);
    hibernated[4086..4096].copy_from_slice(b"S1SUSPEND\0");
    machine.disk("sdc", "", &hibernated, &[]);
    let blocks = machine.blocks();

    let auto = plan(&blocks, &SwapPlan::Auto, &[], Some("sdap3"));
    assert_eq!(names(&auto), ["sdap1", "sdb"]);
    assert_eq!(auto.problems.len(), 1);
    assert!(auto.problems[0].to_string().contains("sdc"), "{}", auto.problems[0]);
    assert!(plan(&blocks, &SwapPlan::None, &[], None).devices.is_empty());

    let by_name = list(&["partlabel=swap", "partlabel=swap", "partlabel=gone"]);
    let by_name = plan(&blocks, &by_name, &[], None);
    assert_eq!((names(&by_name), by_name.problems.len()), (vec!["sdap1"], 1));
    // Three devices have this label.
    let by_label = plan(&blocks, &list(&["label=my swap"]), &[], None);
    assert!(matches!(by_label.problems[..], [SwapProblem::Find(FindError::Ambiguous { .. })]));
    let path = format!("path={}", blocks[2].path.display());
    // The fake /dev is not below /dev, so the selector is made by hand.
    let target = Selector::Path(path["path=".len()..].try_into().unwrap());
    let target = SwapPlan::List([target].into_iter().collect());
    assert!(matches!(
        plan(&blocks, &target, &[], Some("sdap3")).problems[..],
        [SwapProblem::Target { .. }]
    ));
    let text = auto.devices[0].text();
    assert!(text.contains("\npartlabel swap\nuuid 01234567-89ab"), "{text}");
    assert!(text.ends_with("label my swap\n"), "{text}");
}

/// A device that was in use when the host was armed is captured, or told of once.
#[test]
fn the_plan_misses_no_swap_that_was_on() {
    let machine = Machine::new();
    let mut image = gpt_image();
    image[10 << 20..11 << 20].copy_from_slice(&mkswap(1 << 20, &[]));
    machine.disk("sda", "", &image, PARTS);
    let mut hibernated = mkswap(1 << 20, &[]);
    hibernated[4086..4096].copy_from_slice(b"S1SUSPEND\0");
    machine.disk("sdb", "", &hibernated, &[]);
    let blocks = machine.blocks();
    let parsed = |text: &str| Selector::parse(text).unwrap();
    let with = |on: &[Selector], target| plan(&blocks, &SwapPlan::Auto, on, target);
    let told = |plan: &Plan| plan.problems.iter().map(ToString::to_string).collect::<Vec<_>>();

    // The first partition is there and has no header any more.
    let emptied = parsed("partuuid=11111111-2222-3333-4444-555555555555");
    let kept = parsed("partuuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE");
    let now = with(&[emptied.clone(), kept.clone()], None);
    assert_eq!(names(&now), ["sdap3"]);
    let sdb = "swap: sdb is not captured: it holds a hibernated system (S1SUSPEND)";
    assert_eq!(told(&now), [sdb, "swap: sdap1 is not captured: it has no swap header"]);
    // Nobody used it: nothing is missing.
    assert_eq!(told(&with(std::slice::from_ref(&kept), None)), [sdb]);
    // What the sweep told is not told again; what is gone, or the target by now, is.
    let path = machine.dir.path().join("dev/sdb");
    let sdb_too = Selector::Path(path.to_str().unwrap().try_into().unwrap());
    let gone = parsed("partlabel=gone");
    let now = with(&[sdb_too, gone, kept], Some("sdap3"));
    assert!(now.devices.is_empty());
    assert!(
        matches!(
            now.problems[..],
            [SwapProblem::NotSwap { .. }, SwapProblem::Find(_), SwapProblem::Target { .. }]
        ),
        "{:?}",
        now.problems
    );
    // A list says itself what must be there.
    assert!(plan(&blocks, &SwapPlan::None, &[emptied], None).problems.is_empty());
}

proptest! {
    #[test]
    fn hostile_headers_never_panic(edits in proptest::collection::vec((1000usize..1100, any::<u8>()), 0..80),
                                   len in 0usize..70_000, page in 0usize..5) {
        let mut raw = vec![0u8; PROBE_LEN];
        let at = 4096 << page;
        raw[at - 10..at].copy_from_slice(b"SWAPSPACE2");
        for (at, v) in edits {
            raw[at] = v;
        }
        raw.truncate(len);
        if let Some(Signature::Swap(h)) = detect(&raw) {
            prop_assert!(h.label.chars().count() <= 16 && h.uuid.len() == 36);
            prop_assert!(h.bad_pages < h.last_page);
        }
    }
}
