//! Kernel pages only: makedumpfile's level 31 against our exclusions.

use lifeboat_qemu::error::Res;

use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{Series, compete, program};
use crate::ours::Mode;
use crate::table;

/// What level 31 leaves out beside zero pages: 2 cache, 4 private cache, 8 user, 16 free.
const SAME: [&str; 2] = ["--exclude", "free,cache,cache-private,user"];
/// As the profile's usual word.
const USUAL: [&str; 2] = ["--exclude", "free,cache,user"];
/// The default: only what nobody needs.
const FREE: [&str; 2] = ["--exclude", "free"];

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    for variant in [Variant::Few, Variant::Few612] {
        one(lab, variant)?;
    }
    Ok(())
}

fn one(lab: &mut Lab, variant: Variant) -> Res<()> {
    let (input, path) = lab.input(variant)?;
    let zstd = Mode::of("zstd", Some(1));
    let modes = [
        zstd.more(&SAME),
        zstd.more(&SAME).workers(1),
        zstd.more(&USUAL),
        Mode::of("lz4", None).more(&SAME),
        zstd.more(&FREE),
    ];
    let mut contenders = vec![
        program("makedumpfile -d 31 -l", lab.peer(&["-d", "31", "-l"], &path)),
        program("makedumpfile -d 31 -z", lab.peer(&["-d", "31", "-z"], &path)),
    ];
    contenders.extend(modes.iter().map(|m| program(m.name(), lab.ours(m, &path))));
    let all = compete(lab.rounds, contenders)?;
    let (l, z) = (named(&all, "makedumpfile -d 31 -l")?, named(&all, "makedumpfile -d 31 -z")?);
    table::title(&format!("kernel pages only, encrypted, input {}", variant.name()));
    println!("(GB/s counts all data pages, kept or not)");
    table::runs(&all, input.data(), &[("-z", z), ("-l", l)]);
    if let Some(kept) = z.runs.first().and_then(|r| remaining(&r.said)) {
        println!("\n  makedumpfile keeps {kept} pages ({} MiB) at level 31", kept * 4 / 1024);
    }
    println!("  with the same pages left out as level 31 does:");
    targets(named(&all, &zstd.more(&SAME).name())?, z, l);
    println!("  with free, cache and user left out, private cache pages kept:");
    targets(named(&all, &zstd.more(&USUAL).name())?, z, l);
    Ok(())
}

fn targets(ours: &Series, z: &Series, l: &Series) {
    let speed = |base: &Series| base.wall() / ours.wall().max(1e-9);
    let saved = |base: &Series| 100.0 * (1.0 - ours.out() / base.out().max(1.0));
    table::at_least("speed to -d 31 -z", speed(z), 3.3);
    table::at_least("% smaller than -d 31 -z", saved(z), 23.0);
    table::at_least("speed to -d 31 -l", speed(l), 1.5);
    table::at_least("% smaller than -d 31 -l", saved(l), 45.0);
}

/// `Remaining pages  : 0x…` of makedumpfile's report.
fn remaining(said: &str) -> Option<u64> {
    let line = said.lines().find(|l| l.trim_start().starts_with("Remaining pages"))?;
    let (_, digits) = line.split_once("0x")?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_report_is_read() {
        let said =
            "Original pages  : 0x000000000010370d\n  Remaining pages  : 0x000000000000fe38\n";
        assert_eq!(super::remaining(said), Some(65080));
    }
}
