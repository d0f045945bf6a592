//! Peak resident memory: the same for a small machine and for one of 64 GiB.

use lifeboat_qemu::error::Res;
use lifeboat_qemu::paths::{self, Scrap};

use crate::input::{Variant, wide};
use crate::lab::{Lab, named};
use crate::measure::{Go, Series, compete, program};
use crate::ours::Mode;
use crate::table;

/// What is allowed, in MiB.
const LIMIT: f64 = 16.0;
/// By how much the peaks for 4 and 64 GiB may differ and count as the same, in MiB: pages
/// that are touched in one run only. One bit for each page of 60 GiB would be 1.9.
const SAME: f64 = 0.5;

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Few)?;
    // On a disk: this is no race, and the outputs need the room in memory.
    let large = paths::work("bench-wide")?.join("vmcore");
    let _scrap = Scrap(large.clone());
    let copies = wide::make(&path, &large)?;
    let zstd = Mode::of("zstd", Some(1));
    // A fast sink would let it store everything as it is, four times 4 GiB.
    let slow = ["--throttle-mbs", "250"];
    let modes = [zstd, zstd.dedup(), Mode::of("adaptive", None).dedup().more(&slow)];
    let mut contenders: Vec<(String, Go<'_>)> = Vec::new();
    for (size, from) in [("4 GiB", &path), ("64 GiB", &large)] {
        for mode in &modes {
            // Once: the peak does not depend on who else is running.
            let name = format!("{size}: {}", mode.name());
            contenders.push(program(name, lab.ours(mode, from)));
        }
    }
    let peer = lab.peer(&["-d", "1", "-l"], &path);
    contenders.push(program("4 GiB: makedumpfile -d 1 -l", peer));
    let all = compete(1, contenders)?;
    table::title("peak resident memory, 2 workers");
    println!(
        "(64 GiB: a vmcore whose map holds the 4 GiB input {copies} times, at other addresses, and \
         zero\npages for the rest; the figures GB/s count the 4 GiB input)"
    );
    table::runs(&all, input.data(), &[]);
    println!();
    for series in all.iter().filter(|s| s.name.contains("ours")) {
        let what = format!("{}, peak MiB", series.name);
        table::at_most(&what, mib(series), LIMIT);
    }
    for mode in &modes {
        let of = |size: &str| named(&all, &format!("{size}: {}", mode.name())).map(mib);
        let apart = (of("64 GiB")? - of("4 GiB")?).abs();
        let what = format!("{}, peak for 64 GiB and for 4 GiB apart, MiB", mode.name());
        table::at_most(&what, apart, SAME);
    }
    Ok(())
}

/// The peak of a contender in MiB.
fn mib(series: &Series) -> f64 {
    series.peak() as f64 / 1_048_576.0
}
