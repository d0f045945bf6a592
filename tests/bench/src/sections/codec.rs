//! The engine against the bare codec: same pages, same number of threads.

use lifeboat_qemu::error::Res;

use crate::bare::{self, Chunks, Codec};
use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{Go, compete, program};
use crate::ours::Mode;
use crate::table;

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Few)?;
    let chunks = &Chunks::load(&path)?;
    let pairs = [
        ("zstd 1", Codec::Zstd(1), Mode::of("zstd", Some(1))),
        ("lz4", Codec::Lz4, Mode::of("lz4", None)),
    ];
    let mut contenders = Vec::new();
    for threads in [2, 1] {
        for (name, codec, mode) in pairs {
            let go: Go<'_> = Box::new(move || bare::run(codec, threads, chunks));
            contenders.push((bare_name(name, threads), go));
            let mode = mode.workers(threads);
            contenders.push(program(mode.name(), lab.ours(&mode, &path)));
        }
    }
    let all = compete(lab.rounds, contenders)?;
    table::title("the engine against the bare codec (64 data pages a chunk, from memory)");
    table::runs(&all, input.data(), &[]);
    println!();
    for threads in [2, 1] {
        for (name, _, mode) in pairs {
            let bare = named(&all, &bare_name(name, threads))?;
            let ours = named(&all, &mode.workers(threads).name())?;
            let what = format!("{name}, {threads} workers, % of the bare codec's speed");
            table::at_least(&what, 100.0 * ours.speed_to(bare), 90.0);
        }
    }
    Ok(())
}

fn bare_name(codec: &str, threads: usize) -> String {
    format!("bare {codec}, {threads} thread{}", if threads == 1 { "" } else { "s" })
}
