//! The adaptive codec against every fixed one, on disks from slow to fast.

use lifeboat_qemu::error::{Context as _, Res};

use crate::input::Variant;
use crate::lab::{Lab, named};
use crate::measure::{compete, program};
use crate::ours::Mode;
use crate::table;

/// What the disks do, in MB/s (10^6 bytes).
const SINKS: [u32; 5] = [200, 500, 1000, 2000, 4000];

pub(crate) fn run(lab: &mut Lab) -> Res<()> {
    let (input, path) = lab.input(Variant::Few)?;
    table::title("adaptive codec on throttled disks, encrypted, 2 workers");
    let mut verdicts = Vec::new();
    for sink in SINKS {
        let rate = sink.to_string();
        let throttle = ["--throttle-mbs", rate.as_str()];
        let adaptive = Mode::of("adaptive", None).more(&throttle);
        let fixed = [
            Mode::of("store", None).more(&throttle),
            Mode::of("lz4", None).more(&throttle),
            Mode::of("zstd", Some(1)).more(&throttle),
            Mode::of("zstd", Some(3)).more(&throttle),
        ];
        let modes = fixed.iter().chain([&adaptive]);
        let contenders = modes.map(|m| program(m.name(), lab.ours(m, &path))).collect();
        let all = compete(lab.rounds, contenders)?;
        println!("disk of {:.1} GB/s:", f64::from(sink) / 1000.0);
        table::runs(&all, input.data(), &[]);
        let ours = named(&all, &adaptive.name())?;
        if let Some(run) = ours.runs.last() {
            println!("  its last run: {}", codecs(&run.said));
        }
        println!();
        let best = all
            .iter()
            .filter(|s| s.name != adaptive.name())
            .min_by(|a, b| a.wall().total_cmp(&b.wall()))
            .ctx("a fixed codec")?;
        let name = best.name.trim_start_matches("ours ");
        let name = name.split(',').next().unwrap_or(name);
        let what =
            format!("{:.1} GB/s: time to the best fixed one ({name})", f64::from(sink) / 1e3);
        verdicts.push((what, best.speed_to(ours)));
    }
    for (what, ratio) in verdicts {
        table::at_most(&what, ratio, 1.1);
    }
    Ok(())
}

/// The lines of the summary that tell of codecs, on one line.
fn codecs(said: &str) -> String {
    let about = ["codec", "store", "lz4", "zstd", "chunks"];
    let lines = said.lines().filter(|l| about.iter().any(|w| l.contains(w)));
    lines.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("; ")
}
