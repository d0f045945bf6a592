//! Full memory without zero pages: makedumpfile's codecs against ours, on the guest
//! with few duplicates.

use lifeboat_qemu::error::{Res, ensure};

use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{Series, compete, program};
use crate::model::{Mode as ModelMode, Rates};
use crate::ours::Mode;
use crate::table;

/// makedumpfile leaves out zero pages at level 1, as we always do. It works in one thread:
/// with `--num-threads 2` on two CPUs its threads wait for each other in loops, and it
/// took 263 s where one thread takes 20.
const PEER_Z: [&str; 3] = ["-d", "1", "-z"];
const PEER_L: [&str; 3] = ["-d", "1", "-l"];

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Few)?;
    let zstd = Mode::of("zstd", Some(1));
    let lz4 = Mode::of("lz4", None);
    let store = Mode::of("store", None);
    let adaptive = Mode::of("adaptive", None);
    let modes = [
        zstd,
        zstd.dedup(),
        lz4,
        lz4.dedup(),
        adaptive.dedup(),
        store,
        zstd.workers(1),
        lz4.workers(1),
        store.workers(1),
        zstd.one_cpu(),
        lz4.one_cpu(),
    ];
    let mut contenders = vec![
        program("makedumpfile -d 1 -l", lab.peer(&PEER_L, &path)),
        program("makedumpfile -d 1 -z", lab.peer(&PEER_Z, &path)),
    ];
    if lab.peer.snappy {
        contenders.push(program("makedumpfile -d 1 -p", lab.peer(&["-d", "1", "-p"], &path)));
    }
    contenders.extend(modes.iter().map(|m| program(m.name(), lab.ours(m, &path))));
    let all = compete(lab.rounds, contenders)?;
    let (l, z) = (named(&all, "makedumpfile -d 1 -l")?, named(&all, "makedumpfile -d 1 -z")?);
    // A makedumpfile without zstd stores pages as they are and says nothing.
    ensure(
        z.out() < 0.8 * input.data(),
        format_args!("makedumpfile -z did not compress: {} bytes out", z.out()),
    )?;
    table::title("full memory without zero pages, encrypted, few duplicates");
    table::runs(&all, input.data(), &[("-z", z), ("-l", l)]);
    let of = |mode: &Mode<'_>| named(&all, &mode.name());
    targets(of(&zstd)?, of(&lz4)?, z, l);
    println!();
    let to_one = |mode: Mode<'_>, one: Mode<'_>| -> Res<f64> { Ok(of(&mode)?.speed_to(of(&one)?)) };
    let scaling = |mode: Mode<'_>| to_one(mode, mode.workers(1));
    for (name, mode) in [("zstd 1", zstd), ("lz4", lz4)] {
        table::at_least(&format!("{name}, speed with 2 workers to 1"), scaling(mode)?, 1.85);
        let cpus = to_one(mode, mode.one_cpu())?;
        table::at_least(&format!("{name}, speed with 2 workers on 2 CPUs to 1 on 1"), cpus, 1.85);
    }
    println!("  store, speed with 2 workers to 1: {:.3} (no target)", scaling(store)?);
    one_worker(of(&zstd.workers(1))?, of(&lz4.workers(1))?, z, l);
    let rate = |name: &'static str, mode: Mode<'_>| -> Res<ModelMode> {
        let one = of(&mode.workers(1))?;
        Ok(ModelMode { name, rate: input.data() / one.wall(), ratio: one.out() / input.data() })
    };
    lab.rates = Some(Rates {
        modes: vec![rate("store", store)?, rate("lz4", lz4)?, rate("zstd 1", zstd)?],
        scaling: scaling(zstd)?,
        share: input.data() / (input.pages * 4096) as f64,
        ordered: of(&store)?.out() / of(&store)?.wall().max(1e-9),
    });
    Ok(())
}

/// What is required of the engine on two cores.
fn targets(zstd: &Series, lz4: &Series, z: &Series, l: &Series) {
    let saved = |ours: &Series, base: &Series| 100.0 * (1.0 - ours.out() / base.out().max(1.0));
    println!();
    table::at_least("zstd 1, speed to -z", zstd.speed_to(z), 3.3);
    table::at_least("zstd 1, speed to -l", zstd.speed_to(l), 1.5);
    table::at_least("zstd 1, % smaller than -z", saved(zstd, z), 12.0);
    table::at_least("zstd 1, % smaller than -l", saved(zstd, l), 26.0);
    table::at_least("lz4, speed to -l", lz4.speed_to(l), 2.0);
    table::at_least("lz4, % smaller than -l", saved(lz4, l), 8.0);
}

/// One worker against the peer's one thread. Its lzo may win: said as it is.
fn one_worker(zstd: &Series, lz4: &Series, z: &Series, l: &Series) {
    for (name, ours) in [("zstd 1", zstd), ("lz4", lz4)] {
        for (option, peer) in [("-z", z), ("-l", l)] {
            let (a, b) = (ours.wall(), peer.wall());
            let who = if a <= b { "ours is" } else { "the peer is" };
            println!(
                "  on one worker, {name} against {option}: {a:.2} s to {b:.2} s, {who} faster"
            );
        }
    }
}
