//! How long a large machine would take: from rates measured here, for disks and
//! numbers of workers that are not here, with the name of what binds.

use crate::table;

const TIB: f64 = 1_099_511_627_776.0;
const GB: f64 = table::GB;

/// What one mode of the engine did here.
#[derive(Debug, Clone)]
pub(crate) struct Mode {
    /// Its name.
    pub name: &'static str,
    /// Bytes of data per second that one worker takes.
    pub rate: f64,
    /// Bytes out per byte of data.
    pub ratio: f64,
}

/// All that the model is made of.
#[derive(Debug, Clone)]
pub(crate) struct Rates {
    /// Modes that capture can choose from.
    pub(crate) modes: Vec<Mode>,
    /// How many times faster twice the workers are (measured from 1 to 2).
    pub scaling: f64,
    /// Part of memory that has to be stored: not zero.
    pub share: f64,
    /// Bytes a second that were seen to pass the engine's one submitter: all that goes
    /// to the disk does. A lower bound, since something else may have bound it.
    pub ordered: f64,
}

/// What a prediction says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Predicted {
    /// Seconds.
    pub seconds: f64,
    /// The mode that is fastest.
    pub(crate) mode: &'static str,
    /// What it waits for.
    pub binds: &'static str,
}

impl Rates {
    /// The fastest mode for `memory` bytes, a disk of `disk` bytes a second and so many
    /// workers. Work overlaps, so the slowest part tells the time.
    #[must_use]
    pub(crate) fn predict(&self, memory: f64, disk: f64, workers: u32) -> Option<Predicted> {
        let data = memory * self.share;
        let doublings = f64::from(workers).log2();
        let speedup = self.scaling.powf(doublings);
        self.modes
            .iter()
            .map(|mode| {
                let out = data * mode.ratio;
                let parts = [
                    (data / (mode.rate * speedup), "workers"),
                    (out / disk, "disk"),
                    (out / self.ordered, "submitter"),
                ];
                let (seconds, binds) =
                    parts.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
                Predicted { seconds, mode: mode.name, binds }
            })
            .min_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// Prints the table for machines of 1 and 16 TiB.
    pub(crate) fn print(&self) {
        table::title("model: the time for large machines");
        for m in &self.modes {
            println!(
                "  {:<8} {:.2} GB/s of data a worker, {:.3} of it out",
                m.name,
                m.rate / GB,
                m.ratio
            );
        }
        println!(
            "  {:.2} times as fast with twice the workers; {:.0} % of memory is data; the one \
             submitter passed\n  {:.1} GB/s here, and may do more. Work overlaps: the slowest part \
             binds. One mode for all pages\n  (adaptive mixes them: see its section); the bandwidth \
             of memory is not modelled.\n",
            self.scaling,
            self.share * 100.0,
            self.ordered / GB
        );
        println!("  memory  workers  disk GB/s       time  mode     binds");
        for memory in [1.0, 16.0] {
            for workers in [2, 8, 32] {
                for disk in [0.5, 2.0, 7.0, 28.0] {
                    if let Some(p) = self.predict(memory * TIB, disk * GB, workers) {
                        println!(
                            "  {memory:>3} TiB  {workers:>7}  {disk:>9}  {:>9}  {:<8} {}",
                            minutes(p.seconds),
                            p.mode,
                            p.binds
                        );
                    }
                }
            }
        }
    }
}

/// A time as people say it.
fn minutes(seconds: f64) -> String {
    let whole = seconds.round();
    format!("{:.0} min {:02.0} s", (whole / 60.0).floor(), whole % 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        let mode = |name, rate: f64, ratio| Mode { name, rate: rate * GB, ratio };
        Rates {
            modes: vec![mode("store", 2.0, 1.0), mode("zstd 1", 0.5, 0.4)],
            scaling: 2.0,
            share: 0.9,
            ordered: 5.0 * GB,
        }
    }

    #[test]
    fn the_slowest_part_binds_and_the_fastest_mode_wins() {
        let slow = rates().predict(10.0 * GB, 0.1 * GB, 2).unwrap();
        assert_eq!((slow.mode, slow.binds), ("zstd 1", "disk"));
        assert!((slow.seconds - 9.0 * 0.4 / 0.1).abs() < 1e-6);
        let fast = rates().predict(10.0 * GB, 100.0 * GB, 1).unwrap();
        assert_eq!((fast.mode, fast.binds), ("store", "workers"));
        let many = rates().predict(10.0 * GB, 100.0 * GB, 64).unwrap();
        assert_eq!((many.mode, many.binds), ("zstd 1", "submitter"));
    }

    #[test]
    fn times_are_told_in_minutes() {
        assert_eq!(minutes(3600.4), "60 min 00 s");
        assert_eq!(minutes(61.6), "1 min 02 s");
    }
}
