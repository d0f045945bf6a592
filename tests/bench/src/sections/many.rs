//! The guest with many duplicate pages: what storing identical pages once brings.

use lifeboat_qemu::error::Res;

use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{compete, program};
use crate::ours::Mode;
use crate::table;

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Many)?;
    let zstd = Mode::of("zstd", Some(1));
    let lz4 = Mode::of("lz4", None);
    let modes = [zstd, zstd.dedup(), lz4, lz4.dedup(), Mode::of("adaptive", None).dedup()];
    let mut contenders = vec![
        program("makedumpfile -d 1 -l", lab.peer(&["-d", "1", "-l"], &path)),
        program("makedumpfile -d 1 -z", lab.peer(&["-d", "1", "-z"], &path)),
    ];
    contenders.extend(modes.iter().map(|m| program(m.name(), lab.ours(m, &path))));
    let all = compete(lab.rounds, contenders)?;
    let (l, z) = (named(&all, "makedumpfile -d 1 -l")?, named(&all, "makedumpfile -d 1 -z")?);
    table::title("full memory without zero pages, encrypted, many duplicates");
    table::runs(&all, input.data(), &[("-z", z), ("-l", l)]);
    for (name, mode) in [("zstd 1", zstd), ("lz4", lz4)] {
        let (with, without) = (named(&all, &mode.dedup().name())?, named(&all, &mode.name())?);
        println!(
            "  {name}: deduplication makes it {:.2} times as fast, and the output {:.1} % smaller",
            with.speed_to(without),
            100.0 * (1.0 - with.out() / without.out().max(1.0))
        );
    }
    Ok(())
}
