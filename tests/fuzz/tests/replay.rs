//! Every kept input through its target, within the stated heap and time.
//!
//! The whole corpus runs in one thread: the counting allocator counts all of the process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails shall panic")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_fuzz::measure::{self, Cost, MAX_TIME};
use lifeboat_fuzz::{TARGETS, Target};

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

fn inputs(target: &Target) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(corpus(target)).expect("each target has a corpus");
    let mut out: Vec<PathBuf> = dir.map(|e| e.unwrap().path()).collect();
    out.sort();
    out
}

#[test]
fn every_kept_input_keeps_within_bounds() {
    println!("target      inputs     bytes   most heap      bound    slowest");
    for target in TARGETS {
        let (mut bytes, mut worst) = (0, Cost { heap: 0, time: Duration::ZERO });
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{}: no inputs", target.name);
        for path in &inputs {
            let data = std::fs::read(path).unwrap();
            bytes += data.len();
            // A panic names the file by this line.
            eprintln!("{}", path.display());
            let cost = measure::run(target, &data);
            assert!(cost.time < MAX_TIME, "{}: {:?}", path.display(), cost.time);
            worst.heap = worst.heap.max(cost.heap);
            worst.time = worst.time.max(cost.time);
        }
        println!(
            "{:10} {:7} {:9} {:11} {:10} {:7.1} ms",
            target.name,
            inputs.len(),
            bytes,
            worst.heap,
            target.max_heap,
            worst.time.as_secs_f64() * 1e3
        );
    }
}

#[test]
fn no_folder_is_left_without_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name();
        let name = name.to_str().unwrap();
        assert!(lifeboat_fuzz::target(name).is_some(), "corpus/{name} is replayed by nothing");
    }
}
