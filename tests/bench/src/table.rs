//! What a person reads: tables of runs, and targets with their distance.

use crate::measure::Series;

/// Bytes of a GB, as disks are sold.
pub(crate) const GB: f64 = 1e9;
const MB: f64 = 1e6;
const MIB: f64 = 1_048_576.0;

/// Prints a section's title.
pub(crate) fn title(text: &str) {
    println!("\n## {text}\n");
}

/// Prints one row a contender. `data`: bytes that each had to store, for the rate;
/// `bases`: contenders whose time (round by round) and size the others are compared with.
pub(crate) fn runs(all: &[Series], data: f64, bases: &[(&str, &Series)]) {
    let wide = all.iter().map(|s| s.name.len()).max().unwrap_or(0).max(12);
    print!(
        "{:<wide$}  {:>7} {:>15} {:>7} {:>6} {:>9} {:>8}",
        "", "wall s", "min–max", "CPU s", "GB/s", "out MB", "peak MiB"
    );
    for (short, _) in bases {
        print!("  {:>14}", format!("× {short}, size"));
    }
    println!();
    for s in all {
        let (min, max) = s.span();
        print!(
            "{:<wide$}  {:>7.2} {:>15} {:>7} {:>6.2} {:>9} {:>8}",
            s.name,
            s.wall(),
            format!("{min:.2}–{max:.2}"),
            or_dash(s.cpu(), 2),
            data / GB / s.wall().max(1e-9),
            or_dash(s.out() / MB, 0),
            or_dash(s.peak() as f64 / MIB, 1),
        );
        for (_, base) in bases {
            let size = if s.out() > 0.0 && base.out() > 0.0 {
                format!("{:.3}", s.out() / base.out())
            } else {
                "-".to_owned()
            };
            print!("  {:>14}", format!("{:.2}, {size}", s.speed_to(base)));
        }
        println!();
    }
}

fn or_dash(value: f64, digits: usize) -> String {
    if value > 0.0 { format!("{value:.digits$}") } else { "-".to_owned() }
}

/// Says whether a figure reaches what is required of it, and how far it is.
pub(crate) fn at_least(what: &str, have: f64, need: f64) {
    println!("  {}", judged(what, have, need, have >= need, (need - have) / need));
}

/// The same for a figure that may not be larger.
pub(crate) fn at_most(what: &str, have: f64, need: f64) {
    println!("  {}", judged(what, have, need, have <= need, (have - need) / need));
}

fn judged(what: &str, have: f64, need: f64, met: bool, missing: f64) -> String {
    let verdict = if met {
        "met".to_owned()
    } else {
        format!("SHORT by {:.3} ({:.1} %)", (have - need).abs(), missing * 100.0)
    };
    format!("{what}: asked {need}, got {have:.3}: {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_tells_by_how_much() {
        assert_eq!(judged("x", 3.4, 3.3, true, 0.0), "x: asked 3.3, got 3.400: met");
        assert_eq!(
            judged("x", 3.0, 3.3, false, (3.3 - 3.0) / 3.3),
            "x: asked 3.3, got 3.000: SHORT by 0.300 (9.1 %)"
        );
    }
}
