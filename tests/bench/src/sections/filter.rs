//! Kernel pages only: makedumpfile's level 31 against our exclusions.

use lifeboat_qemu::error::Res;

use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{Series, compete, program};
use crate::ours::Mode;
use crate::table;

/// What level 31 leaves out beside zero pages: 2 cache, 4 private cache, 8 user, 16 free.
const SAME: [&str; 2] = ["--exclude", "free,cache,cache-private,user"];
/// The same in chunks of 1 MiB: what is left is little, and shrinks better in one piece.
const LARGE: [&str; 4] = ["--exclude", "free,cache,cache-private,user", "--chunk-pages", "256"];
/// As the profile's usual word.
const USUAL: [&str; 2] = ["--exclude", "free,cache,user"];
/// Runs of a short contender for each round of the longer ones.
const SHORT: u32 = 3;
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
        zstd.more(&LARGE),
        Mode::of("zstd", Some(2)).more(&SAME),
        zstd.more(&SAME).dedup(),
        zstd.more(&SAME).workers(1),
        zstd.more(&USUAL),
        Mode::of("lz4", None).more(&SAME),
    ];
    let mut contenders = vec![
        program("makedumpfile -d 31 -l", lab.peer(&["-d", "31", "-l"], &path)),
        program("makedumpfile -d 31 -z", lab.peer(&["-d", "31", "-z"], &path)),
    ];
    contenders.extend(modes.iter().map(|m| program(m.name(), lab.ours(m, &path))));
    // These take a second or less: more of them cost little and say more.
    let all = compete(lab.rounds * SHORT, contenders)?;
    let (l, z) = (named(&all, "makedumpfile -d 31 -l")?, named(&all, "makedumpfile -d 31 -z")?);
    table::title(&format!("kernel pages only, encrypted, input {}", variant.name()));
    println!("(GB/s counts all data pages, kept or not)");
    table::runs(&all, input.data(), &[("-z", z), ("-l", l)]);
    println!("\n  what makedumpfile makes of the pages, at level 31:");
    let said = z.runs.first().map(|r| r.said.as_str()).unwrap_or_default();
    for (class, pages) in classes(said) {
        println!("    {class:<24} {pages:>8} ({} MiB)", pages * 4 / 1024);
    }
    println!("  with the same pages left out as level 31 does:");
    targets(named(&all, &zstd.more(&SAME).name())?, z, l);
    println!("  the same in chunks of 256 pages:");
    targets(named(&all, &zstd.more(&LARGE).name())?, z, l);
    println!("  the same at level 2, in chunks of 64:");
    targets(named(&all, &Mode::of("zstd", Some(2)).more(&SAME).name())?, z, l);
    println!("  with free, cache and user left out, private cache pages kept:");
    targets(named(&all, &zstd.more(&USUAL).name())?, z, l);
    println!("\nwith free pages left out only, as by default:");
    let modes = [zstd, zstd.more(&FREE)];
    let contenders = modes.iter().map(|m| program(m.name(), lab.ours(m, &path))).collect();
    table::runs(&compete(lab.rounds, contenders)?, input.data(), &[]);
    Ok(())
}

fn targets(ours: &Series, z: &Series, l: &Series) {
    let saved = |base: &Series| 100.0 * (1.0 - ours.out() / base.out().max(1.0));
    table::at_least("speed to -d 31 -z", ours.speed_to(z), 3.3);
    table::at_least("% smaller than -d 31 -z", saved(z), 23.0);
    table::at_least("speed to -d 31 -l", ours.speed_to(l), 1.5);
    table::at_least("% smaller than -d 31 -l", saved(l), 45.0);
}

/// `Free pages   : 0x…` and its like in makedumpfile's report.
fn classes(said: &str) -> Vec<(&str, u64)> {
    let pages = |line: &'_ str| -> Option<u64> {
        u64::from_str_radix(line.split_once(": 0x")?.1.trim(), 16).ok()
    };
    let named = |line| Some((str::split_once(line, ':')?.0.trim(), pages(line)?));
    let lines = said.lines().filter(|l| l.contains("ages")).filter_map(named);
    lines.filter(|(class, _)| *class != "Total pages").collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_report_is_read() {
        let said = "Original pages  : 0x000000000010370d\n    Free pages              : 0x10\n\
            Cache hit: 157272, miss: 132\nTotal pages     : 0x000000000018d000\n";
        assert_eq!(super::classes(said), [("Original pages", 1_062_669), ("Free pages", 16)]);
    }
}
